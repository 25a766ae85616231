"""What the server has left of a flood: memory that goes back, and an end that does not wait for those that take nothing."""
import re
import signal
import socket
import ssl
import time

import pytest
from conftest import await_condition, let_pass
from sluice_client import Channel, Opcode
from sluice_client.frames import RequestHeader

KIB, MIB = 1 << 10, 1 << 20


def own_bytes(pid):
    """What a process has in memory for itself alone."""
    with open(f"/proc/{pid}/status") as file:
        return int(re.search(r"^RssAnon:\s+(\d+) kB", file.read(), re.M)[1]) * KIB


def connect(server, folder, **options):
    channel = Channel(server.channel_address, cafile=str(folder / "ca.pem"), certfile=str(folder / "cert.pem"),
                      keyfile=str(folder / "key.pem"), **options)
    channel.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KIB)
    return channel


def pour(channels, load, seconds=15):
    """Sends the load on all of them, again and again, until nothing is taken any more; returns how many bytes were."""
    for channel in channels:
        channel.socket.setblocking(False)
    live, rest, idle, poured = set(channels), {channel: load(channel) for channel in channels}, 0, 0
    deadline = time.monotonic() + seconds
    while live and idle < 20 and time.monotonic() < deadline:
        taken = False
        for channel in list(live):
            try:
                sent = channel.socket.send(rest[channel][:256 * KIB])
                rest[channel] = rest[channel][sent:] or load(channel)
                taken, poured = True, poured + sent
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError, BlockingIOError):
                continue
            except OSError:
                live.discard(channel)
        idle = 0 if taken else idle + 1
        if not taken:
            let_pass(0.05)
    return poured


def token(server, folder):
    with server.api(folder) as api:
        return api.post("/v1/capabilities", json={"resource": "volume/disk"}).json()["token"]


@pytest.mark.parametrize("kind", ["strangers", "users"])
def test_what_a_flood_took_goes_back_within_a_minute(server, kind):
    node = server.join("one")
    server.volume("disk", node="one")
    server.cli("volume", "mode", "disk", "shared")
    known = token(server, node)

    def flood(count):
        channels = [connect(server, node, slots=8) for _ in range(count)]
        if kind == "strangers":
            pings = RequestHeader(opcode=Opcode.PING, slot=9999, sequence=7).encode() * 4000
            poured = pour(channels, lambda channel: pings)
        else:
            handles = {channel: channel.open(known)[0] for channel in channels}
            for channel in channels:
                for slot in range(4):
                    channel.submit(Opcode.READ, slot=slot, handle=handles[channel], count=MIB)

            def write(channel):
                slot = 4 + channel.writes % 4
                channel.writes += 1
                header = channel.request_header(Opcode.WRITE, slot=slot, length=MIB, handle=handles[channel], count=MIB)
                return header.encode() + bytes(MIB)

            for channel in channels:
                channel.writes = 0
            poured = pour(channels, write)
        return channels, poured

    for channel in flood(4)[0]:
        channel.drop()
    pid = server.process.pid
    before = own_bytes(pid)
    channels, poured = flood(60)
    highest = own_bytes(pid)
    for channel in channels:
        channel.drop()
    await_condition("their end", lambda: not server.json("session", "list"))
    begun = time.monotonic()
    print(kind, "poured", poured >> 20, "before", before >> 20, "highest", highest >> 20, "dropped", own_bytes(pid) >> 20)
    await_condition("the memory", lambda: own_bytes(pid) < before + 40 * MIB, seconds=60)
    after = own_bytes(pid)
    print("back after", time.monotonic() - begun, after >> 20)
    # Of less there would be nothing to give back. What the first four took may have gone back since, too.
    assert poured > 32 * MIB and highest > min(before, after) + 2 * MIB, (poured, before, highest, after)
    assert highest < before + 400 * MIB


def test_the_end_does_not_wait_for_those_that_take_nothing(server):
    node = server.join("one")
    server.volume("disk", node="one", rights="read")
    known = token(server, node)
    channels = [connect(server, node, slots=8) for _ in range(10)]
    for channel in channels:
        handle, _ = channel.open(known)
        for slot in range(4):
            channel.submit(Opcode.READ, slot=slot, handle=handle, count=MIB)
    await_condition("the reads", lambda: sum(one["requests"] for one in server.json("session", "list")) >= 10)
    begun = time.monotonic()
    assert server.stop(signal.SIGTERM) == 0
    took = time.monotonic() - begun
    assert took < 20 and "it does not read" in server.text(), took
    for channel in channels:
        channel.drop()
