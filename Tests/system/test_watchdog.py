"""A reactor that does not turn: it is noticed, and said; the server ends itself, its successor does not stand a third time at the
same request, and clients know that their server does not answer."""
import fcntl
import os
import signal
import subprocess
import threading

import pytest
from conftest import BINARIES, Server, await_condition, let_pass, needs_root

STOOD = 70


def start(server, seconds):
    server.environment["SLUICE_WATCHDOG"] = str(seconds)
    return server.start()


@pytest.fixture
def world(tmp_path):
    """A server that a test may lose."""
    server = Server(tmp_path)
    yield server
    server.stop(signal.SIGKILL)


def spinning_pool(server, rules, node):
    """A volume whose driver runs in the server itself, and has the reactor run in a circle as the rules say."""
    server.cli("pool", "create", "bad", "--driver", "fault", "--isolation", "inline", "--setting", "driver=file",
               "--setting", "inner.direct=false", "--setting", f"rules={rules}")
    credentials = server.join(node)
    server.volume("w", pool="bad", node=node)
    return credentials


def bench(server, credentials, *more):
    """One read of one block, which waits for the server for as long as the test lasts."""
    environment = {**os.environ, "SLUICE_SERVER": server.url, "SLUICE_CREDENTIALS": str(credentials)}
    command = [BINARIES / "sluice", "bench", "volume/w", "--rw", "randread", "--bs", "4k", "--iodepth", "1",
               "--reconnect-timeout", "120s", *(more or ("--total", "4k"))]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def events(server):
    return {event["kind"]: event for event in server.json("events")}


def metric(server, name):
    with server.api(server.data / "admin") as api:
        lines = api.get("/metrics").text.splitlines()
    return {line.split(" ")[0]: float(line.split(" ")[1]) for line in lines if line.startswith(name)}


def test_a_server_that_stands_ends_itself_and_a_request_that_did_it_twice_is_answered_as_failed(world):
    start(world, 1)
    credentials = spinning_pool(world, "read nth=1: spin", "reader")
    reader = bench(world, credentials)
    for time_number in (1, 2):
        assert world.process.wait(60) == STOOD, world.text()
        text = world.text()
        assert text.count("ended by its watchdog") == time_number
        assert "runs in a circle" in text and "READ of 4096 bytes" in text and "volume/w" in text
        # Where it was, by names that a person can read.
        assert "FaultQueue" in text and "Reactor.run" in text
        start(world, 1)
    out, error = reader.communicate(timeout=60)
    assert reader.returncode == 1 and "INTERNAL_ERROR" in out + error, out + error
    assert world.process.poll() is None
    found = events(world)
    assert "data-0 did not turn" in found["server.ended"]["message"]
    assert found["request.refused"]["subject"] == "volume/w" and "stood at it 2 times" in found["request.refused"]["message"]
    assert "a request is not executed" in world.text()
    assert metric(world, "sluice_watchdog_ends_total") == {"sluice_watchdog_ends_total": 2}
    assert world.stop() == 0


def test_a_reactor_that_stands_for_a_moment_is_said_while_it_does_and_afterwards(world):
    start(world, 60)
    credentials = spinning_pool(world, "read nth=1: spin 6s", "reader")
    reader = bench(world, credentials)
    # The control API serves meanwhile.
    standing = 'sluice_reactor_standing{reactor="data-0"}'
    await_condition("the metric", lambda: metric(world, "sluice_reactor_standing")[standing] == 1, seconds=90)
    assert "reactor.stands" in events(world)
    await_condition("its end", lambda: "reactor.goes-on" in events(world), seconds=90)
    assert metric(world, "sluice_reactor_standing")[standing] == 0
    assert metric(world, "sluice_reactor_stalls_total")['sluice_reactor_stalls_total{reactor="data-0"}'] == 1
    out, error = reader.communicate(timeout=60)
    assert reader.returncode == 0, out + error
    assert "has not turned for 0." in events(world)["reactor.stands"]["message"]
    assert world.stop() == 0


def test_a_server_that_was_stopped_has_not_stood(world):
    start(world, 1)
    for _ in range(3):
        world.process.send_signal(signal.SIGSTOP)
        let_pass(1.5)
        world.process.send_signal(signal.SIGCONT)
        world.cli("volume", "list")
    assert world.process.poll() is None and "reactor.stands" not in events(world)
    assert world.stop() == 0


class FullPipe:
    """Starts a server whose standard error is a pipe that nobody reads."""

    def popen(self, command, environment, **_):
        self.reader, self.writer = os.pipe()
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, 4096)
        # Somebody reads until the server serves.
        self.is_read = True
        self.thread = threading.Thread(target=self.read)
        self.thread.start()
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=self.writer)

    def read(self):
        os.set_blocking(self.reader, False)
        while self.is_read:
            try:
                os.read(self.reader, 65536)
            except BlockingIOError:
                let_pass(0.01)

    def fill(self):
        """From here on a write to it waits for ever. A thread of its own, since the last of these writes does, too."""
        self.is_read = False
        self.thread.join()
        threading.Thread(target=self.write, daemon=True).start()

    def write(self):
        try:
            while True:
                os.write(self.writer, b"x" * 4096)
        except OSError:
            pass


def test_a_log_that_nobody_reads_does_not_keep_a_server_that_stands_alive(world):
    world.sockets = FullPipe()
    start(world, 1)
    credentials = spinning_pool(world, "read nth=1: delay 3s; read nth=2: spin", "reader")
    reader = bench(world, credentials, "--total", "8k")
    await_condition("the volume's use", lambda: world.json("session", "list"))
    world.sockets.fill()
    assert world.process.wait(60) in (STOOD, -signal.SIGALRM)
    assert "data-0" in (world.data / "run/stood").read_text()
    reader.kill()
    reader.communicate()
    os.close(world.sockets.reader)


@needs_root
def test_an_attachment_says_at_once_that_its_server_does_not_answer(world):
    start(world, 60)
    credentials = spinning_pool(world, "read after=200 count=1: spin 8s", "node")
    device = world.json("attach", "volume/w", credentials=credentials)["device"]
    try:
        reads = subprocess.Popen(
            ["dd", f"if={device}", "of=/dev/null", "bs=4k", "count=300", "iflag=direct"], stderr=subprocess.DEVNULL)

        def waiting():
            entry = world.json("status", credentials=credentials)[0]
            return entry["state"] == "waiting" and entry

        entry = await_condition("the status", waiting, seconds=90)
        assert "since " in entry["message"] and "not even a PING" in entry["message"]
        assert reads.wait(60) == 0
        await_condition("the end of it", lambda: world.json("status", credentials=credentials)[0]["state"] == "attached")
        log = world.json("status", credentials=credentials)[0]["logFile"]
        text = open(log).read()
        assert "answers nothing, not even a PING" in text and "the server answers again after" in text
    finally:
        world.cli("detach", "volume/w", credentials=credentials)
    assert world.stop() == 0
