#!/usr/bin/env python3
"""Holds the functions that every data request goes through to what they may do with references.

Reads the machine code of the release build: none of them allocates, and each has no more places that retain an object
than it has now. Fewer than the table says is an error too, so that it can only go down.

    make lint                       or
    Tests/lint/hot_functions.py [BINARY]
"""
import collections
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Beginnings of demangled names, without the marks of private ones, and the most places that retain.
HOT = {
    "DataPlane.DataConnection.pump(": 2,
    "DataPlane.DataConnection.ingest(": 1,
    "DataPlane.DataConnection.accept(": 0,
    "DataPlane.DataConnection.startSending(": 1,
    "DataPlane.DataConnection.encrypt(": 0,
    "DriverHost.IsolatedQueue.poll(": 1,
    "DriverKit.ArenaAllocator.allocate(": 0,
    "DriverKit.ArenaAllocator.free(": 0,
    "Services.DriverPort.batchEnded(": 1,
    "Services.FairQueue.append(": 0,
    "Services.FairQueue.next(": 0,
    "Services.ServiceShard.accept(": 1,
    "Services.ServiceShard.answer(": 1,
    "Services.ServiceShard.complete(": 0,
    "Services.ServiceShard.ended(": 0,
    "Services.ServiceShard.release(": 0,
    "Services.ServiceShard.run(": 2,
    "Services.SlotTable.begin(": 0,
    "TLS.RecordLayer.read(": 0,
    "TLS.RecordLayer.write(": 1,
    "TLS.TLSConnection.feed(": 1,
    "TLS.TLSConnection.read(": 1,
    "TLS.TLSConnection.write(": 1,
}

RETAINS = {"swift_retain", "swift_bridgeObjectRetain", "swift_unknownObjectRetain", "swift_weakLoadStrong"}
ALLOCATIONS = {"swift_allocObject", "swift_slowAlloc", "swift_allocBox"}
FUNCTION = re.compile(r"^[0-9a-f]+ <(.+)>:$")
CALL = re.compile(r"\s(?:call|jmp|bl|b)\s+[0-9a-f]+ <(swift_\w+)[@>]")


def calls(binary):
    """By mangled name: which functions of the Swift runtime are called, and from how many places."""
    found, counts = None, {}
    with subprocess.Popen(["objdump", "-d", "--no-show-raw-insn", binary], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if function := FUNCTION.match(line):
                found = counts.setdefault(function[1], collections.Counter())
            elif call := CALL.search(line):
                found[call[1]] += 1
    if process.returncode:
        raise SystemExit(f"{binary}: objdump failed")
    return counts


def demangled(names):
    text = subprocess.run(["swift", "demangle", "--compact"], input="\n".join(names), capture_output=True, text=True,
                          check=True).stdout
    return [re.sub(r"\((\w+) in _[0-9A-F]+\)", r"\1", name) for name in text.splitlines()]


def main():
    binary = sys.argv[1] if len(sys.argv) > 1 else ROOT / ".build/release/sluiced"
    counts = {name: called for name, called in calls(binary).items() if name.startswith("$s")}
    faults = []
    found = dict.fromkeys(HOT, None)
    for name, called in zip(demangled(counts), counts.values(), strict=True):
        for start in HOT:
            if name.startswith(start):
                found[start] = (found[start] or collections.Counter()) + called
    for start, called in found.items():
        if called is None:
            faults.append(f"{start}) is not in the program: it has another name, or was inlined")
            continue
        retains = sum(called[name] for name in RETAINS)
        if retains > HOT[start]:
            faults.append(f"{start}) retains in {retains} places; {HOT[start]} are allowed")
        elif retains < HOT[start]:
            faults.append(f"{start}) retains in {retains} places only: write that into the table")
        if allocations := [name for name in ALLOCATIONS if called[name]]:
            faults.append(f"{start}) allocates: {', '.join(allocations)}")
    print(*faults, sep="\n", file=sys.stderr)
    print(f"{len(HOT)} hot functions, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
