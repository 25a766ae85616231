#!/usr/bin/env python3
"""How memory and latency grow with channels, volumes, pools and capabilities.

Each series starts a server of its own and adds more of one thing, step by step. At every step it measures the memory that
is the server's own and that of its driver hosts, without what they share, the latency of 4 KiB reads, one at a time, of
the volume that came last, and what one more of the thing costs. Channels are sessions of their own that stay open and quiet, each
with a volume open. Writes JSON and a plot for each series.

    make bench                      or
    Tests/benchmarks/scale.py [--seconds N] [--part PERCENT] [--out FOLDER] [NAME…]
"""
import argparse
import json
import os
import pathlib
import resource
import sys
import time

import plot
from rig import ROOT, requests, running_server

sys.path.insert(0, str(ROOT / "Clients/python"))
from sluice_client import Channel, Rights  # noqa: E402

VOLUME = 4 << 20


def created(server, *what):
    """Milliseconds that one command needs, its own start included."""
    begun = time.monotonic()
    server.admin(*what)
    return (time.monotonic() - begun) * 1e3


class Series:
    """One thing that there may be many of."""

    # What `grow` returns, and its unit.
    cost = ""

    def __init__(self, server):
        self.server = server
        server.volume("first", VOLUME, "ram", "--driver", "memory", "--setting", "size=6g")
        server.bench("first", "--rw", "write", "--bs", "64k", "--iodepth", 1, "--total", VOLUME)
        self.measured = "first"
        self.count = 0

    def grow(self, count):
        """Adds until there are so many; the median cost of one."""
        costs = []
        while self.count < count:
            costs.append(self.add(self.count))
            self.count += 1
        return sorted(costs)[len(costs) // 2] if costs else 0

    def add(self, number):
        raise NotImplementedError

    def close(self):
        pass


class Channels(Series):
    """Sessions of one channel each, with the volume open."""

    name, counts = "channels", (1, 10, 100, 1000, 5000)
    cost = "milliseconds from connecting to an open volume"

    def __init__(self, server):
        super().__init__(server)
        self.open = []
        # The client holds a socket for each.
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        self.token = json.loads(server.cli(
            server.node, "capability", "issue", "volume/first", "-o", "json"))["token"]

    def add(self, number):
        host, port = self.server.channel.rsplit(":", 1)
        node = self.server.node
        begun = time.monotonic()
        channel = Channel((host, int(port)), cafile=str(node / "ca.pem"), certfile=str(node / "cert.pem"),
                          keyfile=str(node / "key.pem"), timeout=60)
        channel.open(self.token, rights=Rights.READ)
        self.open.append(channel)
        return (time.monotonic() - begun) * 1e3

    def close(self):
        for channel in self.open:
            channel.close()


class Volumes(Series):
    """Volumes of one pool."""

    name, counts = "volumes", (1, 10, 100, 1000)
    cost = "milliseconds for `sluice volume create`"

    def add(self, number):
        name = f"v{number}"
        took = created(self.server, "volume", "create", name, "--size", VOLUME, "--pool", "ram")
        self.measured = name
        return took

    def grow(self, count):
        took = super().grow(count)
        self.server.admin("grant", "create", self.measured, "--node", "bench", "--resource",
                          f"volume/{self.measured}", "--rights", "read,write")
        return took


class Pools(Series):
    """Pools in memory, each with a driver host of its own and one volume."""

    name, counts = "pools", (2, 4, 16, 64)
    cost = "milliseconds for `sluice pool create`"

    def __init__(self, server):
        super().__init__(server)
        # The first, and the one that every server comes with.
        self.count = 2

    def add(self, number):
        pool = f"p{number}"
        took = created(self.server, "pool", "create", pool, "--driver", "memory", "--setting", "size=16m")
        self.server.further_volume(pool, VOLUME, pool)
        self.measured = pool
        return took


class Capabilities(Series):
    """Capabilities that were issued; the last is revoked at every step."""

    name, counts = "capabilities", (1, 100, 1000, 10_000, 100_000)
    cost = "milliseconds for `sluice capability revoke`"

    def grow(self, count):
        wish = self.server.folder / "wish.json"
        wish.write_text(json.dumps({"resource": "volume/first"}))
        node = self.server.node
        if count - 1 > self.count:
            control = self.server.control.replace("127.0.0.1", "localhost")
            requests(f"https://{control}/v1/capabilities", node, count - 1 - self.count, f"--data={wish}",
                     "--header=content-type: application/json")
        issued = json.loads(self.server.cli(node, "capability", "issue", "volume/first", "-o", "json"))
        self.count = count
        return created(self.server, "capability", "revoke", issued["id"])


ALL = (Channels, Volumes, Pools, Capabilities)


def measure(series, server, seconds):
    """Memory in MiB, latency in microseconds."""
    report = server.bench(series.measured, "--rw", "randread", "--bs", "4k", "--iodepth", 1, "--time", seconds)
    assert report["errors"] == 0, report
    latency = report["read"]["latency"]
    hosts = children(server.process.pid)
    return {"server": resident(server.process.pid), "hosts": sum(map(resident, hosts)), "p50": latency["p50"],
            "p99": latency["p99"]}


def children(pid):
    """All processes below this one."""
    found = []
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *children(int(child))]
    return found


def resident(pid):
    """Memory of a process that is its own, in MiB."""
    lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines[1:])
    return sum(int(fields[name].split()[0]) for name in ("Private_Clean", "Private_Dirty")) / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="series: " + ", ".join(one.name for one in ALL))
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--part", type=int, default=100, help="percent of the counts")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "results")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    figures = {}
    for kind in ALL:
        if options.names and kind.name not in options.names:
            continue
        print(f"{kind.name}; the cost is {kind.cost}", flush=True)
        steps = []
        with running_server() as server:
            series = kind(server)
            try:
                for count in sorted({max(count * options.part // 100, kind.counts[0]) for count in kind.counts}):
                    cost = series.grow(count)
                    step = {"count": count, "cost": cost, **measure(series, server, options.seconds)}
                    steps.append(step)
                    print(f"  {count:7,} server {step['server']:7.1f} MiB, hosts {step['hosts']:7.1f} MiB, read p50 "
                          f"{step['p50']:5.0f} us, p99 {step['p99']:5.0f} us, cost {cost:6.1f}", flush=True)
            finally:
                series.close()
        figures[kind.name] = {"cost": kind.cost, "steps": steps}
        (options.out / f"scale-{kind.name}.svg").write_text(plot.curves(
            f"{kind.name}, {os.cpu_count()} cores", steps,
            {"server": "server, MiB", "hosts": "driver hosts, MiB", "p50": "read p50, us", "p99": "read p99, us",
             "cost": kind.cost}))
    (options.out / "scale.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
