"""Clients for a bucket, with the credentials of the environment and the library's own retries. No requests here."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from obstore.exceptions import BaseError
from obstore.store import GCSStore, S3Store

from modelsync_protocol.errors import UsageError
from modelsync_server.store.bucket_address import GS, BucketAddress, S3Place, s3_place
from modelsync_server.store.bucket_errors import HOW

RETRIES: dict[str, Any] = {
    "max_retries": 4,
    "retry_timeout": timedelta(minutes=3),  # a request is signed once for all its tries, and S3 takes 15 minutes
    "backoff": {"init_backoff": timedelta(seconds=0.3), "max_backoff": timedelta(seconds=10), "base": 2},
}
"""How the library tries again: answers of 5xx, broken lines, and what timed out while reading."""


@dataclass(frozen=True, slots=True)
class Clients:
    """They differ in how long they wait: a limit between reads would end an upload, during which nothing is read."""

    reading: Any
    writing: Any
    heavy: Any
    """Writes that may take hours on a thin line."""


def clients(address: BucketAddress, retries: dict[str, Any]) -> Clients:
    """Clients for `address`; UsageError says which credentials are unusable. Nothing is asked yet."""
    make = _s3(address, s3_place(), retries) if address.scheme != GS else _gcs(address, retries)
    try:
        return Clients(
            make({"timeout": "2h", "read_timeout": "60s"}), make({"timeout": "3min"}), make({"timeout": "2h"})
        )
    except (BaseError, ValueError):
        # The library's text may hold what it could not read, which is a key.
        raise UsageError(f"{address}: its credentials can't be read. {HOW[address.scheme]}") from None


def _s3(address: BucketAddress, place: S3Place, retries: dict[str, Any]) -> Any:
    settings: dict[str, Any] = {"region": place.region, "retry_config": retries}
    if place.endpoint:
        settings["endpoint"] = place.endpoint
    if place.key_id:
        settings |= {"access_key_id": place.key_id, "secret_access_key": place.secret}
        settings |= {"session_token": place.token} if place.token else {}
    if place.profile is not None:
        settings["credential_provider"] = _by_boto3(place.profile)
    plain = place.endpoint is not None and place.endpoint.startswith("http:")
    # Without credentials the machine itself is asked who it is, at an address where elsewhere nobody answers.
    connect = {"connect_timeout": "10s" if place.key_id or place.profile else "3s"}
    return lambda waits: S3Store(address.bucket, client_options=_options({**connect, **waits}, plain=plain), **settings)


def _gcs(address: BucketAddress, retries: Any) -> Any:
    plain = os.environ.get("GOOGLE_BASE_URL", "").startswith("http:")
    return lambda waits: GCSStore(address.bucket, client_options=_options(waits, plain=plain), retry_config=retries)


def _options(waits: dict[str, str], *, plain: bool) -> Any:
    return {"connect_timeout": "10s", **waits, **({"allow_http": True} if plain else {})}


def _by_boto3(profile: str) -> Any:
    """A provider for profiles that need more than reading a file; UsageError without boto3, which is no dependency."""
    try:
        session = importlib.import_module("boto3").Session(profile_name=profile)
        return importlib.import_module("obstore.auth.boto3").Boto3CredentialProvider(session)
    except ImportError:
        raise UsageError(
            f"the profile {profile!r} signs in by a role, SSO or a program, which boto3 does: install boto3, or run "
            f'eval "$(aws configure export-credentials --profile {profile} --format env)" first.'
        ) from None


_SETTLING_SECONDS = 2.0
_PAUSE_SECONDS = 0.02


def _settle() -> None:
    """Before the interpreter ends, wait until the library's threads are at rest: one that still lets go of a Python
    object by then aborts the process (CPython ends it inside Rust, which can't be unwound), whatever its exit code was.

    It happens within moments of a call's end; a thread that only waits for a processor counts as running.
    """
    quiet, end = 0, time.monotonic() + _SETTLING_SECONDS
    while quiet < 3 and time.monotonic() < end:
        time.sleep(_PAUSE_SECONDS)  # they need the interpreter's lock, which a sleeper gives away
        quiet = 0 if _running() else quiet + 1


def _running() -> bool:
    """Whether a thread of this process other than this one runs or could; never where /proc can't say."""
    own = str(os.getpid())
    for task in Path("/proc/self/task").glob("*/stat"):
        with contextlib.suppress(OSError, IndexError):  # it ended meanwhile
            if task.parent.name != own and task.read_text(encoding="ascii").rpartition(") ")[2][0] == "R":
                return True
    return False


atexit.register(_settle)
