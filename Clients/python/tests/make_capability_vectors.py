"""Writes API/vectors/capability/{valid,invalid}.json; run it again whenever the format gets a new case.

    python3 Clients/python/tests/make_capability_vectors.py

Every seed is fixed, so the same code writes the same files.
"""

import base64
import hashlib
import json
import pathlib
import sys
from dataclasses import replace

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "Clients/python"))

from sluice_client import capability as cap  # noqa: E402

FOLDER = ROOT / "API/vectors/capability"


def seed(label: str) -> bytes:
    return hashlib.sha256(b"sluice capability vectors: " + label.encode()).digest()


CLUSTER, OTHER_CLUSTER = seed("cluster")[:16].hex(), seed("other cluster")[:16].hex()
NODE = seed("node")[:16].hex()
KEY_ID, ISSUER = b"key-2026", seed("issuer")
HOLDER, SECOND_HOLDER, THIRD_HOLDER = seed("holder"), seed("second holder"), seed("third holder")
NEXT = [seed(f"next key {index}") for index in range(18)]
START, END = 1_800_000_000, 1_800_086_400
NOW = START + 3600
READ, WRITE, DISCARD, FLUSH = 1, 2, 4, 8


def claims(**changes) -> dict:
    base = {
        cap.ISS: CLUSTER, cap.SUB: NODE, cap.AUD: CLUSTER, cap.EXP: END, cap.NBF: START, cap.IAT: START,
        cap.CTI: seed("capability")[:16], cap.CNF: {3: HOLDER}, cap.KIND: 1,
        cap.RESOURCE: seed("volume")[:16], cap.RIGHTS_CLAIM: READ | WRITE | DISCARD | FLUSH,
        cap.RESOURCE_EPOCH: 1, cap.NODE_EPOCH: 1, cap.DEPTH: 0,
    }  # fmt: skip
    for name, value in changes.items():
        base[getattr(cap, name)] = value
    return base


def made(base: dict, *attenuations: dict, key_id=KEY_ID, issuer=ISSUER, sealed=False, check=True):
    token = cap.mint(base, key_id, issuer, NEXT[0])
    for index, block in enumerate(attenuations):
        token = cap.attenuate(token, block, NEXT[index + 1], check)
    return cap.seal(token) if sealed else token


def check_with(**changes) -> dict:
    values = {
        "audience": CLUSTER,
        "issuer_keys": {KEY_ID.hex(): cap.public_key(ISSUER).hex()},
        "now": NOW,
        "skew": 30,
        "holder": HOLDER.hex(),
    }
    return {**values, **changes}


# --- Plain JSON ---


def number(value):
    return str(value) if value is not None and value > 2**53 else value


def plain_limits(limits):
    return {"iops": number((limits or {}).get(1)), "bytes_per_second": number((limits or {}).get(2))}


PLAIN = {
    cap.ISS: ("issuer", str), cap.SUB: ("subject", str), cap.AUD: ("audience", str),
    cap.EXP: ("expiry", number), cap.NBF: ("not_before", number), cap.IAT: ("issued_at", number),
    cap.CTI: ("id", bytes.hex), cap.CNF: ("holder", lambda value: value[3].hex()),
    cap.KIND: ("kind", lambda value: {code: name for name, code in cap.KINDS.items()}[value]),
    cap.RESOURCE: ("resource", bytes.hex),
    cap.RIGHTS_CLAIM: ("rights", lambda bits: [n for i, n in enumerate(cap.RIGHTS) if bits >> i & 1]),
    cap.RANGE: ("range", lambda value: [number(item) for item in value]),
    cap.LIMITS: ("limits", plain_limits), cap.RESOURCE_EPOCH: ("resource_epoch", number),
    cap.NODE_EPOCH: ("node_epoch", number), cap.DEPTH: ("delegation_depth", number),
}  # fmt: skip


def plain(claims_map: dict) -> dict:
    return {PLAIN[key][0]: PLAIN[key][1](value) for key, value in claims_map.items()}


def grants_json(grants: cap.Grants) -> dict:
    return {
        "id": grants.id.hex(), "subject": grants.subject, "holder": grants.holder.hex(),
        "kind": {code: name for name, code in cap.KINDS.items()}[grants.kind],
        "resource": grants.resource.hex(), "rights": grants.rights_names(),
        "range": grants.range and [number(item) for item in grants.range],
        "iops": number(grants.iops), "bytes_per_second": number(grants.bytes_per_second),
        "not_before": number(grants.not_before), "expiry": number(grants.expiry),
        "resource_epoch": number(grants.resource_epoch), "node_epoch": number(grants.node_epoch),
        "delegation_depth": grants.delegation_depth,
    }  # fmt: skip


