"""Where private keys live and which signs what. Signing metadata is not here.

A key folder holds `keys.json` (role → signers by URI), `root.json` (for devices), `offline/` and `online/` with
the PEM files of signers that are files. It is never inside a store.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from securesystemslib.signer import SIGNER_FOR_URI_SCHEME, CryptoSigner, Key, Signer, SSlibKey

from modelsync_protocol.errors import LocalError, RefusedError, UsageError
from modelsync_server.store import Store, durable
from modelsync_server.store.directory import DirectoryStore

OFFLINE = ("root", "targets")
ONLINE = ("snapshot", "timestamp", "models")
ROLES = OFFLINE + ONLINE
"""Who signs: TUF's four top-level roles, and `models` for every model's roles."""

_FILE_SCHEME = "file2"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of a role: its public half and where to sign with it."""

    key: Key
    uri: str

    def to_json(self) -> dict[str, Any]:
        return {"keyid": self.key.keyid, "uri": self.uri, "public": self.key.to_dict()}


class KeyStore:
    """The key folder of one store. Writing it is durable; private key files have mode 0600."""

    def __init__(
        self, folder: Path, store_id: str, roles: dict[str, list[Entry]], retired: list[Entry] | None = None
    ) -> None:
        self.folder = folder
        self.store_id = store_id
        self.roles = roles
        self.retired = retired or []

    @classmethod
    def create(cls, folder: Path, store_id: str) -> KeyStore:
        """Start an empty key folder; UsageError if it holds another store's keys already."""
        if (folder / "keys.json").exists():
            raise UsageError(f"{folder} holds the keys of another store already: choose another --keys folder.")
        try:
            for part in (folder, folder / "offline", folder / "online"):
                durable.make_folder(part, 0o700)
        except OSError as error:
            raise durable.local_error(folder, error) from error
        return cls(folder, store_id, {role: [] for role in ROLES})

    @classmethod
    def open(cls, folder: Path) -> KeyStore:
        """Read `keys.json`; RefusedError if there are no keys, LocalError if the file is damaged."""
        path = folder / "keys.json"
        try:
            document = json.loads(path.read_bytes())
            if document["format"] != _FORMAT:
                raise LocalError(f"{path} is of a newer format: use a newer modelsync.")
            roles = {role: [_entry(item) for item in document["roles"].get(role, [])] for role in ROLES}
            return cls(folder, str(document["store"]), roles, [_entry(item) for item in document["retired"]])
        except FileNotFoundError:
            raise RefusedError(
                f"there are no signing keys in {folder}: name their folder with --keys or MODELSYNC_KEYS."
            ) from None
        except OSError as error:
            raise durable.local_error(path, error) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LocalError(f"{path} is damaged ({error}): restore it from a backup.") from error

    @property
    def root_file(self) -> Path:
        """The root.json to give to devices."""
        return self.folder / "root.json"

    def save(self) -> None:
        """Write `keys.json`."""
        document = {
            "format": _FORMAT,
            "store": self.store_id,
            "roles": {role: [entry.to_json() for entry in entries] for role, entries in self.roles.items()},
            "retired": [entry.to_json() for entry in self.retired],
        }
        text = json.dumps(document, indent=1, sort_keys=True) + "\n"
        durable.write(self.folder / "keys.json", text.encode(), mode=0o600)

    def add(self, role: str, signer: CryptoSigner) -> Entry:
        """Keep a new private key for `role` as a file of mode 0600; `save` makes it known."""
        place = "offline" if role in OFFLINE else "online"
        name = f"{place}/{signer.public_key.keyid[:16]}.pem"
        path = self.folder / name
        if not path.exists():
            durable.write(path, signer.private_bytes, mode=0o600)
        return self.add_entry(role, Entry(signer.public_key, f"{_FILE_SCHEME}:{name}"))

    def add_entry(self, role: str, entry: Entry) -> Entry:
        """Let `entry` sign for `role` (any signer that securesystemslib knows); `save` makes it known."""
        self.roles[role].append(entry)
        return entry

    def keys_of(self, role: str) -> list[Key]:
        """The public keys that new metadata names for `role`."""
        return [entry.key for entry in self.roles[role]]

    def drop(self, role: str, keyids: Iterable[str]) -> None:
        """Retire keys of `role`: they sign nothing new, but they must still sign their own replacement."""
        gone = set(keyids)
        leaving = [entry for entry in self.roles[role] if entry.key.keyid in gone]
        self.retired += [entry for entry in leaving if entry not in self.retired]
        self.roles[role] = [entry for entry in self.roles[role] if entry not in leaving]

    def signers(self, keys: Iterable[Key]) -> list[Signer]:
        """Return a signer for each of `keys` that can sign here; keys that lie elsewhere are left out.

        LocalError if a private key file is there but unusable (damaged, readable by others, not ours to read).
        """
        entries = [*self.retired, *(entry for role in ROLES for entry in self.roles[role])]
        known = {entry.key.keyid: entry for entry in entries}
        found = (self._signer(known[key.keyid].uri, key) for key in keys if key.keyid in known)
        return [signer for signer in found if signer is not None]

    def _signer(self, uri: str, key: Key) -> Signer | None:
        scheme, _, place = uri.partition(":")
        if scheme != _FILE_SCHEME:
            try:
                return Signer.from_priv_key_uri(uri, key)
            except Exception as error:  # each signer back end has errors of its own
                raise LocalError(f"the signer {uri} can't be used: {error}.") from error
        path = self.folder / place
        try:
            mode = path.stat().st_mode
            if stat.S_IMODE(mode) & 0o077:
                raise LocalError(f"{path} is readable by others: run `chmod 600 {path}` first.")
            private = load_pem_private_key(path.read_bytes(), None)
            if not isinstance(key, SSlibKey):
                raise LocalError(f"{path} is of a kind that can't sign here: use its own signer URI.")
            return CryptoSigner(private, key)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise durable.local_error(path, error) from error
        except LocalError:
            raise
        except Exception as error:  # not a private key, or not this one
            raise LocalError(f"{path} is not the private key it should be: restore it from a backup.") from error


