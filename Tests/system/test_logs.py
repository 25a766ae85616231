"""The log, the events and the secrets, with people about who do not read, go away, flood or forge."""
import fcntl
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile

import pytest
from conftest import BINARIES, PATIENCE, Server, await_condition, needs_root
from sluice_client import Channel, Rights


class PipedServer(Server):
    """A server whose log goes to a small pipe."""

    def __init__(self, folder, *options):
        super().__init__(folder, *options)
        self.reading, self.writing = os.pipe()
        fcntl.fcntl(self.writing, fcntl.F_SETPIPE_SZ, 4096)

    def start(self):
        endpoints = self.data / "run/endpoints.json"
        self.process = subprocess.Popen(
            [BINARIES / "sluiced", "serve", "--data", self.data, "--control", self.control, "--channel", self.channel,
             *self.options], stdout=self.writing, stderr=self.writing)
        os.close(self.writing)
        await_condition("sluiced", lambda: endpoints.exists() or self.process.poll() is not None)
        bound = json.loads(endpoints.read_text())
        self.control, self.channel = bound["control"][0], bound["channel"][0]
        self.url = f"https://{self.control}"
        return self


def flood(server, count=60):
    """More log lines than the pipe holds; each request is answered all the same."""
    with server.api(server.data / "admin") as api:
        for number in range(count):
            answer = api.post(f"/v1/nodes/nobody-{number}/token", json={})
            assert answer.status_code == 404


def metrics(server):
    with server.api(server.data / "admin") as api:
        return dict(line.rsplit(" ", 1) for line in api.get("/metrics").text.splitlines() if not line.startswith("#"))


def keys(node):
    return {"cafile": str(node / "ca.pem"), "certfile": str(node / "cert.pem"), "keyfile": str(node / "key.pem")}


def test_a_log_that_nobody_reads_stops_neither_the_control_api_nor_a_volume_nor_the_end(tmp_path):
    server = PipedServer(tmp_path).start()
    try:
        node = server.join("compute")
        server.volume("disk", node="compute")
        with server.api(node) as api:
            token = api.post("/v1/capabilities", json={"resource": "volume/disk"}).json()["token"]
        channel = Channel(server.channel_address, timeout=PATIENCE, **keys(node))
        handle, _ = channel.open(token)
        flood(server)
        # Opening, refusing and closing channels write lines on the reactor's own thread.
        for _ in range(20):
            other = Channel(server.channel_address, timeout=PATIENCE, **keys(node))
            other.open(token, rights=Rights.READ)
            other.close()
        channel.write(handle, 0, b"a" * 4096)
        assert channel.read(handle, 0, 4096) == b"a" * 4096
        assert int(metrics(server)["sluice_log_waiting_bytes"]) > 0
        channel.close()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0
    finally:
        server.stop(signal.SIGKILL)
        os.close(server.reading)


def test_a_log_whose_reader_goes_away_is_said_and_ends_nobody(tmp_path):
    server = PipedServer(tmp_path).start()
    try:
        os.close(server.reading)
        flood(server)
        def lost():
            return int(metrics(server)['sluice_log_lines_total{result="lost"}']) > 0
        await_condition("lost lines", lost)
        assert metrics(server)["sluice_log_losing"] == "1"
        events = [event for event in server.json("events") if event["kind"] == "log.losing"]
        assert len(events) == 1 and "Broken pipe" in events[0]["message"]
        assert server.stop() == 0
    finally:
        server.stop(signal.SIGKILL)


FORGED = "x\n2026-11-30T00:00:00.000Z notice sluiced volume deleted by=admin:admin volume=db\x1b[2K\u202e"


@pytest.mark.parametrize("form", ["text", "json"])
def test_nobody_forges_a_line_of_the_log(tmp_path, form):
    server = Server(tmp_path, "--log-format", form).start()
    try:
        node = server.join("compute")
        with server.api() as anybody:
            anybody.post("/v1/nodes/x/enroll", content=json.dumps({FORGED: 1}),
                         headers={"content-type": "application/json"})
        with server.api(node) as api:
            path = "/v1/capabilities/x%0A2026-11-30T00:00:00.000Z%20notice%20sluiced%20forged%20by=admin:admin/revoke"
            assert api.post(path, json={}).status_code == 404
            assert api.post("/v1/capabilities", json={"resource": FORGED}).status_code == 422
    finally:
        assert server.stop() == 0
    lines = server.log.read_bytes().decode().splitlines()
    refused = [line for line in lines if "request refused" in line]
    assert len(refused) >= 3
    for line in lines:
        assert line.isprintable(), repr(line)
        if form == "json":
            entry = json.loads(line)
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry["time"]) and entry["label"]
        else:
            assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (notice|info|warning|error) \S+ ", line), line
            outside = "".join(line.split('"')[::2])
            assert not ("request refused" in line and "by=admin" in outside), line


