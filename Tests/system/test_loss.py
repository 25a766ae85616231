"""What the compute node says of data that was lost, of what it waits for, and of commands that were interrupted."""
import contextlib
import os
import re
import select
import signal
import subprocess
import time

import pytest
from attached import ended, node, only, sluice, started, status  # noqa: F401 (a fixture)
from conftest import await_condition, let_pass, needs_root

pytestmark = needs_root


def write(server, mebibytes=4):
    (server.mount / "file").write_bytes(os.urandom(mebibytes << 20))


def refuses_until_forced(server, failed):
    """The loss is said, and remembered by each command until it is given up."""
    assert failed.returncode == 1 and "may be lost" in failed.stderr, failed
    assert "sluice detach --force volume/disk" in failed.stderr, failed
    entry = only(server)
    assert entry["lostRequests"] > 0 and os.path.exists(entry["logFile"])
    for _ in range(2):
        again = sluice(server, "detach", "volume/disk", check=False)
        assert again.returncode == 1 and "was lost" in again.stderr, again
    sluice(server, "detach", "--force", "volume/disk")
    assert status(server) == []


def test_what_is_attached_read_only_is_well(node):
    device = sluice(node, "attach", "volume/disk", "--read-only").stdout.strip()
    file = os.open(device, os.O_RDONLY)
    os.read(file, 4096)
    os.fsync(file)
    os.close(file)
    entry = only(node)
    assert entry["state"] == "attached" and entry["failedRequests"] == 0, entry
    assert "a request failed" not in open(entry["logFile"]).read()
    sluice(node, "detach", "volume/disk")
    assert status(node) == []


def test_umount_fails_when_a_fence_has_lost_what_was_written(node):
    sluice(node, "mount", "volume/disk", node.mount, "--mkfs", "ext4")
    write(node)
    node.cli("volume", "fence", "disk", "--reason", "the test says so")
    failed = sluice(node, "umount", node.mount, check=False)
    assert "is unmounted from" in failed.stderr and not os.path.ismount(node.mount)
    refuses_until_forced(node, failed)


def test_what_is_attached_and_revoked_is_not_mounted_and_says_why(node):
    sluice(node, "attach", "volume/disk")
    node.cli("grant", "delete", "compute-disk")
    await_condition("the revocation", lambda: only(node)["state"] == "revoked")
    device = only(node)["device"]
    refused = sluice(node, "mount", "volume/disk", node.mount, check=False)
    assert refused.returncode == 77 and f"is attached as {device}, and revoked: " in refused.stderr, refused
    assert "cannot be read" not in refused.stderr and "sluice detach volume/disk" in refused.stderr


def test_umount_fails_when_a_revocation_has_lost_what_was_written(node):
    sluice(node, "mount", "volume/disk", node.mount, "--mkfs", "ext4")
    write(node)
    for one in node.json("capability", "list"):
        if not one["revoked"]:
            node.cli("capability", "revoke", one["id"], "--reason", "the test says so")
    failed = sluice(node, "umount", node.mount, check=False)
    assert not os.path.ismount(node.mount)
    again = sluice(node, "mount", "volume/disk", node.mount, check=False)
    assert again.returncode == 77 and "then mount again: sluice detach --force volume/disk" in again.stderr, again
    refuses_until_forced(node, failed)


def test_umount_fails_when_the_pool_had_no_space_for_what_was_written(node):
    node.cli("pool", "create", "small", "--driver", "memory", "--setting", f"size={24 << 20}")
    node.cli("pool", "set", "small", "--when-full", "fail")
    node.volume("big", size="64MiB", pool="small", node="compute")
    sluice(node, "mount", "volume/big", node.mount, "--mkfs", "ext4")
    write(node, 40)
    failed = sluice(node, "umount", node.mount, check=False)
    assert failed.returncode == 1 and "NO_SPACE" in failed.stderr, failed
    assert only(node)["state"] == "failed"
    sluice(node, "detach", "--force", "volume/big")


def test_a_loss_is_remembered_when_the_server_is_back_and_when_a_signal_ends_the_device(node):
    sluice(node, "mount", "volume/disk", node.mount, "--mkfs", "ext4", "--io-timeout", "1s")
    write(node, 2)
    node.process.send_signal(signal.SIGSTOP)
    failed = sluice(node, "umount", node.mount, check=False)
    node.process.send_signal(signal.SIGCONT)
    assert failed.returncode == 1 and "TIMED_OUT" in failed.stderr, failed
    await_condition("the server", lambda: only(node)["state"] == "failed")
    pid = only(node)["pid"]
    os.kill(pid, signal.SIGTERM)
    await_condition("its end", lambda: only(node)["state"] == "stale" and ended(pid))
    assert "may be lost" in only(node)["message"]
    refuses_until_forced(node, failed)


