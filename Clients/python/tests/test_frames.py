"""The frames against the vectors in API/vectors/wire, both ways, and against whatever bytes come."""

import json
import pathlib
import random
import unittest

from sluice_client import frames

VECTORS = json.loads(
    (pathlib.Path(__file__).resolve().parents[3] / "API/vectors/wire/frames.json").read_text())
BODIES = {
    "hello": frames.Hello,
    "helloReply": frames.HelloReply,
    "open": frames.OpenRequest,
    "renew": frames.RenewRequest,
    "copySource": frames.CopySource,
    "resourceState": frames.ResourceState,
}
HEADERS = {"requests": frames.RequestHeader, "replies": frames.ReplyHeader}


def plain(fields: dict) -> dict:
    """Fields as JSON holds them: bytes as hex, 64-bit numbers as text."""
    return {k: v.hex() if isinstance(v, bytes) else str(v) if isinstance(v, int) else v
            for k, v in fields.items() if k != "raw"}


class Vectors(unittest.TestCase):
    def test_headers_and_bodies_decode_to_their_fields_and_encode_to_their_bytes(self):
        checked = 0
        for group, kind in {**BODIES, **HEADERS}.items():
            for vector in VECTORS[group]:
                with self.subTest(group=group, name=vector["name"]):
                    data = bytes.fromhex(vector["hex"])
                    value = kind.decode(data)
                    self.assertEqual(plain(vars(value)), vector["fields"])
                    self.assertEqual(value.encode(), data)
                    checked += 1
        self.assertGreater(checked, 25)

    def test_events_decode_to_their_fields_and_encode_to_their_bytes(self):
        for vector in VECTORS["events"]:
            data = bytes.fromhex(vector["hex"])
            header = frames.ReplyHeader.decode(data)
            event = frames.Event.decode(header, data[32:])
            self.assertEqual(plain(vars(event)), vector["fields"])
            self.assertEqual(event.encode(), data)

    def test_every_request_vector_is_valid(self):
        for vector in VECTORS["requests"]:
            header = frames.RequestHeader.decode(bytes.fromhex(vector["hex"]))
            greeting = header.opcode == frames.Opcode.HELLO
            self.assertEqual(header.validate(frames.HELLO_MAX if greeting else frames.PAYLOAD_MAX, greeting),
                             frames.Status.OK, vector["name"])

    def test_maps_decode_to_their_extents_and_encode_to_their_bytes(self):
        for vector in VECTORS["blockMap"]:
            value = frames.BlockMap.decode(bytes.fromhex(vector["hex"]), int(vector["fields"]["covered"]))
            self.assertEqual(" ".join(f"{length}:{flags}" for length, flags in value.extents),
                             vector["fields"]["extents"])
            self.assertEqual(value.encode(), bytes.fromhex(vector["hex"]))

    def test_every_reject_is_refused_with_its_status(self):
        for vector in VECTORS["rejects"]:
            with self.subTest(name=vector["name"]):
                data = bytes.fromhex(vector["hex"])
                if vector["where"] in ("request", "greeting"):
                    greeting = vector["where"] == "greeting"
                    status = frames.RequestHeader.decode(data).validate(
                        frames.HELLO_MAX if greeting else frames.PAYLOAD_MAX, greeting)
                else:
                    with self.assertRaises(frames.FrameError) as raised:
                        if vector["where"] == "blockMap":
                            frames.BlockMap.decode(data, 65_536)
                        else:
                            BODIES[vector["where"]].decode(data)
                    status = raised.exception.status
                self.assertEqual(status.name, vector["status"])


class Fuzz(unittest.TestCase):
    def test_decoders_refuse_or_accept_any_bytes_and_do_not_fail_otherwise(self):
        source = random.Random(7481)
        corpus = [(kind, bytes.fromhex(v["hex"])) for group, kind in BODIES.items() for v in VECTORS[group]]
        refused = accepted = 0
        for _ in range(20_000):
            kind, seed = source.choice(corpus)
            data = bytearray(seed)
            for _ in range(source.randint(1, 4)):
                if data:
                    data[source.randrange(len(data))] = source.randrange(256)
            data = bytes(data[: source.randint(0, len(data))]) if source.random() < 0.3 else bytes(data)
            try:
                value = kind.decode(data)
            except frames.FrameError:
                refused += 1
                continue
            self.assertEqual(value.encode(), data)
            accepted += 1
        self.assertGreater(min(refused, accepted), 1000)


if __name__ == "__main__":
    unittest.main()
