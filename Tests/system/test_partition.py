"""A network that loses everything and tells nobody, and then delivers it late: fence and resume hold all the same."""
import pytest
from chaos.namespaces import Partition
from conftest import Server, await_condition, needs_root
from sluice_client import FEATURE_RESUME, Channel, ChannelClosed, Opcode, RequestFailed, Status

pytestmark = needs_root
PAGE = 4096


class World:
    """A server that a node reaches through a router, and another node beside it."""

    def __init__(self, folder, partition):
        self.partition = partition
        self.server = Server(folder, "--channel", f"{partition.server}:0", "--reactors", "2").start()
        self.node, self.other = self.server.join("compute"), self.server.join("other")
        self.server.volume("disk", node="compute")
        self.server.grant("disk", "other")
        endpoints = self.server.json("server", "show")["channel"]
        self.port = next(int(one.rsplit(":", 1)[1]) for one in endpoints if one.startswith(partition.server))

    def token(self, node):
        with self.server.api(node) as api:
            return api.post("/v1/capabilities", json={"resource": "volume/disk"}).json()["token"]

    def far(self, **options):
        """A channel of the node behind the router."""
        with self.partition.node.inside():
            return Channel((self.partition.server, self.port), **self.keys(self.node), **options)

    def near(self, node=None, **options):
        return Channel(self.server.channel_address, **self.keys(node or self.other), **options)

    def far_again(self, lost):
        with self.partition.node.inside():
            return Channel.resume(lost)

    @staticmethod
    def keys(node):
        return {"cafile": str(node / "ca.pem"), "certfile": str(node / "cert.pem"), "keyfile": str(node / "key.pem"),
                "server_name": "localhost", "features": FEATURE_RESUME, "timeout": 60}


@pytest.fixture
def world(tmp_path):
    with Partition() as partition:
        made = World(tmp_path, partition)
        yield made
        assert made.server.stop() == 0, made.server.text()[-2000:]


def test_a_write_that_the_network_kept_does_not_land_after_a_fence(world):
    old = world.far()
    handle, _ = old.open(world.token(world.node))
    old.write(handle, 0, b"a" * PAGE)
    with world.partition.broken():
        slots = [old.submit(Opcode.WRITE, b"o" * PAGE, handle=handle, offset=page * PAGE, count=PAGE)
                 for page in range(4)]
        world.server.cli("volume", "fence", "disk", "--reason", "nobody hears of it")
        with world.near() as heir:
            taken, _ = heir.open(world.token(world.other))
            heir.write(taken, 0, b"n" * PAGE)
    # The kernel of the node sends the writes again, and they arrive at a connection that was cut off.
    with world.near() as heir:
        taken, _ = heir.open(world.token(world.other))
        try:
            assert {old.wait(slot).status for slot in slots} == {Status.FENCED}
        except ChannelClosed:
            pass
        assert heir.read(taken, 0, 4 * PAGE) == b"n" * PAGE + bytes(3 * PAGE)
    old.drop()


@pytest.mark.parametrize("up, down", [(True, True), (True, False), (False, True)])
def test_what_an_old_connection_brings_late_is_not_executed(world, up, down):
    """The client comes back by another way while the server still takes the old connection for alive."""
    old = world.far()
    handle, _ = old.open(world.token(world.node))
    old.write(handle, 0, b"a" * PAGE)
    with world.partition.broken(up, down):
        slot = old.submit(Opcode.WRITE, b"b" * PAGE, handle=handle, count=PAGE)
        if not up:
            # It arrives, and its answer does not.
            with world.server.api(world.server.data / "admin") as api:
                await_condition("the write", lambda: written(api, old) == 2 * PAGE)
        back = Channel.resume(old, address=world.server.channel_address)
        taken, _ = back.open(world.token(world.node))
        back.repeat(taken)
        assert back.wait(slot).status == Status.OK
        back.write(taken, 0, b"c" * PAGE)
    # Now the old connection's write arrives, if it did not before.
    with pytest.raises((ChannelClosed, RequestFailed)):
        old.wait(slot)
        old.ping()
    assert back.read(taken, 0, PAGE) == b"c" * PAGE
    back.close()
    old.drop()


def written(api, channel):
    return api.get(f"/v1/sessions/{channel.session.hex()}").json()["bytesWritten"]


def test_a_client_behind_a_partition_goes_on_where_it_was(world):
    old = world.far()
    handle, _ = old.open(world.token(world.node))
    with world.partition.broken():
        slots = [old.submit(Opcode.WRITE, bytes([97 + page]) * PAGE, handle=handle, offset=page * PAGE, count=PAGE)
                 for page in range(8)]
        with world.near() as rival, pytest.raises(RequestFailed) as refused:
            rival.open(world.token(world.other))
        assert refused.value.status == Status.WRITER_CONFLICT
    old.drop()
    back = world.far_again(old)
    taken, _ = back.open(world.token(world.node))
    back.repeat(taken)
    assert all(back.wait(slot).status == Status.OK for slot in slots)
    assert back.read(taken, 0, 8 * PAGE) == b"".join(bytes([97 + page]) * PAGE for page in range(8))
    back.close()
