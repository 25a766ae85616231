"""Work that takes long: a device that is zeroed for a new or a growing volume, its progress, its end, and a restart."""
import os
import signal
import subprocess

import pytest
from conftest import await_condition, needs_root

pytestmark = needs_root
MIB = 1 << 20
SLOW = "rules=prepare: delay 300ms"


@pytest.fixture
def device(tmp_path):
    """A loop device, in its first 256 MiB full of somebody's old data."""
    image = tmp_path / "device"
    with open(image, "wb") as file:
        for _ in range(256):
            file.write(b"\xaa" * MIB)
        file.truncate(2048 * MIB)
    loop = subprocess.run(["losetup", "--find", "--show", image], check=True, capture_output=True, text=True).stdout.strip()
    yield loop
    subprocess.run(["losetup", "-d", loop], capture_output=True)


@pytest.fixture
def pool(server, device):
    """A pool on the device, which a rule makes slow: 16 MiB are zeroed in a third of a second."""
    server.cli("pool", "create", "raw", "--driver", "fault", "--setting", "driver=file", "--setting",
               f"inner.path={device}", "--setting", "inner.erase=true", "--setting", SLOW)
    return server


def operation(server, id):
    return server.json("operation", "show", id)


def is_in(server, state, id):
    return lambda: operation(server, id)["state"] == state


def content(device, at, count=MIB):
    with open(device, "rb") as file:
        file.seek(at)
        return file.read(count)


def test_making_a_volume_shows_its_progress_and_can_be_cancelled(pool, device):
    made = pool.json("volume", "create", "disk", "--size", "1GiB", "--pool", "raw")
    assert made["state"] == "preparing" and 0 < made["progress"]["done"] < made["progress"]["total"] == 1024 * MIB
    id = made["operation"]
    assert [one["id"] for one in pool.json("operation", "list")] == [id]
    seen = operation(pool, id)["progress"]["done"]
    await_condition("progress", lambda: operation(pool, id)["progress"]["done"] > seen)
    assert "%" in pool.cli("operation", "list").stdout and "preparing (" in pool.cli("volume", "list").stdout
    pool.cli("operation", "cancel", id)
    assert operation(pool, id)["state"] == "cancelled"
    assert pool.cli("volume", "show", "disk", check=False).returncode == 66
    waited = pool.cli("operation", "show", id, "--wait", check=False)
    assert waited.returncode != 0 and "was cancelled" in waited.stderr
    # The device is free for another, and --wait ends when that can be used.
    pool.cli("pool", "set", "raw", "--setting", "rules=prepare: delay 100ms")
    assert pool.json("volume", "create", "disk", "--size", "128MiB", "--pool", "raw", "--wait")["state"] == "ready"
    assert operation(pool, next(one["id"] for one in pool.json("operation", "list") if one["state"] == "done"))["endedAt"]


def test_a_volume_is_used_while_it_grows_over_a_kill_and_a_cancelled_growth_leaves_it(pool, device):
    node = pool.join("compute")
    pool.cli("pool", "set", "raw", "--setting", "rules-")
    pool.volume("disk", size="64MiB", pool="raw", node="compute")
    pool.cli("pool", "set", "raw", "--setting", SLOW)
    attached = pool.cli("attach", "volume/disk", credentials=node).stdout.split()[-1]
    pattern = os.urandom(MIB)

    def size():
        return int(subprocess.run(["blockdev", "--getsize64", attached], capture_output=True, text=True).stdout)

    def put(at):
        with open(attached, "r+b", buffering=0) as file:
            file.seek(at)
            file.write(pattern)
            os.fsync(file.fileno())

    try:
        put(63 * MIB)
        told = pool.cli("volume", "resize", "disk", "--size", "1GiB").stdout
        assert "is growing" in told, told
        shown = pool.json("volume", "show", "disk")
        assert shown["size"] == 64 * MIB and shown["state"] == "ready"
        id = shown["operation"]
        refused = pool.cli("volume", "resize", "disk", "--size", "1280MiB", check=False)
        assert refused.returncode == 73 and "is growing to" in refused.stderr, refused.stderr
        put(62 * MIB)
        pool.stop(signal.SIGKILL)
        pool.start()
        shown = pool.json("volume", "show", "disk")
        assert shown["size"] == 64 * MIB and shown["operation"] == id
        assert operation(pool, id)["kind"] == "volume.grow" and size() == 64 * MIB
        put(61 * MIB)
        pool.cli("pool", "set", "raw", "--setting", "rules=prepare: delay 20ms")
        await_condition("the growth", is_in(pool, "done", id))
        assert pool.json("volume", "show", "disk")["size"] == 1024 * MIB
        await_condition("the device's size", lambda: size() == 1024 * MIB)
        assert content(attached, 61 * MIB, 3 * MIB) == pattern * 3
        assert not any(content(attached, 64 * MIB, 192 * MIB)), "what was added reads as zeroes"
        # A growth that is cancelled leaves it as it is; the next one is whole.
        pool.cli("pool", "set", "raw", "--setting", SLOW)
        pool.cli("volume", "resize", "disk", "--size", "2GiB")
        id = pool.json("volume", "show", "disk")["operation"]
        pool.cli("operation", "cancel", id)
        assert operation(pool, id)["state"] == "cancelled" and size() == 1024 * MIB
        put(1023 * MIB)
        pool.cli("pool", "set", "raw", "--setting", "rules=prepare: delay 20ms")
        assert "has 2GiB now" in pool.cli("volume", "resize", "disk", "--size", "2GiB", "--wait").stdout
        await_condition("the device's size", lambda: size() == 2048 * MIB)
        assert content(attached, 1023 * MIB) == pattern
        assert not any(content(attached, 1024 * MIB, 16 * MIB))
        kinds = [event["kind"] for event in pool.json("events")]
        assert kinds.count("volume.grown") >= 1 and "volume.not-grown" not in kinds
    finally:
        pool.cli("detach", "--force", "volume/disk", credentials=node, check=False)
