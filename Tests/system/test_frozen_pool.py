"""I/O of a killed server that its device has not let go: the next server's pool waits for it, and nothing lands late."""
import pathlib
import signal
import subprocess

import pytest
from conftest import BINARIES, Server, await_condition, needs_root
from resumable import PAGE, World, refused, write
from sluice_client import Status


class FrozenDevice:
    """A block device whose writes do not end while it is frozen: a loop device on a file of a frozen file system."""

    def __init__(self, folder):
        self.mounted = folder / "mounted"
        self.mounted.mkdir()
        self.path = self.lower = None
        self.is_frozen = False
        try:
            (folder / "lower").touch()
            subprocess.run(["truncate", "-s", "64M", folder / "lower"], check=True)
            self.lower = self.run("losetup", "--find", "--show", folder / "lower")
            self.run("mkfs.ext4", "-q", self.lower)
            self.run("mount", self.lower, self.mounted)
            self.run("truncate", "-s", "16M", self.mounted / "upper")
            self.path = self.run("losetup", "--find", "--show", self.mounted / "upper")
        except BaseException:
            self.remove()
            raise

    @staticmethod
    def run(*command):
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def freeze(self):
        self.run("fsfreeze", "--freeze", self.mounted)
        self.is_frozen = True

    def thaw(self):
        if self.is_frozen:
            self.is_frozen = False
            self.run("fsfreeze", "--unfreeze", self.mounted)

    def in_flight(self):
        return sum(map(int, pathlib.Path(f"/sys/block/{self.path.removeprefix('/dev/')}/inflight").read_text().split()))

    def remove(self):
        self.thaw()
        if self.path:
            subprocess.run(["losetup", "-d", self.path], capture_output=True)
        subprocess.run(["umount", "-l", self.mounted], capture_output=True)
        if self.lower:
            subprocess.run(["losetup", "-d", self.lower], capture_output=True)


@pytest.fixture
def device(tmp_path):
    made = FrozenDevice(tmp_path)
    yield made
    made.remove()


@needs_root
def test_an_inline_pool_waits_for_the_io_of_a_killed_server(tmp_path, device):
    world = World(tmp_path)
    server = world.server
    server.cli("pool", "create", "slow", "--driver", "file", "--isolation", "inline", "--setting",
               f"path={device.path}")
    world.volume("slow", pool="slow", size="8MiB")
    channel = world.connect()
    handle, _ = channel.open(world.token("slow"))
    channel.write(handle, 0, b"a" * PAGE)
    device.freeze()
    slot = write(channel, handle, 0, b"b")
    await_condition("the write to hang in the kernel", device.in_flight)
    server.stop(signal.SIGKILL)
    # The device has one user, and that is the killed server's write: the pool does not start.
    server.start()
    assert "in use" in server.json("volume", "show", "slow")["message"]
    channel.drop()
    with world.resume(channel) as back:
        assert back.granted.resumption == 2
        refused(Status.DRIVER_FAILED, back.open, world.token("slow"))
        with world.connect(world.other) as rival:
            refused(Status.DRIVER_FAILED, rival.open, world.token("slow", world.other))
        assert device.in_flight()
        device.thaw()
        await_condition("the pool", lambda: server.cli("pool", "restart", "slow", check=False).returncode == 0)
        assert not device.in_flight(), "the pool serves and the old write is not over"
        handle, _ = back.open(world.token("slow"))
        back.repeat(handle)
        assert back.wait(slot).status == Status.OK
        assert back.read(handle, 0, PAGE) == b"b" * PAGE
    assert server.stop() == 0


@needs_root
def test_a_server_that_hangs_while_it_starts_can_be_told_to_end(tmp_path, device):
    server = Server(tmp_path).start()
    server.cli("pool", "create", "slow", "--driver", "file", "--isolation", "inline", "--setting",
               f"path={device.mounted}")
    server.cli("volume", "create", "slow", "--size", "1MiB", "--pool", "slow")
    server.stop()
    device.freeze()
    command = [BINARIES / "sluiced", "serve", "--data", server.data, "--control", server.control, "--channel", server.channel]
    hanging = subprocess.Popen(command, stdout=server.log.open("a"), stderr=subprocess.STDOUT)
    stack = pathlib.Path(f"/proc/{hanging.pid}/task")

    def hangs():
        # Threads that wait for the frozen file system.
        states = [(one / "stat").read_text().rsplit(")", 1)[1].split()[0] for one in stack.iterdir()]
        return hanging.poll() is not None or "D" in states

    await_condition("the start to hang", hangs)
    assert hanging.poll() is None, "it does not wait for this device"
    hanging.send_signal(signal.SIGTERM)
    await_condition("its last line", lambda: "stopped, while it was being started" in server.text())
    device.thaw()
    assert hanging.wait(30) == 0
    server.start()
    assert server.json("pool", "show", "slow")["state"] == "ready"
    assert server.stop() == 0


@needs_root
def test_a_pool_waits_for_the_io_of_a_killed_server_and_the_others_do_not(tmp_path, device):
    world = World(tmp_path)
    server = world.server
    server.cli("pool", "create", "slow", "--driver", "file", "--setting", f"path={device.path}")
    world.volume("slow", pool="slow", size="8MiB")
    channel, beside = world.connect(), world.connect()
    handle, _ = channel.open(world.token("slow"))
    other, _ = beside.open(world.token("disk"))
    channel.write(handle, 0, b"a" * PAGE)
    device.freeze()
    slot = write(channel, handle, 0, b"b")
    await_condition("the write to hang in the kernel", device.in_flight)
    server.stop(signal.SIGKILL)
    server.start()
    # The killed server's write is still on its way: its pool recovers, the others serve.
    assert server.json("pool", "show", "slow")["state"] == "recovering"
    beside.drop()
    with world.resume(beside) as back:
        other, _ = back.open(world.token("disk"))
        back.write(other, 0, b"x" * PAGE)
        assert back.read(other, 0, PAGE) == b"x" * PAGE
    channel.drop()
    channel = world.resume(channel)
    assert channel.granted.resumption == 2
    assert device.in_flight()
    device.thaw()
    await_condition("the pool", lambda: server.json("pool", "show", "slow")["state"] == "ready")
    assert not device.in_flight(), "the pool serves and the old write is not over"
    handle, _ = channel.open(world.token("slow"))
    channel.repeat(handle)
    assert channel.wait(slot).status == Status.OK
    assert channel.read(handle, 0, PAGE) == b"b" * PAGE
    channel.write(handle, 0, b"c" * PAGE)
    channel.flush(handle)
    assert channel.read(handle, 0, PAGE) == b"c" * PAGE
    channel.close()
    assert server.stop() == 0
