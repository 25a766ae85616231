#!/usr/bin/env python3
"""What isolation costs and what it gives: isolated against inline, recovery times, a neighbour's latency.

Runs on loopback in one temporary folder, pair by pair, and reports; it does not judge.

    make bench                      or
    Tests/benchmarks/isolation.py [--pairs N] [--seconds N] [--kills N] [--json FILE]
"""
import json
import os
import signal
import statistics
import sys
import time

from rig import CPUTime, await_condition, command_line, running_server, save

SIZE = 1 << 29


def cost(server, options):
    """Throughput at depth 32 and latency at depth 1, isolated against inline, in turn."""
    for isolation in ("isolated", "inline"):
        server.volume(f"disk-{isolation}", SIZE, f"ram-{isolation}", "--driver", "memory", "--setting", f"size={SIZE}",
                      "--isolation", isolation)
    clocks = {"inline": [server.cpu], "isolated": [server.cpu, CPUTime(server.driver("ram-isolated")["pid"])]}
    rounds = []
    for number in range(options.pairs):
        pair = {}
        for isolation in ("isolated", "inline") if number % 2 == 0 else ("inline", "isolated"):
            for rw, kind in (("randread", "read"), ("randwrite", "write")):
                before = sum(clock.seconds() for clock in clocks[isolation])
                deep = server.bench(f"disk-{isolation}", "--rw", rw, "--bs", "4k", "--iodepth", 32, "--time",
                                    options.seconds)
                cpu = sum(clock.seconds() for clock in clocks[isolation]) - before
                shallow = server.bench(f"disk-{isolation}", "--rw", rw, "--bs", "4k", "--iodepth", 1, "--time",
                                       options.seconds)
                pair[f"{isolation} {kind}"] = {
                    "iops": deep[kind]["iops"], "microseconds": 1e6 / shallow[kind]["iops"],
                    "cpu": cpu / deep[kind]["operations"] * 1e6}
        rounds.append(pair)
        print(f"pair {number + 1}: " + ", ".join(
            f"{kind} {pair[f'isolated {kind}']['iops']:,.0f} of {pair[f'inline {kind}']['iops']:,.0f} IOPS"
            for kind in ("read", "write")), flush=True)
    print(f"\n4 KiB random, memory pool, TLS 1.3, median of {options.pairs} pairs on {os.cpu_count()} cores")
    for kind in ("read", "write"):
        def median(isolation, field, kind=kind):
            return statistics.median(pair[f"{isolation} {kind}"][field] for pair in rounds)

        ratio = statistics.median(
            pair[f"isolated {kind}"]["iops"] / pair[f"inline {kind}"]["iops"] for pair in rounds)
        print(f"  {kind:5} depth 32: isolated {median('isolated', 'iops'):>9,.0f} IOPS, inline "
              f"{median('inline', 'iops'):>9,.0f} IOPS: {ratio:.0%}; CPU of server and driver host "
              f"{median('isolated', 'cpu'):.1f} us an I/O, inline {median('inline', 'cpu'):.1f} us")
        print(f"  {kind:5} depth 1:  isolated {median('isolated', 'microseconds'):6.1f} us, inline "
              f"{median('inline', 'microseconds'):6.1f} us: "
              f"{median('isolated', 'microseconds') - median('inline', 'microseconds'):+.1f} us")
    return rounds


def recovery(server, options):
    """SIGKILL of a host under load: the longest wait of any request, which is the time to the first completed I/O."""
    server.volume("victim", SIZE, "victim", "--driver", "file", "--setting", "direct=false")
    server.volume("neighbour", SIZE, "neighbour", "--driver", "memory", "--setting", f"size={SIZE}")
    server.bench("victim", "--rw", "write", "--bs", "1m", "--iodepth", 8, "--time", 2)
    quiet = server.bench("neighbour", "--rw", "randread", "--bs", "4k", "--iodepth", 1, "--time", options.seconds)
    pauses, seen = [], []
    calm = server.bench("neighbour", "--rw", "randread", "--bs", "4k", "--iodepth", 1, "--time", options.seconds)
    for _ in range(options.kills):
        load = server.start_bench("victim", "--rw", "randread", "--bs", "4k", "--iodepth", 4, "--time", 1)
        pid = server.driver("victim")["pid"]
        time.sleep(0.5)
        os.kill(pid, signal.SIGKILL)
        report = json.loads(load.communicate(timeout=60)[0])
        await_condition("the next host", lambda: server.driver("victim").get("pid") not in (None, pid))
        assert report["errors"] == 0
        seen.append(report["read"]["latency"]["max"])
        pauses.append(server.driver("victim")["lastPauseMilliseconds"])
    seen.sort()
    print(f"\n{options.kills} kills of a host under random reads, depth 4: kill to first completed I/O, in ms")
    print(f"  median {statistics.median(seen) / 1000:.1f}, p99 {seen[min(len(seen) - 1, int(len(seen) * 0.99))] / 1000:.1f}"
          f"   (as the server counts: median {statistics.median(pauses):.1f})")
    return {"seen": seen, "pauses": pauses, "quiet": quiet, "calm": calm}


def neighbour(server, options):
    """The latency of another pool's user while hosts of this one are killed, against no kills, in turn."""
    rounds = []
    for _ in range(options.pairs):
        pair = {}
        for name in ("alone", "kills"):
            load = server.start_bench("neighbour", "--rw", "randread", "--bs", "4k", "--iodepth", 1, "--time",
                                      options.seconds)
            victim = server.start_bench("victim", "--rw", "randread", "--bs", "4k", "--iodepth", 1, "--time",
                                        options.seconds)
            if name == "kills":
                time.sleep(options.seconds / 2)
                os.kill(server.driver("victim")["pid"], signal.SIGKILL)
            pair[name] = json.loads(load.communicate(timeout=60)[0])["read"]["latency"]
            victim.communicate(timeout=60)
            await_condition("the next host", lambda: server.driver("victim")["state"] == "running")
        rounds.append(pair)
    print("\na neighbour's 4 KiB reads, depth 1, in another pool, while a host is killed, medians in us")
    for field in ("p50", "p99"):
        alone, kills = (statistics.median(pair[name][field] for pair in rounds) for name in ("alone", "kills"))
        print(f"  {field}: without a kill {alone:.1f}, with one {kills:.1f}")
    return rounds


def main():
    arguments = command_line(__doc__, pairs=5, seconds=4, kills=20)
    with running_server(SLUICE_DRIVER_QUARANTINE_LOSSES="1000000") as server:
        result = {
            "cost": cost(server, arguments), "recovery": recovery(server, arguments),
            "neighbour": neighbour(server, arguments)}
    save(result, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
