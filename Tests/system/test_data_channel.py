"""The data channel against the second implementation: what works, and every kind of bad input."""
import os
import random
import socket
import ssl
import struct
import threading
import time

import pytest
from conftest import await_condition, let_pass, resident_bytes
from sluice_client import Channel, ChannelClosed, Flags, Opcode, RequestFailed, Rights, Status, capability
from sluice_client.frames import Hello, RequestHeader

KIB = 1024
SIZE = 64 << 20


@pytest.fixture(scope="module")
def world(shared_server):
    """A server with a node and a volume in memory and one on disk."""
    node = shared_server.join("reader")
    other = shared_server.join("stranger")
    shared_server.memory_pool()
    shared_server.volume("mem", pool="ram", node="reader")
    shared_server.volume("disk", node="reader")
    return World(shared_server, node, other)


class World:
    def __init__(self, server, node, other):
        self.server, self.node, self.other = server, node, other

    def connect(self, credentials=None, **options):
        folder = credentials or self.node
        return Channel(self.server.channel_address, cafile=str(folder / "ca.pem"),
                       certfile=str(folder / "cert.pem"), keyfile=str(folder / "key.pem"), **options)

    def token(self, volume="mem", credentials=None, **fields):
        with self.server.api(credentials or self.node) as api:
            answer = api.post("/v1/capabilities", json={"resource": f"volume/{volume}", **fields})
            assert answer.status_code == 201, answer.text
            return answer.json()["token"]

    def stays_alive(self):
        """The server serves others: a fresh channel reads."""
        with self.connect() as channel:
            handle, _ = channel.open(self.token(), rights=Rights.READ)
            assert len(channel.read(handle, 0, 4096)) == 4096


@pytest.fixture
def opened(world):
    with world.connect() as channel:
        handle, state = channel.open(world.token())
        yield channel, handle, state


def refused(status, call, *arguments, **options):
    with pytest.raises(RequestFailed) as failure:
        call(*arguments, **options)
    assert failure.value.status == status, failure.value
    return failure.value


