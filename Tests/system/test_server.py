"""Starting, refusing to start, enrolment, and what curl sees."""
import json
import os
import pathlib
import shutil
import signal
import socket
import sqlite3
import ssl
import subprocess
import threading

import pytest
from conftest import BINARIES, PATIENCE, Server, needs_root


def run(*command, **options):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=PATIENCE, **options)


def test_init_makes_private_files_and_says_what_works_next(tmp_path):
    data = tmp_path / "data"
    result = run(BINARIES / "sluiced", "init", "--data", data, "--name", "io.example", "--address", "10.1.2.3")
    assert result.returncode == 0, result.stderr
    assert "curl" in result.stdout and "--cert" in result.stdout
    for path in (data, *data.rglob("*")):
        mode = path.stat().st_mode & 0o777
        assert mode == (0o700 if path.is_dir() else 0o600), f"{path} has mode {mode:o}"
    for name in ("ca.pem", "cert.pem", "key.pem"):
        assert (data / "admin" / name).exists()


def test_init_refuses_a_folder_that_holds_something_else(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "precious").write_text("mine")
    result = run(BINARIES / "sluiced", "init", "--data", data)
    assert result.returncode != 0 and "precious" in result.stderr
    assert [path.name for path in data.iterdir()] == ["precious"]


def test_init_twice_is_refused_and_harms_nothing(server):
    before = (server.data / "admin/cert.pem").read_bytes()
    result = run(BINARIES / "sluiced", "init", "--data", server.data)
    assert result.returncode != 0
    assert (server.data / "admin/cert.pem").read_bytes() == before


def test_serve_without_init_says_what_to_do(tmp_path):
    result = run(BINARIES / "sluiced", "serve", "--data", tmp_path / "nothing")
    assert result.returncode != 0 and "sluiced init" in result.stderr


def test_a_client_that_has_not_heard_of_limits_yet_may_ask_a_hundred_times_at_once(server):
    admin = server.data / "admin"
    result = run("nghttp", "--no-verify-peer", "--null-out", "--verbose", "--multiply", 100,
                 f"--cert={admin / 'cert.pem'}", f"--key={admin / 'key.pem'}", f"{server.url}/v1/server")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(":status: 200") == 100 and "RST_STREAM" not in result.stdout


def test_a_second_server_on_the_same_folder_is_refused(server):
    result = run(BINARIES / "sluiced", "serve", "--data", server.data, "--control", "127.0.0.1:0",
                 "--channel", "127.0.0.1:0")
    assert result.returncode != 0 and "another sluiced" in result.stderr
    with server.api(server.data / "admin") as api:
        assert api.get("/v1/server").status_code == 200


def test_a_catalog_from_a_newer_version_is_refused_untouched(tmp_path):
    server = Server(tmp_path).start()
    server.stop()
    catalog = server.data / "catalog.sqlite"
    with sqlite3.connect(catalog) as database:
        database.execute("PRAGMA user_version = 999")
    result = run(BINARIES / "sluiced", "serve", "--data", server.data, "--control", "127.0.0.1:0",
                 "--channel", "127.0.0.1:0")
    assert result.returncode != 0 and "newer" in result.stderr


@needs_root
def test_a_read_only_data_folder_is_refused_clearly(tmp_path):
    server = Server(tmp_path)
    subprocess.run(["mount", "--bind", server.data, server.data], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", server.data], check=True)
        result = run(BINARIES / "sluiced", "serve", "--data", server.data, "--control", "127.0.0.1:0",
                     "--channel", "127.0.0.1:0")
        assert result.returncode != 0 and ("read-only" in result.stderr.lower() or "written" in result.stderr)
    finally:
        subprocess.run(["umount", server.data], check=True)


@needs_root
def test_a_full_disk_is_an_error_and_the_server_lives_on(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "none", disk], check=True)
    try:
        server = Server(disk).start()
        try:
            server.cli("pool", "create", "ram", "--driver", "memory", "--setting", "size=64m")
            node = server.join("filler")
            server.volume("thin", size="1GiB", node="filler")
            result = server.cli("bench", "volume/thin", "--rw", "write", "--bs", "1m", "--iodepth", "4", "--time", "5",
                                credentials=node, check=False)
            assert result.returncode != 0 and "NO_SPACE" in result.stderr + result.stdout
            with server.api(server.data / "admin") as api:
                assert api.get("/livez").status_code == 200
                assert api.get("/v1/volumes/thin").json()["size"] == 1 << 30
        finally:
            assert server.stop() == 0
    finally:
        subprocess.run(["umount", disk], check=True)


def test_sigterm_and_start_again_keeps_everything(server):
    server.cli("volume", "create", "kept", "--size", "10MiB")
    assert server.stop() == 0
    server.start()
    assert server.json("volume", "show", "kept")["size"] == 10 << 20


