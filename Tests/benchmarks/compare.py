#!/usr/bin/env python3
"""Sluice against nbdkit, both over TLS 1.3 with client certificates, memory-backed, 4 KiB random reads.

Runs the two in turn, pair by pair, on one machine, and prints every pair, the medians and the ratio. It reports; it
does not judge. Needs root's nothing: loopback only, free ports, one temporary folder.

    make bench                      or
    Tests/benchmarks/compare.py [--pairs N] [--seconds N] [--depth N] [--block-size BYTES] [--json FILE]
"""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

from rig import PATIENCE, CPUTime, Server, accepts, await_condition, free_port, run


class NBDKit:
    """nbdkit's memory plugin over TLS, driven by fio's nbd engine."""

    name = "nbdkit + fio nbd"

    def __init__(self, folder, size):
        self.folder = folder
        self.make_certificates()
        self.home = self.make_client_home()
        # libnbd finds a client's certificates below HOME, but never for root.
        self.as_user = ["setpriv", "--reuid=65534", "--clear-groups"] if os.geteuid() == 0 else []
        self.port = free_port()
        self.process = subprocess.Popen(
            ["nbdkit", "-f", "-i", "127.0.0.1", "-p", str(self.port), "--tls=require",
             f"--tls-certificates={folder}", "--tls-verify-peer", "memory", str(size)])
        await_condition("nbdkit", lambda: accepts(self.port))
        self.cpu = CPUTime(self.process.pid)

    def make_certificates(self):
        def certtool(*arguments):
            run("certtool", *arguments, cwd=self.folder)

        (self.folder / "ca.info").write_text("cn=bench\nca\ncert_signing_key\nexpiration_days=2\n")
        certtool("--generate-privkey", "--key-type=ecdsa", "--outfile", "ca-key.pem")
        certtool("--generate-self-signed", "--load-privkey", "ca-key.pem", "--template", "ca.info",
                 "--outfile", "ca-cert.pem")
        (self.folder / "peer.info").write_text(
            "cn=localhost\ndns_name=localhost\nip_address=127.0.0.1\ntls_www_server\ntls_www_client\n"
            "signing_key\nexpiration_days=2\n")
        for peer in ("server", "client"):
            certtool("--generate-privkey", "--key-type=ecdsa", "--outfile", f"{peer}-key.pem")
            certtool("--generate-certificate", "--load-ca-certificate", "ca-cert.pem", "--load-ca-privkey",
                     "ca-key.pem", "--load-privkey", f"{peer}-key.pem", "--template", "peer.info",
                     "--outfile", f"{peer}-cert.pem")

    def make_client_home(self):
        home = self.folder / "home"
        certificates = home / ".pki/libnbd"
        certificates.mkdir(parents=True)
        for name in ("ca-cert.pem", "client-cert.pem", "client-key.pem"):
            shutil.copy(self.folder / name, certificates / name)
        if os.geteuid() == 0:
            for path in (home, *home.rglob("*")):
                os.chown(path, 65534, 65534)
        return home

    def measure(self, options):
        result = run(
            *self.as_user, "fio", "--name=bench", "--ioengine=nbd", f"--uri=nbds://localhost:{self.port}/",
            "--rw=randread",
            f"--bs={options.block_size}", f"--iodepth={options.depth}", "--time_based",
            f"--runtime={options.seconds}", "--output-format=json", timeout=options.seconds + 60,
            cwd=self.home, env={**os.environ, "HOME": str(self.home)})
        job = json.loads(result.stdout[result.stdout.index("{"):])["jobs"][0]
        if job["error"] or not job["read"]["total_ios"]:
            raise SystemExit(f"fio failed: {result.stdout}")
        return job["read"]["iops"], job["read"]["total_ios"]

    def stop(self):
        self.process.terminate()
        self.process.wait(PATIENCE)


class Sluice:
    """sluiced with a memory pool, driven by sluice bench."""

    name = "sluice"

    def __init__(self, folder, size):
        self.server = Server(folder)
        self.server.volume("bench", size, "ram", "--driver", "memory", "--setting", f"size={size}")
        self.cpu = self.server.cpu

    def measure(self, options):
        report = self.server.bench(
            "bench", "--rw", "randread", "--bs", options.block_size, "--iodepth", options.depth, "--channels",
            options.channels, "--time", options.seconds)
        return report["read"]["iops"], report["read"]["operations"]

    def stop(self):
        self.server.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--depth", type=int, default=32)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--block-size", type=int, default=4096)
    parser.add_argument("--size", type=int, default=1 << 30)
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    for tool in ("nbdkit", "fio", "certtool"):
        if not shutil.which(tool):
            raise SystemExit(f"{tool} is missing: Deploy/install-dependencies.sh bench")

    with tempfile.TemporaryDirectory(prefix="sluice-bench.") as folder:
        os.chmod(folder, 0o755)
        contenders = []
        try:
            for kind in (Sluice, NBDKit):
                place = pathlib.Path(folder) / kind.__name__
                place.mkdir()
                contenders.append(kind(place, options.size))
            rounds = [measure_pair(contenders, options, number) for number in range(options.pairs)]
        finally:
            for contender in contenders:
                contender.stop()
    report(rounds, options)


def measure_pair(contenders, options, number):
    pair = {}
    for contender in contenders:
        before = contender.cpu.seconds()
        iops, operations = contender.measure(options)
        cpu = (contender.cpu.seconds() - before) / operations * 1e6
        pair[contender.name] = {"iops": iops, "server_cpu_seconds_per_million": cpu}
    first, second = (pair[contender.name]["iops"] for contender in contenders)
    pair["ratio"] = first / second
    print(f"pair {number + 1}: " + ", ".join(
        f"{c.name} {pair[c.name]['iops']:,.0f} IOPS ({pair[c.name]['server_cpu_seconds_per_million']:.1f} server CPU s"
        f" per million)" for c in contenders) + f", ratio {pair['ratio']:.2f}", flush=True)
    return pair


def report(rounds, options):
    print(f"\n{options.block_size} B random reads, depth {options.depth}, TLS 1.3, memory-backed, "
          f"median of {len(rounds)} pairs on {os.cpu_count()} cores")
    for name in (Sluice.name, NBDKit.name):
        iops = statistics.median(pair[name]["iops"] for pair in rounds)
        cpu = statistics.median(pair[name]["server_cpu_seconds_per_million"] for pair in rounds)
        print(f"  {name:18} {iops:>10,.0f} IOPS   {cpu:6.1f} server CPU seconds per million")
    ratios = [pair["ratio"] for pair in rounds]
    print(f"  ratio              {statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f})")
    if options.json:
        options.json.write_text(json.dumps({"options": vars(options) | {"json": None}, "pairs": rounds}, indent=2))


if __name__ == "__main__":
    sys.exit(main())
