"""How commands talk to the daemon: messages on a UNIX socket, and where that is.  Specified in docs/daemon.md.

A message is four bytes of length, most significant first, and so many bytes of JSON, which is an object.  A connection
begins with a greeting from each side that names the version; then come requests, each answered by one reply:

    {"id": 1, "method": "domain.list", "params": {}}        {"id": 1, "result": [...]}
                                                            {"id": 1, "error": {"kind": "user", "message": "..."}}

A reply that says {"stream": "raw"} is followed by plain bytes in both directions until one side closes; one that says
{"stream": "messages"} by messages without an id.  Imports nothing that takes time: commands must start quickly.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import struct
from pathlib import Path
from typing import Any

from xenfast.errors import XenfastError

VERSION = 1
MAX_REQUEST = 1 << 20           # bytes of a message to the daemon
MAX_REPLY = 64 << 20            # and of one from it
SOCKET, LOG, LOCK = "socket", "log", "lock"
DIRECTORY = "XENFAST_RUNTIME_DIR"       # environment variable: where the daemon is, instead of the usual place
_LENGTH = struct.Struct(">I")


class ProtocolError(Exception):
    """The other side does not keep to the protocol."""


class Closed(ProtocolError):
    """The other side has closed the connection between two messages."""


# --- messages --------------------------------------------------------------------------------------------------------
def pack(message: dict[str, Any]) -> bytes:
    data = json.dumps(message, separators=(",", ":"), default=str).encode()
    return _LENGTH.pack(len(data)) + data


def unpack(data: bytes) -> dict[str, Any]:
    """The JSON of a message; ProtocolError for whatever else it is."""
    try:
        message = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not JSON: {type(error).__name__}") from None
    if not isinstance(message, dict):
        raise ProtocolError("not an object")
    return message


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def send(sock: socket.socket, message: dict[str, Any]) -> None:
    sock.sendall(pack(message))


def receive(sock: socket.socket, limit: int = MAX_REPLY, patience: float | None = None) -> dict[str, Any]:
    """The next message; Closed when there is none any more, ProtocolError for a wrong one.

    ``patience`` is how many seconds the rest of a message that has begun may take.
    """
    first = sock.recv(1)
    if not first:
        raise Closed("closed")
    before = sock.gettimeout()
    if patience is not None:
        sock.settimeout(patience)
    try:
        (length,) = _LENGTH.unpack(first + _exactly(sock, 3))
        if not 2 <= length <= limit:
            raise ProtocolError(f"a message of {length} bytes")
        return unpack(_exactly(sock, length))
    except TimeoutError:
        raise ProtocolError("a message that does not end") from None
    finally:
        if patience is not None:
            sock.settimeout(before)


def _exactly(sock: socket.socket, count: int) -> bytes:
    parts = []
    while count:
        data = sock.recv(min(count, 1 << 16))
        if not data:
            raise ProtocolError("a message that was cut off")
        parts.append(data)
        count -= len(data)
    return b"".join(parts)


def greeting() -> dict[str, Any]:
    return {"hello": "xenfast", "protocol": VERSION}


def check_greeting(message: dict[str, Any]) -> None:
    if message.get("hello") != "xenfast":
        raise ProtocolError("no greeting")
    if message.get("protocol") != VERSION:
        raise ProtocolError(f"version {message.get('protocol')!r} of the protocol, and this is version {VERSION}")


# --- where the daemon is ---------------------------------------------------------------------------------------------
def run_directory(create: bool = False) -> Path:
    """The user's directory for the daemon's socket, log and lock: theirs alone, or XenfastError."""
    named, runtime = os.environ.get(DIRECTORY), os.environ.get("XDG_RUNTIME_DIR")
    if named:
        path = Path(named)
    elif runtime and os.path.isdir(runtime):
        path = Path(runtime) / "xenfast"
    else:
        path = Path(f"/tmp/xenfast-{os.geteuid()}")
    if create:
        try:
            path.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            pass
        except OSError as error:
            raise XenfastError(f"the directory {path} cannot be made: {error.strerror}") from None
    check_directory(path)
    return path


def check_directory(path: Path) -> None:
    """Refuse a directory in which others could have put their own socket, or reach ours."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise XenfastError(f"the directory {path} cannot be used: {error.strerror}") from None
    if not stat.S_ISDIR(status.st_mode):
        raise XenfastError(f"{path} is not a directory, so the daemon's socket cannot be there")
    if status.st_uid != os.geteuid():
        raise XenfastError(f"the directory {path} belongs to another user (uid {status.st_uid}), so it is not used")
    if status.st_mode & 0o077:
        raise XenfastError(f"the directory {path} is open to others (mode {status.st_mode & 0o777:o}); chmod 700 it")


def connect(directory: Path) -> socket.socket | None:
    """A connection to the daemon of a directory; None when there is none."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.connect(str(directory / SOCKET))
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        return None
    except OSError as error:
        sock.close()
        raise XenfastError(f"the daemon cannot be reached: {error.strerror}") from None
    return sock


def peer_uid(sock: socket.socket) -> int | None:
    """Who is at the other end; None where the system does not tell."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    data = sock.getsockopt(socket.SOL_SOCKET, option, 12)
    return int(struct.unpack("3i", data)[1])