def test_umount_unmounts_what_a_killed_process_has_left(node):
    for again in (False, True):
        sluice(node, "mount", "volume/disk", node.mount, "--mkfs", "ext4", "--force")
        os.kill(only(node)["pid"], signal.SIGKILL)
        await_condition("the loss", lambda: only(node)["state"] == "stale")
        if again:
            sluice(node, "attach", "volume/disk")
        failed = sluice(node, "umount", node.mount, check=False)
        assert failed.returncode == 1 and "not written back by then is lost" in failed.stderr, failed
        assert not os.path.ismount(node.mount)
        sluice(node, "detach", "volume/disk")
        assert status(node) == []
    # What is no volume's stays.
    subprocess.run(["mount", "-t", "tmpfs", "none", node.mount], check=True)
    assert sluice(node, "umount", node.mount, check=False).returncode == 66 and os.path.ismount(node.mount)


def test_a_mount_that_another_namespace_has_is_said_with_what_can_be_done(node):
    sluice(node, "mount", "volume/disk", node.mount, "--mkfs", "ext4")
    other = subprocess.Popen(["unshare", "-m", "--propagation", "private", "sleep", "600"])
    try:
        own = os.readlink("/proc/self/ns/mnt")
        await_condition("the namespace", lambda: os.readlink(f"/proc/{other.pid}/ns/mnt") != own)
        await_condition("the program", lambda: open(f"/proc/{other.pid}/comm").read().strip() == "sleep")
        failed = sluice(node, "umount", node.mount, check=False)
        assert failed.returncode == 75 and not os.path.ismount(node.mount), failed
        assert only(node)["mountsElsewhere"][0]["folder"] == str(node.mount) and only(node)["mounts"] == []
        shown = sluice(node, "status")
        assert f"{node.mount} (elsewhere)" in shown.stdout and "in the mount namespace of sleep" in shown.stderr, shown
        assert "is unmounted from" in failed.stderr and "then run: sluice detach volume/disk" in failed.stderr
        subprocess.run(re.search(r"nsenter -t \d+ -m umount \S+?(?=[;.\s])", failed.stderr)[0].split(), check=True)
        sluice(node, "detach", "volume/disk")
    finally:
        other.kill()
        other.wait()


def test_status_counts_from_when_the_server_was_last_heard(node):
    device = sluice(node, "attach", "volume/disk").stdout.strip()
    node.process.send_signal(signal.SIGSTOP)
    writer = subprocess.Popen(["dd", "if=/dev/zero", f"of={device}", "bs=4k", "count=1", "oflag=direct"],
                              stderr=subprocess.DEVNULL)

    def since():
        found = re.search(r"since (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)", only(node).get("message") or "")
        return found and found[1]

    await_condition("the silence", lambda: only(node)["state"] == "waiting")
    first = since()
    silent = time.monotonic()
    let_pass(1.5)
    node.stop(signal.SIGKILL)
    await_condition("the connection's end", lambda: only(node)["state"] == "reconnecting")
    assert since() == first
    node.start()
    assert writer.wait(60) == 0
    log = open(only(node)["logFile"]).read()
    resumed = re.search(r"resumed after (\d+\.\d) s", log)
    assert resumed and float(resumed[1]) >= time.monotonic() - silent - 0.5 or float(resumed[1]) > 2, log


def test_a_device_to_which_nothing_was_written_has_lost_nothing(node):
    device = sluice(node, "attach", "volume/disk").stdout.strip()
    node.cli("volume", "fence", "disk")
    file = os.open(device, os.O_RDWR)
    with contextlib.suppress(OSError):
        os.fsync(file)
    os.close(file)
    sluice(node, "detach", "volume/disk")
    assert status(node) == []
    # What was flushed is not lost either; what was written since is.
    for is_flushed in (True, False):
        device = sluice(node, "attach", "volume/disk").stdout.strip()
        file = os.open(device, os.O_RDWR)
        os.write(file, b"x" * 4096)
        if is_flushed:
            os.fsync(file)
        node.cli("volume", "fence", "disk")
        with contextlib.suppress(OSError):
            os.fsync(file)
        os.close(file)
        left = sluice(node, "detach", "volume/disk", check=False)
        assert left.returncode == (0 if is_flushed else 1), left
    assert "was lost" in left.stderr
    sluice(node, "detach", "--force", "volume/disk")