def run(token: str, check: dict) -> cap.Grants:
    keys = {bytes.fromhex(name): bytes.fromhex(key) for name, key in check["issuer_keys"].items()}
    return cap.verify(
        cap.parse_text(token), keys, check["audience"], int(check["now"]), int(check["skew"]),
        bytes.fromhex(check["holder"]),
    )  # fmt: skip


# --- Valid ---


def valid_vectors():
    vectors = []

    def add(name, why, base, *attenuations, sealed=False, key_id=KEY_ID, **check_changes):
        if key_id != KEY_ID:
            check_changes["issuer_keys"] = {key_id.hex(): cap.public_key(ISSUER).hex()}
        check = check_with(**check_changes)
        token = made(base, *attenuations, sealed=sealed, key_id=key_id).text
        vectors.append({
            "name": name, "why": why, "token": token, "check": check,
            "grants": grants_json(run(token, check)),
            "made_from": {
                "key_id": key_id.hex(), "issuer_seed": ISSUER.hex(), "claims": plain(base),
                "attenuations": [plain(block) for block in attenuations],
                "seeds": [item.hex() for item in NEXT[: len(attenuations) + 1]], "sealed": sealed,
            },
        })  # fmt: skip

    full = claims(RANGE=[4096, 1 << 30], LIMITS={1: 10_000, 2: 1 << 28}, DEPTH=2)
    add("open", "the least that a capability says", claims())
    add("sealed", "the same, sealed", claims(), sealed=True)
    add("every-claim", "with a byte range, both limits and two hand-overs", full)
    add("one-limit", "a limit on operations alone", claims(LIMITS={1: 500}))
    add("fileset", "another kind of resource", claims(KIND=2, RIGHTS_CLAIM=READ | 1 << 6 | 1 << 7))
    add("endpoint", "another kind of resource", claims(KIND=3, RIGHTS_CLAIM=1 << 8 | 1 << 9), sealed=True)
    add("every-right", "all rights that there are", claims(RIGHTS_CLAIM=1023))
    add("short-key-id", "a key id of one byte", claims(), key_id=b"\x00")
    add("long-key-id", "a key id of 32 bytes", claims(), key_id=bytes(range(32)))
    add("read-only", "attenuated to reading", claims(), {cap.RIGHTS_CLAIM: READ})
    everything = {
        cap.RIGHTS_CLAIM: READ | WRITE, cap.RANGE: [8192, 65536], cap.EXP: END - 600, cap.NBF: START + 60,
        cap.LIMITS: {1: 100, 2: 1 << 20}, cap.CNF: {3: SECOND_HOLDER}, cap.DEPTH: 0,
    }  # fmt: skip
    second = {"holder": SECOND_HOLDER.hex()}
    add("attenuated-everything", "one attenuation narrows every claim", full, everything, **second)
    add("attenuated-sealed", "the same, sealed", full, everything, sealed=True, **second)
    unchanged = {
        cap.RIGHTS_CLAIM: 15, cap.RANGE: [4096, 1 << 30], cap.EXP: END, cap.NBF: START,
        cap.LIMITS: {1: 10_000, 2: 1 << 28}, cap.DEPTH: 2,
    }  # fmt: skip
    add("attenuated-to-the-same", "what is equal is not wider", full, unchanged)
    add("first-range", "a range where there was none", claims(), {cap.RANGE: [0, 1]})
    add("first-limits", "limits where there were none", claims(), {cap.LIMITS: {2: 1_000_000}})
    add("limits-add-up", "each block sets one limit", claims(), {cap.LIMITS: {1: 9}}, {cap.LIMITS: {2: 99}})
    add("handed-on-twice", "two hand-overs use up a depth of 2", full,
        {cap.CNF: {3: SECOND_HOLDER}}, {cap.CNF: {3: THIRD_HOLDER}}, holder=THIRD_HOLDER.hex())  # fmt: skip
    add("sixteen-attenuations", "as many blocks as there may be", claims(),
        *[{cap.EXP: END - index} for index in range(1, 17)], sealed=True)  # fmt: skip
    add("range-to-the-end", "a range that ends at the last number", claims(RANGE=[2**64 - 2, 1]))
    for value in (23, 24, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**53 + 1, 2**64 - 1):
        add(f"number-{value}", "numbers where their encoding changes length",
            claims(RESOURCE_EPOCH=value, NODE_EPOCH=value, IAT=value))  # fmt: skip
    add("for-ever", "the latest expiry that there is", claims(EXP=2**64 - 1), now=str(2**64 - 2))
    add("first-second", "valid from this second on", claims(), now=START, skew=0)
    add("last-second", "valid until the second before expiry", claims(), now=END - 1, skew=0)
    add("start-within-skew", "the clocks differ by 30 s", claims(), now=START - 30)
    rotation = {KEY_ID.hex(): cap.public_key(ISSUER).hex(), "aa": cap.public_key(seed("new issuer")).hex()}
    add("old-key-during-rotation", "a verifier that knows two keys", claims(), issuer_keys=rotation)
    return vectors


