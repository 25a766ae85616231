"""Single-writer volumes: who is refused and what they are told, and fences that hold whatever the driver does."""
import os
import pathlib
import re
import signal
import threading
import time

import pytest
from conftest import Server, await_condition
from sluice_client import Channel, Opcode, RequestFailed, Rights, Status

PAGE = 4096
# What the documentation states: a driver that hangs delays whoever fences, revokes or disconnects no longer.
BOUND_SECONDS = 5
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"


def token(server, node, volume):
    with server.api(node) as api:
        return api.post("/v1/capabilities", json={"resource": f"volume/{volume}"}).json()["token"]


def connect(server, node):
    return Channel(server.channel_address, cafile=str(node / "ca.pem"), certfile=str(node / "cert.pem"),
                   keyfile=str(node / "key.pem"), timeout=60)


def host(server, pool):
    return server.json("driver", "show", pool)


def in_flight(api):
    return sum(session["inFlight"] for session in api.get("/v1/sessions").json()["items"])


def pool_on_fault(server, rules=""):
    """A pool whose driver can be told to hang."""
    server.cli("pool", "create", "shaky", "--driver", "fault", "--setting", "driver=file", "--setting",
               f"rules={rules}")
    server.volume("disk", pool="shaky", node="old")
    server.grant("disk", "new")


@pytest.fixture
def nodes(server):
    return server.join("old"), server.join("new")


def test_the_second_writer_is_told_who_holds_it_and_since_when(server, nodes):
    old, new = nodes
    server.volume("disk", node="old")
    server.grant("disk", "new")
    assert server.json("volume", "show", "disk")["writers"] == []
    with connect(server, old) as channel, connect(server, new) as rival:
        channel.open(token(server, old, "disk"))
        with pytest.raises(RequestFailed) as refused:
            rival.open(token(server, new, "disk"), Rights.READ | Rights.WRITE)
        assert refused.value.status == Status.WRITER_CONFLICT
        session = channel.session.hex()
        words = rf"volume disk is being written by node old, session {session[:8]}, since {TIME}"
        assert re.fullmatch(words, refused.value.message), refused.value.message
        for command in (["bench", "volume/disk", "--rw", "randwrite", "--time", "1"], ["attach", "volume/disk"]):
            failed = server.cli(*command, credentials=new, check=False)
            assert failed.returncode != 0
            assert re.search(words, failed.stderr), failed.stderr
        writer, = server.json("volume", "show", "disk")["writers"]
        assert writer["node"] == "old" and writer["session"] == session and re.fullmatch(TIME, writer["since"])
        assert f"node old, session {session[:8]}" in server.cli("volume", "show", "disk").stdout


def test_a_fence_hands_the_volume_over(server, nodes):
    old, new = nodes
    server.volume("disk", node="old")
    server.grant("disk", "new")
    stale = token(server, old, "disk")
    with connect(server, old) as channel, connect(server, new) as heir:
        handle, _ = channel.open(stale)
        channel.write(handle, 0, b"o" * PAGE)
        said = server.cli("volume", "fence", "disk", "--reason", "it is old").stdout
        assert "epoch is 2" in said and f"node old (session {channel.session.hex()[:8]})" in said
        taken, _ = heir.open(token(server, new, "disk"))
        heir.write(taken, 0, b"n" * PAGE)
        assert channel.call(Opcode.WRITE, b"o" * PAGE, handle=handle, count=PAGE).status == Status.FENCED
        event, = channel.events
        assert event.status == Status.FENCED and re.fullmatch(r"fenced by admin:.*: it is old", event.text), event
        with pytest.raises(RequestFailed) as refused:
            channel.open(stale)
        assert refused.value.status == Status.STALE_EPOCH
        with server.api(server.data / "admin") as api:
            listed = api.get("/v1/capabilities").json()["items"]
        assert [item["revoked"] for item in listed if item["node"] == "old"] == [True]
        with pytest.raises(RequestFailed) as refused:
            channel.open(token(server, old, "disk"))
        assert refused.value.status == Status.WRITER_CONFLICT, "the grant is there, the volume is taken"
        server.cli("grant", "delete", "old-disk")
        with server.api(old) as api:
            answer = api.post("/v1/capabilities", json={"resource": "volume/disk"})
            assert answer.json()["code"] == "NO_GRANT"
        assert heir.read(taken, 0, PAGE) == b"n" * PAGE
    kinds = [event["kind"] for event in server.json("events")]
    assert "volume.fenced" in kinds


class Fencing(threading.Thread):
    """An administrator's command, and how long it took."""

    def __init__(self, server, *command):
        super().__init__()
        self.server, self.command, self.failure = server, command, None

    def run(self):
        started = time.monotonic()
        try:
            self.server.cli(*self.command)
        except AssertionError as failure:
            self.failure = failure
        self.seconds = time.monotonic() - started

    def finish(self):
        self.join(60)
        assert not self.is_alive() and self.failure is None, self.failure
        return self.seconds


def hang(server):
    """From now on the driver begins no write, whichever host it runs in."""
    server.cli("pool", "set", "shaky", "--setting", "driver=file", "--setting", "rules=write: hang")


def stop(pid):
    """SIGSTOP, and the moment from which no thread of the process runs: the signal alone does not say that."""
    os.kill(pid, signal.SIGSTOP)

    def states():
        for stat in pathlib.Path(f"/proc/{pid}/task").glob("*/stat"):
            yield stat.read_text().rpartition(")")[2].split()[0]

    await_condition("the process to stop", lambda: set(states()) == {"T"})


