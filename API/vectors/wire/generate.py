"""Writes frames.json. Run from the project's root: PYTHONPATH=Clients/python python3 API/vectors/wire/generate.py"""

import json
import pathlib

from sluice_client.frames import (
    BlockMap, Blocks, CopySource, Event, EventKind, Flags, Hello, HelloReply, Opcode, OpenRequest, RenewRequest, ReplyHeader,
    RequestHeader, ResourceState, Rights, Status,
)

ID_A = bytes(range(16))
ID_B = bytes(range(16, 32))
SECRET = bytes(range(64, 96))
# What the maps that are refused claim to cover.
COVERED = 65_536
MESSAGE = "the volume ends at 1073741824"


def plain(fields):
    return {k: v.hex() if isinstance(v, bytes) else str(int(v)) if isinstance(v, int) else v
            for k, v in fields.items() if k != "raw"}


def vectors(values):
    return [{"name": name, "hex": value.encode().hex(), "fields": plain(vars(value))} for name, value in values]


requests = [
    ("HELLO without a name", RequestHeader(length=98, opcode=Opcode.HELLO)),
    ("OPEN", RequestHeader(length=310, opcode=Opcode.OPEN, slot=0, sequence=1)),
    ("OPEN with the largest body", RequestHeader(length=8202, opcode=Opcode.OPEN, slot=0, sequence=2)),
    ("STAT", RequestHeader(opcode=Opcode.STAT, slot=1, sequence=1, handle=257)),
    ("RENEW", RequestHeader(length=302, opcode=Opcode.RENEW, slot=1, sequence=2, handle=257)),
    ("CLOSE", RequestHeader(opcode=Opcode.CLOSE, slot=1, sequence=3, handle=257)),
    ("PING", RequestHeader(opcode=Opcode.PING, slot=255, sequence=1)),
    ("READ one byte", RequestHeader(opcode=Opcode.READ, slot=2, sequence=7, handle=257, count=1, offset=0)),
    ("READ the most", RequestHeader(opcode=Opcode.READ, slot=2, sequence=8, handle=257, count=1 << 20,
                                    offset=0x0123456789ABCDEF)),
    ("WRITE", RequestHeader(length=4096, opcode=Opcode.WRITE, slot=3, sequence=0xFFFFFFFF, handle=257,
                            count=4096, offset=8192)),
    ("WRITE FUA after the sequence wrapped", RequestHeader(
        length=512, opcode=Opcode.WRITE, flags=Flags.FUA, slot=3, sequence=1, handle=257, count=512, offset=512)),
    ("WRITE_ZEROES of everything that fits", RequestHeader(
        opcode=Opcode.WRITE_ZEROES, flags=Flags.FUA | Flags.NO_UNMAP, slot=4, sequence=1, handle=257,
        count=0xFFFFFFFF, offset=0)),
    ("DISCARD up to the last offset", RequestHeader(
        opcode=Opcode.DISCARD, slot=4, sequence=2, handle=257, count=4095, offset=(1 << 64) - 4096)),
    ("FLUSH", RequestHeader(opcode=Opcode.FLUSH, slot=5, sequence=1, handle=257)),
    ("COMPARE_AND_WRITE of a block, FUA", RequestHeader(
        length=1024, opcode=Opcode.COMPARE_AND_WRITE, flags=Flags.FUA, slot=6, sequence=1, handle=257, count=512,
        offset=4096)),
    ("COMPARE_AND_WRITE of the most", RequestHeader(
        length=131_072, opcode=Opcode.COMPARE_AND_WRITE, slot=6, sequence=2, handle=257, count=65_536, offset=0)),
    ("COPY_RANGE of the most", RequestHeader(
        length=16, opcode=Opcode.COPY_RANGE, slot=7, sequence=1, handle=257, count=64 << 20, offset=1 << 30)),
    ("BLOCK_STATUS of all that fits", RequestHeader(
        opcode=Opcode.BLOCK_STATUS, slot=7, sequence=2, handle=257, count=0xFFFFFFFF, offset=0)),
    ("BLOCK_STATUS since a marker", RequestHeader(
        length=16, opcode=Opcode.BLOCK_STATUS, slot=7, sequence=3, handle=257, count=1 << 20, offset=1 << 30)),
]

