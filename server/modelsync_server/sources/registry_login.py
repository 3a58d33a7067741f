"""Signs in to an OCI registry: what `docker login` or `podman login` left, and the tokens that a challenge asks for.

Source: https://distribution.github.io/distribution/spec/auth/token/, containers-auth.json(5).
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from yarl import URL

from modelsync_protocol.errors import RefusedError
from modelsync_server.sources import credentials

_PART = re.compile(r'(\w+)="([^"]*)"')
_HELPER = re.compile(r"[\w-]+")
_HELPER_SECONDS = 30
_HUB = "docker.io"


class RegistryLogin:
    """Credentials (see there) for one repository of one registry."""

    def __init__(self, registry: URL, host: str, repository: str) -> None:
        """`registry` is its address, `host` what people call it."""
        self._registry, self._host, self._repository = registry.origin(), host, repository
        self._headers: Mapping[str, str] = {}

    def headers(self, url: URL) -> Mapping[str, str]:
        """See Credentials."""
        return self._headers if url.origin() == self._registry else {}

    async def challenged(self, url: URL, headers: Mapping[str, str]) -> bool:
        """Does what the challenge of the registry (and nobody else's) asks for."""
        if url.origin() != self._registry:
            return False
        scheme, _, rest = headers.get("WWW-Authenticate", "").partition(" ")
        account = await asyncio.to_thread(_account, self._host)
        if scheme.lower() == "basic" and account is not None:
            self._headers = credentials.basic(*account)
            return True
        if scheme.lower() == "bearer":
            self._headers = credentials.bearer(await self._token(dict(_PART.findall(rest)), account))
            return True
        return False

    async def _token(self, asked: Mapping[str, str], account: tuple[str, str] | None) -> str:
        from modelsync_server.sources.client import Client

        realm = URL(asked.get("realm", ""))
        if realm.scheme not in ("http", "https") or (self._registry.scheme == "https" and realm.scheme != "https"):
            raise RefusedError(f"{self._host} sends to a place for tokens that is not HTTPS.")
        scope = asked.get("scope") or f"repository:{self._repository}:pull"
        query = {"scope": scope} | ({"service": asked["service"]} if "service" in asked else {})
        known = credentials.Fixed(realm, credentials.basic(*account)) if account else credentials.NOBODY
        async with Client(known, hint=f"`docker login {self._host}` or `podman login {self._host}` again") as client:
            found = (await client.ask(realm.update_query(query))).document()
        token = (found.get("token") or found.get("access_token")) if isinstance(found, dict) else None
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise RefusedError(f"{self._host} gives no token for {self._repository}.")
        return token


def _account(host: str) -> tuple[str, str] | None:
    """User and password for a registry; None: nobody signed in. Blocks."""
    wanted = {host, f"https://{host}", f"https://{host}/v2/"}
    if host == _HUB:
        wanted |= {"https://index.docker.io/v1/", "index.docker.io", "registry-1.docker.io"}
    for document in _documents():
        helpers = document.get("credHelpers")
        helper = helpers.get(host) if isinstance(helpers, dict) else None
        found = document.get("auths")
        auths: dict[str, Any] = found if isinstance(found, dict) else {}
        for name in wanted & set(auths):
            text = auths[name].get("auth") if isinstance(auths[name], dict) else None
            if isinstance(text, str) and text:
                user, _, password = base64.b64decode(text).decode().partition(":")
                return user, password.rstrip("\0")
            helper = helper or document.get("credsStore")
        if isinstance(helper, str) and _HELPER.fullmatch(helper) and (account := _helped(helper, sorted(wanted))):
            return account
    return None


def _documents() -> Iterator[dict[str, Any]]:
    runtime = os.environ.get("XDG_RUNTIME_DIR", "/run/user/none")
    places = [
        os.environ.get("REGISTRY_AUTH_FILE", ""),
        f"{runtime}/containers/auth.json",
        "~/.config/containers/auth.json",
        f"{os.environ.get('DOCKER_CONFIG') or '~/.docker'}/config.json",
    ]
    for place in filter(None, places):
        try:
            found = json.loads(Path(place).expanduser().read_bytes())
        except (OSError, ValueError, RecursionError, RuntimeError):
            continue
        if isinstance(found, dict):
            yield found


def _helped(helper: str, servers: list[str]) -> tuple[str, str] | None:
    """What the program docker-credential-HELPER knows."""
    for server in servers:
        try:
            done = subprocess.run(
                [f"docker-credential-{helper}", "get"],
                input=server.encode(), capture_output=True, timeout=_HELPER_SECONDS, check=False,
            )  # fmt: skip
            found = json.loads(done.stdout) if done.returncode == 0 else {}
        except (OSError, ValueError, subprocess.TimeoutExpired):
            continue
        match found:
            case {"Username": str(user), "Secret": str(secret)} if user and user != "<token>":
                return user, secret
    return None
