"""The command line against a control API that was taken over: what it prints, and that nothing in an answer ends it."""
import copy
import json
import os
import random
import unicodedata

import pytest
from hostile.control import LyingControl, forwarded

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202edesrever\u2066\u2028\x85\nsluice: all is well\r\n\x7f"
NUMBERS = [0, 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -1, -2**63, 1.5, 1e308, 1e-320]
READING = [
    ["volume", "list"], ["volume", "show", "data"], ["pool", "list"], ["pool", "show", "default"], ["node", "list"],
    ["node", "show", "compute"], ["grant", "list"], ["grant", "show", "compute-data"], ["capability", "list"],
    ["session", "list"], ["driver", "list"], ["driver", "show", "default"], ["events"], ["server", "show"],
    ["volume", "markers", "data"],
]
ROUNDS = int(os.environ.get("SLUICE_FUZZ_ANSWERS", "30"))


@pytest.fixture(scope="module")
def real(shared_server):
    shared_server.node = shared_server.join("compute")
    shared_server.volume("data", node="compute")
    shared_server.cli("capability", "issue", "volume/data", credentials=shared_server.node)
    shared_server.cli("volume", "mark", "data", "monday")
    with shared_server.api(shared_server.data / "admin") as api:
        shared_server.admin = api
        yield shared_server


def steers(text):
    """The characters of an output that could steer a terminal or hide something; lines of our own end in a line feed."""
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") and c not in "\n\u200c\u200d"}


def run(real, control, *arguments, credentials=None, **more):
    result = real.cli(*arguments, "--server", control.url, credentials=credentials, check=False, **more)
    assert result.returncode >= 0, f"{arguments} died of signal {-result.returncode}:\n{result.stderr[-2000:]}"
    assert not steers(result.stdout) and not steers(result.stderr), (arguments, result.stdout, result.stderr)
    return result


def changed(document, replace):
    """The document with every text replaced."""
    if isinstance(document, dict):
        return {key: changed(value, replace) for key, value in document.items()}
    if isinstance(document, list):
        return [changed(value, replace) for value in document]
    return replace(document) if isinstance(document, str) else document


def test_refusals_are_one_line_that_steers_nothing(real):
    problem = {"type": "x", "code": "BAD\x1b[2J", "title": EVIL, "detail": EVIL * 1000, "field": EVIL, "expected": EVIL}
    bodies = [problem, EVIL.encode(), b"\xff\xfe" + EVIL.encode(), {"detail": None, "title": EVIL}]
    for body in bodies:
        with LyingControl(real.data, lambda *_: (422, body)) as control:  # noqa: B023
            for arguments in (["volume", "list"], ["volume", "create", "x", "--size", "1MiB"], ["node", "add", "x"],
                              ["volume", "list", "-o", "json"]):
                result = run(real, control, *arguments)
                assert result.returncode == 64 and not result.stdout
                assert result.stderr.count("\n") == 1
                if "json" in arguments:
                    assert json.loads(result.stderr)["error"]["exit"] == 64
                else:
                    assert result.stderr.startswith("sluice: ")
                assert len(result.stderr) < 20_000


def test_values_are_shown_in_tables_and_kept_in_json(real):
    def lie(path, status, document):
        return status, changed(document, lambda text: text if text in ("isolated", "inline") else text + EVIL)

    with LyingControl(real.data, forwarded(real.admin, lie)) as control:
        for arguments in READING:
            for form in ("table", "yaml"):
                run(real, control, *arguments, "-o", form)
            result = run(real, control, *arguments, "-o", "json")
            if result.returncode == 0:
                texts = []
                changed(json.loads(result.stdout), texts.append)
                assert not texts or any(EVIL in text for text in texts), arguments


def test_a_sentence_is_not_continued_by_a_value_and_a_command_line_holds_no_other(real):
    token = real.json("node", "add", "copied")["token"]

    def answer(method, path, body):
        return 201, {"id": "1", "name": "x" + EVIL, "state": "new", "createdAt": "now", "token": token,
                     "tokenExpiresAt": "soon\n\n" + EVIL}

    with LyingControl(real.data, answer) as control:
        lines = run(real, control, "node", "add", "x").stdout.splitlines()
        assert len(lines) == 5 and lines[2] == f"  sluice join --server {control.url} --token -", lines
        assert lines[4] == f"  {token}", lines
        for token in ("$(reboot)", "a; reboot", EVIL, ""):  # noqa: B020
            result = run(real, control, "node", "add", "x")
            assert result.returncode == 1 and not result.stdout and "a token that is none" in result.stderr


