"""One data channel over a blocking TLS socket: HELLO, handles and volume requests.

Simple calls (`read`, `write`, …) use one request at a time; `submit` and `wait` keep several in flight;
`Channel.resume` goes on with a lost channel on a new connection; `send_raw` and `receive` are for tests that send
what no right client sends.
"""

from __future__ import annotations

import base64
import socket
import ssl
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace

from . import frames
from .frames import BlockMap, CopySource, Event, Flags, Hello, HelloReply, Opcode, OpenRequest, RenewRequest
from .frames import ReplyHeader, RequestHeader, ResourceState, Rights, Status

ALPN = "sluice/1"
CAPABILITY_PREFIX = "slcap1_"


class ChannelClosed(Exception):
    """The connection is gone, or the server broke the protocol."""


class RequestFailed(Exception):
    """The server answered with a status other than OK."""

    def __init__(self, opcode: int, status: int, message: str, value: int = 0, detail: int = 0):
        known = status in Status.__members__.values()
        name = Status(status).name if known else str(status)
        super().__init__(f"{name}: {message}" if message else name)
        self.opcode, self.message = opcode, message
        self.status = Status(status) if known else status
        self.value, self.detail = value, detail


def capability_bytes(capability: str | bytes) -> bytes:
    """The binary form of a capability in text form; bytes are passed through."""
    if isinstance(capability, bytes):
        return capability
    text = capability.strip()
    if not text.startswith(CAPABILITY_PREFIX):
        raise ValueError(f"a capability starts with {CAPABILITY_PREFIX}")
    body = text[len(CAPABILITY_PREFIX):]
    return base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))


@dataclass
class Reply:
    header: ReplyHeader
    payload: bytes

    @property
    def status(self) -> int:
        return self.header.status

    def check(self) -> "Reply":
        """The reply itself, or RequestFailed where its status is not OK."""
        if self.header.status != Status.OK:
            message = self.payload.decode("utf-8", "replace")
            raise RequestFailed(self.header.opcode, self.header.status, message,
                                self.header.value, self.header.detail)
        return self


@dataclass
class Sent:
    """A request without an answer: what a repeat of it needs."""

    header: RequestHeader
    payload: bytes = b""
    is_given_up: bool = False

    def is_answered_by(self, reply: ReplyHeader) -> bool:
        return self.header.sequence == reply.sequence and (
            self.is_given_up or self.header.opcode == reply.opcode)

    def repeated(self, handles: int | Mapping[int, int]) -> "Sent":
        """The same on another connection; a PING where nobody wants it any more."""
        header = self.header
        if self.is_given_up:
            return Sent(RequestHeader(opcode=Opcode.PING, slot=header.slot, sequence=header.sequence), b"", True)
        if not header.handle:
            return self
        return Sent(replace(header, handle=handles if isinstance(handles, int) else handles[header.handle]),
                    self.payload)


