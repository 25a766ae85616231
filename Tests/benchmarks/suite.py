#!/usr/bin/env python3
"""Sluice beside its peers: throughput, CPU and system calls for every workload, on one machine in one run.

Every round measures each contender once, in turn, so that a noisy machine disturbs all of them alike; figures are
medians over the rounds with the spread beside them. System calls of the server's processes, and the time in which they
copy bytes, are counted in further seconds after the first round's, as counting costs time; where perf is installed, as
root. It reports; it does not judge (`gate.py` does).
Writes JSON, a table in Markdown and a plot for each workload. Loopback only, one temporary folder.

SPDK is measured, by root, where the environment variable SPDK names a tree of it that was built. We take v26.05 with its
submodules:

    ./configure --disable-tests --disable-unit-tests --without-vhost --without-virtio --without-nvme-cuse --without-fsdev
    make

    make bench                      or
    Tests/benchmarks/suite.py [--only NAME…] [--workloads TEXT…] [--rounds N] [--seconds N] [--apart] [--out FOLDER]
                              [--list]
"""
import argparse
import json
import os
import pathlib
import platform
import shutil
import statistics
import sys
import tempfile

import peers
import plot
from peers import Workload
from rig import CopyTime, SystemCalls, pin

SIZE = 512 << 20
CPUS = sorted(os.sched_getaffinity(0))
KIB, MIB = 1 << 10, 1 << 20

WORKLOADS = [
    *(Workload(rw, 4 * KIB, depth) for rw in ("randread", "randwrite") for depth in (1, 8, 32, 128)),
    Workload("randrw", 4 * KIB, 32),
    *(Workload(rw, size, depth) for rw in ("read", "write") for size, depth in ((128 * KIB, 8), (MIB, 4))),
    *(Workload(rw, 4 * KIB, 32, channels=4) for rw in ("randread", "randwrite")),
]

# What we mean to reach: the workloads, the figure, whose, beside whose, and its least ratio.
TARGETS = [
    *((f"{rw} 4k depth {depth}", "iops", "sluice", peer, least) for rw in ("randread", "randwrite")
      for depth, peer, least in ((32, "nbdkit TLS", 4), (128, "nbdkit TLS", 5), (32, "qemu-storage-daemon TLS", 8),
                                 (128, "qemu-storage-daemon TLS", 8))),
    # SPDK's client polls, and so does ours here.
    *((f"{rw} 4k depth {depth}", "iops", "sluice, client polls too", peer, least) for rw in ("randread", "randwrite")
      for depth, peer, least in ((32, "SPDK TLS", 7), (128, "SPDK TLS", 7), (32, "SPDK clear", 0.6),
                                 (128, "SPDK clear", 0.7))),
    ("randread 4k depth 1", "iops", "sluice, nobody polls", "bare TLS echo, tuned as ours", 0.8),
    # We take at most 1.5 times as long.
    *((f"{rw} 4k depth 1", "medianMicroseconds", "SPDK clear", "sluice, client polls too", 0.67)
      for rw in ("randread", "randwrite")),
    ("randread 4k depth 32", "serverCPUMicroseconds", "nbdkit TLS", "sluice, nobody polls", 3),
    ("randread 4k depth 128", "serverCPUMicroseconds", "nbdkit TLS", "sluice", 3),
    *((f"read {size}", "iops", "sluice", "bare TLS echo, tuned as ours", 0.9) for size in ("128k depth 8", "1m depth 4")),
]
NAMES = {"iops": "IOPS", "serverCPUMicroseconds": "server CPU", "medianMicroseconds": "median latency"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="contenders whose name contains one of these")
    parser.add_argument("--workloads", nargs="+", metavar="TEXT", help="workloads whose name contains one of these")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--apart", action="store_true",
                        help="servers on one half of the CPUs, clients on the other, as if on two machines")
    parser.add_argument("--out", type=pathlib.Path, default=peers.HERE / "results")
    parser.add_argument("--list", action="store_true", help="say what there is, and stop")
    options = parser.parse_args()
    if options.apart and len(CPUS) < 2:
        parser.error("--apart needs two CPUs")
    contenders = present(chosen(peers.ALL, options.only))
    workloads = chosen(WORKLOADS, options.workloads)
    if options.list:
        print(*(thing.name for thing in (*contenders, *workloads)), sep="\n")
        return
    rounds, counts = measure(contenders, workloads, options)
    document = {"machine": machine(), "seconds": options.seconds, "rounds": options.rounds,
                "areApart": options.apart, "figures": summarise(contenders, workloads, rounds, counts)}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "figures.json").write_text(json.dumps(document, indent=1) + "\n")
    (options.out / "figures.md").write_text(table(document) + targets(document))
    for name, text in plot.charts(document).items():
        (options.out / name).write_text(text)
    print(table(document) + targets(document))


def chosen(things, texts):
    return [thing for thing in things if not texts or any(text in thing.name for text in texts)]


def present(contenders):
    """Those that can be measured here."""
    obstacles = {peers.SPDKClear: peers.SPDKClear.obstacle(),
                 peers.SluiceAttached: None if os.geteuid() == 0 else "a device is root's to attach"}
    left_out = {kind: why for kind, why in obstacles.items() if why}
    there = [contender for contender in contenders if not issubclass(contender, tuple(left_out))]
    for kind, why in left_out.items():
        if any(issubclass(contender, kind) for contender in contenders):
            print(f"{kind.name} is left out: {why}", file=sys.stderr)
    return there


