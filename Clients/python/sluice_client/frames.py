"""Frames and bodies of the data channel as values: bytes in, bytes out, no sockets.

Field by field as in API/data-channel.md. `decode` of a body raises FrameError for whatever a receiver must refuse.
"""

from __future__ import annotations

import enum
import struct
import unicodedata
from dataclasses import dataclass, field

HEADER_BYTES = 32
PAYLOAD_MIN = 16_384
PAYLOAD_MAX = 1 << 20
HELLO_MAX = 512
NAME_MAX = 128
CAPABILITY_MAX = 8192
MESSAGE_MAX = 512
EVENT_MAX = 512
SLOTS_MAX = 256
VOLUME_MAX = (1 << 63) - 4096
COMPARE_MAX = 64 << 10
COPY_MAX = 64 << 20
BLOCK_STATUS_MAX = 4096
MAGIC = b"SLUICE/1"
VERSION = 1
FEATURE_RESUME = 1
HELLO_RESUMES = 1
OPEN_TAKES_OVER = 1
EVENT_FLAG = 0x8000
EVENT_SLOT = 0xFFFF
ZERO_ID = bytes(16)
ZERO_SECRET = bytes(32)

_REQUEST = struct.Struct("<IHHHHIIIQ")
_REPLY = struct.Struct("<IHHHHIQQ")
_HELLO = struct.Struct("<8sHHIQHHHH16s32s16s")
_HELLO_REPLY = struct.Struct("<8sHHIQ16s32sHHHHII16s")
_OPEN = struct.Struct("<BBHI")
_COPY = struct.Struct("<IIQ")
_EXTENT = struct.Struct("<QII")
_STATE = struct.Struct("<QIIIBBHQQQ16s16sQQQQ")


class Opcode(enum.IntEnum):
    HELLO = 1
    OPEN = 2
    STAT = 3
    RENEW = 4
    CLOSE = 5
    PING = 6
    READ = 0x100
    WRITE = 0x101
    WRITE_ZEROES = 0x102
    DISCARD = 0x103
    FLUSH = 0x104
    COMPARE_AND_WRITE = 0x105
    COPY_RANGE = 0x106
    BLOCK_STATUS = 0x107


class Flags(enum.IntFlag):
    NONE = 0
    FUA = 1
    NO_UNMAP = 2


class Blocks(enum.IntFlag):
    NONE = 0
    ALLOCATED = 1
    ZERO = 2
    CHANGED = 4


class Rights(enum.IntFlag):
    NONE = 0
    READ = 1 << 0
    WRITE = 1 << 1
    DISCARD = 1 << 2
    FLUSH = 1 << 3
    RESIZE = 1 << 4
    SNAPSHOT = 1 << 5
    LIST = 1 << 6
    CREATE = 1 << 7
    CONNECT = 1 << 8
    LISTEN = 1 << 9


ALL_RIGHTS = (1 << 10) - 1


class EventKind(enum.IntEnum):
    RESIZED = 1
    REVOKED = 2
    EXPIRING = 3
    DRAINING = 4
    DRIVER_RECOVERING = 5


class Status(enum.IntEnum):
    OK = 0
    BAD_REQUEST = 1
    UNKNOWN_OPCODE = 2
    BAD_FRAME = 3
    BAD_LENGTH = 4
    OUT_OF_RANGE = 5
    UNALIGNED = 6
    BAD_SLOT = 7
    BAD_SEQUENCE = 8
    BAD_HANDLE = 9
    NOT_FOUND = 10
    VERSION_MISMATCH = 11
    TOO_LARGE = 12
    NOT_SUPPORTED = 13
    ALREADY_EXISTS = 14
    PROTOCOL_VIOLATION = 15
    MISCOMPARE = 16
    DENIED = 32
    BAD_CAPABILITY = 33
    EXPIRED = 34
    NOT_YET_VALID = 35
    REVOKED = 36
    WRONG_HOLDER = 37
    WRONG_AUDIENCE = 38
    STALE_EPOCH = 39
    READ_ONLY = 40
    FENCED = 41
    BUSY = 64
    WRITER_CONFLICT = 65
    TOO_MANY_CHANNELS = 66
    TOO_MANY_HANDLES = 67
    DRAINING = 68
    DRIVER_RECOVERING = 69
    TIMED_OUT = 70
    NO_SPACE_YET = 71
    IO_ERROR = 96
    NO_SPACE = 97
    MEDIUM_ERROR = 98
    DRIVER_FAILED = 99
    QUARANTINED = 100
    OUTCOME_UNKNOWN = 101
    INTERNAL_ERROR = 128


