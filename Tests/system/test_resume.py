"""Resume against the real server: what a repeat is answered, what a fence waits for, who may go on with a channel."""
import itertools
import random
import struct

import pytest
from conftest import await_condition
from crash_consistency.request_log import WRITE
from resumable import PAGE, SEED, World, refused, write, writes
from sluice_client import FEATURE_RESUME, ChannelClosed, Opcode, RequestFailed, Rights, Status, capability_bytes
from sluice_client.frames import HELLO_RESUMES, Hello, OpenRequest, RequestHeader


@pytest.fixture(scope="module", params=[1, 2], ids=["one-reactor", "two-reactors"])
def world(request, tmp_path_factory):
    made = World(tmp_path_factory.mktemp("resume"), "--reactors", str(request.param))
    yield made
    assert made.server.stop() == 0, made.server.text()[-2000:]


_names = itertools.count()


@pytest.fixture
def recorded(world):
    name = f"recorded-{next(_names)}"
    log = world.recorded(name)
    yield name, log
    log.close()


LOSSES = {
    "fin": lambda channel: channel.drop(),
    "reset": lambda channel: channel.drop(reset=True),
    "alive": lambda channel: None,
}


# What a repeat is answered


@pytest.mark.parametrize("loss", LOSSES)
def test_a_write_that_was_executed_is_answered_and_not_executed_again(world, recorded, loss):
    name, log = recorded
    lost = world.connect()
    handle, _ = lost.open(world.token(name))
    slots = [write(lost, handle, page, bytes([97 + page])) for page in range(4)]
    await_condition("the writes", lambda: len(writes(log)) == 4 and world.in_flight(lost) == 0)
    LOSSES[loss](lost)
    with world.resume(lost) as channel:
        assert channel.granted.resumption == 1 and channel.granted.slots == lost.granted.slots
        taken, _ = channel.open(world.token(name))
        assert channel.repeat(taken) == slots
        assert [channel.wait(slot).check().header.value for slot in slots] == [PAGE] * 4
        assert sorted(writes(log)) == [b"a", b"b", b"c", b"d"]
        channel.write(taken, 0, b"e" * PAGE)
        assert channel.read(taken, 0, 2 * PAGE) == b"e" * PAGE + b"b" * PAGE
    lost.drop()


def test_requests_of_every_kind_go_on(world):
    lost = world.connect()
    handle, _ = lost.open(world.token())
    lost.write(handle, 0, b"r" * PAGE)
    slots = {
        lost.submit(Opcode.READ, handle=handle, count=PAGE): PAGE,
        lost.submit(Opcode.FLUSH, handle=handle): 0,
        lost.submit(Opcode.WRITE_ZEROES, handle=handle, offset=PAGE, count=PAGE): PAGE,
        lost.submit(Opcode.DISCARD, handle=handle, offset=2 * PAGE, count=PAGE): PAGE,
        lost.submit(Opcode.PING): 0,
    }
    lost.drop()
    with world.resume(lost) as channel:
        taken, _ = channel.open(world.token())
        channel.repeat(taken)
        for slot, value in slots.items():
            reply = channel.wait(slot).check()
            assert reply.header.value == value
            if reply.header.opcode == Opcode.READ:
                assert reply.payload == b"r" * PAGE


