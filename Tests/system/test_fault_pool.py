"""A pool of the `fault` driver through the real server: its documented request, refusals, and faults that users see."""
import json
import re
import subprocess

from conftest import ROOT


def test_the_documented_request_makes_a_pool(server):
    text = (ROOT / "Sources/Drivers/Fault/README.md").read_text()
    command = re.search(r"```sh\n(curl .*?)```", text, re.DOTALL).group(1)
    admin = server.data / "admin"
    for file in ("cert", "key", "ca"):
        command = command.replace(f" {file}.pem", f" {admin}/{file}.pem")
    command = command.replace("https://localhost:7480", server.url)
    subprocess.run(["bash", "-c", command.replace("curl -s", "curl -s --fail-with-body")], check=True, timeout=30)
    pool = server.json("pool", "show", "shaky")
    assert pool["driver"] == "fault" and pool["state"] == "ready"
    assert pool["settings"]["seed"] == "42" and "delay 20ms" in pool["settings"]["rules"]


def test_wrong_rules_are_refused_with_what_would_be_right(server):
    refused = server.cli("pool", "create", "shaky", "--driver", "fault", "--setting", "driver=memory",
                         "--setting", "rules=write: eror", check=False)
    assert refused.returncode != 0
    assert "rule 1" in refused.stderr and "nospace" in refused.stderr


def test_users_see_the_faults_that_the_rules_say(server):
    node = server.join("player")
    server.cli("pool", "create", "shaky", "--driver", "fault", "--setting", "driver=memory",
               "--setting", "rules=write every=100: error")
    server.volume("toy", pool="shaky", node="player")
    result = server.cli("bench", "volume/toy", "--rw", "randwrite", "--bs", "4k", "--iodepth", "4", "--time", "1",
                        "-o", "json", credentials=node, check=False)
    errors = json.loads(result.stdout)["errors"]
    assert errors > 0, result.stderr
