#!/usr/bin/env python3
"""Two builds of Sluice beside each other: whether a change made it faster or slower.

Both servers run at the same time, each with a client of its own build, and are measured in turn, in one order and then in
the other, so that a noisy machine disturbs them alike. A process keeps its luck with memory for as long as it lives, which
makes two of one build differ by some per cent, so that new ones are started for each of several sets of rounds. What is
compared are ratios of neighbours in time, of I/Os a second and of the server's CPU time for an I/O, each as the median over
all rounds with its quartiles; above 1 the first build does more, or takes more. As root, ext4 on an attached volume is
measured, too. It reports; it does not judge.

    Tests/benchmarks/compare.py OTHER [--this FOLDER] [--sets N] [--rounds N] [--seconds N] [--mounted 0|1] [--only TEXT]
                                [--json FILE]

OTHER is the folder of the other build's binaries, such as .build/release of a checkout of an earlier commit.
"""
import argparse
import contextlib
import os
import pathlib
import statistics
import sys
import tempfile

import mount
import peers
from peers import Workload
from rig import BINARIES, enter_namespace, fuse_ring, save

SIZE = 256 << 20
KIB = 1 << 10
WORKLOADS = [
    *(Workload(rw, 4 * KIB, depth) for rw in ("randread", "randwrite") for depth in (1, 32, 128)),
    *(Workload(rw, 128 * KIB, 8) for rw in ("read", "write")),
]
MOUNTED = [("randread", "4k", 1), ("randwrite", "4k", 1), ("randread", "4k", 32), ("randwrite", "4k", 32),
           ("read", "128k", 8), ("write", "128k", 8)]


def mounted_name(workload):
    """A workload of a file on ext4, as it is shown."""
    return "ext4 {} {} depth {}".format(*workload)


def of_build(contender, folder):
    """A contender that takes its programs from there."""
    return type(contender.__name__, (contender,), {
        "server_settings": {**contender.server_settings, "binaries": folder.resolve()}})


def measure_channels(builds, root, options, found):
    """Adds, by workload, the rounds' pairs of I/Os a second and CPU time."""
    with contextlib.ExitStack() as stack:
        running = []
        for number, build in enumerate(builds):
            folder = root / f"channel-{number}"
            folder.mkdir()
            running.append(of_build(peers.Sluice, build)(folder, SIZE, None))
            stack.callback(running[-1].stop)
        for number in range(options.rounds):
            for workload in (one for one in WORKLOADS if options.only in one.name):
                pair = [None, None]
                for side in ((0, 1), (1, 0))[number % 2]:
                    one = running[side].measure(workload, options.seconds)
                    pair[side] = (one.operations / one.seconds, one.server_cpu / one.operations * 1e6)
                found.setdefault(workload.name, []).append(pair)


def measure_mounted(builds, root, options, found):
    """The same of a file on ext4."""
    mounting = argparse.Namespace(channels=1, poll=0)
    with contextlib.ExitStack() as stack:
        mounted = []
        for number, build in enumerate(builds):
            folder = root / f"mount-{number}"
            folder.mkdir()
            with fuse_ring(True):
                running = of_build(mount.SluiceMount, build)(folder, None, mounting)
            stack.callback(running.stop)
            mounted.append(mount.FileSystem(running, folder / "mounted"))
            stack.callback(mounted[-1].close)
        for number in range(options.rounds):
            for workload in (one for one in MOUNTED if options.only in mounted_name(one)):
                pair = [None, None]
                for side in ((0, 1), (1, 0))[number % 2]:
                    one = mounted[side].measure(*workload, options.seconds)
                    pair[side] = (one["iops"], one["cpu"])
                found.setdefault(mounted_name(workload), []).append(pair)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=pathlib.Path)
    parser.add_argument("--this", type=pathlib.Path, default=BINARIES)
    for name, default in (("sets", 5), ("rounds", 4), ("seconds", 1), ("mounted", int(os.geteuid() == 0))):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", default="", help="only workloads with this text in their name")
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    names = [one.name for one in WORKLOADS] + [mounted_name(one) for one in MOUNTED if options.mounted]
    if not any(options.only in name for name in names):
        parser.error(f"no workload has '{options.only}' in its name; there are {', '.join(names)}")
    if options.mounted:
        enter_namespace("mount")
    builds = (options.this, options.other)
    found = {}
    for _ in range(options.sets):
        with tempfile.TemporaryDirectory(prefix="sluice-compare.") as root:
            root = pathlib.Path(root)
            root.chmod(0o755)
            measure_channels(builds, root, options, found)
            if options.mounted:
                measure_mounted(builds, root, options, found)
    print(f"{options.this} beside {options.other}, {os.cpu_count()} cores, {options.sets} sets of {options.rounds} rounds of "
          f"{options.seconds} s: medians of the rounds' ratios (quartiles)")
    figures = {}
    for name, pairs in found.items():
        figures[name] = {"pairs": pairs}
        text = []
        for index, figure in enumerate(("IOPS", "CPU an I/O")):
            ratios = [this[index] / other[index] for this, other in pairs if other[index]]
            low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
            figures[name][figure] = middle
            text.append(f"{figure} {middle:.3f} ({low:.3f} to {high:.3f})")
        print(f"  {name:28} {', '.join(text)}; {statistics.median(this[0] for this, _ in pairs):,.0f} IOPS")
    save(figures, options.json)


if __name__ == "__main__":
    sys.exit(main())