def store_id(first_root: bytes) -> str:
    """A store's identity: 16 hex digits of the SHA-256 of its first root."""
    return hashlib.sha256(first_root).hexdigest()[:16]


def key_folder(option: str | None, store: Store, identity: str) -> Path:
    """The key folder: `option` (--keys), else MODELSYNC_KEYS, else the user's configuration by store id.

    UsageError if it lies inside the store, where every device could read it.
    """
    chosen = option or os.environ.get("MODELSYNC_KEYS")
    if chosen:
        folder = Path(chosen).expanduser().absolute()
    else:
        base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
        folder = Path(base).expanduser().absolute() / "modelsync" / "keys" / identity
    if isinstance(store, DirectoryStore):
        inside = folder.resolve()
        if inside == store.root.resolve() or store.root.resolve() in inside.parents:
            raise UsageError(f"{folder} is inside the store, where private keys must not be: choose another folder.")
    return folder


def external_entry(uri: str | None, public: Path | None) -> Entry | None:
    """The entry for a signer that is no file of ours (`--uri`, `--public`); None if neither is given; UsageError."""
    if uri is None and public is None:
        return None
    if uri is None or public is None:
        raise UsageError("an external signer needs both --uri and --public (its public key in PEM).")
    if uri.partition(":")[0] not in SIGNER_FOR_URI_SCHEME:
        raise UsageError(f"{uri!r} is no signer: use one of {', '.join(sorted(SIGNER_FOR_URI_SCHEME))}.")
    try:
        key = SSlibKey.from_crypto(load_pem_public_key(public.read_bytes()))
    except OSError as error:
        raise UsageError(f"{public} can't be read: name the signer's public key file.") from error
    except Exception as error:  # unsupported kinds and damaged files, each library with errors of its own
        raise UsageError(f"{public} is no public key in PEM that can verify here: export it again.") from error
    return Entry(key, uri)


def _entry(item: dict[str, Any]) -> Entry:
    key = Key.from_dict(str(item["keyid"]), dict(item["public"]))
    return Entry(key, str(item["uri"]))
