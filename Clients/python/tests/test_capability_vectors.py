"""The vectors in API/vectors/capability, read by the implementation that was written from the document."""

import json
import random
import unittest

try:
    import cbor2  # noqa: F401
    import cryptography  # noqa: F401
except ImportError as missing:
    raise unittest.SkipTest(f"capabilities need PyPI's cbor2 and cryptography: {missing}") from None

import make_capability_vectors as maker
from sluice_client import capability as cap


def vectors(name):
    return json.loads((maker.FOLDER / name).read_text())["vectors"]


class Vectors(unittest.TestCase):
    def test_accepts_valid_tokens_and_reads_what_they_grant(self):
        for vector in vectors("valid.json"):
            with self.subTest(vector["name"]):
                grants = maker.run(vector["token"], vector["check"])
                self.assertEqual(maker.grants_json(grants), vector["grants"])
                self.assertEqual(cap.parse_text(vector["token"]).text, vector["token"])

    def test_refuses_invalid_tokens_for_the_right_reason(self):
        for vector in vectors("invalid.json"):
            with self.subTest(vector["name"]):
                with self.assertRaises(cap.Refused) as refusal:
                    maker.run(vector["token"], vector["check"])
                self.assertEqual(refusal.exception.reason, vector["refused"])
                self.assertEqual(refusal.exception.block, vector.get("block"))

    def test_the_files_are_what_the_script_writes(self):
        for name, text in maker.documents().items():
            message = f"{name} is old: run make_capability_vectors.py"
            self.assertTrue((maker.FOLDER / name).read_text() == text, message)


class Making(unittest.TestCase):
    def test_minting_and_attenuating_refuse_to_widen(self):
        token = maker.made(maker.claims(RIGHTS_CLAIM=1))
        for claims, reason in [
            ({cap.RIGHTS_CLAIM: 3}, "widened"),
            ({cap.CNF: {3: maker.SECOND_HOLDER}}, "delegation-exhausted"),
        ]:
            with self.subTest(reason), self.assertRaises(cap.Refused) as refusal:
                cap.attenuate(token, claims, maker.NEXT[1])
            self.assertEqual(refusal.exception.reason, reason)

    def test_sealed_tokens_cannot_be_attenuated(self):
        token = maker.made(maker.claims(), sealed=True)
        with self.assertRaises(cap.Refused) as refusal:
            cap.attenuate(token, {cap.RIGHTS_CLAIM: 1}, maker.NEXT[1])
        self.assertEqual(refusal.exception.reason, "sealed")

    def test_every_changed_byte_is_refused(self):
        data = maker.made(maker.claims(DEPTH=1), {cap.RIGHTS_CLAIM: 1}, sealed=True).data
        check = maker.check_with()
        generator = random.Random(1)
        for position in range(len(data)):
            changed = bytearray(data)
            changed[position] ^= 1 << generator.randrange(8)
            with self.subTest(position), self.assertRaises(cap.Refused):
                maker.run(maker.to_text(bytes(changed)), check)


if __name__ == "__main__":
    unittest.main()
