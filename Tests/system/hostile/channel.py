"""A data port that lies: it holds a server's certificate and a node's key, and stands between the two.

Frames go through as they are, but for those that a test invents or drops.
"""
import asyncio
import ssl
import struct
import threading

READ, OPEN, PING = 0x100, 2, 6
RESIZED, REVOKED, EXPIRING, DRAINING, DRIVER_RECOVERING = range(1, 6)
STATUS_REVOKED = 36


def event(kind, value=0, detail=0, payload=b"", status=0):
    return struct.pack("<IHHHHIQQ", len(payload), status, 0x8000, 0xFFFF, kind, 1, value, detail) + payload


class LyingChannel:
    """Forwards connections to `target()`; what is done to it is in force when the call returns."""

    def __init__(self, data, node, target):
        self._target = target
        self._server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._server_context.load_cert_chain(data / "server/cert.pem", data / "server/key.pem")
        self._client_context = ssl.create_default_context(cafile=str(node / "ca.pem"))
        self._client_context.load_cert_chain(node / "cert.pem", node / "key.pem")
        for context in (self._server_context, self._client_context):
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.set_alpn_protocols(["sluice/1"])
        self._links = set()
        # Requests of these opcodes never arrive.
        self.dropped = set()
        # What each client hears when its OPEN is answered, made of its handle.
        self.greeting = lambda handle: b""
        self.opened = 0
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._server = self._do(asyncio.start_server(
            self._accept, "127.0.0.1", 0, ssl=self._server_context, limit=1 << 22))
        self.text = "{}:{}".format(*self._server.sockets[0].getsockname())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _do(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    @property
    def handles(self):
        return [link.handle for link in self._links if link.handle]

    def say(self, frames):
        """Every client hears `frames(handle)`, whole, between two frames of the server's. Returns how many heard."""
        return self._do(self._say(frames))

    async def _say(self, frames):
        links = [link for link in self._links if link.handle]
        for link in links:
            link.down.write(frames(link.handle))
            try:
                await asyncio.wait_for(link.down.drain(), 10)
            except (OSError, asyncio.TimeoutError):
                continue
        return len(links)

    async def _end(self):
        self._server.close()
        for link in list(self._links):
            link.end()

    async def _accept(self, reader, writer):
        link = _Link(writer)
        self._links.add(link)
        try:
            host, port = self._target()
            there, link.up = await asyncio.open_connection(
                host, port, ssl=self._client_context, server_hostname="localhost", limit=1 << 22)
            await asyncio.wait([asyncio.create_task(self._requests(reader, link)),
                                asyncio.create_task(self._replies(there, link))],
                               return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass
        finally:
            self._links.discard(link)
            link.end()

    async def _requests(self, reader, link):
        while frame := await _frame(reader):
            if struct.unpack_from("<H", frame, 4)[0] not in self.dropped:
                link.up.write(frame)
                await link.up.drain()

    async def _replies(self, reader, link):
        while frame := await _frame(reader):
            _, status, flags, _, opcode, _, value, _ = struct.unpack_from("<IHHHHIQQ", frame)
            link.down.write(frame)
            if not flags and opcode == OPEN and status == 0:
                link.handle = value
                self.opened += 1
                link.down.write(self.greeting(value))
            await link.down.drain()


async def _frame(reader):
    """The next frame, header and payload; None at the end."""
    try:
        header = await reader.readexactly(32)
        return header + await reader.readexactly(struct.unpack_from("<I", header)[0])
    except (OSError, asyncio.IncompleteReadError):
        return None


class _Link:
    def __init__(self, down):
        self.down, self.up, self.handle = down, None, 0

    def end(self):
        # Without close_notify, which would end the channel of the session.
        for writer in (self.down, self.up):
            if writer is not None:
                writer.transport.abort()