replies = [
    ("HELLO", ReplyHeader(length=118, opcode=Opcode.HELLO)),
    ("OPEN gives handle 257", ReplyHeader(length=104, opcode=Opcode.OPEN, sequence=1, value=257)),
    ("READ", ReplyHeader(length=4096, slot=2, opcode=Opcode.READ, sequence=7, value=4096)),
    ("WRITE", ReplyHeader(slot=3, opcode=Opcode.WRITE, sequence=0xFFFFFFFF, value=4096)),
    ("FLUSH", ReplyHeader(slot=5, opcode=Opcode.FLUSH, sequence=1)),
    ("COMPARE_AND_WRITE that found something else at its sixth byte", ReplyHeader(
        status=Status.MISCOMPARE, slot=6, opcode=Opcode.COMPARE_AND_WRITE, sequence=1, value=5)),
    ("COPY_RANGE", ReplyHeader(slot=7, opcode=Opcode.COPY_RANGE, sequence=1, value=64 << 20)),
    ("BLOCK_STATUS in two extents", ReplyHeader(
        length=32, slot=7, opcode=Opcode.BLOCK_STATUS, sequence=2, value=1 << 30)),
    ("READ beyond the end, with a message", ReplyHeader(
        length=len(MESSAGE), status=Status.OUT_OF_RANGE, slot=2, opcode=Opcode.READ, sequence=8)),
    ("an unknown opcode is answered with its number", ReplyHeader(
        status=Status.UNKNOWN_OPCODE, slot=9, opcode=0x7777, sequence=3)),
    ("HELLO with no common version", ReplyHeader(
        status=Status.VERSION_MISMATCH, opcode=Opcode.HELLO, value=1, detail=1)),
]

events = [
    ("RESIZED", Event(EventKind.RESIZED, 1, 0, 2 << 30, 257)),
    ("REVOKED", Event(EventKind.REVOKED, 2, Status.REVOKED, 0, 257, "revoked by admin: laptop lost")),
    ("REVOKED by a newer epoch, without a reason", Event(EventKind.REVOKED, 3, Status.STALE_EPOCH, 0, 257)),
    ("EXPIRING", Event(EventKind.EXPIRING, 4, 0, 1_800_000_000, 257)),
    ("DRAINING", Event(EventKind.DRAINING, 5, 0, 30, 0, "192.0.2.7:7481")),
    ("DRIVER_RECOVERING begins", Event(EventKind.DRIVER_RECOVERING, 6, 0, 1, 257)),
    ("DRIVER_RECOVERING is over", Event(EventKind.DRIVER_RECOVERING, 7, 0, 0, 257)),
    ("DRIVER_RECOVERING in quarantine", Event(EventKind.DRIVER_RECOVERING, 8, Status.QUARANTINED, 1, 257,
                                              "8 processes were lost within 60 s")),
]

