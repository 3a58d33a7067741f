"""The system calls that a process which reads hostile bytes may not make, as a seccomp filter by libseccomp.

What is left: computing, memory, threads, reading and writing of open files, and opening of what the file layer allows;
for a process that fetches, connections to IP addresses too.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import os
from enum import Enum
from types import ModuleType
from typing import Any

_NETWORK = "socket socketcall connect bind listen accept accept4"
_PROCESSES = "fork vfork execve execveat ptrace process_vm_readv process_vm_writev pidfd_getfd pidfd_open kcmp"
_SIGNALS = "tkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_send_signal"
_KERNEL = (
    "io_uring_setup io_uring_enter io_uring_register bpf perf_event_open userfaultfd add_key keyctl request_key "
    "init_module finit_module delete_module kexec_load kexec_file_load reboot swapon swapoff acct quotactl syslog "
    "sethostname setdomainname settimeofday stime clock_settime clock_settime64 clock_adjtime adjtimex iopl ioperm "
    "vhangup lookup_dcookie nfsservctl personality"
)
_NAMESPACES = (
    "unshare setns mount umount umount2 pivot_root chroot move_mount open_tree fsopen fsmount fsconfig fspick "
    "mount_setattr name_to_handle_at open_by_handle_at fanotify_init"
)
_ATTRIBUTES = (  # which Landlock does not guard
    "chmod fchmod fchmodat chown chown32 fchown fchown32 lchown lchown32 fchownat utime utimes utimensat "
    "utimensat_time64 futimesat setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr mknod mknodat"
)
_HIDDEN_MEMORY = "memfd_create memfd_secret shmget shmat shmctl msgget msgsnd msgctl semget semctl mq_open"
_OTHERS = "ioprio_set migrate_pages move_pages process_madvise process_mrelease setrlimit"
_DENIED = " ".join((_NETWORK, _PROCESSES, _SIGNALS, _KERNEL, _NAMESPACES, _ATTRIBUTES, _HIDDEN_MEMORY, _OTHERS)).split()
_YOUNG = {"fchmodat2": 452, "setxattrat": 463, "removexattrat": 466, "open_tree_attr": 467, "file_setattr": 469}
"""Numbers, the same on every architecture, of calls that older versions of libseccomp don't know by name."""

_LISTENING = ("socket", "bind", "listen")
_WAITING = ("accept", "accept4")
_FOR_FETCHING = ("socket", "connect", "fchmod")
_AF_INET, _AF_INET6 = 2, 10

_NEEDED = ("socket", "clone3", "io_uring_setup", "ptrace", "execve")
_CHANGES = (
    "creat truncate truncate64 ftruncate ftruncate64 fallocate rename renameat renameat2 link linkat symlink symlinkat "
    "unlink unlinkat mkdir mkdirat rmdir flock"
)
_OPENS = {"open": 1, "openat": 2}
"""Calls that open a file, and which argument holds the flags."""
_CLONE_THREAD = 0x00010000
_LOW_32 = 0xFFFFFFFF
_TERMINAL_INPUT = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
_ASYNC_OWNER = (0x8901, 0x8902)  # FIOSETOWN, SIOCSPGRP: whom a descriptor sends signals to
_F_SETOWN, _F_SETSIG, _F_SETOWN_EX = 8, 10, 15
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER = 2
_INSTRUCTION_BYTES = 8
_SOCK_TYPE, _SOCK_DGRAM, _SOCK_RAW = 0xF, 2, 3


class Files(Enum):
    """What the filter leaves of files. A filter sees no paths: which files are read is another layer's business."""

    GUARDED = "guarded"
    """Whatever that other layer allows."""
    READ = "read"
    """Opening for reading; nothing is written, made, renamed or removed."""
    NONE = "none"
    """What is open already."""


def library() -> ModuleType | None:
    """Debian's python3-seccomp, or pyseccomp from PyPI, which has the same interface; None without libseccomp."""
    for name in ("seccomp", "pyseccomp"):
        try:
            return importlib.import_module(name)
        except (ImportError, RuntimeError, OSError):
            continue
    return None


def deny(lib: ModuleType, files: Files = Files.GUARDED, *, listens_to_nobody: bool = False) -> None:
    """Install the filter for this thread and those it starts; OSError or RuntimeError if that can't be done.

    A denied call fails with EPERM. A call by way of another architecture's entry ends the process (SIGSYS).
    `listens_to_nobody`: the making of a listening socket is denied by doing nothing and calling it done, for a library
    that gives up without one. What it takes for its socket is descriptor 0 (reader.py), on which it
    may wait for connections that don't come.
    """
    _rules(lib, files, os.getpid(), pretend=_LISTENING if listens_to_nobody else ()).load()


