"""What clients saw of disks that lie, and of disks that lose power: the first is found out, the second keeps its promise."""
import math
import random
import threading

import pytest
from chaos.actors import PAGE, SharedVolume, Writer
from chaos.history import Violation, page, value_of
from conftest import await_condition
from sluice_client import Flags, Opcode, RequestFailed, Status

WRITING = "read,write,discard,flush"
SEED = 17


def fault_pool(server, rules, seed=1):
    server.cli("pool", "create", "shaky", "--driver", "fault", "--setting", "driver=file", "--setting",
               f"rules={rules}", "--setting", f"seed={seed}")


@pytest.mark.parametrize("rules", ["write every=40: bitflip", "read nth=40: bitflip"])
def test_a_disk_that_lies_is_found_out(server, rules):
    """That the campaign's check can fail: everything is as there, but the disk."""
    fault_pool(server, rules)
    volume = SharedVolume(server, lambda: server.channel_address, pool="shaky")
    writer = Writer(volume, volume.join("node", WRITING), "node", SEED)
    writer.start()
    await_condition("I/O", lambda: writer.failure or writer.operations > 600)
    writer.ends.set()
    writer.join(60)
    assert writer.failure is None, writer.failure
    with pytest.raises(Violation):
        volume.history.check()


class Application(threading.Thread):
    """One of two channels of a session: writes blocks of its own, and flushes for both, until the power is cut."""

    def __init__(self, volume, channel, handle, number):
        super().__init__()
        self.volume, self.channel, self.handle, self.number = volume, channel, handle, number
        self.random, self.failure = random.Random(SEED + number), None

    def run(self):
        try:
            while self.request(self.random.choices(["w", "fua", "f"], [40, 2, 1])[0]):
                pass
        except Exception as failure:
            self.failure = failure

    def request(self, kind):
        history = self.volume.history
        if kind == "f":
            operation = history.begin("f", client="node")
            reply = self.channel.call(Opcode.FLUSH, handle=self.handle)
        else:
            block = self.random.randrange(self.volume.blocks // 2) * 2 + self.number
            operation = history.begin("w", block, history.fresh(), "node", fua=kind == "fua")
            reply = self.channel.call(
                Opcode.WRITE, page(operation.value, block, PAGE), handle=self.handle, offset=block * PAGE, count=PAGE,
                flags=Flags.FUA if kind == "fua" else 0)
        history.end(operation, reply.status == Status.OK)
        assert reply.status in (Status.OK, Status.IO_ERROR), reply
        return reply.status == Status.OK


def test_a_flush_covers_what_was_answered_on_either_channel_and_a_power_cut_takes_only_the_rest(server):
    fault_pool(server, "")
    lost = 0
    for number in range(5):
        volume = SharedVolume(server, lambda: server.channel_address, f"disk-{number}", pool="shaky")
        node = volume.join(f"node-{number}", WRITING)
        server.cli("pool", "set", "shaky", "--setting", "driver=file", "--setting", f"seed={SEED + number}",
                   "--setting", f"rules=any nth={400 + 37 * number}: powercut")
        first = volume.connect(node, None)
        second = volume.connect(node, None, session=first.session, secret=first.secret)
        token = volume.capability(node)
        applications = [Application(volume, channel, channel.open(token)[0], index)
                        for index, channel in enumerate((first, second))]
        for application in applications:
            application.start()
        for application in applications:
            application.join(60)
            assert not application.is_alive() and application.failure is None, application.failure
        server.cli("pool", "set", "shaky", "--setting", "driver=file", "--setting", "rules=")
        server.cli("pool", "restart", "shaky")
        first.close()
        second.close()
        with volume.connect(node, None) as after:
            handle, _ = await_condition("the volume", lambda: opened(after, token))
            data = after.read(handle, 0, volume.blocks * PAGE)
        survivors = {block: value_of(data[block * PAGE:(block + 1) * PAGE], block) for block in range(volume.blocks)}
        volume.history.check_durability(survivors, math.inf)
        newest = {write.block: write.value for write in volume.history.operations if write.kind == "w" and write.ok}
        lost += sum(survivors[block] != value for block, value in newest.items())
    print(f"{lost} acknowledged writes that were not flushed are gone")
    assert lost > 0, "the power cuts took nothing, so that nothing was tried"


def opened(channel, token):
    try:
        return channel.open(token)
    except RequestFailed as refusal:
        # The sessions of before may not be gone yet.
        assert refusal.status == Status.WRITER_CONFLICT, refusal
        return None
