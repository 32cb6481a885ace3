"""A certificate authority for one test run, and a certificate that it signed.

They hold what RFC 5280 asks for: from Python 3.13 on, contexts insist on it (ssl.VERIFY_X509_STRICT).
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

SIGNS_CERTIFICATES = x509.KeyUsage(
    key_cert_sign=True,
    crl_sign=True,
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)
"""What the key of an authority is for."""


def make_certificates(
    directory: Path, *dns: str, days: int = 36_500, says_who_signed: bool = True
) -> tuple[Path, Path, Path]:
    """Files of an authority, of a certificate that it signed, and its key: for these names, or for this machine.

    Good from the beginning of 2024 for so many days. Python 3.13 wants to be told who signed.
    """
    begin = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    end = begin + dt.timedelta(days=days)

    def builder(name: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        start = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
        return start.serial_number(x509.random_serial_number()).not_valid_before(begin).not_valid_after(end)

    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    authority = (
        builder("test authority", ca_name, ca_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(SIGNS_CERTIFICATES, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.DNSName(name) for name in dns] or [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    wanted = builder("node", ca_name, key).add_extension(x509.SubjectAlternativeName(names), critical=False)
    if says_who_signed:
        signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
        wanted = wanted.add_extension(signer, critical=False)
    certificate = wanted.sign(ca_key, hashes.SHA256())
    files = directory / "ca.pem", directory / "node.pem", directory / "node.key"
    files[0].write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[2].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files
