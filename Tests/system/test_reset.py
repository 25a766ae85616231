"""A client's machine that is reset without a word, and a server whose name has another address."""
import contextlib
import os
import subprocess
import time

import pytest
from chaos.namespaces import Partition
from conftest import BINARIES, PATIENCE, Server, await_condition, let_pass, needs_root
from sluice_client import RequestFailed, Status
from test_partition import World

pytestmark = needs_root


@pytest.fixture
def world(tmp_path):
    with Partition() as partition:
        made = World(tmp_path, partition)
        yield made
        assert made.server.stop() == 0, made.server.text()[-2000:]


@pytest.fixture
def far(tmp_path):
    """A node whose machine is behind the router, control API and all."""
    with Partition() as partition:
        server = Server(tmp_path, init=False)
        subprocess.run([BINARIES / "sluiced", "init", "--data", server.data, "--name", "localhost", "--address",
                        partition.server, "--address", "127.0.0.1"], check=True, capture_output=True, timeout=PATIENCE)
        server.control = server.channel = f"{partition.server}:0"
        server.start()
        server.partition = partition
        server.node = server.join("compute")
        server.volume("disk", node="compute")
        yield server
        for entry in server.json("status", credentials=server.node):
            server.cli("detach", "--force", entry["volume"], credentials=server.node, check=False)
        assert server.stop() == 0, server.text()[-2000:]


def attach(server, inside=()):
    environment = {**os.environ, "SLUICE_SERVER": server.url, "SLUICE_RUN": str(server.folder / "run"),
                   "SLUICE_CREDENTIALS": str(server.node)}
    result = subprocess.run([*inside, BINARIES / "sluice", "attach", "volume/disk"], env=environment,
                            capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()[-1]


def reset(server):
    """The machine of the node stops, as by its reset button: nobody hears of it, and its sockets are no more."""
    entry = server.json("status", credentials=server.node)[0]
    os.kill(entry["pid"], 9)
    await_condition("its end", lambda: not os.path.exists(f"/proc/{entry['pid']}"))
    subprocess.run([*server.partition.node.command, "ss", "-K", "-tn", "dst", server.partition.server], check=True,
                   capture_output=True)


@pytest.mark.parametrize("is_back", [True, False], ids=["the same machine again", "another machine with its key"])
def test_a_node_whose_machine_was_reset_has_its_volume_again_in_seconds(far, is_back):
    device = attach(far, far.partition.node.command)
    with open(device, "r+b", buffering=0) as file:
        file.write(b"r" * 4096)
        os.fsync(file.fileno())
    with contextlib.ExitStack() as network:
        network.enter_context(far.partition.broken())
        reset(far)
        if is_back:
            network.close()
        begun = time.monotonic()
        device = attach(far, far.partition.node.command if is_back else ())
        took = time.monotonic() - begun
    with open(device, "rb", buffering=0) as file:
        assert file.read(4096) == b"r" * 4096
    assert took < 8, took


def test_a_client_that_is_there_keeps_its_volume_from_a_second_one_of_the_same_key(world):
    old = world.far()
    handle, _ = old.open(world.token(world.node))
    with world.near(world.node) as second:
        for _ in range(3):
            with pytest.raises(RequestFailed) as refused:
                second.open(world.token(world.node), take_over=True)
            assert refused.value.status == Status.WRITER_CONFLICT
        # Longer than it takes to find out that a machine is gone.
        let_pass(6)
        with pytest.raises(RequestFailed):
            second.open(world.token(world.node), take_over=True)
    old.write(handle, 0, b"o" * 4096)
    old.close()


class Names:
    """A mount namespace with a hosts file of its own."""

    def __init__(self, folder):
        self.file = folder / "hosts"
        self.say("127.0.0.1 localhost")
        self.holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c",
             f"mount --bind {self.file} /etc/hosts && echo ready && exec sleep infinity"],
            stdout=subprocess.PIPE, text=True)
        assert self.holder.stdout.readline() == "ready\n"

    @property
    def command(self):
        return ["nsenter", f"--mount=/proc/{self.holder.pid}/ns/mnt"]

    def say(self, text):
        # The same file: it is what the namespace has mounted.
        self.file.write_text(f"{text}\n")

    def close(self):
        self.holder.kill()
        self.holder.wait()


