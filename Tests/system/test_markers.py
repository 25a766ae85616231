"""What was changed since a marker: incremental backups through restarts, kills and writers that go on meanwhile."""
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import threading
import uuid

import pytest
from conftest import BINARIES, ROOT, Server
from sluice_client import Channel, ChannelClosed, RequestFailed, Status
from sluice_client.frames import Blocks

KIB, MIB = 1 << 10, 1 << 20
UNIT = 64 * KIB
SEED = int(os.environ.get("SLUICE_SEED", "4"))
ROUNDS = int(os.environ.get("SLUICE_MARKER_ROUNDS", "5"))


@pytest.fixture
def marked(tmp_path):
    """A server of this test's own with three reactors, and a node."""
    running = Server(tmp_path, "--reactors", "3")
    running.environment["SLUICE_DRIVER_QUARANTINE_LOSSES"] = "1000000"
    running.start()
    running.node = running.join("compute")
    yield running
    assert running.stop() == 0, running.text()[-2000:]


def volume(server, name="disk", size="64MiB", pool=None, mode="shared"):
    server.cli("volume", "create", name, "--size", size, "--mode", mode, *(["--pool", pool] if pool else []))
    server.grant(name, "compute")


def token(server, name):
    with server.api(server.node) as api:
        return api.post("/v1/capabilities", json={"resource": f"volume/{name}"}).json()["token"]


@contextlib.contextmanager
def opened(server, name="disk"):
    keys = {key: str(server.node / file) for key, file in
            (("cafile", "ca.pem"), ("certfile", "cert.pem"), ("keyfile", "key.pem"))}
    with Channel(server.channel_address, **keys, timeout=60) as channel:
        yield channel, channel.open(token(server, name))[0]


def mark(server, marker, name="disk"):
    return server.json("volume", "mark", name, marker)


def markers(server, name="disk"):
    return {one["name"]: one for one in server.json("volume", "markers", name)}


def extents(channel, handle, total, marker):
    """All that BLOCK_STATUS says since a marker: (offset, length, flags)."""
    found, at = [], 0
    while at < total:
        for length, flags in channel.block_status(handle, at, min(total - at, 0x8000_0000), bytes.fromhex(marker)):
            found.append((at, length, flags))
            at += length
    assert at == total
    return found


def changed(channel, handle, total, marker):
    return [(offset, length) for offset, length, flags in extents(channel, handle, total, marker)
            if flags & Blocks.CHANGED]


def units(server, since, name="disk"):
    """The units that the command line says were changed."""
    shown = server.json("volume", "map", name, "--since", since, credentials=server.node)
    return sorted({place // UNIT for one in shown if one["changed"]
                   for place in range(one["offset"], one["offset"] + one["length"], 4 * KIB)})


def files(server):
    folder = server.data / "markers"
    return sorted(folder.iterdir()) if folder.exists() else []


