"""One data channel over a blocking TLS socket: HELLO, handles and volume requests.

Simple calls (`read`, `write`, …) use one request at a time; `submit` and `wait` keep several in flight;
`send_raw` and `receive` are for tests that send what no right client sends.
"""

from __future__ import annotations

import base64
import socket
import ssl
from dataclasses import dataclass

from . import frames
from .frames import Event, Flags, Hello, HelloReply, Opcode, OpenRequest, RenewRequest, ReplyHeader
from .frames import RequestHeader, ResourceState, Rights, Status

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


class Channel:
    """A connection to the data port.

    `cafile` verifies the server. `certfile` and `keyfile` are the client's: any
    key will do, a capability's holder must be this one. With `hello=False` nothing is sent after the handshake.
    """

    def __init__(self, address: tuple[str, int], *, cafile: str, certfile: str | None, keyfile: str | None,
                 server_name: str | None = None, timeout: float = 30.0, hello: bool = True,
                 client_name: str = "python", slots: int = 0, payload_max: int = 0,
                 session: bytes = frames.ZERO_ID, secret: bytes = frames.ZERO_SECRET):
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
        self._waiting: dict[int, RequestHeader] = {}
        self._done: dict[int, Reply] = {}
        if self.socket.selected_alpn_protocol() != ALPN:
            self.close()
            raise ChannelClosed("the server does not speak sluice/1")
        if hello:
            self.hello(Hello(payload_max=payload_max, slots=slots, session=session, secret=secret,
                             client_name=client_name))

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
        return self.granted.secret

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
        self.send_raw(header.encode() + payload)
        self._sequences[header.slot] = header.sequence
        self._waiting[header.slot] = header
        return header.slot

    def wait(self, slot: int) -> Reply:
        """The reply of the request in `slot`, whatever its status."""
        while slot not in self._done:
            reply = self.receive_reply()
            sent = self._waiting.pop(reply.header.slot, None)
            if sent is None or (sent.sequence, sent.opcode) != (reply.header.sequence, reply.header.opcode):
                raise ChannelClosed("the server answered a request that was not sent")
            self._done[reply.header.slot] = reply
        return self._done.pop(slot)

    def call(self, opcode: int, payload: bytes = b"", **fields: int) -> Reply:
        """Sends a request and waits for its reply, whatever its status."""
        return self.wait(self.submit(opcode, payload, **fields))

    def open(self, capability: str | bytes, rights: int = Rights.NONE, kind: int = 1) -> tuple[int, ResourceState]:
        """OPEN: the handle and what it stands for. Rights 0: all that there are."""
        body = OpenRequest(kind, rights, capability_bytes(capability)).encode()
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