def give_writes_that_stay(server, channel, handle, api, how):
    """Four writes that a driver has and does not answer, and the host that has them.

    A stopped host is replaced after two seconds, and its writes are done by the next one: where that came first,
    everything is put back and tried again.
    """
    for _ in range(5):
        before = host(server, "shaky")
        if how == "stopped":
            stop(before["pid"])
        slots = [channel.submit(Opcode.WRITE, b"b" * PAGE, handle=handle, offset=number * PAGE, count=PAGE)
                 for number in range(4)]
        await_condition("the writes", lambda: in_flight(api) == 4 or host(server, "shaky")["pid"] != before["pid"])
        if in_flight(api) == 4 and host(server, "shaky")["pid"] == before["pid"]:
            return before, slots
        assert how == "stopped", "a host that hangs was replaced before its deadline"
        for slot in slots:
            channel.wait(slot)
        channel.write(handle, 0, b"a" * PAGE + bytes(3 * PAGE))
    pytest.fail("the machine is too slow to fence a stopped host within two seconds")


@pytest.mark.parametrize("how", ["hang", "stopped"])
def test_a_driver_that_hangs_does_not_delay_a_fence_and_the_write_never_appears(server, nodes, how):
    old, new = nodes
    pool_on_fault(server)
    with connect(server, old) as channel, connect(server, new) as heir:
        handle, _ = channel.open(token(server, old, "disk"))
        channel.write(handle, 0, b"a" * PAGE)
        if how == "hang":
            hang(server)
        with server.api(server.data / "admin") as api:
            before, slots = give_writes_that_stay(server, channel, handle, api, how)
        fencing = Fencing(server, "volume", "fence", "disk", "--reason", "it hangs")
        fencing.start()
        took = fencing.finish()
        assert took < BOUND_SECONDS, f"the fence took {took:.2f} s"
        assert [channel.wait(slot).status for slot in slots] == [Status.FENCED] * 4
        await_condition("the next host", lambda: host(server, "shaky")["state"] == "running")
        after = host(server, "shaky")
        assert after["pid"] != before["pid"] and after["replayed"] == before["replayed"], after
        assert after["ends"]["hang"] == before["ends"].get("hang", 0) + 1, after
        taken, _ = heir.open(token(server, new, "disk"))
        for number in range(4):
            page = heir.read(taken, number * PAGE, PAGE)
            assert page == (b"a" if number == 0 else b"\0") * PAGE, "a fenced write has landed"
    print(f"{how}: the fence took {took:.2f} s")


@pytest.mark.parametrize("what", ["disconnect", "remove", "revoke"])
def test_a_driver_that_hangs_does_not_delay_other_ways_to_cut_somebody_off(server, nodes, what):
    old, new = nodes
    pool_on_fault(server, "write: hang")
    with connect(server, old) as channel, connect(server, new) as heir:
        handle, _ = channel.open(token(server, old, "disk"))
        channel.submit(Opcode.WRITE, b"b" * PAGE, handle=handle, count=PAGE)
        with server.api(server.data / "admin") as api:
            await_condition("the write", lambda: in_flight(api) == 1)
            capability = api.get("/v1/capabilities").json()["items"][0]["id"]
        command = {"disconnect": ["session", "disconnect", channel.session.hex(), "--end"], "remove": ["node", "remove", "old"],
                   "revoke": ["capability", "revoke", capability]}[what]
        cutting = Fencing(server, *command)
        cutting.start()
        took = cutting.finish()
        assert took < BOUND_SECONDS, f"it took {took:.2f} s"
        await_condition("the next host", lambda: host(server, "shaky")["state"] == "running")
        assert host(server, "shaky")["replayed"] == 0
        taken, _ = heir.open(token(server, new, "disk"))
        assert heir.read(taken, 0, PAGE) == bytes(PAGE), "a write of somebody who was cut off has landed"
    print(f"{what}: it took {took:.2f} s")


def test_a_neighbour_of_a_fenced_volume_sees_a_pause_and_no_error(server, nodes):
    old, new = nodes
    pool_on_fault(server, "zeroes: hang")
    server.volume("other", pool="shaky", node="new")
    with connect(server, old) as channel, connect(server, new) as neighbour:
        beside, _ = neighbour.open(token(server, new, "other"))
        neighbour.write(beside, 0, b"x" * PAGE)
        handle, _ = channel.open(token(server, old, "disk"))
        slot = channel.submit(Opcode.WRITE_ZEROES, handle=handle, count=PAGE)
        with server.api(server.data / "admin") as api:
            await_condition("the request", lambda: in_flight(api) == 1)
        fencing = Fencing(server, "volume", "fence", "disk")
        fencing.start()
        number = 0
        while fencing.is_alive():
            number += 1
            neighbour.write(beside, number % 16 * PAGE, bytes([number % 256]) * PAGE)
        assert fencing.finish() < BOUND_SECONDS
        assert channel.wait(slot).status == Status.FENCED
        assert neighbour.read(beside, number % 16 * PAGE, PAGE) == bytes([number % 256]) * PAGE


def test_a_fence_outlives_the_server(tmp_path):
    server = Server(tmp_path).start()
    try:
        node = server.join("old")
        server.volume("disk", node="old")
        stale = token(server, node, "disk")
        server.cli("volume", "fence", "disk")
        server.stop(signal.SIGKILL)
        server.start()
        with connect(server, node) as channel, pytest.raises(RequestFailed) as refused:
            channel.open(stale)
        assert refused.value.status == Status.STALE_EPOCH
    finally:
        assert server.stop() == 0
