"""The compute node's side on the real kernel: FUSE, loop, ext4, xfs, fio."""
import json
import os
import signal
import subprocess

import pytest
from conftest import await_condition, needs_root

pytestmark = needs_root


@pytest.fixture
def attached(server, fuse_transport):
    node = server.join("compute")
    server.volume("disk", size="512MiB", node="compute")
    server.node = node
    device = server.cli("attach", "volume/disk", credentials=node).stdout.split()[-1]
    assert device.startswith("/dev/loop"), device
    server.device = device
    yield server
    subprocess.run(["umount", "-l", server.folder / "mnt"], capture_output=True)
    server.cli("detach", "--force", "volume/disk", credentials=node, check=False)


def fio(*options, expect=0):
    result = subprocess.run(
        ["fio", "--name=test", "--ioengine=libaio", "--output-format=json", "--verify_state_save=0",
         *options], capture_output=True, text=True,
        timeout=200)
    assert result.returncode == expect, result.stdout[-2000:] + result.stderr[-2000:]
    return json.loads(result.stdout[result.stdout.index("{"):]) if expect == 0 else None


def check_call(*command):
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, timeout=120)


def test_fio_verifies_the_device_with_four_jobs(attached):
    report = fio(f"--filename={attached.device}", "--direct=1", "--rw=randwrite", "--bsrange=512-1m",
                 "--blockalign=512", "--numjobs=4", "--size=96m", "--offset_increment=96m", "--iodepth=8",
                 "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--group_reporting")
    assert report["jobs"][0]["error"] == 0
    assert report["jobs"][0]["write"]["io_bytes"] == 4 * 96 << 20


def test_an_attachment_has_little_memory_of_its_own(attached):
    fio(f"--filename={attached.device}", "--direct=1", "--rw=randrw", "--bs=1m", "--size=64m", "--iodepth=32")
    pid = attached.json("status", credentials=attached.node)[0]["pid"]
    with open(f"/proc/{pid}/status") as status:
        own = next(int(line.split()[1]) << 10 for line in status if line.startswith("RssAnon:"))
    print(f"{own >> 20} MiB")
    # With a ring of two processors, half of that is the ring's.
    assert own < 80 << 20


def test_fio_verifies_ext4_with_four_jobs_and_fsck_is_clean(attached):
    mount = attached.folder / "mnt"
    mount.mkdir()
    check_call("mkfs.ext4", "-q", attached.device)
    check_call("mount", attached.device, mount)
    report = fio(f"--directory={mount}", "--rw=randwrite", "--bsrange=512-1m", "--bs_unaligned=1", "--numjobs=4",
                 "--size=32m", "--iodepth=8", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1",
                 "--group_reporting", "--end_fsync=1")
    assert report["jobs"][0]["error"] == 0
    check_call("umount", mount)
    check_call("e2fsck", "-fn", attached.device)


def test_what_was_written_is_there_after_detach_and_attach(attached):
    mount = attached.folder / "mnt"
    mount.mkdir()
    attached.cli("detach", "volume/disk", credentials=attached.node)
    refused = attached.cli("mount", "volume/disk", mount, "--poll", "1001", credentials=attached.node, check=False)
    assert refused.returncode == 64 and "--poll is 0 to 1000" in refused.stderr
    attached.cli("mount", "volume/disk", mount, "--mkfs", "ext4", "--poll", "50", credentials=attached.node)
    content = os.urandom(3 << 20)
    (mount / "file").write_bytes(content)
    attached.cli("umount", mount, credentials=attached.node)
    assert attached.json("status", credentials=attached.node) == []
    attached.cli("mount", "volume/disk", mount, credentials=attached.node)
    assert (mount / "file").read_bytes() == content
    attached.cli("umount", mount, credentials=attached.node)
    attached.cli("attach", "volume/disk", credentials=attached.node)


def test_xfs_works_too(attached):
    mount = attached.folder / "mnt"
    mount.mkdir()
    attached.cli("detach", "volume/disk", credentials=attached.node)
    attached.cli("mount", "volume/disk", mount, "--mkfs", "xfs", credentials=attached.node)
    (mount / "file").write_bytes(b"x" * 100000)
    attached.cli("umount", mount, credentials=attached.node)
    device = attached.cli("attach", "volume/disk", credentials=attached.node).stdout.split()[-1]
    check_call("xfs_repair", "-n", device)


def test_discard_gives_the_space_back(attached):
    def used():
        return sum(path.stat().st_blocks * 512 for path in (attached.data / "pools").rglob("*") if path.is_file())

    fio(f"--filename={attached.device}", "--direct=1", "--rw=write", "--bs=1m", "--size=128m")
    before = used()
    assert before >= 128 << 20
    check_call("blkdiscard", attached.device)
    assert used() < before // 4


def test_a_mounted_device_is_not_detached_under_its_user(attached):
    mount = attached.folder / "mnt"
    mount.mkdir()
    check_call("mkfs.ext4", "-q", attached.device)
    check_call("mount", attached.device, mount)
    refused = attached.cli("detach", "volume/disk", credentials=attached.node, check=False)
    assert refused.returncode != 0 and str(mount) in refused.stderr
    (mount / "still").write_text("here")
    check_call("umount", mount)


def test_revocation_reaches_a_mounted_file_system_at_once(attached):
    mount = attached.folder / "mnt"
    mount.mkdir()
    check_call("mkfs.ext4", "-q", attached.device)
    check_call("mount", attached.device, mount)
    writer = subprocess.Popen(
        ["fio", "--name=w", f"--filename={mount}/file", "--rw=randwrite", "--bs=4k", "--size=16m", "--fsync=1",
         "--time_based", "--runtime=60"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    await_condition("the writer", lambda: (mount / "file").exists())
    issued = [c for c in attached.json("capability", "list") if not c["revoked"]]
    for capability in issued:
        attached.cli("capability", "revoke", capability["id"], "--reason", "the test says so")
    _, errors = writer.communicate(timeout=30)
    assert writer.returncode != 0 and ("error" in errors or "Input/output" in errors)
    log = attached.text()
    assert issued[-1]["id"] in log and "the test says so" in log and "compute" in log


def test_sigterm_of_the_attachment_leaves_nothing_behind(attached):
    entry = attached.json("status", credentials=attached.node)[0]
    os.kill(entry["pid"], signal.SIGTERM)
    await_condition("the end of the attachment", lambda: not os.path.exists(f"/proc/{entry['pid']}"))
    assert attached.json("status", credentials=attached.node) == []
    # Another program that looks at new devices may have it open for a moment.
    await_condition("the loop device's end", lambda: attached.device not in check_call(
        "losetup", "-l", "-n", "-O", "NAME").stdout.split())


def test_bench_verifies_what_it_wrote(server):
    node = server.join("bencher")
    server.memory_pool()
    server.volume("ram", pool="ram", node="bencher")
    for rw in ("write", "randwrite", "randrw", "read", "randread"):
        result = server.json("bench", "volume/ram", "--rw", rw, "--bs", "4k", "--iodepth", "16", "--channels", "2",
                             "--poll", "50", "--time", "1", *(["--verify", "--force"] if "w" in rw else []), credentials=node)
        assert result["errors"] == 0