# --- Invalid ---


def to_text(data: bytes) -> str:
    return cap.PREFIX + base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def raw(payload=None, protected=None, unprotected=None, signature=None, version=1, proof=None, extra=b""):
    """A token with parts that the library would not make, and right signatures all the same."""
    protected = cap.encode({1: -8, 4: KEY_ID}) if protected is None else protected
    if payload is None:
        payload = claims()
    if isinstance(payload, dict):
        payload = cap.encode({cap.NEXT_KEY: cap.public_key(NEXT[0]), **payload})
    if signature is None:
        signature = cap._sign(ISSUER, cap._sig_structure(protected, b"", payload))
    block = [protected, {} if unprotected is None else unprotected, payload, signature]
    return to_text(cap.encode([version, [block], [0, NEXT[0]] if proof is None else proof]) + extra)


def raw_attenuation(payload: dict, protected=cap.PLAIN_HEADER, unprotected=None, base=None):
    """An attenuated token whose second block the library would not make."""
    first = made(claims(DEPTH=1) if base is None else base)
    body = payload if isinstance(payload, bytes) else cap.encode(payload)
    external = cap.ATTENUATION_CONTEXT + first.blocks[0].signature
    signature = cap._sign(NEXT[0], cap._sig_structure(protected, external, body))
    head = first.blocks[0]
    blocks = [[head.protected, {}, head.payload, head.signature],
              [protected, unprotected or {}, body, signature]]  # fmt: skip
    return to_text(cap.encode([1, blocks, [0, NEXT[1]]]))


def with_next(values: dict) -> dict:
    return {**values, cap.NEXT_KEY: cap.public_key(NEXT[1])}


def without(values: dict, key: int) -> dict:
    return {name: value for name, value in values.items() if name != key}


def spelled(entries) -> bytes:
    """A map from encoded keys and values, as they come."""
    return bytes([0xA0 | len(entries)] if len(entries) < 24 else [0xB8, len(entries)]) + b"".join(
        key + value for key, value in entries
    )


def encoded_entries(values: dict):
    items = [(cap.encode(key), cap.encode(value)) for key, value in values.items()]
    return sorted(items)


def invalid_vectors():
    vectors = []

    def add(name, refused, why, token, block=None, **check_changes):
        text = token if isinstance(token, str) else token.text
        vector = {"name": name, "why": why, "token": text, "check": check_with(**check_changes)}
        vector["refused"] = refused
        if block is not None:
            vector["block"] = block
        try:
            run(text, vector["check"])
        except cap.Refused as error:
            assert (error.reason, error.block) == (refused, block), (name, error, error.block)
        else:
            raise AssertionError(f"{name} was accepted")
        vectors.append(vector)

    times_and_parties(add)
    chain(add)
    widening(add)
    text_form(add)
    shape(add)
    spelling(add)
    claim_values(add)
    return vectors


