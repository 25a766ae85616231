"""Fixtures that run the real binaries: an I/O server in a temporary folder, nodes that join it, volumes on it."""
import json
import os
import pathlib
import re
import signal
import ssl
import subprocess
import sys
import time

import httpx
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARIES = pathlib.Path(os.environ.get("SLUICE_BIN", ROOT / ".build/release"))
PATIENCE = 30

sys.path.insert(0, str(ROOT / "Clients/python"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Says which tests run one after the other where several processes run them: those that share a fixture of their
    file, and those that write the kernel's one switch for FUSE's requests. They come first, being the longest."""
    for item in items:
        if "fuse_transport" in item.fixturenames:
            item.add_marker(pytest.mark.xdist_group("fuse"))
            continue
        fixtures = item._fixtureinfo.name2fixturedefs.values()
        if any(one.scope == "module" for definitions in fixtures for one in definitions):
            item.add_marker(pytest.mark.xdist_group(item.path.name))
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)


def resident_bytes(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))


def await_condition(what, condition, seconds=PATIENCE):
    """Polls until the condition holds; a test that waits for another process has no event to wait on."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"gave up waiting for {what}"
        time.sleep(0.02)


class Server:
    """One `sluiced` on a data folder of its own, restarted at will."""

    def __init__(self, folder, *options, init=True):
        self.folder = folder
        self.data = folder / "server"
        self.log = folder / "sluiced.log"
        self.options = options
        self.process = None
        # A server that is started again is found where it was.
        self.control = self.channel = "127.0.0.1:0"
        self.environment = {**os.environ}
        # Set to `HeldSockets`, it is handed its sockets instead of making them.
        self.sockets = None
        if init:
            subprocess.run(
                [BINARIES / "sluiced", "init", "--data", self.data, "--name", "localhost", "--address", "127.0.0.1"],
                check=True, capture_output=True, text=True, timeout=PATIENCE)

    def start(self, *more):
        endpoints = self.data / "run/endpoints.json"
        endpoints.unlink(missing_ok=True)
        command = [BINARIES / "sluiced", "serve", "--data", self.data, "--control", self.control,
                   "--channel", self.channel, *self.options, *more]
        output = {"stdout": self.log.open("a"), "stderr": subprocess.STDOUT}
        self.process = (self.sockets.popen(command, self.environment, **output) if self.sockets
                        else subprocess.Popen(command, env=self.environment, **output))
        await_condition("sluiced", lambda: endpoints.exists() or self.process.poll() is not None)
        assert self.process.poll() is None, self.log.read_text()
        bound = json.loads(endpoints.read_text())
        self.control, self.channel = bound["control"][0], bound["channel"][0]
        self.url = f"https://{self.control}"
        return self

    def stop(self, how=signal.SIGTERM):
        if self.process and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(PATIENCE)
        return self.process.returncode if self.process else None

    @property
    def channel_address(self):
        host, port = self.channel.rsplit(":", 1)
        return host, int(port)

    def text(self):
        return self.log.read_text()

    def api(self, credentials=None):
        """An HTTP/2 client with a bundle's certificate; None for no certificate."""
        context = ssl.create_default_context(cafile=str(self.data / "admin/ca.pem"))
        if credentials:
            context.load_cert_chain(credentials / "cert.pem", credentials / "key.pem")
        return httpx.Client(base_url=self.url, verify=context, http1=False, http2=True, timeout=PATIENCE)

    def cli(self, *arguments, credentials=None, check=True, timeout=120, **more):
        environment = {
            **os.environ, "SLUICE_SERVER": self.url, "SLUICE_RUN": str(self.folder / "run"),
            "SLUICE_CREDENTIALS": str(credentials or self.data / "admin"), **more}
        result = subprocess.run(
            [BINARIES / "sluice", *[str(part) for part in arguments]], capture_output=True, text=True,
            env=environment, timeout=timeout)
        if check and result.returncode:
            raise AssertionError(f"sluice {' '.join(map(str, arguments))}: exit {result.returncode}\n{result.stderr}")
        return result

    def json(self, *arguments, **options):
        return json.loads(self.cli(*arguments, "-o", "json", **options).stdout)

    def join(self, name):
        """A node's credentials folder, enrolled over the API."""
        token = self.json("node", "add", name)["token"]
        folder = self.folder / f"node-{name}"
        self.cli("join", "--server", self.url, "--token", token, "--credentials", folder, SLUICE_CREDENTIALS="")
        return folder

    def volume(self, name, size="64MiB", pool=None, node=None, rights="read,write,discard,flush"):
        self.cli("volume", "create", name, "--size", size, *(["--pool", pool] if pool else []))
        if node:
            self.grant(name, node, rights)

    def grant(self, volume, node, rights="read,write,discard,flush"):
        self.cli("grant", "create", f"{node}-{volume}", "--node", node, "--resource", f"volume/{volume}",
                 "--rights", rights)

    def memory_pool(self, name="ram", size=1 << 30):
        self.cli("pool", "create", name, "--driver", "memory", "--setting", f"size={size}")


@pytest.fixture
def server(tmp_path):
    running = Server(tmp_path).start()
    yield running
    code = running.stop()
    assert code == 0, f"sluiced ended with {code}:\n{running.text()[-2000:]}"


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory):
    """A server for tests that leave it as they found it."""
    running = Server(tmp_path_factory.mktemp("shared")).start()
    yield running
    code = running.stop()
    assert code == 0, f"sluiced ended with {code}:\n{running.text()[-2000:]}"


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
FUSE_RING = pathlib.Path("/sys/module/fuse/parameters/enable_uring")


@pytest.fixture(params=["device", "ring"])
def fuse_transport(request):
    """Both ways that the kernel's requests take to `sluice attach`: /dev/fuse, and a ring where the kernel has it."""
    if not os.access(FUSE_RING, os.W_OK):
        if request.param == "ring":
            pytest.skip("the kernel has no FUSE over io_uring, or this is not root")
        yield request.param
        return
    before = FUSE_RING.read_text()
    FUSE_RING.write_text("Y" if request.param == "ring" else "N")
    yield request.param
    FUSE_RING.write_text(before)
