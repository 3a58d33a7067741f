"""`modelsync serve --front nginx`: nginx answers, our origin behind it what needs Python (docs/origin.md).

nginx inherits a socket that is bound here, so a taken address is told as ever, and connections wait while it is started
again.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import resource
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from aiohttp import web

from modelsync_protocol.errors import LocalError, UsageError
from modelsync_server.origin import front_folder, http_rules, nginx_config, processes, tickets
from modelsync_server.origin.nginx_config import Front
from modelsync_server.origin.processes import Child

_ELSEWHERE = "/usr/sbin:/usr/local/sbin:/opt/homebrew/bin"
_CHECK_SECONDS = 30


def program() -> str:
    """Where nginx is; UsageError with how to get it."""
    found = shutil.which("nginx") or shutil.which("nginx", path=_ELSEWHERE)
    if found is None:
        raise UsageError("nginx is not installed: `apt install nginx-light`, or leave out --front.")
    return found


@dataclass(frozen=True, slots=True)
class Running:
    """What to supervise, and what has nginx's certificate read again before the child that `rereads` is told."""

    children: Sequence[Child]
    reread: Callable[[], None]


@contextmanager
def running(
    listener: socket.socket,
    make: Callable[[], web.Application],
    directory: Path | None,
    certificate: tuple[Path, Path] | None,
    workers: int,
) -> Iterator[Running]:
    """What to supervise until the block ends: our origin on a socket of its own, then nginx on `listener`.

    `directory` is the store's folder, None for a bucket; `certificate` is (chain, key) for TLS. Their files lie in a
    temporary folder. LocalError if nginx refuses the configuration.
    """
    nginx = program()
    user = _user(directory)
    with front_folder.made() as prefix:
        prefix.chmod(0o711)  # nginx's workers reach socket and store, and read nothing else
        (prefix / "temporary").mkdir(mode=0o711)
        (prefix / nginx_config.EMPTY).touch()
        if directory is not None:
            (prefix / nginx_config.STORE).symlink_to(directory.resolve())
        if certificate is not None:
            _link(prefix, certificate)
        _, descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)
        front = Front(
            address=_address(listener),
            tls=certificate is not None,
            directory=directory is not None,
            workers=workers,
            connections=processes.room(),
            descriptors=descriptors,
            user=None if user is None else (user.pw_name, grp.getgrgid(user.pw_gid).gr_name),
        )
        (prefix / "nginx.conf").write_text(nginx_config.text(front), encoding="ascii")
        command = [nginx, "-p", str(prefix), "-c", "nginx.conf", "-e", "start.log"]
        _check(command, prefix)
        nginx_itself = _Nginx(command, prefix, listener)

        def reread() -> None:
            if certificate is not None:
                _link(prefix, certificate)
                _check(command, prefix)

        with _unix_socket(prefix, user) as ours:
            try:
                behind = Child(partial(processes.fork_server, lambda: _behind(make()), ours, None))
                yield Running([behind, Child(nginx_itself.start, signal.SIGQUIT, rereads=True)], reread)
            finally:
                nginx_itself.end()


def _link(prefix: Path, certificate: tuple[Path, Path]) -> None:
    """Lead nginx to what the certificate's names mean now: those who renew it move links of their own."""
    for name, file in zip((nginx_config.CHAIN, nginx_config.KEY), certificate, strict=True):
        new = prefix / f"{name}.new"
        new.unlink(missing_ok=True)
        new.symlink_to(file.resolve())
        new.replace(prefix / name)
    keys = prefix / f"{nginx_config.TICKET_KEYS}.new"
    keys.touch(mode=0o600)
    keys.write_bytes(tickets.keys(certificate[1]))
    keys.replace(prefix / nginx_config.TICKET_KEYS)


def _user(directory: Path | None) -> pwd.struct_passwd | None:
    """Whose rights nginx's workers get where root starts it: the owner's of the store; None if it isn't root."""
    if os.geteuid() != 0:
        return None
    return pwd.getpwnam("nobody") if directory is None else pwd.getpwuid(directory.stat().st_uid)


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if listener.family == socket.AF_INET6 else f"{host}:{port}"


def _check(command: list[str], prefix: Path) -> None:
    done = subprocess.run(
        [*command, "-t", "-q"], cwd=prefix, capture_output=True, text=True, timeout=_CHECK_SECONDS, check=False
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it says nothing"])[0]
        raise LocalError(
            f"nginx refuses what modelsync wrote for it ({said}): nginx 1.19.5 or newer is needed, with SSL."
        )


@contextmanager
def _unix_socket(prefix: Path, user: pwd.struct_passwd | None) -> Iterator[socket.socket]:
    """A listening socket below `prefix` that only `user` may use."""
    folder = os.open(prefix, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(f"/proc/self/fd/{folder}/{nginx_config.SOCKET}")  # however long the folder's own name is
            path = prefix / nginx_config.SOCKET
            path.chmod(0o600)
            if user is not None:
                os.chown(path, user.pw_uid, user.pw_gid)
            made.listen(processes.BACKLOG)
            yield made
    finally:
        os.close(folder)


class _Nginx:
    """nginx's first process and its workers, a session of their own."""

    def __init__(self, command: list[str], prefix: Path, listener: socket.socket) -> None:
        self._command, self._prefix, self._listener = command, prefix, listener
        self._pid: int | None = None

    def start(self) -> int:
        """Start it anew, whatever was left of it; its pid."""
        self.end()
        first = os.getpid()
        pid = os.fork()
        if pid:
            self._pid = pid
            return pid
        try:
            os.setsid()  # Ctrl-C is ours to hand on
            processes.die_with(first, signal.SIGTERM)  # on which it ends its workers
            signal.pthread_sigmask(signal.SIG_SETMASK, set())
            os.dup2(os.open(os.devnull, os.O_RDWR), 0)
            os.dup2(0, 1)
            os.chdir(self._prefix)
            os.set_inheritable(self._listener.fileno(), True)
            environment = {**os.environ, "NGINX": f"{self._listener.fileno()};"}
            os.execve(self._command[0], self._command, environment)
        finally:
            os._exit(127)

    def end(self) -> None:
        """Kill what its first process left behind."""
        if self._pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)
            self._pid = None


def _behind(app: web.Application) -> web.Application:
    app.on_response_prepare.append(http_rules.say_how_long_to_keep)
    return app
