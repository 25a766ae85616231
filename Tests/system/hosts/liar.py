#!/usr/bin/env python3
"""A driver host that lies: a second, independent implementation of the host's side, one process of which breaks the
rules in the way that the pool's setting `lie` names: the first, or for `form-again` the second. All others are honest.

Volumes are files in the pool's folder. `sluiced` starts it in place of `sluice-driver`.
"""
import array
import mmap
import os
import random
import socket
import struct
import sys
import threading
import time

CONTROL, LIFELINE = 3, 4
STORED, START, ADD_QUEUE, CAPACITY, CONFIGURE, PERFORM = range(1, 7)
# What is asked of a driver of volumes, within PERFORM.
CREATE, RESIZE, DELETE, VOLUMES, USAGE, PREPARE, OPEN, CLOSE = range(1, 9)
NOTHING, STARTED, PART, SPACE, FAILED, KEEP, FORGET, HELLO = range(1, 9)
VERSION = 3
READ, WRITE, ZEROES, DISCARD, FLUSH = range(1, 6)
RINGS = 256
REQUEST, COMPLETION = 64, 32


class Ring:
    """One ring of a lane: counts of taken and put entries, then the entries."""

    def __init__(self, memory, offset, capacity, entry):
        self.memory, self.offset, self.capacity, self.entry = memory, offset, capacity, entry
        self.own = 0

    def other(self, at):
        return struct.unpack_from("<I", self.memory, self.offset + at)[0]

    def pop(self):
        if self.other(64) == self.own:
            return None
        start = self.offset + 128 + self.own % self.capacity * self.entry
        entry = bytes(self.memory[start:start + self.entry])
        self.own = (self.own + 1) & 0xFFFFFFFF
        struct.pack_into("<I", self.memory, self.offset, self.own)
        return entry

    def push(self, entry):
        start = self.offset + 128 + self.own % self.capacity * self.entry
        self.memory[start:start + self.entry] = entry
        self.own = (self.own + 1) & 0xFFFFFFFF
        struct.pack_into("<I", self.memory, self.offset + 64, self.own)


class Queue(threading.Thread):
    """Serves one lane, polling: it is no example of speed."""

    def __init__(self, host, arena_bytes, capacity, descriptors):
        super().__init__(daemon=True)
        self.host = host
        self.arena = mmap.mmap(descriptors[0], arena_bytes)
        submissions = (128 + capacity * REQUEST + 63) & ~63
        size = RINGS + submissions + 128 + capacity * COMPLETION
        self.lane = mmap.mmap(descriptors[1], (size + 4095) & ~4095)
        self.bell = descriptors[3]
        self.requests = Ring(self.lane, RINGS, capacity, REQUEST)
        self.completions = Ring(self.lane, RINGS + submissions, capacity, COMPLETION)
        self.served = 0
        self.last = None

    def run(self):
        while True:
            self.lane[192:200] = self.lane[128:136]
            request = self.requests.pop()
            if request is None:
                time.sleep(0.0005)
                continue
            self.served += 1
            self.serve(request)

    def complete(self, tag, status=0, value=0):
        self.completions.push(struct.pack("<QHHIQQ", tag, status, 0, 0, value, 0))
        self.ring()

    def ring(self):
        os.eventfd_write(self.bell, 1)

    def serve(self, request):
        opcode, _, _, volume, tag, offset, length, buffer = struct.unpack_from("<BBHIQQQQ", request)
        lies, self.host.lies = self.host.lies and self.served > 20, self.host.lies and self.served <= 20
        if lies and self.host.lie != "twice":
            self.lie(tag, length)
        file = self.host.open[volume]
        if opcode == READ:
            self.arena[buffer:buffer + length] = os.pread(file, length, offset)
        elif opcode == WRITE:
            os.pwrite(file, self.arena[buffer:buffer + length], offset)
        elif opcode in (ZEROES, DISCARD):
            os.pwrite(file, bytes(length), offset)
        self.last = tag
        self.complete(tag, 0, request_length(opcode, length))
        if lies and self.host.lie == "twice":
            self.complete(tag, 0, request_length(opcode, length))

    def lie(self, tag, length):
        generator = random.Random(os.getpid())
        kind = self.host.lie
        if kind == "invented":
            self.complete(tag ^ 0x5555_0000_1111)
        elif kind == "duplicate":
            self.complete(self.last)
        elif kind == "status":
            self.complete(tag, 0xBEEF, 0)
        elif kind == "length":
            self.complete(tag, 0, length + 4096)
        elif kind == "count":
            struct.pack_into("<I", self.lane, self.completions.offset + 64, self.completions.own + 100_000)
            self.ring()
        elif kind == "taken":
            struct.pack_into("<I", self.lane, self.requests.offset, self.requests.own + 77_777)
            self.ring()
        elif kind == "garbage":
            while True:
                start = generator.randrange(0, len(self.lane) - 4096)
                self.lane[start:start + 4096] = generator.randbytes(4096)
                self.ring()
        elif kind == "control":
            self.host.control.send(generator.randbytes(200))
        elif kind == "unasked":
            self.host.control.send(struct.pack("<BQ", NOTHING, 123456))
        elif kind == "descriptors":
            pipes = [end for _ in range(4) for end in os.pipe()]
            socket.send_fds(self.host.control, [struct.pack("<BQ", NOTHING, 1)], pipes[:4])
        elif kind == "closed":
            self.host.control.shutdown(socket.SHUT_RDWR)
        elif kind == "lifeline":
            # What comes behind a packet that is none is never taken, and holds the end of the lifeline.
            self.host.control.send(b"x")
            socket.send_fds(self.host.control, [struct.pack("<BQH1s", KEEP, 0, 1, b"l")], [LIFELINE])
        elif kind == "pipe":
            socket.send_fds(self.host.control, [struct.pack("<BQH1s", KEEP, 0, 1, b"l")], [LIFELINE])
        elif kind == "rings":
            while True:
                self.ring()
        elif kind == "silent":
            time.sleep(3600)
        else:
            raise SystemExit(f"unknown lie {kind}")
        time.sleep(3600)


