"""A command's side of the daemon's socket: connect, start the daemon if need be, call.

Nothing here imports the machine: a command that only asks a question must be quick.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from xenfast.errors import XenfastError
from xenfast.libxl import protocol

START_TIMEOUT = 30.0
GREETING_TIMEOUT = 10.0


class NoDaemon(XenfastError):
    """There is no daemon, and the command does not start one."""


class Client:
    """A connection to the daemon."""

    def __init__(self, *, start: bool = True) -> None:
        self.directory = protocol.run_directory(create=start)
        sock = protocol.connect(self.directory)
        if sock is None and start:
            start_daemon(self.directory)
            sock = protocol.connect(self.directory)
        if sock is None:
            raise NoDaemon("the daemon does not run")
        self.sock: socket.socket = sock
        self._id = 0
        self._greet()

    def _greet(self) -> None:
        self.sock.settimeout(GREETING_TIMEOUT)
        try:
            protocol.send(self.sock, protocol.greeting())
            protocol.check_greeting(protocol.receive(self.sock))
        except (protocol.ProtocolError, OSError) as error:
            what = "it does not answer" if isinstance(error, TimeoutError) else str(error)
            raise XenfastError(f"the daemon cannot be talked to: {what} (xenfast daemon --stop ends it)") from None
        self.sock.settimeout(None)

    def call(self, method: str, **params: Any) -> Any:
        """The result of a method of the daemon's; its error is raised as XenfastError."""
        self._id += 1
        try:
            protocol.send(self.sock, {"id": self._id, "method": method, "params": params})
            reply = protocol.receive(self.sock)
        except (protocol.ProtocolError, OSError):
            raise XenfastError(f"the daemon has ended; its log is {self.directory / protocol.LOG}") from None
        error = reply.get("error")
        if error is not None:
            raise XenfastError(str(error.get("message", error)))
        return reply.get("result")

    def messages(self) -> Iterator[dict[str, Any]]:
        """What comes after a reply that begins a stream of messages."""
        while True:
            try:
                yield protocol.receive(self.sock)
            except (protocol.ProtocolError, OSError):
                return

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def call(method: str, **params: Any) -> Any:
    """One call on a connection of its own."""
    with Client() as client:
        return client.call(method, **params)


def start_daemon(directory: Path, *arguments: str) -> None:
    """Start the daemon in the background; returns when it answers, XenfastError says why it does not."""
    read, write = os.pipe()
    command = [sys.executable, "-m", "xenfast", "daemon", "--ready-fd", str(write), *arguments]
    here = str(Path(__file__).resolve().parents[2])         # the package may run from where it was unpacked
    path = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, protocol.DIRECTORY: str(directory.absolute()), "PYTHONPATH": path}
    try:
        with open(directory / protocol.LOG, "ab") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(write,), cwd="/",
                                       env=environment, start_new_session=True)
    except OSError as error:
        raise XenfastError(f"the daemon cannot be started: {error.strerror}") from None
    finally:
        os.close(write)
    try:
        said = _read_all(read, START_TIMEOUT)
    finally:
        os.close(read)
    if said != "ready":
        process.poll()
        raise XenfastError(said or f"the daemon has not started; its log is {directory / protocol.LOG}")


def _read_all(fd: int, timeout: float) -> str:
    end, data = time.monotonic() + timeout, b""
    while select.select([fd], [], [], max(0.0, end - time.monotonic()))[0]:
        piece = os.read(fd, 4096)
        if not piece:
            break
        data += piece
    return data.decode("utf-8", "replace").strip()
