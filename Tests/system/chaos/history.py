"""Histories of reads and writes, and whether a disk could have answered so.

Each block is a register: its operations must seem to happen one after the other, each between its invocation and its
return. Every write to a block has a value of its own, so that a read says which write it saw. That makes the check
cheap (Gibbons and Korach, "Testing shared memories", 1997): a write and the reads that saw it are one *cluster*; a
cluster whose first return is before its last invocation holds the register from the one to the other, and nothing
else may; any other cluster only needs one moment at which nobody holds it. Sorting does it: 100,000 operations
take less than a second.
"""
import itertools
import math
import struct
import threading
import time
from bisect import bisect_right
from dataclasses import dataclass, replace

INITIAL = 0
TORN = -1
_VALUE = struct.Struct("<QQ")
_FOLD = 0x9E3779B97F4A7C15


def page(value, block, size):
    """A page that says which value of which block it is, all over; value 0 is a page of zeroes."""
    if value == INITIAL:
        return bytes(size)
    return _VALUE.pack(value, (value ^ block) * _FOLD % (1 << 64)) * (size // _VALUE.size)


def value_of(data, block):
    """The value of a page, TORN if it is not one whole page of this block."""
    value = _VALUE.unpack_from(data)[0]
    return value if data == page(value, block, len(data)) else TORN


@dataclass
class Operation:
    """One read or write of one block, by one client.

    `returned` is infinite for what was never answered: it may have happened at any time since, or not at all. `ok` is
    False for what was answered with a failure, of which the same is true up to that moment.
    """

    kind: str  # "r", "w" or "f"
    block: int
    value: int | None
    invoked: float
    returned: float = math.inf
    ok: bool = False
    client: object = None
    fua: bool = False

    def __str__(self):
        end = "never answered" if math.isinf(self.returned) else f"{self.returned:.6f}"
        what = {"r": "read of", "w": "write of", "f": "flush"}[self.kind]
        return (f"{what} block {self.block} value {self.value} by {self.client}, {self.invoked:.6f} to {end}"
                f"{'' if self.ok or math.isinf(self.returned) else ', failed'}")


class Violation(AssertionError):
    """A history that no disk could have."""


class History:
    """What clients saw. Clients of one machine share its monotonic clock, whatever process they are in."""

    def __init__(self):
        self.operations = []
        self._bounds = {}
        self._values = itertools.count(1)
        self._lock = threading.Lock()

    def fresh(self):
        """A value that no other write has."""
        with self._lock:
            return next(self._values)

    def begin(self, kind, block=0, value=None, client=None, fua=False):
        """Notes an invocation; `end` it, or leave it unanswered."""
        operation = Operation(kind, block, value, time.monotonic(), client=client, fua=fua)
        self.operations.append(operation)
        return operation

    def end(self, operation, ok=True, value=None):
        operation.returned, operation.ok = time.monotonic(), ok
        if operation.kind == "r" and ok:
            operation.value = value

    def bound(self, client, moment):
        """From this moment on nothing of the client happens any more: what it has not been answered is over."""
        self._bounds[client] = min(moment, self._bounds.get(client, math.inf))

    def _bounded(self):
        """The operations without those that came after their client's end."""
        for operation in self.operations:
            moment = self._bounds.get(operation.client, math.inf)
            if operation.invoked > moment:
                if operation.ok:
                    raise Violation(f"the {operation} was answered after its client was cut off at {moment:.6f}")
                continue
            yield replace(operation, returned=min(operation.returned, moment))

    def check(self, initial=None):
        """Raises Violation unless every block is linearizable. `initial` are values of blocks from before."""
        blocks = {}
        for operation in self._bounded():
            if operation.kind != "f":
                blocks.setdefault(operation.block, []).append(operation)
        for block, operations in blocks.items():
            check_block(operations, (initial or {}).get(block, INITIAL))
        return len(self.operations)

    def check_durability(self, survivors, cut):
        """Raises Violation if a block holds, after a power cut at this moment, what a flush had put an end to.

        A flush covers the writes of its client that were answered before it was sent.
        """
        flushed = {}
        for operation in self.operations:
            if operation.kind == "f" and operation.ok and operation.returned < cut:
                flushed[operation.client] = max(flushed.get(operation.client, -math.inf), operation.invoked)
        blocks = {}
        for operation in self.operations:
            if operation.kind == "w" and operation.invoked < cut:
                blocks.setdefault(operation.block, []).append(operation)
        for block, value in survivors.items():
            writes = blocks.get(block, [])
            survivor = next((write for write in writes if write.value == value), None)
            if survivor is None and value != INITIAL:
                raise Violation(f"block {block} holds {value} after the power cut, which nobody wrote")
            durable = [write for write in writes if write.ok and (
                write.returned < flushed.get(write.client, -math.inf) or write.fua and write.returned < cut)]
            ended = -math.inf if survivor is None else survivor.returned if survivor.ok else math.inf
            newer = max(durable, key=lambda write: write.invoked, default=None)
            if newer is not None and ended < newer.invoked:
                raise Violation(f"block {block} holds {value} after the power cut; durable was the {newer}")


class _Cluster:
    """A write and the reads that saw it."""

    def __init__(self, write):
        self.write = write
        self.invoked = write.invoked
        self.first_return = write.returned
        self.last_invocation = write.invoked
        self.reads = 0

    def add(self, read):
        self.first_return = min(self.first_return, read.returned)
        self.last_invocation = max(self.last_invocation, read.invoked)
        self.reads += 1


def check_block(operations, initial=INITIAL):
    """Raises Violation unless these operations of one block are linearizable."""
    start = Operation("w", operations[0].block, initial, -math.inf, -math.inf, True, "nobody")
    clusters = {initial: _Cluster(start)}
    for operation in operations:
        if operation.kind == "w":
            if operation.value in clusters:
                raise ValueError(f"the value of the {operation} is not its own")
            clusters[operation.value] = _Cluster(operation)
    for operation in operations:
        if operation.kind != "r" or not operation.ok:
            continue
        cluster = clusters.get(operation.value)
        if cluster is None:
            what = "is torn" if operation.value == TORN else "has what nobody wrote"
            raise Violation(f"the {operation} {what}")
        if operation.returned < cluster.invoked:
            raise Violation(f"the {operation} has what was written later: the {cluster.write}")
        cluster.add(operation)

    holds, others = [], []
    for cluster in clusters.values():
        if cluster.reads == 0 and not cluster.write.ok:
            continue  # Nobody saw it: it may never have happened.
        (holds if cluster.first_return < cluster.last_invocation else others).append(cluster)
    holds.sort(key=lambda cluster: cluster.first_return)
    for one, other in itertools.pairwise(holds):
        if other.first_return < one.last_invocation:
            raise Violation(_explain(operations, one, other))
    starts = [cluster.first_return for cluster in holds]
    for cluster in others:
        at = bisect_right(starts, cluster.last_invocation) - 1
        # Strictly inside: where moments are equal, either order will do.
        if at >= 0 and starts[at] < cluster.last_invocation and cluster.first_return < holds[at].last_invocation:
            raise Violation(_explain(operations, holds[at], cluster))


def _explain(operations, one, other):
    """The two clusters, operation by operation."""
    values = {one.write.value, other.write.value}
    lines = sorted((operation for operation in operations if operation.value in values), key=lambda o: o.invoked)
    shown = lines if len(lines) <= 24 else [*lines[:12], *lines[-12:]]
    return f"no order explains block {one.write.block}:\n  " + "\n  ".join(map(str, shown))
