"""One node with the least grant, against everybody else: what it holds is its own, and what takes it away comes first."""
import re
import signal
import socket
import ssl
import threading
import time

import h2.config
import h2.connection
import httpx
import pytest
from conftest import Server, await_condition, let_pass, resident_bytes
from sluice_client import Channel, Opcode
from sluice_client.frames import FEATURE_RESUME, RequestHeader

KIB = 1024
MIB = 1 << 20


class Node:
    """A node with a grant on a volume, and what it can do with that."""

    def __init__(self, server, name, volume, rights="read"):
        self.server, self.volume = server, volume
        self.folder = server.join(name)
        server.grant(volume, name, rights)

    def connect(self, **options):
        return Channel(self.server.channel_address, cafile=str(self.folder / "ca.pem"),
                       certfile=str(self.folder / "cert.pem"), keyfile=str(self.folder / "key.pem"), **options)

    def token(self):
        with self.server.api(self.folder) as api:
            answer = api.post("/v1/capabilities", json={"resource": f"volume/{self.volume}"})
            assert answer.status_code == 201, answer.text
            return answer.json()["token"]

    def deaf(self, token, part=0):
        """A session that asks for more than it reads, or writes less than it said."""
        channel = self.connect(slots=8)
        channel.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KIB)
        handle, _ = channel.open(token)
        if part:
            channel.send_raw(channel.request_header(
                Opcode.WRITE, slot=0, length=MIB, handle=handle, count=MIB).encode() + bytes(part))
        else:
            for slot in range(4):
                channel.submit(Opcode.READ, slot=slot, handle=handle, count=MIB)
        return channel


def sessions(server):
    with server.api(server.data / "admin") as api:
        return api.get("/v1/sessions", params={"limit": 1000}).json()["items"]


@pytest.mark.parametrize("features", [0, FEATURE_RESUME])
def test_a_close_that_waits_is_over_with_its_connection(server, features):
    server.volume("disk")
    node = Node(server, "one", "disk")
    token = node.token()
    for _ in range(6):
        channel = node.connect(features=features)
        handle, _ = channel.open(token)
        read = channel.request_header(Opcode.READ, slot=0, handle=handle, count=8 * KIB)
        close = channel.request_header(Opcode.CLOSE, slot=1, handle=handle)
        channel.send_raw(read.encode() + close.encode())
        channel.drop()
        if features:
            resumed = Channel.resume(channel, timeout=20)
            resumed.open(token)
            resumed.close()
    await_condition("the sessions to end", lambda: not sessions(server))
    begun = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - begun < 20


def test_a_stop_ends_whatever_hangs_and_says_what(tmp_path):
    server = Server(tmp_path)
    server.environment["SLUICE_STOP_SECONDS"] = "6"
    server.start()
    # A driver in the server's own process that never answers: nothing can end it but the process.
    server.cli("pool", "create", "stuck", "--driver", "fault", "--setting", "driver=memory",
               "--setting", "rules=read: hang", "--isolation", "inline")
    server.volume("disk", pool="stuck")
    node = Node(server, "one", "disk")
    with node.connect() as channel:
        handle, _ = channel.open(node.token())
        channel.submit(Opcode.READ, handle=handle, count=4 * KIB)
        await_condition("the read", lambda: any(one["inFlight"] for one in sessions(server)))
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 1
        assert time.monotonic() - begun < 20
    said = [line for line in server.text().splitlines() if "ended by force" in line]
    assert len(said) == 1 and "READ (the driver)" in said[0] and "data channels" in said[0], server.text()[-2000:]
    # What was ended starts again.
    server.environment.pop("SLUICE_STOP_SECONDS")
    server.start()
    assert server.stop() == 0


