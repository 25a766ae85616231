"""Capabilities and certificates that end: renewed while the device is used, and what is said when that does not work."""
import os
import re
import signal
import subprocess
import time

import pytest
from certificates import certify, end_of
from chaos.proxy import Proxy
from conftest import await_condition, let_pass, needs_root
from test_reconnect import GENTLE, Fio, attach, await_progress, dd, log_of, node, status  # noqa: F401

pytestmark = needs_root


@pytest.fixture
def control(node):
    """The control API as the node reaches it; the data channel is reached without it."""
    host, port = node.control.rsplit(":", 1)
    with Proxy(lambda: (host, int(port))) as proxy:
        yield proxy


def attach_by(node, control, *options):
    return attach(node, *options, SLUICE_SERVER=f"https://{control.text}")


def live(node, seconds):
    with node.api(node.data / "admin") as api:
        answer = api.patch("/v1/grants/compute-disk", json={"lifetimeSecondsMax": seconds},
                           headers={"content-type": "application/merge-patch+json"})
        assert answer.status_code == 200, answer.text


def test_a_control_api_that_comes_back_before_the_end_is_no_pause(node, control):
    live(node, 12)
    node.device = attach_by(node, control)
    fio = Fio(node.device, GENTLE)
    await_progress(node)
    with control.refusing():
        message = await_condition("the trouble", lambda: status(node).get("message"))
        assert "the capability cannot be renewed" in message and "I/O goes on until" in message, message
        assert status(node)["state"] == "attached"
        await_progress(node, 20)
    await_condition("the renewal", lambda: not status(node).get("message"))
    fio.finish()
    log = log_of(node)
    assert "a request failed" not in log and "requests wait: " not in log
    assert "tried again and again, the capability lasts for" in log and "capability renewed" in log


def test_requests_wait_for_a_capability_that_has_ended_and_the_status_says_why(node, control, tmp_path):
    live(node, 6)
    node.device = attach_by(node, control)
    with control.refusing():
        message = await_condition("the end", lambda: next(
            (text for text in [status(node).get("message") or ""] if "it has ended" in text), None))
        assert "requests wait until it can be renewed" in message
        # The server counts whole seconds, so it may take requests for a moment longer: one write after the other.
        stop = tmp_path / "stop"
        write = f"dd if=/dev/zero of={node.device} bs=4k count=1 oflag=direct"
        waiting = subprocess.Popen(["sh", "-c", f"until [ -e {stop} ]; do {write} || exit 1; done"],
                                   stderr=subprocess.PIPE, text=True)
        await_condition("the request", lambda: "1 request waits" in (status(node).get("message") or ""))
        assert status(node)["state"] == "reconnecting"
        assert waiting.poll() is None
    stop.touch()
    _, errors = waiting.communicate(timeout=60)
    assert waiting.returncode == 0, errors
    await_condition("the renewal", lambda: status(node)["state"] == "attached" and not status(node).get("message"))
    log = log_of(node)
    assert log.count("the capability has ended, requests wait until there is another one") == 1
    assert "a request failed" not in log


def test_an_outage_that_is_longer_than_a_capability_costs_nothing(node):
    live(node, 4)
    node.device = attach(node, "--lifetime", "4d")
    fio = Fio(node.device, GENTLE)
    await_progress(node)
    node.stop(signal.SIGKILL)
    await_condition("the loss", lambda: status(node)["state"] == "reconnecting")
    let_pass(5)  # the capability's life is what is waited for
    node.start()
    fio.finish()
    await_condition("the connection", lambda: status(node)["state"] == "attached")
    assert "a request failed" not in log_of(node)
    assert status(node)["failedRequests"] == 0


def test_a_session_that_is_disconnected_goes_on_and_one_that_is_ended_says_what_failed(node):
    node.device = attach(node)
    fio = Fio(node.device)
    await_progress(node)
    for _ in range(3):
        session = node.json("session", "list")[0]["id"]
        node.cli("session", "disconnect", session, "--reason", "a test")
    fio.finish()
    assert status(node)["state"] == "attached" and status(node)["failedRequests"] == 0
    assert "session.disconnected" in [event["kind"] for event in node.json("events")]
    process = subprocess.Popen(
        ["bash", "-c", 'while :; do dd if=/dev/zero of="$0" bs=1M oflag=direct 2>/dev/null; done', node.device],
        start_new_session=True)
    await_progress(node)

    def ended():
        # Between two of its requests nothing is lost with the session.
        for session in node.json("session", "list"):
            told = node.cli("session", "disconnect", session["id"], "--end", check=False).stdout
            assert not told or "ended" in told and "no longer writes to volume/disk" in told, told
        return next((entry for entry in [status(node)] if entry["state"] == "failed"), None)

    failed = await_condition("the failure", ended)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert failed["failedRequests"] > 0 and failed["failedSince"]
    assert "does not know the session" in failed["failure"] or "FENCED" in failed["failure"], failed
    assert "requests have failed" in failed["message"] or "1 request has failed" in failed["message"]
    assert dd(node.device).returncode == 0, "those to come are served"
    # What was acknowledged before is lost, and whoever makes sure of it hears so.
    refused = node.cli("detach", "volume/disk", credentials=node.node, check=False)
    assert refused.returncode == 1 and "was lost" in refused.stderr, refused.stderr
    node.cli("detach", "volume/disk", "--force", credentials=node.node)


def test_a_certificate_is_renewed_in_the_background_and_used_without_a_restart(node):
    live(node, 12)
    ends = certify(node, node.node, -24, 24)
    node.device = attach(node)
    assert abs(end_of(node.node) - ends) < 2, "it is not due yet"
    fio = Fio(node.device, GENTLE)
    await_condition("the renewal", lambda: end_of(node.node) > ends + 86400)
    assert not [name for name in os.listdir(node.node) if name not in ("ca.pem", "cert.pem", "key.pem", "config.json")]
    # The old one ends, and capabilities are renewed by the new one.
    await_condition("the old one's end", lambda: time.time() > ends + 1)
    seen = log_of(node).count("capability renewed")
    await_condition("a renewal after it", lambda: log_of(node).count("capability renewed") > seen)
    fio.finish()
    log = log_of(node)
    assert log.count("node certificate renewed") == 1 and "a request failed" not in log
    assert "cannot be renewed" not in log


def test_a_certificate_that_cannot_be_renewed_is_in_the_status_long_before_its_end(node, control):
    certify(node, node.node, -24, 24)
    node.device = attach_by(node, control)
    with control.refusing():
        message = await_condition("the word", lambda: next(
            (text for text in [status(node).get("message") or ""] if "the node's certificate" in text), None))
        assert re.search("it could not be renewed: (cannot reach the server|the connection to )", message), message
        assert "it lasts until" in message, message
        assert status(node)["state"] == "attached" and "the node's certificate: it could not be renewed" in log_of(node)
    await_condition("the renewal", lambda: not status(node).get("message"))
    assert log_of(node).count("node certificate renewed") == 1