def test_what_a_start_that_fails_has_said_is_kept(tmp_path):
    server = Server(tmp_path).start()
    folder = tmp_path / "disk"
    folder.mkdir()
    server.cli("pool", "create", "lost", "--driver", "file", "--isolation", "inline", "--setting", f"path={folder}")
    assert server.stop() == 0
    shutil.rmtree(folder)
    host, port = server.control.rsplit(":", 1)
    with socket.create_server((host, int(port))):
        result = run(BINARIES / "sluiced", "serve", "--data", server.data, "--control", server.control,
                     "--channel", server.channel)
    # It ended within the tenth of a second for which events wait for others.
    assert result.returncode == 1 and "pool did not start" in result.stderr, result.stderr
    events = [json.loads(line) for line in (server.data / "events.jsonl").read_text().splitlines()]
    assert ("pool.not-started", "pool/lost") in {(event.get("kind"), event.get("subject")) for event in events}


def threads(server):
    """The CPUs that each thread of the server may run on, by its name."""
    tasks = pathlib.Path(f"/proc/{server.process.pid}/task").iterdir()
    return {(task / "comm").read_text().strip(): os.sched_getaffinity(int(task.name)) for task in tasks}


def test_reactors_run_on_the_cpus_that_are_set(tmp_path):
    cpus = sorted(os.sched_getaffinity(0))
    server = Server(tmp_path, "--reactors", "2")
    server.environment |= {"SLUICE_CPUS": f"{cpus[-1]},{cpus[0]}", "SLUICE_POLL": "0"}
    try:
        server.start()
        placed = threads(server)
        assert (placed["data-0"], placed["data-1"]) == ({cpus[-1]}, {cpus[0]})
    finally:
        assert server.stop() == 0


@pytest.mark.parametrize(("name", "value", "words"), [
    ("SLUICE_POLL", "1001", 'SLUICE_POLL is "1001"'), ("SLUICE_POLL", "-1", 'SLUICE_POLL is "-1"'),
    ("SLUICE_CPUS", "0,-1", "SLUICE_CPUS is"), ("SLUICE_CPUS", "0,5000", "SLUICE_CPUS is")])
def test_a_setting_out_of_bounds_is_refused(server, name, value, words):
    assert server.stop() == 0
    result = run(BINARIES / "sluiced", "serve", "--data", server.data, "--control", "127.0.0.1:0",
                 "--channel", "127.0.0.1:0", env={**os.environ, name: value})
    assert result.returncode != 0 and words in result.stderr


# Enrolment


def test_a_token_works_once(server):
    token = server.json("node", "add", "once")["token"]
    server.cli("join", "--server", server.url, "--token", token, "--credentials", server.folder / "a")
    again = server.cli("join", "--server", server.url, "--token", token, "--credentials", server.folder / "b",
                       check=False)
    assert again.returncode != 0 and "token" in again.stderr
    assert not (server.folder / "b/key.pem").exists()
    assert os.stat(server.folder / "a/key.pem").st_mode & 0o777 == 0o600


def test_a_man_in_the_middle_cannot_fool_join(server, tmp_path):
    """Another server with a valid certificate of its own authority gets nothing from the node, not even the token."""
    (tmp_path / "evil").mkdir()
    evil = Server(tmp_path / "evil").start()
    try:
        token = server.json("node", "add", "victim")["token"]
        result = server.cli("join", "--server", evil.url, "--token", token, "--credentials", tmp_path / "v",
                            check=False)
        assert result.returncode != 0 and ("fingerprint" in result.stderr or "authority" in result.stderr)
        assert not (tmp_path / "v/cert.pem").exists()
    finally:
        evil.stop()


def test_a_node_may_not_do_what_an_admin_may(server):
    node = server.join("plain")
    with server.api(node) as api:
        for method, path, body in [("POST", "/v1/volumes", {"name": "x", "size": 4096}),
                                   ("POST", "/v1/nodes", {"name": "y"}),
                                   ("DELETE", "/v1/nodes/plain", None)]:
            answer = api.request(method, path, json=body)
            assert answer.status_code == 403, (method, path, answer.text)
            assert answer.headers["content-type"].startswith("application/problem+json")
    with server.api() as api:
        assert api.get("/v1/volumes").status_code == 401
        assert api.get("/livez").status_code == 200


def test_a_node_gets_no_capability_beyond_its_grant(server):
    node = server.join("limited")
    server.volume("data", node="limited", rights="read")
    with server.api(node) as api:
        assert api.post("/v1/capabilities", json={"resource": "volume/data"}).json()["rights"] == ["read"]
        assert api.post("/v1/capabilities", json={"resource": "volume/data", "rights": ["write"]}).status_code == 403
        assert api.post("/v1/capabilities", json={"resource": "volume/other"}).status_code in (403, 404)


# curl and other clients


def curl(server, *arguments):
    admin = server.data / "admin"
    return run("curl", "-sS", "-i", "--cacert", admin / "ca.pem", "--cert", admin / "cert.pem", "--key",
               admin / "key.pem", *arguments)


