"""What the tests of sessions share: a server with nodes and volumes, and a record of what was executed."""
import pytest
from conftest import Server
from crash_consistency.request_log import WRITE, RequestLog
from sluice_client import FEATURE_RESUME, Channel, Opcode, RequestFailed, Session

PAGE = 4096
SEED = 5


class World:
    """A server, two nodes with the same volumes, and a pool that writes down what reaches the device."""

    def __init__(self, folder, *options, **environment):
        self.server = Server(folder, *options)
        self.server.environment.update(environment)
        self.server.start()
        self.node, self.other = self.server.join("compute"), self.server.join("other")
        self.volume("disk")

    def volume(self, name, **options):
        self.server.volume(name, node="compute", **options)
        self.server.grant(name, "other")

    def recorded(self, name, rules=""):
        """A volume whose requests are on record, and the record."""
        self.server.cli("pool", "create", name, "--driver", "fault", "--setting", "driver=file", "--setting",
                        f"rules={rules}", "--setting", "record=requests.log")
        self.volume(name, pool=name)
        return RequestLog(self.server.data / "pools" / name / "requests.log")

    def token(self, volume="disk", node=None):
        with self.server.api(node or self.node) as api:
            answer = api.post("/v1/capabilities", json={"resource": f"volume/{volume}"})
            assert answer.status_code == 201, answer.text
            return answer.json()["token"]

    def keys(self, node=None):
        folder = node or self.node
        return {"cafile": str(folder / "ca.pem"), "certfile": str(folder / "cert.pem"),
                "keyfile": str(folder / "key.pem")}

    def connect(self, node=None, **options):
        return Channel(self.server.channel_address, **self.keys(node),
                       **{"features": FEATURE_RESUME, "timeout": 60, **options})

    def resume(self, lost, **options):
        return Channel.resume(lost, address=self.server.channel_address, **options)

    def session(self, volume="disk", **options):
        return Session(lambda lost: self.resume(lost) if lost else self.connect(),
                       lambda: self.token(volume), **options)

    def sessions(self):
        with self.server.api(self.server.data / "admin") as api:
            return {one["id"]: one for one in api.get("/v1/sessions").json()["items"]}

    def in_flight(self, channel):
        return self.sessions()[channel.session.hex()]["inFlight"]


def refused(status, call, *arguments, **options):
    with pytest.raises(RequestFailed) as failure:
        call(*arguments, **options)
    assert failure.value.status == status, failure.value
    return failure.value


def write(channel, handle, page, byte, **fields):
    return channel.submit(Opcode.WRITE, byte * PAGE, handle=handle, offset=page * PAGE, count=PAGE, **fields)


def writes(log):
    """The first byte of each write that reached the device, in order."""
    log.read()
    return [request.payload[:1] for request in log.requests if request.opcode == WRITE]
