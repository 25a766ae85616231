"""Fixtures that run the real binaries: an I/O server in a temporary folder, nodes that join it, volumes on it."""
import contextlib
import fcntl
import json
import os
import pathlib
import random
import re
import signal
import socket
import ssl
import subprocess
import sys
import time

import httpx
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARIES = pathlib.Path(os.environ.get("SLUICE_BIN", ROOT / ".build/release"))
PATIENCE = 30
FUSE_RING = pathlib.Path("/sys/module/fuse/parameters/enable_uring")
FUSE_BEFORE = pytest.StashKey()

sys.path.insert(0, str(ROOT / "Clients/python"))


def read_switch():
    return FUSE_RING.read_text().strip() if FUSE_RING.exists() else None


# How long tests take that take long, as `--write-seconds` has put it down: they begin first.
SECONDS = pathlib.Path(__file__).with_name("seconds.json")
LONG = 10


def pytest_addoption(parser):
    parser.addoption("--write-seconds", action="store_true", help=f"put down in {SECONDS.name} what takes long")


def pytest_configure(config):
    # The order of the collection is the order of the work.
    config.option.loadscopereorder = False
    if not hasattr(config, "workerinput"):
        config.stash[FUSE_BEFORE] = read_switch()


def pytest_unconfigure(config):
    before = config.stash.get(FUSE_BEFORE, None)
    if before and before != read_switch():
        FUSE_RING.write_text(before)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Says which tests run one after the other where several processes run them, being those that share a fixture of
    their file, and begins with what takes longest. Tests that need the kernel's switch for FUSE one way all come before
    those that need it the other way."""
    known = json.loads(SECONDS.read_text())
    seconds = {}
    for item in items:
        fixtures = item._fixtureinfo.name2fixturedefs.values()
        if any(one.scope == "module" for definitions in fixtures for one in definitions):
            if not item.get_closest_marker("xdist_group"):
                item.add_marker(pytest.mark.xdist_group(item.path.name))
        unit = unit_of(item)
        seconds[unit] = seconds.get(unit, 0) + known.get(name_of(item.nodeid), 0)

    def place(item):
        unit = unit_of(item)
        is_late = "fuse_transport" in item.fixturenames and item.callspec.params["fuse_transport"] == "ring"
        return is_late or seconds[unit] < LONG, -seconds[unit], unit

    items.sort(key=place)


def unit_of(item):
    group = item.get_closest_marker("xdist_group")
    return group.args[0] if group else item.nodeid


def name_of(nodeid):
    """Without what pytest-xdist adds for a group."""
    return nodeid.rsplit("@", 1)[0] if nodeid.rfind("@") > nodeid.rfind("]") else nodeid


def pytest_terminal_summary(terminalreporter, config):
    if not config.getoption("--write-seconds"):
        return
    seconds = json.loads(SECONDS.read_text())
    for report in terminalreporter.stats.get("passed", []):
        seconds[name_of(report.nodeid)] = 0
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None):
                name = name_of(report.nodeid)
                seconds[name] = seconds.get(name, 0) + report.duration
    kept = {name: round(value) for name, value in sorted(seconds.items()) if value >= 2}
    SECONDS.write_text(json.dumps(kept, indent=1) + "\n")


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


def let_pass(seconds):
    """For time that is itself what is tested: an interval that is measured, a life that ends, a moment at random."""
    time.sleep(seconds)


def own_address():
    """An address that nothing listens on, and whose port no connection is given for its end."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as ports:
        first = int(ports.read().split()[0])
    while True:
        port = random.randrange(10_000, first)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return f"127.0.0.1:{port}"


class Server:
    """One `sluiced` on a data folder of its own, restarted at will."""

    def __init__(self, folder, *options, init=True):
        self.folder = folder
        self.data = folder / "server"
        self.log = folder / "sluiced.log"
        self.options = options
        self.process = None
        # A server that is started again is found where it was.
        self.control, self.channel = own_address(), own_address()
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
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                # It ends after 50 s, and says why not earlier.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(30)
                raise AssertionError(f"the server did not end:\n{self.log.read_text()[-4000:]}") from None
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


@pytest.fixture(params=["device", "ring"])
def fuse_transport(request):
    """Both ways that the kernel's requests take to `sluice attach`: /dev/fuse, and a ring where the kernel has it."""
    if not os.access(FUSE_RING, os.W_OK):
        if request.param == "ring":
            pytest.skip("the kernel has no FUSE over io_uring, or this is not root")
        yield request.param
        return
    with fuse_switch("Y" if request.param == "ring" else "N"):
        yield request.param


@contextlib.contextmanager
def fuse_switch(value):
    """The kernel's one switch, held at a value together with all who want the same; the others wait."""
    with contextlib.ExitStack() as files:
        gate, wanted, other = (
            files.enter_context(open(f"/dev/shm/sluice-fuse-{name}.lock", "w"))
            for name in ("gate", value, "N" if value == "Y" else "Y"))

        def switched():
            fcntl.flock(gate, fcntl.LOCK_EX)
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            else:
                if read_switch() != value:
                    FUSE_RING.write_text(value)
                fcntl.flock(wanted, fcntl.LOCK_SH)
                fcntl.flock(other, fcntl.LOCK_UN)
                return True
            finally:
                fcntl.flock(gate, fcntl.LOCK_UN)

        await_condition("the kernel's switch for FUSE", switched, seconds=240)
        yield