def test_curl_talks_http_2_and_gets_compact_json(server):
    result = curl(server, f"{server.url}/v1/server")
    head, body = result.stdout.split("\n\n", 1)
    assert head.startswith("HTTP/2 200")
    assert json.loads(body)["name"] and "\n " not in body


def test_http_1_gets_a_readable_refusal(server):
    result = curl(server, "--http1.1", f"{server.url}/v1/server")
    assert "HTTP/2" in result.stdout or "http2" in result.stdout
    plain = socket.create_connection(tuple([server.control.rsplit(":", 1)[0], int(server.control.rsplit(":", 1)[1])]))
    plain.settimeout(15)
    plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    try:
        while plain.recv(4096):
            pass
    except ConnectionError:
        pass
    plain.close()
    with server.api(server.data / "admin") as api:
        assert api.get("/readyz").status_code == 200


def test_errors_say_which_field_and_what_would_be_right(server):
    with server.api(server.data / "admin") as api:
        for body, field in [({"name": "Bad_Name", "size": 4096}, "name"), ({"name": "a", "size": -5}, "size"),
                            ({"name": "a", "size": "x"}, "size"), ({"name": "a", "size": 4096, "colour": 1}, "colour"),
                            ({"name": "a"}, "size")]:
            answer = api.post("/v1/volumes", json=body)
            problem = answer.json()
            assert 400 <= answer.status_code < 500 and problem["field"] == field, (body, problem)
            assert problem["code"] and problem["detail"]
        assert api.post("/v1/volumes", content=b"{" * 100000).status_code in (400, 413)
        assert api.post("/v1/volumes", content=b"[" * 1000000).status_code in (400, 413)


def test_lists_are_paged_and_posts_are_idempotent(server):
    with server.api(server.data / "admin") as api:
        for number in range(25):
            api.post("/v1/volumes", json={"name": f"v{number:02}", "size": 4096})
        names, cursor = [], None
        while True:
            page = api.get("/v1/volumes", params={"limit": 10, **({"cursor": cursor} if cursor else {})}).json()
            names += [item["name"] for item in page["items"]]
            cursor = page.get("nextCursor")
            if not cursor:
                break
        assert names == [f"v{number:02}" for number in range(25)]
        key = {"Idempotency-Key": "one"}
        first = api.post("/v1/volumes", json={"name": "same", "size": 4096}, headers=key)
        again = api.post("/v1/volumes", json={"name": "same", "size": 4096}, headers=key)
        assert (first.status_code, first.text) == (again.status_code, again.text) and first.status_code == 201
        assert api.post("/v1/volumes", json={"name": "other", "size": 4096}, headers=key).status_code == 422


def test_updates_need_the_right_etag(server):
    with server.api(server.data / "admin") as api:
        created = api.post("/v1/volumes", json={"name": "v", "size": 4096})
        etag = created.headers["etag"]
        assert api.patch("/v1/volumes/v", json={"labels": {"a": "b"}}, headers={"If-Match": etag}).status_code == 200
        assert api.patch("/v1/volumes/v", json={"labels": {"a": None}}, headers={"If-Match": etag}).status_code == 412
        assert api.patch("/v1/volumes/v", json={"size": 8192}).json()["size"] == 8192
        assert api.patch("/v1/volumes/v", json={"size": 4096}).status_code in (409, 422, 400)


def test_metrics_are_prometheus_text(server):
    with server.api(server.data / "admin") as api:
        text = api.get("/metrics").text
    assert "# TYPE sluice_" in text


def test_rapid_reset_costs_a_bounded_amount_of_work(server):
    """Ten thousand streams, opened and reset at once: the connection ends, the server does not slow down."""
    host, port = server.control.rsplit(":", 1)
    context = ssl.create_default_context(cafile=str(server.data / "admin/ca.pem"))
    context.load_cert_chain(server.data / "admin/cert.pem", server.data / "admin/key.pem")
    context.set_alpn_protocols(["h2"])
    raw = socket.create_connection((host, int(port)), timeout=15)
    with context.wrap_socket(raw, server_hostname=host) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
        headers = bytes([0x82, 0x87, 0x84, 0x41, 0x01, ord("x")])
        drain = threading.Thread(target=read_all, args=(connection,))
        try:
            for stream in range(1, 20001, 2):
                number = stream.to_bytes(4, "big")
                connection.sendall(len(headers).to_bytes(3, "big") + b"\1\5" + number + headers
                                   + b"\0\0\4\3\0" + number + b"\0\0\0\x08")
            drain.start()
            drain.join(20)
            assert not drain.is_alive(), "the server still listens after 10,000 resets"
        except OSError:
            pass
    with server.api(server.data / "admin") as api:
        assert api.get("/v1/server").elapsed.total_seconds() < 2


def read_all(connection):
    try:
        while connection.recv(65536):
            pass
    except OSError:
        pass
