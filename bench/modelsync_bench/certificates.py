"""A CA, an intermediate and a server certificate for the bench, all of a size that does not change from run to run.

RSA, since its signatures have one length (ECDSA's vary by a byte or two); a chain of two certificates is what a public
service sends.
"""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_YEARS = 10
_NAMES = ("origin.test",)
_ADDRESSES = ("10.210.0.1", "127.0.0.1")


@dataclass(frozen=True, slots=True)
class Certificates:
    """Paths of PEM files: `ca` for who trusts; `chain` (server and intermediate) and `key` for who serves."""

    ca: Path
    chain: Path
    key: Path


def make(folder: Path) -> Certificates:
    """Make them in `folder`, or take those that lie there."""
    made = Certificates(folder / "ca.pem", folder / "chain.pem", folder / "key.pem")
    if made.key.exists():
        return made
    folder.mkdir(parents=True, exist_ok=True)
    keys = [rsa.generate_private_key(65537, 2048) for _ in range(3)]
    root = _certificate("modelsync bench root", keys[0], "modelsync bench root", keys[0], authority=True)
    between = _certificate("modelsync bench authority", keys[1], "modelsync bench root", keys[0], authority=True)
    leaf = _certificate(_NAMES[0], keys[2], "modelsync bench authority", keys[1], authority=False)
    pem = serialization.Encoding.PEM
    made.ca.write_bytes(root.public_bytes(pem))
    made.chain.write_bytes(leaf.public_bytes(pem) + between.public_bytes(pem))
    made.key.touch(mode=0o600)
    made.key.write_bytes(keys[2].private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return made


def _certificate(
    name: str, key: rsa.RSAPrivateKey, issuer: str, issuer_key: rsa.RSAPrivateKey, *, authority: bool
) -> x509.Certificate:
    # Dates in whole years and a serial with its top bits fixed: the encoding's length is always the same.
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0) - datetime.timedelta(days=1)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number((1 << 126) | (x509.random_serial_number() & ((1 << 126) - 1)))
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=365 * _YEARS))
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .add_extension(_usage(authority), critical=True)
    )
    if not authority:
        names: list[x509.GeneralName] = [x509.DNSName(one) for one in _NAMES]
        names += [x509.IPAddress(ipaddress.ip_address(one)) for one in _ADDRESSES]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(not authority, False, not authority, False, False, authority, authority, False, False)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