@pytest.mark.parametrize("volume", ["mem", "disk"])
def test_reads_what_was_written(world, volume):
    generator = random.Random(7)
    model = bytearray(4 << 20)
    with world.connect() as channel:
        handle, state = channel.open(world.token(volume))
        assert state.size == SIZE
        block = state.block_size
        channel.discard(handle, 0, len(model))
        channel.write_zeroes(handle, 0, len(model))
        for _ in range(300):
            count = generator.randrange(1, 64) * block
            offset = generator.randrange(0, (len(model) - count) // block) * block
            kind = generator.random()
            if kind < 0.5:
                data = generator.randbytes(count)
                channel.write(handle, offset, data, fua=generator.random() < 0.1)
                model[offset:offset + count] = data
            elif kind < 0.6:
                channel.write_zeroes(handle, offset, count, no_unmap=generator.random() < 0.5)
                model[offset:offset + count] = bytes(count)
            else:
                assert channel.read(handle, offset, count) == model[offset:offset + count]
        channel.flush(handle)
        for offset in range(0, len(model), 1 << 20):
            assert channel.read(handle, offset, 1 << 20) == model[offset:offset + (1 << 20)]


def test_many_requests_are_in_flight_at_once(world):
    with world.connect(slots=64) as channel:
        handle, _ = channel.open(world.token())
        pages = [os.urandom(4096) for _ in range(channel.granted.slots)]
        slots = [channel.submit(Opcode.WRITE, page, handle=handle, offset=n * 4096, count=4096)
                 for n, page in enumerate(pages)]
        for slot in slots:
            channel.wait(slot).check()
        slots = [channel.submit(Opcode.READ, handle=handle, offset=n * 4096, count=4096) for n in range(len(pages))]
        assert [channel.wait(slot).check().payload for slot in slots] == pages


def test_a_second_channel_joins_the_session_and_shares_the_claim_to_write(world):
    with world.connect() as first:
        handle, _ = first.open(world.token("disk"))
        with world.connect(session=first.session, secret=first.secret) as second:
            other, _ = second.open(world.token("disk"))
            first.write(handle, 0, b"a" * 4096)
            assert second.read(other, 0, 4096) == b"a" * 4096
            second.flush(other)
        with world.connect() as rival:
            refused(Status.WRITER_CONFLICT, rival.open, world.token("disk"), Rights.READ | Rights.WRITE)
            rival.open(world.token("disk"), Rights.READ)
        with pytest.raises(RequestFailed) as failure:
            world.connect(session=first.session, secret=bytes(32))
        assert failure.value.status == Status.DENIED


def test_a_session_cannot_be_joined_with_another_key(world):
    with world.connect() as first:
        with pytest.raises(RequestFailed) as failure:
            world.connect(world.other, session=first.session, secret=first.secret)
        assert failure.value.status == Status.DENIED


# Bad frames


def answer_to(channel, **fields):
    payload = fields.pop("payload", b"")
    header = channel.request_header(fields.pop("opcode"), **{
        "length": len(payload), **{k: v for k, v in fields.items() if k not in ("sequence", "reserved")}})
    for name in ("sequence", "reserved"):
        if name in fields:
            setattr(header, name, fields[name])
    channel.send_raw(header.encode() + payload)
    return Status(channel.receive_reply().header.status)


@pytest.mark.parametrize("fields, status", [
    (dict(opcode=0x7777), Status.UNKNOWN_OPCODE),
    (dict(opcode=0x108), Status.UNKNOWN_OPCODE),
    (dict(opcode=Opcode.READ, count=0), Status.BAD_LENGTH),
    (dict(opcode=Opcode.READ, count=4096, payload=b"x"), Status.BAD_LENGTH),
    (dict(opcode=Opcode.WRITE, count=4096, payload=b"x" * 512), Status.BAD_LENGTH),
    (dict(opcode=Opcode.READ, count=4096, flags=0x8000), Status.BAD_FRAME),
    (dict(opcode=Opcode.READ, count=4096, flags=1), Status.BAD_FRAME),
    (dict(opcode=Opcode.FLUSH, count=1), Status.BAD_FRAME),
    (dict(opcode=Opcode.READ, count=4096, offset=2**64 - 1), Status.OUT_OF_RANGE),
    (dict(opcode=Opcode.READ, count=4096, offset=2**64 - 4096), Status.OUT_OF_RANGE),
    (dict(opcode=Opcode.READ, count=4096, offset=SIZE), Status.OUT_OF_RANGE),
    (dict(opcode=Opcode.WRITE_ZEROES, count=2**32 - 4096, offset=0), Status.OUT_OF_RANGE),
    (dict(opcode=Opcode.READ, count=2**31, offset=0), Status.TOO_LARGE),
    (dict(opcode=Opcode.READ, count=4096, slot=4000), Status.BAD_SLOT),
    (dict(opcode=Opcode.READ, count=4096, sequence=0), Status.BAD_SEQUENCE),
    (dict(opcode=Opcode.READ, count=4096, sequence=77), Status.BAD_SEQUENCE),
    (dict(opcode=Opcode.READ, count=4096, reserved=1), Status.BAD_FRAME),
])
def test_a_bad_frame_is_answered_and_the_channel_goes_on(world, fields, status):
    with world.connect() as channel:
        handle, _ = channel.open(world.token(), Rights.READ | Rights.WRITE | Rights.FLUSH)
        assert answer_to(channel, handle=handle, **fields) == status
        fresh = 5
        assert len(channel.wait(channel.submit(
            Opcode.READ, handle=handle, offset=0, count=512, slot=fresh)).check().payload) == 512


def test_a_wrong_handle_is_refused(opened):
    channel, handle, _ = opened
    assert channel.call(Opcode.READ, handle=handle + 99, count=4096).status == Status.BAD_HANDLE
    assert channel.call(Opcode.READ, handle=0, count=4096).status in (Status.BAD_HANDLE, Status.BAD_FRAME)
    channel.close_handle(handle)
    assert channel.call(Opcode.READ, handle=handle, count=4096).status == Status.BAD_HANDLE


def test_unaligned_requests_on_a_direct_volume_are_refused(world):
    with world.connect() as channel:
        handle, state = channel.open(world.token("disk"), Rights.READ)
        refused(Status.UNALIGNED, channel.read, handle, 1, state.block_size)
        refused(Status.UNALIGNED, channel.read, handle, 0, state.block_size + 1)


def test_an_oversize_payload_ends_the_channel(opened, world):
    channel, handle, _ = opened
    channel.send_raw(RequestHeader(length=2**32 - 1, opcode=Opcode.WRITE, slot=1, sequence=1, handle=handle,
                                   count=4096).encode())
    assert Status(channel.receive_reply().header.status) == Status.PROTOCOL_VIOLATION
    with pytest.raises(ChannelClosed):
        channel.receive()
    world.stays_alive()


def test_the_first_request_must_be_hello(world):
    with world.connect(hello=False) as channel:
        channel.send_raw(RequestHeader(opcode=Opcode.PING, sequence=1).encode())
        assert Status(channel.receive_reply().header.status) == Status.PROTOCOL_VIOLATION
        with pytest.raises(ChannelClosed):
            channel.receive()


def test_hello_of_a_version_to_come_is_told_ours(world):
    with world.connect(hello=False) as channel:
        body = bytearray(Hello(client_name="x").encode())
        struct.pack_into("<HH", body, 8, 7, 9)
        channel.send_raw(RequestHeader(length=len(body), opcode=Opcode.HELLO).encode() + bytes(body))
        reply = channel.receive_reply()
        assert (Status(reply.header.status), reply.header.value, reply.header.detail) == (
            Status.VERSION_MISMATCH, 1, 1)


def test_random_frames_never_hurt(world):
    generator = random.Random(11)
    for _ in range(int(os.environ.get("SLUICE_FUZZ_CHANNELS", "60"))):
        with world.connect(timeout=5) as channel:
            handle, _ = channel.open(world.token(), Rights.READ)
            for _ in range(8):
                frame = bytearray(channel.request_header(
                    generator.choice(list(Opcode)), handle=handle, count=4096, slot=generator.randrange(8)).encode())
                for _ in range(generator.randrange(1, 5)):
                    frame[generator.randrange(4, 32)] = generator.randrange(256)
                try:
                    channel.send_raw(bytes(frame))
                    channel.receive_reply()
                except (ChannelClosed, TimeoutError):
                    break
    world.stays_alive()


# Not TLS, not ours


def test_garbage_instead_of_tls_is_dropped(world):
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(4096), b"\x16\x03\x01\xff\xff" + bytes(100)):
        with socket.create_connection(world.server.channel_address, timeout=15) as raw:
            raw.sendall(garbage)
            assert_closed(raw)
    world.stays_alive()


