"""Signs in to an IoT hub with Entra ID: the tokens of azure-identity, kept until shortly before they expire.

azure-identity is imported only here, and only when a hub is named without a connection string.
"""

from __future__ import annotations

import asyncio
import logging
import time
from types import TracebackType
from typing import Any, Self

from modelsync_protocol.errors import LocalError, RefusedError

SCOPE = "https://iothubs.azure.net/.default"
_MARGIN_SECONDS = 300


class EntraSignIn:
    """`async with EntraSignIn() as bearer: ServiceClient(connection, bearer=bearer)`.

    Takes azure-identity's DefaultAzureCredential (environment, workload identity, managed identity, az login), or
    any other asynchronous credential. RefusedError says why no token was had.
    """

    def __init__(self, credential: Any = None) -> None:
        self._credential = credential or _default()
        self._lock = asyncio.Lock()
        self._token, self._expires = "", 0.0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._credential.close()

    async def __call__(self) -> str:
        """A token that lasts a few minutes more at least."""
        from azure.core.exceptions import AzureError

        async with self._lock:
            if self._expires - time.time() < _MARGIN_SECONDS:
                try:
                    found = await self._credential.get_token(SCOPE)
                except AzureError as error:
                    first = str(error).strip().partition("\n")[0]
                    raise RefusedError(f"Entra ID gives no token for the hub: {first:.200}") from error
                self._token, self._expires = found.token, float(found.expires_on)
            return self._token


def _default() -> Any:
    try:
        from azure.identity.aio import DefaultAzureCredential
    except ImportError:
        raise LocalError(
            "signing in with Entra ID needs azure-identity: pip install 'modelsync-server[azure]'."
        ) from None
    # It logs a page about each way that it tried; what a person needs is said in one sentence.
    logging.getLogger("azure.identity").setLevel(logging.CRITICAL)
    return DefaultAzureCredential()
