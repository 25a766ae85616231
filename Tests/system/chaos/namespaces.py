"""Network namespaces: a compute node with a network of its own, and a router between that can lose everything silently.

Needs root. What a proxy does to connections, their ends hear of; what a router loses, nobody hears of: packets are sent
again for as long as TCP likes, and arrive late.
"""
import contextlib
import ctypes
import itertools
import os
import pathlib
import subprocess

CLONE_NEWNET = 0x4000_0000
_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()


def _ip(*arguments):
    subprocess.run(["ip", *map(str, arguments)], check=True, capture_output=True, text=True)


def _enter(descriptor):
    if _libc.setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


class Namespace:
    """A network namespace; sockets that a thread makes `inside` belong to it for as long as they live."""

    def __init__(self, role):
        self.name = f"sluice-{role}-{os.getpid()}-{next(_numbers)}"
        self.path = pathlib.Path("/run/netns") / self.name
        _ip("netns", "add", self.name)
        _ip("-n", self.name, "link", "set", "lo", "up")

    @property
    def command(self):
        """What to put before a command that is to run in it."""
        return ["nsenter", f"--net={self.path}"]

    @contextlib.contextmanager
    def inside(self):
        before, other = os.open("/proc/thread-self/ns/net", os.O_RDONLY), os.open(self.path, os.O_RDONLY)
        try:
            _enter(other)
            yield
        finally:
            _enter(before)
            os.close(before)
            os.close(other)

    def close(self):
        _ip("netns", "del", self.name)


class Partition:
    """A node behind a router. `server` is an address of this machine that the node reaches through it."""

    def __init__(self):
        # Of its own in each of the processes that run tests side by side.
        worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
        number = os.getpid() % 25 * 8 + worker + 20
        self.server, self.client = f"10.{number}.1.1", f"10.{number}.2.2"
        self.near, self.far = f"sl{number}a", f"sl{number}b"
        self.router, self.node = Namespace("router"), Namespace("node")
        try:
            self._connect(number)
        except BaseException:
            self.close()
            raise

    def _connect(self, number):
        _ip("link", "add", self.near, "type", "veth", "peer", "name", "near", "netns", self.router.name)
        _ip("link", "add", "far", "netns", self.router.name, "type", "veth", "peer", "name", "eth", "netns",
            self.node.name)
        _ip("addr", "add", f"{self.server}/24", "dev", self.near)
        _ip("link", "set", self.near, "up")
        for name, device, address in ((self.router.name, "near", f"10.{number}.1.2"),
                                      (self.router.name, "far", f"10.{number}.2.1"),
                                      (self.node.name, "eth", self.client)):
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", device)
            _ip("-n", name, "link", "set", device, "up")
        _ip("route", "add", f"10.{number}.2.0/24", "via", f"10.{number}.1.2")
        _ip("-n", self.node.name, "route", "add", "default", "via", f"10.{number}.2.1")
        subprocess.run([*self.router.command, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"], check=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        subprocess.run(["ip", "link", "del", self.near], capture_output=True)
        self.node.close()
        self.router.close()

    @contextlib.contextmanager
    def broken(self, up=True, down=True):
        """The router loses what goes to the server, to the node, or both, and tells nobody."""
        lost = [address for address, is_lost in ((self.server, up), (self.client, down)) if is_lost]
        for address in lost:
            _ip("-n", self.router.name, "route", "add", "blackhole", f"{address}/32")
        try:
            yield
        finally:
            for address in lost:
                _ip("-n", self.router.name, "route", "del", "blackhole", f"{address}/32")
