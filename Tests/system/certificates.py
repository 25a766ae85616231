"""Certificates for another time than the one in which they were issued."""
import datetime
import os

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization


def certify(server, folder, begins, ends):
    """Gives credentials a certificate of the same key and names for another time, in seconds from now; returns its end."""
    authority = server.data / "authority"
    key = serialization.load_pem_private_key((authority / "ca.key.pem").read_bytes(), None)
    old = x509.load_pem_x509_certificate((folder / "cert.pem").read_bytes())
    issuer = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    now = datetime.datetime.now(datetime.timezone.utc)
    until = now + datetime.timedelta(seconds=ends)
    made = x509.CertificateBuilder(issuer.subject, old.subject, old.public_key(), x509.random_serial_number(),
                                   now + datetime.timedelta(seconds=begins), until)
    for extension in old.extensions:
        made = made.add_extension(extension.value, extension.critical)
    (folder / "cert.pem").write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    # As if it had been there for a while.
    os.utime(folder / "cert.pem", (0, 0))
    return until.timestamp()


def end_of(folder):
    """When the certificate of credentials ends, in Unix seconds."""
    return x509.load_pem_x509_certificate((folder / "cert.pem").read_bytes()).not_valid_after_utc.timestamp()