def machine():
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "")
    memory = next(int(line.split()[1]) >> 20 for line in open("/proc/meminfo") if line.startswith("MemTotal"))
    return f"{os.cpu_count()} cores of {cpu or platform.machine()}, {memory} GiB, Linux {platform.release()}"


def measure(contenders, workloads, options):
    """By workload and contender: a `Result` for each round; and what is counted, an I/O."""
    for tool in {tool for contender in contenders for tool in contender.tools}:
        if not shutil.which(tool):
            raise SystemExit(f"{tool} is missing: Deploy/install-dependencies.sh bench")
    results, counts = {}, {}
    with tempfile.TemporaryDirectory(prefix="sluice-bench.") as root:
        root = pathlib.Path(root)
        root.chmod(0o755)
        certificates = peers.Certificates(root / "certificates")
        for number in range(options.rounds):
            # One contender's server at a time: an idle one still takes memory, caches and timer ticks.
            for contender in contenders if number % 2 == 0 else reversed(contenders):
                folder = root / f"{number}-{contender.__name__}"
                folder.mkdir()
                running = contender(folder, SIZE, certificates)
                if options.apart:
                    separate(running)
                try:
                    for workload in workloads:
                        result = running.measure(workload, options.seconds)
                        if result:
                            results.setdefault((workload.name, contender.name), []).append(result)
                            print(f"round {number + 1}: {contender.name}: {workload.name}: {result.iops:,.0f} IOPS",
                                  flush=True)
                        if result and number == 0 and running.cpus and SystemCalls.is_possible:
                            counts[workload.name, contender.name] = counted(running, workload, folder)
                finally:
                    os.sched_setaffinity(0, CPUS)
                    running.stop()
                    shutil.rmtree(folder)
    return results, counts


def separate(running):
    """Keeps a server to the second half of the CPUs, and what this program starts from now on to the first."""
    half = len(CPUS) // 2
    for clock in running.cpus:
        pin(clock.pid, CPUS[half:])
    os.sched_setaffinity(0, CPUS[:half])


def counted(running, workload, folder):
    """What the server's processes do for an I/O."""
    pids = [clock.pid for clock in running.cpus]
    return {"serverSystemCalls": each(running, workload, SystemCalls(pids)),
            "serverCopyMicroseconds": each(running, workload, CopyTime(pids, folder)) * 1e6}


def each(running, workload, counter):
    try:
        result = running.measure(workload, 1)
    finally:
        count = counter.end()
    return count / result.operations


def summarise(contenders, workloads, rounds, counts):
    figures = []
    for workload in workloads:
        for contender in contenders:
            results = rounds.get((workload.name, contender.name))
            if not results:
                continue
            rates = sorted(result.iops for result in results)
            figures.append({
                "workload": workload.name, "contender": contender.name, "iops": statistics.median(rates),
                "iopsLeast": rates[0], "iopsMost": rates[-1],
                "bytesPerSecond": statistics.median(rates) * workload.block_size,
                "medianMicroseconds": median_of_known(result.median_microseconds for result in results),
                "serverCPUMicroseconds": statistics.median(r.server_cpu / r.operations * 1e6 for r in results),
                "clientCPUMicroseconds": statistics.median(r.client_cpu / r.operations * 1e6 for r in results),
                **counts.get((workload.name, contender.name),
                             {"serverSystemCalls": None, "serverCopyMicroseconds": None})})
    return figures


def median_of_known(numbers):
    numbers = [number for number in numbers if number is not None]
    return statistics.median(numbers) if numbers else None


def table(document):
    """The figures in Markdown, a table for each workload."""
    places = " Servers on one half of the CPUs, clients on the other." if document["areApart"] else ""
    lines = ["# Sluice beside its peers", "",
             f"{document['machine']}. Both sides on this machine over loopback.{places} Median of {document['rounds']} rounds of "
             f"{document['seconds']} s, in brackets the least and the most.", ""]
    workload = None
    for figure in document["figures"]:
        if figure["workload"] != workload:
            workload = figure["workload"]
            base = figure["iops"]
            lines += ["", f"**{workload}**", "",
                      "| | IOPS | MB/s | of the first | median latency, us | server CPU, us an I/O | of it copying | "
                      "client CPU, us an I/O | server system calls an I/O |",
                      "|---|---|---|---|---|---|---|---|---|"]
        lines.append(
            f"| {figure['contender']} | {figure['iops']:,.0f} ({figure['iopsLeast']:,.0f} to {figure['iopsMost']:,.0f}) | "
            f"{figure['bytesPerSecond'] / 1e6:,.0f} | {figure['iops'] / base:.2f} | "
            f"{known(figure['medianMicroseconds'], 1)} | {figure['serverCPUMicroseconds']:.1f} | {known(figure['serverCopyMicroseconds'])} | "
            f"{figure['clientCPUMicroseconds']:.1f} | {known(figure['serverSystemCalls'])} |")
    return "\n".join(lines) + "\n"


def known(number, places=2):
    return "" if number is None else f"{number:,.{places}f}"


def targets(document):
    """What we mean to reach, and what was, for all that was measured."""
    figures = {(figure["workload"], figure["contender"]): figure for figure in document["figures"]}
    lines = ["", "| | of | beside | at least | measured |", "|---|---|---|---|---|"]
    for workload, figure, mine, other, least in TARGETS:
        if (workload, mine) in figures and (workload, other) in figures:
            ratio = figures[workload, mine][figure] / figures[workload, other][figure]
            lines.append(f"| {workload}, {NAMES[figure]} | {mine} | {other} | {least:g} times | {ratio:.2f} times |")
    return "\n".join(lines) + "\n" if len(lines) > 3 else ""


if __name__ == "__main__":
    sys.exit(main())
