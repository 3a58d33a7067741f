"""Signatures and attestations are verified over the very bytes that are published, and what was verified is signed."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from model_signing import signing
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner, SSlibKey

from modelsync_protocol.errors import ModelsyncError, RefusedError, UsageError
from modelsync_server import Store, open_store
from modelsync_server.provenance import sbom
from tests.support.shop import Shop


class Signer:
    """A private key `NAME.key`, its public half `NAME.pem`, both below `folder`."""

    def __init__(self, folder: Path, name: str) -> None:
        self.private = ec.generate_private_key(ec.SECP256R1())
        self.key, self.pem = folder / f"{name}.key", folder / f"{name}.pem"
        self.key.write_bytes(
            self.private.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        public = self.private.public_key()
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        self.pem.write_bytes(public.public_bytes(serialization.Encoding.PEM, form))

    @property
    def identity(self) -> str:
        return f"key:{self.pem}"

    def sign(self, path: Path, to: Path) -> Path:
        signing.Config().use_elliptic_key_signer(private_key=self.key).sign(path, to)  # type: ignore[no-untyped-call]
        return to

    def attest(self, digests: dict[str, str], to: Path, **changes: Any) -> Path:
        """An in-toto statement of SLSA provenance in a DSSE envelope."""
        statement = {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in digests.items()],
            "predicateType": "https://slsa.dev/provenance/v1",
            "predicate": {"buildDefinition": {"buildType": "https://example.com/train"}},
            **changes,
        }
        envelope = Envelope(json.dumps(statement).encode(), "application/vnd.in-toto+json", {})
        envelope.sign(CryptoSigner(self.private, SSlibKey.from_crypto(self.private.public_key())))
        to.write_text(json.dumps(envelope.to_dict()))
        return to


@pytest.fixture
async def store(tmp_path: Path) -> Store:
    shop = await Shop.open(tmp_path)
    return open_store(str(shop.path), keys=str(shop.keys))


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer(tmp_path, "trainer")


@pytest.fixture
def stranger(tmp_path: Path) -> Signer:
    return Signer(tmp_path, "stranger")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "anomaly"
    (made / "weights").mkdir(parents=True)
    (made / "model.bin").write_bytes(b"model" * 100)
    (made / "weights" / "w.bin").write_bytes(b"weights" * 100)
    return made


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("place", ["beside", "inside", "named"])
def test_a_signed_folder_is_published_with_who_signed_it(
    store: Store, signer: Signer, stranger: Signer, folder: Path, tmp_path: Path, place: str
) -> None:
    where = {"beside": tmp_path / "anomaly.sig", "inside": folder / "model.sig", "named": tmp_path / "elsewhere"}[place]
    signer.sign(folder, where)
    named = [where] if place == "named" else []
    believed = [stranger.identity, signer.identity]
    release = store.publish("m", folder, provenance=named, require_provenance=believed)
    (said,) = store.show("m").metadata["provenance"]
    assert said["kind"] == "model-signing" and said["sha256"] == hashlib.sha256(where.read_bytes()).hexdigest()
    assert said["identity"] == f"key:sha256:{hashlib.sha256(signer.pem.read_bytes()).hexdigest()}"
    assert release.metadata["provenance"] == [said]


def test_a_lone_file_and_a_certificate(store: Store, signer: Signer, tmp_path: Path) -> None:
    model = tmp_path / "m.bin"
    model.write_bytes(b"x" * 1000)
    authority = Signer(tmp_path, "authority")
    signer.sign(model, tmp_path / "m.bin.sig")
    store.publish("m", model, require_provenance=[signer.identity])
    root = _certificate(authority, authority, "authority", ca=True)
    leaf = _certificate(signer, authority, "trainer", ca=False)
    for name, certificate in (("root", root), ("leaf", leaf)):
        (tmp_path / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    config = signing.Config().use_certificate_signer(  # type: ignore[no-untyped-call]
        private_key=signer.key, signing_certificate=tmp_path / "leaf.crt", certificate_chain=[tmp_path / "root.crt"]
    )
    config.sign(model, tmp_path / "m.bin.sig")
    store.publish("m", model, require_provenance=[f"cert:{tmp_path / 'root.crt'}"])
    assert store.show("m").metadata["provenance"][0]["identity"].startswith("cert:sha256:")
    with pytest.raises(RefusedError, match="no signature of these bytes"):
        store.publish("m", model, require_provenance=[f"cert:{tmp_path / 'leaf.crt'}"])


def _certificate(subject: Signer, issuer: Signer, name: str, *, ca: bool) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, each)]) for each in (name, "authority")]
    usage = x509.KeyUsage(True, False, False, False, False, ca, ca, False, False)
    made = (
        x509.CertificateBuilder()
        .subject_name(names[0])
        .issuer_name(names[1])
        .public_key(subject.private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(subject.private.public_key()), critical=False)
    )
    if not ca:
        made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
    return made.sign(issuer.private, hashes.SHA256())


def test_an_attestation_of_every_file_is_published_with_its_predicate(
    store: Store, signer: Signer, folder: Path, tmp_path: Path
) -> None:
    signer.attest(digests(folder), tmp_path / "anomaly.intoto.json")
    store.publish("m", folder, require_provenance=[signer.identity], metadata={"commit": "4f1c2d9"})
    metadata = store.show("m").metadata
    assert metadata["commit"] == "4f1c2d9" and metadata["provenance"][0]["kind"] == "https://slsa.dev/provenance/v1"


def _tampered(folder: Path, signer: Signer, stranger: Signer, tmp_path: Path) -> None:
    signer.sign(folder, tmp_path / "anomaly.sig")
    (folder / "weights" / "w.bin").write_bytes(b"others" * 100)


def _added(folder: Path, signer: Signer, stranger: Signer, tmp_path: Path) -> None:
    signer.sign(folder, tmp_path / "anomaly.sig")
    (folder / "more.bin").write_bytes(b"more")


def _by_a_stranger(folder: Path, signer: Signer, stranger: Signer, tmp_path: Path) -> None:
    stranger.sign(folder, tmp_path / "anomaly.sig")


def _of_another(folder: Path, signer: Signer, stranger: Signer, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.bin").write_bytes(b"other")
    signer.sign(other, tmp_path / "anomaly.sig")


def _attested_by_a_stranger(folder: Path, signer: Signer, stranger: Signer, tmp_path: Path) -> None:
    stranger.attest(digests(folder), tmp_path / "anomaly.intoto.json")


def _attested_in_part(folder: Path, signer: Signer, stranger: Signer, tmp_path: Path) -> None:
    some = digests(folder)
    some.pop("model.bin")
    signer.attest(some, tmp_path / "anomaly.intoto.json")


def _payload_exchanged(folder: Path, signer: Signer, stranger: Signer, tmp_path: Path) -> None:
    path = signer.attest({}, tmp_path / "anomaly.intoto.json")
    document = json.loads(path.read_text())
    other = json.loads(stranger.attest(digests(folder), tmp_path / "x").read_text())
    path.write_text(json.dumps({**document, "payload": other["payload"]}))


@pytest.mark.parametrize(
    "lie",
    [_tampered, _added, _by_a_stranger, _of_another, _attested_by_a_stranger, _attested_in_part, _payload_exchanged],
)
def test_what_was_not_signed_by_them_as_it_is_here_is_refused(
    store: Store, signer: Signer, stranger: Signer, folder: Path, tmp_path: Path, lie: Any
) -> None:
    lie(folder, signer, stranger, tmp_path)
    with pytest.raises(RefusedError) as caught:
        store.publish("m", folder, require_provenance=[signer.identity])
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
    assert store.names() == ()


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b"{}", b'{"payload": 1}', b"[" * 100_000,
        b'{"mediaType": "application/vnd.dev.sigstore.bundle"}',
        json.dumps({"payload": base64.b64encode(b"{}").decode(), "payloadType": "x", "signatures": []}).encode(),
        json.dumps({"payload": "!!", "payloadType": "x", "signatures": [{"sig": "!!"}]}).encode(),
    ],
)  # fmt: skip
def test_a_file_that_is_no_provenance_is_one_sentence(
    store: Store, signer: Signer, folder: Path, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "anomaly.sig").write_bytes(content)
    with pytest.raises(ModelsyncError) as caught:
        store.publish("m", folder, require_provenance=[signer.identity])
    assert caught.value.exit_code in (2, 3) and "anomaly.sig" in str(caught.value)


def test_wrong_wishes_are_refused_before_any_work(store: Store, signer: Signer, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="has no provenance beside it"):
        store.publish("m", folder, require_provenance=[signer.identity])
    with pytest.raises(RefusedError, match="say who"):
        store.publish("m", folder, provenance=[signer.sign(folder, tmp_path / "s")])
    for text in ("trainer", "key:", "key:/nowhere", "sigstore:me", "gpg:abc"):
        with pytest.raises(UsageError):
            store.publish("m", folder, require_provenance=[text])
    signer.sign(folder, tmp_path / "anomaly.sig")
    with pytest.raises(UsageError, match="call yours something else"):
        store.publish("m", folder, require_provenance=[signer.identity], metadata={"provenance": "mine"})


def test_a_bill_of_materials_is_valid_and_says_what_is_signed(
    store: Store, signer: Signer, folder: Path, tmp_path: Path
) -> None:
    signer.sign(folder, tmp_path / "anomaly.sig")
    metadata = {
        "licence": "Apache-2.0",
        "metrics": {"auc": 0.93},
        "commit": "4f1c2d9",
        "description": "finds anomalies",
    }
    release = store.publish("m", folder, require_provenance=[signer.identity], metadata=metadata)
    document = store.sbom("m")
    assert sbom.problems(document) is None
    model = document["metadata"]["component"]
    assert (document["specVersion"], model["type"], model["version"]) == ("1.6", "machine-learning-model", "1")
    found = {part["name"]: part["hashes"][0]["content"] for part in model["components"]}
    assert found == digests(folder)
    told = {item["name"]: item["value"] for item in model["properties"]}
    assert told["modelsync:manifest"] == release.digest and told["modelsync:commit"] == "4f1c2d9"
    assert told["modelsync:provenance.0.kind"] == "model-signing"
    assert model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"] == [{"type": "auc", "value": "0.93"}]
    assert store.sbom("m") == document, "the same version has the same bill"
    plain = tmp_path / "plain.bin"
    plain.write_bytes(b"plain")
    store.publish("plain", plain)
    assert sbom.problems(store.sbom("plain")) is None
