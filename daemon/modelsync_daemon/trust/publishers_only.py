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


def leave_out() -> None:
    """From now on importing the signers fails in this process, which securesystemslib takes as not installed, and
    python-tuf gets a fetcher that can't be made.

    Only for a process that is modelsync's own: what else runs in it couldn't import them either.
    """
    for name in _SIGNERS:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # None: importing it raises ImportError
    stand_in = ModuleType(_FETCHER)
    stand_in.__dict__["Urllib3Fetcher"] = Urllib3Fetcher
    sys.modules.setdefault(_FETCHER, stand_in)
