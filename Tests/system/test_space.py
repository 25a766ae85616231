"""Full disks, devices that take long to be zeroed, and zeroes that must be there."""
import contextlib
import os
import re
import signal
import subprocess
import time

import pytest
from conftest import BINARIES, Server, await_condition, needs_root

pytestmark = needs_root


def run(*command, check=True, **more):
    return subprocess.run([str(part) for part in command], check=check, capture_output=True, text=True, timeout=120,
                          **more)


@pytest.fixture
def small_disk(tmp_path):
    """A server whose data folder, pool and catalog together have 256 MiB."""
    image, mount = tmp_path / "image", tmp_path / "small"
    mount.mkdir()
    run("truncate", "-s", "256M", image)
    run("mkfs.ext4", "-q", "-F", "-m", "0", image)
    run("mount", "-o", "loop", image, mount)
    # Only the data folder is on it.
    server = Server(tmp_path, init=False)
    server.data = mount / "server"
    run(BINARIES / "sluiced", "init", "--data", server.data, "--name", "localhost", "--address", "127.0.0.1")
    server.start()
    yield server
    server.stop(signal.SIGKILL)
    run("umount", "-l", mount, check=False)


def pool(server, name="default"):
    return server.json("pool", "show", name)


def test_a_full_disk_stops_only_what_wants_space(small_disk):
    server = small_disk
    node = server.join("compute")
    server.volume("big", size="1GiB", node="compute")
    server.volume("spare", size="64MiB", node="compute")
    device = server.cli("attach", "volume/big", credentials=node).stdout.split()[-1]
    writer = subprocess.Popen(["dd", "if=/dev/zero", f"of={device}", "bs=1M", "oflag=direct"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        await_condition("writes that wait", lambda: server.json("status", credentials=node)[0]["state"] == "waiting")
        await_condition("a full pool", lambda: pool(server)["space"]["state"] == "full")
        assert "full" in server.json("status", credentials=node)[0]["message"]
        assert any(event["kind"] == "pool.full" for event in server.json("events"))
        # The rest of the disk is taken by somebody else.
        run("sh", "-c", f"cat /dev/zero > {server.data}/rest", check=False)
        for round in range(30):
            server.cli("volume", "label", "spare", f"round=r{round}" + "x" * 200)
        server.cli("capability", "issue", "volume/spare", credentials=node)
        # It starts again, with its device, which goes on waiting.
        server.stop(signal.SIGKILL)
        server.start()
        assert subprocess.run(["dd", f"if={device}", "of=/dev/null", "bs=1M", "count=1", "iflag=direct"],
                              capture_output=True, timeout=60).returncode == 0
        assert writer.poll() is None
        server.cli("volume", "delete", "spare", "--confirm", "spare")
        refused = server.cli("volume", "create", "more", "--size", "1MiB", check=False)
        assert refused.returncode == 0 or "full" in refused.stderr
        # Room is made, and the writer goes on to the next limit.
        def written():
            with open(f"/proc/{writer.pid}/io") as file:
                return int(re.search(r"wchar: (\d+)", file.read()).group(1))

        before = written()
        os.remove(server.data / "rest")
        run("fallocate", "-p", "-o", "0", "-l", str(64 << 20), device)
        await_condition("the writer", lambda: written() > before + (16 << 20))
        # Set to fail, it ends with the error that says why, as far as the kernel passes it on.
        server.cli("pool", "set", "default", "--when-full", "fail")
        _, errors = writer.communicate(timeout=60)
        assert writer.returncode != 0 and "No space left" in errors
        assert "sluice_pool_refusals_total" in server.api(server.data / "admin").get("/metrics").text
    finally:
        writer.kill()
        server.cli("detach", "--force", "volume/big", credentials=node, check=False)


def test_zeroes_are_there_where_the_device_cannot_give_space_back(tmp_path, server):
    ramfs = tmp_path / "ramfs"
    ramfs.mkdir()
    run("mount", "-t", "ramfs", "none", ramfs)
    loop = None
    try:
        run("truncate", "-s", "96M", ramfs / "disk")
        loop = run("losetup", "-f", "--show", ramfs / "disk").stdout.strip()
        server.cli("pool", "create", "raw", "--driver", "file", "--setting", f"path={loop}")
        node = server.join("compute")
        server.volume("disk", size="64MiB", pool="raw", node="compute")
        device = server.cli("attach", "volume/disk", credentials=node).stdout.split()[-1]
        fill = f"tr '\\0' '\\252' </dev/zero | dd of={device} bs=1M count=64 iflag=fullblock oflag=direct"
        run("sh", "-c", fill)
        assert run("fallocate", "-p", "-o", 0, "-l", 1 << 20, device, check=False).returncode != 0
        assert run("blkdiscard", "-f", device, check=False).returncode != 0
        with open(device, "rb") as file:
            assert file.read(1 << 20) == b"\xaa" * (1 << 20)
        # Inode tables are zeroed by ext4, which believes the device.
        run("mkfs.ext4", "-q", "-F", "-b", 1024, "-N", 20000, "-E", "nodiscard,lazy_itable_init=0", device)
        groups = run("dumpe2fs", device).stdout
        table = int(re.search(r"Group 5:.*?Inode table at (\d+)-", groups, re.S).group(1))
        with open(device, "rb") as file:
            file.seek(table * 1024)
            assert file.read(4096) == bytes(4096)
        server.cli("detach", "volume/disk", credentials=node)
    finally:
        server.stop()
        if loop:
            run("losetup", "-d", loop, check=False)
        run("umount", "-l", ramfs, check=False)


def test_zeroing_by_the_kernel_keeps_its_space(server, tmp_path):
    node = server.join("compute")
    server.volume("disk", size="64MiB", node="compute")
    device = server.cli("attach", "volume/disk", credentials=node).stdout.split()[-1]

    def used():
        return sum(path.stat().st_blocks * 512 for path in (server.data / "pools").rglob("*") if path.is_file())

    try:
        before = used()
        run("blkdiscard", "-f", "-z", device)
        assert used() >= before + (64 << 20)
        run("blkdiscard", "-f", device)
        assert used() < before + (8 << 20)
    finally:
        server.cli("detach", "volume/disk", credentials=node, check=False)


@pytest.fixture
def slow_disk(tmp_path):
    """A device of 2 GiB over a file without holes, on a disk whose writing is throttled by nothing but its size."""
    image = tmp_path / "slow"
    run("truncate", "-s", "2G", image)
    loop = run("losetup", "-f", "--show", image).stdout.strip()
    yield loop
    run("losetup", "-d", loop, check=False)


def test_a_pool_on_a_device_holds_one_volume_is_deleted_and_says_when_its_device_is_gone(server, slow_disk, tmp_path):
    server.cli("pool", "create", "raw", "--driver", "file", "--setting", f"path={slow_disk}")
    server.cli("volume", "create", "one", "--size", "1GiB", "--pool", "raw")
    await_condition("the volume", lambda: server.json("volume", "show", "one")["state"] == "ready")
    second = server.cli("volume", "create", "two", "--size", "1GiB", "--pool", "raw", check=False)
    assert second.returncode != 0 and "holds one" in second.stderr, second.stderr
    shown = pool(server, "raw")
    assert shown["space"]["state"] == "ok" and shown["capacity"]["provisioned"] == 1 << 30
    refused = server.cli("pool", "delete", "raw", check=False)
    assert refused.returncode != 0 and "one" in refused.stderr
    # The disk behind the device is gone.
    os.truncate(tmp_path / "slow", 0)
    run("losetup", "-c", slow_disk)
    gone = pool(server, "raw")
    assert gone["state"] == "failed" and slow_disk in gone["message"], gone
    assert server.cli("pool", "restart", "raw", check=False).returncode != 0
    assert any(event["kind"] == "pool.failed" for event in server.json("events"))
    os.truncate(tmp_path / "slow", 2 << 30)
    run("losetup", "-c", slow_disk)
    server.cli("pool", "restart", "raw")
    server.cli("volume", "delete", "one", "--confirm", "one")
    server.cli("pool", "delete", "raw")
    assert [entry["name"] for entry in server.json("pool", "list")] == ["default"]


def test_a_pool_in_a_folder_of_the_operators_choice(server, tmp_path):
    chosen = tmp_path / "chosen"
    chosen.mkdir()
    (chosen / "other").write_text("somebody else's")
    server.cli("pool", "create", "fast", "--driver", "file", "--setting", f"path={chosen}")
    server.cli("volume", "create", "disk", "--size", "16MiB", "--pool", "fast")
    assert len([name for name in os.listdir(chosen / "sluice-pool") if re.fullmatch("[0-9a-f]{32}", name)]) == 1
    assert (chosen / "other").stat().st_uid == 0
    server.stop()
    server.start()
    assert server.json("volume", "show", "disk")["state"] == "ready"
    # A FIFO, a folder and a hard link that an earlier host left do not stop the pool.
    folder = chosen / "sluice-pool"
    server.stop()
    os.mkfifo(folder / ("0" * 31 + "1"))
    (folder / "z.new").mkdir()
    os.link(chosen / "other", folder / ("0" * 31 + "2"))
    server.start()
    shown = pool(server, "fast")
    assert shown["state"] == "ready" and any("left alone" in note for note in shown["notes"]), shown
    assert (chosen / "other").stat().st_uid == 0
    server.cli("volume", "delete", "disk", "--confirm", "disk")
    server.cli("pool", "delete", "fast")


@pytest.mark.parametrize("isolation", ["isolated", "inline"])
@pytest.mark.parametrize("place", ["folder", "device"])
def test_a_pool_that_is_deleted_leaves_its_place_to_others(server, tmp_path, slow_disk, place, isolation):
    path = slow_disk if place == "device" else tmp_path / "chosen"
    if place == "folder":
        path.mkdir()
    for _ in range(2):
        server.cli("pool", "create", "p", "--driver", "file", "--setting", f"path={path}", "--isolation", isolation)
        if place == "folder":
            server.cli("volume", "create", "disk", "--size", "1MiB", "--pool", "p")
            server.cli("volume", "delete", "disk", "--confirm", "disk")
        server.cli("pool", "delete", "p")
        held = [os.readlink(f"/proc/{server.process.pid}/fd/{one}") for one in os.listdir(f"/proc/{server.process.pid}/fd")
                if os.path.lexists(f"/proc/{server.process.pid}/fd/{one}")]
        assert not [one for one in held if one.startswith(str(path)) or "pools/p" in one], held


def test_a_driver_that_stands_keeps_nobody_from_seeing_the_others(server):
    server.cli("pool", "create", "slow", "--driver", "memory", "--setting", f"size={64 << 20}")
    pid = server.json("driver", "show", "slow")["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        with server.api(server.data / "admin") as api:
            for _ in range(3):
                begun = time.monotonic()
                for kind in ("server", "volumes", "nodes", "grants", "capabilities", "sessions", "drivers", "events"):
                    assert api.get(f"/v1/{kind}").status_code == 200, kind
                metrics = api.get("/metrics").text
                pools = {pool["name"]: pool for pool in api.get("/v1/pools").json()["items"]}
                assert time.monotonic() - begun < 20
                assert 'sluice_pool_bytes{pool="default",state="total"}' in metrics
                assert set(pools) == {"default", "slow"} and pools["default"]["state"] == "ready"
            await_condition("a word about it", lambda: "has not answered since" in (
                server.json("pool", "show", "slow").get("message") or ""))
            assert 'sluice_pool_up{pool="slow"} 0' in api.get("/metrics").text
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    await_condition("the pool", lambda: server.json("pool", "show", "slow")["state"] == "ready")
    kinds = [event["kind"] for event in server.json("events")]
    assert "pool.failed" in kinds and "pool.works" in kinds