@pytest.mark.parametrize("pool", ["disk", "memory"])
@pytest.mark.parametrize("kind", ["reads", "writes"])
def test_a_neighbour_is_served_beside_those_that_do_not_read_or_go_on(server, pool, kind):
    if pool == "memory":
        server.memory_pool("memory")
    name = "memory" if pool == "memory" else "default"
    server.volume("theirs", pool=name)
    server.volume("ours", pool=name)
    if kind == "writes":
        with server.api(server.data / "admin") as api:
            assert api.patch("/v1/volumes/theirs", json={"accessMode": "shared"}).status_code == 200
    attacker = Node(server, "attacker", "theirs", "read,write" if kind == "writes" else "read")
    neighbour = Node(server, "neighbour", "ours")
    token = attacker.token()
    with neighbour.connect() as channel:
        handle, _ = channel.open(neighbour.token())
        channels = [attacker.deaf(token, part=4 * KIB if kind == "writes" else 0) for _ in range(80)]
        begun = time.monotonic()
        for _ in range(200):
            assert len(channel.read(handle, 0, 4 * KIB)) == 4 * KIB
        assert len(channel.read(handle, 0, MIB)) == MIB
        assert time.monotonic() - begun < 15
    for one in channels:
        one.drop()


def test_an_administrator_revokes_while_a_node_floods_the_control_api(server):
    server.volume("disk")
    flooder, other = Node(server, "flooder", "disk"), Node(server, "other", "disk")
    with server.api(flooder.folder) as api:
        for _ in range(60):
            assert api.post("/v1/capabilities", json={"resource": "volume/disk"}).status_code == 201
    other.token()
    with server.api(server.data / "admin") as api:
        victim = api.get("/v1/capabilities", params={"node": "other"}).json()["items"][0]["id"]
    over = threading.Event()
    clients = [server.api(flooder.folder) for _ in range(8)]
    counts = [0, 0]

    def flood(client):
        while not over.is_set():
            try:
                counts[0 if client.get("/v1/capabilities?limit=1000").status_code == 200 else 1] += 1
            except httpx.HTTPError:
                counts[1] += 1

    threads = [threading.Thread(target=flood, args=(client,), daemon=True) for client in clients for _ in range(4)]
    for thread in threads:
        thread.start()
    await_condition("the flood", lambda: counts[0] > 20)
    try:
        with server.api(server.data / "admin") as api:
            begun = time.monotonic()
            assert api.post(f"/v1/capabilities/{victim}/revoke", json={}).status_code == 200
            took = time.monotonic() - begun
    finally:
        over.set()
        for thread in threads:
            thread.join(30)
        for client in clients:
            client.close()
    assert took < 5, f"{took:.1f} s, beside {counts} lists"


class UnreadingClient:
    """A connection to the control API that asks and never reads."""

    def __init__(self, server, folder):
        context = ssl.create_default_context(cafile=str(server.data / "admin/ca.pem"))
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        context.set_alpn_protocols(["h2"])
        host, port = server.control.rsplit(":", 1)
        self.stream = context.wrap_socket(socket.create_connection((host, int(port)), timeout=15), server_hostname=host)
        self.http = h2.connection.H2Connection(h2.config.H2Configuration())
        self.http.initiate_connection()
        self.stream.sendall(self.http.data_to_send())
        # How many requests may be open at once.
        self.http.receive_data(self.stream.recv(4096))
        self.host = server.control

    def ask(self, path, count):
        for number in range(count):
            self.http.send_headers(2 * number + 1, [
                (":method", "GET"), (":scheme", "https"), (":authority", self.host), (":path", path)], end_stream=True)
        self.stream.sendall(self.http.data_to_send())


def test_answers_that_a_node_does_not_read_are_bounded_over_all_its_connections(server):
    server.volume("disk")
    reader, other = Node(server, "reader", "disk"), Node(server, "other", "disk")
    with server.api(reader.folder) as api:
        for _ in range(250):
            assert api.post("/v1/capabilities", json={"resource": "volume/disk"}).status_code == 201
        size = len(api.get("/v1/capabilities?limit=1000").content)
    before = resident_bytes(server.process.pid)
    clients = []

    def is_said():
        return "reads too few of its answers" in server.text()

    def answered():
        with server.api(server.data / "admin") as api:
            return sum(int(count) for count in re.findall(
                r'^sluice_control_requests_total\{.*capabilities.*"200".*\} (\d+)$', api.get("/metrics").text, re.M))
    known = answered()
    while not is_said() and 100 * len(clients) * size < 100 * MIB:
        clients.append(UnreadingClient(server, reader.folder))
        clients[-1].ask("/v1/capabilities?limit=1000", 100)
        # One node has no more than 256 requests under way.
        await_condition("the answers", lambda: is_said() or answered() >= known + 100 * len(clients))
    assert is_said(), f"{len(clients)} connections have 100 answers of {size} bytes each"
    # Answers of up to 64 MiB, and what holds them.
    assert resident_bytes(server.process.pid) - before < 128 * MIB
    for one in (server.data / "admin", other.folder):
        with server.api(one) as api:
            assert api.get("/v1/volumes").status_code == 200
    for client in clients:
        client.stream.close()

    def served():
        with server.api(reader.folder) as api:
            return api.get("/v1/capabilities?limit=1000").status_code == 200
    await_condition("the node's own answers", served)


