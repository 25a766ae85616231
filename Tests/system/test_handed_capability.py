"""A capability that was narrowed offline and handed to another machine is used from its file."""
import json

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
