"""What the process that checks metadata and its parent say to each other: JSON, so that neither runs the other's code.

A message is one of confinement's message_pipe; objects travel as base64. No I/O here.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelsync_daemon.trust.resolved import ObjectMissing, Resolved
from modelsync_protocol import caps
from modelsync_protocol.errors import LocalError, ModelsyncError, RefusedError, UnreachableError, UsageError

MAX_MESSAGE_BYTES = 2 * caps.MAX_BUNDLE_BYTES
"""Of one message: an object of metadata, or the offers of a bundle, in base64 with room around it."""

_KINDS: Mapping[str, type[ModelsyncError]] = {
    "missing": ObjectMissing,
    "usage": UsageError,
    "refused": RefusedError,
    "unreachable": UnreachableError,
    "local": LocalError,
    "error": ModelsyncError,
}


@dataclass(frozen=True, slots=True)
class Question:
    """What the trust store in `directory` is asked; `root`: root.json to seed it with first."""

    directory: Path
    root: bytes | None
    model: str
    version: int | None
    carried: bool

    def encode(self) -> bytes:
        """As a message."""
        root = None if self.root is None else _text(self.root)
        return _message(
            directory=str(self.directory),
            root=root,
            model=self.model,
            version=self.version,
            carried=self.carried,
        )

    @classmethod
    def parse(cls, data: bytes) -> Question:
        """The reverse of `encode`."""
        document = json.loads(data)
        root = document.pop("root")
        return cls(**{**document, "directory": Path(document["directory"]), "root": root and base64.b64decode(root)})


def wish(path: str, limit: int) -> bytes:
    """The checker's wish to have the object at `path` fetched."""
    return _message(fetch=path, limit=limit)


def answer(resolved: Resolved) -> bytes:
    """The checker's last word."""
    return _message(
        resolved={
            "version": resolved.version,
            "digest": resolved.digest,
            "length": resolved.length,
            "newest": resolved.newest,
            "versions": {str(version): digest for version, digest in resolved.versions.items()},
            "withdrawn": sorted(resolved.withdrawn),
            "offers": _text(resolved.offers),
            "issued": resolved.issued,
            "requires": dict(resolved.requires),
        }
    )


def parse_answer(document: Mapping[str, Any]) -> Resolved:
    """The reverse of `answer`; ValueError, KeyError or TypeError for anything else."""
    found = Resolved(
        version=document["version"],
        digest=document["digest"],
        length=document["length"],
        newest=document["newest"],
        versions={int(version): digest for version, digest in document["versions"].items()},
        withdrawn=frozenset(document["withdrawn"]),
        offers=base64.b64decode(document["offers"], validate=True),
        issued=document["issued"],
        requires=dict(document["requires"]),
    )
    numbers = (found.version, found.length, found.newest, found.issued, *found.withdrawn)
    texts = (found.digest, *found.versions.values(), *found.requires, *found.requires.values())
    if not all(type(number) is int for number in numbers) or not all(isinstance(text, str) for text in texts):
        raise TypeError("a field has another type")
    return found


def trouble(error: ModelsyncError, number: int | None = None) -> bytes:
    """An error, either way; `number`: which of the parent's own it is, in the order in which it told them."""
    kind = next(kind for kind, root in _KINDS.items() if isinstance(error, root))
    return _message(error=kind, text=str(error), number=number)


def parse_trouble(document: Mapping[str, Any]) -> ModelsyncError:
    """The reverse of `trouble`, as one of the roots."""
    return _KINDS[document["error"]](str(document["text"]))


def fetched(data: bytes) -> bytes:
    """The parent's answer to a wish."""
    return _message(object=_text(data))


def parse_fetched(document: Mapping[str, Any]) -> bytes:
    """The reverse of `fetched`."""
    return base64.b64decode(document["object"], validate=True)


def parse(data: bytes) -> dict[str, Any]:
    """A message as a document; ValueError."""
    document = json.loads(data)
    if not isinstance(document, dict):
        raise ValueError("a message is no object")
    return document


def _message(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