def test_the_limit_of_a_grant_holds_for_all_its_capabilities(server):
    server.volume("disk")
    node = Node(server, "one", "disk")
    with server.api(server.data / "admin") as api:
        answer = api.patch("/v1/grants/one-disk", json={"limits": {"iops": 40}})
        assert answer.status_code == 200, answer.text
    channels = [node.connect() for _ in range(8)]
    handles = [channel.open(node.token())[0] for channel in channels]
    done, end = [0] * 8, time.monotonic() + 2

    def load(index):
        while time.monotonic() < end:
            channels[index].read(handles[index], 0, 4 * KIB)
            done[index] += 1

    begun = time.monotonic()
    threads = [threading.Thread(target=load, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    seconds = time.monotonic() - begun
    # Each for itself would make 80 in that time.
    assert sum(done) <= 40 * seconds + 40, (done, seconds)
    for channel in channels:
        channel.close()


def test_a_map_of_what_the_kernel_is_changing_stops_nobody(server):
    size = 128 * MIB
    server.volume("frag", size=str(size))
    server.volume("disk")
    attacker, victim = Node(server, "one", "frag", "read,write"), Node(server, "two", "disk")
    with attacker.connect(slots=64, timeout=120) as channel, victim.connect(timeout=120) as gentle:
        handle, _ = channel.open(attacker.token())
        slots = []
        for place in range(0, size, 8 * KIB):
            if len(slots) == 60:
                channel.wait(slots.pop(0)).check()
            slots.append(channel.submit(Opcode.WRITE, b"z" * 4096, handle=handle, count=4096, offset=place))
        for slot in slots:
            channel.wait(slot).check()
        before = server.json("driver", "show", "default")["ends"]
        slots = [channel.submit(opcode, handle=handle, count=size)
                 for opcode in (Opcode.WRITE_ZEROES, Opcode.BLOCK_STATUS) for _ in range(20)]
        begun, longest = time.monotonic(), 0
        own, _ = gentle.open(victim.token())
        while time.monotonic() - begun < 3:
            asked = time.monotonic()
            gentle.read(own, 0, 4096)
            longest = max(longest, time.monotonic() - asked)
        for slot in slots:
            channel.wait(slot).check()
        assert longest < 2 and server.json("driver", "show", "default")["ends"] == before


def test_what_those_send_who_have_opened_nothing_costs_the_server_little(server):
    server.volume("disk")
    node = Node(server, "one", "disk")
    victim = Node(server, "two", "disk")
    # Refused by the server, and answered; the answers are not read, so that it stops to read.
    before = resident_bytes(server.process.pid)
    channels = [node.connect(slots=8) for _ in range(60)]
    for channel in channels:
        channel.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KIB)
        channel.socket.setblocking(False)
    requests = RequestHeader(opcode=Opcode.PING, slot=9999, sequence=7).encode() * 4000
    live, idle = set(channels), 0
    deadline = time.monotonic() + 15
    while live and idle < 20 and time.monotonic() < deadline:
        progress = False
        for channel in list(live):
            try:
                progress = channel.socket.send(requests) > 0
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError, BlockingIOError):
                continue
            except OSError:
                live.discard(channel)
        idle = 0 if progress else idle + 1
        if not progress:
            let_pass(0.05)
    with victim.connect() as gentle:
        own, _ = gentle.open(victim.token())
        gentle.read(own, 0, 4096)
    grown = resident_bytes(server.process.pid) - before
    assert grown < 100 * MIB and "sends more than is read" in server.text()
    for channel in channels:
        channel.drop()
