"""A TCP proxy on loopback that does to connections what networks do: cuts, stalls, truncates, delays, loses one way.

It runs on a thread of its own; what is done to it is in force when the call returns. It carries TLS and can
therefore lose and hold bytes, but not invent any.
"""
import asyncio
import contextlib
import random
import socket
import struct
import threading

CHUNK = 1 << 16
UP, DOWN = "up", "down"  # to the server, to the client
BOTH = (UP, DOWN)
_RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Forwards `address` to whatever `target()` says at the moment: a server may come back on another port.

    `listener`, if there is one already, may be of another network namespace than the connections to the target.
    """

    def __init__(self, target, seed=0, listener=None):
        self._target, self._random = target, random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._links = set()
        self._gates, self._delay, self._truncations, self._refuses = {}, 0.0, 0, False
        self.accepted = self.bytes = 0
        self._thread.start()
        self._server = self._do(self._listen(listener or socket.create_server(("127.0.0.1", 0))))
        self.address = self._server.sockets[0].getsockname()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def text(self):
        """Address and port as options have them."""
        return "{}:{}".format(*self.address)

    @property
    def connections(self):
        return len(self._links)

    # What may be done

    def cut(self, how="reset"):
        """Ends every connection: "reset" as a firewall does, "fin" as a process that ends. Returns how many."""
        return self._do(self._cut(how))

    def truncate(self):
        """The next bytes of each connection that has any are cut at a random place, and the connection with them."""
        self._do(self._set(_truncations=self._truncations + 1))

    def delay(self, seconds):
        """Each chunk waits so long, both ways, in connections that are there and in new ones."""
        self._do(self._set(_delay=seconds))

    @contextlib.contextmanager
    def stalled(self, directions=BOTH):
        """Nothing is forwarded in these directions; what was held back goes on afterwards."""
        self._do(self._gate(directions, opens=False))
        try:
            yield
        finally:
            self._do(self._gate(directions, opens=True))

    @contextlib.contextmanager
    def blackholed(self, directions=BOTH):
        """Nothing is forwarded in these directions, nor will it ever be: connections end with the hole."""
        with self.stalled(directions):
            yield
            self.cut()

    @contextlib.contextmanager
    def refusing(self):
        """No new connections, and none of the old ones."""
        self._do(self._set(_refuses=True))
        self.cut()
        try:
            yield
        finally:
            self._do(self._set(_refuses=False))

    def close(self):
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    # On the loop

    def _do(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self, listener):
        for direction in BOTH:
            self._gates[direction] = asyncio.Event()
            self._gates[direction].set()
        return await asyncio.start_server(self._accept, sock=listener, limit=CHUNK)

    async def _set(self, **values):
        for name, value in values.items():
            setattr(self, name, value)

    async def _gate(self, directions, opens):
        for direction in directions:
            if opens:
                self._gates[direction].set()
            else:
                self._gates[direction].clear()

    async def _cut(self, how):
        links = list(self._links)
        for link in links:
            link.end(how)
        return len(links)

    async def _end(self):
        self._server.close()
        await self._cut("reset")

    async def _accept(self, reader, writer):
        self.accepted += 1
        link = _Link(writer)
        if self._refuses:
            return link.end("reset")
        self._links.add(link)
        try:
            there, link.there = await asyncio.open_connection(*self._target(), limit=CHUNK)
            if link.is_ended:
                link.end("reset")
                return None
            link.pumps = [asyncio.create_task(self._pump(reader, link.there, UP, link)),
                          asyncio.create_task(self._pump(there, writer, DOWN, link))]
            await asyncio.wait(link.pumps)
        except OSError:
            link.end("reset")
        finally:
            self._links.discard(link)
        return None

    async def _pump(self, reader, writer, direction, link):
        try:
            while data := await reader.read(CHUNK):
                if self._delay:
                    await asyncio.sleep(self._delay)
                await self._gates[direction].wait()
                if link.is_ended:
                    return
                if self._truncations:
                    self._truncations -= 1
                    writer.write(data[:self._random.randrange(len(data))])
                    return link.end(self._random.choice(["reset", "fin"]))
                writer.write(data)
                await writer.drain()
                self.bytes += len(data)
            await self._gates[direction].wait()
            link.end("fin")
        except OSError:
            link.end("reset")


class _Link:
    """Both connections of one client."""

    def __init__(self, here):
        self.here, self.there, self.pumps, self.is_ended = here, None, [], False

    def end(self, how):
        self.is_ended = True
        for writer in (self.here, self.there):
            if writer is None or writer.transport.is_closing():
                continue
            if how == "reset":
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                writer.transport.abort()
            else:
                writer.close()
        for pump in self.pumps:
            if pump is not asyncio.current_task():
                pump.cancel()
