"""The daemon: a host that stays, and the socket by which commands reach it.  Specified in docs/daemon.md.

One process a user.  The machine runs on a thread of its own (Host.start()); each connection has a thread, so a call that
takes long holds up nobody else.  Only the user and root are let in; a message that is wrong ends the connection it came
on, and nothing else.
"""

from __future__ import annotations

import fcntl
import logging
import logging.handlers
import os
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xenfast
from xenfast.errors import XenError, XenfastError
from xenfast.libxl import daemon_streams, protocol
from xenfast.libxl.daemon_calls import call as call_method
from xenfast.libxl.host import DEFAULT_MEMORY, Host, physical_memory
from xenfast.libxl.supervise import Supervisor

log = logging.getLogger("xenfast")

MAX_CONNECTIONS = 256
PATIENCE = 10.0             # s that the rest of a message may take, and the greeting
LOG_SIZE, LOGS_KEPT = 4 << 20, 2
CONSOLE_KEPT = 1 << 16      # characters of a console that are kept for expect() inside the daemon
HEADROOM = 512              # MiB of the real machine that guests do not get


class AlreadyRuns(XenfastError):
    """Another daemon holds the lock of the directory."""


class Daemon:
    """What a request can reach."""

    def __init__(self, directory: Path, memory: int | None = None, idle_exit: float | None = None) -> None:
        self.directory = directory
        self.idle_exit = idle_exit              # s without domains and connections, after which it ends
        self._lock_file = self._take_lock()
        self.listener = self._listen()
        if memory is None:
            memory = max(DEFAULT_MEMORY, (physical_memory() or DEFAULT_MEMORY) - HEADROOM)
            memory = min(memory, physical_memory() or memory)
        self.started = time.time()
        self.host = Host(memory)
        self.supervisor = Supervisor(self.host, directory / "dump")
        self.consoles = daemon_streams.Consoles(self.host)
        self.supervisor.leaving, self.supervisor.arrived = self.consoles.leaving, self.consoles.arrived
        self.creating = threading.Lock()
        self._sessions: set[Session] = set()
        self._sessions_lock = threading.Lock()
        self._stopping = threading.Event()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)

    def _take_lock(self) -> int:
        fd = os.open(self.directory / protocol.LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise AlreadyRuns("the daemon runs already") from None
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
        return fd

    def _listen(self) -> socket.socket:
        path = self.directory / protocol.SOCKET
        path.unlink(missing_ok=True)            # the lock is ours: it is of a daemon that is no more
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        except OSError as error:
            raise XenfastError(f"the socket {path} cannot be made: {error.strerror or error}") from None
        finally:
            os.umask(before)
        listener.listen(128)
        return listener

    # --- the main thread ---------------------------------------------------------------------------------------------
    def run(self, ready: Callable[[], Any] | None = None) -> None:
        """Serve until stop(); the host and its domains end with it."""
        self.host.start()
        log.info("the daemon runs: pid %d, xenfast %s, %d MiB of memory, in %s", os.getpid(), xenfast.__version__,
                 self.host.hypervisor.memory.frames >> 8, self.directory)
        if ready is not None:
            ready()
        try:
            self._accept()
        finally:
            self.close()

    def _accept(self) -> None:
        selector = selectors.DefaultSelector()
        self.listener.setblocking(False)
        selector.register(self.listener, selectors.EVENT_READ)
        selector.register(self._wake_read, selectors.EVENT_READ)
        idle_since = time.monotonic()
        while not self._stopping.is_set():
            busy = bool(self._sessions or self.host.domains)
            if busy:
                idle_since = time.monotonic()
            elif self.idle_exit is not None and time.monotonic() - idle_since >= self.idle_exit:
                log.info("nothing to do for %g seconds: the daemon ends", self.idle_exit)
                return
            for key, _ in selector.select(1.0 if self.idle_exit is not None else None):
                if key.fileobj is self.listener:
                    self._admit()
                else:
                    os.read(self._wake_read, 4096)

    def _admit(self) -> None:
        try:
            sock, _ = self.listener.accept()
        except OSError as error:                # gone already, or no file handles are left
            log.warning("a connection could not be taken: %s", error)
            time.sleep(0.05)
            return
        uid = protocol.peer_uid(sock)
        with self._sessions_lock:
            room = len(self._sessions) < MAX_CONNECTIONS
        if uid not in (None, 0, os.geteuid()) or not room:
            log.warning("a connection of uid %s is refused: %s", uid, "there are too many" if not room else "it is another user's")
            sock.close()
            return
        session = Session(self, sock)
        with self._sessions_lock:
            self._sessions.add(session)
        try:
            threading.Thread(target=session.serve, name="connection", daemon=True).start()
        except RuntimeError as error:           # no more threads
            log.error("a connection could not be served: %s", error)
            session.end()

    def forget(self, session: Session) -> None:
        with self._sessions_lock:
            self._sessions.discard(session)
        self._wake()

    def _wake(self) -> None:
        try:
            os.write(self._wake_write, b"x")
        except OSError:
            pass

    def stop(self, *_: Any) -> None:
        """From any thread, or a signal."""
        self._stopping.set()
        self._wake()

    def close(self) -> None:
        self.supervisor.close()
        (self.directory / protocol.SOCKET).unlink(missing_ok=True)
        self.listener.close()
        self.consoles.close()
        with self._sessions_lock:
            sessions = list(self._sessions)
        for session in sessions:
            session.hang_up()
        self.host.close()
        log.info("the daemon has ended")
        os.close(self._lock_file)

    def status(self) -> dict[str, Any]:
        """What ``xenfast daemon --status`` says."""
        return {
            "pid": os.getpid(),
            "version": xenfast.__version__,
            "directory": str(self.directory),
            "uptime_seconds": round(time.time() - self.started, 3),
            "domains": len(self.host.domains),
            "connections": len(self._sessions),
            "memory_mib": self.host.hypervisor.memory.frames >> 8,
            "free_memory_mib": self.host.hypervisor.memory.free_pages >> 8,
        }


class Session:
    """A connection: one request after the other, until it closes or becomes a stream."""

    def __init__(self, daemon: Daemon, sock: socket.socket) -> None:
        self.daemon, self.sock = daemon, sock

    def serve(self) -> None:
        try:
            self.sock.settimeout(PATIENCE)
            protocol.check_greeting(protocol.receive(self.sock, protocol.MAX_REQUEST, PATIENCE))
            protocol.send(self.sock, protocol.greeting() | {"version": xenfast.__version__, "pid": os.getpid()})
            while True:
                self.sock.settimeout(None)
                request = protocol.receive(self.sock, protocol.MAX_REQUEST, PATIENCE)
                stream = self._answer(request)
                if stream is not None:
                    stream(self.sock)
                    return
        except protocol.Closed:
            pass
        except protocol.ProtocolError as error:
            self._refuse(str(error))
        except TimeoutError:
            self._refuse("no greeting in time")
        except OSError as error:
            log.debug("a connection has ended: %s", error)
        except Exception:
            log.exception("a connection failed")
        finally:
            self.end()

    def _answer(self, request: dict[str, Any]) -> Callable[[socket.socket], None] | None:
        """Do what is asked and reply; a function, when the connection is to become a stream."""
        number, method, params = request.get("id"), request.get("method"), request.get("params", {})
        if not isinstance(number, int) or not isinstance(method, str) or not isinstance(params, dict):
            raise protocol.ProtocolError("a request without id, method or params")
        stream = None
        try:
            result = call_method(self.daemon, method, params)
            if isinstance(result, daemon_streams.Stream):
                stream, result = result.serve, {"stream": result.kind}
            reply = {"id": number, "result": result}
        except XenfastError as error:
            reply = _error(number, "user", str(error))
        except XenError as error:
            reply = _error(number, "errno", os.strerror(error.errno))
        except MemoryError:
            reply = _error(number, "user", "the host has not enough memory")
        except Exception as error:
            log.exception("%s failed", method)
            reply = _error(number, "internal", f"internal error: {type(error).__name__}: {error} (the daemon's log says where)")
        self._reply(reply, number)
        return stream

    def _reply(self, reply: dict[str, Any], number: int) -> None:
        data = protocol.pack(reply)
        if len(data) > protocol.MAX_REPLY:
            data = protocol.pack(_error(number, "user", "the answer is too long"))
        self.sock.sendall(data)

    def _refuse(self, why: str) -> None:
        log.warning("a connection is closed: %s", why)
        try:
            self.sock.settimeout(1.0)
            protocol.send(self.sock, _error(None, "protocol", why))
        except OSError:
            pass

    def hang_up(self) -> None:
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def end(self) -> None:
        self.sock.close()
        self.daemon.forget(self)


def _error(number: int | None, kind: str, message: str) -> dict[str, Any]:
    return {"id": number, "error": {"kind": kind, "message": " ".join(message.split())}}


# --- the process -----------------------------------------------------------------------------------------------------
def serve(*, memory: int | None, idle_exit: float | None, ready_fd: int | None, verbose: bool = False) -> None:
    """Be the daemon, in this process, until somebody stops it.  A reader of ``ready_fd`` gets "ready", or what is wrong."""
    directory = protocol.run_directory(create=True)
    handler = _log_to(directory / protocol.LOG, verbose)
    try:
        daemon = Daemon(directory, memory, idle_exit)
    except AlreadyRuns:
        _tell(ready_fd, "ready")                # another was quicker, which will do as well
        if ready_fd is None:
            raise
        return
    except XenfastError as error:
        _tell(ready_fd, str(error))
        raise
    finally:
        log.debug("started in %s", directory)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, daemon.stop)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        daemon.run(lambda: _tell(ready_fd, "ready"))
    finally:
        handler.close()


def _log_to(path: Path, verbose: bool) -> logging.Handler:
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=LOG_SIZE, backupCount=LOGS_KEPT, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    logger = logging.getLogger("xenfast")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    logger.propagate = False
    return handler


def _tell(fd: int | None, text: str) -> None:
    if fd is not None:
        try:
            os.write(fd, text.encode())
            os.close(fd)
        except OSError:
            pass
