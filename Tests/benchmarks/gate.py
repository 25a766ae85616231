#!/usr/bin/env python3
"""Fails when the server takes more CPU for an I/O than it did, beside what the same bytes cost a bare TLS echo.

Wall time says little on a shared machine; CPU time beside that of another program, measured in the same second, says
whether a change made the data path dearer. The reactor does not poll, so that all its time is work. Rounds measure the
echo and the server in turn; what is compared are medians of the rounds' ratios. After a change that is meant to cost
more, or costs less, the table below changes with it.

First of all requests of all lengths, reads and writes mixed and every byte checked, go to every driver at several depths: a server
that is fast at the sizes of the table and wrong, or stands, at others does not pass.

    make bench                      or
    Tests/benchmarks/gate.py [--rounds N] [--seconds N] [--json FILE]
"""
import os
import pathlib
import shutil
import statistics
import sys
import tempfile

import peers
from peers import Workload
from rig import Server, command_line, save

SIZE = 256 << 20
KIB = 1 << 10
# What the server and its driver host may take, as a multiple of what the echo takes for reads of that size and depth.
MOST = {
    Workload("randread", 4 * KIB, 32): 2.8,
    Workload("randread", 4 * KIB, 128): 3.1,
    Workload("randwrite", 4 * KIB, 32): 2.4,
    Workload("randwrite", 4 * KIB, 128): 2.9,
    Workload("read", 128 * KIB, 8): 2.1,
    Workload("write", 128 * KIB, 8): 1.7,
}
# Where the mixed load goes, and requests under way on so many channels.
MIXED = {
    "direct": ("file",),
    "cached": ("file", "direct=false"),
    "memory": ("memory", f"size={512 << 20}"),
    "fault": ("fault", "driver=memory", f"inner.size={512 << 20}"),
}
MIXED_DEPTHS = ((1, 1), (16, 4), (64, 1), (255, 1))
READS = {"randwrite": "randread", "write": "read"}


def cost(running, workload, seconds):
    """Microseconds of the server's CPU for an I/O."""
    result = running.measure(workload, seconds)
    return result.server_cpu / result.operations * 1e6


def mix():
    """Has every byte checked of a load of all lengths, on every driver, in a host of its own and in the server."""
    with tempfile.TemporaryDirectory(prefix="sluice-mixed.") as root:
        root = pathlib.Path(root)
        root.chmod(0o755)
        server = Server(root, SLUICE_REACTORS="1")
        try:
            for isolation in ("isolated", "inline"):
                for name, (driver, *settings) in MIXED.items():
                    volume = f"{name}-{isolation}"
                    pairs = [part for setting in settings for part in ("--setting", setting)]
                    server.volume(volume, 128 << 20, volume, "--driver", driver, "--isolation", isolation, *pairs)
                    for seed, (depth, channels) in enumerate(MIXED_DEPTHS):
                        report = server.bench(
                            volume, "--rw", "mixed", "--iodepth", depth, "--channels", channels, "--total", 256 << 20,
                            "--time", 60, "--seed", seed + 1)
                        wrong = report["errors"] + report["verifyErrors"]
                        if wrong or not report["verifiedBlocks"]:
                            raise SystemExit(f"{volume}, depth {depth}, {channels} channels: {report}")
        finally:
            server.stop()
    print(f"mixed lengths: every byte was right on {2 * len(MIXED)} volumes at {len(MIXED_DEPTHS)} depths")


def measure(options):
    """By workload: the rounds' costs, the echo's and the server's."""
    found = {workload: [] for workload in MOST}
    with tempfile.TemporaryDirectory(prefix="sluice-gate.") as root:
        root = pathlib.Path(root)
        root.chmod(0o755)
        certificates = peers.Certificates(root / "certificates")
        folders = [root / "echo", root / "sluice"]
        for folder in folders:
            folder.mkdir()
        echo = peers.EchoTuned(folders[0], SIZE, certificates)
        try:
            server = peers.SluiceSleeping(folders[1], SIZE, certificates)
            try:
                for _ in range(options.rounds):
                    for workload, rounds in found.items():
                        reads = Workload(READS.get(workload.rw, workload.rw), workload.block_size, workload.depth)
                        rounds.append((cost(echo, reads, options.seconds), cost(server, workload, options.seconds)))
            finally:
                server.stop()
        finally:
            echo.stop()
    return found


def main():
    options = command_line(__doc__, rounds=5, seconds=1)
    for tool in ("cc", "certtool"):
        if not shutil.which(tool):
            raise SystemExit(f"{tool} is missing: Deploy/install-dependencies.sh bench")
    mix()
    found = measure(options)
    print(f"server CPU for an I/O beside that of a bare TLS echo tuned as it is, {os.cpu_count()} cores, medians of {options.rounds} rounds")
    report, dearer = {}, []
    for workload, rounds in found.items():
        bare, ours = (statistics.median(side) for side in zip(*rounds))
        ratio = statistics.median(ours / bare for bare, ours in rounds)
        report[workload.name] = {"echo": bare, "server": ours, "ratio": ratio, "most": MOST[workload]}
        print(f"  {workload.name:22} echo {bare:6.2f} us, server {ours:6.2f} us: {ratio:.2f} times, "
              f"at most {MOST[workload]:g}")
        if ratio > MOST[workload]:
            dearer.append(workload.name)
    save(report, options.json)
    if dearer:
        raise SystemExit(f"dearer than it was: {', '.join(dearer)}")


if __name__ == "__main__":
    sys.exit(main())
