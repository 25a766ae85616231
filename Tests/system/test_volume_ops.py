"""COMPARE_AND_WRITE, COPY_RANGE and BLOCK_STATUS against the real server, whose driver hosts are killed meanwhile."""
import contextlib
import os
import random
import signal
import threading
import time

import pytest
from conftest import Server, await_condition, let_pass
from sluice_client import Channel, RequestFailed, Status
from sluice_client.frames import Blocks

SECONDS = float(os.environ.get("SLUICE_OPS_SECONDS", "6"))
SEED = int(os.environ.get("SLUICE_SEED", "3"))
KIB = 1 << 10
MIB = 1 << 20


@pytest.fixture(scope="module")
def ops(tmp_path_factory):
    """A server with three reactors that goes on however often hosts are lost, and a node."""
    running = Server(tmp_path_factory.mktemp("ops"), "--reactors", "3")
    running.environment["SLUICE_DRIVER_QUARANTINE_LOSSES"] = "1000000"
    running.start()
    running.node = running.join("compute")
    running.memory_pool()
    yield running
    assert running.stop() == 0, running.text()[-2000:]


def volume(server, name, pool, size="64MiB", mode="shared"):
    server.cli("volume", "create", name, "--size", size, "--pool", pool, "--mode", mode)
    server.grant(name, "compute")
    return name


def token(server, name):
    with server.api(server.node) as api:
        return api.post("/v1/capabilities", json={"resource": f"volume/{name}"}).json()["token"]


def connect(server):
    return Channel(server.channel_address, cafile=str(server.node / "ca.pem"), certfile=str(server.node / "cert.pem"),
                   keyfile=str(server.node / "key.pem"), timeout=60)


@contextlib.contextmanager
def opened(server, *names):
    with connect(server) as channel:
        yield channel, *[channel.open(token(server, name))[0] for name in names]


@contextlib.contextmanager
def kills(server, pool):
    """Kills the pool's host again and again; yields a list that grows with each."""
    killed, ends, failures = [], threading.Event(), []

    def run():
        generator = random.Random(SEED)
        try:
            while not ends.wait(0.05 + 0.3 * generator.random()):
                pid = server.json("driver", "show", pool).get("pid")
                if pid and pid not in killed:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        killed.append(pid)
        except Exception as failure:  # whatever it is, the test must hear of it
            failures.append(failure)

    killer = threading.Thread(target=run)
    killer.start()
    try:
        yield killed
    finally:
        ends.set()
        killer.join(60)
    assert not killer.is_alive() and not failures, failures


class Worker(threading.Thread):
    """Does something on a channel of its own until told to end, and counts."""

    def __init__(self, work):
        super().__init__()
        self.work, self.done, self.failure, self.ends = work, 0, None, threading.Event()

    def run(self):
        try:
            while not self.ends.is_set():
                self.done += self.work()
        except Exception as failure:
            self.failure = failure


def run_all(workers, seconds):
    for worker in workers:
        worker.start()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not any(worker.failure for worker in workers):
        let_pass(0.05)
    for worker in workers:
        worker.ends.set()
    for worker in workers:
        worker.join(60)
        assert not worker.is_alive()
        assert worker.failure is None, worker.failure


