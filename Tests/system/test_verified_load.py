"""Requests of all lengths, at any place, reads and writes mixed, every byte checked: against every driver, at every depth, on
one channel and several. What only some sizes do to the loops of the data path shows here."""
import json

import pytest

TOTAL = "32MiB"
POOLS = {
    "direct": ["--driver", "file"],
    "cached": ["--driver", "file", "--setting", "direct=false"],
    "memory": ["--driver", "memory", "--setting", f"size={1 << 29}"],
    "fault-file": ["--driver", "fault", "--setting", "driver=file", "--setting", "inner.direct=false",
                   "--setting", "rules=any chance=1/500: delay 2ms"],
    "fault-memory": ["--driver", "fault", "--setting", "driver=memory", "--setting", f"inner.size={1 << 29}",
                     "--setting", "rules=any chance=1/500: delay 2ms"],
}


@pytest.fixture(scope="module")
def world(shared_server):
    """A server with a volume on every driver, each in a process of its own and in the server's."""
    node = shared_server.join("mixer")
    for isolation in ("isolated", "inline"):
        for name, settings in POOLS.items():
            name = f"{name}-{isolation}"
            shared_server.cli("pool", "create", name, "--isolation", isolation, *settings)
            shared_server.volume(name, size="96MiB", pool=name, node="mixer")
    shared_server.node = node
    return shared_server


def load(world, volume, depth, channels, seed):
    result = world.cli("bench", f"volume/{volume}", "--rw", "mixed", "--force", "--iodepth", depth, "--channels", channels,
                       "--total", TOTAL, "--seed", seed, "-o", "json", credentials=world.node, check=False)
    assert result.returncode == 0, result.stderr + result.stdout
    report = json.loads(result.stdout)
    assert report["errors"] == 0 and report["verifyErrors"] == 0
    assert report["operations"] > 0 and report["verifiedBlocks"] > 0


@pytest.mark.parametrize("isolation", ["isolated", "inline"])
@pytest.mark.parametrize("pool", POOLS)
def test_what_is_written_is_read_whatever_the_lengths(world, pool, isolation):
    for seed, (depth, channels) in enumerate([(1, 1), (17, 4), (255, 1)]):
        load(world, f"{pool}-{isolation}", depth, channels, seed + 1)
