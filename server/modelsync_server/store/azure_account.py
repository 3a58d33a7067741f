"""Which container, with which credentials: the address `azblob://…`, its client, and read-only SAS for devices."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from azure.core.exceptions import AzureError
from azure.storage.blob import ContainerSasPermissions, generate_container_sas
from azure.storage.blob.aio import BlobServiceClient, ContainerClient

from modelsync_protocol.errors import RefusedError, UsageError
from modelsync_server.store.device_secret import DeviceAccess

SCHEME = "azblob://"
CONNECTION_VARIABLE = "AZURE_STORAGE_CONNECTION_STRING"
SAS_VARIABLE = "AZURE_STORAGE_SAS_TOKEN"
ENDPOINT_VARIABLE = "AZURE_STORAGE_SERVICE_ENDPOINT"
"""The names that Azure's own tools use; the endpoint is for sovereign clouds and private links."""

MAX_USER_DELEGATION = timedelta(days=7)
"""Azure's limit for a SAS that is signed by an Entra identity instead of the account's key."""

_ACCOUNT = re.compile(r"[a-z0-9]{3,24}")
_CONTAINER = re.compile(r"(?!.*--)[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class BlobAddress:
    """`azblob://ACCOUNT/CONTAINER[/PREFIX]`; `prefix` is empty or ends with a slash."""

    account: str
    container: str
    prefix: str = ""

    @classmethod
    def parse(cls, url: str) -> BlobAddress:
        """Read an address; UsageError."""
        account, _, rest = url.removeprefix(SCHEME).partition("/")
        container, _, prefix = rest.partition("/")
        parts = [part for part in prefix.split("/") if part]
        good = url.startswith(SCHEME) and _ACCOUNT.fullmatch(account) and _CONTAINER.fullmatch(container)
        if not good or not all(_PART.fullmatch(part) for part in parts):
            raise UsageError(
                f"{url.partition('?')[0]!r:.120} is no blob store: use azblob://ACCOUNT/CONTAINER[/PREFIX]."
            )
        return cls(account, container, "".join(f"{part}/" for part in parts))

    def __str__(self) -> str:
        return f"{SCHEME}{self.account}/{self.container}/{self.prefix}".rstrip("/")

    @property
    def host(self) -> str:
        """The service's host name, for messages."""
        return urlsplit(endpoint(self)).netloc


def endpoint(address: BlobAddress) -> str:
    """The account's blob endpoint, without a slash at its end; UsageError if the credentials are another account's."""
    settings = _connection_settings()
    if settings:
        account = settings.get("accountname", address.account)
        if settings.get("usedevelopmentstorage"):
            account = "devstoreaccount1"
        if account != address.account:
            raise UsageError(
                f"{CONNECTION_VARIABLE} is of the account {account!r}, not of {address.account!r}: set the right one."
            )
        if settings.get("blobendpoint"):
            return settings["blobendpoint"].rstrip("/")
        if settings.get("usedevelopmentstorage"):
            return "http://127.0.0.1:10000/devstoreaccount1"
        suffix = settings.get("endpointsuffix", "core.windows.net")
        return f"{settings.get('defaultendpointsprotocol', 'https')}://{address.account}.blob.{suffix}"
    return os.environ.get(ENDPOINT_VARIABLE, "").rstrip("/") or f"https://{address.account}.blob.core.windows.net"


def container_client(address: BlobAddress, **options: Any) -> ContainerClient:
    """A client with the credentials of the environment: connection string, SAS, or DefaultAzureCredential."""
    url = endpoint(address)
    try:
        if text := os.environ.get(CONNECTION_VARIABLE):
            return ContainerClient.from_connection_string(text, address.container, **options)
        if sas := os.environ.get(SAS_VARIABLE):
            return ContainerClient(url, address.container, sas.strip().lstrip("?"), **options)
        return _SignedIn(url, address.container, _identity(), **options)
    except ValueError as error:
        raise UsageError(f"the credentials for {address} can't be used: copy them anew.") from error


class _SignedIn(ContainerClient):
    """A client that closes the credential that was made for it: the SDK leaves that to whoever made it."""

    def __init__(self, url: str, container: str, identity: Any, **options: Any) -> None:
        super().__init__(url, container, identity, **options)
        self._identity = identity

    async def __aexit__(self, *ended: Any) -> None:
        await super().__aexit__(*ended)
        await self._identity.close()

    async def close(self) -> None:
        await super().close()
        await self._identity.close()


async def device_access(address: BlobAddress, lifetime: timedelta) -> DeviceAccess:
    """Make a read-only SAS for one container, valid for `lifetime`, and the origin's URL.

    Signed by the account's key if the connection string has one, else by the Entra identity (at most 7 days).
    UsageError if only a SAS is at hand, which can't sign another.
    """
    url = endpoint(address)
    expires = datetime.now(UTC).replace(microsecond=0) + lifetime
    start = datetime.now(UTC) - timedelta(minutes=15)  # clocks differ
    options: dict[str, Any] = {
        "permission": ContainerSasPermissions(read=True),
        "expiry": expires,
        "protocol": "https" if url.startswith("https:") else None,
    }
    settings = _connection_settings()
    if settings.get("accountkey"):
        options["account_key"] = settings["accountkey"]
    elif settings or os.environ.get(SAS_VARIABLE):
        raise UsageError(
            "a SAS can't sign another one: set a connection string with the key, or use an Entra identity."
        )
    else:
        if lifetime > MAX_USER_DELEGATION:
            raise UsageError("a SAS that an Entra identity signs is valid for at most 168 hours: give fewer --hours.")
        try:
            async with _identity() as identity, BlobServiceClient(url, identity) as service:
                options["user_delegation_key"] = await service.get_user_delegation_key(start, expires)
        except AzureError as error:
            raise RefusedError(
                "this identity may not sign for devices: give it the role Storage Blob Delegator on the account."
            ) from error
    sas = generate_container_sas(address.account, address.container, **options)
    return DeviceAccess(f"{url}/{address.container}/{address.prefix}".rstrip("/"), sas, expires)


def _connection_settings() -> dict[str, str]:
    parts = (part.partition("=") for part in os.environ.get(CONNECTION_VARIABLE, "").split(";") if part.strip())
    return {key.strip().lower(): value.strip() for key, _, value in parts}


def _identity() -> Any:
    try:
        from azure.identity.aio import DefaultAzureCredential
    except ImportError as error:
        raise UsageError(
            f"no credentials: set {CONNECTION_VARIABLE}, or install azure-identity (the extra modelsync-server[azure])."
        ) from error
    # It logs a page about each way that it tried; what a person needs is said in one sentence.
    logging.getLogger("azure.identity").setLevel(logging.CRITICAL)
    return DefaultAzureCredential()
