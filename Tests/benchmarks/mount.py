#!/usr/bin/env python3
"""ext4 on a volume that came over TLS: attached by Sluice, and through nbdfuse and loop from nbdkit.

fio reads and writes one file of each, past the page cache: 4 KiB at random, 32 at once, and streams of 1 MiB. Both are
mounted at the same time and measured in turn, so that a noisy machine disturbs them alike. Reports medians over the
rounds and what Sluice does of the other; needs root. Sluice's requests come through io_uring where the kernel can do
that, which is switched on for the time; with --ring 0 through /dev/fuse.

    make bench                      or
    Tests/benchmarks/mount.py [--rounds N] [--seconds N] [--channels N] [--poll US] [--ring 0|1] [--json FILE]
"""
import contextlib
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

import peers
from rig import FUSE_RING, CPUTime, Server, await_condition, command_line, enter_namespace, fuse_ring, run, save

SIZE = 1 << 30
FILE_SIZE = 512 << 20
WORKLOADS = [("randread", "4k", 32), ("randwrite", "4k", 32), ("read", "1m", 4), ("write", "1m", 4)]


class SluiceMount:
    """`sluice attach` of a volume in memory, its driver isolated."""

    name = "sluice"
    server_settings = {}

    def __init__(self, folder, certificates, options):
        self.server = Server(folder, SLUICE_REACTORS="1", **self.server_settings)
        try:
            self.server.volume("disk", SIZE, "ram", "--driver", "memory", "--setting", f"size={SIZE}")
            self.server.cli(self.server.node, "attach", "volume/disk", "--channels", options.channels,
                            "--poll", options.poll)
            attachment = json.loads(self.server.cli(self.server.node, "status", "-o", "json"))[0]
            self.device = attachment["device"]
            self.cpus = [CPUTime(pid) for pid in (
                self.server.process.pid, self.server.driver("ram")["pid"], attachment["pid"])]
        except BaseException:
            self.server.stop()
            raise

    def stop(self):
        self.server.cli(self.server.node, "detach", "volume/disk")
        self.server.stop()


class NBDFuse:
    """nbdkit's memory plugin over TLS with client certificates, a file by nbdfuse, a device by loop."""

    name = "nbdfuse, nbdkit TLS"

    def __init__(self, folder, certificates, options):
        self.nbdkit = peers.NBDKit(folder, SIZE, certificates)
        self.image = folder / "nbd"
        self.image.touch()
        self.fuse = subprocess.Popen(["nbdfuse", self.image, f"nbds://localhost:{self.nbdkit.port}/"])
        self.device = None
        try:
            await_condition("nbdfuse", lambda: self.image.stat().st_size == SIZE)
            self.device = run("losetup", "--find", "--show", "--direct-io=on", self.image).stdout.strip()
        except BaseException:
            self.stop()
            raise
        self.cpus = [*self.nbdkit.cpus, CPUTime(self.fuse.pid)]

    def stop(self):
        if self.device:
            run("losetup", "--detach", self.device)
        run("umount", "--lazy", self.image)
        self.fuse.wait(20)
        self.nbdkit.stop()


class FileSystem:
    """ext4 on a device, with one file that is written in full."""

    def __init__(self, contender, folder):
        self.contender, self.folder = contender, folder
        folder.mkdir()
        # Nothing is left to be done in the background while others are measured.
        run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", contender.device)
        run("mount", contender.device, folder)
        self.fio("write", "1m", 4, "--end_fsync=1")

    def fio(self, rw, block_size, depth, *options):
        result = run("fio", "--name=bench", f"--filename={self.folder}/file", "--ioengine=libaio", "--direct=1",
                     f"--rw={rw}", f"--bs={block_size}", f"--iodepth={depth}", f"--size={FILE_SIZE}", *options,
                     "--output-format=json", timeout=120)
        job = json.loads(result.stdout[result.stdout.index("{"):])["jobs"][0]
        if job["error"]:
            raise SystemExit(f"fio failed: {result.stdout}")
        return job["read" if "read" in rw else "write"]

    def measure(self, rw, block_size, depth, seconds):
        """I/Os a second, and CPU time of all processes between the device and the data, in microseconds an I/O."""
        before = sum(clock.seconds() for clock in self.contender.cpus)
        figures = self.fio(rw, block_size, depth, "--time_based", f"--runtime={seconds}")
        used = sum(clock.seconds() for clock in self.contender.cpus) - before
        return {"iops": figures["iops"], "cpu": used / figures["total_ios"] * 1e6,
                "p99": figures["clat_ns"]["percentile"]["99.000000"] / 1e3}

    def close(self):
        run("umount", self.folder)


def show_certificates(certificates, folder):
    """Puts the client's certificates where libnbd looks for root's; only this program's mount namespace sees them."""
    above, work = folder / "etc", folder / "work"
    pki = above / "pki/libnbd"
    shutil.copytree(certificates.home / ".pki/libnbd", pki)
    work.mkdir()
    run("mount", "-t", "overlay", "-o", f"lowerdir=/etc,upperdir={above},workdir={work}", "overlay", "/etc")


def main():
    arguments = command_line(__doc__, rounds=3, seconds=3, channels=1, poll=0, ring=1)
    if os.geteuid() != 0:
        raise SystemExit("mounting needs root")
    enter_namespace("mount")
    results = {}
    with contextlib.ExitStack() as stack:
        root = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-bench.")))
        # An overlay lies on what is none itself.
        run("mount", "-t", "tmpfs", "tmpfs", root)
        stack.callback(run, "umount", root)
        certificates = peers.Certificates(root / "certificates")
        show_certificates(certificates, root)
        stack.callback(run, "umount", "/etc")
        mounted = []
        for number, contender in enumerate((SluiceMount, NBDFuse)):
            folder = root / str(number)
            folder.mkdir()
            with fuse_ring(arguments.ring):
                running = contender(folder, certificates, arguments)
            stack.callback(running.stop)
            mounted.append(FileSystem(running, folder / "mounted"))
            stack.callback(mounted[-1].close)
        for number in range(arguments.rounds):
            for workload in WORKLOADS:
                for system in mounted if number % 2 == 0 else reversed(mounted):
                    one = system.measure(*workload, arguments.seconds)
                    results.setdefault((workload, system.contender.name), []).append(one)
    save(report(results, arguments), arguments.json)


def report(results, arguments):
    way = "io_uring" if arguments.ring and FUSE_RING.exists() else "/dev/fuse"
    print(f"ext4, one file past the page cache, Sluice's requests through {way}, {os.cpu_count()} cores, medians of "
          f"{arguments.rounds} rounds of {arguments.seconds} s")
    figures = []
    for workload in WORKLOADS:
        first = None
        for contender in (SluiceMount, NBDFuse):
            rounds = results[workload, contender.name]
            one = {field: statistics.median(one[field] for one in rounds) for field in rounds[0]}
            figures.append({"workload": " ".join(map(str, workload)), "contender": contender.name, **one})
            first = first or one
            times = "" if one is first else f"   sluice does {first['iops'] / one['iops']:.1f} times that"
            print(f"  {workload[0]:9} {workload[1]} depth {workload[2]:<3} {contender.name:20} "
                  f"{one['iops']:8,.0f} IOPS, p99 {one['p99']:7,.0f} us, {one['cpu']:6.1f} us of CPU an I/O{times}")
    return figures


if __name__ == "__main__":
    sys.exit(main())