class Writers:
    """Threads that write random pages and go on with new sessions when they lose theirs."""

    def __init__(self, server, total, count=3):
        self.ends, self.failures, self.writes = threading.Event(), [], [0] * count
        self.threads = [threading.Thread(target=self._run, args=(server, total, index)) for index in range(count)]
        for thread in self.threads:
            thread.start()

    def _run(self, server, total, index):
        generator = random.Random(SEED * 100 + index)
        try:
            while not self.ends.is_set():
                try:
                    with opened(server) as (channel, handle):
                        # So few that what one backup lacks is not written again before the end.
                        while not self.ends.wait(0.01):
                            self._write(channel, handle, total, generator)
                            self.writes[index] += 1
                # The server is away, or was: there is another session.
                except (ChannelClosed, OSError, RequestFailed, KeyError, json.JSONDecodeError):
                    pass
                except Exception as failure:  # noqa: BLE001
                    if "httpx" not in type(failure).__module__ and "httpcore" not in type(failure).__module__:
                        raise
        except Exception as failure:  # whatever it is, the test must hear of it
            self.failures.append(failure)

    @staticmethod
    def _write(channel, handle, total, generator):
        page = generator.randrange(total // (4 * KIB)) * 4 * KIB
        kind = generator.randrange(8)
        if kind == 0:
            channel.write_zeroes(handle, page, 4 * KIB)
        elif kind == 1:
            channel.copy_range(handle, page, 4 * KIB, handle, (page + total // 2) % total)
        elif kind == 2:
            channel.discard(handle, page, 4 * KIB)
        elif kind == 3:
            found = channel.read(handle, page, 512)
            channel.compare_and_write(handle, page, found, generator.randbytes(512))
        else:
            channel.write(handle, page, generator.randbytes(4 * KIB))

    def stop(self):
        self.ends.set()
        for thread in self.threads:
            thread.join()
        assert not self.failures, self.failures


def copy(server, backup, ranges):
    with opened(server) as (channel, handle):
        for offset, length in ranges:
            for at in range(offset, offset + length, MIB):
                count = min(MIB, offset + length - at)
                backup[at:at + count] = channel.read(handle, at, count)


@pytest.mark.parametrize("isolation", ["isolated", "inline"])
def test_incremental_backups_have_every_write_whatever_happens_meanwhile(marked, isolation):
    server, total = marked, 256 * MIB
    server.cli("pool", "create", "store", "--driver", "file", "--isolation", isolation)
    volume(server, size="256MiB", pool="store")
    generator = random.Random(SEED)
    writers = Writers(server, total)
    backup, copied = bytearray(total), 0
    try:
        last = mark(server, "m0")
        copy(server, backup, [(0, total)])
        for number in range(1, ROUNDS + 1):
            how = generator.choice(["kill -9", "kill -9", "restart", "host"])
            if how == "host" and isolation == "isolated":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(server.json("driver", "show", "store")["pid"], signal.SIGKILL)
            elif how != "host":
                server.stop(signal.SIGKILL if how == "kill -9" else signal.SIGTERM)
                server.start()
            following = mark(server, f"m{number}")
            with opened(server) as (channel, handle):
                ranges = changed(channel, handle, total, last["id"])
            copy(server, backup, ranges)
            copied += sum(length for _, length in ranges)
            assert all(one["complete"] for one in markers(server).values())
            server.cli("volume", "unmark", "disk", last["name"])
            last = following
    finally:
        writers.stop()
    mark(server, "end")
    with opened(server) as (channel, handle):
        copy(server, backup, changed(channel, handle, total, last["id"]))
        content = b"".join(channel.read(handle, at, MIB) for at in range(0, total, MIB))
    wrong = [at // UNIT for at in range(0, total, UNIT) if backup[at:at + UNIT] != content[at:at + UNIT]]
    assert not wrong, f"units {wrong[:20]} are not in the backup; SLUICE_SEED={SEED}"
    assert units(server, "end") == [] and len(files(server)) == 2
    assert min(writers.writes) > 10, "the writers wrote"
    print(f"{isolation}: {sum(writers.writes)} requests, {copied / MIB / ROUNDS:.1f} MiB copied a round")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_command_line_says_what_was_changed_also_after_a_restart(marked, how):
    server = marked
    volume(server)
    with opened(server) as (channel, handle):
        channel.write(handle, 0, b"a" * UNIT)
        mark(server, "monday")
        channel.write(handle, 2 * UNIT + 4096, b"b" * 4096)
    expected = [
        {"offset": 0, "length": UNIT, "type": "data", "changed": False},
        {"offset": UNIT, "length": UNIT, "type": "hole", "changed": False},
        {"offset": 2 * UNIT, "length": 4096, "type": "hole", "changed": True},
        {"offset": 2 * UNIT + 4096, "length": 4096, "type": "data", "changed": True},
        {"offset": 2 * UNIT + 8192, "length": UNIT - 8192, "type": "hole", "changed": True},
        {"offset": 3 * UNIT, "length": 64 * MIB - 3 * UNIT, "type": "hole", "changed": False}]
    shown = ("volume", "map", "disk", "--since", "monday")
    assert server.json(*shown, credentials=server.node) == expected
    for _ in range(2):
        server.stop(how)
        server.start()
        assert server.json(*shown, credentials=server.node) == expected
    assert markers(server)["monday"] == {
        **markers(server)["monday"], "changedBytes": UNIT, "granularity": UNIT, "complete": True, "volume": "disk"}
    text = server.cli(*shown, "--range", f"{2 * UNIT}:8192", credentials=server.node).stdout.splitlines()
    assert [line.split() for line in text] == [
        ["OFFSET", "LENGTH", "TYPE", "CHANGED"], [str(2 * UNIT), "4096", "hole", "yes"],
        [str(2 * UNIT + 4096), "4096", "data", "yes"]]
    with opened(server) as (channel, handle):
        channel.write(handle, 9 * UNIT, b"c" * 4096)
    assert units(server, "monday") == [2, 9]
    server.cli("volume", "resize", "disk", "--size", "65MiB")
    assert units(server, "monday") == [2, 9, *range(1024, 1040)]


def checksum(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & (1 << 64) - 1
    return value


def of_another_run(path):
    """As if the machine had died while the marker was in use."""
    data = bytearray(path.read_bytes())
    data[12:16], data[64:80] = bytes(4), bytes(range(16))
    data[88:96] = checksum(data[:88]).to_bytes(8, "little")
    path.write_bytes(data)


def damage(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def replace_by_link(path):
    path.rename(path.with_suffix(".away"))
    path.symlink_to("/dev/zero")


HARMS = {
    "bits": lambda path: damage(path, 4096 + 3),
    "header": lambda path: damage(path, 20),
    "truncated": lambda path: os.truncate(path, 4096),
    "missing": lambda path: path.unlink(),
    "random": lambda path: path.write_bytes(random.Random(SEED).randbytes(8192)),
    "link": replace_by_link,
    "another-run": of_another_run,
}


def test_what_is_not_known_counts_as_changed_and_is_said(marked):
    server = marked
    paths = {}
    for name in [*HARMS, "unharmed"]:
        volume(server, name)
        owner = server.json("volume", "show", name)["id"]
        mark(server, "monday", name)
        paths[name] = next(path for path in files(server) if path.name.startswith(owner))
    server.stop()
    for name, harm in HARMS.items():
        harm(paths[name])
    server.start()
    # Nor does another restart bring anything back.
    for _ in range(2):
        for name in HARMS:
            shown = server.cli("volume", "map", name, "--since", "monday", "-o", "json", credentials=server.node)
            assert all(one["changed"] for one in json.loads(shown.stdout)) and "not complete" in shown.stderr, name
            one = markers(server, name)["monday"]
            assert one["complete"] is False and one["changedBytes"] == 64 * MIB, name
        assert markers(server, "unharmed")["monday"]["complete"] is True and units(server, "monday", "unharmed") == []
        server.stop(signal.SIGKILL)
        server.start()
    assert server.text().count("a marker is not complete") == 3 * len(HARMS)
    server.cli("volume", "unmark", "bits", "monday")
    mark(server, "monday", "bits")
    assert markers(server, "bits")["monday"]["complete"] is True and units(server, "monday", "bits") == []


def test_a_pool_in_memory_does_not_lie_about_what_is_gone(marked):
    server = marked
    server.memory_pool()
    volume(server, pool="ram")
    with opened(server) as (channel, handle):
        channel.write(handle, 0, b"a" * 4096)
        mark(server, "monday")
        channel.write(handle, UNIT, b"b" * 4096)
    assert units(server, "monday") == [1]
    os.kill(server.json("driver", "show", "ram")["pid"], signal.SIGKILL)
    assert units(server, "monday") == [1], "a lost host takes nothing with it"
    server.stop()
    server.start()
    one = markers(server)["monday"]
    assert one["complete"] is False and one["changedBytes"] == 64 * MIB
    assert units(server, "monday") == list(range(64 * MIB // UNIT)), "the volume is there again, and empty"


def test_markers_over_the_api(marked):
    server = marked
    volume(server)
    volume(server, "other")
    stranger = server.join("stranger")
    path = "/v1/volumes/disk/markers"
    with server.api(server.data / "admin") as admin, server.api(server.node) as node, \
            server.api(stranger) as other:
        assert admin.get(path).json() == {"items": []}
        key = {"Idempotency-Key": str(uuid.uuid4())}
        made = admin.post(path, json={"name": "a"}, headers=key)
        assert made.status_code == 201 and made.headers["location"] == f"{path}/a"
        assert made.json()["complete"] is True and made.json()["changedBytes"] == 0
        assert admin.post(path, json={"name": "a"}, headers=key).json() == made.json()
        assert len(files(server)) == 1
        taken = admin.post(path, json={"name": "a"})
        assert (taken.status_code, taken.json()["code"]) == (409, "ALREADY_EXISTS")
        assert admin.post(path, json={"name": "No"}).json()["field"] == "name"
        assert admin.post(path, json={}).json()["code"] == "MISSING_FIELD"
        assert admin.post("/v1/volumes/none/markers", json={"name": "a"}).status_code == 404
        assert node.post(path, json={"name": "b"}).status_code == 403
        assert node.delete(f"{path}/a").status_code == 403
        assert node.get(f"{path}/a").json() == admin.get(f"{path}/a").json() == made.json()
        assert other.get(path).status_code == other.get(f"{path}/a").status_code == 404
        for letter in "hgfedcb":
            assert admin.post(path, json={"name": letter}).status_code == 201
        full = admin.post(path, json={"name": "i"})
        assert full.json()["code"] == "LIMIT_REACHED" and len(files(server)) == 8
        # A marker of another volume is none of this one.
        foreign = admin.post("/v1/volumes/other/markers", json={"name": "a"}).json()["id"]
        with opened(server) as (channel, handle):
            for marker, status in ((bytes.fromhex(foreign), Status.NOT_FOUND), (bytes(16), Status.NOT_FOUND),
                                   (bytes(15), Status.BAD_LENGTH), (bytes(17), Status.BAD_LENGTH)):
                with pytest.raises(RequestFailed) as failure:
                    channel.block_status(handle, 0, MIB, marker)
                assert failure.value.status == status
        names, page = [], admin.get(path, params={"limit": 3}).json()
        while True:
            names += [one["name"] for one in page["items"]]
            if "nextCursor" not in page:
                break
            page = admin.get(path, params={"limit": 3, "cursor": page["nextCursor"]}).json()
        assert names == list("abcdefgh")
        assert admin.delete(f"{path}/a").status_code == 204
        assert admin.delete(f"{path}/a").status_code == admin.get(f"{path}/a").status_code == 404
        assert len(files(server)) == 8
        assert admin.delete("/v1/volumes/disk").status_code == 200
        assert admin.get(path).status_code == 404 and len(files(server)) == 1
    server.cli("volume", "create", "disk", "--size", "1MiB")
    assert markers(server) == {}
    missing = server.cli("volume", "map", "other", "--since", "z", credentials=server.node, check=False)
    assert missing.returncode != 0 and "marker z" in missing.stderr


def test_what_a_crash_left_of_a_marker_is_taken_away(marked):
    server = marked
    volume(server)
    kept = mark(server, "kept")
    server.stop(signal.SIGKILL)
    leftover = server.data / "markers" / f"{'0' * 32}-{'1' * 32}.marker"
    leftover.write_bytes(b"half of one")
    server.start()
    assert [path.name.split("-")[1] for path in files(server)] == [f"{kept['id']}.marker"]


def test_what_the_documents_say_of_incremental_backups_works(marked):
    server = marked
    volume(server, "db")
    text = (ROOT / "docs/using.md").read_text()
    block = re.search(r"```\n(sluice volume mark db monday .*?)```", text, re.DOTALL).group(1)
    lines = block.strip().replace("https://192.0.2.10:7480", server.url).splitlines()
    assert len(lines) == 5
    answers = []
    for line in lines:
        folder = server.node if " map " in line else server.data / "admin"
        environment = {**os.environ, "SLUICE_SERVER": server.url, "SLUICE_CREDENTIALS": str(folder),
                       "PATH": f"{BINARIES}:{os.environ['PATH']}"}
        if " map " in line:
            with opened(server, "db") as (channel, handle):
                channel.write(handle, 5 * UNIT, b"x" * UNIT)
        answers.append(subprocess.run(
            ["bash", "-o", "pipefail", "-c", line.replace("curl ", "curl -s --fail-with-body ")], check=True,
            timeout=60, capture_output=True, text=True, env=environment).stdout)
    assert json.loads(answers[1])["name"] == "tuesday"
    assert json.loads(answers[2]) == {"offset": 5 * UNIT, "length": UNIT, "type": "data", "changed": True}
    assert [line.split()[0] for line in answers[4].splitlines()] == ["NAME", "tuesday"]
