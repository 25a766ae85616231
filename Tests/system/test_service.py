"""What a service manager sees: readiness, the end, and the units that Deploy/ installs."""
import os
import shutil
import socket
import subprocess

import pytest
from conftest import ROOT, Server


def test_the_service_manager_is_told_when_the_server_serves_and_when_it_ends(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
        notices.bind(str(tmp_path / "notify"))
        notices.settimeout(30)
        server = Server(tmp_path)
        server.environment["NOTIFY_SOCKET"] = str(tmp_path / "notify")
        server.start()
        try:
            assert notices.recv(100) == b"READY=1"
        finally:
            assert server.stop() == 0
        assert notices.recv(100) == b"STOPPING=1"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze")
def test_the_units_are_what_systemd_understands(tmp_path):
    subprocess.run(
        ["make", "-s", "install-files", f"DESTDIR={tmp_path}", "PREFIX=/usr"], cwd=ROOT, check=True, capture_output=True)
    units = sorted((tmp_path / "lib/systemd/system").iterdir())
    assert [unit.name for unit in units] == ["sluice-attach@.service", "sluiced.service"]
    for name in ("sluiced.service", "sluice-attach@disk.service"):
        environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}/lib/systemd/system:/lib/systemd/system"}
        checked = subprocess.run(["systemd-analyze", "verify", "--man=no", name], env=environment, text=True,
                                 capture_output=True)
        # The programs are in the folder, not where the unit will find them.
        own = [line for line in checked.stderr.splitlines() if "sluice" in line and "is not executable" not in line]
        assert own == [], own
