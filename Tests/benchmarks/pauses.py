#!/usr/bin/env python3
"""How long an application waits when its server, its network or its client is replaced under it.

It writes and reads 4 KiB of an attached device, one request after the other, past the page cache. Each event happens
some times; what is reported is the longest single request around it. Between client and server is a router, in network
namespaces of this program's own, that can lose everything and tell nobody. A supervisor holds the server's sockets and
starts it again as the units of Deploy/systemd have systemd do it. Needs root.

    make bench                      or
    Tests/benchmarks/pauses.py [--rounds N] [--json FILE]
"""
import argparse
import json
import mmap
import os
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from rig import BINARIES, Server, await_condition  # also the way to Tests/system
from chaos.namespaces import Partition

SIZE = 256 << 20
PAGE = 4096
# As RestartSec in Deploy/systemd/sluiced.service.
RESTART_SECONDS = 0.1
CUT_SECONDS = 5
# I/O on either side of an event.
CALM_SECONDS = 1


class Application(threading.Thread):
    """Writes and reads back in turn, and notes when each request began and how long it took."""

    def __init__(self, device):
        super().__init__(daemon=True)
        self.file = os.open(device, os.O_RDWR | os.O_DIRECT)
        self.ends = threading.Event()
        self.requests, self.failure = [], None

    def run(self):
        generator, buffer = random.Random(1), mmap.mmap(-1, PAGE)
        number = 0
        try:
            while not self.ends.is_set():
                number += 1
                offset = generator.randrange(SIZE // PAGE) * PAGE
                buffer[:8] = number.to_bytes(8, "little")
                for request in (os.pwritev, os.preadv):
                    begun = time.monotonic()
                    request(self.file, [buffer], offset)
                    self.requests.append((begun, time.monotonic() - begun))
                if buffer[:8] != number.to_bytes(8, "little"):
                    raise OSError(f"the page at {offset} is not what was written")
        except OSError as failure:
            self.failure = failure

    def calm(self):
        """Waits until requests have gone on for a while."""
        end = time.monotonic() + CALM_SECONDS
        await_condition("calm I/O", lambda: self.failure or self.requests[-1][0] > end)
        if self.failure:
            raise SystemExit(f"the application heard of it: {self.failure}")

    def longest_since(self, moment):
        return max(took for begun, took in reversed(self.requests) if begun + took >= moment)

    def close(self):
        self.ends.set()
        self.join(60)
        os.close(self.file)


class Supervisor(threading.Thread):
    """Starts the server again whenever it has ended."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server, self.ends, self.starts = server, threading.Event(), 0

    def run(self):
        while True:
            self.server.process.wait()
            if self.ends.wait(RESTART_SECONDS):
                return
            self.server.start()
            self.starts += 1


def attach(server, node, *options):
    command = [*node.command, str(BINARIES / "sluice"), "--credentials", str(server.node), "attach", "volume/disk",
               *options]
    result = subprocess.run(command, env=server.environment, capture_output=True, text=True, timeout=60)
    if result.returncode:
        raise SystemExit(result.stderr)
    return result.stdout.split()[-1]


def measure(server, partition, options):
    server.volume("disk", SIZE, "disk", "--driver", "file")
    device = attach(server, partition.node)
    supervisor = Supervisor(server)
    supervisor.start()
    application = Application(device)

    def end(how):
        starts = supervisor.starts
        server.process.send_signal(how)
        await_condition("the next server", lambda: supervisor.starts > starts)

    def cut():
        with partition.broken():
            time.sleep(CUT_SECONDS)

    def upgrade():
        attach(server, partition.node, "--take-over")

    events = {
        "graceful restart of the server (SIGTERM)": lambda: end(signal.SIGTERM),
        "kill -9 of the server": lambda: end(signal.SIGKILL),
        f"network silent for {CUT_SECONDS} s": cut,
        "upgrade of the client (attach --take-over)": upgrade}
    figures = {}
    try:
        os.pwrite(application.file, mmap.mmap(-1, 1 << 20), 0)
        application.start()
        await_condition("the first requests", lambda: len(application.requests) > 100)
        application.calm()
        quiet = [took for _, took in application.requests]
        print(f"4 KiB requests, one at a time, undisturbed: median {statistics.median(quiet) * 1e6:.0f} us, "
              f"longest {max(quiet) * 1e3:.1f} ms", flush=True)
        for name, happen in events.items():
            pauses = []
            for _ in range(options.rounds):
                begun = time.monotonic()
                happen()
                application.calm()
                pauses.append(application.longest_since(begun))
            figures[name] = pauses
            print(f"{name}: median {statistics.median(pauses) * 1e3:.0f} ms, longest {max(pauses) * 1e3:.0f} ms "
                  f"of {len(pauses)}", flush=True)
    finally:
        supervisor.ends.set()
        application.close()
        server.cli(server.node, "detach", "volume/disk")
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    if os.geteuid():
        raise SystemExit("attaching a device and making network namespaces need root")
    with tempfile.TemporaryDirectory(prefix="sluice-bench.") as folder, Partition() as partition:
        server = Server(pathlib.Path(folder), partition.server, holds_sockets=True)
        try:
            figures = measure(server, partition, options)
        finally:
            server.stop()
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    sys.exit(main())
