"""An attached device beside other users of its name, its loop device, its contents and its process."""
import contextlib
import os
import pathlib
import pty
import select
import signal
import stat
import subprocess
import time

import pytest
from attached import ended, node, only, sluice, started, status  # noqa: F401 (a fixture)
from conftest import BINARIES, PATIENCE, await_condition, needs_root

pytestmark = needs_root


def refused(server, *arguments, **options):
    result = sluice(server, *arguments, check=False, **options)
    assert result.returncode not in (0, 1), result
    return result.stderr


def attach(server, *options):
    return sluice(server, "attach", "volume/disk", *options).stdout.split()[-1]


def foreground(server):
    """`sluice attach --foreground` when its device is there, and its device."""
    process = started(server, "attach", "volume/disk", "--foreground")
    return process, process.stdout.readline().strip()


def opener(server, device):
    """A process that has the device open by a node of its own."""
    node = server.folder / "node"
    if not node.exists():
        os.mknod(node, stat.S_IFBLK | 0o600, os.stat(device).st_rdev)
    process = subprocess.Popen(["sleep", "600"], stdin=node.open("rb"))
    return process


def test_an_ordered_end_is_no_failure_and_leaves_nothing_behind(node):
    for end in ("detach", signal.SIGTERM, signal.SIGINT):
        process, device = foreground(node)
        if end == "detach":
            sluice(node, "detach", device)
        else:
            process.send_signal(end)
        _, log = process.communicate(timeout=60)
        assert process.returncode == 0 and "from outside" not in log, log
    attach(node)
    sluice(node, "detach", "volume/disk")
    assert os.listdir(node.folder / "run") == []


def test_a_signal_while_it_is_mounted_ends_it_as_soon_as_it_is_not(node):
    process, device = foreground(node)
    subprocess.run(["mkfs.ext4", "-q", device], check=True)
    subprocess.run(["mount", device, node.mount], check=True)
    process.send_signal(signal.SIGTERM)
    await_condition("the reason", lambda: str(node.mount) in only(node).get("message", ""))
    process.send_signal(signal.SIGTERM)
    (node.mount / "still").write_text("served")
    subprocess.run(["sync", "-f", node.mount], check=True)
    assert process.poll() is None
    subprocess.run(["umount", node.mount], check=True)
    assert process.wait(60) == 0


def test_a_device_that_was_taken_away_is_said_to_be_and_its_name_is_never_used_again(node):
    device = attach(node)
    pid = only(node)["pid"]
    other = opener(node, device)
    try:
        start = time.monotonic()
        text = refused(node, "detach", "volume/disk")
        assert f"open in sleep (pid {other.pid})" in text and time.monotonic() - start < 20
    finally:
        other.kill()
        other.wait()
    # Nothing was begun that the last close could end.
    assert only(node)["state"] == "attached"
    subprocess.run(["dd", f"of={device}", "if=/dev/urandom", "bs=4k", "count=1", "oflag=direct"], check=True,
                   capture_output=True)
    subprocess.run(["losetup", "-d", device], check=True)
    entry = await_condition("the loss", lambda: next(
        (one for one in status(node) if one["state"] == "stale"), None))
    assert "taken away from outside" in await_condition("the reason", lambda: only(node).get("message", ""))
    await_condition("the end of its process", lambda: ended(pid))
    assert "since " in only(node)["message"] and entry["mounts"] == []
    image = node.folder / "other.img"
    image.write_bytes(b"precious" * (1 << 17))
    taken = subprocess.run(["losetup", device, image], capture_output=True)
    try:
        # A new device, or none: the other one is not touched.
        sluice(node, "mount", "volume/disk", node.mount, "--mkfs", "ext4", "--force")
        if taken.returncode == 0:
            assert only(node)["device"] != device
        assert image.read_bytes() == b"precious" * (1 << 17)
        options = next(line for line in open("/proc/mounts") if f" {node.mount} " in line).split()[3].split(",")
        assert {"nosuid", "nodev"} <= set(options)
        sluice(node, "umount", node.mount)
        sluice(node, "mount", "volume/disk", node.mount, "--allow-suid", "--allow-devices")
        options = next(line for line in open("/proc/mounts") if f" {node.mount} " in line).split()[3].split(",")
        assert not {"nosuid", "nodev"} & set(options)
        sluice(node, "umount", node.mount)
    finally:
        if taken.returncode == 0:
            subprocess.run(["losetup", "-d", device], check=True)


