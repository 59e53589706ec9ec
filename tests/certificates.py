"""Certificates and their keys, made for a test."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

LOOPBACK = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))


class Certificate:
    """One with its key; signed by itself unless there is an issuer."""

    def __init__(self, name: str, issuer: Certificate | None = None, *also: x509.GeneralName) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        signer = issuer or self
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(signer._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        )
        if also:
            builder = builder.add_extension(x509.SubjectAlternativeName(also), critical=False)
        self.pem = builder.sign(signer._key, hashes.SHA256()).public_bytes(Encoding.PEM)
        self.key_pem = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def write(self, directory: Path, name: str) -> tuple[Path, Path]:
        """The files of the certificate and of its key."""
        files = directory / f"{name}.pem", directory / f"{name}.key"
        for file, content in zip(files, (self.pem, self.key_pem), strict=True):
            file.write_bytes(content)
        return files
