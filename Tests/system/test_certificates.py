"""Certificates that end, clocks that are wrong, names that change, administrators: as users of the programs meet them."""
import datetime
import json
import os
import shutil
import socket
import ssl
import struct
import subprocess

import pytest
from certificates import certify, end_of
from conftest import BINARIES, PATIENCE, ROOT, Server, await_condition, needs_root
from cryptography import x509

DAY = 86400


@pytest.fixture(scope="module")
def preload(tmp_path_factory):
    """What moves the clock of a process."""
    compiler = shutil.which("cc") or shutil.which("clang")
    target = tmp_path_factory.mktemp("preload") / "clock.so"
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", target, ROOT / "Tests/system/clock.c"], check=True)
    return target


class Clock:
    def __init__(self, preload, path):
        self.path = path
        path.write_bytes(struct.pack("q", 0))
        self.environment = {"LD_PRELOAD": str(preload), "CLOCK_SHIFT": str(path)}

    def set(self, seconds):
        with self.path.open("r+b") as file:
            file.write(struct.pack("q", seconds))


def presented(address, alpn):
    """The certificate that a server presents on a port."""
    host, port = address.rsplit(":", 1)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([alpn])
    with socket.create_connection((host, int(port)), PATIENCE) as raw, context.wrap_socket(raw, server_hostname=host) as tls:
        return x509.load_der_x509_certificate(tls.getpeercert(True))


def both(server):
    return [presented(server.control, "h2"), presented(server.channel, "sluice/1")]


# The server


def test_a_server_that_runs_for_longer_than_its_certificate_serves_a_new_one_on_both_ports(tmp_path, preload):
    server = Server(tmp_path)
    clock = Clock(preload, tmp_path / "clock")
    here = Clock(preload, tmp_path / "here")
    server.environment.update(clock.environment)
    server.start()
    try:
        first = both(server)
        assert first[0] == first[1]
        clock.set(366 * DAY)
        here.set(366 * DAY)
        renewed = await_condition("another certificate", lambda: next(
            (now for now in [both(server)] if first[0] not in now), None))
        assert renewed[0] == renewed[1] and renewed[0].public_key() == first[0].public_key()
        # The administrator's bundle was renewed with it, and clients go on.
        assert "server" in server.cli("server", "show", **here.environment).stdout
        events = server.json("events", **here.environment)
        assert {event["subject"] for event in events if event["kind"] == "certificate.renewed"} == {"server", "admin/admin"}
    finally:
        assert server.stop() == 0
    assert "certificate renewed" in server.text()


def test_names_are_added_while_the_server_runs_and_stay(server):
    server.cli("server", "set", "--add-name", "io2.example", "--add-address", "192.0.2.11")
    for certificate in both(server):
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert "io2.example" in names.get_values_for_type(x509.DNSName)
        assert "192.0.2.11" in map(str, names.get_values_for_type(x509.IPAddress))
    server.stop()
    server.start()
    assert "io2.example" in server.json("server", "show")["names"]
    server.cli("server", "set", "--remove-name", "io2.example")
    assert "io2.example" not in server.cli("server", "show").stdout
    wrong = server.cli("server", "set", "--remove-name", "io3.example", check=False)
    assert wrong.returncode == 66 and "it has localhost" in wrong.stderr
    wrong = server.cli("server", "set", "--add-address", "192.0.2.1:7480", check=False)
    assert wrong.returncode == 64 and "IP addresses without port" in wrong.stderr


@pytest.mark.parametrize("everywhere", ["0.0.0.0:0", "[::]:0"])
def test_a_name_that_the_certificate_has_not_is_said_with_those_that_it_has_and_the_advice_helps(tmp_path, everywhere):
    server = Server(tmp_path)
    server.control = everywhere
    server.start()
    try:
        port = server.control.rsplit(":", 1)[1]
        server.url = f"https://127.0.0.1:{port}"
        refused = server.cli("server", "show", check=False, SLUICE_SERVER=f"https://127.0.0.2:{port}")
        assert refused.returncode == 77 and "does not name 127.0.0.2, but localhost, 127.0.0.1" in refused.stderr
        advice = refused.stderr.split("`sluice ")[1].split("`")[0].split()
        server.cli(*advice)
        server.cli("server", "show", SLUICE_SERVER=f"https://127.0.0.2:{port}")
    finally:
        assert server.stop() == 0


