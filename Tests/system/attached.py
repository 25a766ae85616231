"""What the tests of attached devices share: a node with a volume of its own and a folder to mount it on."""
import os
import signal
import subprocess

import pytest
from conftest import BINARIES


@pytest.fixture
def node(server):
    """The server, with credentials `node` that may use `volume/disk`, and a folder `mount`; nothing stays attached."""
    server.node = server.join("compute")
    server.volume("disk", size="64MiB", node="compute")
    server.mount = server.folder / "mnt"
    server.mount.mkdir()
    yield server
    server.process.send_signal(signal.SIGCONT)
    subprocess.run(["umount", "-l", server.mount], capture_output=True)
    for entry in status(server):
        server.cli("detach", "--force", entry["device"] or entry["volume"], credentials=server.node, check=False)


def sluice(server, *arguments, **options):
    return server.cli(*arguments, credentials=server.node, **options)


def started(server, *arguments, **environment):
    """A command of the node that goes on."""
    environment = {**os.environ, "SLUICE_SERVER": server.url, "SLUICE_RUN": str(server.folder / "run"),
                   "SLUICE_CREDENTIALS": str(server.node), **environment}
    return subprocess.Popen([BINARIES / "sluice", *map(str, arguments)], env=environment, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


def status(server):
    return server.json("status", credentials=server.node)


def only(server):
    entries = status(server)
    assert len(entries) == 1, entries
    return entries[0]


def ended(pid):
    """It is gone, or nobody has asked yet how it ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True