@pytest.mark.parametrize("goes", ["before", "without reading"])
def test_a_loop_device_whose_answer_nobody_takes_is_taken_back(tmp_path, goes):
    image = tmp_path / "image"
    image.write_bytes(bytes(1 << 20))
    answer, given = os.pipe()
    if goes == "before":
        os.close(answer)
    helper = subprocess.Popen([BINARIES / "sluice", "internal-loop", "attach", image, "512", "rw", "sluice:test"], stdout=given)
    os.close(given)
    if goes != "before":
        assert select.select([answer], [], [], PATIENCE)[0]
        os.close(answer)
    helper.wait(PATIENCE)
    # losetup(8) would ask every device of this machine, of which some may hang.
    left = []
    for backing in pathlib.Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if backing.read_text().strip() == str(image):
                left.append(f"/dev/{backing.parts[3]}")
    for device in left:
        subprocess.run(["losetup", "-d", device], check=True)
    assert not left


def test_force_takes_seconds_whoever_has_the_device_open_and_whatever_its_process_does(node):
    device = attach(node)
    other = opener(node, device)
    try:
        with open(device, "wb", buffering=0) as cached:
            cached.write(b"kept" * 1024)
        start = time.monotonic()
        forced = sluice(node, "detach", "--force", "volume/disk")
        assert f"sleep (pid {other.pid}) closes it" in forced.stderr and time.monotonic() - start < 30
        assert status(node) == []
        # The volume is free for the next one, and what could be written back was.
        again = attach(node)
        assert again != device
        with open(again, "rb", buffering=0) as kept:
            assert kept.read(4096) == b"kept" * 1024
    finally:
        other.kill()
        other.wait()
    # Its process stands still: that is said, and does not hang.
    pid = only(node)["pid"]
    os.kill(pid, signal.SIGSTOP)
    assert only(node)["state"] == "stopped"
    assert f"kill -CONT {pid}" in refused(node, "detach", "volume/disk", timeout=30)
    sluice(node, "detach", "--force", "volume/disk", timeout=60)
    assert ended(pid) and status(node) == []
    # The server answers nothing.
    device = attach(node)
    node.process.send_signal(signal.SIGSTOP)
    writer = subprocess.Popen(["dd", "if=/dev/zero", f"of={device}", "bs=64k", "count=8", "oflag=direct"],
                              stderr=subprocess.DEVNULL)
    start = time.monotonic()
    sluice(node, "detach", "--force", "volume/disk")
    assert time.monotonic() - start < 60
    node.process.send_signal(signal.SIGCONT)
    writer.wait(60)


def test_what_an_ended_process_left_is_cleaned_up_though_it_is_mounted(node):
    device = attach(node)
    subprocess.run(["mkfs.ext4", "-q", device], check=True)
    subprocess.run(["mount", device, node.mount], check=True)
    os.kill(only(node)["pid"], signal.SIGKILL)
    await_condition("the status", lambda: only(node)["state"] == "stale")
    cleaned = sluice(node, "detach", "volume/disk")
    assert f"{node.mount} is unmounted" in cleaned.stderr
    assert status(node) == []
    assert attach(node) != device
    subprocess.run(["umount", "-l", node.mount], check=True)


