"""Verifies what lies beside an artifact: OpenSSF model-signing bundles and in-toto (SLSA) statements in DSSE envelopes.

The libraries verify; here stands what is asked of them: that the signer is one who was named, and that what was signed
is these very bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelsync_protocol.caps import MIB
from modelsync_protocol.errors import RefusedError, UsageError

MAX_BYTES = 16 * MIB
"""Of one file of provenance."""

SUFFIXES = (".sig", ".sigstore.json", ".intoto.json", ".intoto.jsonl")
"""Of files beside `PATH` that are taken for its provenance; `model.sig` lies in a folder."""

_IN_FOLDER = "model.sig"
_STATEMENTS = ("https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1")
_BUNDLE = "application/vnd.dev.sigstore.bundle"
_INSTALL = "pip install 'modelsync-server[provenance]'"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is believed: `kind` is `key` or `cert` (`value`: a PEM file) or `sigstore` (`value`: IDENTITY,ISSUER)."""

    kind: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Identity:
        """From `key:FILE`, `cert:FILE` or `sigstore:IDENTITY,ISSUER`; UsageError."""
        kind, _, value = text.partition(":")
        if not value or kind not in ("key", "cert", "sigstore"):
            raise UsageError(
                f"{text!r} names nobody: write key:PUBLIC.pem, cert:AUTHORITY.pem or sigstore:IDENTITY,ISSUER."
            )
        if kind == "sigstore" and not all(value.partition(",")):
            raise UsageError(
                "sigstore: takes IDENTITY,ISSUER, as in sigstore:ci@example.com,https://login.example.com."
            )
        if kind != "sigstore" and not Path(value).is_file():
            raise UsageError(f"{value} is not a readable file: name a PEM file after {kind}:.")
        return cls(kind, value)

    def __str__(self) -> str:
        if self.kind == "sigstore":
            return f"sigstore:{self.value}"
        return f"{self.kind}:sha256:{hashlib.sha256(Path(self.value).read_bytes()).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Attestation:
    """One that was verified: its kind (`model-signing`, or a statement's predicate type), its digest, who signed."""

    kind: str
    digest: str
    identity: str

    def document(self) -> dict[str, str]:
        """As it is signed into the version."""
        return {"kind": self.kind, "sha256": self.digest, "identity": self.identity}


def beside(path: Path) -> list[Path]:
    """Files that look like the provenance of the artifact at `path`."""
    found = [path.with_name(path.name + suffix) for suffix in SUFFIXES]
    if path.is_dir():
        found.append(path / _IN_FOLDER)
    return [file for file in found if file.is_file()]


def verify(
    artifact: Path, files: Sequence[Path], believed: Sequence[Identity], digests: Mapping[str, str]
) -> list[Attestation]:
    """Verify each of `files` as said by somebody `believed` about the bytes at `artifact`, a private copy.

    `digests`: SHA-256 of each file of the artifact, by path. Blocks. RefusedError if one can't be verified, UsageError
    for what can't be read or if the libraries are missing.
    """
    found = []
    for file in files:
        data = _read(file)
        for envelope in _envelopes(file, data):
            if str(envelope.get("mediaType", "")).startswith(_BUNDLE):
                kind, identity = "model-signing", _bundle(artifact, file, believed)
            else:
                kind, identity = _statement(file, envelope, believed, digests)
            found.append(Attestation(kind, hashlib.sha256(data).hexdigest(), str(identity)))
    return found


def _read(file: Path) -> bytes:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise UsageError(f"{file} has more than {MAX_BYTES // MIB} MiB, and is no provenance.")
        return file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file} can't be read ({error.strerror}): name a file of provenance.") from error


def _envelopes(file: Path, data: bytes) -> Iterator[dict[str, Any]]:
    """A bundle or an envelope, or one envelope a line."""
    lines = data.splitlines() if file.suffix == ".jsonl" else [data]
    try:
        documents = [json.loads(line) for line in lines if line.strip()]
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file.name} is no provenance: it is not JSON ({error}).") from error
    if not documents or not all(isinstance(document, dict) for document in documents):
        raise UsageError(f"{file.name} is no provenance: it holds no signed envelope.")
    yield from documents


def _bundle(artifact: Path, file: Path, believed: Sequence[Identity]) -> Identity:
    """Who of `believed` signed the bundle over the bytes at `artifact`."""
    try:
        from model_signing import verifying
    except ImportError as error:
        raise UsageError(f"{file.name} is a signature of model-signing, which is not installed: {_INSTALL}.") from error
    reasons = []
    for identity in believed:
        try:
            config = verifying.Config()  # type: ignore[no-untyped-call]
            if identity.kind == "key":
                config.use_elliptic_key_verifier(public_key=Path(identity.value))
            elif identity.kind == "cert":
                config.use_certificate_verifier(certificate_chain=[Path(identity.value)])
            else:
                who, _, issuer = identity.value.partition(",")
                config.use_sigstore_verifier(identity=who, oidc_issuer=issuer)
            config.verify(artifact, file)
        except Exception as error:  # its parts raise errors of many kinds: each means that it is not verified
            reasons.append(" ".join(str(error).split())[:200] or type(error).__name__)
        else:
            return identity
    raise RefusedError(f"{file.name} is no signature of these bytes by anybody who was named ({'; '.join(reasons)}).")


def _statement(
    file: Path, envelope: dict[str, Any], believed: Sequence[Identity], digests: Mapping[str, str]
) -> tuple[str, Identity]:
    """The predicate type of an in-toto statement about all of `digests`, and who of `believed` signed it."""
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import Error

    try:
        # Which key it was is asked of the keys; the name that the envelope gives it says nothing.
        signatures = [{"keyid": str(number), "sig": each["sig"]} for number, each in enumerate(envelope["signatures"])]
        signed = Envelope.from_dict({**envelope, "signatures": signatures})
        statement = json.loads(signed.payload)
        kind, predicate = statement["_type"], str(statement["predicateType"])
        named = {str(each["digest"]["sha256"]) for each in statement["subject"] if "sha256" in each["digest"]}
    except (KeyError, TypeError, ValueError, AttributeError, Error) as error:
        raise UsageError(f"{file.name} is no provenance: it is neither a bundle nor an in-toto envelope.") from error
    if kind not in _STATEMENTS:
        raise UsageError(f"{file.name} holds {kind!r:.80}, which is no in-toto statement.")
    signer = next((each for each in believed if each.kind == "key" and _signed_by(signed, each)), None)
    if signer is None:
        raise RefusedError(f"{file.name} is not signed by anybody who was named (in-toto statements: key:FILE).")
    missing = sorted(path for path, digest in digests.items() if digest not in named)
    if missing:
        raise RefusedError(f"{file.name} is about other bytes: it does not name {missing[0]} as it is here.")
    return predicate, signer


def _signed_by(envelope: Any, identity: Identity) -> bool:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.exceptions import VerificationError
    from securesystemslib.signer import SSlibKey

    for keyid in envelope.signatures:
        try:
            public = load_pem_public_key(Path(identity.value).read_bytes())
            key = SSlibKey.from_crypto(public, keyid=keyid)
        except (ValueError, TypeError) as error:
            raise UsageError(f"{identity.value} is no public key in PEM form.") from error
        try:
            envelope.verify([key], 1)
        except (VerificationError, ValueError):
            continue
        return True
    return False