hello = [
    ("everything left to the server", Hello()),
    ("a new session", Hello(payload_max=1 << 20, slots=64, client_name="node-1 sluice/1.0",
                            instance=ID_B)),
    ("joining a session", Hello(1, 3, 131_072, 1, 32, ID_A, SECRET, "knoten-ü")),
    ("the longest name", Hello(client_name="n" * 128)),
    ("resuming channel 3", Hello(features=1, slots=64, session=ID_A, secret=SECRET, client_name="c", channel=3,
                                 flags=1)),
]
hello_reply = [
    ("a new session", HelloReply(1, 64, 1 << 20, 0, ID_A, SECRET, 0, 64, 64, 300, ID_B, "io-server-1")),
    ("a joined session", HelloReply(1, 32, 131_072, 0, ID_A, bytes(32), 3, 64, 64, 0, ID_B, "")),
    ("a resumed channel", HelloReply(1, 64, 1 << 20, 1, ID_A, bytes(32), 3, 64, 64, 300, ID_B, "io", 1, 120)),
    ("a resumed channel of a restarted server", HelloReply(
        1, 64, 1 << 20, 1, ID_A, bytes(32), 0, 64, 64, 300, ID_B, "io", 2, 120)),
    ("the least", HelloReply(1, 1, 16_384, 0, ID_A, SECRET, 0, 1, 1, 0, bytes(16), "x")),
]
opens = [
    ("all rights there are", OpenRequest(1, 0, bytes(range(256)) + b"capability")),
    ("read only", OpenRequest(1, Rights.READ, b"c")),
    ("read, write, discard and flush", OpenRequest(1, 15, b"c" * 8192)),
    ("taking over", OpenRequest(1, 15, b"c", 1)),
    ("a fileset", OpenRequest(2, Rights.READ | Rights.LIST, b"c")),
]
copies = [
    ("from the start", CopySource(257, 0)),
    ("from the last offset", CopySource(0xFFFFFFFF, (1 << 64) - 1)),
]
maps = [
    ("one extent", BlockMap([(1 << 30, Blocks.ALLOCATED)])),
    ("data, a hole, zeroes that have their space", BlockMap([
        (65_536, Blocks.ALLOCATED), (1 << 40, Blocks.ZERO), (4096, Blocks.ALLOCATED | Blocks.ZERO)])),
    ("nothing is known of it", BlockMap([(512, 0)])),
    ("what was changed since a marker", BlockMap([
        (65_536, Blocks.ALLOCATED | Blocks.CHANGED), (65_536, Blocks.ALLOCATED), (1 << 30, Blocks.ZERO | Blocks.CHANGED)])),
    ("as many as fit", BlockMap([(512, 1 + index % 2) for index in range(256)])),
]
renew = [("a capability", RenewRequest(b"capability")), ("the longest", RenewRequest(b"c" * 8192))]
state = [
    ("a volume", ResourceState(1 << 30, 4096, 1 << 20, 15, 1, 0, 0, 1 << 30, 1_800_000_000, ID_A, ID_B, 3, 0, 0,
                                 7)),
    ("read only, with limits and a range after the end", ResourceState(
        4096, 512, 512, 1, 1, 1, 2048, 1 << 40, 1, ID_A, ID_B, 0, 1000, 10 << 20)),
    ("the largest", ResourceState((1 << 63) - 4096, 65_536, 1 << 20, 1023, 3, 2, 0, (1 << 64) - 1,
                                  (1 << 64) - 1, ID_A, ID_B, (1 << 64) - 1, 1, 1, (1 << 64) - 1)),
]


def good(**fields):
    return RequestHeader(**{**dict(opcode=Opcode.READ, slot=0, sequence=1, handle=1, count=4096), **fields})