def test_refusals_in_a_flood_are_cut_counted_and_take_nothing_from_others(server):
    node = server.join("compute")
    with server.api(node) as api, server.api() as anybody:
        for number in range(400):
            assert api.post(f"/v1/capabilities/{number:032x}/revoke", json={}).status_code == 404
            assert anybody.post(f"/v1/nodes/n{number}/enroll", json={}).status_code in (400, 422)
    server.cli("node", "add", "after-the-flood")
    await_condition("the count", lambda: "log lines were left out source=node:compute" in server.text())
    text = server.text()
    assert text.count("request refused") < 350
    assert re.search(r"node added .*by=admin:admin", text)


def test_events_outlive_a_server_that_is_killed_and_a_node_does_not_push_out_what_others_did(server):
    node = server.join("compute")
    server.volume("disk", node="compute")
    server.cli("volume", "fence", "disk", "--reason", "for the record", check=False)
    with server.api(server.data / "admin") as admin, server.api(node) as api:
        first = api.post("/v1/capabilities", json={"resource": "volume/disk"}).json()["id"]
        admin.post(f"/v1/capabilities/{first}/revoke", json={"reason": "by an administrator"})
        for _ in range(150):
            issued = api.post("/v1/capabilities", json={"resource": "volume/disk"}).json()["id"]
            api.post(f"/v1/capabilities/{issued}/revoke", json={})
    file = server.data / "events.jsonl"
    await_condition("the last one", lambda: issued in file.read_text())
    before = server.json("events")
    assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    server.start()
    after = server.json("events")
    assert [event for event in after if event["id"] <= before[-1]["id"]] == before
    revoked = [event for event in after if event["kind"] == "capability.revoked"]
    assert revoked[0]["subject"] == f"capability/{first}" and "by" not in revoked[0]
    assert len([event for event in revoked if event.get("by") == "node:compute"]) == 100
    assert "volume.fenced" in [event["kind"] for event in after]
    assert file.stat().st_mode & 0o777 == 0o600


# The command line.


def run(server, *arguments, **options):
    environment = {**os.environ, "SLUICE_SERVER": server.url, "SLUICE_CREDENTIALS": str(server.data / "admin")}
    return subprocess.run([BINARIES / "sluice", *arguments], env=environment, text=True, timeout=PATIENCE, **options)


def test_a_command_whose_output_nobody_takes_does_its_work_and_says_so(server):
    reading, writing = os.pipe()
    os.close(reading)
    gone = run(server, "volume", "create", "a", "--size", "1MiB", stdout=writing, stderr=subprocess.PIPE)
    assert gone.returncode == -signal.SIGPIPE and gone.stderr == ""
    # One that goes on by itself ends when nobody listens any more.
    followed = run(server, "events", "--follow", "-o", "json", stdout=writing, stderr=subprocess.PIPE)
    assert followed.returncode == -signal.SIGPIPE
    os.close(writing)
    with open("/dev/full", "w") as full:
        failed = run(server, "volume", "create", "b", "--size", "1MiB", stdout=full, stderr=subprocess.PIPE)
    assert failed.returncode == 1 and "No space left on device" in failed.stderr
    assert {volume["name"] for volume in server.json("volume", "list")} == {"a", "b"}


def test_a_token_is_taken_from_standard_input_and_from_a_file(server, tmp_path):
    invitation = server.cli("node", "add", "one").stdout
    command = re.search(r"sluice join .*", invitation)[0]
    token = re.search(r"sljoin1_\S+", invitation)[0]
    assert command.endswith("--token -") and token not in command
    joined = run(server, "join", "--token", "-", "--credentials", tmp_path / "one", input=token + "\n",
                 capture_output=True)
    assert joined.returncode == 0, joined.stderr
    (tmp_path / "token").write_text(server.json("node", "add", "two")["token"] + "\n")
    joined = run(server, "join", "--token", tmp_path / "token", "--credentials", tmp_path / "two", capture_output=True)
    assert joined.returncode == 0, joined.stderr
    missing = run(server, "join", "--token", tmp_path / "none", "--credentials", tmp_path / "x", capture_output=True)
    assert missing.returncode == 66 and "No such file" in missing.stderr


