"""Sessions over restarts of the server: who goes on with what, and what an application sees of it."""
import random
import signal

import pytest
from conftest import await_condition, let_pass
from resumable import PAGE, SEED, World, refused, write
from sluice_client import Opcode, Rights, SessionLost, Status
from sluice_client.frames import RequestHeader


@pytest.fixture
def lonely(tmp_path):
    """A server of this test's own, to be killed."""
    made = World(tmp_path, "--reactors", "2")
    yield made
    assert made.server.stop() == 0, made.server.text()[-2000:]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_writer_goes_on_after_a_restart_and_a_rival_never_gets_in(lonely, how):
    world = lonely
    channel = world.connect()
    handle, state = channel.open(world.token())
    channel.write(handle, 0, b"a" * PAGE)
    slot = write(channel, handle, 1, b"b")
    await_condition("the write", lambda: world.in_flight(channel) == 0)
    for _ in range(3):
        world.server.stop(how)
        world.server.start()
        with world.connect(world.other) as rival:
            conflict = refused(Status.WRITER_CONFLICT, rival.open, world.token(node=world.other))
        # When the last server heard of it is not on record, and not made up.
        assert "no connection since before the server's start at 20" in str(conflict), conflict
        known = next(iter(world.sessions().values()))
        assert known["state"] == "disconnected" and known["disconnectedSince"] is None and known["disconnectedBefore"], known
        shown = world.server.cli("session", "show", known["id"]).stdout
        assert "disconnected since before the server's start at 20" in shown, shown
        channel.drop()
        channel = world.resume(channel)
        assert channel.granted.resumption == 2
        handle, after = channel.open(world.token())
        assert after.epoch == state.epoch
        channel.repeat(handle)
        assert channel.wait(slot).status == Status.OK
        assert channel.read(handle, 0, 2 * PAGE) == b"a" * PAGE + b"b" * PAGE
        slot = write(channel, handle, 1, b"b")
    channel.wait(slot)
    channel.close()


def test_the_server_says_that_it_was_restarted_until_the_client_knows(lonely):
    world = lonely
    channel = world.connect()
    channel.open(world.token())
    world.server.stop(signal.SIGKILL)
    world.server.start()
    for _ in range(3):
        channel.drop()
        channel = world.resume(channel)
        assert channel.granted.resumption == 2, "the answer that said so may have been lost"
    channel.ping()
    channel.drop()
    channel = world.resume(channel)
    assert channel.granted.resumption == 1
    channel.close()


def test_after_a_restart_a_slot_takes_any_sequence_once_and_sequences_wrap(lonely):
    world = lonely
    channel = world.connect()
    channel.open(world.token())
    world.server.stop(signal.SIGKILL)
    world.server.start()
    channel.drop()
    channel = world.resume(channel)

    def ping(sequence):
        channel.send_raw(RequestHeader(opcode=Opcode.PING, slot=2, sequence=sequence).encode())
        return channel.receive_reply().status

    assert ping(0) == Status.BAD_SEQUENCE, "0 is never used"
    assert ping(0xFFFF_FFFF) == Status.OK
    assert [ping(sequence) for sequence in (0xFFFF_FFFF, 0, 2)] == [Status.BAD_SEQUENCE] * 3
    assert [ping(sequence) for sequence in (1, 2)] == [Status.OK] * 2
    channel.close()


def test_a_reader_without_a_claim_starts_anew_after_a_restart(lonely):
    world = lonely
    channel = world.connect()
    channel.open(world.token(), rights=Rights.READ)
    world.server.stop(signal.SIGKILL)
    world.server.start()
    refused(Status.NOT_FOUND, world.resume, channel)


def test_a_pool_that_does_not_start_keeps_others_away_from_its_writers(lonely):
    world = lonely
    world.server.cli("pool", "create", "extra", "--driver", "file")
    world.volume("more", pool="extra")
    channel = world.connect()
    handle, _ = channel.open(world.token("more"))
    channel.write(handle, 0, b"a" * PAGE)
    slot = write(channel, handle, 1, b"b")
    await_condition("the write", lambda: world.in_flight(channel) == 0)
    folder = world.server.data / "pools/extra"
    world.server.stop(signal.SIGKILL)
    folder.rename(folder.with_name("aside"))
    folder.touch()
    for _ in range(2):
        world.server.start()
        shown = world.server.json("volume", "show", "more")
        assert shown["state"] == "unavailable" and "pool extra does not run" in shown["message"]
        with world.connect(world.other) as rival:
            assert "does not run" in refused(
                Status.DRIVER_FAILED, rival.open, world.token("more", world.other)).message
        assert channel.session.hex() in world.sessions()
        world.server.stop(signal.SIGKILL)
    world.server.start()
    channel.drop()
    channel = world.resume(channel)
    assert channel.granted.resumption == 2
    refused(Status.DRIVER_FAILED, channel.open, world.token("more"))
    folder.unlink()
    folder.with_name("aside").rename(folder)
    world.server.cli("pool", "restart", "extra")
    with world.connect(world.other) as rival:
        refused(Status.WRITER_CONFLICT, rival.open, world.token("more", world.other))
    handle, _ = channel.open(world.token("more"))
    channel.repeat(handle)
    assert channel.wait(slot).status == Status.OK
    assert channel.read(handle, 0, 2 * PAGE) == b"a" * PAGE + b"b" * PAGE
    channel.close()


