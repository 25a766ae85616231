"""Driver hosts: what users see when they die, hang or lie, and what the sandbox leaves them."""
import contextlib
import json
import os
import pathlib
import random
import signal
import statistics
import subprocess
import threading
import time

import pytest
from conftest import ROOT, Server, await_condition, let_pass, needs_root
from sluice_client import Channel, Opcode, RequestFailed, Status
from sluice_client.frames import EventKind

KILLS = int(os.environ.get("SLUICE_DRIVER_KILLS", "9"))
SEED = int(os.environ.get("SLUICE_SEED", "3"))
LIAR = ROOT / "Tests/system/hosts/liar.py"
MIB = 1 << 20


@contextlib.contextmanager
def opened(server, node, volume):
    """A channel of the node with the volume open."""
    with server.api(node) as api:
        token = api.post("/v1/capabilities", json={"resource": f"volume/{volume}"}).json()["token"]
    with Channel(server.channel_address, cafile=str(node / "ca.pem"), certfile=str(node / "cert.pem"),
                 keyfile=str(node / "key.pem"), timeout=60) as channel:
        yield channel, channel.open(token)[0]


def hosts(server):
    """The processes that the server has started."""
    found = subprocess.run(["pgrep", "-P", str(server.process.pid)], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def driver(server, pool="default"):
    return server.json("driver", "show", pool)


def await_host(server, pool="default", other_than=None):
    """The pool's next host, once it serves."""
    def serves():
        report = driver(server, pool)
        return report if report["state"] == "running" and report.get("pid") != other_than else None

    return await_condition(f"a host of {pool}", serves)


@pytest.fixture
def patient(tmp_path):
    """A server that goes on however often hosts are lost."""
    running = Server(tmp_path)
    running.environment["SLUICE_DRIVER_QUARANTINE_LOSSES"] = "1000000"
    running.start()
    yield running
    assert running.stop() == 0, running.text()[-2000:]


class Load(threading.Thread):
    """Writes and reads back over the data channel, one request after another, and notes how long each took."""

    def __init__(self, server, node, volume, pause=0):
        super().__init__()
        self.arguments = server, node, volume
        self.ends = threading.Event()
        self.pause, self.times, self.failure = pause, [], None

    def run(self):
        generator = random.Random(SEED)
        try:
            with opened(*self.arguments) as (channel, handle):
                while not self.ends.is_set():
                    offset = generator.randrange(64) * 4096
                    payload = generator.randbytes(4096)
                    started = time.monotonic()
                    channel.write(handle, offset, payload)
                    assert channel.read(handle, offset, 4096) == payload
                    self.times.append(time.monotonic() - started)
                    let_pass(self.pause)
        except Exception as failure:  # whatever it is, the test must hear of it
            self.failure = failure

    def __enter__(self):
        self.start()
        await_condition("the first requests", lambda: len(self.times) > 5 or self.failure)
        return self

    def __exit__(self, *_):
        self.ends.set()
        self.join(60)
        assert not self.is_alive() and self.failure is None, self.failure


# What users see


@needs_root
def test_fio_sees_no_error_while_hosts_are_killed_hang_and_crash(patient):
    node = patient.join("compute")
    patient.volume("disk", size="512MiB", node="compute")
    device = patient.cli("attach", "volume/disk", credentials=node).stdout.split()[-1]
    mount = patient.folder / "mnt"
    mount.mkdir()
    generator = random.Random(SEED)
    try:
        subprocess.run(["mkfs.ext4", "-q", device], check=True)
        subprocess.run(["mount", device, mount], check=True)
        fio = subprocess.Popen(
            ["fio", "--name=verify", f"--directory={mount}", "--rw=randwrite", "--bsrange=4k-256k", "--direct=1",
             "--ioengine=libaio", "--iodepth=16", "--numjobs=2", "--size=128m", "--verify=crc32c",
             "--verify_fatal=1", "--verify_backlog=64", "--fsync=32", "--time_based", f"--runtime={3600}",
             "--verify_state_save=0", "--output-format=json"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        await_condition("fio's files", lambda: len(list(mount.glob("verify*"))) == 2)
        for number in range(KILLS):
            pid = await_host(patient)["pid"]
            let_pass(generator.uniform(0.05, 1.2))
            assert fio.poll() is None, fio.stdout.read()[-2000:]
            os.kill(pid, [signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV][number % 3])
            await_host(patient, other_than=pid)
        fio.send_signal(signal.SIGINT)
        output, _ = fio.communicate(timeout=120)
        jobs = json.loads(output[output.index("{"):])["jobs"]
        assert [job["error"] for job in jobs] == [0, 0], output[-2000:]
        assert sum(job["write"]["total_ios"] for job in jobs) > 0
        subprocess.run(["umount", mount], check=True)
        subprocess.run(["e2fsck", "-fn", device], check=True, capture_output=True)
    finally:
        subprocess.run(["umount", "-l", mount], capture_output=True)
        patient.cli("detach", "--force", "volume/disk", credentials=node, check=False)
    report = driver(patient)
    assert report["ends"]["crash"] + report["ends"]["hang"] == KILLS
    print(f"{KILLS} hosts lost, {report['replayed']} requests repeated")


def test_a_killed_host_is_a_pause_below_a_second(patient):
    node = patient.join("compute")
    patient.volume("disk", node="compute")
    pauses = []
    with Load(patient, node, "disk") as load:
        for _ in range(9):
            pid = await_host(patient)["pid"]
            # A host that is lost within a quarter of a second of its start counts as one of a crash loop.
            served = sum(load.times)
            await_condition("requests", lambda: sum(load.times) > served + 0.4)
            os.kill(pid, signal.SIGKILL)
            pauses.append(await_host(patient, other_than=pid)["lastPauseMilliseconds"])
    print(f"from SIGKILL until requests went on: median {statistics.median(pauses)} ms, worst {max(pauses)} ms; "
          f"the longest write and read back took {max(load.times) * 1000:.0f} ms")
    assert max(load.times) < 1


def test_users_are_told_that_their_driver_is_replaced(patient):
    node = patient.join("compute")
    patient.volume("disk", node="compute")
    with opened(patient, node, "disk") as (channel, handle):
        channel.write(handle, 0, bytes(4096))
        pid = await_host(patient)["pid"]
        os.kill(pid, signal.SIGKILL)
        await_host(patient, other_than=pid)

        def told():
            channel.write(handle, 0, bytes(4096))
            return len(channel.events) == 2

        await_condition("both events", told)
        assert [(event.kind, event.value, event.detail) for event in channel.events] == [
            (EventKind.DRIVER_RECOVERING, 1, handle), (EventKind.DRIVER_RECOVERING, 0, handle)]


def test_what_is_in_memory_outlives_the_host(patient):
    node = patient.join("compute")
    patient.memory_pool()
    patient.volume("ram", pool="ram", node="compute")
    with opened(patient, node, "ram") as (channel, handle):
        payload = os.urandom(MIB)
        channel.write(handle, 3 * MIB, payload)
        for _ in range(3):
            pid = driver(patient, "ram")["pid"]
            os.kill(pid, signal.SIGKILL)
            await_host(patient, "ram", other_than=pid)
            assert channel.read(handle, 3 * MIB, MIB) == payload
            assert channel.read(handle, 0, MIB) == bytes(MIB)


def test_an_upgrade_is_a_short_pause(patient):
    node = patient.join("compute")
    patient.volume("disk", node="compute")
    patient.memory_pool()
    patient.volume("ram", pool="ram", node="compute")
    with Load(patient, node, "disk") as first, Load(patient, node, "ram") as second:
        for pool in ("default", "ram") * 4:
            before = driver(patient, pool).get("pid")
            answer = patient.json("driver", "upgrade", pool)
            assert driver(patient, pool).get("pid") != before and driver(patient, pool)["state"] == "running"
            assert answer["pauseMilliseconds"] < 500
    assert driver(patient)["ends"]["upgrade"] == 4
    print(f"longest write and read back: {max(first.times + second.times) * 1000:.0f} ms")


def test_restart_starts_another_host(patient):
    before = driver(patient)["pid"]
    patient.cli("pool", "restart", "default")
    after = driver(patient)
    assert after["pid"] != before and after["state"] == "running" and after["ends"]["restart"] == 1


def test_hosts_end_with_the_server(tmp_path):
    server = Server(tmp_path).start()
    pids = hosts(server)
    assert pids
    server.stop(signal.SIGKILL)
    await_condition("the end of the hosts", lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))


def test_a_host_that_is_lost_too_often_is_quarantined_until_an_administrator_restarts_it(server):
    node = server.join("compute")
    server.volume("disk", node="compute")
    with opened(server, node, "disk") as (channel, handle):
        channel.write(handle, 0, bytes(4096))
        for _ in range(40):
            report = driver(server)
            if report["state"] == "quarantined":
                break
            if report["state"] == "running":
                os.kill(report["pid"], signal.SIGKILL)
                await_condition("the loss", lambda: driver(server).get("pid") != report["pid"])
            else:
                await_condition("the next host", lambda: driver(server)["state"] in ("running", "quarantined"))
        assert report["state"] == "quarantined", report
        waiting = channel.submit(Opcode.READ, handle=handle, count=4096)
        refused = server.cli("volume", "create", "other", "--size", "1MiB", check=False)
        assert refused.returncode != 0 and "restart" in refused.stderr
        kinds = [event["kind"] for event in server.json("events")]
        assert "driver.quarantined" in kinds and "driver.recovering" in kinds
        await_condition("the metric", lambda: is_waiting(server))
        server.cli("pool", "restart", "default")
        assert channel.wait(waiting).status == Status.OK
        channel.write(handle, 0, bytes(4096))


@pytest.mark.parametrize("end", ["stays", "closes", "is lost"])
@pytest.mark.parametrize("opcode", [Opcode.READ, Opcode.FLUSH])
def test_a_server_ends_though_a_request_waits_for_a_quarantined_pool(server, opcode, end):
    server.stop()
    server.environment["SLUICE_DRIVER_QUARANTINE_LOSSES"] = "1"
    server.start()
    node = server.join("compute")
    server.volume("disk", node="compute")
    with opened(server, node, "disk") as (channel, handle):
        channel.write(handle, 0, bytes(4096))
        os.kill(driver(server)["pid"], signal.SIGKILL)
        await_condition("the quarantine", lambda: driver(server)["state"] == "quarantined")
        channel.submit(opcode, handle=handle, count=4096 if opcode == Opcode.READ else 0)
        await_condition("the metric", lambda: is_waiting(server))
        if end != "stays":
            {"closes": channel.close, "is lost": channel.drop}[end]()
            await_condition("its end", lambda: all(
                one["state"] == "ending" for one in server.json("session", "list")))
        begun = time.monotonic()
        assert server.stop() == 0, server.log.read_text()
        assert time.monotonic() - begun < 25


def is_waiting(server):
    with server.api(server.data / "admin") as api:
        return 'sluice_pool_requests_waiting{pool="default"} 1\n' in api.get("/metrics").text


def test_a_neighbours_pool_does_not_notice(patient):
    node = patient.join("compute")
    patient.volume("disk", node="compute")
    patient.memory_pool()
    patient.volume("ram", pool="ram", node="compute")
    with Load(patient, node, "disk"), Load(patient, node, "ram") as neighbour:
        pid = driver(patient)["pid"]
        os.kill(pid, signal.SIGSTOP)
        stopped = len(neighbour.times)
        await_host(patient, other_than=pid)
        during = neighbour.times[stopped:]
        assert len(during) > 100 and max(during) < 1
        assert driver(patient, "ram")["starts"] == 1


@pytest.fixture
def failing_pool(patient):
    """A pool in the page cache of a file system whose disk takes no more data, and a volume on it."""
    node = patient.join("compute")
    room, folder = patient.folder / "room", patient.data / "pools/shaky"
    for path in (room, folder):
        path.mkdir()
    device = None
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", room], check=True)
        with open(room / "disk", "wb") as disk:
            disk.truncate(256 * MIB)
        device = subprocess.run(
            ["losetup", "--find", "--show", room / "disk"], check=True, capture_output=True, text=True).stdout.strip()
        subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", "-E", "lazy_itable_init=0", device], check=True)
        subprocess.run(["mount", "-o", "errors=continue", device, folder], check=True)
        patient.cli("pool", "create", "shaky", "--driver", "file", "--setting", "direct=false")
        patient.volume("shaky", size="128MiB", pool="shaky", node="compute")
        with opened(patient, node, "shaky") as (channel, handle):
            channel.write(handle, 0, bytes(MIB))
            channel.flush(handle)
            subprocess.run(["fallocate", "-l", "1g", room / "filler"], capture_output=True)
            subprocess.run(["dd", "if=/dev/zero", f"of={room}/rest", "bs=64k"], capture_output=True)
            for number in range(8):
                channel.write(handle, number * 8 * MIB, os.urandom(MIB))
            patient.volume_file = next(path for path in folder.iterdir() if len(path.name) == 32)
            yield patient, channel, handle
    finally:
        patient.stop()
        subprocess.run(["umount", folder], capture_output=True)
        if device:
            subprocess.run(["losetup", "-d", device], capture_output=True)
        subprocess.run(["umount", room], capture_output=True)


def flush_fails(channel, handle):
    with pytest.raises(RequestFailed) as failure:
        channel.flush(handle)
    return failure.value.status in (Status.IO_ERROR, Status.NO_SPACE)


@needs_root
@pytest.mark.parametrize("who", ["host", "nobody", "stranger"])
def test_a_flush_after_a_loss_tells_of_writes_that_were_lost(failing_pool, who):
    """The kernel says once to each open file that a write-back failed, and not to one opened after it was heard."""
    server, channel, handle = failing_pool
    if who == "host":
        assert flush_fails(channel, handle)
    else:
        subprocess.run(["sync", "-f", server.volume_file], capture_output=True)
    if who == "stranger":
        # Hears of the failure like a host that is then killed before it can say so.
        descriptor = os.open(server.volume_file, os.O_RDWR)
        try:
            os.fsync(descriptor)
        except OSError:
            pass
        os.close(descriptor)
    pid = driver(server, "shaky")["pid"]
    os.kill(pid, signal.SIGKILL)
    await_host(server, "shaky", other_than=pid)
    for _ in range(2):
        assert flush_fails(channel, handle)


def test_an_idle_server_and_its_hosts_use_no_cpu(patient):
    node = patient.join("compute")
    patient.volume("disk", node="compute")
    patient.memory_pool()
    patient.volume("ram", pool="ram", node="compute")

    def ticks():
        fields = [pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                  for pid in (patient.process.pid, *hosts(patient))]
        return sum(int(one[11]) + int(one[12]) for one in fields)

    with opened(patient, node, "disk") as (disk, one), opened(patient, node, "ram") as (ram, other):
        for _ in range(200):
            disk.write(one, 0, bytes(4096))
            ram.read(other, 0, 4096)
        # Both were just busy, and both channels stay open.
        least = []
        for _ in range(3):
            before = ticks()
            let_pass(1)
            least.append(ticks() - before)
    assert min(least) <= 1, f"{least} ticks of {os.sysconf('SC_CLK_TCK')} a second"


def test_pools_that_do_not_start_leave_nothing(server):
    with server.api(server.data / "admin") as api:
        for number in range(70):
            answer = api.post("/v1/pools", json={"name": f"bad-{number}", "driver": "file", "settings": {"no": "1"}})
            assert answer.status_code in (400, 422), answer.text
    assert len(hosts(server)) == 1
    server.memory_pool()
    server.volume("ram", pool="ram")


# What a lying host gets


LIES = ["invented", "duplicate", "twice", "status", "length", "count", "taken", "garbage", "control", "unasked",
        "descriptors", "closed", "silent", "lifeline", "pipe", "rings"]


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_host_is_ended_and_never_believed(tmp_path, lie):
    server = Server(tmp_path)
    server.environment["SLUICE_DRIVER_HOST"] = str(LIAR)
    honest = None
    try:
        server.start()
        node = server.join("compute")
        server.cli("pool", "create", "liar", "--driver", "memory", "--setting", f"lie={lie}")
        server.volume("disk", size="1MiB", pool="liar", node="compute")
        first = driver(server, "liar")
        with Load(server, node, "disk") as load:
            await_condition("the end of the liar", lambda: driver(server, "liar")["starts"] > 1, 40)
            honest = await_host(server, "liar", other_than=first["pid"])
            seen = len(load.times)
            await_condition("requests at the honest host", lambda: len(load.times) > seen + 20)
        # A host that closes its socket ends; a wrong count of taken requests shows in the full ring at the earliest.
        cause = {"silent": "hang", "taken": "hang", "closed": "crash"}.get(lie, "violation")
        assert honest["ends"] == {**dict.fromkeys(honest["ends"], 0), cause: 1}, honest
        assert honest["lastEnd"]["message"]
        assert not os.path.exists(f"/proc/{first['pid']}")
    finally:
        assert server.stop() == 0, server.text()[-2000:]


@pytest.mark.parametrize("lie", ["form", "form-again"])
def test_a_host_whose_answer_has_no_form_is_ended_and_the_next_one_asked_at_once(tmp_path, lie):
    server = Server(tmp_path)
    server.environment["SLUICE_DRIVER_HOST"] = str(LIAR)
    try:
        server.start()
        node = server.join("compute")
        server.cli("pool", "create", "liar", "--driver", "memory", "--setting", f"lie={lie}")
        begun = time.monotonic()
        server.volume("disk", size="1MiB", pool="liar", node="compute")
        # Who asked does not wait for the bound of a call, two minutes.
        assert time.monotonic() - begun < 60
        if lie == "form-again":
            os.kill(driver(server, "liar")["pid"], signal.SIGKILL)
            await_condition("the end of the liar", lambda: driver(server, "liar")["ends"]["violation"] == 1, 40)
        with Load(server, node, "disk"):
            honest = driver(server, "liar")
        crashes = 1 if lie == "form-again" else 0
        assert honest["ends"] == {**dict.fromkeys(honest["ends"], 0), "violation": 1, "crash": crashes}, honest
    finally:
        assert server.stop() == 0, server.text()[-2000:]


# What the sandbox leaves


@needs_root
def test_a_host_has_nothing_but_its_pool(server):
    pid = driver(server)["pid"]
    status = dict(
        line.split(":\t", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    own = driver(server)["user"]
    assert own >= 0x7000_0000
    assert status["Uid"].split() == [str(own)] * 4 and status["Gid"].split() == [str(own)] * 4
    assert status["Groups"].split() == []
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    for kind in ("net", "ipc", "uts"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")
    for target in (os.readlink(path) for path in pathlib.Path(f"/proc/{pid}/fd").iterdir()):
        assert target == "/dev/null" or target.startswith(("socket:", "pipe:", "anon_inode:", "/memfd:sluice")) \
            or str(server.data / "pools/default") in target or "sluiced.log" in target, target
    assert driver(server)["sandboxGaps"] == []


@needs_root
def test_every_pool_has_a_user_of_its_own(server):
    server.memory_pool()
    assert driver(server)["user"] != driver(server, "ram")["user"]
    assert (server.data / "pools/default").stat().st_uid == driver(server)["user"]
