"""Which kinds of TLS keys the data channel takes (API/data-channel.md §1)."""
import datetime
import ssl

import pytest
from conftest import PATIENCE
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import NameOID
from sluice_client import Channel, ChannelClosed

KINDS = {
    "Ed25519": (ed25519.Ed25519PrivateKey.generate, True),
    "P-256": (lambda: ec.generate_private_key(ec.SECP256R1()), True),
    "P-384": (lambda: ec.generate_private_key(ec.SECP384R1()), True),
    "P-521": (lambda: ec.generate_private_key(ec.SECP521R1()), False),
    "secp256k1": (lambda: ec.generate_private_key(ec.SECP256K1()), False),
    "RSA": (lambda: rsa.generate_private_key(65537, 2048), False),
    "Ed448": (ed448.Ed448PrivateKey.generate, False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_kinds_of_keys_that_the_document_names_are_taken_and_no_others(shared_server, tmp_path, kind):
    make, is_taken = KINDS[kind]
    key = make()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "anybody")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()) \
        .serial_number(1).not_valid_before(now - datetime.timedelta(days=1)) \
        .not_valid_after(now + datetime.timedelta(days=1)) \
        .sign(key, None if kind.startswith("Ed") else hashes.SHA256())
    (tmp_path / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    files = {"certfile": str(tmp_path / "cert.pem"), "keyfile": str(tmp_path / "key.pem"),
             "cafile": str(shared_server.data / "admin/ca.pem")}

    def hello():
        Channel(shared_server.channel_address, timeout=PATIENCE, **files).close()

    if is_taken:
        hello()
    else:
        with pytest.raises((ssl.SSLError, ChannelClosed, ConnectionError)):
            hello()
