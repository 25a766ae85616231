"""Clients that read and write at random whatever happens, and put down what they saw.

No two changes of one block are under way at once from one client: who sends that has not said which is to remain, and
after a loss a reader may see the one, the other and the one again (docs/isolation.md, "What recovery promises").
"""
import contextlib
import random
import threading
import time

import httpx
from chaos.history import History, page, value_of
from sluice_client import FEATURE_RESUME, Channel, ChannelClosed, Opcode, RequestFailed, Rights, Session, SessionLost
from sluice_client import Status

PAGE = 4096
PATIENCE = 120
OPCODES = {"w": Opcode.WRITE, "r": Opcode.READ, "f": Opcode.FLUSH}
# A handle or session that was taken away says one of these.
CUT_OFF = (Status.FENCED, Status.STALE_EPOCH, Status.REVOKED, Status.BAD_HANDLE)
TAKEN = (Status.WRITER_CONFLICT, Status.STALE_EPOCH, Status.NOT_FOUND)


class SharedVolume:
    """A volume that several nodes want, and the history of what they saw of it."""

    def __init__(self, server, address, name="disk", blocks=48, **options):
        self.server, self.address, self.name, self.blocks = server, address, name, blocks
        self.history = History()
        server.volume(name, **options)

    def join(self, name, rights):
        node = self.server.join(name)
        self.server.grant(self.name, name, rights)
        return node

    def connect(self, node, lost, **options):
        if lost:
            return Channel.resume(lost, address=self.address())
        return Channel(self.address(), cafile=str(node / "ca.pem"), certfile=str(node / "cert.pem"),
                       keyfile=str(node / "key.pem"), features=FEATURE_RESUME, timeout=10, slots=16, **options)

    def capability(self, node):
        try:
            with self.server.api(node) as api:
                return api.post("/v1/capabilities", json={"resource": f"volume/{self.name}"}).json()["token"]
        except httpx.HTTPError as error:
            raise ChannelClosed(f"no control API: {error}") from error


class Actor(threading.Thread):
    """A client that goes on until it is told to stop, with a new session whenever it has lost one, or died.

    When the next one has the volume open, what the one before was not answered is over: that is bounded in the
    history. Its session has `channels`, each with a thread; what one changes are blocks of its own.
    """

    rights = Rights.NONE
    channels = 1
    mix = {"r": 1}

    def __init__(self, volume, node, name, seed):
        super().__init__(name=name)
        self.volume, self.node, self.random = volume, node, random.Random(seed)
        self.ends, self.dies = threading.Event(), threading.Event()
        self.failure, self.generation, self.operations, self.resumptions = None, 0, 0, 0
        # Since when it has had the volume, and as which client.
        self.opened = None

    @property
    def client(self):
        return f"{self.name}#{self.generation}"

    def run(self):
        clients = []
        try:
            while not self.ends.is_set():
                self.opened = None
                self.generation += 1
                session = self.open()
                if session:
                    self.opened = time.monotonic(), self.client
                    for client in clients:
                        self.volume.history.bound(client, self.opened[0])
                    clients = [self.client]
                    self.live(session)
                else:
                    self.ends.wait(0.1)
        except Exception as failure:  # whatever it is, the test must hear of it
            self.failure = failure

    def open(self, **joins):
        """A session, or another channel of one; None where somebody else has the volume."""
        try:
            return Session(
                lambda lost: self.volume.connect(self.node, lost, **({} if lost else joins)),
                lambda: self.volume.capability(self.node), patience=PATIENCE, seed=self.random.randrange(1 << 30),
                rights=self.rights, tries_again=False)
        except RequestFailed as refusal:
            assert refusal.status in TAKEN, refusal
            return None

    def live(self, session):
        """Works on all channels until the session is lost on one of them."""
        over = threading.Event()
        others = [threading.Thread(target=self.join_in, args=[session, number, over])
                  for number in range(1, self.channels)]
        for other in others:
            other.start()
        self.work_until(over, session, 0)
        for other in others:
            other.join(PATIENCE)
            assert not other.is_alive()

    def join_in(self, session, number, over):
        try:
            joined = self.open(session=session.channel.session, secret=session.channel.secret)
            if joined:
                self.work_until(over, joined, number)
        except Exception as failure:
            self.failure = failure
        finally:
            over.set()

    def work_until(self, over, session, number):
        try:
            with contextlib.suppress(SessionLost):
                while not self.ends.is_set() and not over.is_set():
                    self.work(session, number)
        finally:
            over.set()
            self.resumptions += session.resumptions
            session.channel.drop()

    def work(self, session, number):
        """Some requests at once."""
        history, under_way, touched = self.volume.history, {}, set()
        for _ in range(self.random.randrange(1, session.depth)):
            kind = self.random.choices(list(self.mix), list(self.mix.values()))[0]
            block = self.random.randrange(self.volume.blocks)
            if kind == "w":
                block -= (block - number) % self.channels
                if block < 0 or block in touched:
                    continue
            touched.add(block)
            value = history.fresh() if kind == "w" else None
            operation = history.begin(kind, block, value, self.client)
            payload = page(value, block, PAGE) if kind == "w" else b""
            fields = {} if kind == "f" else {"offset": block * PAGE, "count": PAGE}
            under_way[session.submit(OPCODES[kind], payload, **fields)] = operation
        if self.dies.is_set():
            self.dies.clear()
            session.channel.drop(reset=self.random.random() < 0.5)
            raise SessionLost("its process was killed")
        while under_way:
            slot, reply = session.wait_any()
            operation = under_way.pop(slot)
            if reply.status in CUT_OFF:
                history.end(operation, ok=False)
                raise SessionLost(str(reply.status))
            value = value_of(reply.payload, operation.block) if operation.kind == "r" else None
            history.end(operation, reply.check().status == Status.OK, value)
            self.operations += 1


class Writer(Actor):
    channels = 2
    mix = {"w": 50, "r": 48, "f": 2}


class Reader(Actor):
    rights = Rights.READ