@pytest.mark.parametrize("is_flushed", [True, False])
def test_a_successor_knows_whether_there_is_something_to_lose(node, fuse_transport, is_flushed):
    device = sluice(node, "attach", "volume/disk").stdout.strip()
    sync = ["conv=fsync"] if is_flushed else []
    subprocess.run(["dd", f"of={device}", "if=/dev/zero", "bs=4k", "count=1", "oflag=direct", *sync], check=True,
                   capture_output=True)
    assert sluice(node, "attach", "volume/disk", "--take-over").stdout.strip() == device
    node.cli("volume", "fence", "disk")
    file = os.open(device, os.O_RDWR)
    with contextlib.suppress(OSError):
        os.fsync(file)
    os.close(file)
    assert only(node)["failedRequests"] > 0 and (only(node)["lostRequests"] == 0) == is_flushed, only(node)
    sluice(node, "detach", *([] if is_flushed else ["--force"]), "volume/disk")
    assert status(node) == []


def test_a_device_of_this_machine_has_grown_when_resize_answers(node):
    device = sluice(node, "attach", "volume/disk").stdout.strip()
    said = node.cli("volume", "resize", "disk", "--size", "96MiB").stdout
    assert f"{device} here has it too, and devices elsewhere grow within a moment" in said
    assert only(node)["size"] == 96 << 20
    sluice(node, "detach", "volume/disk")
    assert "attached devices grow within a moment" in node.cli("volume", "resize", "disk", "--size", "128MiB").stdout


@pytest.fixture
def late(node):
    """A node with a volume whose pool is quarantined, so that its device waits."""
    node.stop()
    node.environment["SLUICE_DRIVER_QUARANTINE_LOSSES"] = "1"
    node.start()
    # The driver has opened it.
    node.volume("late", node="compute")
    os.kill(node.json("driver", "show", "default")["pid"], signal.SIGKILL)
    await_condition("the quarantine", lambda: node.json("driver", "show", "default")["state"] == "quarantined")
    return node


@pytest.mark.parametrize("command", [
    ["bench", "volume/late", "--rw", "randread", "--time", "200ms"], ["volume", "map", "late"],
    ["bench", "volume/late", "--rw", "write", "--time", "200ms"]])
def test_what_a_command_waits_for_is_said_until_a_signal_ends_it(late, command):
    waiting = started(late, *command)
    try:
        assert select.select([waiting.stderr], [], [], 20)[0], "it says nothing"
        said = waiting.stderr.readline()
        assert said.startswith("waiting: volume/late: ") and "is quarantined" in said and "sluice pool restart" in said
        waiting.send_signal(signal.SIGINT)
        output, more = waiting.communicate(timeout=20)
    finally:
        waiting.kill()
    assert waiting.returncode in (130, -signal.SIGINT), more
    assert output == "" and "IOPS" not in more


def test_what_an_administrator_has_to_do_is_no_matter_of_trying_again(late):
    for command in (["volume", "create", "more", "--size", "1MiB"], ["volume", "resize", "late", "--size", "1GiB"],
                    ["volume", "mark", "late", "monday"]):
        refused = late.cli(*command, check=False)
        assert refused.returncode == 73, refused
        assert "pool default is quarantined" in refused.stderr and "sluice pool restart default" in refused.stderr
        assert "in a moment" not in refused.stderr


def test_giving_an_attach_up_does_not_wait_for_a_helper_that_hangs(late):
    attaching = started(late, "attach", "volume/late")
    entry = await_condition("the status", lambda: next(iter(status(late)), None))

    def helper():
        with open(f"/proc/{entry['pid']}/task/{entry['pid']}/children") as children:
            for child in children.read().split():
                if b"internal-loop\0attach" in open(f"/proc/{child}/cmdline", "rb").read():
                    return int(child)

    hanging = await_condition("the helper", helper)
    os.kill(hanging, signal.SIGSTOP)
    try:
        attaching.send_signal(signal.SIGINT)
        _, said = attaching.communicate(timeout=60)
        assert attaching.returncode == 130 and ended(entry["pid"]), said
        assert f"process {hanging}, which was to make its block device, does not end" in said, said
    finally:
        os.kill(hanging, signal.SIGKILL)


def test_an_interrupted_attach_says_what_it_waited_for_and_leaves_nothing(late):
    node = late
    attaching = started(node, "attach", "volume/late")
    entry = await_condition("the status", lambda: next(iter(status(node)), None))
    assert entry["state"] == "attaching" and entry["device"] == "", entry
    await_condition("the reason", lambda: "quarantined" in only(node)["message"])
    assert re.search("since .* it waits: .*sluice pool restart", only(node)["message"])
    assert attaching.stderr.readline().startswith("waiting: volume/late is being attached: since ")
    attaching.send_signal(signal.SIGINT)
    _, said = attaching.communicate(timeout=60)
    assert attaching.returncode == 130 and "volume/late is not attached" in said, said
    assert status(node) == [] and ended(entry["pid"])
    # Another command may stop it, and so does the end of its own, whatever that is.
    for stop in ("detach", "kill"):
        attaching = started(node, "attach", "volume/late")
        entry = await_condition("the status", lambda: next(iter(status(node)), None))
        if stop == "detach":
            sluice(node, "detach", "volume/late")
            assert attaching.wait(60) != 0
        else:
            attaching.kill()
            attaching.wait()
        await_condition("its end", lambda: ended(entry["pid"]))
        assert status(node) == []
    node.cli("pool", "restart", "default")
    assert sluice(node, "attach", "volume/late").stdout.startswith("/dev/loop")


