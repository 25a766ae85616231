"""The proxy itself: what it carries arrives whole, and what it does to connections is what the ends see."""
import socket
import threading

import pytest
from chaos.proxy import DOWN, UP, Proxy


class Echo:
    """A server that sends back what it is sent."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=[connection], daemon=True).start()

    def serve(self, connection):
        with connection:
            try:
                while data := connection.recv(1 << 16):
                    connection.sendall(data)
            except OSError:
                pass


@pytest.fixture
def proxy():
    echo = Echo()
    with Proxy(echo.listener.getsockname, seed=3) as made:
        yield made
    echo.listener.close()


def dial(proxy, timeout=5):
    return socket.create_connection(proxy.address, timeout=timeout)


def exchange(connection, data):
    """What comes back of what is sent."""
    sender = threading.Thread(target=connection.sendall, args=[data])
    sender.start()
    got = receive(connection, len(data))
    sender.join(5)
    return got


def receive(connection, count):
    got = bytearray()
    while len(got) < count:
        chunk = connection.recv(1 << 16)
        if not chunk:
            break
        got += chunk
    return bytes(got)


def test_bytes_arrive_whole_and_in_order(proxy):
    data = bytes(range(256)) * 40_000
    with dial(proxy) as one, dial(proxy) as other:
        assert exchange(one, data) == data
        assert exchange(other, data[::-1]) == data[::-1]
        assert proxy.connections == 2


def test_a_reset_and_a_fin_are_what_they_are_called(proxy):
    with dial(proxy) as connection:
        assert exchange(connection, b"x") == b"x"
        assert proxy.cut("reset") == 1
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with dial(proxy) as connection:
        assert exchange(connection, b"x") == b"x"
        proxy.cut("fin")
        assert connection.recv(1) == b""
    with dial(proxy) as connection:
        assert exchange(connection, b"on") == b"on", "new ones are not concerned"


@pytest.mark.parametrize("direction", [UP, DOWN])
def test_a_stall_holds_back_and_lets_go(proxy, direction):
    with dial(proxy, timeout=0.3) as connection:
        assert exchange(connection, b"x") == b"x"
        with proxy.stalled([direction]):
            connection.sendall(b"late")
            with pytest.raises(TimeoutError):
                connection.recv(4)
        connection.settimeout(5)
        assert receive(connection, 4) == b"late"


def test_a_black_hole_gives_nothing_back(proxy):
    with dial(proxy, timeout=0.3) as connection:
        assert exchange(connection, b"x") == b"x"
        with proxy.blackholed([DOWN]):
            connection.sendall(b"gone")
            with pytest.raises(TimeoutError):
                connection.recv(4)
        connection.settimeout(5)
        with pytest.raises(ConnectionResetError):
            connection.recv(4)


def test_a_truncation_cuts_within_what_was_sent(proxy):
    lengths = set()
    for _ in range(8):
        with dial(proxy) as connection:
            assert exchange(connection, b"x") == b"x"
            proxy.truncate()
            connection.sendall(b"0123456789" * 100)
            try:
                lengths.add(len(receive(connection, 1000)))
            except ConnectionResetError:
                lengths.add(0)
    assert max(lengths) < 1000


def test_who_is_refused_is_told(proxy):
    with dial(proxy) as connection:
        assert exchange(connection, b"x") == b"x"
        with proxy.refusing():
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
            # Whether the kernel says so at once or a little later.
            with pytest.raises(ConnectionResetError), dial(proxy) as other:
                other.recv(1)
    with dial(proxy) as connection:
        assert exchange(connection, b"x") == b"x"


def test_a_delay_is_seen_both_ways(proxy):
    proxy.delay(0.1)
    with dial(proxy, timeout=0.15) as connection:
        connection.sendall(b"slow")
        with pytest.raises(TimeoutError):
            connection.recv(4)
        connection.settimeout(5)
        assert receive(connection, 4) == b"slow"
