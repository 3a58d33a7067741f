"""What python-tuf's cryptography imports for publishers if it is installed, and no device needs."""

from __future__ import annotations

import sys

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


def leave_out() -> None:
    """From now on importing these fails in this process, which securesystemslib takes as not installed.

    Only for a process that is modelsync's own: what else runs in it couldn't import them either.
    """
    for name in _SIGNERS:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # None: importing it raises ImportError
