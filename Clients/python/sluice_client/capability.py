"""Capabilities, written from API/capability.md; an implementation independent of the server's.

Needs PyPI's cbor2 and cryptography. The data-channel client does not need this module: to it a
capability is a string of bytes.
"""

import base64
import re
from dataclasses import dataclass, field
from typing import Any, Callable, Optional

import cbor2
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PREFIX = "slcap1_"
BYTES_MAX = 8192
TEXT_MAX = len(PREFIX) + (BYTES_MAX * 4 + 2) // 3
ATTENUATIONS_MAX = 16
NESTING_MAX = 4
UINT_MAX = 2**64 - 1

RIGHTS = ["read", "write", "discard", "flush", "resize", "snapshot", "list", "create", "connect", "listen"]
KINDS = {"volume": 1, "fileset": 2, "endpoint": 3}

ISS, SUB, AUD, EXP, NBF, IAT, CTI, CNF = range(1, 9)
KIND, RESOURCE, RIGHTS_CLAIM, RANGE, LIMITS = -65537, -65538, -65539, -65540, -65541
RESOURCE_EPOCH, NODE_EPOCH, DEPTH, NEXT_KEY = -65542, -65543, -65544, -65545

ISSUER_OPTIONAL = {RANGE, LIMITS}
ISSUER_CLAIMS = {
    ISS, SUB, AUD, EXP, NBF, IAT, CTI, CNF, KIND, RESOURCE, RIGHTS_CLAIM, RANGE, LIMITS,
    RESOURCE_EPOCH, NODE_EPOCH, DEPTH, NEXT_KEY,
}  # fmt: skip
ATTENUATION_CLAIMS = {EXP, NBF, CNF, RIGHTS_CLAIM, RANGE, LIMITS, DEPTH, NEXT_KEY}

PLAIN_HEADER = bytes.fromhex("a10127")
ATTENUATION_CONTEXT = b"sluice-attenuation-1"
SEAL_CONTEXT = b"sluice-seal-1"


class Refused(Exception):
    """A capability was refused; `reason` is a word of API/capability.md §9."""

    def __init__(self, reason: str, detail: str = "", block: Optional[int] = None):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.block = block


def _malformed(detail: str) -> Refused:
    return Refused("malformed", detail)


# --- Encoding ---


def encode(value: Any) -> bytes:
    """Core deterministic CBOR. For this format's keys, cbor2's order (shorter first) is the same order."""
    return cbor2.dumps(value, canonical=True)


def _decode(data: bytes) -> Any:
    """One item that is encoded as `encode` would; what the item holds is checked by its reader."""
    try:
        value = cbor2.loads(data)
        same = encode(value) == data
    except Exception as error:  # cbor2 raises many kinds for hostile tags and nesting
        raise _malformed(f"not CBOR: {error}") from None
    if not same:
        raise _malformed("not in deterministic encoding")
    if _nesting(value) > NESTING_MAX:
        raise _malformed("nested too deeply")
    return value


def _nesting(value: Any) -> int:
    if isinstance(value, list):
        return 1 + max(map(_nesting, value), default=0)
    if isinstance(value, dict):
        return 1 + max(map(_nesting, value.values()), default=0)
    return 0


def _uint(value: Any, low: int = 0, high: int = UINT_MAX) -> int:
    if type(value) is not int or not low <= value <= high:
        raise _malformed(f"not an integer from {low} to {high}")
    return value


def _bytes(value: Any, low: int, high: Optional[int] = None) -> bytes:
    if type(value) is not bytes or not low <= len(value) <= (low if high is None else high):
        raise _malformed("not a byte string of the right length")
    return value


def _list(value: Any, count: Optional[int] = None) -> list:
    if type(value) is not list or (count is not None and len(value) != count):
        raise _malformed("not an array of the right length")
    return value


def _map(value: Any) -> dict:
    if type(value) is not dict or any(type(key) is not int for key in value):
        raise _malformed("not a map with integer keys")
    return value