@pytest.mark.parametrize("cycle", [1, 2, 3])
def test_pages_that_come_again_end_the_list(real, cycle):
    pages = []

    def answer(method, path, body):
        pages.append(path)
        return 200, {"items": [], "nextCursor": f"c{len(pages) % cycle}"}

    with LyingControl(real.data, answer) as control:
        result = run(real, control, "volume", "list", timeout=60)
    assert result.returncode == 1 and "repeats a page" in result.stderr
    assert len(pages) == cycle + 1


def test_numbers_and_shapes_that_cannot_be_end_no_command(real):
    seed = int(os.environ.get("SLUICE_SEED", "12"))
    generator = random.Random(seed)

    def places(document, found):
        pairs = document.items() if isinstance(document, dict) else enumerate(document)
        for key, value in pairs:
            found.append((document, key))
            if isinstance(value, (dict, list)):
                places(value, found)
        return found

    def lie(path, status, document):
        document = copy.deepcopy(document)
        for _ in range(generator.randrange(1, 4)):
            found = places(document, [])
            if not found:
                break
            parent, key = generator.choice(found)
            parent[key] = generator.choice([*NUMBERS, EVIL, None, True, [], {}, [EVIL], {"a": 2**63}, "9" * 400])
        return status, document

    def largest(path, status, document):
        document = copy.deepcopy(document)
        for parent, key in places(document, []):
            if isinstance(parent[key], int) and not isinstance(parent[key], bool):
                parent[key] = 2**63 - 1 if key != "user" else 0
        return status, document

    for change, rounds in ((largest, 1), (lie, ROUNDS)):
        with LyingControl(real.data, forwarded(real.admin, change)) as control:
            for index in range(rounds):
                chosen = READING if change is largest else [generator.choice(READING)]
                for arguments in chosen:
                    result = run(real, control, *arguments, "-o", generator.choice(["table", "json", "yaml"]))
                    assert result.returncode in (0, 1, 64), (seed, index, arguments, result.stderr)


def test_join_keeps_the_name_of_the_token_and_one_authority(real, tmp_path):
    token = real.json("node", "add", "honest")["token"]
    with real.api() as api:
        for index, (name, id_) in enumerate([("../../etc/" + EVIL, None), ("other", None), (None, "../x" + EVIL)]):
            def lie(path, status, document):
                if not path.endswith("/enroll"):
                    return status, document
                assert status == 201, document
                return status, {**document, "name": name or document["name"], "id": id_ or document["id"]}  # noqa: B023

            with LyingControl(real.data, forwarded(api, lie)) as control:
                folder = tmp_path / f"refused-{index}"
                result = run(real, control, "join", "--token", token, "--credentials", folder, SLUICE_CREDENTIALS="")
                assert result.returncode != 0 and "another node than honest" in result.stderr, result.stderr
                assert not folder.exists()
            token = real.json("node", "token", "honest")["token"]

        def add(path, status, document):
            if path.endswith("/enroll"):
                for member in ("ca", "certificate"):
                    document[member] += (real.data / "server/cert.pem").read_text()
            if path == "/v1/server":
                document = {**document, "clusterID": EVIL, "channel": [EVIL, "127.0.0.1:1", "a b"] * 1000}
            return status, document

        with LyingControl(real.data, forwarded(api, add)) as control:
            folder = tmp_path / "joined"
            run(real, control, "join", "--token", token, "--credentials", folder, SLUICE_CREDENTIALS="")
    for name in ("ca.pem", "cert.pem"):
        assert (folder / name).read_text().count("BEGIN CERTIFICATE") == 1
    config = json.loads((folder / "config.json").read_text())
    assert config["node"] == "honest"
    assert not steers(json.dumps(config, ensure_ascii=False))
    assert len(config.get("channels") or []) <= 64
