"""The campaigns: servers, connections, driver hosts and writers are lost at random, and no application hears of it.

SLUICE_SURVIVAL_SECONDS says for how long; SLUICE_SEED says which way it goes.
"""
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import time

import pytest
from chaos.actors import Reader, SharedVolume, Writer
from chaos.namespaces import Namespace
from chaos.proxy import DOWN, UP, Proxy
from conftest import BINARIES, Server, await_condition, let_pass, needs_root

SECONDS = float(os.environ.get("SLUICE_SURVIVAL_SECONDS", "10"))
SEED = int(os.environ.get("SLUICE_SEED", "7"))
# Long enough for whatever was begun to end, however slow the machine.
PATIENCE = 120


class Chaos:
    """What happens to a server and its connections: one thing after another, with some I/O in between."""

    def __init__(self, server, proxy, generator, pool="default"):
        self.server, self.proxy, self.random, self.pool = server, proxy, generator, pool
        self.counts = {}
        self.deeds = {
            "kill": self.kill, "restart": self.restart, "cut": self.cut, "stall": self.stall,
            "truncate": self.proxy.truncate, "hole": self.hole, "host": self.host, "refuse": self.refuse}

    def do(self, name):
        self.counts[name] = self.counts.get(name, 0) + 1
        self.deeds[name]()

    def run(self, seconds, goes_on):
        """Until the time is over, and each deed was done at least once; `goes_on` returns when I/O has been seen."""
        deadline = time.monotonic() + seconds
        names = list(self.deeds)
        self.random.shuffle(names)
        while names or time.monotonic() < deadline:
            self.do(names.pop() if names else self.random.choice(list(self.deeds)))
            goes_on()

    def kill(self):
        self.server.stop(signal.SIGKILL)
        self.server.start()

    def restart(self):
        assert self.server.stop() == 0
        self.server.start()

    def cut(self):
        self.proxy.cut(self.random.choice(["reset", "fin"]))

    def stall(self):
        with self.proxy.stalled():
            let_pass(self.random.uniform(0.5, 3))

    def hole(self):
        with self.proxy.blackholed(self.random.choice([[UP], [DOWN], [UP, DOWN]])):
            let_pass(self.random.uniform(0.1, 1))

    def refuse(self):
        with self.proxy.refusing():
            let_pass(self.random.uniform(0.1, 1))

    def host(self):
        pid = self.server.json("driver", "show", self.pool).get("pid")
        if pid:
            # It may be gone already, or be another one by now: both are what happens to hosts.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, self.random.choice([signal.SIGKILL, signal.SIGSTOP]))

    def __str__(self):
        return ", ".join(f"{count} {name}" for name, count in sorted(self.counts.items()))


@pytest.fixture
def server(tmp_path):
    running = Server(tmp_path, "--reactors", "2")
    running.environment["SLUICE_DRIVER_QUARANTINE_LOSSES"] = "1000000"
    running.start()
    yield running
    assert running.stop() == 0, running.text()[-2000:]


# A file system on a device


class FarNode:
    """A compute node whose network is a namespace: all that it sees of the server are two proxies."""

    def __init__(self, server, seed):
        self.server, self.credentials = server, server.join("compute")
        self.namespace = Namespace("far")
        self.control = server.control
        with self.namespace.inside():
            listeners = [socket.create_server(split(text)) for text in (server.control, server.channel)]
        self.proxies = [Proxy(lambda: split(server.control), seed, listeners[0]),
                        Proxy(lambda: split(server.channel), seed, listeners[1])]
        self.data = self.proxies[1]

    def sluice(self, *arguments, check=True):
        environment = {**os.environ, "SLUICE_SERVER": f"https://{self.control}",
                       "SLUICE_RUN": str(self.server.folder / "run"), "SLUICE_CREDENTIALS": str(self.credentials)}
        result = subprocess.run(
            [*self.namespace.command, BINARIES / "sluice", *arguments], capture_output=True, text=True,
            env=environment, timeout=PATIENCE)
        assert not check or result.returncode == 0, result.stderr
        return result.stdout

    def close(self):
        for proxy in self.proxies:
            proxy.close()
        self.namespace.close()


def split(text):
    host, port = text.rsplit(":", 1)
    return host, int(port)


@pytest.fixture
def far(server, fuse_transport):
    node = FarNode(server, SEED)
    yield node
    subprocess.run(["umount", "-l", server.folder / "mnt"], capture_output=True)
    node.sluice("detach", "--force", "volume/disk", check=False)
    node.close()


def sectors(device):
    """What the device has read and written since it was made: it stands still while nothing is answered."""
    with open(f"/sys/block/{os.path.basename(device)}/stat") as file:
        fields = file.read().split()
    return int(fields[2]) + int(fields[6])


@needs_root
def test_fio_on_a_mounted_file_system_sees_nothing_of_all_this(server, far):
    fio_sees_nothing(server, far)