def assert_closed(raw):
    try:
        while raw.recv(4096):
            pass
    except ConnectionError:
        pass


def test_tls_1_2_is_refused(world):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(world.node / "ca.pem")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(world.server.channel_address, timeout=15) as raw:
        with pytest.raises(ssl.SSLError):
            context.wrap_socket(raw, server_hostname="127.0.0.1")


def test_a_client_without_a_certificate_is_refused(world):
    with pytest.raises((ChannelClosed, RequestFailed, ssl.SSLError, OSError)):
        with Channel(world.server.channel_address, cafile=str(world.node / "ca.pem"), certfile=None, keyfile=None):
            pass


def test_a_client_that_says_nothing_or_trickles_is_dropped_and_others_are_served(world):
    address = world.server.channel_address
    with socket.create_connection(address, timeout=30) as silent, socket.create_connection(address, timeout=30) as slow:
        started = time.monotonic()
        trickle = threading.Thread(target=trickle_bytes, args=(slow,))
        trickle.start()
        world.stays_alive()
        assert_closed(silent)
        trickle.join(40)
        assert not trickle.is_alive()
        assert time.monotonic() - started < 30


def trickle_bytes(connection):
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200)
    try:
        for byte in hello[:40]:
            connection.sendall(bytes([byte]))
            let_pass(1)
    except OSError:
        pass


def test_a_client_that_stops_reading_is_bounded_and_dropped(world):
    with world.connect(slots=256) as channel:
        handle, _ = channel.open(world.token(), Rights.READ)
        before = resident_bytes(world.server.process.pid)
        channel.socket.settimeout(5)
        try:
            for number in range(20000):
                channel.send_raw(RequestHeader(
                    opcode=Opcode.READ, slot=number % channel.granted.slots,
                    sequence=number // channel.granted.slots + 1 + (1 if number % channel.granted.slots == 0 else 0),
                    handle=handle, count=1 << 20).encode())
        except (ChannelClosed, TimeoutError):
            pass
        world.stays_alive()
        assert resident_bytes(world.server.process.pid) - before < 600 << 20


# Capabilities


def test_rights_and_ranges_are_held_on_the_data_path(world):
    token = world.token(rights=["read"])
    with world.connect() as channel:
        refused(Status.DENIED, channel.open, token, Rights.READ | Rights.WRITE)
        handle, state = channel.open(token)
        assert state.rights == Rights.READ
        refused(Status.DENIED, channel.write, handle, 0, b"x" * 4096)
        refused(Status.DENIED, channel.flush, handle)
    ranged = world.token(range={"offset": 8192, "length": 8192})
    with world.connect() as channel:
        handle, _ = channel.open(ranged)
        channel.write(handle, 8192, b"y" * 8192)
        refused(Status.DENIED, channel.read, handle, 4096, 8192)
        refused(Status.DENIED, channel.write, handle, 16384, b"z" * 4096)


