"""What commands say they did: that nothing changed, the word for it as JSON, the code of every error, and events by kind."""
import json
import os
import pathlib
import signal
import subprocess

import pytest
import yaml
from conftest import BINARIES, await_condition


def said(server, *arguments, **options):
    return server.cli(*arguments, **options).stdout.strip()


def test_a_change_says_what_it_changed_and_that_it_changed_nothing(server):
    server.memory_pool("ram", size=64 << 20)
    server.volume("data", size="16MiB", pool="ram")
    server.json("node", "add", "compute")
    server.grant("data", "compute", rights="read,write")
    for command, first, again in (
            ("pool set ram --when-full fail --label a=b", "changed: when-full is fail (was wait), label a is b",
             "as it was: when-full is fail already, label a is b already"),
            ("pool set ram --label a- --label z-", "changed: label a is gone (was b); nothing else: it has no label z",
             "as it was: it has no label a, it has no label z"),
            ("volume label data team=ml old-", "changed: label team is ml; nothing else: it has no label old", "as it was"),
            ("volume mode data shared", "shared now", "shared as before"),
            ("volume set data --iops 500", "500 IOPS now", "500 IOPS as before"),
            ("volume set data --iops none", "no limits now", "no limits as before"),
            ("volume resize data --size 32MiB", "32MiB now", "32MiB as before"),
            ("grant set compute-data --rights read --iops 9", "changed: rights is read (was read,write), iops is 9",
             "as it was: rights is read already, iops is 9 already"),
            ("grant set compute-data --iops none --expires-in none", "changed: iops is gone (was 9); nothing else: it has no end",
             "as it was: it has no iops, it has no end"),
            ("server set --add-name io2.example", "certificate names localhost", "names as before localhost"),
            ("server undrain", "it was not being drained", "it was not being drained")):
        assert first in said(server, *command.split()), command
        assert again in said(server, *command.split()), command
    server.cli("server", "drain")
    assert "not being drained" not in said(server, "server", "undrain")
    refused = server.cli("pool", "set", "ram", "--setting", "size-", check=False)
    assert refused.returncode == 64, refused


def test_a_warning_is_given_at_a_change_as_at_the_beginning(server):
    server.memory_pool("ram", size=64 << 20)
    assert "note: pool ram has" in said(server, "volume", "create", "much", "--size", "1GiB", "--pool", "ram")
    assert "note: pool ram has" in said(server, "volume", "resize", "much", "--size", "2GiB")
    assert "note" not in said(server, "volume", "label", "much", "a=b")
    server.json("node", "add", "compute")
    server.grant("much", "compute")
    for _ in range(2):
        assert "note: the range ends at 4GiB" in said(server, "grant", "set", "compute-much", "--range", "0:4GiB")
    assert "note" not in said(server, "grant", "set", "compute-much", "--range", "none")


def test_what_becomes_of_a_volume_is_an_event_with_who_did_it(server):
    server.volume("data", size="16MiB")
    server.cli("volume", "resize", "data", "--size", "32MiB")
    server.cli("volume", "delete", "data", "--force")
    events = server.json("events", "--resource", "volume/data")
    assert [event["kind"] for event in events] == ["volume.created", "volume.grown", "volume.deleted"], events
    assert all("by admin:" in event["message"] for event in events) and "with force" in events[-1]["message"]
    for wrong in ("data", "disk/data", "volume/"):
        refused = server.cli("events", "--resource", wrong, check=False)
        assert refused.returncode == 64 and f"no events about {wrong}" in refused.stderr


def test_what_was_taken_away_has_its_word(server):
    node = server.join("compute")
    server.volume("data", size="16MiB", node="compute")
    server.cli("volume", "mark", "data", "monday")
    server.cli("admin", "add", "alice", "--out", server.folder / "alice")
    server.memory_pool("ram", size=64 << 20)
    server.json("capability", "issue", "volume/data", credentials=node)
    for command, word, what in (
            ("volume unmark data monday", "removed", "volume/data/marker/monday"),
            ("admin revoke alice", "revoked", "admin/alice"), ("pool delete ram", "deleted", "pool/ram"),
            ("grant delete compute-data", "deleted", "grant/compute-data"), ("node remove compute", "removed", "node/compute"),
            ("volume delete data --force", "deleted", "volume/data"), ("server undrain", "undrained", "server")):
        form = "yaml" if word == "revoked" else "json"
        found = (yaml.safe_load if form == "yaml" else json.loads)(said(server, *command.split(), "-o", form))
        assert found.pop(word) == what and set(found) <= {"grants"}, (command, found)


