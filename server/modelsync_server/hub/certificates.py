"""The hub's own CA and server certificate: made on first start, kept in the state directory. No network here."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from modelsync_protocol.errors import LocalError
from modelsync_server.store import durable

_CA_DAYS = 3650
_SERVER_DAYS = 397
_RENEW_DAYS = 30


@dataclass(frozen=True, slots=True)
class Certificates:
    """Paths of PEM files: the CA to give to clients, the server's chain and its private key."""

    ca: Path
    server: Path
    server_key: Path

    def server_context(self) -> ssl.SSLContext:
        """A TLS context for the hub's two sides; TLS 1.2 or newer."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.server, self.server_key)
        return context

    def device_context(self) -> ssl.SSLContext:
        """The same, and clients may show a certificate of the hub's CA."""
        context = self.server_context()
        context.load_verify_locations(self.ca)
        context.verify_mode = ssl.CERT_OPTIONAL
        return context


def issue_client(directory: Path, name: str, folder: Path) -> None:
    """Write `cert.pem` and `key.pem` for the device `name` into `folder`, signed by the hub's CA. Raises LocalError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        ca_path, ca_key_path = directory / "ca.pem", directory / "ca-key.pem"
        if not (ca_path.exists() and ca_key_path.exists()):
            _make_ca(ca_path, ca_key_path)
        ca, ca_key = x509.load_pem_x509_certificate(ca_path.read_bytes()), _load_key(ca_key_path)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            _builder(subject, ca.subject, key.public_key(), ca_key.public_key(), _SERVER_DAYS)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        _write_key(folder / "key.pem", key)
        durable.write(folder / "cert.pem", certificate.public_bytes(serialization.Encoding.PEM))
    except (OSError, ValueError) as error:
        raise LocalError(f"a certificate for {name} can't be written to {folder}: {error}.") from error


def ensure(directory: Path, host: str) -> Certificates:
    """Return certificates whose server names `host` (address or name) and `localhost`.

    The CA is made once; the server certificate anew when the host changes or it is near its end. Raises LocalError.
    """
    paths = Certificates(directory / "ca.pem", directory / "server.pem", directory / "server-key.pem")
    ca_key_path = directory / "ca-key.pem"
    try:
        if not (paths.ca.exists() and ca_key_path.exists()):
            _make_ca(paths.ca, ca_key_path)
            paths.server.unlink(missing_ok=True)
        if not _usable(paths, host):
            _make_server(paths, ca_key_path, host)
    except (OSError, ValueError) as error:
        raise LocalError(f"the hub's certificates in {directory} can't be made or read: {error}.") from error
    return paths


def _make_ca(ca_path: Path, key_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "modelsync local hub CA")])
    certificate = (
        _builder(name, name, key.public_key(), key.public_key(), _CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(ca=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    _write_key(key_path, key)
    durable.write(ca_path, certificate.public_bytes(serialization.Encoding.PEM))


def _make_server(paths: Certificates, ca_key_path: Path, host: str) -> None:
    ca = x509.load_pem_x509_certificate(paths.ca.read_bytes())
    ca_key = _load_key(ca_key_path)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "modelsync local hub")])
    certificate = (
        _builder(subject, ca.subject, key.public_key(), ca_key.public_key(), _SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(_names(host)), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    _write_key(paths.server_key, key)
    durable.write(paths.server, certificate.public_bytes(serialization.Encoding.PEM))


def _usable(paths: Certificates, host: str) -> bool:
    if not (paths.server.exists() and paths.server_key.exists()):
        return False
    certificate = x509.load_pem_x509_certificate(paths.server.read_bytes())
    if certificate.not_valid_after_utc < datetime.now(UTC) + timedelta(days=_RENEW_DAYS):
        return False
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return list(names) == _names(host)


def _names(host: str) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = [x509.DNSName("localhost")]
    try:
        return [x509.IPAddress(ipaddress.ip_address(host)), *names]
    except ValueError:
        return names if host == "localhost" else [x509.DNSName(host), *names]


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    issuer_public: ec.EllipticCurvePublicKey,
    days: int,
) -> x509.CertificateBuilder:
    # A day of slack: device clocks lag, and a boot without a clock battery starts in the past.
    start = datetime.now(UTC) - timedelta(days=1)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_public), critical=False)
    )


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{path.name} is not an elliptic-curve key")
    return key


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    durable.write(path, pem, mode=0o600)