def _sig_structure(protected: bytes, external: bytes, payload: bytes) -> bytes:
    return encode(["Signature1", protected, external, payload])


# --- Reading ---


@dataclass(frozen=True)
class Block:
    protected: bytes
    payload: bytes
    signature: bytes
    claims: dict = field(hash=False)


@dataclass(frozen=True)
class Capability:
    """A token that was read and is well formed, but not verified."""

    blocks: tuple
    key_id: bytes
    sealed: bool
    proof: bytes

    @property
    def data(self) -> bytes:
        blocks = [[block.protected, {}, block.payload, block.signature] for block in self.blocks]
        return encode([1, blocks, [1 if self.sealed else 0, self.proof]])

    @property
    def text(self) -> str:
        return PREFIX + base64.urlsafe_b64encode(self.data).rstrip(b"=").decode()

    @property
    def claims(self) -> dict:
        return self.blocks[0].claims

    @property
    def last_key(self) -> bytes:
        return self.blocks[-1].claims[NEXT_KEY]


def text_to_bytes(text: str) -> bytes:
    if len(text) > TEXT_MAX:
        raise Refused("too-large")
    match = re.fullmatch(PREFIX + "([A-Za-z0-9_-]*)", text)
    if not match or text.endswith("\n"):
        raise _malformed("not slcap1_ and base64url")
    body = match[1]
    if len(body) % 4 == 1:
        raise _malformed("impossible length of base64url")
    data = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    if base64.urlsafe_b64encode(data).rstrip(b"=").decode() != body:
        raise _malformed("unused bits are not 0")
    return data


def parse(data: bytes) -> Capability:
    """Reads a token, steps of §1 to §5."""
    if len(data) > BYTES_MAX:
        raise Refused("too-large")
    version, blocks, proof = _list(_decode(data), 3)
    if _uint(version) != 1:
        raise _malformed("unknown version")
    if not _list(blocks):
        raise _malformed("no block")
    if len(blocks) - 1 > ATTENUATIONS_MAX:
        raise Refused("too-large")
    read = [_block(item, index) for index, item in enumerate(blocks)]
    kind, content = _list(proof, 2)
    sealed = _uint(kind, 0, 1) == 1
    return Capability(tuple(read), _key_id(read[0].protected), sealed, _bytes(content, 64 if sealed else 32))


def parse_text(text: str) -> Capability:
    return parse(text_to_bytes(text))


def _block(item: Any, index: int) -> Block:
    protected, unprotected, payload, signature = _list(item, 4)
    if _map(unprotected):
        raise _malformed("a header that is not signed")
    if type(protected) is not bytes or type(payload) is not bytes:
        raise _malformed("not a byte string")
    _bytes(signature, 64)
    if index == 0:
        _key_id(protected)
    elif protected != PLAIN_HEADER:
        raise _malformed("an attenuation's header is not {1: -8}")
    claims = _map(_decode(payload))
    _check_claims(claims, authority=index == 0)
    return Block(protected, payload, signature, claims)


def _key_id(protected: bytes) -> bytes:
    header = _map(_decode(protected))
    if set(header) != {1, 4} or header[1] != -8 or type(header[1]) is not int:
        raise _malformed("the issuer's header is not EdDSA and a key id")
    return _bytes(header[4], 1, 32)


def _check_claims(claims: dict, authority: bool) -> None:
    allowed = ISSUER_CLAIMS if authority else ATTENUATION_CLAIMS
    if not set(claims) <= allowed:
        raise _malformed(f"unknown claims {set(claims) - allowed}")
    required = ISSUER_CLAIMS - ISSUER_OPTIONAL if authority else {NEXT_KEY}
    if not required <= set(claims):
        raise _malformed(f"missing claims {required - set(claims)}")
    if not authority and set(claims) == {NEXT_KEY}:
        raise _malformed("an attenuation narrows nothing")
    for key, value in claims.items():
        _CHECKS[key](value)
    if authority and claims[NBF] >= claims[EXP]:
        raise _malformed("expires before it is valid")
    if authority and RANGE in claims and claims[KIND] != KINDS["volume"]:
        raise _malformed("a range on something that is not a volume")


