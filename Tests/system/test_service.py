"""What a service manager sees: readiness, the end, and the units that Deploy/ installs."""
import os
import shutil
import socket
import subprocess
import threading

import pytest
from activation import HeldSockets
from conftest import BINARIES, ROOT, Server
from sluice_client import FEATURE_RESUME, Channel


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
    assert [unit.name for unit in units] == ["sluice-attach@.service", "sluiced-control.socket", "sluiced-data.socket",
                                             "sluiced.service"]
    for name in ("sluiced.service", "sluiced-control.socket", "sluiced-data.socket", "sluice-attach@disk.service"):
        environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}/lib/systemd/system:/lib/systemd/system"}
        checked = subprocess.run(["systemd-analyze", "verify", "--man=no", name], env=environment, text=True,
                                 capture_output=True)
        # The programs are in the folder, not where the unit will find them.
        own = [line for line in checked.stderr.splitlines() if "sluice" in line and "is not executable" not in line]
        assert own == [], own


def test_sockets_that_the_service_manager_holds_take_connections_while_the_server_is_started_again(tmp_path):
    with HeldSockets(control="127.0.0.1:0", data="127.0.0.1:0") as held:
        server = Server(tmp_path)
        server.sockets = held
        server.start()
        assert (server.control, server.channel) == (held.address("control"), held.address("data"))
        node = server.join("compute")
        server.volume("disk", node="compute")
        with server.api(node) as api:
            token = api.post("/v1/capabilities", json={"resource": "volume/disk"}).json()["token"]
        keys = {"cafile": str(node / "ca.pem"), "certfile": str(node / "cert.pem"), "keyfile": str(node / "key.pem")}
        channel = Channel(server.channel_address, features=FEATURE_RESUME, timeout=60, **keys)
        handle, _ = channel.open(token)
        channel.write(handle, 0, b"a" * 4096)
        assert server.stop() == 0
        channel.drop()
        # Nobody accepts: who connects is neither refused nor lost.
        waiting = socket.create_connection(server.channel_address, timeout=5)
        resumed = []
        thread = threading.Thread(target=lambda: resumed.append(Channel.resume(channel)))
        thread.start()
        server.start()
        thread.join(60)
        assert resumed and resumed[0].granted.resumption == 2
        handle, _ = resumed[0].open(token)
        assert resumed[0].read(handle, 0, 4096) == b"a" * 4096
        resumed[0].close()
        waiting.close()
        # Driver hosts inherit neither the sockets nor what was said of them.
        with server.api(server.data / "admin") as api:
            host = next(one["pid"] for one in api.get("/v1/drivers").json()["items"])
        assert b"LISTEN_" not in open(f"/proc/{host}/environ", "rb").read()
        assert server.stop() == 0


@pytest.mark.parametrize("said, why", [
    ({"count": "two"}, "LISTEN_FDS is two"),
    ({"count": -1}, "LISTEN_FDS is -1"),
    ({"count": 65}, "LISTEN_FDS is 65"),
    ({"names": "control"}, "has 1 names for 2 descriptors"),
    ({"names": ""}, "names for 2 descriptors"),
    ({"names": "control:metrics"}, "a socket is called 'metrics'"),
    ({"count": 3, "names": "control:data:data"}, "no TCP socket that listens"),
])
def test_what_a_service_manager_says_wrongly_of_its_sockets_is_refused(tmp_path, said, why):
    server = Server(tmp_path)
    with HeldSockets(control="127.0.0.1:0", data="127.0.0.1:0") as held:
        process = held.popen([BINARIES / "sluiced", "serve", "--data", server.data], {}, **said,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        output, _ = process.communicate(timeout=30)
        assert process.returncode not in (0, -6) and why in output, output


def test_sockets_for_another_process_are_left_alone(tmp_path):
    with HeldSockets(control="127.0.0.1:0", data="127.0.0.1:0") as held:
        server = Server(tmp_path)
        server.sockets = type("ForAnother", (), {"popen": lambda _, *arguments, **options: held.popen(
            *arguments, process=1, **options)})()
        server.start()
        assert server.channel not in held.address("data")
        assert server.stop() == 0