@dataclass(frozen=True)
class Rule:
    """What an opcode's header and payload may hold (the table in section 2)."""

    payload: str = "none"  # none, covered, twice, body: at most body_max bytes, structure: exactly, optional: exactly or nothing
    covers: str = "nothing"  # nothing, transfer, range
    flags: int = 0
    body_max: int = 0
    count_max: int = 0xFFFFFFFF
    uses_handle: bool = True


RULES = {
    Opcode.HELLO: Rule(payload="body", body_max=HELLO_MAX, uses_handle=False),
    Opcode.OPEN: Rule(payload="body", body_max=10 + CAPABILITY_MAX, uses_handle=False),
    Opcode.STAT: Rule(),
    Opcode.RENEW: Rule(payload="body", body_max=2 + CAPABILITY_MAX),
    Opcode.CLOSE: Rule(),
    Opcode.PING: Rule(uses_handle=False),
    Opcode.READ: Rule(covers="transfer"),
    Opcode.WRITE: Rule(payload="covered", covers="transfer", flags=Flags.FUA),
    Opcode.WRITE_ZEROES: Rule(covers="range", flags=Flags.FUA | Flags.NO_UNMAP),
    Opcode.DISCARD: Rule(covers="range"),
    Opcode.FLUSH: Rule(),
    Opcode.COMPARE_AND_WRITE: Rule(payload="twice", covers="range", flags=Flags.FUA, count_max=COMPARE_MAX),
    Opcode.COPY_RANGE: Rule(payload="structure", body_max=_COPY.size, covers="range", count_max=COPY_MAX),
    Opcode.BLOCK_STATUS: Rule(payload="optional", body_max=len(ZERO_ID), covers="range"),
}


class FrameError(Exception):
    """Bytes that a receiver refuses; `status` is the code for it."""

    def __init__(self, status: Status, message: str):
        super().__init__(f"{status.name}: {message}")
        self.status = status


@dataclass
class RequestHeader:
    length: int = 0
    opcode: int = 0
    flags: int = 0
    slot: int = 0
    reserved: int = 0
    sequence: int = 0
    handle: int = 0
    count: int = 0
    offset: int = 0

    def encode(self) -> bytes:
        return _REQUEST.pack(
            self.length, self.opcode, self.flags, self.slot, self.reserved,
            self.sequence, self.handle, self.count, self.offset,
        )

    @classmethod
    def decode(cls, data: bytes) -> "RequestHeader":
        return cls(*_REQUEST.unpack_from(data))

    def validate(self, payload_max: int, greeting: bool = False) -> Status:
        """The checks that need no handle and no slot, in the order of the document."""
        if self.length > payload_max or (self.opcode == Opcode.HELLO) != greeting:
            return Status.PROTOCOL_VIOLATION
        if self.reserved:
            return Status.BAD_FRAME
        if self.opcode not in RULES:
            return Status.UNKNOWN_OPCODE
        rule = RULES[Opcode(self.opcode)]
        if self.flags & ~int(rule.flags) or (not rule.uses_handle and self.handle):
            return Status.BAD_FRAME
        if rule.covers == "nothing" and (self.count or self.offset):
            return Status.BAD_FRAME
        if rule.covers != "nothing" and not self.count:
            return Status.BAD_LENGTH
        if rule.covers == "transfer" and self.count > payload_max:
            return Status.TOO_LARGE
        if rule.covers == "range" and self.count > rule.count_max:
            return Status.TOO_LARGE
        right_length = {
            "none": self.length == 0,
            "covered": self.length == self.count,
            "twice": self.length == 2 * self.count,
            "body": self.length > 0,
            "structure": self.length == rule.body_max,
            "optional": self.length in (0, rule.body_max),
        }[rule.payload]
        if not right_length:
            return Status.BAD_LENGTH
        if rule.payload == "body" and self.length > rule.body_max:
            return Status.TOO_LARGE
        if self.offset + self.count >= 1 << 64:
            return Status.OUT_OF_RANGE
        if greeting and (self.slot or self.sequence):
            return Status.BAD_FRAME
        return Status.OK


