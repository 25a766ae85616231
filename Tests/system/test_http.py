"""What HTTP clients expect of the control API beyond its document."""
import email.utils
import json
import subprocess
import time


def curl(server, *arguments):
    admin = server.data / "admin"
    return subprocess.run(
        ["curl", "-sS", "--cacert", admin / "ca.pem", "--cert", admin / "cert.pem", "--key", admin / "key.pem", *arguments],
        capture_output=True, text=True, timeout=60)


def test_a_body_that_is_too_large_is_answered_not_cut_off(server, tmp_path):
    (tmp_path / "body").write_bytes(b"x" * (2 << 20))
    for announced in (["-H", "expect:"], ["-H", "transfer-encoding: chunked"]):
        answer = curl(server, *announced, "--data-binary", f"@{tmp_path}/body", "-w", "%{http_code}", f"{server.url}/v1/volumes")
        assert answer.returncode == 0, answer.stderr
        assert "BODY_TOO_LARGE" in answer.stdout and answer.stdout.endswith("413")


def test_what_is_far_too_large_is_still_cut_off(server):
    # 64 MiB are neither kept nor taken to their end.
    endless = subprocess.Popen(["head", "-c", str(64 << 20), "/dev/zero"], stdout=subprocess.PIPE)
    admin = server.data / "admin"
    ended = subprocess.run(
        ["curl", "-sS", "--cacert", admin / "ca.pem", "--cert", admin / "cert.pem", "--key", admin / "key.pem", "-T", "-",
         "-X", "POST", f"{server.url}/v1/volumes"], stdin=endless.stdout, capture_output=True, text=True, timeout=60)
    endless.stdout.close()
    endless.wait()
    assert "BODY_TOO_LARGE" in ended.stdout or ended.returncode != 0
    assert curl(server, f"{server.url}/livez").returncode == 0


def test_head_is_get_without_its_body(server):
    with server.api(server.data / "admin") as api:
        whole, head = api.get("/v1/server"), api.head("/v1/server")
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(whole.content))
        assert api.head("/v1/volumes/none").status_code == 404
        assert api.head("/v1/server/drain").status_code == 405


def test_answers_have_a_date(server):
    with server.api(server.data / "admin") as api:
        date = email.utils.parsedate_to_datetime(api.get("/v1/server").headers["date"])
        assert abs(date.timestamp() - time.time()) < 60


def test_the_json_of_commands_is_that_of_the_api_null_included(server):
    server.cli("volume", "create", "v", "--size", "1MiB")
    server.join("n")
    server.cli("grant", "create", "g", "--node", "n", "--resource", "volume/v", "--rights", "read")
    capability = server.json("capability", "issue", "volume/v", "--node", "n")["id"]

    def shape(value):
        """Values without what goes on changing: numbers and texts only by their kind."""
        if isinstance(value, dict):
            return {name: shape(one) for name, one in value.items()}
        return [shape(one) for one in value] if isinstance(value, list) else type(value)

    nulls = 0
    with server.api(server.data / "admin") as api:
        for command, path in [
            (["volume", "show", "v"], "/v1/volumes/v"), (["pool", "show", "default"], "/v1/pools/default"),
            (["node", "show", "n"], "/v1/nodes/n"), (["grant", "show", "g"], "/v1/grants/g"),
            (["capability", "show", capability], f"/v1/capabilities/{capability}"), (["server", "show"], "/v1/server"),
            (["driver", "show", "default"], "/v1/drivers/default"), (["admin", "show", "admin"], "/v1/admins/admin"),
        ]:
            told, answered = server.json(*command), api.get(path).json()
            assert shape(told) == shape(answered), command
            nulls += json.dumps(told).count(": null")
        listed = server.json("grant", "list")
        assert listed == api.get("/v1/grants").json()["items"]
    assert nulls > 0 and any("expiresAt" in one and one["expiresAt"] is None for one in listed)


def test_wrong_arguments_are_objects_where_the_output_is_one(server):
    for arguments in (("volume", "create", "v", "-o", "json"), ("volume", "show", "--output=json", "--nonsense"),
                      ("volume", "list", "-ojson", "--server", "nowhere")):
        failed = server.cli(*arguments, check=False)
        error = json.loads(failed.stderr)["error"]
        assert failed.returncode == error["exit"] == 64 and error["message"], failed.stderr
    failed = server.cli("volume", "create", "v", "-o", "yaml", check=False)
    assert failed.returncode == 64 and failed.stderr.startswith("error:\n"), failed.stderr


def test_the_data_channel_is_not_taken_for_a_control_api_of_another_cluster(server):
    failed = server.cli("volume", "list", "--server", f"https://localhost:{server.channel.rsplit(':', 1)[1]}", check=False)
    assert failed.returncode != 0 and "data channel" in failed.stderr and "another cluster" not in failed.stderr