# Secrets in memory.


def core_limit(process):
    return next(line for line in pathlib.Path(f"/proc/{process}/limits").read_text().splitlines()
                if line.startswith("Max core file size")).split()[4]


@needs_root
def test_the_server_works_as_an_ordinary_user_and_no_core_and_no_neighbour_gets_its_keys():
    """/proc/PID of a process that makes no core file belongs to root, whoever runs it (proc(5))."""
    nobody = 65534
    folder = pathlib.Path(tempfile.mkdtemp(prefix="sluice-nobody-"))
    os.chown(folder, nobody, nobody)
    as_nobody = {"user": nobody, "group": nobody, "extra_groups": [], "cwd": "/"}
    try:
        subprocess.run([BINARIES / "sluiced", "init", "--data", folder / "server", "--name", "localhost", "--address",
                        "127.0.0.1"], check=True, capture_output=True, timeout=PATIENCE, **as_nobody)
        server = Server(folder, init=False)
        endpoints = server.data / "run/endpoints.json"
        with open(folder / "sluiced.log", "w") as log:
            server.process = subprocess.Popen(
                [BINARIES / "sluiced", "serve", "--data", server.data, "--control", "127.0.0.1:0", "--channel",
                 "127.0.0.1:0"], stdout=log, stderr=log, **as_nobody)
        await_condition("sluiced", lambda: endpoints.exists() or server.process.poll() is not None)
        assert server.process.poll() is None, server.text()
        try:
            server.url = f"https://{json.loads(endpoints.read_text())['control'][0]}"
            server.volume("disk", size="1MiB")
            assert os.stat(f"/proc/{server.process.pid}/mem").st_uid == 0
            assert core_limit(server.process.pid) == "0"
            waiting = subprocess.Popen(
                [BINARIES / "sluice", "join", "--server", server.url, "--token", "-"], stdin=subprocess.PIPE,
                stderr=subprocess.PIPE, **as_nobody)
            await_condition("the command", lambda: os.stat(f"/proc/{waiting.pid}/mem").st_uid == 0)
            assert core_limit(waiting.pid) == "0"
            waiting.kill()
            waiting.communicate(timeout=PATIENCE)
        finally:
            assert server.stop() == 0
    finally:
        shutil.rmtree(folder)


# The log of an attachment.


@needs_root
def test_a_device_goes_on_whose_log_nobody_reads(server):
    node = server.join("compute")
    server.volume("disk", node="compute")
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, False)
    os.write(writing, b"x" * 4096)  # As full as it gets.
    os.set_blocking(writing, True)
    environment = {**os.environ, "SLUICE_SERVER": server.url, "SLUICE_CREDENTIALS": str(node),
                   "SLUICE_RUN": str(server.folder / "run")}
    attached = subprocess.Popen(
        [BINARIES / "sluice", "attach", "volume/disk", "--foreground"], env=environment, stdout=writing, stderr=writing)
    os.close(writing)

    def device():
        found = server.json("status", credentials=node)
        return found[0]["device"] if found else None

    try:
        path = await_condition("the device", device)
        assert server.stop() == 0
        server.start()
        for _ in range(3):
            subprocess.run(["dd", f"if={path}", "of=/dev/null", "bs=4k", "count=4", "iflag=direct"], check=True,
                           capture_output=True, timeout=PATIENCE)
        os.close(reading)
        reading = -1
        subprocess.run(["dd", f"if={path}", "of=/dev/null", "bs=4k", "count=4", "iflag=direct"], check=True,
                       capture_output=True, timeout=PATIENCE)
        server.cli("detach", "volume/disk", credentials=node)
        attached.wait(PATIENCE)
    finally:
        if reading >= 0:
            os.close(reading)
        if attached.poll() is None:
            attached.send_signal(signal.SIGKILL)
            attached.wait(PATIENCE)