reject_headers = [
    ("payload longer than negotiated", "request", good(opcode=Opcode.WRITE, length=(1 << 20) + 1,
                                                      count=(1 << 20) + 1), "PROTOCOL_VIOLATION"),
    ("all ones", "request", RequestHeader(0xFFFFFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF,
                                          0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF), "PROTOCOL_VIOLATION"),
    ("HELLO a second time", "request", RequestHeader(length=98, opcode=Opcode.HELLO), "PROTOCOL_VIOLATION"),
    ("READ before HELLO", "greeting", good(), "PROTOCOL_VIOLATION"),
    ("all zero before HELLO", "greeting", RequestHeader(), "PROTOCOL_VIOLATION"),
    ("HELLO longer than allowed", "greeting", RequestHeader(length=513, opcode=Opcode.HELLO), "PROTOCOL_VIOLATION"),
    ("HELLO without a body", "greeting", RequestHeader(opcode=Opcode.HELLO), "BAD_LENGTH"),
    ("HELLO on a slot", "greeting", RequestHeader(length=98, opcode=Opcode.HELLO, slot=1), "BAD_FRAME"),
    ("HELLO with a sequence", "greeting", RequestHeader(length=98, opcode=Opcode.HELLO, sequence=1), "BAD_FRAME"),
    ("reserved field", "request", good(reserved=1), "BAD_FRAME"),
    ("unknown flag", "request", good(opcode=Opcode.WRITE, length=4096, flags=4), "BAD_FRAME"),
    ("FUA on READ", "request", good(flags=Flags.FUA), "BAD_FRAME"),
    ("NO_UNMAP on WRITE", "request", good(opcode=Opcode.WRITE, length=4096, flags=Flags.NO_UNMAP), "BAD_FRAME"),
    ("handle on PING", "request", RequestHeader(opcode=Opcode.PING, sequence=1, handle=1), "BAD_FRAME"),
    ("count on FLUSH", "request", good(opcode=Opcode.FLUSH), "BAD_FRAME"),
    ("offset on STAT", "request", RequestHeader(opcode=Opcode.STAT, sequence=1, handle=1, offset=512), "BAD_FRAME"),
    ("opcode 0", "request", good(opcode=0), "UNKNOWN_OPCODE"),
    ("opcode 7", "request", good(opcode=7), "UNKNOWN_OPCODE"),
    ("opcode 0x108", "request", good(opcode=0x108), "UNKNOWN_OPCODE"),
    ("COMPARE_AND_WRITE with the payload of a WRITE", "request",
     good(opcode=Opcode.COMPARE_AND_WRITE, length=4096), "BAD_LENGTH"),
    ("COMPARE_AND_WRITE of nothing", "request", good(opcode=Opcode.COMPARE_AND_WRITE, count=0), "BAD_LENGTH"),
    ("COMPARE_AND_WRITE of too much", "request",
     good(opcode=Opcode.COMPARE_AND_WRITE, count=66_048, length=132_096), "TOO_LARGE"),
    ("COMPARE_AND_WRITE whose payload wraps", "request",
     good(opcode=Opcode.COMPARE_AND_WRITE, count=1 << 31, length=0), "TOO_LARGE"),
    ("COPY_RANGE without a source", "request", good(opcode=Opcode.COPY_RANGE), "BAD_LENGTH"),
    ("COPY_RANGE with a shorter source", "request", good(opcode=Opcode.COPY_RANGE, length=15), "BAD_LENGTH"),
    ("COPY_RANGE with a longer source", "request", good(opcode=Opcode.COPY_RANGE, length=17), "BAD_LENGTH"),
    ("COPY_RANGE of too much", "request",
     good(opcode=Opcode.COPY_RANGE, length=16, count=(64 << 20) + 1), "TOO_LARGE"),
    ("COPY_RANGE with FUA", "request", good(opcode=Opcode.COPY_RANGE, length=16, flags=Flags.FUA), "BAD_FRAME"),
    ("BLOCK_STATUS of nothing", "request", good(opcode=Opcode.BLOCK_STATUS, count=0), "BAD_LENGTH"),
    ("BLOCK_STATUS with half a marker", "request", good(opcode=Opcode.BLOCK_STATUS, length=8), "BAD_LENGTH"),
    ("BLOCK_STATUS with more than a marker", "request", good(opcode=Opcode.BLOCK_STATUS, length=17), "BAD_LENGTH"),
    ("opcode 0xffff", "request", good(opcode=0xFFFF), "UNKNOWN_OPCODE"),
    ("READ of nothing", "request", good(count=0), "BAD_LENGTH"),
    ("WRITE of nothing", "request", good(opcode=Opcode.WRITE, count=0), "BAD_LENGTH"),
    ("DISCARD of nothing", "request", good(opcode=Opcode.DISCARD, count=0), "BAD_LENGTH"),
    ("READ with a payload", "request", good(length=4096), "BAD_LENGTH"),
    ("WRITE with less payload than count", "request", good(opcode=Opcode.WRITE, length=4095), "BAD_LENGTH"),
    ("WRITE without payload", "request", good(opcode=Opcode.WRITE), "BAD_LENGTH"),
    ("OPEN without a body", "request", RequestHeader(opcode=Opcode.OPEN, sequence=1), "BAD_LENGTH"),
    ("OPEN longer than any capability", "request", RequestHeader(length=8203, opcode=Opcode.OPEN, sequence=1),
     "TOO_LARGE"),
    ("RENEW longer than any capability", "request",
     RequestHeader(length=8195, opcode=Opcode.RENEW, sequence=1, handle=1), "TOO_LARGE"),
    ("READ larger than a payload", "request", good(count=(1 << 20) + 1), "TOO_LARGE"),
    ("offset and count overflow", "request", good(offset=(1 << 64) - 4096), "OUT_OF_RANGE"),
    ("the largest offset", "request", good(offset=(1 << 64) - 1, count=1), "OUT_OF_RANGE"),
]