# Clocks


@pytest.mark.parametrize("shift, words", [(-DAY, "is not valid before"), (400 * DAY, "ended at")])
def test_a_clock_that_is_wrong_is_spoken_of_with_both_times(server, preload, tmp_path, shift, words):
    clock = Clock(preload, tmp_path / "clock")
    clock.set(shift)
    token = server.json("node", "add", "n1")["token"]
    for command in (["server", "show"], ["join", "--server", server.url, "--token", token, "--credentials", tmp_path / "n"]):
        refused = server.cli(*command, check=False, **clock.environment)
        assert refused.returncode == 77 and words in refused.stderr and "clock says 20" in refused.stderr, refused.stderr
        assert "must name" not in refused.stderr and "sluice join" not in refused.stderr
    assert not (tmp_path / "n").exists()


def test_a_server_whose_clock_is_behind_tells_its_clients_so(tmp_path, preload):
    server = Server(tmp_path)
    server.start()
    node = server.join("n1")
    server.stop()
    clock = Clock(preload, tmp_path / "clock")
    clock.set(-DAY)
    server.environment.update(clock.environment)
    server.start()
    try:
        refused = server.cli("volume", "list", credentials=node, check=False)
        assert refused.returncode == 77 and "the client certificate is not valid before" in refused.stderr, refused.stderr
        assert "this server's clock says" in refused.stderr
    finally:
        assert server.stop() == 0


# Nodes


def test_a_node_that_ran_nothing_for_a_month_renews_by_its_key(server):
    node = server.join("n1")
    server.volume("v", node="n1")
    key = (node / "key.pem").read_bytes()
    certify(server, node, -40 * DAY, -10 * DAY)
    late = server.cli("status", credentials=node)
    assert "ended at" in late.stderr and "renews it by its key" in late.stderr
    assert "slcap1_" in server.cli("capability", "issue", "volume/v", credentials=node).stdout
    assert end_of(node) > datetime.datetime.now().timestamp() + 20 * DAY and (node / "key.pem").read_bytes() == key
    # After more than three months it enrols again, and the message says how; what it says works.
    certify(server, node, -150 * DAY, -100 * DAY)
    refused = server.cli("volume", "list", credentials=node, check=False)
    assert refused.returncode == 77 and "sluice node token n1" in refused.stderr and "sluice join" in refused.stderr
    token = server.json("node", "token", "n1")["token"]
    server.cli("join", "--server", server.url, "--token", token, "--credentials", node)
    assert "v" in server.cli("volume", "list", credentials=node).stdout
    assert (node / "key.pem").read_bytes() == key
    again = server.cli("join", "--server", server.url, "--token", token, "--credentials", node, check=False)
    assert again.returncode != 0 and "--again" in again.stderr


def test_a_certificate_is_renewed_at_the_server_in_use(server):
    node = server.join("n1")
    config = json.loads((node / "config.json").read_text())
    (node / "config.json").write_text(json.dumps({**config, "server": "https://127.0.0.1:1"}))
    certify(server, node, -25 * DAY, 5 * DAY)
    shown = server.cli("volume", "list", credentials=node)
    assert shown.stderr == "" and end_of(node) > datetime.datetime.now().timestamp() + 20 * DAY


