"""An attached device while its server was taken over: what the server says costs requests, and never the process."""
import contextlib
import os
import pathlib
import signal
import subprocess
import time

import pytest
from conftest import await_condition, let_pass, needs_root
from hostile.channel import (DRAINING, DRIVER_RECOVERING, EXPIRING, READ, RESIZED, REVOKED, STATUS_REVOKED,
                             LyingChannel, event)
from test_reconnect import attach, dd, log_of, status

pytestmark = needs_root
SIZE = 64 << 20


@pytest.fixture
def world(server):
    """A device whose connection goes through a port that lies."""
    server.node = server.join("compute")
    server.volume("disk", node="compute")
    with LyingChannel(server.data, server.node, lambda: server.channel_address) as liar:
        server.liar = liar
        server.device = attach(server)
        server.cli("server", "drain", "--timeout", "600", "--redirect", liar.text)
        await_condition("the move", lambda: liar.handles)
        server.cli("server", "undrain")
        server.pid = status(server)["pid"]
        yield server
        liar.dropped.clear()
        for entry in server.json("status", credentials=server.node):
            server.cli("detach", "--force", entry["volume"], credentials=server.node, check=False)


def is_alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def resident(pid):
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def works(world):
    """The device still reads and writes, by the same process."""
    assert is_alive(world.pid), log_of(world)[-2000:]
    assert dd(world.device).returncode == 0
    entry = await_condition("the connection", lambda: next(
        (one for one in [status(world)] if one["state"] == "attached"), None))
    assert entry["pid"] == world.pid and entry["size"] == SIZE


def test_numbers_and_handles_that_cannot_be_leave_the_device_as_it_is(world):
    for lie in (
            lambda _: event(DRAINING, 1 << 35, payload=b"127.0.0.1:9"),
            lambda _: event(DRAINING, 2**64 - 1, payload=b"127.0.0.1:9"),
            lambda handle: event(RESIZED, 0, handle), lambda handle: event(RESIZED, 1_000_001, handle),
            lambda handle: event(RESIZED, 2**63 - 4096 + 1, handle),
            lambda handle: event(EXPIRING, 2**64 - 1, handle),
            lambda handle: event(REVOKED, 0, handle + 1, b"never\x1b[2J\xc2\x9b", STATUS_REVOKED),
            lambda _: event(REVOKED, 0, 0, b"", STATUS_REVOKED), lambda _: event(RESIZED, 0, 0),
            lambda handle: event(DRIVER_RECOVERING, 2, handle)):
        await_condition("a connection", lambda: world.liar.handles)
        world.liar.say(lie)
        works(world)
    log = log_of(world)
    assert "volumes never shrink" in log
    assert not {"\x1b", "\x9b", "\u202e"} & set(log)


def test_a_flood_of_sizes_stays_small_and_sigterm_is_obeyed(world):
    before = resident(world.pid)
    until = time.monotonic() + 3
    sizes = 0
    while time.monotonic() < until:
        if not world.liar.handles:
            let_pass(0.01)  # until the client is back: the interval that is measured
            continue
        world.liar.say(lambda handle: b"".join(
            event(RESIZED, SIZE + 4096 * (index % 2 + 1), handle) for index in range(500)))
        sizes += 500
    assert sizes >= 1000
    assert is_alive(world.pid) and resident(world.pid) - before < 64 << 20
    helpers = subprocess.run(["pgrep", "-c", "-P", str(world.pid)], capture_output=True, text=True, check=False).stdout
    assert int(helpers) <= 2
    os.kill(world.pid, signal.SIGTERM)
    await_condition("the end", lambda: not is_alive(world.pid), seconds=20)


def test_a_server_that_opens_and_breaks_off_is_asked_ever_less_often(world):
    world.liar.greeting = lambda handle: event(DRAINING, 1 << 40)
    before = world.liar.opened
    world.liar.say(world.liar.greeting)
    let_pass(6)  # the interval that is measured
    assert world.liar.opened - before < 20
    world.liar.greeting = lambda handle: b""
    works(world)


def again(pid):
    """Two signals at once are one: it is sent until it was heard twice."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)


@pytest.mark.parametrize("how", ["force", "sigterm"])
def test_a_server_that_answers_ping_and_no_read_does_not_keep_the_device(world, how):
    world.liar.dropped = {READ}
    reader = subprocess.Popen(["dd", f"if={world.device}", "of=/dev/null", "bs=4k", "count=1", "iflag=direct"],
                              stderr=subprocess.DEVNULL)
    await_condition("a read under way", lambda: pathlib.Path(
        f"/sys/block/{os.path.basename(world.device)}/inflight").read_text().split() != ["0", "0"])
    start = time.monotonic()
    if how == "force":
        world.cli("detach", "--force", "volume/disk", credentials=world.node, timeout=60)
    else:
        # The first writes back what there is, the second gives up.
        os.kill(world.pid, signal.SIGTERM)
    await_condition("the end", lambda: not is_alive(world.pid) or how == "sigterm" and again(world.pid), seconds=30)
    assert time.monotonic() - start < 25
    assert reader.wait(10) != 0
