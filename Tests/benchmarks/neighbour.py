#!/usr/bin/env python3
"""What a flood costs a gentle neighbour: its latency alone and beside a session that floods the same server.

The neighbour reads 4 KiB at random, one request at a time, in a session of its own. The flooder keeps many channels full
of reads or writes of another volume of the same pool. Rounds measure the neighbour alone and beside each flood in turn;
what is printed are medians over the rounds.

Server, driver host and both clients share the cores of one machine. So everything is measured twice: with all processes
alike, and with the flooder on the last CPU and all others on the rest of them at real-time priorities, of which the
neighbour's is the highest, then the network's and the driver host's, then the server's. Then the neighbour, the host and
the network have a CPU whenever they want it, as if each had its own, nobody waits for what the kernel does for the
flooder, and what remains of the neighbour's wait is the server's doing. That needs root and two CPUs.

As root all of it runs in a network namespace of its own with Reno. BBR, where that is the default, has timers that send a
flooder's bytes on whatever CPU they were set on: for up to half a millisecond on the server's, as part of its thread.

And beside a node that floods with nothing at all: with --deaf N it opens N connections, each of a session of its own that
asks for 1 MiB four times and reads none of it, or that writes 4 KiB of a MiB and does not go on.

    make bench                      or
    Tests/benchmarks/neighbour.py [--rounds N] [--seconds N] [--channels N] [--deaf N] [--json FILE]
"""
import json
import os
import pathlib
import resource
import socket
import statistics
import sys
import time

from rig import ROOT, command_line, enter_namespace, pin, run, running_server, save, threads

sys.path.insert(0, str(ROOT / "Clients/python"))
from sluice_client import Channel, Opcode  # noqa: E402

SIZE = 1 << 29
FLOODS = {
    "reads of 128 KiB": ("randread", "128k"),
    "writes of 128 KiB": ("randwrite", "128k"),
    "reads of 4 KiB": ("randread", "4k"),
}


SERVER, NETWORK, HOST, NEIGHBOUR = 5, 6, 6, 7
CPUS = sorted(os.sched_getaffinity(0))


def prefer(pid, priority):
    """Gives all threads of a process a real-time priority; 0 takes it away."""
    policy = os.SCHED_RR if priority else os.SCHED_OTHER
    for thread in threads(pid):
        os.sched_setscheduler(thread, policy, os.sched_param(priority))


def network_threads():
    """The kernel's threads that receive packets when interrupts have too many."""
    return [int(folder.name) for folder in pathlib.Path("/proc").iterdir()
            if folder.name.isdigit() and (folder / "comm").read_text().startswith("ksoftirqd/")]


def measure(server, options, is_preferred):
    """The neighbour's figures."""
    process = server.start_bench("gentle", "--rw", "randread", "--bs", "4k", "--iodepth", 1, "--time", options.seconds)
    if is_preferred:
        pin(process.pid, CPUS[:-1])
        prefer(process.pid, NEIGHBOUR)
    report = json.loads(process.communicate(timeout=60)[0])
    assert report["errors"] == 0, report
    return report["read"]["latency"]


def beside(server, options, is_preferred, rw, size):
    """The neighbour's figures while a flood runs, and what the flood makes of it."""
    flood = server.start_bench("flooded", "--rw", rw, "--bs", size, "--iodepth", 128, "--channels", options.channels,
                               "--time", options.seconds + 2)
    if is_preferred:
        pin(flood.pid, CPUS[-1:])
    time.sleep(1)
    try:
        latency = measure(server, options, is_preferred)
    finally:
        report = json.loads(flood.communicate(timeout=120)[0])
    assert report["errors"] == 0, report
    return {**latency, "flood": report["read" if rw == "randread" else "write"]["iops"]}


def deaf_node(server, count, writes):
    """Connections of another node that do not read what they asked for, or do not go on writing."""
    name = "deaf-writer" if writes else "deaf-reader"
    folder = server.join(name)
    # Shared, since a volume has one session that writes otherwise.
    server.admin("volume", "create", name, "--size", str(SIZE >> 4), "--pool", "ram", "--mode", "shared")
    server.admin("grant", "create", name, "--node", name, "--resource", f"volume/{name}",
                 "--rights", "read,write" if writes else "read")
    token = server.cli(folder, "capability", "issue", f"volume/{name}").split()[-1]
    host, port = server.channel.rsplit(":", 1)
    connections = []
    for _ in range(count):
        channel = Channel((host, int(port)), cafile=str(folder / "ca.pem"), certfile=str(folder / "cert.pem"),
                          keyfile=str(folder / "key.pem"), slots=8)
        channel.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        handle, _ = channel.open(token)
        if writes:
            channel.send_raw(channel.request_header(
                Opcode.WRITE, slot=0, length=1 << 20, handle=handle, count=1 << 20).encode() + bytes(4096))
        else:
            for slot in range(4):
                channel.submit(Opcode.READ, slot=slot, handle=handle, count=1 << 20)
        connections.append(channel)
    return connections


