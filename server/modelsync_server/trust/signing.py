"""Signing one metadata file with the keys that its delegator names. What is signed is decided elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, Root, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from modelsync_protocol import trust
from modelsync_protocol.errors import RefusedError
from modelsync_server.trust.keys import KeyStore
from modelsync_server.trust.metadata import now

LIFETIMES = {
    "root": timedelta(days=730),
    "targets": timedelta(days=730),
    "snapshot": timedelta(days=30),
    "timestamp": timedelta(days=14),
}
"""How long signed metadata is believed; a model's roles: MODEL_LIFETIME."""

MODEL_LIFETIME = timedelta(days=365)

Delegator = Metadata[Root] | Metadata[Targets]


def lifetime(role: str) -> timedelta:
    """How long metadata of `role` is believed after it was signed."""
    return LIFETIMES.get(role, MODEL_LIFETIME)


def past_half_life(metadata: Metadata[Any], role: str) -> bool:
    """Whether less than half of the role's lifetime is left."""
    return bool(metadata.signed.expires - now() < lifetime(role) / 2)


def can_sign(keys: KeyStore, role: str, delegator: Delegator) -> bool:
    """Whether enough of the role's keys can sign here."""
    return len(_signers(keys, role, delegator)) >= delegator.signed.get_delegated_role(role).threshold


def sign(metadata: Metadata[Any], role: str, delegators: Sequence[Delegator], keys: KeyStore) -> bytes:
    """Set expiry and time of issue, sign for every delegator's threshold, return the file's bytes.

    RefusedError names the role and the key folder if keys are missing.
    """
    metadata.signed.expires = now() + lifetime(role)
    if isinstance(metadata.signed, Root | Timestamp):
        metadata.signed.unrecognized_fields[trust.ISSUED] = trust.format_time(now())
    if isinstance(metadata.signed, Targets):
        metadata.signed.unrecognized_fields[trust.ROLE] = role
    chosen: dict[str, Signer] = {}
    for delegator in delegators:
        needed = delegator.signed.get_delegated_role(role).threshold
        found = _signers(keys, role, delegator)
        if len(found) < needed:
            raise RefusedError(missing_keys(role, needed, len(found), keys))
        chosen |= {signer.public_key.keyid: signer for signer in found[:needed]}
    metadata.signatures.clear()
    for signer in chosen.values():
        metadata.sign(signer, append=True)
    return metadata.to_bytes(JSONSerializer(compact=True))


def missing_keys(role: str, needed: int, found: int, keys: KeyStore) -> str:
    """The sentence for keys that are not here."""
    return (
        f"{needed} of the {role} keys must sign and {found} of them can from {keys.folder}: "
        "bring the folder that holds them and name it with --keys."
    )


def _signers(keys: KeyStore, role: str, delegator: Delegator) -> list[Signer]:
    named = delegator.signed.get_delegated_role(role).keyids
    return keys.signers(delegator.signed.get_key(keyid) for keyid in named)
