"""Reads the log of the `fault` driver (Sources/Drivers/Fault/README.md) and makes disks that a crash could leave."""
import struct

BEGIN, END, OPENED = 1, 2, 3
WRITE, ZEROES, DISCARD, FLUSH = 2, 3, 4, 5
FUA = 1
HEADER = struct.Struct("<4sBBBxQ16sQQIH10x")
BLOCK = 4096


class Request:
    """A request that reached the device: where its beginning and end stand in the log, counted in records."""

    def __init__(self, opcode, flags, offset, length, payload, begin):
        self.opcode, self.flags, self.offset, self.length, self.payload = opcode, flags, offset, length, payload
        self.begin, self.end = begin, None

    def ended_before(self, position):
        return self.end is not None and self.end < position


class RequestLog:
    """A log that is still being written; `read` takes in what is new."""

    def __init__(self, path):
        self.file = open(path, "rb", buffering=0)
        self.requests = []
        self.by_number = {}
        self.records = 0
        self.volumes = set()

    def close(self):
        self.file.close()

    def read(self):
        """Takes in all whole records; returns how many records there are."""
        while True:
            start = self.file.tell()
            header = self.file.read(HEADER.size)
            if len(header) < HEADER.size or header[:4] == b"\0\0\0\0":
                break
            magic, kind, opcode, flags, number, volume, offset, length, size, status = HEADER.unpack(header)
            assert magic == b"SLRQ", f"the log is damaged at byte {start}"
            payload = self.file.read(size)
            if len(payload) < size:
                break
            if kind == BEGIN:
                request = Request(opcode, flags, offset, length, payload, self.records)
                self.requests.append(request)
                self.by_number[number] = request
                self.volumes.add(volume)
            elif kind == END:
                request = self.by_number.pop(number)
                assert status == 0, f"a request of the workload failed with status {status}"
                request.end = self.records
            else:
                self.by_number.clear()
            self.records += 1
        self.file.seek(start)
        return self.records


class Disk:
    """What a device holds, as blocks; absent ones are zeroes."""

    def __init__(self, blocks=None):
        self.blocks = dict(blocks or {})

    def copy(self):
        return Disk(self.blocks)

    def apply(self, request, length=None):
        """Does a request, or only its first bytes."""
        length = request.length if length is None else length
        if request.opcode == WRITE:
            self._write(request.offset, request.payload[:length])
        elif request.opcode in (ZEROES, DISCARD):
            self._clear(request.offset, length)

    def _write(self, offset, data):
        at = 0
        while at < len(data):
            block, inside = divmod(offset + at, BLOCK)
            piece = data[at:at + BLOCK - inside]
            if len(piece) < BLOCK:
                old = self.blocks.get(block, bytes(BLOCK))
                piece = old[:inside] + piece + old[inside + len(piece):]
                at += BLOCK - inside
            else:
                at += BLOCK
            self.blocks[block] = piece

    def _clear(self, offset, length):
        end = offset + length
        first, last = -(-offset // BLOCK), end // BLOCK
        if first > last:
            self._write(offset, bytes(length))
            return
        self._write(offset, bytes(first * BLOCK - offset))
        self._write(last * BLOCK, bytes(end - last * BLOCK))
        if last - first > len(self.blocks):
            for block in [block for block in self.blocks if first <= block < last]:
                del self.blocks[block]
        else:
            for block in range(first, last):
                self.blocks.pop(block, None)

    def save(self, path, size):
        """Writes a sparse image."""
        with open(path, "wb") as image:
            image.truncate(size)
            for block in sorted(self.blocks):
                image.seek(block * BLOCK)
                image.write(self.blocks[block])


class Crash:
    """What a crash after so many records may leave: the base, all that is durable, and any part of the rest."""

    def __init__(self, requests, base, position):
        """`base` is how many records the disk has in it that the crash is played on."""
        changes = [r for r in requests if base <= r.begin < position and r.opcode != FLUSH]
        flushed = max((r.begin for r in requests if r.opcode == FLUSH and r.ended_before(position)), default=-1)
        self.durable = [r for r in changes if r.ended_before(flushed)
                        or (r.flags & FUA and r.ended_before(position))]
        safe = set(map(id, self.durable))
        self.unsafe = [r for r in changes if id(r) not in safe]

    def disk(self, base, kept=(), torn=(), without=None):
        """A disk with everything durable and those of the rest that are `kept`, in the order of the log.

        `torn` requests are cut in the middle; `without` leaves a durable one out, which no disk may do.
        """
        kept = set(map(id, kept))
        torn = set(map(id, torn))
        safe = set(map(id, self.durable))
        disk = base.copy()
        for request in sorted(self.durable + self.unsafe, key=lambda r: r.begin):
            if request is without or (id(request) not in safe and id(request) not in kept):
                continue
            disk.apply(request, request.length // 1024 * 512 if id(request) in torn else None)
        return disk