def program(lib: ModuleType, *, fetching: bool) -> bytes:
    """The filter as the kernel takes it (struct sock_filter[]), for whom libseccomp would cost too much memory.

    `fetching`: connections to IP addresses stay, and so does giving an open file its mode. No signal may be sent, not
    to itself either, since it is not known whose filter it will be. OSError or RuntimeError.
    """
    import tempfile  # random and more behind it, which only the process that compiles filters needs

    with tempfile.TemporaryFile() as file:
        _rules(lib, Files.GUARDED, None, fetching=fetching).export_bpf(file)
        file.seek(0)
        return file.read()


def install(program: bytes) -> None:
    """Install what `program` gave, for this thread and those it starts; OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    code = ctypes.create_string_buffer(program, len(program))
    wanted = _Program(len(program) // _INSTRUCTION_BYTES, ctypes.addressof(code))
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(wanted), 0, 0
    ):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class _Program(ctypes.Structure):
    _fields_ = (("instructions", ctypes.c_ushort), ("code", ctypes.c_void_p))


def _rules(
    lib: ModuleType, files: Files, pid: int | None, *, fetching: bool = False, pretend: tuple[str, ...] = ()
) -> Any:
    rules: Any = lib.SyscallFilter(lib.ALLOW)
    refused = lib.ERRNO(errno.EPERM)
    kept = _FOR_FETCHING if fetching else _WAITING if pretend else ()
    for name in _DENIED:
        if _known(lib, name) and name not in kept:
            rules.add_rule(lib.ERRNO(0) if name in pretend else refused, name)
    for name, number in _YOUNG.items():
        rules.add_rule(refused, name if _known(lib, name) else number)
    for name in _NEEDED:
        if not _known(lib, name):
            raise RuntimeError(f"this libseccomp does not know {name}")

    def masked(call: str, argument: int, mask: int, *values: int) -> None:
        for value in values:
            if _known(lib, call):
                rules.add_rule(refused, call, lib.Arg(argument, lib.MASKED_EQ, mask, value))

    def only(call: str, argument: int, value: int) -> None:
        if _known(lib, call):
            rules.add_rule(refused, call, lib.Arg(argument, lib.NE, value))

    rules.add_rule(lib.ERRNO(errno.ENOSYS), "clone3")  # its flags lie in memory; libraries fall back on clone
    masked("clone", 0, _CLONE_THREAD, 0)  # threads, but no processes
    for call in ("kill", "tgkill"):
        only(call, 0, pid) if pid is not None else rules.add_rule(refused, call)
    only("setpriority", 1, 0)
    for call in ("sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr"):
        only(call, 0, 0)
    only("prlimit64", 0, 0)
    if fetching:  # of the families, none that leads to this machine's services: IPv4 and IPv6 lead to the network
        for compare, family in ((lib.LT, _AF_INET), (lib.GT, _AF_INET6)):
            rules.add_rule(refused, "socket", lib.Arg(0, compare, family))
        for family in range(_AF_INET + 1, _AF_INET6):
            rules.add_rule(refused, "socket", lib.Arg(0, lib.EQ, family))
    else:
        only("sendto", 4, 0)  # no addresses: Unix sockets by path are nobody else's business
    masked("socketpair", 1, _SOCK_TYPE, _SOCK_DGRAM, _SOCK_RAW)
    masked("ioctl", 1, _LOW_32, *_TERMINAL_INPUT, *_ASYNC_OWNER)
    for call in ("fcntl", "fcntl64"):
        masked(call, 1, _LOW_32, _F_SETOWN, _F_SETSIG, _F_SETOWN_EX)
    masked("prctl", 0, _LOW_32, _PR_SET_PDEATHSIG)
    if files is not Files.GUARDED:
        rules.add_rule(lib.ERRNO(errno.ENOSYS), "openat2")  # its flags lie in memory; libraries fall back on openat
        for name in filter(lambda name: _known(lib, name), _CHANGES.split()):
            rules.add_rule(refused, name)
    if files is Files.READ:
        for flag in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC):
            for call, argument in _OPENS.items():
                masked(call, argument, flag, flag)
    if files is Files.NONE:
        for call in filter(lambda name: _known(lib, name), _OPENS):
            rules.add_rule(refused, call)
    return rules


def no_more_threads(lib: ModuleType) -> None:
    """Have every thread of this process start none from now on; OSError or RuntimeError."""
    rules: Any = lib.SyscallFilter(lib.ALLOW)
    rules.set_attr(lib.Attr.CTL_TSYNC, 1)
    rules.add_rule(lib.ERRNO(errno.EPERM), "clone")
    rules.load()


def _known(lib: ModuleType, name: str) -> bool:
    try:
        return int(lib.resolve_syscall(lib.Arch.NATIVE, name)) != -1
    except (ValueError, OSError, RuntimeError):
        return False