def patched(value, position, data):
    encoded = bytearray(value.encode())
    encoded[position:position + len(data)] = data
    return bytes(encoded)


h, r, o, s = hello[1][1], hello_reply[0][1], opens[0][1], state[0][1]
reject_bodies = [
    ("hello", "empty", b"", "BAD_FRAME"),
    ("hello", "another magic", patched(h, 0, b"SLUICE/2"), "BAD_FRAME"),
    ("hello", "HTTP", b"GET / HTTP/1.1\r\nHost: sluice\r\n\r\n".ljust(120, b" "), "BAD_FRAME"),
    ("hello", "cut short", h.encode()[:97], "BAD_FRAME"),
    ("hello", "cut in the name", h.encode()[:-1], "BAD_FRAME"),
    ("hello", "a byte too many", h.encode() + b"x", "BAD_FRAME"),
    ("hello", "reserved bits", patched(h, 31, b"\1"), "BAD_FRAME"),
    ("hello", "unknown flag", patched(h, 28, b"\2"), "BAD_FRAME"),
    ("hello", "resumes without a session", Hello(features=1, flags=1).encode(), "BAD_REQUEST"),
    ("hello", "resumes without RESUME", Hello(session=ID_A, secret=SECRET, flags=1).encode(), "BAD_REQUEST"),
    ("hello", "a channel that it does not resume", Hello(features=1, session=ID_A, secret=SECRET, channel=1).encode(),
     "BAD_REQUEST"),
    ("hello", "versions reversed", Hello(version_min=2, version_max=1).encode(), "BAD_FRAME"),
    ("hello", "a later version only", Hello(version_min=2, version_max=9).encode(), "VERSION_MISMATCH"),
    ("hello", "name too long", Hello(client_name="n" * 129).encode(), "BAD_FRAME"),
    ("hello", "name is not UTF-8", patched(Hello(client_name="nn"), 98, b"\xc3\x28"), "BAD_FRAME"),
    ("hello", "name with an escape", Hello(client_name="\x1b[2J").encode(), "BAD_REQUEST"),
    ("hello", "secret without a session", Hello(secret=SECRET).encode(), "BAD_REQUEST"),
    ("helloReply", "another magic", patched(r, 0, b"SLUICE/2"), "BAD_FRAME"),
    ("helloReply", "no slots", HelloReply(slots=0, session=ID_A).encode(), "BAD_FRAME"),
    ("helloReply", "too many slots", HelloReply(slots=257, session=ID_A).encode(), "BAD_FRAME"),
    ("helloReply", "payload above the protocol's", HelloReply(payload_max=(1 << 20) + 1, session=ID_A).encode(),
     "BAD_FRAME"),
    ("helloReply", "payload below the protocol's", HelloReply(payload_max=16_383, session=ID_A).encode(), "BAD_FRAME"),
    ("helloReply", "no session", HelloReply().encode(), "BAD_FRAME"),
    ("helloReply", "version 2", HelloReply(version=2, session=ID_A).encode(), "VERSION_MISMATCH"),
    ("helloReply", "unknown resumption", patched(r, 78, b"\3"), "BAD_FRAME"),
    ("helloReply", "cut short", r.encode()[:-1], "BAD_FRAME"),
    ("open", "empty", b"", "BAD_FRAME"),
    ("open", "cut short", o.encode()[:-1], "BAD_FRAME"),
    ("open", "a byte too many", o.encode() + b"x", "BAD_FRAME"),
    ("open", "reserved bits", patched(o, 2, b"\1"), "BAD_FRAME"),
    ("open", "unknown flag", patched(o, 1, b"\2"), "BAD_FRAME"),
    ("open", "kind 0", OpenRequest(0, 0, b"c").encode(), "BAD_REQUEST"),
    ("open", "kind 4", OpenRequest(4, 0, b"c").encode(), "BAD_REQUEST"),
    ("open", "unknown right", OpenRequest(1, 1 << 10, b"c").encode(), "BAD_REQUEST"),
    ("open", "no capability", OpenRequest(1, 0, b"").encode(), "BAD_REQUEST"),
    ("open", "capability too long", OpenRequest(1, 0, b"c" * 8193).encode(), "BAD_FRAME"),
    ("renew", "no capability", RenewRequest(b"").encode(), "BAD_REQUEST"),
    ("renew", "cut short", RenewRequest(b"capability").encode()[:-1], "BAD_FRAME"),
    ("copySource", "empty", b"", "BAD_FRAME"),
    ("copySource", "cut short", CopySource(1, 0).encode()[:-1], "BAD_FRAME"),
    ("copySource", "a byte too many", CopySource(1, 0).encode() + b"x", "BAD_FRAME"),
    ("copySource", "reserved bits", patched(CopySource(1, 0), 4, b"\1"), "BAD_FRAME"),
    ("blockMap", "empty", b"", "BAD_FRAME"),
    ("blockMap", "cut short", BlockMap([(COVERED, 1)]).encode()[:-1], "BAD_FRAME"),
    ("blockMap", "an extent of nothing", BlockMap([(COVERED, 1), (0, 2)]).encode(), "BAD_FRAME"),
    ("blockMap", "less than it says", BlockMap([(COVERED - 512, 1)]).encode(), "BAD_FRAME"),
    ("blockMap", "more than it says", BlockMap([(COVERED, 1), (512, 2)]).encode(), "BAD_FRAME"),
    ("blockMap", "more than 64 bits", BlockMap([((1 << 64) - 512, 1), (COVERED + 512, 1)]).encode(), "BAD_FRAME"),
    ("blockMap", "unknown flag", BlockMap([(COVERED, 8)]).encode(), "BAD_FRAME"),
    ("blockMap", "reserved bits", patched(BlockMap([(COVERED, 1)]), 12, b"\1"), "BAD_FRAME"),
    ("blockMap", "more extents than fit", BlockMap([(512, 1)] * 257).encode(), "BAD_FRAME"),
    ("resourceState", "cut short", s.encode()[:-1], "BAD_FRAME"),
    ("resourceState", "reserved bits", patched(s, 22, b"\1"), "BAD_FRAME"),
    ("resourceState", "block size 3", patched(s, 8, b"\3\0\0\0"), "BAD_FRAME"),
    ("resourceState", "block size 0", patched(s, 8, b"\0\0\0\0"), "BAD_FRAME"),
    ("resourceState", "transfer below a block", patched(s, 12, b"\1\0\0\0"), "BAD_FRAME"),
    ("resourceState", "size that no offset reaches", patched(s, 0, b"\xff" * 8), "BAD_FRAME"),
    ("resourceState", "access mode 3", patched(s, 21, b"\3"), "BAD_FRAME"),
    ("resourceState", "kind 9", patched(s, 20, b"\x09"), "BAD_FRAME"),
    ("resourceState", "range that overflows", patched(s, 24, b"\xff" * 16), "BAD_FRAME"),
]

document = {
    "requests": vectors(requests),
    "replies": vectors(replies),
    "events": vectors(events),
    "hello": vectors(hello),
    "helloReply": vectors(hello_reply),
    "open": vectors(opens),
    "renew": vectors(renew),
    "copySource": vectors(copies),
    "blockMap": [{"name": name, "hex": value.encode().hex(), "fields": {
        "covered": str(value.covered),
        "extents": " ".join(f"{length}:{int(flags)}" for length, flags in value.extents)}}
                 for name, value in maps],
    "resourceState": vectors(state),
    "rejects": [{"name": n, "where": w, "hex": f.encode().hex(), "status": c} for n, w, f, c in reject_headers]
    + [{"name": n, "where": w, "hex": d.hex(), "status": c} for w, n, d, c in reject_bodies],
}
target = pathlib.Path(__file__).resolve().parent / "frames.json"
target.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