@needs_root
def test_where_credentials_are_read_only_the_new_certificate_is_used_from_memory_and_that_is_said(server):
    node = server.join("n1")
    server.volume("v", node="n1")
    certify(server, node, -25 * DAY, 4 * DAY)
    subprocess.run(["mount", "--bind", node, node], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", node], check=True)
    try:
        before = server.text().count("node certificate renewed")
        shown = server.cli("volume", "list", credentials=node)
        assert "you may not write there to renew it" in shown.stderr
        assert server.text().count("node certificate renewed") == before
        server.cli("attach", "volume/v", credentials=node)
        try:
            status = await_condition("the word", lambda: next(
                (text for text in [server.json("status", credentials=node)[0].get("message")] if text), None))
            assert "it was renewed, but for this process alone" in status and "Read-only file system" in status, status
            assert server.text().count("node certificate renewed") == before + 1
        finally:
            server.cli("detach", "volume/v", credentials=node)
    finally:
        subprocess.run(["umount", node], check=True)


# Administrators


def test_administrators_are_added_renewed_and_revoked(server, tmp_path):
    alice = tmp_path / "alice"
    server.cli("admin", "add", "alice", "--out", alice)
    assert oct(alice.stat().st_mode)[-3:] == "700" and oct((alice / "key.pem").stat().st_mode)[-3:] == "600"
    assert {admin["name"] for admin in server.json("admin", "list", credentials=alice)} == {"admin", "alice"}
    # Nothing is made when it cannot be kept.
    taken = server.cli("admin", "add", "bob", "--out", alice, check=False)
    assert taken.returncode != 0 and len(server.json("admin", "list")) == 2
    copy = tmp_path / "copy"
    shutil.copytree(alice, copy)
    server.cli("admin", "renew", "--new-key", credentials=alice)
    assert sorted(os.listdir(alice)) == ["ca.pem", "cert.pem", "config.json", "key.pem"]
    server.cli("pool", "list", credentials=alice)
    gone = server.cli("pool", "list", credentials=copy, check=False)
    assert gone.returncode == 77 and "has another key by now" in gone.stderr, gone.stderr
    server.cli("admin", "revoke", "admin", credentials=alice)
    gone = server.cli("pool", "list", check=False)
    assert gone.returncode == 77 and "was revoked" in gone.stderr and "sluiced admin" in gone.stderr
    last = server.cli("admin", "revoke", "alice", credentials=alice, check=False)
    assert last.returncode == 75 and "only administrator" in last.stderr
    # When the last bundle is lost, the server itself makes another.
    busy = subprocess.run([BINARIES / "sluiced", "admin", "--data", server.data, "--name", "eve", "--out", tmp_path / "eve"],
                          capture_output=True, text=True)
    assert busy.returncode == 1 and "in use by another sluiced" in busy.stderr
    server.stop()
    subprocess.run([BINARIES / "sluiced", "admin", "--data", server.data, "--name", "eve", "--out", tmp_path / "eve"], check=True)
    server.start()
    server.cli("admin", "revoke", "alice", credentials=tmp_path / "eve")


# Outputs


def test_outputs_are_checked_before_anything_is_done(server, tmp_path):
    node = server.join("n1")
    server.volume("v", node="n1")
    there = tmp_path / "there"
    there.write_text("mine")
    for place in (there, tmp_path / "none/file", "/proc/1/x"):
        result = server.cli("capability", "issue", "volume/v", "--out", place, credentials=node, check=False)
        assert result.returncode != 0, result.stdout
    assert server.json("capability", "list") == [] and there.read_text() == "mine"
    # A refusal leaves no empty file.
    refused = server.cli("capability", "issue", "volume/other", "--out", tmp_path / "o", credentials=node, check=False)
    assert refused.returncode != 0 and not (tmp_path / "o").exists()
    server.cli("capability", "issue", "volume/v", "--out", tmp_path / "o", credentials=node)
    assert (tmp_path / "o").read_text().startswith("slcap1_") and oct((tmp_path / "o").stat().st_mode)[-3:] == "600"
    # Nor does a join spend its token where it cannot be kept.
    token = server.json("node", "add", "n2")["token"]
    for place in (there / "n2", "/proc/n2"):
        refused = server.cli("join", "--server", server.url, "--token", token, "--credentials", place, check=False)
        assert refused.returncode != 0
    assert server.json("node", "show", "n2")["state"] == "pending"
    # A token that reaches nobody is no success.
    with open("/dev/full", "w") as full:
        lost = subprocess.run(
            [BINARIES / "sluice", "capability", "issue", "volume/v"], stdout=full, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "SLUICE_SERVER": server.url, "SLUICE_CREDENTIALS": str(node)})
    assert lost.returncode == 1 and "standard output did not take all: No space left" in lost.stderr
