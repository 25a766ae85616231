"""Who wrote while a node was away: a device whose volume somebody else has written to fails, any other goes on."""
import os
import signal
import subprocess

import pytest
from conftest import await_condition, needs_root
from resumable import PAGE, SEED, World, refused
from sluice_client import RequestFailed, Status
from test_survival import FarNode

pytestmark = needs_root
LIFETIME = "15s"


@pytest.fixture
def far(server):
    node = FarNode(server, SEED)
    server.cli("volume", "create", "disk", "--size", "64MiB")
    server.cli("grant", "create", "far", "--node", "compute", "--resource", "volume/disk", "--rights",
               "read,write,discard,flush", "--lifetime-max", LIFETIME)
    node.other = server.join("other")
    server.grant("disk", "other")
    yield node
    node.sluice("detach", "--force", "volume/disk", check=False)
    node.close()


def status(server):
    return next(iter(server.json("status", credentials=server.folder / "node-compute")), {"state": "gone"})


def dd(device, seconds=60):
    return subprocess.run(
        ["dd", "if=/dev/urandom", f"of={device}", "bs=4k", "count=1", "oflag=direct"],
        capture_output=True, text=True, timeout=seconds).returncode


class Rival(World):
    """The other node, with the server that is there already."""

    def __init__(self, server, node):
        self.server, self.node = server, node

    def writes(self):
        """As soon as the one that is away has lost its claim."""
        with self.connect() as channel:
            def opened():
                try:
                    return channel.open(self.token())
                except RequestFailed as failure:
                    assert failure.status == Status.WRITER_CONFLICT
                    return None

            handle, state = await_condition("the volume", opened)
            channel.write(handle, 0, b"r" * PAGE)
            return state


def has_session(server):
    with server.api(server.data / "admin") as api:
        return any(one["node"] == "compute" for one in api.get("/v1/sessions").json()["items"])


@pytest.mark.parametrize("is_killed", [False, True], ids=["server-lives", "server-killed"])
@pytest.mark.parametrize("has_rival", [False, True], ids=["alone", "rival"])
def test_a_device_goes_on_unless_another_node_wrote_while_it_was_away(server, far, has_rival, is_killed):
    device = far.sluice("attach", "--channels", "2", "volume/disk").split()[-1]
    assert dd(device) == 0
    with far.data.refusing():
        await_condition("the loss", lambda: status(server)["state"] == "reconnecting")
        if has_rival:
            Rival(server, far.other).writes()
            # Who asked for the volume ended the other's claim; without that it stands for as long as nobody asks.
            await_condition("the end of the session", lambda: not has_session(server))
        if is_killed:
            server.stop(signal.SIGKILL)
            server.start()
    if has_rival:
        entry = await_condition("the end", lambda: next(
            (one for one in [status(server)] if one["state"] == "disconnected"), None))
        assert "another node wrote to the volume while this one was away" in entry["message"], entry
        assert dd(device) != 0
    else:
        await_condition("the connection", lambda: status(server)["state"] == "attached")
        assert dd(device) == 0


def test_a_process_that_was_stopped_does_not_renew_over_another_writer(server, far):
    device = far.sluice("attach", "volume/disk").split()[-1]
    assert dd(device) == 0
    process = status(server)["pid"]
    os.kill(process, signal.SIGSTOP)
    try:
        Rival(server, far.other).writes()
    finally:
        os.kill(process, signal.SIGCONT)
    entry = await_condition("the end", lambda: next(
        (one for one in [status(server)] if one["state"] == "disconnected"), None))
    assert "another node wrote to the volume while this one was away" in entry["message"], entry
    assert dd(device) != 0


def test_the_generation_rises_with_each_change_of_the_writer_and_with_nothing_else(tmp_path):
    world = World(tmp_path)
    one, two = os.urandom(16), os.urandom(16)

    def opened(instance, node=None, **options):
        channel = world.connect(node, instance=instance, **options)
        return channel, channel.open(world.token(node=node))[1].writer_generation

    def closed(channel):
        channel.close()
        await_condition("the end", lambda: channel.session.hex() not in world.sessions())

    channel, first = opened(one)
    with world.connect(session=channel.session, secret=channel.secret) as beside:
        assert beside.open(world.token())[1].writer_generation == first, "a second channel is no other writer"
    assert channel.open(world.token())[1].writer_generation == first
    with world.connect(world.other) as rival:
        refused(Status.WRITER_CONFLICT, rival.open, world.token(node=world.other))
    closed(channel)
    channel, again = opened(one)
    assert again == first, "a new session of the same instance is no other writer"
    world.server.stop(signal.SIGKILL)
    world.server.start()
    channel.drop()
    channel = world.resume(channel)
    assert channel.open(world.token())[1].writer_generation == first
    closed(channel)
    channel, other = opened(two)
    assert other == first + 1, "another instance of the same key is another writer"
    closed(channel)
    channel, key = opened(two, world.other)
    assert key == first + 2, "another key is another writer, whatever it says"
    closed(channel)
    for number in range(2):
        channel, anonymous = opened(bytes(16))
        assert anonymous == first + 3 + number, "without an instance every session is another writer"
        closed(channel)
    world.server.cli("volume", "mode", "disk", "shared")
    channel, shared = opened(one)
    beside, same = opened(two, world.other)
    assert shared == same == first + 5, "those who share are nobody in particular"
    closed(channel)
    closed(beside)
    world.server.stop(signal.SIGKILL)
    world.server.start()
    world.server.cli("volume", "mode", "disk", "single-writer")
    channel, alone = opened(two, world.other)
    assert alone == first + 6
    closed(channel)
    assert world.server.stop() == 0