def times_and_parties(add):
    add("expired", "expired", "31 s after its end", made(claims()), now=END + 31)
    add("expired-on-the-second", "expired", "exp itself is too late", made(claims()), now=END, skew=0)
    add("expired-within-skew", "expired", "the skew is for the start only", made(claims()), now=END, skew=30)
    add("expired-at-the-end-of-time", "expired", "the sum with the skew does not wrap",
        made(claims()), now=str(2**64 - 1), skew=str(2**64 - 1))  # fmt: skip
    add("not-yet-valid", "not-yet-valid", "31 s before its start", made(claims()), now=START - 31)
    add("expired-by-attenuation", "expired", "a block ends it earlier",
        made(claims(), {cap.EXP: START + 60}), now=START + 120)  # fmt: skip
    add("not-yet-valid-by-attenuation", "not-yet-valid", "a block starts it later",
        made(claims(), {cap.NBF: END - 60}))  # fmt: skip
    add("other-audience", "wrong-audience", "for another cluster", made(claims(AUD=OTHER_CLUSTER)))
    add("other-holder", "wrong-holder", "another TLS key", made(claims()), holder=SECOND_HOLDER.hex())
    handed = made(claims(DEPTH=1), {cap.CNF: {3: SECOND_HOLDER}})
    add("first-holder-after-hand-over", "wrong-holder", "it was handed to another", handed)
    add("unknown-key", "unknown-key", "a key id that is not known", made(claims(), key_id=b"other"))
    add("other-issuer", "bad-signature", "a known key id, signed by another key",
        made(claims(), issuer=seed("other issuer")), 0)  # fmt: skip
    add("self-made", "bad-signature", "signed by its own next key", made(claims(), issuer=NEXT[0]), 0)


def chain(add):
    two = made(claims(DEPTH=1), {cap.RIGHTS_CLAIM: READ}, {cap.EXP: END - 5})
    head, first, second = two.blocks
    add("reordered", "bad-signature", "attenuations 1 and 2 change places",
        replace(two, blocks=(head, second, first)), 1)  # fmt: skip
    add("left-out", "bad-signature", "attenuation 1 is left out", replace(two, blocks=(head, second)), 1)
    add("repeated", "bad-signature", "attenuation 1 stands twice", replace(two, blocks=(head, first, first)), 2)
    add("stripped", "bad-proof", "the last attenuation is cut off", replace(two, blocks=(head, first)))
    add("stripped-to-the-authority", "bad-proof", "all attenuations are cut off", replace(two, blocks=(head,)))
    sealed = cap.seal(two)
    add("stripped-sealed", "bad-proof", "cut off from a sealed token", replace(sealed, blocks=(head, first)))
    add("stripped-sealed-to-the-authority", "bad-proof", "the same, all", replace(sealed, blocks=(head,)))
    unsealed = replace(sealed, sealed=False, proof=seed("guess"))
    add("unsealed", "bad-proof", "a seal replaced by a made-up seed", unsealed)
    add("wrong-seed", "bad-proof", "another seed", replace(two, proof=NEXT[0]))
    other_seal = cap.seal(made(claims(CTI=bytes(16)), {cap.RIGHTS_CLAIM: READ}, {cap.EXP: END - 5}))
    add("seal-of-another", "bad-proof", "the seal of another token with the same keys",
        replace(sealed, proof=other_seal.proof))  # fmt: skip
    add("seal-is-the-last-signature", "bad-proof", "a block's signature as seal",
        replace(sealed, proof=second.signature))  # fmt: skip
    foreign = made(claims(CTI=bytes(16)), {cap.EXP: END - 5}).blocks[1]
    add("spliced", "bad-signature", "an attenuation of another token with the same next key",
        replace(made(claims()), blocks=(head, foreign), proof=NEXT[1]), 1)  # fmt: skip
    add("added-with-another-key", "bad-signature", "an attenuation by somebody without the seed",
        replace(cap.attenuate(replace(cap.seal(made(claims())), sealed=False, proof=seed("guess")),
                              {cap.EXP: END - 5}, NEXT[1]), sealed=False), 1)  # fmt: skip
    for index, block in enumerate(two.blocks):
        broken = bytearray(block.signature)
        broken[0] ^= 1
        blocks = list(two.blocks)
        blocks[index] = replace(block, signature=bytes(broken))
        add(f"broken-signature-{index}", "bad-signature", "one bit of a signature",
            replace(two, blocks=tuple(blocks)), index)  # fmt: skip
    order = 2**252 + 27742317777372353535851937790883648493
    scalar = int.from_bytes(head.signature[32:], "little") + order
    malleable = head.signature[:32] + scalar.to_bytes(32, "little")
    add("second-spelling-of-a-signature", "bad-signature", "the scalar plus the group's order",
        replace(made(claims(DEPTH=1)), blocks=(replace(head, signature=malleable),)), 0)  # fmt: skip
    changed = cap.encode({**head.claims, cap.RIGHTS_CLAIM: 1023})
    add("rights-altered", "bad-signature", "more rights, the old signature",
        raw(payload=changed, signature=head.signature), 0)  # fmt: skip
    renamed = cap.encode({1: -8, 4: b"aa"})
    keys = {KEY_ID.hex(): cap.public_key(ISSUER).hex(), b"aa".hex(): cap.public_key(ISSUER).hex()}
    add("key-id-altered", "bad-signature", "the key id is signed too",
        raw(protected=renamed, payload=head.payload, signature=head.signature), 0, issuer_keys=keys)  # fmt: skip


