#!/usr/bin/env python3
"""The control API: how many requests a second one connection gets answered, and what each costs the server.

GET /v1/volumes/NAME and POST /v1/capabilities with a client certificate, 100 requests at once on one connection, beside
nghttpd, which serves a file of the same size as the volume's answer. nghttp makes the load: h2load has no client
certificate. The client has its own core where there are two; the figure for one core of the server comes from its CPU
time.

    make bench                      or
    Tests/benchmarks/control.py [--rounds N] [--requests N] [--json FILE]
"""
import collections
import json
import re
import statistics
import subprocess
import sys
import time

from rig import CPUTime, accepts, await_condition, command_line, free_port, requests, run, running_server, save

SIZE = 1 << 28


class Load:
    """A way to make requests of one kind."""

    def __init__(self, name, url, cpu, credentials, *options, weight=1):
        """`weight`: how many times fewer of these are made."""
        self.name, self.url, self.cpu, self.credentials = name, url, cpu, credentials
        self.options, self.weight = options, weight

    def measure(self, count):
        before, begun = self.cpu.seconds(), time.monotonic()
        requests(self.url, self.credentials, count, *self.options)
        seconds = time.monotonic() - begun
        return {"rate": count / seconds, "cpu": (self.cpu.seconds() - before) / count * 1e6}

    def check(self):
        """Ends the program unless a thousand requests, as fast as those that are measured, all succeed."""
        output = requests(self.url, self.credentials, 1000, "--verbose", *self.options)
        statuses = collections.Counter(re.findall(r":status: (\d+)", output))
        if sum(statuses[status] for status in ("200", "201")) != 1000:
            raise SystemExit(f"{self.name}: answers are {dict(statuses)}")


def main():
    arguments = command_line(__doc__, rounds=3, requests=100_000)
    results = {}
    with running_server() as server:
        server.volume("disk", SIZE, "ram", "--driver", "memory", "--setting", f"size={SIZE}")
        administrator, node = server.data / "admin", server.node
        pages = server.folder / "pages"
        pages.mkdir()
        control = server.control.replace("127.0.0.1", "localhost")
        volume = f"https://{control}/v1/volumes/disk"
        (pages / "disk").write_text(run("nghttp", f"--cert={administrator / 'cert.pem'}",
                                        f"--key={administrator / 'key.pem'}", volume).stdout)
        wish = server.folder / "wish.json"
        wish.write_text(json.dumps({"resource": "volume/disk"}))
        peer_port = free_port()
        peer = subprocess.Popen(
            ["nghttpd", "--htdocs", str(pages), "--address=127.0.0.1", "--verify-client", str(peer_port),
             str(administrator / "key.pem"), str(administrator / "cert.pem")], stdout=subprocess.DEVNULL)
        try:
            await_condition("nghttpd", lambda: accepts(peer_port))
            loads = [
                Load("GET volume", volume, server.cpu, administrator),
                Load("nghttpd, the same bytes", f"https://localhost:{peer_port}/disk", CPUTime(peer.pid),
                     administrator),
                Load("POST capabilities", f"https://{control}/v1/capabilities", server.cpu, node,
                     f"--data={wish}", "--header=content-type: application/json", weight=20),
            ]
            for load in loads:
                load.check()
            for number in range(arguments.rounds):
                for load in loads if number % 2 == 0 else reversed(loads):
                    results.setdefault(load.name, []).append(load.measure(arguments.requests // load.weight))
        finally:
            peer.terminate()
            peer.wait(20)
    figures = {name: {field: statistics.median(one[field] for one in rounds) for field in ("rate", "cpu")}
               for name, rounds in results.items()}
    print(f"one connection, 100 requests at once, medians of {arguments.rounds} rounds")
    for name, one in figures.items():
        print(f"  {name:24} {one['rate']:8,.0f} a second, {one['cpu']:6.1f} us of the server's CPU each: "
              f"{1e6 / one['cpu']:8,.0f} a second on one core")
    save(figures, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