def test_nothing_is_written_over_what_a_volume_holds_unless_that_is_said(node):
    device = attach(node)
    # No signature, and not yet with the server when it is asked.
    with open(device, "r+b", buffering=0) as raw:
        raw.seek(20 << 20)
        raw.write(b"\x01" + os.urandom(8191))
    text = refused(node, "mount", "volume/disk", node.mount, "--mkfs", "ext4")
    assert f"holds data, such as at byte {20 << 20}" in text and "--force" in text
    # A server that does not answer leaves nothing known.
    sluice(node, "detach", "volume/disk")
    attach(node, "--io-timeout", "1s")
    node.process.send_signal(signal.SIGSTOP)
    failed = sluice(node, "mount", "volume/disk", node.mount, check=False)
    assert failed.returncode != 0 and "no file system" not in failed.stderr, failed
    node.process.send_signal(signal.SIGCONT)
    await_condition("the server", lambda: only(node)["state"] in ("attached", "failed"))
    sluice(node, "detach", "volume/disk")
    for rw in ("write", "randwrite", "randrw"):
        text = refused(node, "bench", "volume/disk", "--rw", rw, "--time", "1")
        assert "KiB of data" in text, text
    sluice(node, "bench", "volume/disk", "--rw", "randread", "--time", "1")
    sluice(node, "bench", "volume/disk", "--rw", "write", "--range", "0:1MiB", "--time", "1")
    sluice(node, "bench", "volume/disk", "--rw", "write", "--range", "0:1MiB", "--time", "1", "--force")
    sluice(node, "mount", "volume/disk", node.mount, "--mkfs", "ext4", "--force")
    sluice(node, "umount", node.mount)
    assert "holds ext4" in refused(node, "mount", "volume/disk", node.mount, "--mkfs", "xfs")
    for options in ([], ["--confirm", "other"]):
        assert node.cli("volume", "delete", "disk", *options, check=False).returncode in (64, 73)
    node.cli("volume", "delete", "disk", "--confirm", "disk")


def test_one_server_by_two_names_is_one_and_few_open_files_are_enough(node):
    port = node.control.rsplit(":", 1)[1]
    environment = {**os.environ, "SLUICE_RUN": str(node.folder / "run"), "SLUICE_CREDENTIALS": str(node.node)}
    limited = subprocess.run(
        ["bash", "-c", 'ulimit -n 64; exec "$@"', "-", BINARIES / "sluice", "attach", "volume/disk", "--server",
         node.url], capture_output=True, text=True, env=environment, timeout=60)
    assert limited.returncode == 0, limited.stderr
    other = f"https://localhost:{port}"
    text = refused(node, "attach", "volume/disk", "--server", other)
    assert "another name of the same server" in text
    assert "attached: volume/disk from " + node.url in refused(node, "detach", "volume/disk", "--server", other)
    sluice(node, "detach", "volume/disk", "--server", node.url)


def test_whoever_sits_at_a_terminal_types_the_name_of_what_is_cut_off_or_destroyed(node):
    attach(node)
    environment = {**os.environ, "SLUICE_SERVER": node.url, "SLUICE_CREDENTIALS": str(node.data / "admin")}
    for command, name, answers in (("volume fence disk", "disk", ["something"]),
                                   ("node remove compute", "compute", ["something", "compute"]),
                                   ("volume delete disk", "disk", ["something", "disk"])):
        for typed in answers:
            near, far = pty.openpty()
            process = subprocess.Popen([BINARIES / "sluice", *command.split()], stdin=far, stderr=far,
                                       stdout=subprocess.PIPE, env=environment)
            os.close(far)
            said = b""
            while b"Type " not in said:
                said += os.read(near, 4096)
            assert f"Type {name} to" in said.decode()
            if command.startswith("volume fence"):
                assert "written by node compute" in said.decode()
            os.write(near, f"{typed}\n".encode())
            process.wait(60)
            process.stdout.close()
            os.close(near)
            assert process.returncode == (0 if typed == name else 73), (command, typed)