@dataclass
class ReplyHeader:
    length: int = 0
    status: int = 0
    flags: int = 0
    slot: int = 0
    opcode: int = 0
    sequence: int = 0
    value: int = 0
    detail: int = 0

    def encode(self) -> bytes:
        return _REPLY.pack(
            self.length, self.status, self.flags, self.slot,
            self.opcode, self.sequence, self.value, self.detail,
        )

    @classmethod
    def decode(cls, data: bytes) -> "ReplyHeader":
        return cls(*_REPLY.unpack_from(data))

    @property
    def is_event(self) -> bool:
        return self.flags == EVENT_FLAG


def next_sequence(sequence: int) -> int:
    """The sequence after this one on the same slot: 0 is left out."""
    return 1 if sequence == 0xFFFFFFFF else sequence + 1


def _counted(data: bytes, start: int, maximum: int, what: str) -> bytes:
    """The 16-bit length and bytes at `start`, which end the body."""
    if len(data) < start + 2:
        raise FrameError(Status.BAD_FRAME, f"{what} is shorter than its fields")
    (count,) = struct.unpack_from("<H", data, start)
    if count > maximum or len(data) != start + 2 + count:
        raise FrameError(Status.BAD_FRAME, f"{what} is not as long as its last field says")
    return data[start + 2 :]


