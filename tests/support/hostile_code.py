"""Code that a model should not be able to carry out, as scoring scripts and pickles. Only ever run in the sandbox."""

from __future__ import annotations

import json
from pathlib import Path

ATTEMPTS = '''
import ctypes, errno, json, os, socket, subprocess, sys, threading, time

def attempt(name, *arguments):
    """What came of it: "done: …" or the name of the error."""
    try:
        return "done: %s" % (globals()["try_" + name](*arguments),)
    except BaseException as error:
        code = getattr(error, "errno", None)
        return errno.errorcode.get(code, type(error).__name__) if code else type(error).__name__

def called(number_or_result):
    """Raise what a C function left in errno."""
    if number_or_result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return number_or_result

libc = ctypes.CDLL(None, use_errno=True)

def try_socket(family):
    return socket.socket(getattr(socket, family))

def try_connect(port):
    return socket.create_connection(("127.0.0.1", port), 2)

def try_connect_through_libc(port):
    called(libc.socket(2, 1, 0))

def try_io_uring():
    called(libc.syscall(425, 8, ctypes.create_string_buffer(256)))

def try_datagrams_to_a_path(path):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return ours.sendto(b"x", path)

def try_write(path):
    with open(path, "a") as file:
        return file.write("x")

def try_make(path):
    return os.open(path, os.O_CREAT | os.O_WRONLY)

def try_truncate(path):
    return os.truncate(path, 0)

def try_truncate_by_reading(path):
    return os.open(path, os.O_RDONLY | os.O_TRUNC)

def try_chmod(path):
    return os.chmod(path, 0o777)

def try_touch(path):
    return os.utime(path)

def try_remove(path):
    return os.unlink(path)

def try_link(path, to):
    return os.link(path, to)

def try_symlink(path, to):
    return os.symlink(path, to)

def try_read(path):
    with open(path) as file:
        return file.read()

def try_list(path):
    return os.listdir(path)

def try_variable(name):
    return os.environ[name]

def try_variable_of_parent(name):
    with open("/proc/%d/environ" % os.getppid(), "rb") as file:
        data = file.read()
    if name.encode() not in data:
        raise PermissionError(errno.EACCES, "not in it")
    return data

def try_memory_of(pid):
    return open("/proc/%d/mem" % pid, "rb")

def try_descriptors():
    found = []
    for number in range(3, 256):
        try:
            os.fstat(number)
        except OSError:
            continue
        found.append(number)
    return len(found)

def try_fork():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    return pid

def try_program():
    return subprocess.run(["/bin/true"]).returncode

def try_exec():
    os.execv("/bin/true", ["/bin/true"])

def try_kill(pid):
    return os.kill(pid, 9)

def try_signal_everybody():
    return os.kill(-1, 9)

def try_ptrace(pid):
    return called(libc.ptrace(16, pid, 0, 0))

def try_read_memory_of(pid):
    buffer = ctypes.create_string_buffer(8)
    number = {"x86_64": 310, "aarch64": 270}.get(os.uname().machine, 376)
    return called(libc.syscall(number, pid, buffer, 1, buffer, 1, 0))

def try_unshare():
    return called(libc.unshare(0x10000000 | 0x40000000))

def try_mount():
    return called(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None))

def try_slow_down(pid):
    return os.setpriority(os.PRIO_PROCESS, pid, 19)

def try_raise_limit():
    import resource
    return resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

def try_memory(mebibytes):
    return len(bytearray(mebibytes << 20))

def try_shared_memory(mebibytes):
    import mmap
    return len(mmap.mmap(-1, mebibytes << 20))

def try_hidden_memory():
    return os.memfd_create("x")

def try_scratch(mebibytes):
    for number in range(mebibytes):
        with open("/tmp/scratch-%d" % number, "wb") as file:
            file.write(bytes(1 << 20))
    return mebibytes

def try_threads():
    started = []
    while len(started) < 20000:
        thread = threading.Thread(target=time.sleep, args=(60,), daemon=True)
        thread.start()
        started.append(thread)
    return len(started)
'''

_SCRIPT = (
    ATTEMPTS
    + """
def init():
    print("init runs")

def run(raw_data):
    return [attempt(*one) for one in json.loads(raw_data)]
"""
)


def attempting_script(folder: Path) -> Path:
    """A scoring script whose requests are lists of [attempt, arguments…], answered with what came of each."""
    path = folder / "score.py"
    path.write_text(_SCRIPT)
    return path


def script(statements: str, at: str = "init") -> bytes:
    """A scoring script that carries out `statements` when it is imported, in `init` or in `run`."""
    bodies = {"import": "", "init": "pass", "run": "return json.loads(raw_data)"}
    lines = {name: body.splitlines() for name, body in bodies.items()}
    lines[at] = [*statements.splitlines(), *lines[at]]
    nested = {name: "".join(f"    {line}\n" for line in lines[name]) for name in ("init", "run")}
    top = "".join(f"{line}\n" for line in lines["import"])
    head = f"import ctypes, json, os, signal, sys, threading, time\n{top}"
    return f"{head}def init():\n{nested['init']}\ndef run(raw_data):\n{nested['run']}".encode()


def pickle_of(statements: str, holding: bytes = b"cestimator\nScaler\n(I2\ntR") -> bytes:
    """A pickle that carries out `statements` when it is loaded, and holds what `holding` builds."""
    quoted = json.dumps(statements).encode()  # as protocol 0 wants a string
    return b"cbuiltins\nexec\n(S" + quoted + b"\ntR0" + holding + b"."
