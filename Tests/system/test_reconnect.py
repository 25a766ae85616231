"""The compute node while its server, its connections or its own process go away, on the real kernel."""
import json
import os
import re
import signal
import socket
import subprocess
import time

import pytest
from conftest import BINARIES, await_condition, let_pass, needs_root

pytestmark = needs_root
# What fio exits with that was told to end.
INTERRUPTED = 128


@pytest.fixture
def node(server, fuse_transport):
    server.transport = fuse_transport
    server.node = server.join("compute")
    server.volume("disk", size="512MiB", node="compute")
    yield server
    subprocess.run(["umount", "-l", server.folder / "mnt"], capture_output=True)
    if server.process.poll() is not None:
        server.start()
    server.process.send_signal(signal.SIGCONT)
    for entry in server.json("status", credentials=server.node):
        server.cli("detach", "--force", entry["volume"], credentials=server.node, check=False)


def attach(server, *options, volume="disk", **environment):
    result = server.cli("attach", f"volume/{volume}", *options, credentials=server.node, **environment)
    return result.stdout.split()[-1]


def status(server):
    return server.json("status", credentials=server.node)[0]


def log_of(server):
    with open(status(server)["logFile"]) as log:
        return log.read()


# Where the time is what is waited for, fio needs no processor of its own.
GENTLE = "--thinktime=2ms"