def _name(data: bytes, start: int, what: str) -> str:
    try:
        text = _counted(data, start, NAME_MAX, what).decode("utf-8")
    except UnicodeDecodeError as error:
        raise FrameError(Status.BAD_FRAME, f"{what}: the name is not UTF-8") from error
    if any(unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") and c not in "\u200c\u200d" for c in text):
        raise FrameError(Status.BAD_REQUEST, f"{what}: the name holds a control or format character")
    return text


def _text(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<H", len(data)) + data


@dataclass
class Hello:
    version_min: int = VERSION
    version_max: int = VERSION
    payload_max: int = 0
    features: int = 0
    slots: int = 0
    session: bytes = ZERO_ID
    secret: bytes = ZERO_SECRET
    client_name: str = ""
    channel: int = 0
    flags: int = 0
    instance: bytes = ZERO_ID

    def encode(self) -> bytes:
        return _HELLO.pack(
            MAGIC, self.version_min, self.version_max, self.payload_max,
            self.features, self.slots, self.channel, self.flags, 0, self.session, self.secret,
            self.instance,
        ) + _text(self.client_name)

    @classmethod
    def decode(cls, data: bytes) -> "Hello":
        if data[:8] != MAGIC or len(data) < _HELLO.size:
            raise FrameError(Status.BAD_FRAME, "HELLO has another magic or is too short")
        (_, low, high, payload, features, slots, channel, flags, reserved, session,
         secret, instance) = _HELLO.unpack_from(data)
        if low > high or reserved or flags & ~HELLO_RESUMES:
            raise FrameError(Status.BAD_FRAME, "HELLO has reserved bits set or its versions reversed")
        if not low <= VERSION <= high:
            raise FrameError(Status.VERSION_MISMATCH, "HELLO does not offer version 1")
        name = _name(data, _HELLO.size, "HELLO")
        if session == ZERO_ID and secret != ZERO_SECRET:
            raise FrameError(Status.BAD_REQUEST, "HELLO has a secret and no session")
        if flags & HELLO_RESUMES:
            if session == ZERO_ID or not features & FEATURE_RESUME:
                raise FrameError(Status.BAD_REQUEST, "HELLO resumes a channel without session or RESUME")
        elif channel:
            raise FrameError(Status.BAD_REQUEST, "HELLO names a channel that it does not resume")
        return cls(low, high, payload, features, slots, session, secret, name, channel, flags,
                   instance)


@dataclass
class HelloReply:
    version: int = VERSION
    slots: int = 1
    payload_max: int = PAYLOAD_MAX
    features: int = 0
    session: bytes = ZERO_ID
    secret: bytes = ZERO_SECRET
    channel: int = 0
    channels_max: int = 64
    handles_max: int = 64
    idle_seconds: int = 0
    cluster: bytes = ZERO_ID
    server_name: str = ""
    resumption: int = 0
    linger_seconds: int = 0

    def encode(self) -> bytes:
        return _HELLO_REPLY.pack(
            MAGIC, self.version, self.slots, self.payload_max, self.features, self.session,
            self.secret, self.channel, self.channels_max, self.handles_max, self.resumption,
            self.idle_seconds, self.linger_seconds, self.cluster,
        ) + _text(self.server_name)

    @classmethod
    def decode(cls, data: bytes) -> "HelloReply":
        if data[:8] != MAGIC or len(data) < _HELLO_REPLY.size:
            raise FrameError(Status.BAD_FRAME, "the reply to HELLO has another magic or is too short")
        (_, version, slots, payload, features, session, secret, channel, channels,
         handles, resumption, idle, linger, cluster) = _HELLO_REPLY.unpack_from(data)
        try:
            name = _name(data, _HELLO_REPLY.size, "the reply to HELLO")
        except FrameError as error:
            raise FrameError(Status.BAD_FRAME, str(error)) from error
        if resumption > 2:
            raise FrameError(Status.BAD_FRAME, "the reply to HELLO has an unknown resumption")
        if version != VERSION:
            raise FrameError(Status.VERSION_MISMATCH, f"the server chose version {version}")
        if (not 1 <= slots <= SLOTS_MAX or not PAYLOAD_MIN <= payload <= PAYLOAD_MAX
                or session == ZERO_ID):
            raise FrameError(Status.BAD_FRAME, "the reply to HELLO grants impossible sizes")
        return cls(version, slots, payload, features, session, secret, channel, channels,
                   handles, idle, cluster, name, resumption, linger)


@dataclass
class OpenRequest:
    kind: int = 1
    rights: int = 0
    capability: bytes = b""
    flags: int = 0

    def encode(self) -> bytes:
        return (_OPEN.pack(self.kind, self.flags, 0, self.rights)
                + struct.pack("<H", len(self.capability)) + self.capability)

    @classmethod
    def decode(cls, data: bytes) -> "OpenRequest":
        if len(data) < _OPEN.size:
            raise FrameError(Status.BAD_FRAME, "OPEN is shorter than its fields")
        kind, flags, reserved, rights = _OPEN.unpack_from(data)
        capability = _counted(data, _OPEN.size, CAPABILITY_MAX, "OPEN")
        if reserved or flags > OPEN_TAKES_OVER:
            raise FrameError(Status.BAD_FRAME, "OPEN has reserved bits set")
        if not 1 <= kind <= 3 or rights & ~ALL_RIGHTS or not capability:
            raise FrameError(Status.BAD_REQUEST, "OPEN has an unknown kind or right, or no capability")
        return cls(kind, rights, capability, flags)


@dataclass
class RenewRequest:
    capability: bytes = b""

    def encode(self) -> bytes:
        return struct.pack("<H", len(self.capability)) + self.capability

    @classmethod
    def decode(cls, data: bytes) -> "RenewRequest":
        capability = _counted(data, 0, CAPABILITY_MAX, "RENEW")
        if not capability:
            raise FrameError(Status.BAD_REQUEST, "RENEW has no capability")
        return cls(capability)


@dataclass
class CopySource:
    """The payload of COPY_RANGE: where the bytes come from."""

    handle: int = 0
    offset: int = 0

    def encode(self) -> bytes:
        return _COPY.pack(self.handle, 0, self.offset)

    @classmethod
    def decode(cls, data: bytes) -> "CopySource":
        if len(data) != _COPY.size:
            raise FrameError(Status.BAD_FRAME, "COPY_RANGE is shorter or longer than its fields")
        handle, reserved, offset = _COPY.unpack(data)
        if reserved:
            raise FrameError(Status.BAD_FRAME, "COPY_RANGE has reserved bits set")
        return cls(handle, offset)


@dataclass
class BlockMap:
    """The payload of a reply to BLOCK_STATUS: (length, flags) of extents that follow one another."""

    extents: list[tuple[int, int]] = field(default_factory=list)

    @property
    def covered(self) -> int:
        return sum(length for length, _ in self.extents)

    def encode(self) -> bytes:
        return b"".join(_EXTENT.pack(length, flags, 0) for length, flags in self.extents)

    @classmethod
    def decode(cls, data: bytes, covered: int) -> "BlockMap":
        if not data or len(data) % _EXTENT.size or len(data) > BLOCK_STATUS_MAX:
            raise FrameError(Status.BAD_FRAME, "the reply to BLOCK_STATUS holds no whole extents")
        extents = []
        for length, flags, reserved in _EXTENT.iter_unpack(data):
            if reserved or flags & ~int(Blocks.ALLOCATED | Blocks.ZERO | Blocks.CHANGED) or not length:
                raise FrameError(Status.BAD_FRAME, "the reply to BLOCK_STATUS has an impossible extent")
            extents.append((length, flags))
        if sum(length for length, _ in extents) != covered:
            raise FrameError(Status.BAD_FRAME, "the reply to BLOCK_STATUS does not cover what it says")
        return cls(extents)


@dataclass
class ResourceState:
    size: int = 0
    block_size: int = 512
    transfer_max: int = PAYLOAD_MAX
    rights: int = 0
    kind: int = 1
    access_mode: int = 0
    range_offset: int = 0
    range_length: int = 0
    expiry: int = 0
    resource: bytes = ZERO_ID
    capability: bytes = ZERO_ID
    epoch: int = 0
    iops: int = 0
    bytes_per_second: int = 0
    writer_generation: int = 0

    def encode(self) -> bytes:
        return _STATE.pack(
            self.size, self.block_size, self.transfer_max, self.rights, self.kind, self.access_mode, 0,
            self.range_offset, self.range_length, self.expiry, self.resource, self.capability,
            self.epoch, self.iops, self.bytes_per_second, self.writer_generation,
        )

    @classmethod
    def decode(cls, data: bytes) -> "ResourceState":
        if len(data) != _STATE.size:
            raise FrameError(Status.BAD_FRAME, "the resource state is not 112 bytes long")
        (size, block, transfer, rights, kind, mode, reserved, start, length,
         expiry, resource, capability, epoch, iops, bandwidth, generation) = _STATE.unpack(data)
        if (reserved or size > VOLUME_MAX or not 1 <= kind <= 3 or mode > 2 or start + length >= 1 << 64
                or not 1 <= block <= 65_536 or block & (block - 1) or not block <= transfer <= PAYLOAD_MAX):
            raise FrameError(Status.BAD_FRAME, "the resource state holds impossible values")
        return cls(size, block, transfer, rights, kind, mode, start, length, expiry,
                   resource, capability, epoch, iops, bandwidth, generation)


@dataclass
class Event:
    """An event: its kind, number on the channel, status, value, detail and text."""

    kind: int
    number: int = 1
    status: int = 0
    value: int = 0
    detail: int = 0
    text: str = ""
    raw: bytes = field(default=b"", repr=False, compare=False)

    def encode(self) -> bytes:
        payload = self.text.encode("utf-8")[:EVENT_MAX]
        return ReplyHeader(len(payload), self.status, EVENT_FLAG, EVENT_SLOT, self.kind,
                           self.number, self.value, self.detail).encode() + payload

    @classmethod
    def decode(cls, header: ReplyHeader, payload: bytes) -> "Event":
        return cls(header.opcode, header.sequence, header.status, header.value, header.detail,
                   payload.decode("utf-8", "replace"), payload)