def hanging(server, name, command="sleep 600"):
    """A program of that name, the first in the PATH that is returned, which hangs when it has said so in a file."""
    folder, begun = server.folder / f"bin-{name}", server.folder / f"begun-{name}"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\necho $$ >{begun}.new && mv {begun}.new {begun}\n{command}\n")
    (folder / name).chmod(0o755)
    begun.unlink(missing_ok=True)
    return f"{folder}:{os.environ['PATH']}", begun


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "deaf", "server"])
def test_a_mount_that_is_interrupted_in_mkfs_detaches_what_it_attached(node, how):
    path, begun = hanging(node, "mkfs.ext4", "trap '' TERM; while :; do sleep 1; done" if how == "deaf" else "exec sleep 600")
    mounting = started(node, "mount", "volume/disk", node.mount, "--mkfs", "ext4", PATH=path)
    await_condition("mkfs", begun.exists)
    assert only(node)["state"] == "attached"
    if how == "server":
        node.process.send_signal(signal.SIGSTOP)
    mounting.send_signal(signal.SIGTERM if how == "SIGTERM" else signal.SIGINT)
    _, said = mounting.communicate(timeout=60)
    node.process.send_signal(signal.SIGCONT)
    assert mounting.returncode == 130 and "volume/disk is not attached" in said, said
    # A busy machine may have had it wait for its device, which it says in a line of its own.
    ended_with = [line for line in said.splitlines() if not line.startswith("waiting: ")]
    assert len(ended_with) == 1 and ended_with[0].startswith("sluice: ") and "--force" in said, said
    assert status(node) == [] and ended(int(begun.read_text()))
    sluice(node, "mount", "volume/disk", node.mount, "--mkfs", "ext4")


def test_a_second_signal_ends_an_interrupted_mount_at_once(node):
    heard = node.folder / "heard"
    path, begun = hanging(node, "mkfs.ext4", f"trap 'touch {heard}' TERM; while :; do sleep 0.1; done")
    for _ in range(5):
        heard.unlink(missing_ok=True)
        begun.unlink(missing_ok=True)
        mounting = started(node, "mount", "volume/disk", node.mount, "--mkfs", "ext4", PATH=path)
        await_condition("mkfs", begun.exists)
        mounting.send_signal(signal.SIGINT)
        await_condition("its signal", lambda mounting=mounting: heard.exists() or mounting.poll() is not None)
        mounting.send_signal(signal.SIGINT)
        _, said = mounting.communicate(timeout=60)
        assert mounting.returncode == 130, said
        if "stays attached" in said:
            break
        # On a busy machine mkfs is killed before the second signal is sent.
        assert "volume/disk is not attached" in said, said
    assert "take it away with: sluice detach --force volume/disk" in said, said
    os.kill(int(begun.read_text()), signal.SIGKILL)
    sluice(node, "detach", "--force", "volume/disk")


def test_an_interrupted_mount_of_what_was_attached_before_leaves_it(node):
    device = sluice(node, "attach", "volume/disk").stdout.strip()
    path, begun = hanging(node, "mkfs.ext4")
    mounting = started(node, "mount", "volume/disk", node.mount, "--mkfs", "ext4", PATH=path)
    await_condition("mkfs", begun.exists)
    mounting.send_signal(signal.SIGINT)
    _, said = mounting.communicate(timeout=60)
    assert mounting.returncode == 130 and "volume/disk stays attached" in said, said
    assert only(node)["device"] == device and only(node)["state"] == "attached"


def test_a_mount_that_is_interrupted_leaves_nothing_unsaid(node):
    for delay in (0.1, 0.25, 0.4, 0.7):
        mounting = started(node, "mount", "volume/disk", node.mount, "--mkfs", "ext4", "--force")
        let_pass(delay)
        mounting.send_signal(signal.SIGINT)
        output, said = mounting.communicate(timeout=60)
        entries = status(node)
        if mounting.returncode == 0:
            assert "mounted on" in output
            sluice(node, "umount", node.mount)
        elif entries:
            assert "sluice detach volume/disk" in said, (entries, said)
            subprocess.run(["umount", node.mount], capture_output=True)
            sluice(node, "detach", "--force", "volume/disk")
        assert status(node) == []