def deaf_series(server, options):
    """The neighbour alone and beside connections that hold what they can and do nothing."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    result = {}
    for writes in (False, True):
        alone = [measure(server, options, False) for _ in range(options.rounds)]
        connections = deaf_node(server, options.deaf, writes)
        name = "that do not go on writing" if writes else "that do not read"
        among = [measure(server, options, False) for _ in range(options.rounds)]
        for channel in connections:
            channel.drop()
        figures = [statistics.median(one[field] for one in rounds)
                   for rounds in (alone, among) for field in ("p50", "p99")]
        print(f"  {len(connections)} connections {name}: p50 {figures[0]:.0f} us alone, {figures[2]:.0f} beside; "
              f"p99 {figures[1]:.0f} alone, {figures[3]:.0f} beside: {figures[3] / figures[1]:.1f} times", flush=True)
        result[name] = {"connections": len(connections), "alone": alone, "beside": among}
    return result


def series(server, options, is_preferred):
    """All rounds, printed and returned."""
    rounds = []
    for number in range(options.rounds):
        floods = list(FLOODS.items())
        floods = floods[number % len(floods):] + floods[:number % len(floods)]
        one = {"alone": measure(server, options, is_preferred)}
        for name, flood in floods:
            one[name] = beside(server, options, is_preferred, *flood)
        rounds.append(one)
        print(f"  round {number + 1}: p99 alone {one['alone']['p99']:.0f} us, " + ", ".join(
            f"{name} {one[name]['p99']:.0f}" for name in FLOODS), flush=True)
    for name in ("alone", *FLOODS):
        p50, p99 = (statistics.median(one[name][field] for one in rounds) for field in ("p50", "p99"))
        ratio = statistics.median(one[name]["p99"] / one["alone"]["p99"] for one in rounds)
        tail = "" if name == "alone" else (f"   p99 {ratio:.1f} times; the flood makes "
                                           f"{statistics.median(one[name]['flood'] for one in rounds):,.0f} IOPS")
        print(f"  {name:18} p50 {p50:6.0f} us, p99 {p99:6.0f} us{tail}")
    return rounds


def main():
    arguments = command_line(__doc__, rounds=5, seconds=2, channels=8, deaf=2000)
    if os.geteuid() == 0:
        enter_namespace("net")
        run("ip", "link", "set", "lo", "up")
        pathlib.Path("/proc/sys/net/ipv4/tcp_congestion_control").write_text("reno")
    result = {}
    with running_server() as server:
        server.volume("gentle", SIZE, "ram", "--driver", "memory", "--setting", f"size={3 * SIZE}")
        server.further_volume("flooded", SIZE, "ram")
        for volume in ("gentle", "flooded"):
            server.bench(volume, "--rw", "write", "--bs", "1m", "--iodepth", 8, "--total", SIZE)
        print(f"a neighbour's 4 KiB reads, depth 1, beside one session with {arguments.channels} channels of 128 "
              f"requests, {os.cpu_count()} cores, medians of {arguments.rounds} rounds")
        if arguments.deaf:
            result["deaf"] = deaf_series(server, arguments)
        print("\nall processes alike")
        result["alike"] = series(server, arguments, False)
        if os.geteuid() == 0 and len(CPUS) > 1:
            result["preferred"] = apart(server, arguments)
    save(result, arguments.json)


def apart(server, arguments):
    """All rounds with the flooder on a CPU of its own."""
    network = network_threads()
    for pid, priority in ((server.process.pid, SERVER), (server.driver("ram")["pid"], HOST)):
        pin(pid, CPUS[:-1])
        prefer(pid, priority)
    try:
        for pid in network:
            prefer(pid, NETWORK)
        print("\nthe flooder on a CPU of its own, the others before it")
        return series(server, arguments, True)
    finally:
        for pid in network:
            prefer(pid, 0)


if __name__ == "__main__":
    sys.exit(main())
