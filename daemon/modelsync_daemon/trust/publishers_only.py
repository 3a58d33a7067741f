"""What python-tuf and its cryptography import for publishers and for fetching, and no device of ours needs."""

from __future__ import annotations

import sys
from types import ModuleType

_SIGNERS = (
    "asn1crypto",
    "azure.core",
    "azure.identity",
    "azure.keyvault",
    "boto3",
    "google.cloud",
    "hvac",
    "PyKCS11",
)
"""For signers in clouds and tokens: 8 MiB, and more time than all the rest of a pull's start."""


_FETCHER = "tuf.ngclient.urllib3_fetcher"
"""With it come urllib3 and what that needs: half of python-tuf's imports. Ours is origin_fetcher.OriginFetcher."""


class Urllib3Fetcher:
    """Stands in for python-tuf's; whoever makes one has forgotten to bring ours."""

    def __init__(self, *_: object, **__: object) -> None:
        raise NotImplementedError("this process fetches metadata with the origin's client only")


_SIGNING = tuple(
    f"securesystemslib.signer._{name}_signer"
    for name in ("aws", "azure", "crypto", "gcp", "gpg", "hsm", "sigstore", "tkey", "vault")
)
"""What signs, and keys of kinds that no publisher of ours has: a seventh of python-tuf's imports."""


class Signing:
    """Stands in for each of their classes; a key of such a kind is refused with the metadata that names it."""

    SCHEME = FILE_SCHEME = "publishers only"

    @classmethod
    def from_dict(cls, *_: object) -> None:
        """Keys are read by this."""
        raise NotImplementedError("devices know keys of RSA, ECDSA, Ed25519 and ML-DSA only")


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> type[Signing]:
        if name.startswith("_"):
            raise AttributeError(name)
        return Signing


def leave_out() -> None:
    """From now on importing what signers need fails in this process, which securesystemslib takes as not installed,
    the signers themselves are stand-ins, and python-tuf gets a fetcher that can't be made.

    Only for a process that is modelsync's own: what else runs in it couldn't import them either.
    """
    for name in _SIGNERS:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # None: importing it raises ImportError
    stand_in = ModuleType(_FETCHER)
    stand_in.__dict__["Urllib3Fetcher"] = Urllib3Fetcher
    sys.modules.setdefault(_FETCHER, stand_in)
    for name in _SIGNING:
        sys.modules.setdefault(name, _StandIn(name))