def request_length(opcode, length):
    return 0 if opcode == FLUSH else length


class Host:
    def __init__(self):
        self.control = socket.socket(fileno=CONTROL)
        self.open, self.lies, self.lie, self.folder = {}, False, "", ""
        self.position = 0

    def text(self):
        count, = struct.unpack_from("<H", self.packet, self.position)
        start = self.position + 2
        self.position = start + count
        return self.packet[start:self.position].decode()

    def fields(self, form):
        values = struct.unpack_from("<" + form, self.packet, self.position)
        self.position += struct.calcsize("<" + form)
        return values

    def path(self, volume):
        return os.path.join(self.folder, volume.hex())

    def run(self):
        self.control.send(struct.pack("<BQI", HELLO, 0, VERSION))
        while True:
            self.packet, descriptors, _, _ = socket.recv_fds(self.control, 60000, 4)
            if not self.packet:
                return
            self.position = 0
            kind, call = self.fields("BQ")
            answer = self.perform(kind, list(array.array("i", descriptors)))
            if answer is not None:
                self.control.send(struct.pack("<BQ", answer[0], call) + answer[1])

    def perform(self, kind, descriptors):
        if kind == STORED:
            return None
        if kind == START:
            return self.start()
        if kind == ADD_QUEUE:
            _, arena_bytes, capacity = self.fields("IQI")
            Queue(self, arena_bytes, capacity, descriptors).start()
        elif kind == CAPACITY:
            return SPACE, struct.pack("<QQQ", 1 << 30, 0, 1 << 30)
        elif kind == PERFORM:
            self.fields("H")
            answer = self.perform_on_volumes(*self.fields("B"))
            return PART, struct.pack("<BH", 1, len(answer)) + answer
        return NOTHING, b""

    def perform_on_volumes(self, kind):
        if kind in (CREATE, RESIZE):
            volume, size = self.fields("16sQ")
            with open(self.path(volume), "ab") as file:
                file.truncate(size)
        elif kind == DELETE:
            volume, = self.fields("16s")
            if os.path.exists(self.path(volume)):
                os.unlink(self.path(volume))
        elif kind == PREPARE:
            return struct.pack("<Q", 0)
        elif kind in (VOLUMES, USAGE):
            names = [name for name in os.listdir(self.folder) if len(name) == 32]
            return b"".join(
                bytes.fromhex(name) + struct.pack("<Q", os.stat(os.path.join(self.folder, name)).st_size)
                for name in names)
        elif kind == OPEN:
            volume, index = self.fields("16sI")
            if self.lies and self.lie in ("form", "form-again"):
                self.lies = False
                return bytes(15)
            self.open[index] = os.open(self.path(volume), os.O_RDWR)
            size = os.fstat(self.open[index]).st_size
            return struct.pack("<QII", size, 512, 1 << 20)
        elif kind == CLOSE:
            index, = self.fields("I")
            self.open.pop(index, None)
        return b""

    def start(self):
        self.text()
        self.folder = self.text()
        self.fields("II")
        count, = self.fields("H")
        settings = dict((self.text(), self.text()) for _ in range(count))
        self.lie = settings.get("lie")
        marker = os.path.join(self.folder, "lied")
        with open(marker, "a+") as hosts:
            # The second process opens what the first one had open.
            self.lies = self.lie is not None and hosts.tell() == (1 if self.lie == "form-again" else 0)
            hosts.write("1")
        return STARTED, struct.pack("<HH", 0, 0)


if __name__ == "__main__":
    sys.exit(Host().run())