class Channel:
    """A connection to the data port.

    `cafile` verifies the server. `certfile` and `keyfile` are the client's: any
    key will do, a capability's holder must be this one. With `hello=False` nothing is sent after the handshake.
    `features` are those of HELLO: with FEATURE_RESUME the channel outlives this connection.
    """

    def __init__(self, address: tuple[str, int], *, cafile: str, certfile: str | None, keyfile: str | None,
                 server_name: str | None = None, timeout: float = 30.0, hello: bool = True,
                 client_name: str = "python", slots: int = 0, payload_max: int = 0,
                 session: bytes = frames.ZERO_ID, secret: bytes = frames.ZERO_SECRET, features: int = 0,
                 instance: bytes = frames.ZERO_ID, lost: "Channel | None" = None):
        self._dialled = {"address": address, "cafile": cafile, "certfile": certfile, "keyfile": keyfile,
                         "server_name": server_name, "timeout": timeout, "client_name": client_name}
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cafile)
        if certfile:
            context.load_cert_chain(certfile, keyfile)
        context.set_alpn_protocols([ALPN])
        raw = socket.create_connection(address, timeout=timeout)
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.socket = context.wrap_socket(raw, server_hostname=server_name or address[0])
        except BaseException:
            raw.close()
            raise
        self.events: list[Event] = []
        self.granted = HelloReply(slots=1)
        self._received = bytearray()
        self._sequences: dict[int, int] = {}
        self._waiting: dict[int, Sent] = {}
        self._done: dict[int, Reply] = {}
        self._hello = Hello()
        if self.socket.selected_alpn_protocol() != ALPN:
            self.close()
            raise ChannelClosed("the server does not speak sluice/1")
        try:
            if lost:
                self._take_up(lost, Hello(
                    payload_max=payload_max or lost.granted.payload_max, slots=slots or lost.granted.slots,
                    session=session, secret=secret, client_name=client_name, features=features,
                    channel=lost.granted.channel, flags=frames.HELLO_RESUMES))
            elif hello:
                self.hello(Hello(payload_max=payload_max, slots=slots, session=session, secret=secret,
                                 client_name=client_name, features=features, instance=instance))
        except BaseException:
            self.socket.close()
            raise

    @classmethod
    def resume(cls, lost: "Channel", **options) -> "Channel":
        """A new connection for the channel of a lost one, with its slots, sequences and unanswered requests.

        Options are those of a new channel and replace what `lost` was made with. The handles are gone: `open`, then
        `repeat`. `lost` itself stays as it was, so that a test can let both talk.
        """
        return cls(**{**lost._dialled, "features": frames.FEATURE_RESUME, "session": lost.session,
                      "secret": lost.secret, **options}, lost=lost)

    def _take_up(self, lost: "Channel", hello: Hello) -> None:
        granted = self.hello(hello)
        if (granted.session, granted.channel, granted.slots) != (
                lost.session, lost.granted.channel, lost.granted.slots) or granted.resumption == 0:
            raise ChannelClosed("the server resumed another channel than was asked for")
        self._sequences = dict(lost._sequences)
        self._waiting = {slot: replace(sent) for slot, sent in lost._waiting.items()}
        self._done = dict(lost._done)

    def __enter__(self) -> "Channel":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Sends close_notify and closes the socket."""
        try:
            self.socket.settimeout(1.0)
            self.socket.unwrap()
        except (OSError, ValueError):
            pass
        self.socket.close()

    def drop(self, reset: bool = False) -> None:
        """Closes the TCP connection without close_notify, as a machine that dies does; with `reset` by RST."""
        if reset:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    # Bytes

    def send_raw(self, data: bytes) -> None:
        """Sends bytes as they are."""
        try:
            self.socket.sendall(data)
        except (OSError, ssl.SSLError) as error:
            raise ChannelClosed(str(error)) from error

    def _receive_exactly(self, count: int) -> bytes:
        while len(self._received) < count:
            try:
                chunk = self.socket.recv(1 << 16)
            except TimeoutError:
                raise
            except (OSError, ssl.SSLError) as error:
                raise ChannelClosed(str(error)) from error
            if not chunk:
                raise ChannelClosed("the server closed the connection")
            self._received += chunk
        data = bytes(self._received[:count])
        del self._received[:count]
        return data

    def receive(self) -> Reply | Event:
        """The next frame, whatever it answers."""
        header = ReplyHeader.decode(self._receive_exactly(frames.HEADER_BYTES))
        if header.flags not in (0, frames.EVENT_FLAG) or header.length > self.granted.payload_max:
            raise ChannelClosed("the server sent a reserved flag or an oversize reply")
        if header.status not in Status.__members__.values():
            raise ChannelClosed(f"the server sent the unknown status {header.status}")
        payload = self._receive_exactly(header.length)
        if header.is_event:
            if header.slot != frames.EVENT_SLOT or header.length > frames.EVENT_MAX:
                raise ChannelClosed("the server sent a malformed event")
            return Event.decode(header, payload)
        return Reply(header, payload)

    def receive_reply(self) -> Reply:
        """The next reply; events on the way are appended to `events`."""
        while True:
            frame = self.receive()
            if isinstance(frame, Reply):
                return frame
            self.events.append(frame)

    # HELLO

    def hello(self, hello: Hello) -> HelloReply:
        """Negotiates; the answer is also in `granted`."""
        self._hello = hello
        body = hello.encode()
        self.send_raw(RequestHeader(length=len(body), opcode=Opcode.HELLO).encode() + body)
        reply = self.receive_reply().check()
        self.granted = HelloReply.decode(reply.payload)
        return self.granted

    @property
    def session(self) -> bytes:
        return self.granted.session

    @property
    def secret(self) -> bytes:
        """The session's, also on a channel that joined it and was not told."""
        return self._hello.secret if self.granted.secret == frames.ZERO_SECRET else self.granted.secret

    # Requests

    def request_header(self, opcode: int, *, slot: int | None = None, length: int = 0, flags: int = 0,
                       handle: int = 0, count: int = 0, offset: int = 0) -> RequestHeader:
        """A header with a free slot (or the one given) and its next sequence, not sent yet."""
        if slot is None:
            busy = self._waiting.keys() | self._done.keys()
            slot = next((s for s in range(self.granted.slots) if s not in busy), None)
            if slot is None:
                raise ValueError("every slot is in use")
        return RequestHeader(length, opcode, flags, slot, 0,
                             frames.next_sequence(self._sequences.get(slot, 0)), handle, count, offset)

    def submit(self, opcode: int, payload: bytes = b"", **fields: int) -> int:
        """Sends a request without waiting; returns its slot, which `wait` frees."""
        header = self.request_header(opcode, length=len(payload), **fields)
        self._sequences[header.slot] = header.sequence
        self._waiting[header.slot] = Sent(header, payload)
        # On record first: what was sent in part when the connection broke is unanswered as well.
        self.send_raw(header.encode() + payload)
        return header.slot

    def receive_answer(self) -> int:
        """Takes the next reply that somebody wants; returns its slot, whose `wait` no longer blocks."""
        while True:
            reply = self.receive_reply()
            slot = reply.header.slot
            sent = self._waiting.get(slot)
            if sent is None or not sent.is_answered_by(reply.header):
                raise ChannelClosed("the server answered a request that was not sent")
            del self._waiting[slot]
            if not sent.is_given_up:
                self._done[slot] = reply
                return slot

    def wait(self, slot: int) -> Reply:
        """The reply of the request in `slot`, whatever its status."""
        while slot not in self._done:
            self.receive_answer()
        return self._done.pop(slot)

    # Resume

    @property
    def unanswered(self) -> dict[int, Sent]:
        """The requests without an answer, by slot."""
        return dict(self._waiting)

    @property
    def answered(self) -> list[int]:
        """Slots whose answer is there, for `wait` to take."""
        return sorted(self._done)

    def give_up(self, slot: int) -> None:
        """Nobody wants this request's answer any more; it keeps its slot until one comes."""
        self._waiting[slot].is_given_up = True

    def conclude(self, slot: int, reply: Reply) -> None:
        """Answers an unanswered request in the server's place; its sequence is used up."""
        del self._waiting[slot]
        self._done[slot] = reply

    def withdraw(self, slot: int) -> None:
        """Forgets an unanswered control request: the slot's next one has its sequence, and passes for its repeat."""
        self._sequences[slot] = self._waiting.pop(slot).header.sequence - 1

    def repeat(self, handles: int | Mapping[int, int]) -> list[int]:
        """Sends every unanswered request again, with one handle for all, or new ones by old; returns their slots."""
        for slot, sent in sorted(self._waiting.items()):
            self._waiting[slot] = sent = sent.repeated(handles)
            self.send_raw(sent.header.encode() + sent.payload)
        return sorted(self._waiting)

    def call(self, opcode: int, payload: bytes = b"", **fields: int) -> Reply:
        """Sends a request and waits for its reply, whatever its status."""
        return self.wait(self.submit(opcode, payload, **fields))

    def open(self, capability: str | bytes, rights: int = Rights.NONE, kind: int = 1,
             take_over: bool = False) -> tuple[int, ResourceState]:
        """OPEN: the handle and what it stands for. Rights 0: all that there are."""
        flags = frames.OPEN_TAKES_OVER if take_over else 0
        body = OpenRequest(kind, rights, capability_bytes(capability), flags).encode()
        reply = self.call(Opcode.OPEN, body).check()
        return reply.header.value, ResourceState.decode(reply.payload)

    def stat(self, handle: int) -> ResourceState:
        return ResourceState.decode(self.call(Opcode.STAT, handle=handle).check().payload)

    def renew(self, handle: int, capability: str | bytes) -> ResourceState:
        body = RenewRequest(capability_bytes(capability)).encode()
        return ResourceState.decode(self.call(Opcode.RENEW, body, handle=handle).check().payload)

    def close_handle(self, handle: int) -> None:
        self.call(Opcode.CLOSE, handle=handle).check()

    def ping(self) -> None:
        self.call(Opcode.PING).check()

    def read(self, handle: int, offset: int, count: int) -> bytes:
        reply = self.call(Opcode.READ, handle=handle, offset=offset, count=count).check()
        if len(reply.payload) != count:
            raise ChannelClosed("the server's reply is not as long as the request asked for")
        return reply.payload

    def write(self, handle: int, offset: int, data: bytes, fua: bool = False) -> None:
        self.call(Opcode.WRITE, data, handle=handle, offset=offset, count=len(data),
                  flags=Flags.FUA if fua else 0).check()

    def write_zeroes(self, handle: int, offset: int, count: int, no_unmap: bool = False, fua: bool = False) -> None:
        flags = (Flags.NO_UNMAP if no_unmap else 0) | (Flags.FUA if fua else 0)
        self.call(Opcode.WRITE_ZEROES, handle=handle, offset=offset, count=count, flags=flags).check()

    def discard(self, handle: int, offset: int, count: int) -> None:
        self.call(Opcode.DISCARD, handle=handle, offset=offset, count=count).check()

    def flush(self, handle: int) -> None:
        self.call(Opcode.FLUSH, handle=handle).check()

    def compare_and_write(self, handle: int, offset: int, expected: bytes, data: bytes, fua: bool = False) -> int | None:
        """Writes `data` if `expected` is there; otherwise returns the first place that differs, from `offset`."""
        if len(expected) != len(data):
            raise ValueError("what is expected and what is written are equally long")
        reply = self.call(Opcode.COMPARE_AND_WRITE, expected + data, handle=handle, offset=offset,
                          count=len(data), flags=Flags.FUA if fua else 0)
        if reply.status == Status.MISCOMPARE:
            return reply.header.value
        reply.check()
        return None

    def copy_range(self, handle: int, offset: int, count: int, source: int, source_offset: int) -> None:
        """Copies from the handle `source` to `handle`, in the server."""
        self.call(Opcode.COPY_RANGE, CopySource(source, source_offset).encode(), handle=handle, offset=offset,
                  count=count).check()

    def block_status(self, handle: int, offset: int, count: int, marker: bytes = b"") -> list[tuple[int, int]]:
        """Extents (length, flags) from `offset` on: all of `count`, or less where there are many.

        With a marker's id, `Blocks.CHANGED` says what was changed since."""
        reply = self.call(Opcode.BLOCK_STATUS, marker, handle=handle, offset=offset, count=count).check()
        if not 0 < reply.header.value <= count:
            raise ChannelClosed("the server said more than it was asked")
        return BlockMap.decode(reply.payload, reply.header.value).extents
