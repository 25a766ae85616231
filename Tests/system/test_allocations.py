"""A request allocates nothing, in steady state: neither in the server nor in the client."""
import json
import mmap
import os
import shutil
import struct
import subprocess

import pytest
from conftest import BINARIES, ROOT, Server

SIZE = 64 << 20
REQUESTS = 270_000
# What a second of a server costs beside requests: timers, the log, the control API's connections.
BESIDE = 1_000


class Counter:
    """The allocations of a process that is started with `environment`."""

    def __init__(self, folder, library, name):
        path = folder / f"allocations-{name}"
        path.write_bytes(bytes(mmap.PAGESIZE))
        self.environment = {"LD_PRELOAD": str(library), "SLUICE_ALLOCATIONS": str(path)}
        with path.open("r+b") as file:
            self.page = mmap.mmap(file.fileno(), mmap.PAGESIZE)

    @property
    def value(self):
        return struct.unpack_from("<Q", self.page)[0]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    compiler = shutil.which("cc") or shutil.which("clang")
    assert compiler, "a C compiler comes with Swift"
    target = tmp_path_factory.mktemp("preload") / "allocations.so"
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", target, ROOT / "Tests/system/allocations.c"], check=True)
    return target


def bench(server, node, environment, *arguments):
    """Does a number of requests of 4 KiB, and returns how many those were."""
    command = [BINARIES / "sluice", "bench", "volume/db", "--force", "--bs", "4k", *map(str, arguments), "-o", "json"]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=True,
        env={**os.environ, "SLUICE_SERVER": server.url, "SLUICE_CREDENTIALS": str(node), **environment})
    report = json.loads(result.stdout)
    assert report["errors"] == 0
    return report["operations"]


@pytest.mark.parametrize("isolation", ["isolated", "inline"])
def test_requests_allocate_nothing(tmp_path, library, isolation):
    counter = Counter(tmp_path, library, "server")
    server = Server(tmp_path)
    server.environment.update(counter.environment)
    server.start()
    try:
        node = server.join("worker")
        server.cli("pool", "create", "ram", "--driver", "memory", "--setting", f"size={2 * SIZE}",
                   "--isolation", isolation)
        server.volume("db", size=str(SIZE), pool="ram", node="worker")
        assert counter.value > 1000, "it counts"
        for rw in ("randwrite", "randread"):
            # Tables grow to what this load needs, once.
            bench(server, node, {}, "--rw", rw, "--iodepth", 32, "--total", 50_000 * 4096)
            # What the server does by itself meanwhile, on a busy machine for longer, adds to that: the least of some.
            extras = []
            while len(extras) < 8 and (not extras or extras[-1] >= BESIDE):
                before = counter.value
                few = bench(server, node, {}, "--rw", rw, "--iodepth", 32, "--total", 20_000 * 4096)
                between = counter.value
                many = bench(server, node, {}, "--rw", rw, "--iodepth", 32, "--total", REQUESTS * 4096)
                # Both runs connect, open and close: the difference is the requests'.
                extras.append((counter.value - between) - (between - before))
                assert many - few == REQUESTS - 20_000
            assert min(extras) < BESIDE, f"{rw}: {extras} allocations for {many - few} requests"
    finally:
        server.stop()


def test_requests_of_a_client_allocate_nothing(server, tmp_path, library):
    node = server.join("worker")
    server.memory_pool()
    server.volume("db", size=str(SIZE), pool="ram", node="worker")
    spent = []
    for number, requests in enumerate((50_000, 300_000)):
        counter = Counter(tmp_path, library, f"client-{number}")
        bench(server, node, counter.environment, "--rw", "randrw", "--iodepth", 32, "--total", requests * 4096)
        spent.append(counter.value)
    assert spent[0] > 1000, "it counts"
    assert spent[1] - spent[0] < BESIDE, f"{spent} allocations for 50,000 and 300,000 requests"
