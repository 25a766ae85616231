"""Settings of `sluiced`: strict wherever they come from, and `check-config` and `serve` agree; `init` that is told nonsense."""
import os
import re
import signal
import socket
import subprocess

import pytest
import yaml
from conftest import BINARIES, PATIENCE, ROOT, Server


EVERYWHERE = '["[::]:7481"]' if socket.has_ipv6 else '["0.0.0.0:7481"]'


def sluiced(*arguments, environment=None, **more):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SLUICE_")}
    return subprocess.run([BINARIES / "sluiced", *map(str, arguments)], capture_output=True, text=True, timeout=PATIENCE,
                          env={**clean, **(environment or {})}, **more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return Server(tmp_path_factory.mktemp("settings")).data


def test_what_holds_is_printed_with_its_place_as_a_file_that_is_taken(tmp_path):
    file = tmp_path / "sluiced.yaml"
    file.write_text("# the server\nsluice:\n  control: ['127.0.0.1:0']\n  reactors: 2\n  poll: 7\n  session: {linger: 60}\n")
    shown = sluiced("check-config", "--config", file, "--reactors", "4", environment={"SLUICE_POLL": "9", "SLUICE_CPUS": ""})
    assert shown.returncode == 0 and shown.stderr == "", shown.stderr
    lines = {line.split(":")[0].strip(): line for line in shown.stdout.splitlines()}
    for name, value, place in [("control", '["127.0.0.1:0"]', f"{file}:3"), ("reactors", "4", "--reactors"),
                               ("poll", "9", "environment SLUICE_POLL"), ("linger", "60", f"{file}:6"),
                               ("channel", EVERYWHERE, "default"), ("losses", "8", "default")]:
        assert f"{name}: {value} " in lines[name] and lines[name].endswith(f"# {place}"), lines[name]
    again = tmp_path / "again.yaml"
    again.write_text(shown.stdout)
    repeated = sluiced("check-config", "--config", again)
    assert repeated.returncode == 0, repeated.stderr
    assert yaml.safe_load(repeated.stdout) == yaml.safe_load(shown.stdout)


WRONG = [
    ("sluice: {controll: ['127.0.0.1:0']}", {}, ['FILE:1: there is no setting "controll"; did you mean "control"?']),
    ("sluice:\n  reactors: 1\n  foo: 1", {}, ['FILE:3: there is no setting "foo"; there are channel, control,']),
    ("sluice:\n  reactors: \"two\"", {}, ['FILE:2: reactors is "two"; a whole number from 1 to 64 would be right']),
    ("sluice: {reactors: \"2\"}", {}, ['reactors is "2"']),
    ("sluice: {reactors: 1.5}", {}, ['reactors is "1.5"']),
    ("sluice: {reactors: [1]}", {}, ["reactors is a list"]),
    ("sluice: {reactors: -1}", {}, ['reactors is "-1"']),
    ("sluice: {control: {a: 1}}", {}, ["control is a mapping"]),
    ("sluice: {control: []}", {}, ["control is a list; addresses such as"]),
    ("sluice: {control: ['localhost:7480']}", {}, ["control is a list; addresses such as"]),
    ("sluice: {control: 7480}", {}, ['control is "7480"']),
    ("sluice: {cpus: [99999]}", {}, ["cpus is a list; whole numbers from 0 to"]),
    ("sluice: {driver: {hots: /x}}", {}, ['there is no setting "driver.hots"; did you mean "host"?']),
    ("sluice: {stop.seconds: 5}", {}, ['there is no key "stop.seconds": a dot is a level', "write it as stop: {seconds: …}"]),
    ("sluice: {driver: {quarantine.losses: 5}}", {}, ["write it as quarantine: {losses: …}"]),
    ("stop.seconds: 5", {}, ['"stop.seconds" belongs below "sluice:", as stop: {seconds: …}']),
    ("sluice: {driver: 3}", {}, ['"sluice.driver" holds settings, not a value']),
    ("sluice: {driver: {host: /nowhere}}", {}, ["driver.host (FILE:1): the program of driver hosts, /nowhere, cannot be run"]),
    ("sluice: {reactors: 1, reactors: 2}", {}, ["FILE: is no YAML"]),
    ("sluice: [", {}, ["FILE: is no YAML"]),
    ("control: ['127.0.0.1:0']", {}, ['FILE:1: "control" belongs below "sluice:"']),
    ("sluce: {reactors: 1}", {}, ['there is no "sluce"; did you mean "sluice"?']),
    ("- 1", {}, ['FILE:1: "sluice:" with settings below it would be right']),
    ("", {"SLUICE_REACTORS": "abc"}, ['environment SLUICE_REACTORS is "abc"; a whole number from 1 to 64 would be right']),
    ("", {"SLUICE_REACTOR": "2"}, ["environment SLUICE_REACTOR is no setting; did you mean SLUICE_REACTORS?"]),
    ("", {"SLUICE_CONTROLL": "127.0.0.1:0"}, ["did you mean SLUICE_CONTROL?"]),
    ("", {"SLUICE_CPUS": "0,,1"}, ["environment SLUICE_CPUS is"]),
    ("", {"SLUICE_SESSION_LINGER": "5m"}, ["environment SLUICE_SESSION_LINGER is"]),
    # Two sockets cannot listen at one address, and no driver is started to find that out.
    ("sluice: {control: ['127.0.0.1:41010'], channel: ['127.0.0.1:41010']}", {},
     ["channel (FILE:1) is 127.0.0.1:41010, which control (FILE:1) has already; another address or port would be right"]),
    ("sluice: {control: ['127.0.0.1:41010', '127.0.0.1:41010']}", {}, ["which control (FILE:1) has already"]),
    ("sluice: {control: ['0.0.0.0:41010']}", {"SLUICE_CHANNEL": "127.0.0.1:41010"},
     ["channel (environment SLUICE_CHANNEL) is 127.0.0.1:41010, which control (FILE:1) has already as 0.0.0.0:41010"]),
    # All that is wrong is said at once, and nothing of it reaches a terminal raw.
    ("sluice: {foo: 1, \"a\\e[2J\": 2}", {"SLUICE_POLL": "x\x1b]0;y"},
     ['no setting "foo"', 'no setting "a\\u001b[2J"', 'SLUICE_POLL is "x\\u001b]0;y"']),
]


@pytest.mark.parametrize("text, environment, said", WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_refused_with_its_place_by_check_config_and_by_serve(tmp_path, folder, text, environment, said):
    file = tmp_path / "s.yaml"
    file.write_text(text)
    checked = sluiced("check-config", "--config", file, environment=environment)
    assert checked.returncode == 64 and checked.stdout == ""
    for part in said:
        assert part.replace("FILE", str(file)) in checked.stderr, checked.stderr
    assert "\x1b" not in checked.stderr
    served = sluiced("serve", "--data", folder, "--config", file, environment=environment)
    assert (served.returncode, served.stderr) == (64, checked.stderr)


@pytest.mark.parametrize("flag, value", [("--reactors", "0"), ("--reactors", "two"), ("--control", "7480"), ("--channel", ":1")])
def test_flags_are_held_to_the_same_rules(flag, value):
    checked = sluiced("check-config", flag, value)
    assert checked.returncode == 64 and f'{flag} is "{value}"; ' in checked.stderr, checked.stderr


def test_a_file_that_is_not_there_is_said_and_one_without_settings_is_fine(tmp_path):
    assert "No such file" in sluiced("check-config", "--config", tmp_path / "none").stderr
    for text in ("", "# nothing\n", "sluice:\n", "sluice: {}\n"):
        (tmp_path / "empty").write_text(text)
        assert sluiced("check-config", "--config", tmp_path / "empty").returncode == 0


def test_variables_of_the_client_are_fine_and_strangers_are_said():
    helps = [subprocess.run([BINARIES / "sluice", *command, "--help"], capture_output=True, text=True, timeout=PATIENCE).stdout
             for command in ([], ["attach"])]
    named = [set(re.findall("SLUICE_[A-Z_]+", text)) for text in helps]
    assert named[1] <= named[0] and "SLUICE_IO_TIMEOUT" in named[1]
    mine = sluiced("check-config", environment={name: "" if name == "SLUICE_LOG_FORMAT" else "x" for name in named[0]})
    assert (mine.returncode, mine.stderr) == (0, "")
    stranger = sluiced("check-config", environment={"SLUICE_FRIEND": "1"})
    assert stranger.returncode == 0
    assert stranger.stderr == "sluiced: warning: environment SLUICE_FRIEND is no setting of sluiced, and is ignored\n"


def test_a_server_that_hangs_at_its_end_says_so_before_systemd_kills_it():
    unit = (ROOT / "Deploy/systemd/sluiced.service").read_text()
    preset = yaml.safe_load(sluiced("check-config").stdout)["sluice"]["stop"]["seconds"]
    assert preset < int(re.search(r"^TimeoutStopSec=(\d+)$", unit, re.M)[1])


# init


@pytest.mark.parametrize("options, said", [
    (["--name", "bad name!"], '"bad name!" is no DNS name'),
    (["--name", "io.example", "--address", "192.0.2.10:7480"], '"192.0.2.10:7480" is no IP address'),
    (["--name", "io.example", "--address", "under/score"], '"under/score" is no DNS name'),
    (["--name", "foo_bar"], '"foo_bar" is no DNS name'),
    (["--name", "io.example", "--address", "foo_bar"], '"foo_bar" is no DNS name'),
    (["--name", "io.example\x1b[2j"], '"io.example?[2j" is no DNS name'),
])
def test_init_that_is_told_nonsense_makes_nothing(tmp_path, options, said):
    result = sluiced("init", "--data", tmp_path / "d", *options)
    assert result.returncode == 64 and said in result.stderr and "\x1b" not in result.stderr, result.stderr
    assert os.listdir(tmp_path) == []


def test_init_that_fails_on_the_way_takes_back_what_it_made(tmp_path):
    def few_bytes():
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    there = tmp_path / "there"
    there.mkdir()
    for folder in (tmp_path / "new", there):
        result = sluiced("init", "--data", folder, "--name", "io.example", preexec_fn=few_bytes, restore_signals=False)
        assert result.returncode == 1 and result.stderr, result.stderr
    assert os.listdir(tmp_path) == ["there"] and os.listdir(there) == []
    assert sluiced("init", "--data", there, "--name", "io.example").returncode == 0
    missing = sluiced("init", "--data", tmp_path / "a/b", "--name", "io.example")
    assert missing.returncode == 1 and "make the folder above it first" in missing.stderr


def test_the_documented_presets_are_those_that_hold():
    text = (ROOT / "docs/operating.md").read_text()
    if not socket.has_ipv6:
        text = text.replace("[::]", "0.0.0.0")
    rows = re.findall(r"^\| `([a-z.]+)` \| (?:`(.*?)`|not set) \|", text, re.M)

    def flat(settings, above=""):
        for name, value in settings.items():
            yield from flat(value, f"{above}{name}.") if isinstance(value, dict) else [(above + name, value)]

    preset = dict(flat(yaml.safe_load(sluiced("check-config").stdout)["sluice"]))
    assert {name: yaml.safe_load(value) for name, value in rows if value} == preset
    assert [name for name, value in rows if not value] == ["driver.host"]
