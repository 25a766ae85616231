"""What the server says of troubles: since when, why and what to do; and that nothing is called deleted that is not."""
import signal

from conftest import await_condition
from resumable import World


def events(server, kind):
    return [event for event in server.json("events") if event["kind"] == kind]


def test_a_server_says_that_it_started_stopped_and_was_killed(server):
    assert len(events(server, "server.started")) == 1 and not events(server, "server.crashed")
    server.stop()
    server.start()
    assert len(events(server, "server.stopped")) == 1 and not events(server, "server.crashed")
    await_condition("the start to be written down", lambda: (server.data / "events.jsonl").read_text().count("server.started") == 2)
    server.stop(signal.SIGKILL)
    server.start()
    crash, = events(server, "server.crashed")
    assert "did not end in order" in crash["message"] and events(server, "server.started")[-2]["at"] in crash["message"]


def test_what_lies_in_a_folder_that_is_not_there_is_not_called_deleted(server, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    server.cli("pool", "create", "fp", "--driver", "file", "--setting", f"path={disk}")
    volume = server.json("volume", "create", "fv", "--pool", "fp", "--size", "1MiB")
    file = disk / "sluice-pool" / volume["id"]
    assert file.exists()
    same = server.cli("pool", "create", "fp2", "--driver", "file", "--setting", f"path={disk}/", check=False)
    assert same.returncode != 0 and "pool fp of this server" in same.stderr
    server.stop()
    disk.rename(tmp_path / "aside")
    disk.mkdir()
    server.start()
    failed, = events(server, "pool.not-started")
    assert failed["subject"] == "pool/fp" and "sluice pool restart fp" in failed["message"]
    assert "Since" in server.cli("pool", "show", "fp").stdout
    refused = server.cli("volume", "delete", "fv", "--confirm", "fv", check=False)
    assert refused.returncode != 0 and "does not run" in refused.stderr and "sluice pool restart fp" in refused.stderr
    assert server.json("volume", "show", "fv")["state"] == "unavailable"
    disk.rmdir()
    (tmp_path / "aside").rename(disk)
    server.cli("pool", "restart", "fp")
    node = server.join("n1")
    for name in ("a", "b"):
        server.cli("grant", "create", name, "--node", "n1", "--resource", "volume/fv", "--rights", "read")
    beyond = server.cli("grant", "create", "c", "--node", "n1", "--resource", "volume/fv", "--rights", "read", "--range", "0:10GiB")
    assert "beyond" in beyond.stdout
    capability = server.json("capability", "issue", "volume/fv", "--grant", "a", credentials=node)
    revoked = server.cli("capability", "revoke", capability["id"], "--reason", "it left").stdout
    assert "a grant remains" in revoked and "sluice grant delete a" in revoked
    assert "a grant remains" in events(server, "capability.revoked")[-1]["message"]
    huge = server.cli("volume", "create", "huge", "--pool", "fp", "--size", "7EiB", check=False)
    assert huge.returncode != 0
    mapped = server.cli("volume", "map", "fv", check=False)
    assert mapped.returncode != 0 and "administrator" in mapped.stderr and "--credentials" in mapped.stderr
    assert "and 3 grants on it" in server.cli("volume", "delete", "fv", "--confirm", "fv").stdout
    assert not file.exists()
    server.cli("pool", "delete", "fp")


def test_the_end_of_a_session_names_who_why_and_what_its_node_may_do(tmp_path):
    world = World(tmp_path)
    channel = world.connect()
    channel.open(world.token())
    session = channel.session.hex()
    world.server.stop(signal.SIGKILL)
    world.server.start()
    channel.drop()
    channel = world.resume(channel)
    resumed = events(world.server, "session.resumed")[-1]["message"]
    assert "since before the server's start at" in resumed, resumed
    said = world.server.cli("session", "disconnect", session, "--end", "--reason", "a test").stdout
    assert "may begin a new session at once" in said and "sluice grant delete" in said and "no longer writes" in said
    ended = await_condition("the end", lambda: events(world.server, "session.ended"))[-1]["message"]
    assert "ended by admin:admin: a test" in ended and "sluice grant delete" in ended, ended
    assert world.server.stop() == 0