def test_every_error_has_a_code(server):
    node = server.join("compute")
    server.volume("data", size="16MiB")
    nobody = server.folder / "nobody"
    for command, credentials, code, status in (
            ("volume show nothing", None, "NOT_FOUND", 66), ("volume create data --size 1MiB", None, "ALREADY_EXISTS", 73),
            ("capability issue volume/data", node, "NO_GRANT", 77), ("bench volume/data --rw read", node, "NO_GRANT", 77),
            ("volume map data", node, "NO_GRANT", 77), ("volume list", nobody, "NO_CREDENTIALS", 66),
            ("bench volume/data --rw read", nobody, "NO_CREDENTIALS", 66), ("detach volume/data", node, "NOT_FOUND", 66),
            ("volume delete data", None, "CONFLICT", 73), ("volume set data", None, "USAGE", 64),
            ("volume list --nothing", None, "USAGE", 64), ("capability inspect /nowhere", None, "NOT_FOUND", 66)):
        for form, read in (("json", json.loads), ("yaml", yaml.safe_load)):
            refused = server.cli(*command.split(), "-o", form, credentials=credentials, check=False)
            error = read(refused.stderr)["error"]
            assert (error["code"], error["exit"], refused.returncode) == (code, status, status), (command, refused)
            assert error["message"] and refused.stdout == "", (command, refused)


def test_what_is_named_and_not_there_has_one_exit_code_and_says_where_to_look(server):
    node = server.join("compute")
    server.volume("data", size="16MiB", node="compute")
    grant = "grant create g --rights read --resource volume/data --node"
    for command, credentials, status, words in (
            (f"{grant} nosuch", None, 66, "nosuch does not exist. See `sluice node list`."),
            ("grant create g --rights read --resource volume/nosuch --node compute", None, 66, "See `sluice volume list`."),
            ("volume create other --size 1MiB --pool nosuch", None, 66, "See `sluice pool list`."),
            ("session show 01234567", None, 66, "no session whose id begins with 01234567. See `sluice session list`."),
            ("capability revoke 01234567", None, 66, "See `sluice capability list`."),
            ("volume map data", None, 77, "knows nodes alone"),
            ("volume map data --range 1GiB:4KiB", node, 64, "the range 1073741824:4096 is not within 0:16777216"),
            (f"volume list --server https://{server.channel}", None, 69, "It may be the server's data channel"),
            (f"volume map data --server https://{server.channel}", node, 69, "It may be the server's data channel"),
            (f"admin add bob --out {node}", None, 73, "Name another folder by --out"),
            ("volume create other --size 0", None, 64, "size is 0; expected: 4096 to"),
            ("volume create other --size -5", None, 64, "a value that begins with - is written --size=-5"),
            ("volume crate other", None, 64, "did you mean 'create'?"), ("volum list", None, 64, "did you mean 'volume'?"),
            ("pool set default --setting foo=bar", None, 64, "it has direct, erase, path, and as every driver quarantine"),
            ("pool set default --setting direct=false", None, 64, "cannot be changed while the pool runs: make another pool"),
            ("bench volume/data --rw randread --threads 4 --channels 2", node, 64, "2 channels cannot be shared by 4 threads"),
            ("bench volume/data --rw randread --range 1GiB:4KiB", node, 64, "1073741824:4096 is not within 0:16777216"),
            ("bench volume/data --rw randread --range 8MiB:1", node, 64, "too few blocks: 0 blocks of 4KiB for a thread")):
        refused = server.cli(*command.split(), credentials=credentials, check=False)
        assert refused.returncode == status and words in refused.stderr, (command, refused)
    again = server.cli("join", "--server", server.url, "--token", server.json("node", "token", "compute")["token"],
                       "--credentials", node, check=False)
    assert again.returncode == 73 and "holds credentials already" in again.stderr, again