class Fio:
    """fio that writes and verifies in the background until it is told to finish."""

    def __init__(self, device, *options):
        self.device = device
        self.process = subprocess.Popen(
            ["fio", "--name=verify", f"--filename={device}", "--direct=1", "--ioengine=libaio", "--rw=randwrite",
             "--bsrange=4k-256k", "--blockalign=4k", "--size=128m", "--iodepth=16", "--verify=crc32c",
             "--verify_fatal=1", "--verify_backlog=256", "--verify_state_save=0", "--fsync=64", "--time_based",
             "--runtime=150", "--output-format=json", *options],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def finish(self, requests=1000):
        """After so many more requests: enough to read again what was written around whatever has happened."""
        start = moved(self)
        await_condition("I/O on the device", lambda: moved(self) >= start + requests or self.process.poll() is not None,
                        seconds=120)
        self.process.send_signal(signal.SIGINT)
        output, _ = self.process.communicate(timeout=120)
        assert self.process.returncode in (0, INTERRUPTED), output[-3000:]
        job = json.loads(output[output.index("{"):])["jobs"][0]
        assert job["error"] == 0
        return job


def moved(server):
    """Whether requests of the device end: what tells that I/O is under way."""
    name = os.path.basename(server.device)
    with open(f"/sys/block/{name}/stat") as file:
        fields = file.read().split()
    return int(fields[0]) + int(fields[4])


def await_progress(server, requests=200):
    start = moved(server)
    await_condition("I/O on the device", lambda: moved(server) >= start + requests, seconds=60)


def test_a_server_that_is_killed_or_restarted_is_only_a_pause(node):
    node.device = attach(node, "--channels", "2")
    fio = Fio(node.device)
    for how in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        await_progress(node)
        node.stop(how)
        entry = await_condition("the status", lambda: next(
            (one for one in node.json("status", credentials=node.node) if one["state"] == "reconnecting"), None))
        assert "since " in entry["message"] and re.search(r"\b(1 request waits|([02-9]|\d{2,}) requests wait)\b", entry["message"]), entry
        node.start()
        await_condition("the connection", lambda: status(node)["state"] == "attached")
    fio.finish()
    log = log_of(node)
    assert log.count("requests wait: ") == 3
    assert log.count("resumed after") == 3
    assert "a request failed" not in log


def test_a_server_that_is_stopped_for_a_while_is_only_a_pause(node):
    node.device = attach(node)
    fio = Fio(node.device)
    await_progress(node)
    node.process.send_signal(signal.SIGSTOP)
    before = moved(node)
    let_pass(2)
    assert moved(node) - before < 64
    node.process.send_signal(signal.SIGCONT)
    fio.finish()
    assert "a request failed" not in log_of(node)


def cut(server):
    """Cuts every connection to the data port: both ends see an error, at once."""
    port = server.channel_address[1]
    subprocess.run(["ss", "-K", "-n", "dport", "=", f":{port}"], check=True, capture_output=True)


def test_connections_that_are_cut_are_made_again_and_nothing_is_lost(node):
    node.device = attach(node, "--channels", "4")
    fio = Fio(node.device)
    for _ in range(6):
        await_progress(node, 100)
        cut(node)
    fio.finish()
    log = log_of(node)
    # A cut that comes before the last is made good belongs to the same interruption.
    assert log.count("resumed after") >= 2 and log.count("resumed after") == log.count("requests wait: ")
    assert "a request failed" not in log


def dd(device, *options, seconds=60):
    return subprocess.run(
        ["dd", "if=/dev/urandom", f"of={device}", "bs=4k", "count=1", "oflag=direct", *options],
        capture_output=True, text=True, timeout=seconds)


def test_an_io_timeout_fails_requests_and_the_device_works_again_with_the_server(node):
    node.device = attach(node, SLUICE_IO_TIMEOUT="2s")
    assert dd(node.device).returncode == 0
    node.stop(signal.SIGKILL)
    start = time.monotonic()
    refused = dd(node.device)
    assert refused.returncode != 0 and "Input/output error" in refused.stderr
    assert 1.5 < time.monotonic() - start < 10
    assert status(node)["state"] == "reconnecting"
    # A change that was given up must be settled before another may be sent: it waits, and fails the same way.
    assert dd(node.device, "seek=8").returncode != 0
    node.start()
    # Requests have failed, and that stays said.
    await_condition("the connection", lambda: status(node)["state"] == "failed")
    assert dd(node.device).returncode == 0
    Fio(node.device).finish()
    assert "TIMED_OUT" in log_of(node)


def test_a_reconnect_timeout_ends_the_waiting_for_good(node):
    node.device = attach(node, "--reconnect-timeout", "2s")
    node.stop(signal.SIGKILL)
    assert dd(node.device).returncode != 0
    entry = status(node)
    assert entry["state"] == "disconnected" and "was not back after 2 s" in entry["message"]
    node.start()
    assert dd(node.device).returncode != 0
    refused = node.cli("detach", "volume/disk", credentials=node.node, check=False)
    assert refused.returncode == 1 and "was lost" in refused.stderr
    node.cli("detach", "--force", "volume/disk", credentials=node.node)
    node.device = attach(node)
    assert dd(node.device).returncode == 0


def test_detach_waits_for_a_server_that_is_away(node):
    node.device = attach(node)
    content = os.urandom(1 << 20)
    with open(node.device, "wb", buffering=0) as device:
        device.write(content)
    node.stop(signal.SIGKILL)
    await_condition("the loss", lambda: status(node)["state"] == "reconnecting")
    environment = {**os.environ, "SLUICE_RUN": str(node.folder / "run")}
    waiting = subprocess.Popen([BINARIES / "sluice", "detach", "volume/disk"], env=environment,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = waiting.stderr.readline()
    assert said.startswith("waiting: since ") and "--force" in said
    assert waiting.poll() is None
    node.start()
    assert waiting.wait(60) == 0
    node.device = attach(node)
    with open(node.device, "rb", buffering=0) as device:
        assert device.read(1 << 20) == content


def lose_the_server_while_writing(server):
    """A writer in the kernel that waits for a server which is gone; it must not be this process."""
    writer = subprocess.Popen(["dd", "if=/dev/zero", f"of={server.device}", "bs=64k", "oflag=direct"],
                              stderr=subprocess.DEVNULL)
    await_progress(server, 20)
    server.stop(signal.SIGKILL)
    await_condition("the loss", lambda: status(server)["state"] == "reconnecting")
    return writer


def test_force_gives_up_what_a_server_that_is_away_does_not_take(node):
    node.device = attach(node)
    writer = lose_the_server_while_writing(node)
    forced = node.cli("detach", "--force", "volume/disk", credentials=node.node)
    assert "detached" in forced.stdout
    assert writer.wait(30) != 0
    assert node.json("status", credentials=node.node) == []
    node.start()


def test_a_second_signal_gives_up_what_a_server_that_is_away_does_not_take(node):
    node.device = attach(node)
    node.stop(signal.SIGKILL)
    entry = await_condition("the loss", lambda: next(
        (one for one in node.json("status", credentials=node.node) if one["state"] == "reconnecting"), None))
    os.kill(entry["pid"], signal.SIGTERM)
    await_condition("the first signal", lambda: "a second signal gives that data up" in open(entry["logFile"]).read())
    assert os.path.exists(f"/proc/{entry['pid']}")
    os.kill(entry["pid"], signal.SIGTERM)
    await_condition("the end", lambda: not os.path.exists(f"/proc/{entry['pid']}"))
    assert node.json("status", credentials=node.node) == []
    node.start()


def test_the_next_attach_takes_over_from_one_that_was_killed(node):
    node.device = attach(node)
    content = os.urandom(1 << 20)
    with open(node.device, "wb", buffering=0) as device:
        device.write(content)
        os.fsync(device.fileno())
    writer = subprocess.Popen(["dd", "if=/dev/zero", f"of={node.device}", "bs=64k", "seek=1024", "oflag=direct"],
                              stderr=subprocess.DEVNULL)
    await_progress(node, 50)
    os.kill(status(node)["pid"], signal.SIGKILL)
    writer.wait(30)
    assert status(node)["state"] == "stale"
    start = time.monotonic()
    node.device = attach(node)
    assert time.monotonic() - start < 5
    with open(node.device, "rb", buffering=0) as device:
        assert device.read(1 << 20) == content


def test_a_new_process_takes_the_device_over_while_it_is_in_use(node):
    node.device = attach(node)
    fio = Fio(node.device)
    pids = [status(node)["pid"]]
    for channels in (3, 1, 2):
        await_progress(node)
        assert attach(node, "--take-over", "--channels", str(channels)) == node.device
        entry = status(node)
        assert entry["state"] == "attached" and entry["channels"] == channels
        assert entry["pid"] not in pids
        await_condition("the old process's end", lambda: not os.path.exists(f"/proc/{pids[-1]}"))
        pids.append(entry["pid"])
        assert log_of(node).count("the kernel's requests come through a ring") == (
            len(pids) if node.transport == "ring" else 0)
    # What was taken over outlives the server like any other.
    await_progress(node)
    node.stop(signal.SIGKILL)
    node.start()
    fio.finish()
    assert "a request failed" not in log_of(node)
    node.cli("detach", "volume/disk", credentials=node.node)
    await_condition("the last process's end", lambda: not os.path.exists(f"/proc/{pids[-1]}"))
    assert node.json("status", credentials=node.node) == []


def test_a_successor_that_vanishes_with_the_ring_half_handed_over_loses_nothing(node):
    if node.transport != "ring":
        pytest.skip("through /dev/fuse there is no such moment")
    node.device = attach(node)
    fio = Fio(node.device)
    await_progress(node)
    entry = status(node)
    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect(f"{os.path.dirname(entry['logFile'])}/{entry['pid']}.sock")
        # A version that does not know rings would wait for requests that never come through /dev/fuse.
        channel.sendall(b'"handOver"\n')
        assert "does not know rings" in json.loads(channel.recv(4096))["problem"]
        await_progress(node)
        channel.sendall(b'"handOverRing"\n')
        answer, descriptors, _, _ = socket.recv_fds(channel, 4096, 2)
        assert "problem" not in json.loads(answer) and len(descriptors) == 2
    for descriptor in descriptors:
        os.close(descriptor)
    await_progress(node)
    assert status(node)["pid"] == entry["pid"] and "it has gone" in log_of(node)
    # The next one gets the device.
    assert attach(node, "--take-over") == node.device
    assert status(node)["pid"] != entry["pid"]
    await_progress(node)
    fio.finish()
    assert "a request failed" not in log_of(node)


def test_a_successor_that_fails_leaves_the_device_as_it_was(node):
    node.device = attach(node)
    pid = status(node)["pid"]
    # Read-only is decided when the device is made.
    refused = node.cli("attach", "volume/disk", "--take-over", "--read-only", credentials=node.node, check=False)
    assert refused.returncode != 0 and "stays so" in refused.stderr
    # Another key is not let into the session, whatever it may do with the volume.
    other = node.join("other")
    node.grant("disk", "other")
    refused = node.cli("attach", "volume/disk", "--take-over", credentials=other, check=False)
    assert refused.returncode != 0 and "DENIED" in refused.stderr
    assert dd(node.device).returncode == 0
    node.stop(signal.SIGKILL)
    await_condition("the loss", lambda: status(node)["state"] == "reconnecting")
    refused = node.cli("attach", "volume/disk", "--take-over", credentials=node.node, check=False)
    assert refused.returncode != 0
    node.start()
    assert status(node)["pid"] == pid
