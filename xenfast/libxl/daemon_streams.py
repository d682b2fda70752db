"""Connections of the daemon that have become streams: consoles, events, watches of the store."""

from __future__ import annotations

import os
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from xenfast.libxl import protocol
from xenfast.libxl.events import Event

if TYPE_CHECKING:
    from xenfast.libxl.domain import Domain
    from xenfast.libxl.host import Host

BACKLOG = 256 << 10         # bytes of a console that nobody watches, which the next viewer gets
VIEWER_LIMIT = 4 << 20      # bytes that a viewer may be behind; older ones are lost
EVENTS_LIMIT = 4096         # events a listener may be behind
TYPED_AT_ONCE = 4096


class Stream:
    """What a method returns when its connection is to become a stream."""

    kind = "messages"

    def serve(self, sock: socket.socket) -> None:
        raise NotImplementedError


class Outbox:
    """Bytes on their way to a connection: put in on any thread, bounded."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.lock = threading.Lock()
        self.chunks: deque[bytes] = deque()
        self.size = 0
        self.over = False
        self.read_fd, self._write_fd = os.pipe()
        os.set_blocking(self.read_fd, False)
        os.set_blocking(self._write_fd, False)

    def put(self, data: bytes) -> None:
        with self.lock:
            if self._write_fd < 0:
                return
            self.chunks.append(data)
            self.size += len(data)
            while self.size > self.limit and len(self.chunks) > 1:
                self.size -= len(self.chunks.popleft())
            self._wake()

    def finish(self) -> None:
        """Nothing comes any more: the connection closes when all has been sent."""
        with self.lock:
            self.over = True
            self._wake()

    def _wake(self) -> None:
        if self._write_fd >= 0:
            try:
                os.write(self._write_fd, b"x")
            except BlockingIOError:
                pass

    def take(self) -> bytes:
        try:
            os.read(self.read_fd, 4096)
        except BlockingIOError:
            pass
        with self.lock:
            data = b"".join(self.chunks)
            self.chunks.clear()
            self.size = 0
        return data

    def close(self) -> None:
        with self.lock:
            for fd in (self.read_fd, self._write_fd):
                if fd >= 0:
                    os.close(fd)
            self.read_fd = self._write_fd = -1


def pump(sock: socket.socket, outbox: Outbox, received: Callable[[bytes], Any]) -> None:
    """Carry bytes both ways until the other side closes, or nothing more can come."""
    sock.setblocking(False)
    selector = selectors.DefaultSelector()
    selector.register(sock, selectors.EVENT_READ)
    selector.register(outbox.read_fd, selectors.EVENT_READ)
    pending = b""
    try:
        while True:
            pending += outbox.take()
            if pending:
                try:
                    pending = pending[sock.send(pending) :]
                except BlockingIOError:
                    pass
            if not pending and outbox.over and not outbox.size:
                return
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if pending else 0)
            selector.modify(sock, wanted)
            for key, mask in selector.select():
                if key.fileobj is sock and mask & selectors.EVENT_READ:
                    try:
                        data = sock.recv(TYPED_AT_ONCE)
                    except BlockingIOError:
                        continue
                    if not data:
                        return
                    received(data)
    except ConnectionError:
        return
    finally:
        selector.close()


# --- consoles --------------------------------------------------------------------------------------------------------
class Tap:
    """A domain's console with its viewers; what nobody has seen is kept for the first who comes."""

    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        self.lock = threading.Lock()
        self.viewers: list[ConsoleStream] = []
        self.backlog = bytearray()
        domain.console.limit = 1 << 16
        self._stop = domain.console.on_output(self.output)

    def output(self, data: bytes) -> None:
        with self.lock:
            if not self.viewers:
                self.backlog += data
                del self.backlog[:-BACKLOG]
            for viewer in self.viewers:
                viewer.outbox.put(data)

    def add(self, viewer: ConsoleStream) -> None:
        with self.lock:
            if self.backlog:
                viewer.outbox.put(bytes(self.backlog))
                self.backlog.clear()
            self.viewers.append(viewer)
        viewer.tap = self

    def remove(self, viewer: ConsoleStream) -> None:
        with self.lock:
            if viewer in self.viewers:
                self.viewers.remove(viewer)

    def finish(self) -> None:
        self._stop()
        with self.lock:
            viewers, self.viewers = self.viewers, []
        for viewer in viewers:
            viewer.outbox.finish()


class Consoles:
    """The consoles of all domains of a host."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.taps: dict[int, Tap] = {}
        self.waiting: dict[int, list[ConsoleStream]] = {}       # viewers of a domain that is being made again
        self.lock = threading.Lock()
        self._stop = host.events.listen(self._event)

    def _event(self, event: Event) -> None:
        if event.kind == "created":
            self.tap(self.host.find(event.domid))
        elif event.kind == "destroyed":
            with self.lock:
                tap = self.taps.pop(event.domid, None)
            if tap is not None:
                tap.finish()

    def tap(self, domain: Domain) -> Tap:
        with self.lock:
            tap = self.taps.get(domain.domid)
            if tap is None:
                tap = self.taps[domain.domid] = Tap(domain)
            return tap

    def leaving(self, domain: Domain) -> None:
        """The domain is about to be made again: viewers that follow wait for the new one."""
        tap = self.tap(domain)
        viewers = [viewer for viewer in tap.viewers if viewer.follow]
        for viewer in viewers:
            tap.remove(viewer)
            viewer.tap = None
        self.waiting[domain.domid] = viewers

    def arrived(self, domid: int, successor: Domain | None) -> None:
        """... and here it is; None: it could not be made."""
        for viewer in self.waiting.pop(domid, []):
            if successor is None:
                viewer.outbox.finish()
            else:
                self.tap(successor).add(viewer)

    def close(self) -> None:
        self._stop()
        with self.lock:
            taps, self.taps = list(self.taps.values()), {}
        for tap in taps:
            tap.finish()


class ConsoleStream(Stream):
    """A viewer of a console; what it types goes to the guest."""

    kind = "raw"

    def __init__(self, consoles: Consoles, domain: Domain, follow: bool) -> None:
        self.follow = follow
        self.outbox = Outbox(VIEWER_LIMIT)
        self.tap: Tap | None = None
        consoles.tap(domain).add(self)

    def _typed(self, data: bytes) -> None:
        tap = self.tap
        if tap is not None:
            tap.domain.type_in(data)

    def serve(self, sock: socket.socket) -> None:
        try:
            pump(sock, self.outbox, self._typed)
        finally:
            if self.tap is not None:
                self.tap.remove(self)
            self.outbox.close()


# --- messages --------------------------------------------------------------------------------------------------------
class MessageStream(Stream):
    """Messages to a connection, as they come; what it sends is not looked at."""

    def __init__(self, begin: Callable[[Callable[[dict[str, Any]], None]], Callable[[], Any]]) -> None:
        self.outbox = Outbox(EVENTS_LIMIT * 256)
        self._end = begin(lambda message: self.outbox.put(protocol.pack(message)))

    def serve(self, sock: socket.socket) -> None:
        try:
            pump(sock, self.outbox, lambda data: None)
        finally:
            self._end()
            self.outbox.close()