def _check_identifier_text(value: Any) -> None:
    if type(value) is not str or not re.fullmatch("[0-9a-f]{32}", value) or len(value) != 32:
        raise _malformed("not 32 lower-case hex digits")


def _check_cnf(value: Any) -> None:
    if set(_map(value)) != {3}:
        raise _malformed("cnf is not a key id")
    _bytes(value[3], 32)


def _check_range(value: Any) -> None:
    offset, length = _list(value, 2)
    if _uint(offset) + _uint(length, 1) > UINT_MAX:
        raise _malformed("the range overflows")


def _check_limits(value: Any) -> None:
    if not _map(value) or not set(value) <= {1, 2}:
        raise _malformed("unknown limits, or none")
    for limit in value.values():
        _uint(limit, 1)


_CHECKS: dict[int, Callable[[Any], Any]] = {
    ISS: _check_identifier_text,
    SUB: _check_identifier_text,
    AUD: _check_identifier_text,
    EXP: _uint,
    NBF: _uint,
    IAT: _uint,
    CTI: lambda value: _bytes(value, 16),
    CNF: _check_cnf,
    KIND: lambda value: _uint(value, 1, 3),
    RESOURCE: lambda value: _bytes(value, 16),
    RIGHTS_CLAIM: lambda value: _uint(value, 1, 2 ** len(RIGHTS) - 1),
    RANGE: _check_range,
    LIMITS: _check_limits,
    RESOURCE_EPOCH: _uint,
    NODE_EPOCH: _uint,
    DEPTH: lambda value: _uint(value, 0, ATTENUATIONS_MAX),
    NEXT_KEY: lambda value: _bytes(value, 32),
}


# --- Verifying ---


@dataclass
class Grants:
    """What remains after all blocks."""

    id: bytes
    subject: str
    holder: bytes
    kind: int
    resource: bytes
    rights: int
    range: Optional[list]
    iops: Optional[int]
    bytes_per_second: Optional[int]
    not_before: int
    expiry: int
    resource_epoch: int
    node_epoch: int
    delegation_depth: int

    def rights_names(self) -> list:
        return [name for bit, name in enumerate(RIGHTS) if self.rights >> bit & 1]

    def narrow(self, claims: dict, block: int) -> None:
        def widened(what: str) -> Refused:
            return Refused("widened", what, block)

        if RIGHTS_CLAIM in claims:
            if claims[RIGHTS_CLAIM] & ~self.rights:
                raise widened("rights")
            self.rights = claims[RIGHTS_CLAIM]
        if RANGE in claims:
            if self.kind != KINDS["volume"]:
                raise _malformed("a range on something that is not a volume")
            offset, length = claims[RANGE]
            if self.range and not (
                self.range[0] <= offset and offset + length <= self.range[0] + self.range[1]
            ):
                raise widened("range")
            self.range = [offset, length]
        if claims.get(EXP, self.expiry) > self.expiry:
            raise widened("expiry")
        self.expiry = claims.get(EXP, self.expiry)
        if claims.get(NBF, self.not_before) < self.not_before:
            raise widened("start")
        self.not_before = claims.get(NBF, self.not_before)
        if self.not_before >= self.expiry:
            raise _malformed("expires before it is valid")
        for key, name in ((1, "iops"), (2, "bytes_per_second")):
            limit = claims.get(LIMITS, {}).get(key)
            if limit is not None:
                before = getattr(self, name)
                if before is not None and limit > before:
                    raise widened(name)
                setattr(self, name, limit)
        if CNF in claims:
            if self.delegation_depth == 0:
                raise Refused("delegation-exhausted")
            self.delegation_depth -= 1
            self.holder = claims[CNF][3]
        if DEPTH in claims:
            if claims[DEPTH] > self.delegation_depth:
                raise widened("delegation depth")
            self.delegation_depth = claims[DEPTH]


