#!/usr/bin/env python3
"""What a flood costs a gentle neighbour: its latency alone and beside a session that floods the same server.

The neighbour reads 4 KiB at random, one request at a time, in a session of its own. The flooder keeps many channels full
of reads or writes of another volume of the same pool. Each round measures the neighbour alone and beside every flood, in
changing order; what is printed are medians over the rounds. `held` floods have a tenth of one CPU: what remains of the
neighbour's wait then is the server's doing, and not that server and both clients share the cores of one machine.

    make bench                      or
    Tests/benchmarks/neighbour.py [--rounds N] [--seconds N] [--json FILE]
"""
import argparse
import json
import os
import pathlib
import signal
import statistics
import sys
import tempfile
import threading
import time

from rig import Server

SIZE = 1 << 29
FLOODS = {
    "reads of 128 KiB": ("randread", "128k", False),
    "writes of 128 KiB": ("randwrite", "128k", False),
    "reads of 4 KiB": ("randread", "4k", False),
    "held reads of 128 KiB": ("randread", "128k", True),
    "held writes of 128 KiB": ("randwrite", "128k", True),
    "held reads of 4 KiB": ("randread", "4k", True),
}


class Throttle:
    """Lets a process run for a tenth of the time, by stopping it: a client that floods in bursts."""

    def __init__(self, pid):
        self.pid, self.end = pid, threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while not self.end.wait(0.018):
            os.kill(self.pid, signal.SIGCONT)
            time.sleep(0.002)
            os.kill(self.pid, signal.SIGSTOP)
        os.kill(self.pid, signal.SIGCONT)

    def stop(self):
        self.end.set()
        self.thread.join()


def measure(server, seconds):
    return server.bench("gentle", "--rw", "randread", "--bs", "4k", "--iodepth", 1, "--time", seconds)["read"]


def beside(server, options, rw, size, is_held):
    """The neighbour's figures while a flood runs, and how much the flood moved."""
    flood = server.start_bench("flooded", "--rw", rw, "--bs", size, "--iodepth", 128, "--channels", options.channels,
                               "--time", options.seconds + 2)
    time.sleep(1)
    throttle = Throttle(flood.pid) if is_held else None
    try:
        figures = measure(server, options.seconds)
    finally:
        if throttle:
            throttle.stop()
        report = json.loads(flood.communicate(timeout=60)[0])
    moved = report["read"] if rw == "randread" else report["write"]
    assert report["errors"] == 0, report
    return {"latency": figures["latency"], "iops": figures["iops"], "flood": moved["iops"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--only", action="append", choices=FLOODS)
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    floods = {name: FLOODS[name] for name in options.only or FLOODS}
    rounds = []
    with tempfile.TemporaryDirectory(prefix="sluice-bench.") as folder:
        server = Server(pathlib.Path(folder))
        try:
            server.volume("gentle", SIZE, "ram", "--driver", "memory", "--setting", f"size={3 * SIZE}")
            server.further_volume("flooded", SIZE, "ram")
            for volume in ("gentle", "flooded"):
                server.bench(volume, "--rw", "write", "--bs", "1m", "--iodepth", 8, "--total", SIZE)
            for number in range(options.rounds):
                one = {"alone": {"latency": (figures := measure(server, options.seconds))["latency"],
                                 "iops": figures["iops"]}}
                for name, flood in list(floods.items())[::1 if number % 2 == 0 else -1]:
                    one[name] = beside(server, options, *flood)
                rounds.append(one)
                print(f"round {number + 1}: p99 alone {one['alone']['latency']['p99']:.0f} us, " + ", ".join(
                    f"{name} {one[name]['latency']['p99']:.0f}" for name in floods), flush=True)
        finally:
            server.stop()
    print(f"\na neighbour's 4 KiB reads, depth 1, medians of {options.rounds} rounds on {os.cpu_count()} cores, beside "
          f"one session with {options.channels} channels of 128 requests")
    for name in ("alone", *floods):
        p50, p99 = (statistics.median(one[name]["latency"][field] for one in rounds) for field in ("p50", "p99"))
        ratio = statistics.median(one[name]["latency"]["p99"] / one["alone"]["latency"]["p99"] for one in rounds)
        tail = "" if name == "alone" else (f"   p99 {ratio:.1f} times; the flood makes "
                                           f"{statistics.median(one[name]['flood'] for one in rounds):,.0f} IOPS")
        print(f"  {name:24} p50 {p50:7.0f} us, p99 {p99:7.0f} us{tail}")
    if options.json:
        options.json.write_text(json.dumps(rounds, indent=2))


if __name__ == "__main__":
    sys.exit(main())