def widening(add):
    full = claims(RANGE=[4096, 65536], LIMITS={1: 100, 2: 1000}, DEPTH=1, RIGHTS_CLAIM=READ | FLUSH)

    def widened(name, why, *attenuations, block=1):
        add(f"widened-{name}", "widened", why, made(full, *attenuations, check=False), block)

    widened("rights", "a right that was not there", {cap.RIGHTS_CLAIM: READ | WRITE})
    widened("rights-again", "a right that an attenuation took", {cap.RIGHTS_CLAIM: READ},
            {cap.RIGHTS_CLAIM: READ | FLUSH}, block=2)  # fmt: skip
    widened("range-start", "begins before", {cap.RANGE: [4095, 10]})
    widened("range-end", "ends after", {cap.RANGE: [4096, 65537]})
    widened("range-elsewhere", "lies behind", {cap.RANGE: [2**63, 2**63 - 1]})
    widened("expiry", "ends later", {cap.EXP: END + 1})
    widened("start", "begins earlier", {cap.NBF: START - 1})
    widened("iops", "more operations", {cap.LIMITS: {1: 101}})
    widened("bandwidth", "more bytes", {cap.LIMITS: {1: 1, 2: 1001}})
    widened("depth", "more hand-overs", {cap.DEPTH: 2})
    widened("depth-after-hand-over", "the hand-over took the one that there was",
            {cap.CNF: {3: SECOND_HOLDER}, cap.DEPTH: 1})  # fmt: skip
    late = made(full, *[{cap.EXP: END - 10}] * 3, {cap.EXP: END - 9}, check=False)
    add("widened-late", "widened", "the fourth block widens the third", late, 4)
    add("widened-sealed", "widened", "sealing does not help",
        cap.seal(made(full, {cap.RIGHTS_CLAIM: WRITE}, check=False)), 1)  # fmt: skip
    exhausted = made(claims(), {cap.CNF: {3: SECOND_HOLDER}}, check=False)
    add("handed-on-without-depth", "delegation-exhausted", "depth 0", exhausted, holder=SECOND_HOLDER.hex())
    twice = made(full, {cap.CNF: {3: SECOND_HOLDER}}, {cap.CNF: {3: THIRD_HOLDER}}, check=False)
    add("handed-on-too-often", "delegation-exhausted", "depth 1, twice", twice, holder=THIRD_HOLDER.hex())
    given_up = made(full, {cap.DEPTH: 0}, {cap.CNF: {3: SECOND_HOLDER}}, check=False)
    add("handed-on-after-giving-it-up", "delegation-exhausted", "a block set the depth to 0", given_up,
        holder=SECOND_HOLDER.hex())  # fmt: skip
    same = made(claims(), {cap.CNF: {3: HOLDER}}, check=False)
    add("handed-to-itself-without-depth", "delegation-exhausted", "naming the same holder counts", same)
    add("empty-validity", "malformed", "a block that leaves no time",
        made(claims(), {cap.EXP: START}, check=False))  # fmt: skip
    add("range-on-a-fileset", "malformed", "a block with a range on a fileset",
        made(claims(KIND=2), {cap.RANGE: [0, 1]}, check=False))  # fmt: skip


