"""Links to other programs: frames through a stream socket, each behind its length in four bytes, big-endian.

That is the protocol of QEMU's ``-netdev stream`` and ``-netdev socket`` and of passt.  We connect, or wait for one peer
after the other (``server``).  Frames from switches are finished first, as the protocol has no word for what is not.
A peer that does not read loses frames; one that sends nonsense loses the connection.  A link that we made is made
anew when it breaks.
"""

import contextlib
import logging
import os
import socket
import struct
from typing import Any

from xenfast.dom0.net.frame import MAX_FRAME, MIN_FRAME
from xenfast.dom0.net.switch import Port
from xenfast.errors import XenfastError

log = logging.getLogger("xenfast")

LENGTH = struct.Struct(">I")
READ_SIZE = 1 << 17
MAX_PENDING = 1 << 20           # bytes for a peer that does not read
FRAMES_PER_TURN = 256           # of a peer, before others in domain 0 have theirs
RETRY_NS = 1_000_000_000


def parse_address(text: str) -> tuple[Any, Any]:
    """``unix:PATH`` or ``tcp:HOST:PORT`` as a family and an address."""
    kind, _, rest = text.partition(":")
    if kind == "unix" and rest:
        return socket.AF_UNIX, rest
    host, _, port = rest.rpartition(":")
    if kind == "tcp" and port.isdigit() and int(port) < 65536:
        return socket.AF_INET, (host or "127.0.0.1", int(port))
    raise XenfastError(f"{text!r} is not an address such as unix:/run/net.sock or tcp:127.0.0.1:5000")


class StreamLink:
    def __init__(self, loop: Any, port: Port, address: str, server: bool = False) -> None:
        self.loop, self.port, self.text, self.server = loop, port, address, server
        self.family, self.address = parse_address(address)
        self.listener: socket.socket | None = None
        self.peer: socket.socket | None = None
        self.data = bytearray()             # of frames that have not come whole
        self.pending = bytearray()          # what the peer has not taken
        self.timer: Any = None
        self.closed = False
        if server:
            self._listen()
        else:
            self._connect(first=True)
        port.receiver = self.send

    # --- connections -------------------------------------------------------------------------------------------------
    def _listen(self) -> None:
        listener = socket.socket(self.family, socket.SOCK_STREAM)
        try:
            if self.family == socket.AF_INET:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(self.address)
            else:
                with contextlib.suppress(FileNotFoundError):
                    if _is_dead(self.address):
                        os.unlink(self.address)
                before = os.umask(0o077)
                try:
                    listener.bind(self.address)
                finally:
                    os.umask(before)
            listener.listen(1)
        except OSError as error:
            listener.close()
            raise XenfastError(f"the network link {self.text} cannot listen: {error.strerror or error}") from None
        listener.setblocking(False)
        self.listener = listener
        self.loop.add_reader(listener.fileno(), self._accept)

    def _accept(self) -> None:
        assert self.listener is not None
        try:
            peer, _ = self.listener.accept()
        except OSError:
            return
        if self.peer is not None:
            peer.close()                    # one at a time
            return
        self._use(peer)

    def _connect(self, first: bool = False) -> None:
        self.timer = None
        peer = socket.socket(self.family, socket.SOCK_STREAM)
        peer.settimeout(2 if first else 0.2)
        try:
            peer.connect(self.address)
        except OSError as error:
            peer.close()
            if first:
                raise XenfastError(f"the network link {self.text} cannot connect: {error.strerror or error}") from None
            self._again()
            return
        self._use(peer)

    def _again(self) -> None:
        if not self.server and not self.closed and self.timer is None:
            self.timer = self.loop.call_later(RETRY_NS, self._connect)

    def _use(self, peer: socket.socket) -> None:
        peer.setblocking(False)
        if self.family == socket.AF_INET:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_PENDING)
        self.peer = peer
        self.data.clear()
        self.pending.clear()
        self.loop.add_reader(peer.fileno(), self._readable)

    def _lose(self, why: str) -> None:
        peer, self.peer = self.peer, None
        if peer is not None:
            log.info("the network link %s: %s", self.text, why)
            self.loop.remove_reader(peer.fileno())
            peer.close()
        self._again()

    # --- frames ------------------------------------------------------------------------------------------------------
    def send(self, frame: Any) -> bool:
        """To the peer; False when it does not read, or there is none."""
        if self.peer is None:
            return False
        if self.pending:
            self._drain()
            if len(self.pending) > MAX_PENDING or self.peer is None:
                return False
        parts = [LENGTH.pack(len(frame)), frame]
        if self.pending:
            for part in parts:
                self.pending += part
            return True
        try:
            sent = self.peer.sendmsg(parts)
        except BlockingIOError:
            return False
        except OSError as error:
            self._lose(str(error))
            return False
        if sent < 4 + len(frame):           # the rest must follow, whatever comes
            self.pending += (parts[0] + bytes(frame))[sent:]
        return True

    def _drain(self) -> None:
        assert self.peer is not None
        try:
            del self.pending[: self.peer.send(self.pending)]
        except BlockingIOError:
            pass
        except OSError as error:
            self._lose(str(error))

    def _readable(self) -> None:
        peer = self.peer
        if peer is None:
            return
        try:
            more = peer.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(str(error))
            return
        if not more:
            self._lose("the other end has closed it")
            return
        if self.pending:
            self._drain()
        self.data += more
        self._frames()

    def _frames(self) -> None:
        data, at = self.data, 0
        for _ in range(FRAMES_PER_TURN + READ_SIZE // MIN_FRAME):
            if len(data) - at < 4:
                break
            (size,) = LENGTH.unpack_from(data, at)
            if not MIN_FRAME <= size <= MAX_FRAME:
                self._lose(f"a frame of {size} bytes cannot be")
                return
            if len(data) - at < 4 + size:
                break
            self.port.send(bytes(data[at + 4 : at + 4 + size]))
            at += 4 + size
        del data[:at]

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self.port.close()
        if self.timer is not None:
            self.timer.cancel()
        self._lose("closed")
        if self.listener is not None:
            self.loop.remove_reader(self.listener.fileno())
            self.listener.close()
            if self.family == socket.AF_UNIX:
                with contextlib.suppress(OSError):
                    os.unlink(self.address)


def _is_dead(path: str) -> bool:
    """Is this the socket of a program that has gone?"""
    import stat

    if not stat.S_ISSOCK(os.stat(path).st_mode):
        return False
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.connect(path)
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    finally:
        probe.close()
    return False