def counted(value, size):
    """Every block of it says the same, and nothing says who wrote it."""
    return value.to_bytes(8, "little") * (size // 8)


@pytest.mark.parametrize("pool", ["default", "ram"])
@pytest.mark.parametrize("size", [4 * KIB, 64 * KIB])
def test_a_counter_counts_every_success_once_while_hosts_are_killed(ops, pool, size):
    name = volume(ops, f"count-{pool}-{size // KIB}k", pool)
    offset = 4 * KIB
    rivals = {"written": 0}

    def increment(channel, handle):
        def work():
            now = channel.read(handle, offset, size)
            value = int.from_bytes(now[:8], "little")
            assert now == counted(value, size), "a read saw a COMPARE_AND_WRITE in part"
            different = channel.compare_and_write(handle, offset, now, counted(value + 1, size))
            assert different is None or 0 <= different < size
            return different is None
        return work

    def beside(channel, handle):
        """Writes on both sides of the counter."""
        def work():
            channel.write(handle, 0, os.urandom(offset))
            channel.write(handle, offset + size, os.urandom(4 * KIB), fua=True)
            return 1
        return work

    with contextlib.ExitStack() as stack:
        sides = [stack.enter_context(opened(ops, name)) for _ in range(7)]
        counters = [Worker(increment(*side)) for side in sides[:6]]
        others = [Worker(beside(*sides[6]))]
        killed = stack.enter_context(kills(ops, pool))
        run_all(counters + others, SECONDS)
        rivals["written"] = others[0].done
        channel, handle = sides[0]
        final = channel.read(handle, offset, size)
    total = sum(worker.done for worker in counters)
    assert final == counted(total, size), f"{total} successes, and the volume says {int.from_bytes(final[:8], 'little')}"
    assert total > 20 and rivals["written"] > 5 and sum(worker.done > 0 for worker in counters) > 1
    assert len(killed) >= 3
    print(f"{pool}, {size // KIB} KiB: {total} increments by {len(counters)} clients, {len(killed)} hosts killed")


def test_nobody_sees_a_comparison_that_is_half_written(ops):
    """What is written has two halves that are alike, and nobody may see halves that differ."""
    name = volume(ops, "halves", "ram")
    size = 8 * KIB

    def swap(channel, handle, generator):
        def work():
            now = channel.read(handle, 0, size)
            channel.compare_and_write(handle, 0, now, generator.randbytes(4 * KIB) * 2)
            return 1
        return work

    def look(channel, handle):
        def work():
            now = channel.read(handle, 0, size)
            assert now[:size // 2] == now[size // 2:]
            return 1
        return work

    with contextlib.ExitStack() as stack:
        sides = [stack.enter_context(opened(ops, name)) for _ in range(6)]
        workers = [Worker(swap(*side, random.Random(SEED + n))) for n, side in enumerate(sides[:4])]
        workers += [Worker(look(*side)) for side in sides[4:]]
        run_all(workers, SECONDS / 2)
        assert all(worker.done > 10 for worker in workers)


def patchwork(channel, handle, total, generator):
    """Fills a volume with data and holes; returns what it holds."""
    model = bytearray(total)
    for _ in range(40):
        count = generator.randrange(1, 100) * 4 * KIB
        offset = generator.randrange(0, (total - count) // (4 * KIB)) * 4 * KIB
        if generator.random() < 0.6:
            data = generator.randbytes(count)
            channel.write(handle, offset, data)
            model[offset:offset + count] = data
        else:
            channel.discard(handle, offset, count)
            channel.write_zeroes(handle, offset, count)
            model[offset:offset + count] = bytes(count)
    return model


def content(channel, handle, total):
    return b"".join(channel.read(handle, offset, MIB) for offset in range(0, total, MIB))


def extents(channel, handle, total):
    """All that BLOCK_STATUS says of a volume: (offset, length, flags)."""
    found, at = [], 0
    while at < total:
        for length, flags in channel.block_status(handle, at, total - at):
            found.append((at, length, flags))
            at += length
    assert at == total
    return found


@pytest.mark.parametrize("pool", ["default", "ram"])
def test_what_reads_as_zero_does_and_what_is_allocated_is_little_more_than_the_data(ops, pool):
    name = volume(ops, f"map-{pool}", pool, mode="single-writer")
    with opened(ops, name) as (channel, handle):
        assert extents(channel, handle, 64 * MIB) == [(0, 64 * MIB, Blocks.ZERO)]
        model = patchwork(channel, handle, 64 * MIB, random.Random(SEED))
        channel.flush(handle)
        for offset, length, flags in extents(channel, handle, 64 * MIB):
            assert flags in (Blocks.ALLOCATED, Blocks.ZERO)
            if flags & Blocks.ZERO:
                assert not any(model[offset:offset + length])
        # Many small pieces need more than one answer.
        for offset in range(0, 16 * MIB, 32 * KIB):
            channel.discard(handle, offset, 32 * KIB)
            channel.write(handle, offset, b"x" * 4 * KIB)
        if pool == "default":
            first = channel.block_status(handle, 0, 16 * MIB)
            assert len(first) == 256 and sum(length for length, _ in first) < 16 * MIB
            for offset, length, flags in extents(channel, handle, 16 * MIB):
                assert flags == (Blocks.ZERO if offset % (32 * KIB) else Blocks.ALLOCATED)


@pytest.mark.parametrize("pool", ["default", "ram"])
def test_a_copy_has_the_bytes_and_the_holes_also_while_hosts_are_killed(ops, pool):
    source, target = volume(ops, f"from-{pool}", pool, mode="single-writer"), volume(ops, f"to-{pool}", pool)
    total = 64 * MIB
    generator = random.Random(SEED)
    with opened(ops, source, target) as (channel, first, second):
        model = patchwork(channel, first, total, generator)
        for offset in range(0, total, MIB):
            channel.write(second, offset, b"\xee" * MIB)
        with kills(ops, pool) as killed:
            deadline = time.monotonic() + SECONDS / 2
            copies = 0
            while time.monotonic() < deadline or not copies:
                channel.copy_range(second, 0, total, first, 0)
                copies += 1
        assert content(channel, second, total) == model
        if pool == "default":
            assert extents(channel, second, total) == extents(channel, first, total)
        # Within a volume, to a place that does not overlap.
        channel.copy_range(first, 32 * MIB, 16 * MIB, first, 0)
        model[32 * MIB:48 * MIB] = model[:16 * MIB]
        assert content(channel, first, total) == model
        assert copies > 1 and killed
        print(f"{pool}: {copies} copies of 64 MiB, {len(killed)} hosts killed")


def test_volumes_of_different_pools_are_copied_by_the_client(ops):
    volume(ops, "here", "ram")
    volume(ops, "there", "default")
    with opened(ops, "here", "there") as (channel, here, there):
        with pytest.raises(RequestFailed) as failure:
            channel.copy_range(there, 0, MIB, here, 0)
        assert failure.value.status == Status.NOT_SUPPORTED


def test_the_command_line_shows_a_map(ops):
    volume(ops, "shown", "default", size="16MiB", mode="single-writer")
    with opened(ops, "shown") as (channel, handle):
        channel.write(handle, MIB, b"x" * 64 * KIB)
        # Whoever writes is not disturbed.
        shown = ops.json("volume", "map", "shown", credentials=ops.node)
        channel.write(handle, 0, b"y" * 4 * KIB)
    assert shown == [
        {"offset": 0, "length": MIB, "type": "hole"}, {"offset": MIB, "length": 64 * KIB, "type": "data"},
        {"offset": MIB + 64 * KIB, "length": 15 * MIB - 64 * KIB, "type": "hole"}]
    text = ops.cli("volume", "map", "shown", "--range", "1MiB:128KiB", credentials=ops.node).stdout.splitlines()
    assert [line.split() for line in text] == [
        ["OFFSET", "LENGTH", "TYPE"], [str(MIB), str(64 * KIB), "data"], [str(MIB + 64 * KIB), str(64 * KIB), "hole"]]
    beyond = ops.cli("volume", "map", "shown", "--range", "16MiB:4KiB", credentials=ops.node, check=False)
    assert beyond.returncode != 0 and "OUT_OF_RANGE" in beyond.stderr