def text_form(add):
    token = made(claims()).text
    add("empty", "malformed", "no text", "")
    add("prefix-only", "malformed", "no bytes", cap.PREFIX)
    add("no-prefix", "malformed", "without slcap1_", token.removeprefix(cap.PREFIX))
    add("other-prefix", "malformed", "another version of the text", "slcap2_" + token.removeprefix(cap.PREFIX))
    add("upper-case-prefix", "malformed", "the prefix is in lower case", "SLCAP1_" + token.removeprefix(cap.PREFIX))
    add("padding", "malformed", "base64 with padding", token + "=")
    add("newline", "malformed", "white space at the end", token + "\n")
    add("space", "malformed", "white space before", " " + token)
    add("standard-base64", "malformed", "a character of the other alphabet", token[:100] + "+" + token[101:])
    add("not-ascii", "malformed", "a letter outside ASCII", token[:100] + "é" + token[101:])
    add("truncated-text", "malformed", "half of it", token[: len(token) // 2])
    odd = next(t for t in (made(claims(RESOURCE_EPOCH=n)).text for n in (1, 256, 65536)) if len(t) % 4 != 3)
    last = cap_alphabet[cap_alphabet.index(odd[-1]) | 1]
    add("stray-bits", "malformed", "unused bits that are not 0", odd[:-1] + last)
    add("too-long-text", "too-large", "longer than any capability", cap.PREFIX + "A" * 10924)


cap_alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def shape(add):
    data = made(claims()).data
    add("truncated-by-one", "malformed", "the last byte is missing", to_text(data[:-1]))
    add("first-byte-only", "malformed", "an array of three and no more", to_text(data[:1]))
    add("trailing-byte", "malformed", "a byte more", to_text(data + b"\0"))
    add("random", "malformed", "no CBOR at all", to_text(hashlib.sha512(b"noise").digest()))
    add("zeroes", "malformed", "as many zero bytes as there may be", to_text(bytes(cap.BYTES_MAX)))
    add("deep", "malformed", "arrays in arrays in arrays", to_text(b"\x81" * cap.BYTES_MAX))
    add("huge-array", "malformed", "claims 2^64 - 1 items", to_text(b"\x9b" + b"\xff" * 8))
    add("huge-bytes", "malformed", "a seed that claims 2^63 bytes", to_text(data[:-34] + b"\x5b\x7f" + b"\xff" * 7))
    add("a-map", "malformed", "a map instead of an array", to_text(cap.encode({1: 2})))
    add("version-2", "malformed", "a version that this is not", raw(version=2))
    add("version-text", "malformed", "a version that is no number", raw(version="1"))
    add("two-items", "malformed", "no proof", to_text(cap.encode(cap.cbor2.loads(data)[:2])))
    add("four-items", "malformed", "something after the proof", to_text(cap.encode(cap.cbor2.loads(data) + [0])))
    add("no-blocks", "malformed", "an empty list of blocks", to_text(cap.encode([1, [], [0, NEXT[0]]])))
    add("proof-of-other-kind", "malformed", "a proof of kind 2", raw(proof=[2, NEXT[0]]))
    add("proof-short-seed", "malformed", "a seed of 31 bytes", raw(proof=[0, NEXT[0][:31]]))
    add("proof-seed-as-seal", "malformed", "a seal of 32 bytes", raw(proof=[1, NEXT[0]]))
    add("proof-alone", "malformed", "a proof that is no pair", raw(proof=NEXT[0]))
    add("short-signature", "malformed", "a signature of 63 bytes", raw(signature=bytes(63)))
    add("tagged-block", "malformed", "COSE_Sign1 with its tag",
        to_text(cap.encode([1, [cap.cbor2.CBORTag(18, cap.cbor2.loads(data)[1][0])], [0, NEXT[0]]])))  # fmt: skip
    add("unsigned-header", "malformed", "a header outside the signature", raw(unprotected={4: KEY_ID}))
    add("no-algorithm", "malformed", "a header with the key id alone", raw(protected=cap.encode({4: KEY_ID})))
    add("other-algorithm", "malformed", "ES256", raw(protected=cap.encode({1: -7, 4: KEY_ID})))
    add("no-key-id", "malformed", "a header without a key id", raw(protected=cap.encode({1: -8})))
    add("empty-key-id", "malformed", "a key id of no bytes", raw(protected=cap.encode({1: -8, 4: b""})))
    add("long-key-id", "malformed", "a key id of 33 bytes", raw(protected=cap.encode({1: -8, 4: bytes(33)})))
    add("more-header", "malformed", "a header that is not known", raw(protected=cap.encode({1: -8, 3: 61, 4: KEY_ID})))
    add("critical-header", "malformed", "a critical header",
        raw(protected=cap.encode({1: -8, 2: [99], 4: KEY_ID, 99: 0})))  # fmt: skip
    add("header-trailing-byte", "malformed", "a byte after the header",
        raw(protected=cap.encode({1: -8, 4: KEY_ID}) + b"\0"))  # fmt: skip
    add("attenuation-key-id", "malformed", "an attenuation with a key id",
        raw_attenuation(with_next({cap.EXP: END}), protected=cap.encode({1: -8, 4: KEY_ID})))  # fmt: skip
    add("attenuation-unsigned-header", "malformed", "an attenuation with a header outside the signature",
        raw_attenuation(with_next({cap.EXP: END}), unprotected={99: 1}))  # fmt: skip
    many = [{cap.EXP: END}] * 16
    blocks = made(claims(), *many).blocks
    listed = [[block.protected, {}, block.payload, block.signature] for block in blocks + blocks[-1:]]
    add("seventeen-attenuations", "too-large", "one block too many", to_text(cap.encode([1, listed, [0, NEXT[0]]])))
    add("too-many-bytes", "too-large", "8193 bytes", to_text(bytes(8193)))


def spelling(add):
    good = {**claims(), cap.NEXT_KEY: cap.public_key(NEXT[0])}
    entries = encoded_entries(good)
    data = made(claims()).data
    add("indefinite-token", "malformed", "an array of indefinite length", to_text(b"\x9f" + data[1:] + b"\xff"))
    add("long-array-head", "malformed", "a count that is not in its shortest form", to_text(b"\x98\x03" + data[1:]))
    add("long-version", "malformed", "version 1 in two bytes", to_text(b"\x83\x18\x01" + data[2:]))
    add("reserved-information", "malformed", "additional information 28", to_text(b"\x83\x1c\x01" + data[2:]))
    add("float-version", "malformed", "version 1.0", to_text(b"\x83\xf9\x3c\x00" + data[2:]))
    add("true-version", "malformed", "version true", to_text(b"\x83\xf5" + data[2:]))
    add("bignum-version", "malformed", "version 1 as a big number", to_text(b"\x83\xc2\x41\x01" + data[2:]))
    swapped = [entries[1], entries[0], *entries[2:]]
    add("keys-out-of-order", "malformed", "claims in another order", raw(payload=spelled(swapped)))
    add("key-twice", "malformed", "the same claim twice", raw(payload=spelled([entries[0], *entries])))
    rights = cap.encode(cap.RIGHTS_CLAIM)
    position = next(i for i, entry in enumerate(entries) if entry[0] == rights)
    more = (rights, cap.encode(1023))
    add("key-twice-other-value", "malformed", "the rights twice",
        raw(payload=spelled(entries[: position + 1] + [more] + entries[position + 1 :])))  # fmt: skip
    long_number = [(k, b"\x19\x00\x01") if k == cap.encode(cap.NODE_EPOCH) else (k, v) for k, v in entries]
    add("long-number", "malformed", "an epoch that is not in its shortest form", raw(payload=spelled(long_number)))
    long_key = [(b"\x18\x01", entries[0][1]), *entries[1:]]
    add("long-key", "malformed", "a key that is not in its shortest form", raw(payload=spelled(long_key)))
    text = [(k, b"\x7f" + v + b"\xff") if k == b"\x01" else (k, v) for k, v in entries]
    add("indefinite-text", "malformed", "a text in pieces", raw(payload=spelled(text)))
    add("indefinite-map", "malformed", "a map of indefinite length",
        raw(payload=b"\xbf" + spelled(entries)[1:] + b"\xff"))  # fmt: skip
    tagged = [(k, b"\xc1" + v) if k == b"\x04" else (k, v) for k, v in entries]
    add("tagged-time", "malformed", "a time with its tag", raw(payload=spelled(tagged)))
    add("payload-trailing-byte", "malformed", "a byte after the claims", raw(payload=cap.encode(good) + b"\0"))
    add("payload-empty", "malformed", "no claims at all", raw(payload=b""))
    add("payload-empty-map", "malformed", "an empty map of claims", raw(payload=b"\xa0"))
    add("payload-array", "malformed", "an array instead of a map", raw(payload=b"\x80"))
    text_key = [*entries, (b"\x61\x61", b"\x01")]
    add("text-key", "malformed", "a claim with a text for its key", raw(payload=spelled(text_key)))


def claim_values(add):
    for key in sorted(cap.ISSUER_CLAIMS - cap.ISSUER_OPTIONAL - {cap.NEXT_KEY}):
        add(f"without-claim{key if key < 0 else f'-{key}'}", "malformed", "a claim is missing",
            raw(payload=without(claims(), key)))  # fmt: skip
    body = cap.encode(claims())
    add("without-next-key", "malformed", "a claim is missing", raw(payload=body))
    add("unknown-claim", "malformed", "a claim that may be a restriction", raw(payload={**claims(), -65546: 1}))
    add("unknown-cwt-claim", "malformed", "a registered claim that is not used", raw(payload={**claims(), 9: 1}))

    def bad(name, why, **changes):
        add(f"bad-{name}", "malformed", why, raw(payload=claims(**changes)))

    bad("issuer-bytes", "an issuer that is no text", ISS=bytes(16))
    bad("issuer-short", "31 digits", ISS=CLUSTER[:-1])
    bad("audience-upper-case", "digits in upper case", AUD="ABCDEF" + CLUSTER[6:])
    bad("subject-newline", "a newline instead of a digit", SUB=NODE[:-1] + "\n")
    bad("expiry-negative", "a time before 1970", EXP=-1)
    bad("expiry-float", "a time with a fraction", EXP=END + 0.5)
    bad("expiry-big", "a time of 65 bits", EXP=2**64)
    bad("expiry-before-start", "no time in between", EXP=START)
    bad("id-short", "15 bytes", CTI=bytes(15))
    bad("cnf-empty", "no holder", CNF={})
    bad("cnf-other-member", "a COSE key instead of a key id", CNF={1: {1: 1}})
    bad("cnf-two-members", "two ways to name the holder", CNF={3: HOLDER, 5: HOLDER})
    bad("cnf-short", "a thumbprint of 20 bytes", CNF={3: HOLDER[:20]})
    bad("kind-0", "no such kind", KIND=0)
    bad("kind-4", "no such kind", KIND=4)
    bad("kind-257", "a kind that does not fit its byte", KIND=257)
    bad("resource-long", "17 bytes", RESOURCE=bytes(17))
    bad("rights-none", "no right", RIGHTS_CLAIM=0)
    bad("rights-unknown", "a bit without a name", RIGHTS_CLAIM=1 << 10 | READ)
    bad("rights-bit-32", "a bit beyond the width", RIGHTS_CLAIM=1 << 32 | READ)
    bad("range-empty", "no bytes", RANGE=[0, 0])
    bad("range-overflow", "an end beyond 64 bits", RANGE=[2**64 - 1, 1])
    bad("range-one-number", "no length", RANGE=[0])
    bad("range-three-numbers", "one number too many", RANGE=[0, 1, 2])
    bad("range-null", "null is not the same as absent", RANGE=None)
    bad("range-on-endpoint", "an endpoint has no bytes", RANGE=[0, 1], KIND=3)
    bad("limits-empty", "limits without a limit", LIMITS={})
    bad("limits-zero", "a limit of 0", LIMITS={1: 0})
    bad("limits-unknown", "a limit that is not known", LIMITS={1: 1, 3: 1})
    bad("epoch-text", "an epoch that is no number", RESOURCE_EPOCH="1")
    bad("depth-17", "more hand-overs than blocks", DEPTH=17)
    bad("depth-256", "a depth that does not fit its byte", DEPTH=256)
    bad("next-key-short", "a key of 31 bytes", NEXT_KEY=bytes(31))
    narrow = {cap.EXP: END - 1}
    add("attenuation-without-next-key", "malformed", "no key for the block after", raw_attenuation(narrow))
    add("attenuation-of-nothing", "malformed", "a next key alone", raw_attenuation(with_next({})))
    for key, value in claims().items():
        if key not in cap.ATTENUATION_CLAIMS:
            add(f"attenuation-with-claim{key if key < 0 else f'-{key}'}", "malformed",
                "a claim that only the issuer states", raw_attenuation(with_next({**narrow, key: value})))  # fmt: skip
    for name, payload in {
        "rights-none": {cap.RIGHTS_CLAIM: 0}, "rights-unknown": {cap.RIGHTS_CLAIM: 1 << 10},
        "range-empty": {cap.RANGE: [5, 0]}, "range-overflow": {cap.RANGE: [2**64 - 1, 2]},
        "limits-empty": {cap.LIMITS: {}}, "limits-zero": {cap.LIMITS: {2: 0}}, "depth-17": {cap.DEPTH: 17},
        "unknown-claim": {-65546: 1}, "cnf-short": {cap.CNF: {3: bytes(31)}},
    }.items():  # fmt: skip
        add(f"attenuation-{name}", "malformed", "the rules for values hold here too",
            raw_attenuation(with_next(payload)))  # fmt: skip


def document(description, vectors):
    names = [vector["name"] for vector in vectors]
    assert len(names) == len(set(names)), "names repeat"
    return json.dumps({"description": description, "vectors": vectors}, indent=1, ensure_ascii=True) + "\n"


def documents() -> dict:
    return {
        "valid.json": document("Capabilities that are accepted; see API/capability.md §10.", valid_vectors()),
        "invalid.json": document("Capabilities that are refused; see API/capability.md §10.", invalid_vectors()),
    }


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in documents().items():
        (FOLDER / name).write_text(text)
        print(f"{FOLDER.relative_to(ROOT) / name}: {text.count(chr(34) + 'token' + chr(34))} vectors")
