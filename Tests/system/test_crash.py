"""kill -9 of sluiced at random points of control-plane work: every start makes catalog and pools whole."""
import os
import random
import signal
import threading

import httpx
from conftest import Server, let_pass

KILLS = int(os.environ.get("SLUICE_CRASH_KILLS", "100"))
VOLUMES = [f"v{number}" for number in range(6)]


class Model:
    """What a client may expect after a crash: what was answered holds; what was under way may have happened or not."""

    def __init__(self):
        self.sizes = {}
        self.unsure = {}

    def settle(self, name, size):
        self.sizes[name] = size
        self.unsure.pop(name, None)

    def allows(self, name, size):
        return size == self.sizes.get(name) or size in self.unsure.get(name, ())


def work(server, model, generator, stop):
    """Creates, grows and deletes volumes until the server dies or is told to stop."""
    with server.api(server.data / "admin") as api:
        while not stop.is_set():
            name = generator.choice(VOLUMES)
            size = model.sizes.get(name)
            kind = "create" if size is None else generator.choice(["grow", "delete", "grow"])
            wanted = {"create": 1 << 20, "grow": (size or 0) + 4096, "delete": None}[kind]
            model.unsure[name] = (wanted,)
            try:
                if kind == "create":
                    answer = api.post("/v1/volumes", json={"name": name, "size": wanted})
                elif kind == "grow":
                    answer = api.patch(f"/v1/volumes/{name}", json={"size": wanted})
                else:
                    answer = api.delete(f"/v1/volumes/{name}")
            except (httpx.HTTPError, OSError):
                return
            assert answer.status_code in (200, 201, 204), (kind, name, answer.text)
            model.settle(name, wanted)


def check(server, model):
    """The catalog holds what was answered, the pool holds exactly what the catalog says."""
    with server.api(server.data / "admin") as api:
        items = api.get("/v1/volumes").json()["items"]
        for item in items:
            assert item["state"] == "ready", item
        found = {item["name"]: item["size"] for item in items}
        for name in VOLUMES:
            assert model.allows(name, found.get(name)), (name, found.get(name), model.sizes, model.unsure)
            model.settle(name, found.get(name))
        files = {path.name.split(".")[0]: path.stat().st_size
                 for path in (server.data / "pools/default").rglob("*")
                 if path.is_file() and len(path.name.split(".")[0]) == 32}
        assert files == {item["id"]: item["size"] for item in items}


def test_kill_9_at_random_points_leaves_everything_whole(tmp_path):
    generator = random.Random(20)
    model = Model()
    server = Server(tmp_path).start()
    for _ in range(KILLS):
        stop = threading.Event()
        failures = []

        def run():
            try:
                work(server, model, generator, stop)
            except AssertionError as failure:
                failures.append(failure)

        worker = threading.Thread(target=run)
        worker.start()
        let_pass(generator.uniform(0.0, 0.12))
        server.process.send_signal(signal.SIGKILL)
        server.process.wait(30)
        stop.set()
        worker.join(30)
        assert not worker.is_alive() and not failures, failures
        server.start()
        check(server, model)
    assert server.stop() == 0
