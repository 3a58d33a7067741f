"""Credentials of a request: sent to the origin that they are for and to no other, wherever it may redirect to."""

from __future__ import annotations

import base64
import configparser
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from yarl import URL


class Credentials(Protocol):
    """What a client asks before each request, and after a 401."""

    def headers(self, url: URL) -> Mapping[str, str]:
        """Headers for a request to `url`; none if it is not where they belong."""

    async def challenged(self, url: URL, headers: Mapping[str, str]) -> bool:
        """After a 401 with these response headers: whether trying once more is worth it."""


class Fixed:
    """The same headers for each request to one origin (scheme, host and port)."""

    def __init__(self, origin: URL | str, headers: Mapping[str, str]) -> None:
        self._origin, self._headers = URL(origin).origin(), headers

    def headers(self, url: URL) -> Mapping[str, str]:
        """See Credentials."""
        return self._headers if url.origin() == self._origin else {}

    async def challenged(self, url: URL, headers: Mapping[str, str]) -> bool:
        """Never: there are no others."""
        return False


NOBODY = Fixed("https://nobody.invalid", {})


def bearer(token: str) -> dict[str, str]:
    """The header of a bearer token."""
    return {"Authorization": f"Bearer {token}"}


def basic(user: str, password: str) -> dict[str, str]:
    """The header of a user and password."""
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def hugging_face(origin: URL) -> Fixed:
    """As huggingface_hub finds a token: HF_TOKEN, else the file that `hf auth login` wrote."""
    token = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")
    if not token:
        home = os.environ.get("HF_HOME") or str(Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface")
        token = _first_line(Path(os.environ.get("HF_TOKEN_PATH") or Path(home) / "token").expanduser())
    return Fixed(origin, bearer(token.strip()) if token else {})


def mlflow(origin: URL) -> Fixed:
    """As mlflow finds them: MLFLOW_TRACKING_TOKEN, or _USERNAME and _PASSWORD, else ~/.mlflow/credentials."""
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return Fixed(origin, bearer(token))
    user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
    if user is None:
        file = configparser.ConfigParser(interpolation=None)
        try:
            file.read(Path("~/.mlflow/credentials").expanduser())
        except (configparser.Error, OSError, UnicodeDecodeError):
            return Fixed(origin, {})
        user = file.get("mlflow", "mlflow_tracking_username", fallback=None)
        password = file.get("mlflow", "mlflow_tracking_password", fallback=None)
    return Fixed(origin, basic(user, password or "") if user else {})


def _first_line(path: Path) -> str:
    try:
        return path.read_text().partition("\n")[0]
    except (OSError, UnicodeDecodeError):
        return ""