def test_an_error_is_answered_again_from_memory(world, recorded):
    name, log = recorded
    world.server.cli("pool", "set", name, "--setting", "driver=file", "--setting", "rules=write nth=1: error medium")
    lost = world.connect()
    handle, state = lost.open(world.token(name))
    failing = write(lost, handle, 0, b"a")
    beyond = write(lost, handle, state.size // PAGE, b"b")
    await_condition("the answers", lambda: world.in_flight(lost) == 0)
    lost.drop()
    with world.resume(lost) as channel:
        taken, _ = channel.open(world.token(name))
        channel.repeat(taken)
        assert channel.wait(failing).status == Status.MEDIUM_ERROR
        assert channel.wait(beyond).status == Status.OUT_OF_RANGE
        assert writes(log) == [], "a failed write was executed after all"
        channel.write(taken, 0, b"c" * PAGE)


@pytest.mark.parametrize("sent", [1, 31, 32, 33, 32 + PAGE // 2, 32 + PAGE - 1])
def test_a_write_that_was_sent_in_part_is_not_executed_until_it_is_repeated(world, recorded, sent):
    name, log = recorded
    lost = world.connect()
    handle, _ = lost.open(world.token(name))
    lost.write(handle, PAGE, b"x" * PAGE)
    slot = write(lost, handle, 1, b"y", slot=5)
    assert lost.wait(slot).status == Status.OK
    header = lost.request_header(Opcode.WRITE, slot=slot, length=PAGE, handle=handle, count=PAGE)
    lost.send_raw((header.encode() + b"z" * PAGE)[:sent])
    lost.drop()
    with world.resume(lost) as channel:
        taken, _ = channel.open(world.token(name), rights=Rights.READ | Rights.WRITE)
        assert writes(log) == [b"x", b"y"]
        # Whether the server has seen the header or not, it goes on with this sequence.
        frame = RequestHeader(0, Opcode.PING, 0, slot, 0, header.sequence + 1)
        channel.send_raw(frame.encode())
        assert channel.receive_reply().status == Status.BAD_SEQUENCE
        frame = RequestHeader(PAGE, Opcode.WRITE, 0, slot, 0, header.sequence, taken, PAGE, 0)
        channel.send_raw(frame.encode() + b"z" * PAGE)
        assert channel.receive_reply().status == Status.OK
        assert writes(log) == [b"x", b"y", b"z"]
        assert channel.read(taken, 0, PAGE) == b"z" * PAGE


def test_other_sequences_are_refused_and_use_nothing_up(world):
    lost = world.connect()
    handle, _ = lost.open(world.token())
    for byte in (b"a", b"b", b"c"):
        assert lost.wait(write(lost, handle, 0, byte, slot=3)).status == Status.OK
    lost.drop()
    with world.resume(lost) as channel:
        for sequence in (0, 1, 2, 5, 6, 0xFFFFFFFF):
            channel.send_raw(RequestHeader(opcode=Opcode.PING, slot=3, sequence=sequence).encode())
            assert channel.receive_reply().status == Status.BAD_SEQUENCE, sequence
        # A PING in place of the last WRITE is answered as the WRITE was.
        channel.send_raw(RequestHeader(opcode=Opcode.PING, slot=3, sequence=3).encode())
        reply = channel.receive_reply()
        assert (reply.status, reply.header.opcode, reply.header.value) == (Status.OK, Opcode.WRITE, PAGE)
        channel.send_raw(RequestHeader(opcode=Opcode.PING, slot=3, sequence=4).encode())
        assert channel.receive_reply().header.opcode == Opcode.PING


def test_a_channel_may_be_lost_again_and_again(world, recorded):
    name, log = recorded
    channel = world.connect()
    handle, _ = channel.open(world.token(name))
    slots = [write(channel, handle, page, bytes([65 + page])) for page in range(8)]
    await_condition("the writes", lambda: world.in_flight(channel) == 0 and len(writes(log)) == 8)
    for number in range(6):
        channel.drop(reset=number % 2 == 0)
        channel = world.resume(channel)
        if number % 3:
            handle, _ = channel.open(world.token(name))
    handle, _ = channel.open(world.token(name))
    channel.repeat(handle)
    assert all(channel.wait(slot).status == Status.OK for slot in slots)
    assert len(writes(log)) == 8
    channel.close()


# The fence


def test_hello_is_answered_when_the_old_connection_has_nothing_left(world):
    name = f"slow-{next(_names)}"
    log = world.recorded(name, "write: delay 700ms")
    old = world.connect()
    handle, _ = old.open(world.token(name))
    slots = [write(old, handle, page, b"s") for page in range(3)]
    await_condition("the writes", lambda: world.in_flight(old) == 3)
    with world.resume(old) as channel:
        log.read()
        changes = [request for request in log.requests if request.opcode == WRITE]
        assert all(request.end is not None for request in changes), "HELLO was answered before the driver was done"
        before = len(changes)
        taken, _ = channel.open(world.token(name))
        channel.repeat(taken)
        assert all(channel.wait(slot).status == Status.OK for slot in slots)
        assert len(writes(log)) == 3, f"{before} had been executed when HELLO was answered"
        with pytest.raises((ChannelClosed, TimeoutError)):
            while True:
                old.receive()
    log.close()


def test_of_several_that_resume_the_last_gets_the_channel(world):
    name = f"slow-{next(_names)}"
    world.recorded(name, "write: delay 1500ms").close()
    old = world.connect()
    handle, _ = old.open(world.token(name))
    slot = write(old, handle, 0, b"s")
    await_condition("the write", lambda: world.in_flight(old) == 1)
    first = ask(world, old)
    await_condition("the fence", lambda: is_closed(old))
    with world.resume(old) as channel:
        reply = first.receive_reply()
        assert reply.status == Status.BUSY, reply
        with pytest.raises(ChannelClosed):
            first.receive()
        taken, _ = channel.open(world.token(name))
        channel.repeat(taken)
        assert channel.wait(slot).status == Status.OK


def ask(world, old):
    """A connection that has said HELLO to resume, and has no answer yet."""
    hello = Hello(features=FEATURE_RESUME, session=old.session, secret=old.secret, flags=HELLO_RESUMES).encode()
    connection = world.connect(hello=False)
    connection.send_raw(RequestHeader(length=len(hello), opcode=Opcode.HELLO).encode() + hello)
    return connection


def test_of_a_crowd_that_resumes_one_gets_the_channel(world):
    name = f"slow-{next(_names)}"
    log = world.recorded(name, "write: delay 4s")
    old = world.connect()
    handle, _ = old.open(world.token(name))
    slot = write(old, handle, 0, b"s")
    await_condition("the write", lambda: world.in_flight(old) == 1)
    crowd = [ask(world, old) for _ in range(50)]
    statuses = [one.receive_reply().status for one in crowd]
    assert sorted(statuses) == [Status.OK] + [Status.BUSY] * 49, statuses
    with world.resume(old) as channel:
        taken, _ = channel.open(world.token(name))
        channel.repeat(taken)
        assert channel.wait(slot).status == Status.OK and writes(log) == [b"s"]
    for one in crowd:
        one.drop()
    log.close()


def is_closed(channel):
    channel.socket.settimeout(0.05)
    try:
        channel.receive()
    except TimeoutError:
        return False
    except ChannelClosed:
        return True
    return False


def test_one_that_waits_for_the_fence_and_leaves_takes_nothing_with_it(world):
    name = f"slow-{next(_names)}"
    log = world.recorded(name, "write: delay 700ms")
    old = world.connect()
    handle, _ = old.open(world.token(name))
    slot = write(old, handle, 0, b"s")
    await_condition("the write", lambda: world.in_flight(old) == 1)
    for _ in range(3):
        ask(world, old).drop(reset=True)
    with world.resume(old) as channel:
        taken, _ = channel.open(world.token(name))
        channel.repeat(taken)
        assert channel.wait(slot).status == Status.OK and writes(log) == [b"s"]
    log.close()


# Who may go on


def test_only_the_key_and_the_secret_of_the_session_resume_it(world):
    lost = world.connect()
    handle, _ = lost.open(world.token())
    lost.write(handle, 0, b"k" * PAGE)
    lost.drop()
    flipped = bytes([lost.secret[0] ^ 1]) + lost.secret[1:]
    refused(Status.DENIED, world.resume, lost, secret=flipped)
    refused(Status.DENIED, world.resume, lost, secret=bytes(32))
    refused(Status.DENIED, world.resume, lost, **world.keys(world.other))
    refused(Status.NOT_FOUND, world.resume, lost, session=bytes(15) + b"\1")
    lost.granted.channel = 7
    refused(Status.NOT_FOUND, world.resume, lost)
    lost.granted.channel = 0
    refused(Status.BAD_REQUEST, world.resume, lost, features=0)
    with world.resume(lost) as channel:
        handle, _ = channel.open(world.token())
        assert channel.read(handle, 0, PAGE) == b"k" * PAGE


def test_a_closed_channel_is_gone(world):
    closed = world.connect()
    closed.open(world.token())
    closed.close()
    await_condition("the end", lambda: closed.session.hex() not in world.sessions())
    refused(Status.NOT_FOUND, world.resume, closed)


def test_without_resume_a_lost_connection_ends_its_session(world):
    lost = world.connect(features=0)
    assert lost.granted.features == 0 and lost.granted.linger_seconds == 0
    lost.open(world.token())
    lost.drop()
    await_condition("the end", lambda: lost.session.hex() not in world.sessions())
    refused(Status.NOT_FOUND, world.resume, lost)


def test_channels_of_a_session_are_resumed_each_by_itself(world, recorded):
    name, log = recorded
    first = world.connect()
    second = world.connect(session=first.session, secret=first.secret)
    handles = [channel.open(world.token(name))[0] for channel in (first, second)]
    slots = [write(channel, handle, page, bytes([97 + page]))
             for page, (channel, handle) in enumerate(zip((first, second), handles))]
    await_condition("the writes", lambda: len(writes(log)) == 2 and world.in_flight(first) == 0)
    second.drop()
    assert first.wait(slots[0]).status == Status.OK
    with world.resume(second) as channel:
        assert channel.granted.channel == 1
        taken, _ = channel.open(world.token(name))
        channel.repeat(taken)
        assert channel.wait(slots[1]).status == Status.OK
        first.flush(handles[0])
    assert sorted(writes(log)) == [b"a", b"b"]
    first.close()


@pytest.mark.parametrize("how", ["fence", "disconnect"])
@pytest.mark.parametrize("state", ["lost", "connected"])
def test_who_was_cut_off_does_not_come_back(world, how, state):
    name = f"cut-{next(_names)}"
    world.volume(name)
    channel, stale = world.connect(), world.token(name)
    handle, _ = channel.open(stale)
    channel.write(handle, 0, b"o" * PAGE)
    if state == "lost":
        channel.drop()
        await_condition("the loss", lambda: world.in_flight(channel) == 0)
    command = ["volume", "fence", name] if how == "fence" else ["session", "disconnect", channel.session.hex(), "--end"]
    world.server.cli(*command)
    if state == "connected":
        channel.drop()
    refused(Status.NOT_FOUND, world.resume, channel)
    with world.connect(world.other) as heir:
        taken, _ = heir.open(world.token(name, world.other))
        assert heir.read(taken, 0, PAGE) == b"o" * PAGE


def test_a_lost_writer_keeps_its_claim_until_it_is_taken_over(world):
    name = f"claim-{next(_names)}"
    world.volume(name)
    lost = world.connect()
    lost.open(world.token(name))
    with world.connect() as rival:
        refused(Status.WRITER_CONFLICT, rival.open, world.token(name))
        refused(Status.WRITER_CONFLICT, rival.open, world.token(name), take_over=True)
        lost.drop()

        def taken():
            try:
                return rival.open(world.token(name), take_over=True)
            except RequestFailed as failure:
                assert failure.status == Status.WRITER_CONFLICT
                return None

        with world.connect(world.other) as stranger:
            refused(Status.WRITER_CONFLICT, stranger.open, world.token(name, world.other))
            refused(Status.WRITER_CONFLICT, stranger.open, world.token(name, world.other), take_over=True)
        refused(Status.WRITER_CONFLICT, rival.open, world.token(name))
        handle, _ = await_condition("the take-over", taken)
        rival.write(handle, 0, b"t" * PAGE)
        refused(Status.NOT_FOUND, world.resume, lost)


# Hostile


def test_no_hello_that_resumes_harms_the_server_or_the_session(world):
    generator = random.Random(SEED)
    lost = world.connect()
    handle, _ = lost.open(world.token())
    lost.write(handle, 0, b"h" * PAGE)
    slot = write(lost, handle, 1, b"i")
    lost.drop()
    right = Hello(features=FEATURE_RESUME, session=lost.session, secret=lost.secret, flags=HELLO_RESUMES).encode()
    for number in range(200):
        body = bytearray(right)
        # The right key with a wrong secret, or another key: what else is wrong makes no difference.
        node = generator.choice([world.node, world.other])
        body[generator.randrange(48, 80)] ^= 1 << generator.randrange(8)
        for _ in range(generator.randrange(4)):
            body[generator.randrange(len(body))] ^= 1 << generator.randrange(8)
        if number % 5 == 0:
            body[26:28] = struct.pack("<H", generator.randrange(1 << 16))
        cut = generator.randrange(len(body)) if number % 7 == 0 else len(body)
        stranger = world.connect(node, hello=False)
        stranger.send_raw(RequestHeader(length=cut, opcode=Opcode.HELLO).encode() + bytes(body[:cut]))
        try:
            reply = stranger.receive_reply()
            assert reply.status != Status.OK, bytes(body).hex()
        except ChannelClosed:
            pass
        stranger.drop()
    with world.resume(lost) as channel:
        taken, _ = channel.open(world.token())
        channel.repeat(taken)
        assert channel.wait(slot).status == Status.OK
        assert channel.read(taken, 0, 2 * PAGE) == b"h" * PAGE + b"i" * PAGE


class SlotModel:
    """What the table of section 4 says of one slot, when everything on it was answered before the connection was lost."""

    def __init__(self):
        self.last, self.opcode, self.is_first = 0, None, False

    def takes(self, sequence, opcode):
        """The opcode of the answer, or None for BAD_SEQUENCE."""
        if self.is_first and self.last and sequence == self.last:
            if self.opcode == Opcode.WRITE:
                return Opcode.WRITE
        elif sequence != self.last + 1:
            return None
        self.last, self.opcode, self.is_first = sequence, opcode, False
        return opcode


def test_any_frames_over_any_losses_are_answered_as_the_table_says(world):
    generator = random.Random(SEED)
    channel = world.connect(slots=4)
    handle, _ = channel.open(world.token())
    models = [SlotModel() for _ in range(4)]
    models[0].takes(1, Opcode.OPEN)
    answers = {"bad": 0, "kept": 0, "done": 0}
    for _ in range(600):
        if generator.random() < 0.05:
            channel.drop(reset=generator.random() < 0.5)
            channel = world.resume(channel)
            for model in models:
                model.is_first = True
            handle = None
        slot = generator.randrange(4)
        model = models[slot]
        near = model.last + generator.randrange(-1, 3)
        sequence = max(0, near) if generator.random() < 0.9 else generator.randrange(1 << 32)
        opcode = Opcode.OPEN if handle is None else generator.choice([Opcode.PING, Opcode.READ, Opcode.WRITE])
        body = OpenRequest(1, 0, capability_bytes(world.token())).encode() if opcode == Opcode.OPEN else b""
        io = {"handle": handle, "count": PAGE} if opcode in (Opcode.READ, Opcode.WRITE) else {}
        payload = bytes(PAGE) if opcode == Opcode.WRITE else body
        header = RequestHeader(length=len(payload), opcode=opcode, slot=slot, sequence=sequence, **io)
        channel.send_raw(header.encode() + payload)
        reply = channel.receive_reply()
        kept, expected = model.opcode, model.takes(sequence, opcode)
        if expected is None:
            assert reply.status == Status.BAD_SEQUENCE, (vars(model), header, reply)
            answers["bad"] += 1
            continue
        assert (reply.status, reply.header.opcode) == (Status.OK, expected), (vars(model), kept, header, reply)
        if opcode == Opcode.OPEN and expected == Opcode.OPEN:
            handle = reply.header.value
        answers["done" if expected == opcode else "kept"] += 1
    assert min(answers.values()) > 3, answers
    channel.close()


def test_cuts_at_random_lose_nothing_and_repeat_nothing(world, recorded):
    """Every write is a number of its own: each reaches the device once, and the last one of each page is there."""
    name, log = recorded
    generator = random.Random(SEED)
    pages, number = {}, 0
    with world.session(name) as session:
        for _ in range(60):
            slots = {}
            for _ in range(generator.randrange(1, session.depth)):
                number += 1
                page = generator.choice([page for page in range(64) if page not in slots.values()])
                payload = struct.pack("<Q", number) * (PAGE // 8)
                slot = session.submit(Opcode.WRITE, payload, offset=page * PAGE, count=PAGE)
                slots[slot] = page
                pages[page] = payload
                if generator.random() < 0.05:
                    session.channel.drop(reset=generator.random() < 0.5)
            for slot in slots:
                assert session.wait(slot).status == Status.OK
        assert session.resumptions > 10
        for page, payload in pages.items():
            assert session.read(page * PAGE, PAGE) == payload
    log.read()
    executed = [request.payload[:8] for request in log.requests if request.opcode == WRITE]
    assert len(executed) == number and len(set(executed)) == number
