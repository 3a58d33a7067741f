"""Landlock, by which a process gives up access to files for good. Linux 5.13 and newer, where the kernel has it.

Three system calls whose numbers are the same everywhere; the packages on PyPI know no 32-bit Arm or are unreleased.
Source: https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable
from pathlib import Path

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_VERSION = 1
_BENEATH, _PORT = 1, 2
_PR_SET_NO_NEW_PRIVS = 38

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE = 1 << 14
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_FS_BITS = {1: 13, 2: 14, 3: 15, 4: 15}  # how many file rights each version knows; 16 from the fifth on
_MAX_FS_BITS = 16
_NET, _CONNECT = 0b11, 0b10  # bind and connect TCP, from the fourth on
_SCOPES = 0b11  # abstract Unix sockets and signals of others, from the sixth on

_libc = ctypes.CDLL(None, use_errno=True)


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("descriptor", ctypes.c_int32))


class _Port(ctypes.Structure):
    _fields_ = (("allowed", ctypes.c_uint64), ("port", ctypes.c_uint64))


def version() -> int:
    """The version of the kernel's interface; 0: it has none. The third is the first that guards truncation."""
    found: int = _libc.syscall(_CREATE, None, ctypes.c_size_t(0), _VERSION)
    return max(found, 0)


def restrict(
    readable: Iterable[Path], writable: Iterable[Path], ports: Iterable[int] | None = (), *, alone: bool = True
) -> None:
    """Leave this thread, and those it starts, what lies beneath these paths; missing ones are passed over. OSError.

    TCP but to `ports` (None: it stays), abstract Unix sockets of others and signals to others (unless not `alone`) go
    too, where the version knows them.
    """
    abi = version()
    rights = (1 << _FS_BITS.get(abi, _MAX_FS_BITS)) - 1
    net = _NET if abi >= 4 and ports is not None else 0
    wanted = _Ruleset(rights, net, _SCOPES if abi >= 6 and alone else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = _call(_CREATE, ctypes.byref(wanted), ctypes.c_size_t(size), 0)
    try:
        for path in readable:
            _allow(ruleset, path, _READ & rights)
        for path in writable:
            _allow(ruleset, path, rights)
        for port in ports if ports is not None and abi >= 4 else ():
            _call(_ADD, ruleset, _PORT, ctypes.byref(_Port(_CONNECT, port)), 0)
        if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "no_new_privs")
        _call(_RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _FILE_RIGHTS
        _call(_ADD, ruleset, _BENEATH, ctypes.byref(_Beneath(rights, descriptor)), 0)
    finally:
        os.close(descriptor)


def _call(number: int, *arguments: object) -> int:
    result: int = _libc.syscall(number, *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
