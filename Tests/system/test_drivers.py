"""Drivers, their isolation and settings, and the events, as an administrator sees them."""
import json
import signal
import subprocess
import threading

import pytest
from conftest import BINARIES, PATIENCE, await_condition


class Follower:
    """curl on the stream of events, read line by line."""

    def __init__(self, server, last=None, certificate=True):
        admin = server.data / "admin"
        command = ["curl", "-sN", "--max-time", str(PATIENCE), "--cacert", admin / "ca.pem",
                   "-H", "Accept: text/event-stream"]
        if certificate:
            command += ["--cert", admin / "cert.pem", "--key", admin / "key.pem"]
        if last is not None:
            command += ["-H", f"Last-Event-ID: {last}"]
        self.process = subprocess.Popen(
            [*map(str, command), f"{server.url}/v1/events"], stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait(PATIENCE)
        self.process.stdout.close()

    def line(self):
        line = self.process.stdout.readline()
        assert line, "the stream ended"
        return line.rstrip("\n")

    def event(self):
        """The next event: its fields, with the data as an object."""
        fields = {}
        while True:
            line = self.line()
            if not line and "data" in fields:
                return {**fields, "data": json.loads(fields["data"])}
            name, _, value = line.partition(": ")
            if name:
                fields[name] = value

    def opened(self):
        assert self.line().startswith(": ")
        assert self.line() == "retry: 2000"
        assert self.line() == ""
        return self


@pytest.fixture
def inline_pool(server):
    server.cli("pool", "create", "ram", "--driver", "memory", "--setting", "size=64MiB", "--isolation", "inline")
    return "ram"


# Isolation, settings, restart


def test_a_pool_is_isolated_unless_it_says_otherwise(server, inline_pool):
    assert server.json("pool", "show", "default")["isolation"] == "isolated"
    assert server.json("pool", "show", inline_pool)["isolation"] == "inline"
    assert server.stop() == 0
    server.start()
    assert server.json("pool", "show", inline_pool)["isolation"] == "inline"


def test_drivers_are_listed_with_where_they_run(server, inline_pool):
    drivers = {driver["pool"]: driver for driver in server.json("driver", "list")}
    assert set(drivers) == {"default", inline_pool}
    inline = drivers[inline_pool]
    assert (inline["isolation"], inline["state"], inline["driver"]) == ("inline", "running", "memory")
    assert inline.get("pid") is None
    table = server.cli("driver", "list").stdout.splitlines()
    assert table[0].split()[:4] == ["POOL", "DRIVER", "ISOLATION", "STATE"]
    assert any(line.split()[:4] == [inline_pool, "memory", "inline", "running"] for line in table)
    assert "inline" in server.cli("driver", "show", inline_pool).stdout


@pytest.mark.parametrize("command", [("pool", "restart"), ("driver", "upgrade")])
def test_an_inline_driver_cannot_be_restarted_or_upgraded(server, inline_pool, command):
    refused = server.cli(*command, inline_pool, check=False)
    assert refused.returncode == 64
    assert "runs inline" in refused.stderr and len(refused.stderr.splitlines()) == 1
    missing = server.cli(*command, "nothing", check=False)
    assert missing.returncode == 66


def test_another_isolation_is_kept_for_the_next_start(server, inline_pool):
    changed = server.cli("pool", "set", inline_pool, "--isolation", "isolated").stdout
    assert "runs inline until the server is started anew" in changed
    assert server.json("pool", "show", inline_pool)["isolation"] == "isolated"
    assert server.json("driver", "show", inline_pool)["isolation"] == "inline"
    assert server.cli("pool", "set", inline_pool, "--isolation", "elsewhere", check=False).returncode == 64


def test_settings_that_need_a_restart_are_refused_and_nothing_changes(server, inline_pool):
    before = server.json("pool", "show", inline_pool)
    refused = server.cli("pool", "set", inline_pool, "--setting", "size=128MiB", "--label", "a=b", check=False)
    assert refused.returncode == 64 and "cannot be changed while the pool runs" in refused.stderr
    assert server.json("pool", "show", inline_pool)["settings"] == before["settings"]
    assert server.json("pool", "show", inline_pool).get("labels", {}) == {}
    assert server.cli("pool", "set", inline_pool, check=False).returncode == 64
    server.cli("pool", "set", inline_pool, "--label", "a=b", "--label", "c=d")
    server.cli("pool", "set", inline_pool, "--label", "a-")
    assert server.json("pool", "show", inline_pool)["labels"] == {"c": "d"}


def test_a_pool_that_did_not_start_is_restarted_when_its_device_is_back(server):
    """A file stands where the pool has its folder; when it is gone, one command brings pool and volumes back."""
    server.volume("kept", size="1MiB")
    assert server.stop() == 0
    folder, aside = server.data / "pools/default", server.data / "pools/aside"
    folder.rename(aside)
    folder.write_text("in the way")
    server.start()
    assert server.json("pool", "show", "default")["state"] == "failed"
    assert server.json("driver", "show", "default")["state"] == "failed"
    assert server.cli("pool", "restart", "default", check=False).returncode != 0
    folder.unlink()
    aside.rename(folder)
    assert server.json("pool", "restart", "default")["state"] == "ready"
    server.cli("volume", "resize", "kept", "--size", "2MiB")


# Events


def test_curl_sees_an_event_as_it_happens_and_resumes_after_it(server):
    node = server.join("watched")
    server.volume("disk", node="watched")
    with Follower(server) as curl, server.api(node) as holder, server.api(server.data / "admin") as admin:
        curl.opened()
        issued = [holder.post("/v1/capabilities", json={"resource": "volume/disk"}).json()["id"] for _ in range(3)]
        for number, capability in enumerate(issued):
            assert admin.post(f"/v1/capabilities/{capability}/revoke",
                              json={"reason": f"number {number}"}).status_code == 200
        events = [curl.event() for _ in issued]
    for number, (event, capability) in enumerate(zip(events, issued)):
        assert event["event"] == event["data"]["kind"] == "capability.revoked"
        assert event["id"] == str(event["data"]["id"])
        assert event["data"]["subject"] == f"capability/{capability}"
        assert event["data"]["message"].startswith(f"of node watched: number {number}; a grant remains")
    with Follower(server, last=events[0]["id"]) as curl:
        assert [curl.opened().event() for _ in "1"] + [curl.event()] == events[1:]
    revocations = [event for event in server.json("events") if event["kind"] == "capability.revoked"]
    assert [event["id"] for event in revocations] == [event["data"]["id"] for event in events]


def test_a_session_is_told_of(server):
    node = server.join("busy")
    server.volume("disk", node="busy")
    server.cli("bench", "volume/disk", "--rw", "read", "--time", "1", credentials=node)
    await_condition("the session's end", lambda: {"session.started", "session.ended"} <= {
        event["kind"] for event in server.json("events")})
    events = [event for event in server.json("events") if event["kind"].startswith("session.")]
    assert {event["subject"] for event in events if event["kind"] == "session.ended"} == {
        event["subject"] for event in events if event["kind"] == "session.started"}
    assert any(event["message"] == "of node busy" for event in events)


def test_the_stream_needs_a_certificate(server):
    with Follower(server, certificate=False) as curl:
        assert json.loads(curl.line())["code"] == "UNAUTHENTICATED"


def test_a_server_that_ends_does_not_wait_for_its_followers(server):
    with Follower(server) as curl:
        curl.opened()
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        assert curl.process.wait(PATIENCE) == 0, "the stream ends in order"
        stopping.join(4)
        assert not stopping.is_alive(), "the server waited for its follower"


def test_a_follower_that_sleeps_keeps_no_other_from_hearing(server):
    with Follower(server) as stopped, Follower(server) as curl:
        stopped.opened()
        curl.opened()
        stopped.process.send_signal(signal.SIGSTOP)
        node = server.join("many")
        server.volume("disk", node="many")
        assert curl.event()["data"]["subject"] == "volume/disk"
        with server.api(node) as holder, server.api(server.data / "admin") as admin:
            for _ in range(200):
                capability = holder.post("/v1/capabilities", json={"resource": "volume/disk"}).json()["id"]
                admin.post(f"/v1/capabilities/{capability}/revoke", json={"reason": "x" * 250})
                assert curl.event()["data"]["subject"] == f"capability/{capability}"
        stopped.process.send_signal(signal.SIGCONT)
        assert [stopped.event()["event"] for _ in range(2)] == ["volume.created", "capability.revoked"]


def test_following_with_the_command_line_survives_a_restart_of_the_server(server):
    environment = {"SLUICE_SERVER": server.url, "SLUICE_CREDENTIALS": str(server.data / "admin"), "PATH": "/usr/bin"}
    node = server.join("node")
    server.volume("disk", node="node")

    def revoke():
        with server.api(node) as holder, server.api(server.data / "admin") as admin:
            capability = holder.post("/v1/capabilities", json={"resource": "volume/disk"}).json()["id"]
            admin.post(f"/v1/capabilities/{capability}/revoke", json={})
            return f"capability/{capability}"

    first, allowed = revoke(), ("driver.", "server.", "volume.created")
    follower = subprocess.Popen(
        [BINARIES / "sluice", "events", "--follow", "-o", "json"], env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True)

    def next_revocation():
        while (event := json.loads(follower.stdout.readline()))["kind"] != "capability.revoked":
            assert event["kind"].startswith(allowed), event
        return event["subject"]

    try:
        assert next_revocation() == first
        allowed = allowed[:2]
        assert server.stop() == 0
        server.start()
        second = revoke()
        assert next_revocation() == second
        assert "waiting for it to come back" in follower.stderr.readline()
    finally:
        follower.kill()
        follower.communicate(timeout=PATIENCE)
