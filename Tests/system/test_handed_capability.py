"""A capability that was narrowed offline and handed to another machine is used from its file."""
import json
import subprocess

import pytest
from conftest import needs_root


def handed(server, tmp_path, rights="read"):
    """node-1's capability on a volume, narrowed and handed to node-2's key."""
    one, two = server.join("node-1"), server.join("node-2")
    server.volume("w", "16MiB")
    server.cli("grant", "create", "g", "--node", "node-1", "--resource", "volume/w", "--rights", "read,write,flush",
               "--delegation-depth", "1")
    server.cli("capability", "issue", "volume/w", "--out", tmp_path / "own.cap", credentials=one)
    server.cli("capability", "attenuate", tmp_path / "own.cap", "--rights", rights, "--holder", two / "cert.pem",
               "--seal", "--out", tmp_path / "handed.cap")
    return one, two, tmp_path / "handed.cap"


def test_a_node_without_a_grant_uses_what_it_was_handed_and_no_more(server, tmp_path):
    one, two, file = handed(server, tmp_path)
    assert server.cli("volume", "map", "w", credentials=two, check=False).returncode == 77
    assert json.loads(server.cli("volume", "map", "volume/w", "--capability", file, "-o", "json", credentials=two).stdout)
    read = ["bench", "w", "--rw", "randread", "--time", "200ms", "--capability", file]
    server.cli(*read, credentials=two)
    # Another's key, and more than it allows.
    refused = server.cli(*read, credentials=one, check=False)
    assert refused.returncode == 64 and "another TLS key" in refused.stderr
    refused = server.cli("bench", "w", "--rw", "write", "--time", "200ms", "--capability", file, credentials=two, check=False)
    assert refused.returncode == 77 and "no right to write" in refused.stderr
    refused = server.cli("volume", "map", "w", "--capability", tmp_path / "none.cap", credentials=two, check=False)
    assert refused.returncode == 66 and "none.cap" in refused.stderr


@needs_root
def test_a_device_is_attached_with_what_was_handed_over(server, tmp_path):
    _, two, file = handed(server, tmp_path)
    attached = server.json("attach", "volume/w", "--read-only", "--capability", file, credentials=two)
    try:
        with open(attached["device"], "rb") as device:
            assert device.read(4096) == bytes(4096)
    finally:
        server.cli("detach", "w", credentials=two)


def test_a_capability_for_another_volume_than_the_one_named_is_refused(server, tmp_path):
    _, two, file = handed(server, tmp_path, rights="read,write,flush")
    server.volume("other", "16MiB")
    for name in ("other", "there-is-none"):
        for command in (["bench", name, "--rw", "read"], ["bench", name, "--rw", "write", "--force"],
                        ["volume", "map", name]):
            refused = server.cli(*command, *(["--time", "100ms"] if command[0] == "bench" else []),
                                 "--capability", file, credentials=two, check=False)
            assert refused.returncode == 64, refused
            assert f"{file} is a capability for volume/w, not for volume/{name}" in refused.stderr
    extents = json.loads(server.cli("volume", "map", "w", "--capability", file, "-o", "json", credentials=two).stdout)
    assert {extent["type"] for extent in extents} == {"hole"}
    # One that was deleted is another one when it is back.
    server.cli("volume", "delete", "w", "--force")
    server.volume("w", "16MiB")
    refused = server.cli("volume", "map", "w", "--capability", file, credentials=two, check=False)
    assert refused.returncode == 77 and "that volume is gone" in refused.stderr


def test_what_a_token_is_for_is_told_to_its_holder_alone(server, tmp_path):
    one, two, file = handed(server, tmp_path)
    token = file.read_text().strip()

    def asked(credentials, text=token):
        with server.api(credentials) as api:
            return api.post("/v1/capabilities/inspect", json={"token": text})

    told = asked(two).json()
    assert told["resource"] == "volume/w" and told["isUsable"] and told["rights"] == ["read"] and "reason" not in told
    assert asked(server.data / "admin").json() == told
    forged = token[:-8] + ("A" * 8 if not token.endswith("A" * 8) else "B" * 8)
    refusals = [asked(one), asked(two, forged), asked(two, "slcap1_AAAA")]
    assert {answer.status_code for answer in refusals} == {404}
    assert len({answer.json()["detail"] for answer in refusals}) == 1
    server.cli("volume", "fence", "w")
    told = asked(two).json()
    assert not told["isUsable"] and "new epoch" in told["reason"]
    refused = server.cli("volume", "map", "w", "--capability", file, credentials=two, check=False)
    assert refused.returncode == 77 and "does not count: volume/w was given a new epoch" in refused.stderr
    server.cli("volume", "delete", "w", "--force")
    assert asked(two).json()["detail"] == refusals[0].json()["detail"]


@needs_root
@pytest.mark.parametrize("command", ["attach", "mount"])
def test_nothing_is_formatted_by_another_name(server, tmp_path, command):
    _, two, file = handed(server, tmp_path, rights="read,write,flush")
    server.volume("other", "16MiB")
    folder = tmp_path / "mnt"
    folder.mkdir()
    more = [folder, "--mkfs", "ext4", "--force"] if command == "mount" else []
    refused = server.cli(command, "volume/other", *more, "--capability", file, credentials=two, check=False)
    assert refused.returncode == 64 and "is a capability for volume/w, not for volume/other" in refused.stderr, refused
    assert server.json("status", credentials=two) == []
    extents = json.loads(server.cli("volume", "map", "w", "--capability", file, "-o", "json", credentials=two).stdout)
    assert {extent["type"] for extent in extents} == {"hole"}
    if command == "attach":
        return
    # The advice goes on with the capability that the command was given.
    try:
        server.cli("mount", "volume/w", folder, "--mkfs", "ext4", "--capability", file, credentials=two)
        server.cli("umount", folder, credentials=two)
        refused = server.cli("mount", "volume/w", folder, "--mkfs", "ext4", "--capability", file, credentials=two,
                             check=False)
        advice = f"sluice mount volume/w {folder} --mkfs ext4 --force --capability {file}"
        assert refused.returncode == 73 and advice in refused.stderr
    finally:
        subprocess.run(["umount", folder], capture_output=True)
        for entry in server.json("status", credentials=two):
            server.cli("detach", "--force", entry["device"], credentials=two, check=False)