@needs_root
def test_fio_sees_nothing_of_upgrades_one_after_the_other(server, far):
    fio_sees_nothing(server, far, only="upgrade")


def fio_sees_nothing(server, far, only=None):
    server.volume("disk", size="512MiB", node="compute")
    device = far.sluice("attach", "--channels", "2", "volume/disk").split()[-1]
    mount = server.folder / "mnt"
    mount.mkdir()
    subprocess.run(["mkfs.ext4", "-q", device], check=True)
    subprocess.run(["mount", device, mount], check=True)
    fio = subprocess.Popen(
        ["fio", "--name=verify", f"--directory={mount}", "--rw=randwrite", "--bsrange=4k-128k", "--direct=1",
         "--ioengine=libaio", "--iodepth=16", "--numjobs=2", "--size=64m", "--verify=crc32c", "--verify_fatal=1",
         "--verify_backlog=64", "--fsync=32", "--time_based", "--runtime=360000", "--verify_state_save=0",
         "--output-format=json"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    chaos = Chaos(server, far.data, random.Random(SEED))

    def upgrade():
        """As soon as the device works: one that waits for its server is not taken over."""
        said = await_condition("the upgrade", lambda: far.sluice(
            "attach", "--channels", "2", "--take-over", "volume/disk", check=False), seconds=PATIENCE)
        assert said.split()[-1] == device

    chaos.deeds["upgrade"] = upgrade
    if only:
        chaos.deeds = {only: chaos.deeds[only]}

    def goes_on():
        before = sectors(device)
        await_condition("I/O on the device", lambda: sectors(device) > before + 8192 or fio.poll() is not None,
                        seconds=PATIENCE)
        # What fio found stands before its figures.
        assert fio.poll() is None, "\n".join([
            fio.stdout.read()[:3000], far.sluice("status", check=False), server.text()[-4000:],
            *(path.read_text(errors="replace")[-6000:] for path in (server.folder / "run").glob("*.log"))])

    try:
        goes_on()
        chaos.run(SECONDS, goes_on)
        fio.send_signal(signal.SIGINT)
        output, _ = fio.communicate(timeout=PATIENCE)
    finally:
        fio.kill()
    jobs = json.loads(output[output.index("{"):])["jobs"]
    assert [job["error"] for job in jobs] == [0, 0], output[-2000:]
    subprocess.run(["umount", mount], check=True, timeout=PATIENCE)
    subprocess.run(["e2fsck", "-fn", device], check=True, capture_output=True, timeout=PATIENCE)
    written = sum(job["write"]["io_kbytes"] for job in jobs) >> 10
    print(f"{chaos}: {written} MiB written and verified, {far.data.accepted} connections")


# Two writers and a reader, and what they saw


@pytest.mark.parametrize("isolation", ["isolated", "inline"])
def test_what_two_writers_and_a_reader_see_is_one_disk(server, isolation):
    server.cli("pool", "create", "shared", "--driver", "file", "--isolation", isolation)
    with Proxy(lambda: server.channel_address, SEED) as proxy:
        world = SharedVolume(server, lambda: proxy.address, pool="shared")
        writing = "read,write,discard,flush"
        actors = [Writer(world, world.join("left", writing), "left", SEED),
                  Writer(world, world.join("right", writing), "right", SEED + 1),
                  Reader(world, world.join("reader", "read"), "reader", SEED + 2)]
        chaos = Chaos(server, proxy, random.Random(SEED), "shared")

        def fence():
            """Whoever writes loses the volume; from the answer on nothing of theirs happens any more."""
            begun = time.monotonic()
            holders = [opened for actor in actors[:2] if (opened := actor.opened)]
            server.cli("volume", "fence", "disk")
            answered = time.monotonic()
            for since, client in holders:
                if since < begun:
                    world.history.bound(client, answered)

        chaos.deeds["fence"] = fence
        if isolation == "inline":
            del chaos.deeds["host"]
        chaos.deeds["client"] = lambda: chaos.random.choice(actors).dies.set()

        def goes_on():
            before = {actor: actor.operations for actor in actors}
            await_condition("I/O", lambda: any(actor.failure for actor in actors) or (
                actors[2].operations > before[actors[2]] + 50
                and sum(actor.operations - before[actor] for actor in actors[:2]) > 50), seconds=PATIENCE)
            assert not any(actor.failure for actor in actors), [actor.failure for actor in actors]

        for actor in actors:
            actor.start()
        try:
            goes_on()
            chaos.run(SECONDS, goes_on)
        finally:
            for actor in actors:
                actor.ends.set()
            for actor in actors:
                actor.join(PATIENCE)
        assert not any(actor.is_alive() or actor.failure for actor in actors), [actor.failure for actor in actors]
        checked = world.history.check()
        print(f"{chaos}: {checked} operations of {[actor.client for actor in actors]}, "
              f"{sum(actor.resumptions for actor in actors)} resumptions")