def test_what_was_in_memory_is_not_gone_on_with(lonely):
    world = lonely
    world.server.memory_pool()
    world.volume("ram", pool="ram")
    channel = world.connect()
    token = world.token("ram")
    handle, _ = channel.open(token)
    channel.write(handle, 0, b"m" * PAGE)
    world.server.stop(signal.SIGKILL)
    world.server.start()
    refused(Status.NOT_FOUND, world.resume, channel)
    with world.connect() as anew:
        gone = refused(Status.STALE_EPOCH, anew.open, token)
        assert "was lost when the server was started again" in gone.message
        handle, state = anew.open(world.token("ram"))
        assert state.epoch == 2 and anew.read(handle, 0, PAGE) == bytes(PAGE)
        anew.write(handle, 0, b"n" * PAGE)
    assert world.server.json("volume", "show", "ram")["state"] == "ready"
    assert "volume.emptied" in [event["kind"] for event in world.server.json("events")]


@pytest.mark.parametrize("how", ["fence", "disconnect"])
def test_a_restart_does_not_bring_back_who_was_cut_off(lonely, how):
    world = lonely
    channel = world.connect()
    channel.open(world.token())
    channel.drop()
    await_condition("the loss", lambda: world.in_flight(channel) == 0)
    world.server.cli(*(["volume", "fence", "disk"] if how == "fence"
                       else ["session", "disconnect", channel.session.hex(), "--end"]))
    world.server.stop(signal.SIGKILL)
    world.server.start()
    refused(Status.NOT_FOUND, world.resume, channel)
    with world.connect(world.other) as heir:
        heir.open(world.token(node=world.other))


def test_a_closed_writer_leaves_nothing_behind_after_a_restart(lonely):
    world = lonely
    channel = world.connect()
    channel.open(world.token())
    channel.close()
    await_condition("the end", lambda: channel.session.hex() not in world.sessions())
    world.server.stop(signal.SIGKILL)
    world.server.start()
    with world.connect(world.other) as heir:
        heir.open(world.token(node=world.other))


def test_a_session_that_may_write_nothing_ends_after_its_linger_time(tmp_path):
    world = World(tmp_path, SLUICE_SESSION_LINGER="1")
    reader, writer = world.connect(), world.connect()
    assert reader.granted.linger_seconds == 1
    reader.open(world.token(), rights=Rights.READ)
    writer.open(world.token())
    reader.drop()
    writer.drop()
    await_condition("the end", lambda: reader.session.hex() not in world.sessions())
    refused(Status.NOT_FOUND, world.resume, reader)
    let_pass(1)
    with world.resume(writer) as back:
        back.open(world.token())
    assert world.server.stop() == 0


def test_an_application_sees_pauses_and_no_errors_over_kills(lonely):
    world, generator = lonely, random.Random(SEED)
    told = []
    with world.session(on_resume=told.append) as session:
        content = {}
        for number in range(5):
            for _ in range(40):
                page = generator.randrange(64)
                content[page] = bytes([generator.randrange(256)]) * PAGE
                session.write(page * PAGE, content[page])
                assert session.read(page * PAGE, PAGE) == content[page]
            slots = [session.submit(Opcode.WRITE, content[page], offset=page * PAGE, count=PAGE)
                     for page in sorted(content)[:session.depth]]
            world.server.stop(signal.SIGKILL)
            world.server.start()
            for slot in slots:
                assert session.wait(slot).status == Status.OK
            for page, payload in content.items():
                assert session.read(page * PAGE, PAGE) == payload
    assert told == [2] * 5


def test_a_fenced_application_is_told_that_its_session_is_lost(lonely):
    world = lonely
    with world.session() as session:
        session.write(0, b"f" * PAGE)
        session.channel.drop()
        await_condition("the loss", lambda: world.in_flight(session.channel) == 0)
        world.server.cli("volume", "fence", "disk")
        with pytest.raises(SessionLost):
            session.write(0, b"g" * PAGE)