def narrowed(capability: Capability) -> Grants:
    """What the token grants if its signatures are right."""
    claims = capability.claims
    limits = claims.get(LIMITS, {})
    grants = Grants(
        id=claims[CTI], subject=claims[SUB], holder=claims[CNF][3], kind=claims[KIND],
        resource=claims[RESOURCE], rights=claims[RIGHTS_CLAIM], range=claims.get(RANGE),
        iops=limits.get(1), bytes_per_second=limits.get(2), not_before=claims[NBF], expiry=claims[EXP],
        resource_epoch=claims[RESOURCE_EPOCH], node_epoch=claims[NODE_EPOCH],
        delegation_depth=claims[DEPTH],
    )  # fmt: skip
    for index, block in enumerate(capability.blocks[1:], start=1):
        grants.narrow(block.claims, index)
    return grants


def verify(
    capability: Capability, issuer_keys: dict, audience: str, now: int, skew: int, holder: bytes
) -> Grants:
    """What the token grants to `holder` at `now`, or `Refused`; the order is that of §6."""
    if capability.claims[AUD] != audience:
        raise Refused("wrong-audience")
    key = issuer_keys.get(capability.key_id)
    if key is None:
        raise Refused("unknown-key")
    external = b""
    for index, block in enumerate(capability.blocks):
        message = _sig_structure(block.protected, external, block.payload)
        if not _is_valid(key, block.signature, message):
            raise Refused("bad-signature", block=index)
        key = block.claims[NEXT_KEY]
        external = ATTENUATION_CONTEXT + block.signature
    if not _proves(capability, key):
        raise Refused("bad-proof")
    grants = narrowed(capability)
    if grants.holder != holder:
        raise Refused("wrong-holder")
    if grants.not_before > min(now + skew, UINT_MAX):
        raise Refused("not-yet-valid")
    if now >= grants.expiry:
        raise Refused("expired")
    return grants


def _proves(capability: Capability, key: bytes) -> bool:
    if capability.sealed:
        return _is_valid(key, capability.proof, _seal_message(capability.blocks[-1].signature))
    return Ed25519PrivateKey.from_private_bytes(capability.proof).public_key().public_bytes_raw() == key


def _is_valid(key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _seal_message(last_signature: bytes) -> bytes:
    return _sig_structure(PLAIN_HEADER, SEAL_CONTEXT + last_signature, b"")


# --- Making ---


def public_key(seed: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def _sign(seed: bytes, message: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).sign(message)


def mint(claims: dict, key_id: bytes, issuer_seed: bytes, next_seed: bytes) -> Capability:
    """A new open token; `claims` by their map keys, without the next key."""
    protected = encode({1: -8, 4: key_id})
    payload = encode({**claims, NEXT_KEY: public_key(next_seed)})
    signature = _sign(issuer_seed, _sig_structure(protected, b"", payload))
    return _assembled([[protected, {}, payload, signature]], 0, next_seed)


def attenuate(capability: Capability, claims: dict, next_seed: bytes, check: bool = True) -> Capability:
    """The token with one more block; `check=False` makes the bad tokens of the test vectors."""
    if capability.sealed:
        raise Refused("sealed")
    payload = encode({**claims, NEXT_KEY: public_key(next_seed)})
    external = ATTENUATION_CONTEXT + capability.blocks[-1].signature
    signature = _sign(capability.proof, _sig_structure(PLAIN_HEADER, external, payload))
    blocks = [[block.protected, {}, block.payload, block.signature] for block in capability.blocks]
    result = _assembled(blocks + [[PLAIN_HEADER, {}, payload, signature]], 0, next_seed)
    if check:
        narrowed(result)
    return result


def seal(capability: Capability) -> Capability:
    """The token in the form to send: nobody can add a block to it."""
    if capability.sealed:
        raise Refused("sealed")
    signature = _sign(capability.proof, _seal_message(capability.blocks[-1].signature))
    return Capability(capability.blocks, capability.key_id, True, signature)


def _assembled(blocks: list, kind: int, proof: bytes) -> Capability:
    return parse(encode([1, blocks, [kind, proof]]))