def test_when_no_address_works_the_name_is_looked_up_anew(tmp_path):
    names = Names(tmp_path)
    server = Server(tmp_path, init=False)
    subprocess.run([BINARIES / "sluiced", "init", "--data", server.data, "--name", "io.test", "--address", "127.0.0.1"],
                   check=True, capture_output=True, timeout=PATIENCE)
    server.control = "127.0.0.1:0"
    # A wildcard: clients go to the host by whose name they found the control API.
    server.channel = "[::]:0"
    try:
        server.start()
        server.node = server.join("compute")
        server.volume("disk", node="compute")
        names.say("127.0.0.1 io.test")
        server.url = server.url.replace("127.0.0.1", "io.test")
        device = attach(server, names.command)
        server.stop()
        port = server.channel.rsplit(":", 1)[1]
        # It is started elsewhere, and its old address is nobody's.
        server.channel = f"127.0.0.2:{port}"
        server.start()
        writer = subprocess.Popen(["dd", "if=/dev/urandom", f"of={device}", "bs=4k", "count=1", "oflag=direct"],
                                  stderr=subprocess.DEVNULL)
        entry = await_condition("the loss", lambda: next(
            (one for one in server.json("status", credentials=server.node) if one["state"] == "reconnecting"), None))
        assert "127.0.0.1" in entry["message"] and writer.poll() is None
        names.say("127.0.0.2 io.test")
        assert writer.wait(20) == 0
        entry = server.json("status", credentials=server.node)[0]
        assert entry["state"] == "attached" and "a request failed" not in open(entry["logFile"]).read()
        server.cli("detach", "volume/disk", credentials=server.node)
    finally:
        server.stop()
        names.close()


def lose_network(network, what):
    """The node's own network goes, so that nothing leaves; returns what brings it back."""
    def ip(*arguments):
        subprocess.run(["ip", "-n", network.node.name, *arguments], check=True, capture_output=True, text=True)

    gateway = network.client.rsplit(".", 1)[0] + ".1"
    if what == "link down":
        ip("link", "set", "eth", "down")
    elif what == "address replaced":
        ip("addr", "del", f"{network.client}/24", "dev", "eth")
        ip("addr", "add", f"{network.client}3/24", "dev", "eth")
        ip("route", "add", "default", "via", gateway)
    else:
        ip("route", "replace", "prohibit", "default")

    def repair():
        if what == "link down":
            ip("link", "set", "eth", "up")
        if what != "address replaced":
            ip("route", "replace", "default", "via", gateway)
    return repair


@pytest.mark.parametrize("what", ["link down", "address replaced", "refused by a rule"])
def test_a_node_that_loses_its_own_network_notices_it_in_seconds(far, what):
    device = attach(far, far.partition.node.command)
    writer = subprocess.Popen(["dd", "if=/dev/zero", f"of={device}", "bs=64k", "count=900", "oflag=direct", "conv=fsync"],
                              stderr=subprocess.PIPE, text=True)
    await_condition("some writes", lambda: int(open(f"/sys/block/{os.path.basename(device)}/stat").read().split()[4]) > 20)
    repair = lose_network(far.partition, what)
    begun = time.monotonic()
    log = far.json("status", credentials=far.node)[0]["logFile"]
    await_condition("the loss", lambda: "requests wait" in open(log).read())
    # TCP alone, and a server that is merely slow, are given 30 s.
    assert time.monotonic() - begun < 20
    repair()
    _, errors = writer.communicate(timeout=60)
    assert writer.returncode == 0, errors
    assert "a request failed" not in open(log).read()
