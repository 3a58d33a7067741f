"""The device's TUF client behind the command line of the public tuf-conformance suite (its CLIENT-CLI.md).

It runs `tufclient.Session`, the very code that the daemon refreshes with, on a repository that is not ours. Two things
differ from the daemon: the reference time is the system's clock (the suite turns that with faketime), and roles need
not carry our own field `role`, which no other publisher writes. docs/reliability.md says how to run the suite.
"""

from __future__ import annotations

import argparse
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote

from tuf.ngclient import Updater

from modelsync_daemon.trust import tuf_refresh
from modelsync_daemon.trust.origin_fetcher import OriginFetcher
from modelsync_daemon.trust.resolved import Fetch, ObjectMissing
from modelsync_protocol.errors import ModelsyncError, RefusedError, UnreachableError

_SECONDS = 10
_SEED = "seed"
"""Not *.json: the suite counts those as roles."""
_STORE_PREFIX = "metadata/"
"""Where a store of ours keeps its metadata; the suite's URL leads there already."""


def main() -> int:
    """Exit 0 if the command succeeded, 1 if any part of it was refused, as the suite wants it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--metadata-dir", type=Path, required=True)
    parser.add_argument("--metadata-url")
    parser.add_argument("--target-name", action="append", default=[])
    parser.add_argument("--target-dir")
    parser.add_argument("--target-base-url")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("trusted_root", type=Path)
    commands.add_parser("refresh")
    commands.add_parser("download")
    arguments = parser.parse_args()
    directory: Path = arguments.metadata_dir
    if arguments.command == "init":
        for name in (_SEED, "root.json"):
            (directory / name).write_bytes(arguments.trusted_root.read_bytes())
        return 0
    try:
        session = _session(directory, arguments.metadata_url)
        try:
            session.refresh(int(time.time()))
        finally:
            _show_root(directory, session)
        for name in arguments.target_name:
            _download(session, name, arguments.target_base_url, arguments.target_dir)
    except ModelsyncError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _session(directory: Path, url: str) -> tuf_refresh.Session:
    # The rule about our own field is tested with our own stores (tests/daemon/test_trust_attacks.py).
    tuf_refresh._DurableUpdater._persist_metadata = Updater._persist_metadata  # type: ignore[method-assign]
    seed = (directory / _SEED).read_bytes()
    return tuf_refresh.Session(
        directory, seed, "conformance", _fetch_from(url), None, False, set(), False, tuf_refresh.Kept()
    )


def _fetch_from(base: str) -> Fetch:
    def fetch(path: str, max_length: int) -> bytes:
        url = f"{base.rstrip('/')}/{path.removeprefix(_STORE_PREFIX)}"
        try:
            with urllib.request.urlopen(url, timeout=_SECONDS) as response:
                data: bytes = response.read(max_length + 1)
        except urllib.error.HTTPError as error:
            raise (ObjectMissing if error.code in (403, 404) else UnreachableError)(f"{url}: {error.code}") from error
        except OSError as error:
            raise UnreachableError(f"{url}: {error}") from error
        if len(data) > max_length:
            raise RefusedError(f"{url} is longer than {max_length} bytes.")
        return data

    return fetch


def _show_root(directory: Path, session: tuf_refresh.Session) -> None:
    """The suite looks for the trusted root in root.json; the daemon keeps each by its version only."""
    kept = directory / "root_history" / f"{session._trusted.root.version}.root.json"
    if kept.exists():
        (directory / "root.json").write_bytes(kept.read_bytes())


def _download(session: tuf_refresh.Session, name: str, base: str, target_dir: str) -> None:
    """Fetch one target by python-tuf's own way through delegations; the daemon only ever asks a model's two roles."""
    updater = session._updater
    with tuf_refresh._our_words():
        target = updater.get_targetinfo(name)
        if target is None:
            raise RefusedError(f"the repository has no target {name}.")
        updater.config.prefix_targets_with_hash = True
        if updater.find_cached_target(target, str(Path(target_dir) / _flat(name))) is not None:
            return
        updater._fetcher = _Targets(session._fetcher)
        try:
            updater.download_target(target, str(Path(target_dir) / _flat(name)), base)
        finally:
            updater._fetcher = session._fetcher


def _flat(name: str) -> str:
    return quote(name, safe="")


class _Targets(OriginFetcher):
    """Targets come by their whole URL."""

    def __init__(self, metadata: OriginFetcher) -> None:
        self._metadata = metadata

    def download_bytes(self, url: str, max_length: int) -> bytes:
        return _fetch_from(url.rpartition("/")[0])(url.rpartition("/")[2], max_length)


if __name__ == "__main__":
    sys.exit(main())
