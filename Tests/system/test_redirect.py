"""A server that is drained with somewhere else to go: another way to the same server, and a standby that takes over."""
import contextlib
import shutil
import socket
import subprocess

import pytest
from chaos.proxy import Proxy
from conftest import BINARIES, Server, await_condition, needs_root
from test_reconnect import Fio, attach, await_progress, log_of, node, status  # noqa: F401

pytestmark = needs_root


def drain(server, where, seconds=30):
    server.cli("server", "drain", "--timeout", seconds, "--redirect", where)


def channels_at(server, port):
    """Connections of clients to a port, as the kernel counts them; servers and proxies hold the other ends."""
    lines = subprocess.run(["ss", "-tnH", "state", "established", "dport", "=", f":{port}"], capture_output=True,
                           text=True, check=True).stdout.splitlines()
    return len(lines)


def sessions(server):
    with server.api(server.data / "admin") as api:
        return {one["id"] for one in api.get("/v1/sessions").json()["items"]}


def test_a_client_goes_to_the_other_address_with_everything_answered_first(node):
    node.device = attach(node, "--channels", "3")
    before = sessions(node)
    fio = Fio(node.device)
    await_progress(node)
    with Proxy(lambda: node.channel_address) as other:
        drain(node, other.text)
        await_condition("the move", lambda: other.connections == 3)
        await_progress(node)
        assert status(node)["state"] == "attached"
        fio.finish()
        assert other.accepted <= 4, "one look and three connections"
        assert sessions(node) == before
        log = log_of(node)
        assert "a request failed" not in log
        # What was under way was answered before the connections ended: nothing had to be sent again.
        assert {line.split("resumed after")[1].split(",")[1].split()[0] for line in log.splitlines()
                if "resumed after" in line} == {"0"}
        # Where it is now is where it comes back to, until that does not work any more.
        other.cut()
        await_condition("the return", lambda: other.connections == 3)
        node.cli("server", "undrain")
    await_condition("the old way", lambda: status(node)["state"] == "attached")
    Fio(node.device).finish()
    assert "a request failed" not in log_of(node)


def test_who_can_go_nowhere_stays_until_the_place_is_there(node):
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        place = reserved.getsockname()
    node.device = attach(node, "--channels", "2")
    fio = Fio(node.device)
    await_progress(node)
    drain(node, "{}:{}".format(*place), seconds=3)
    # At the end of the time it is sent away, finds nobody there, and comes back.
    await_condition("the end of the time", lambda: "is drained" in node.text() or "resumed after" in log_of(node))
    await_progress(node)
    with contextlib.closing(socket.create_server(place)) as listener, Proxy(
            lambda: node.channel_address, listener=listener.dup()) as other:
        listener.close()
        drain(node, "{}:{}".format(*place))
        await_condition("the move", lambda: other.connections == 2)
        fio.finish()
        assert "a request failed" not in log_of(node)
        node.cli("server", "undrain")


@pytest.mark.parametrize("knows_the_keys", [False, True], ids=["another cluster", "a copy without the session"])
def test_a_wrong_place_costs_a_pause_and_not_the_session(node, tmp_path, knows_the_keys):
    wrong = Server(tmp_path / "wrong", init=False)
    wrong.folder.mkdir()
    if knows_the_keys:
        # What somebody has restored from a backup: the same keys and names, and no session.
        shutil.copytree(node.data, wrong.data, ignore=shutil.ignore_patterns("lock", "run", "pools"))
        (wrong.data / "run").mkdir()
        (wrong.data / "pools").mkdir()
    else:
        wrong = Server(tmp_path / "wrong")
    wrong.start()
    try:
        node.device = attach(node)
        before = sessions(node)
        fio = Fio(node.device)
        await_progress(node)
        drain(node, wrong.channel)
        await_condition("the return", lambda: "resumed after" in log_of(node))
        await_progress(node)
        fio.finish()
        assert sessions(node) == before
        log = log_of(node)
        assert "a request failed" not in log and log.count("requests wait: ") < 4, log[-2000:]
        node.cli("server", "undrain")
    finally:
        wrong.stop()


def test_a_standby_takes_over_folder_and_pool_when_the_first_has_stopped(node):
    node.device = attach(node, "--channels", "2")
    before = sessions(node)
    fio = Fio(node.device)
    await_progress(node)
    standby = Server(node.folder, init=False)
    # The name of the control API moves with the server; the data channel is somewhere else.
    standby.control = node.control
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        standby.channel = "127.0.0.1:{}".format(reserved.getsockname()[1])
    drain(node, standby.channel)
    await_progress(node)
    assert channels_at(node, node.channel_address[1]) == 2, "there is nobody to go to yet"
    assert node.stop() == 0
    standby.start()
    try:
        node.control, node.channel, node.process = standby.control, standby.channel, standby.process
        await_condition("the connections", lambda: status(node)["state"] == "attached")
        assert channels_at(node, standby.channel_address[1]) == 2
        assert sessions(node) == before
        fio.finish()
        log = log_of(node)
        assert "a request failed" not in log and log.count("resumed after") == 1
    finally:
        node.cli("detach", "--force", "volume/disk", credentials=node.node, check=False)