def test_the_beginning_of_an_id_names_what_it_is_of(server):
    node = server.join("compute")
    server.volume("data", size="16MiB", node="compute")
    issued = [server.json("capability", "issue", "volume/data", credentials=node)["id"] for _ in range(2)]
    shown = server.json("capability", "show", issued[0][:8].upper())
    assert shown["id"] == issued[0]
    assert issued[1] in said(server, "capability", "revoke", issued[1][:9])
    assert server.cli("capability", "show", issued[0][:7], check=False).returncode == 64


def test_a_list_of_nothing_is_one_piece(server):
    assert said(server, "volume", "list", "-o", "json") == "[]"


def test_the_bundle_of_the_server_names_its_port(server):
    found = server.cli("pool", "list", SLUICE_SERVER="")
    assert "default" in found.stdout
    (server.data / "admin/config.json").write_text('{"server": "https://io.example:7480"}')
    server.stop()
    server.start()
    assert "io.example" in (server.data / "admin/config.json").read_text()


def test_events_are_chosen_by_kind_resource_and_time(server):
    server.memory_pool("ram", size=64 << 20)
    server.volume("data", size="16MiB", pool="ram")
    server.cli("volume", "fence", "data")

    def kinds(*options):
        return {event["kind"] for event in server.json("events", *options)}

    assert kinds("--kind", "volume.fenced") == {"volume.fenced"}
    assert kinds("--kind", "driver,volume") >= {"volume.fenced", "driver.running"}
    assert {kind.split(".")[0] for kind in kinds("--kind", "driver,volume")} == {"driver", "volume"}
    assert kinds("--resource", "volume/data") == {"volume.created", "volume.fenced"}
    assert kinds("--resource", "pool/ram", "--since", "1h") >= {"driver.running"}
    assert kinds("--since", "2100-01-01T00:00:00Z") == set() and kinds("--since", "2020-01-01T00:00:00Z") == kinds()
    for wrong in (["--kind", "nothing"], ["--since", "yesterday"], ["--resource", "a/b/c"]):
        assert server.cli("events", *wrong, check=False).returncode == 64, wrong
    environment = {**os.environ, "SLUICE_SERVER": server.url, "SLUICE_CREDENTIALS": str(server.data / "admin")}
    following = subprocess.Popen([BINARIES / "sluice", "events", "-f", "-o", "json", "--kind", "volume.fenced"], env=environment,
                                 stdout=subprocess.PIPE, text=True)
    first = json.loads(following.stdout.readline())
    server.cli("pool", "restart", "ram")
    server.cli("volume", "fence", "data", "--reason", "again")
    second = json.loads(following.stdout.readline())
    following.send_signal(signal.SIGINT)
    following.communicate(timeout=30)
    assert first["kind"] == second["kind"] == "volume.fenced" and "again" in second["message"]


@pytest.mark.parametrize("form", ["table", "json"])
@pytest.mark.parametrize("rw", ["randread", "mixed"])
def test_an_interrupted_bench_prints_what_it_has_measured(server, rw, form):
    node = server.join("compute")
    server.volume("data", size="16MiB", node="compute")
    environment = {**os.environ, "SLUICE_SERVER": server.url, "SLUICE_CREDENTIALS": str(node)}
    running = subprocess.Popen(
        [BINARIES / "sluice", "bench", "volume/data", "--rw", rw, "--time", "600", "-o", form], env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    await_condition("the load", lambda: any(one["requests"] > 100 for one in server.json("session", "list")))
    running.send_signal(signal.SIGINT)
    output, errors = running.communicate(timeout=60)
    assert running.returncode == 130 and "interrupted after" in errors, errors
    if form == "json":
        report = json.loads(output)
        assert report["isInterrupted"] and report["operations"] > 0 and report["read"]["latency"]["p50"] > 0
    else:
        assert "interrupted: this is what was measured until then" in output and "IOPS" in output
    # One that waits for the server has measured nothing.
    server.process.send_signal(signal.SIGSTOP)
    running = subprocess.Popen(
        [BINARIES / "sluice", "bench", "volume/data", "--rw", "read", "--time", "600", "-o", form], env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        files = pathlib.Path(f"/proc/{running.pid}/fd")
        await_condition("its connection", lambda: any(os.readlink(one).startswith("socket:") for one in files.iterdir()))
        running.send_signal(signal.SIGINT)
        output, errors = running.communicate(timeout=60)
    finally:
        running.kill()
        server.process.send_signal(signal.SIGCONT)
    assert running.returncode in (130, -signal.SIGINT) and output == "", errors