def test_a_token_of_another_holder_is_useless(world):
    with world.connect(world.other) as channel:
        refused(Status.WRONG_HOLDER, channel.open, world.token())


def test_broken_tokens_are_refused(world):
    data = capability.text_to_bytes(world.token())
    generator = random.Random(3)
    with world.connect() as channel:
        for _ in range(300):
            broken = bytearray(data)
            broken[generator.randrange(len(broken))] ^= 1 << generator.randrange(8)
            with pytest.raises(RequestFailed) as failure:
                channel.open(bytes(broken))
            assert failure.value.status in (
                Status.BAD_CAPABILITY, Status.WRONG_HOLDER, Status.WRONG_AUDIENCE, Status.EXPIRED,
                Status.NOT_YET_VALID, Status.BAD_FRAME, Status.DENIED), failure.value
        for cut in range(0, len(data), 7):
            with pytest.raises(RequestFailed):
                channel.open(data[:cut])
        channel.open(data)


def test_a_revoked_capability_stops_an_open_handle_before_the_answer(world):
    with world.server.api(world.node) as api:
        answer = api.post("/v1/capabilities", json={"resource": "volume/mem"}).json()
    with world.connect() as channel:
        handle, _ = channel.open(answer["token"])
        channel.read(handle, 0, 4096)
        world.server.cli("capability", "revoke", answer["id"], "--reason", "test")
        refused(Status.REVOKED, channel.read, handle, 0, 4096)
        refused(Status.REVOKED, channel.open, answer["token"])
    assert answer["id"] in world.server.text()


def test_an_expired_handle_is_renewed_in_place(world):
    with world.connect() as channel:
        handle, _ = channel.open(world.token(lifetimeSeconds=2))
        await_condition("expiry", lambda: channel.call(
            Opcode.READ, handle=handle, count=4096).status == Status.EXPIRED, seconds=60)
        refused(Status.DENIED, channel.renew, handle, world.token("disk"))
        channel.renew(handle, world.token())
        channel.read(handle, 0, 4096)


def test_a_volume_made_again_is_another_volume(world):
    world.server.volume("again", pool="ram", node="reader")
    token = world.token("again")
    world.server.cli("volume", "delete", "again", "--confirm", "again")
    world.server.cli("volume", "create", "again", "--size", "64MiB", "--pool", "ram")
    with world.connect() as channel:
        with pytest.raises(RequestFailed) as failure:
            channel.open(token)
        assert failure.value.status in (Status.STALE_EPOCH, Status.NOT_FOUND, Status.REVOKED)


def test_a_removed_node_is_stopped_everywhere_at_once(world):
    node = world.server.join("leaver")
    world.server.grant("mem", "leaver", "read")
    token = world.token("mem", credentials=node)
    with world.connect(node) as channel:
        handle, _ = channel.open(token)
        channel.read(handle, 0, 4096)
        world.server.cli("node", "remove", "leaver")
        with pytest.raises((RequestFailed, ChannelClosed)):
            channel.read(handle, 0, 4096)
    with world.server.api(node) as api:
        assert api.get("/v1/volumes").status_code in (401, 403)
    with world.connect(node) as channel:
        with pytest.raises(RequestFailed):
            channel.open(token)


# Many


def test_two_thousand_connections_at_once(world):
    connections = []
    try:
        for _ in range(2000):
            connections.append(socket.create_connection(world.server.channel_address, timeout=15))
        world.stays_alive()
    finally:
        for connection in connections:
            connection.close()
    world.stays_alive()


def test_a_thousand_idle_channels_cost_little(world):
    pid = world.server.process.pid
    with world.connect() as channel:
        channel.ping()
    before = resident_bytes(pid)
    channels = []
    try:
        for _ in range(1000):
            channels.append(world.connect())
        each = (resident_bytes(pid) - before) / 1000
        print(f"{each / KIB:.1f} KiB each")
        assert each <= 64 * KIB
    finally:
        for channel in channels:
            channel.socket.close()


def test_an_idle_server_uses_no_cpu(world):
    def ticks():
        with open(f"/proc/{world.server.process.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
            return int(fields[11]) + int(fields[12])

    with world.connect() as channel:
        channel.ping()
        let_pass(1)
        before = ticks()
        let_pass(5)
        assert ticks() - before <= 1
