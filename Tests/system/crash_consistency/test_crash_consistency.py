"""What was made durable on an attached volume is there after a crash at any point: ext4 and xfs, in the spirit of
CrashMonkey and ACE.

The volume's pool records what reaches the device. For each sequence of operations, crashes are played before and after
every flush and at every return of a persistence call: with only what is durable, with all that was written, and with
samples of the rest, reordered and torn. Each disk is mounted, compared and checked by fsck.

SLUICE_CRASH_DEPTH=N runs every sequence of up to N operations and SLUICE_CRASH_SAMPLES of depth 3 instead of a sample;
SLUICE_CRASH_REORDERED is how many samples of the rest are taken at each point, SLUICE_CRASH_SEED chooses them.
"""
import os
import random
import shutil
import subprocess
import tempfile

import pytest
from checker import MKFS, SIZE, Checker
from conftest import needs_root
from request_log import FLUSH, FUA, WRITE, Crash, Disk, RequestLog
from workload import Run, sample, sequences, sync_file_system

pytestmark = needs_root

DEPTH = int(os.environ.get("SLUICE_CRASH_DEPTH", "0"))
SAMPLES = int(os.environ.get("SLUICE_CRASH_SAMPLES", "0"))
SEED = int(os.environ.get("SLUICE_CRASH_SEED", "1"))
REORDERED = int(os.environ.get("SLUICE_CRASH_REORDERED", "2"))
QUICK = {"ext4": 60, "xfs": 60}


class Laboratory:
    """A file system on an attached volume whose pool records, and a place for crashed disks."""

    def __init__(self, server, kind):
        self.server, self.kind = server, kind
        self.node = server.join("crash")
        server.cli("pool", "create", "recorded", "--driver", "fault", "--setting", "driver=file",
                   "--setting", "record=requests.log")
        server.volume("crash", size=str(SIZE[kind]), pool="recorded", node="crash")
        self.device = server.cli("attach", "volume/crash", credentials=self.node).stdout.split()[-1]
        self.mount = str(server.folder / "mnt")
        os.mkdir(self.mount)
        subprocess.run([*MKFS[kind], self.device], check=True, capture_output=True, timeout=60)
        subprocess.run(["mount", self.device, self.mount], check=True, capture_output=True, timeout=60)
        self.log = RequestLog(server.data / "pools/recorded/requests.log")
        self.scratch = tempfile.mkdtemp(prefix="sluice-crash-", dir="/dev/shm")
        self.checker = Checker(kind, self.scratch)
        self.base, self.base_position = Disk(), 0
        self.number = 0

    def close(self):
        self.log.close()
        shutil.rmtree(self.scratch)
        subprocess.run(["umount", self.mount], check=True, capture_output=True, timeout=60)
        self.server.cli("detach", "volume/crash", credentials=self.node)

    def settle(self):
        """Makes all that was done so far the disk that crashes are played on."""
        sync_file_system(self.mount)
        self.base_position = self.log.read()
        for request in self.log.requests:
            assert request.end is not None, "a request is under way after sync"
            self.base.apply(request)
        self.log.requests.clear()
        assert len(self.log.volumes) == 1

    def record(self, sequence):
        """Runs a sequence in a new folder and takes down what reached the device."""
        self.number += 1
        workload = Run(self.mount, self.number, self.log.read)
        workload.setup()
        self.settle()
        workload.run(sequence)
        self.log.read()
        return workload

    def crashes(self, workload):
        """Before and after every flush and FUA, and at every return of a persistence call: what may be left."""
        requests = self.log.requests
        barriers = [r for r in requests if r.opcode == FLUSH or r.flags & FUA]
        positions = {r.begin + (r.opcode != FLUSH) for r in barriers} | {r.end + 1 for r in barriers}
        positions |= {event.position for event in workload.events if event.position > self.base_position}
        return [(position, Crash(requests, self.base_position, position)) for position in sorted(positions)]

    def states(self, crash, generator):
        """Disks that a crash may leave: nothing more than is durable, everything, and samples of the rest."""
        yield "only what is durable", crash.disk(self.base)
        if not crash.unsafe:
            return
        yield "everything", crash.disk(self.base, kept=crash.unsafe)
        if len(crash.unsafe) < 2:
            return
        for _ in range(REORDERED):
            kept = [r for r in crash.unsafe if generator.random() < 0.5]
            torn = [r for r in kept if generator.random() < 0.2]
            yield f"{len(kept)} of {len(crash.unsafe)} unsafe, {len(torn)} torn", crash.disk(self.base, kept, torn)

    def check(self, sequence, generator):
        """Objections to the disks that crashes during a sequence leave, each with how to have it again."""
        workload = self.record(sequence)
        objections, seen = [], set()
        for position, crash in self.crashes(workload):
            known = sum(event.position <= position for event in workload.events)
            for what, disk in self.states(crash, generator):
                state = (known, hash(frozenset(disk.blocks.items())))
                if state in seen:
                    continue
                seen.add(state)
                found = self.checker.objections(disk, workload, position)
                objections += [f"{self.kind}, {sequence}, {what} at record {position}: {text}" for text in found]
        shutil.rmtree(workload.root)
        return objections


@pytest.fixture(params=["ext4", "xfs"])
def laboratory(request, server):
    made = Laboratory(server, request.param)
    yield made
    made.close()


def chosen(kind):
    """The sequences to run: a seeded sample, or all of a depth and large samples beyond."""
    if not DEPTH:
        count = QUICK[kind]
        yield from sample(1, count // 4, SEED)
        yield from sample(2, count // 2, SEED + 1)
        yield from sample(3, count - count // 4 - count // 2, SEED + 2)
        return
    for depth in range(1, DEPTH + 1):
        yield from sequences(depth)
    yield from sample(3, SAMPLES, SEED)


def test_what_was_made_durable_is_there_after_a_crash(laboratory):
    objections = []
    for number, sequence in enumerate(chosen(laboratory.kind)):
        objections += laboratory.check(sequence, random.Random(SEED * 1_000_003 + number))
        assert len(objections) < 20, "\n".join(objections)
    assert not objections, "\n".join(objections)
    print(f"{laboratory.kind}: {laboratory.number} sequences, {laboratory.checker.checked} disks")
    assert laboratory.checker.checked > 2 * laboratory.number


def test_a_disk_that_loses_a_flushed_write_is_objected_to(laboratory):
    workload = laboratory.record(((("write", "A/bar", 6000), "file"),))
    position = workload.events[-1].position
    crash = Crash(laboratory.log.requests, laboratory.base_position, position)
    assert laboratory.checker.objections(crash.disk(laboratory.base), workload, position) == []
    content = bytes(workload.model.names["A/bar"].data[:512])
    data = [r for r in crash.durable if r.opcode == WRITE and content in r.payload]
    others = [r for r in crash.durable if r not in data]
    assert data and others
    for lost in data:
        found = laboratory.checker.objections(crash.disk(laboratory.base, without=lost), workload, position)
        assert any("A/bar" in text for text in found)
    judged = [laboratory.checker.objections(crash.disk(laboratory.base, without=lost), workload, position)
              for lost in others]
    assert any(judged)
