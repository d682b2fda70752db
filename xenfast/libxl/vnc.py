"""The VNC server of a guest: it listens, compares pictures, and gives each client what has changed.

Everything happens on domain 0's event loop, without blocking: one epoll for all sockets, which the loop watches as one file.  A picture
is looked at at most ``RATE`` times a second, and only while a client waits for news; one that has not changed costs a
comparison of the video memory.  Only loopback is listened on unless ``vnclisten`` says otherwise.

The keys of xl.cfg(5): vnc, vnclisten, vncdisplay, vncunused, vncpasswd, keymap.
"""

from __future__ import annotations

import ipaddress
import logging
import select
import socket
import time
from typing import Any

import numpy as np

from xenfast.devices import vga_picture
from xenfast.devices.vga import Vga
from xenfast.devices.vga_dispi import INDEX_BPP, INDEX_YRES
from xenfast.errors import XenfastError
from xenfast.libxl.rfb import TILE, Broken, Connection
from xenfast.libxl.rfb_encodings import changed_tiles
from xenfast.libxl.screen import Input

log = logging.getLogger("xenfast")

FIRST_PORT = 5900               # of display 0
DISPLAYS = 100                  # how many are tried for a free one
MAX_CLIENTS = 16
RATE = 30                       # pictures a second while they change
IDLE_RATE = 12                  # while they do not
BLINK_HZ = 60                   # frames a second of what blinks
PIECE = 64 << 10                # bytes read of one client at a time
MAX_FAILURES, PENALTY = 5, 10.0         # wrong passwords in a row, and seconds of refusal


class VgaSource:
    """The picture of an adapter, for whoever wants to know whether it has changed."""

    def __init__(self, vga: Vga) -> None:
        self.vga = vga
        self._key: Any = None
        self._memory: np.ndarray | None = None

    def poll(self, seconds: float) -> np.ndarray | None:
        """The picture, or None when it is that of the call before.  With the lock held."""
        vga = self.vga
        number = int(seconds * BLINK_HZ)
        phases = (number // vga_picture.CURSOR_FRAMES & 1, number // vga_picture.BLINK_FRAMES & 1) if vga_picture.is_text(vga) else None
        key = (bytes(vga.crtc), bytes(vga.ar), bytes(vga.gr), bytes(vga.seq), bytes(vga.dac), vga.ar_index, vga.dac_mask,
               tuple(vga.dispi.regs), phases)
        memory = self._shown()
        same = self._memory is not None and self._memory.shape == memory.shape and np.array_equal(self._memory, memory)
        if same and key == self._key:
            return None
        self._key = key
        if not same:
            self._memory = memory.copy()
        frame = vga_picture.frame(vga, number)
        return frame if frame.flags.owndata else frame.copy()

    def size(self) -> tuple[int, int]:
        return vga_picture.size(self.vga)

    def _shown(self) -> np.ndarray:
        """The memory that the picture is made of."""
        dispi = self.vga.dispi
        if not dispi.on or dispi.regs[INDEX_BPP] == 4:
            self.vga.memory.sync()
            return self.vga.memory.words
        return self.vga.lfb.bytes[dispi.start():dispi.start() + dispi.pitch * dispi.regs[INDEX_YRES]]


class VncServer:
    """``loop`` is the hypervisor's, ``lock`` too; ``source`` has ``poll(seconds)`` and ``size()``."""

    def __init__(self, source: Any, user: Input, loop: Any, lock: Any, *, name: str = "xenfast", listen: str = "127.0.0.1",
                 display: int = 0, unused: bool = False, password: str = "") -> None:
        self.source, self.user, self.loop, self.lock = source, user, loop, lock
        self.name, self.password = name, password
        self.failures, self._blocked_until = 0, 0.0
        self.picture: np.ndarray | None = None          # the last one that was looked at
        self.clients: dict[int, tuple[socket.socket, Connection]] = {}
        self._ticking = False
        self._changed_at = self._looked_at = 0.0
        self._closed = False
        self.socket, self.display = _listen(listen, display, unused)
        self.listen, self.port = listen, self.socket.getsockname()[1]
        if not _is_loopback(listen) and not password:
            log.warning("the screen of %s can be seen and used by everybody who reaches %s: vncpasswd is not set", name, listen)
        self._epoll = select.epoll()
        self._epoll.register(self.socket.fileno(), select.EPOLLIN)
        loop.add_reader(self._epoll.fileno(), self._events)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self.loop.remove_reader(self._epoll.fileno())
        for fd in list(self.clients):
            self._drop(fd)
        self._epoll.close()
        self.socket.close()

    # --- sockets -----------------------------------------------------------------------------------------------------
    def _events(self) -> None:
        """The loop's call: something can be read or written."""
        if self._closed:
            return
        for fd, event in self._epoll.poll(0):
            if fd == self.socket.fileno():
                self._accept()
            elif fd in self.clients:
                if event & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                    self._read(fd)
                if fd in self.clients:
                    self._write(fd)

    def _accept(self) -> None:
        try:
            sock, address = self.socket.accept()
        except OSError:
            return
        if len(self.clients) >= MAX_CLIENTS:            # one that has not logged in makes room
            waiting = next((fd for fd, (_, connection) in self.clients.items() if not connection.ready), None)
            if waiting is None:
                sock.close()
                return
            self._drop(waiting)
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.clients[sock.fileno()] = sock, Connection(self, str(address[0] if isinstance(address, tuple) else address))
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        self._write(sock.fileno())

    def _read(self, fd: int) -> None:
        sock, connection = self.clients[fd]
        try:
            data = sock.recv(PIECE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(fd)
            return
        try:
            connection.received(data)
        except Broken as error:
            log.info("VNC client %s of %s: %s", connection.peer, self.name, error)
            self._drop(fd)

    def _write(self, fd: int) -> None:
        """As much as the socket takes."""
        sock, connection = self.clients[fd]
        try:
            while connection.out:
                sent = sock.send(memoryview(connection.out)[:PIECE * 4].tobytes())
                del connection.out[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(fd)
            return
        if connection.closing and not connection.out:
            self._drop(fd)
            return
        self._epoll.modify(fd, select.EPOLLIN | (select.EPOLLOUT if connection.out else 0))
        if connection.due:
            self.update_wanted()

    def _drop(self, fd: int) -> None:
        sock, connection = self.clients.pop(fd)
        try:
            self._epoll.unregister(fd)
        except OSError:
            pass
        sock.close()
        if connection.ready and not any(other.ready for _, other in self.clients.values()):
            with self.lock:
                self.user.release_all()

    def only(self, connection: Connection) -> None:
        """A client wants the screen for itself."""
        for fd in [fd for fd, (_, other) in self.clients.items() if other is not connection]:
            self._drop(fd)

    # --- what clients ask of the server --------------------------------------------------------------------------------
    def shape(self) -> tuple[int, int]:
        with self.lock:
            return self.source.size()

    @property
    def absolute(self) -> bool:
        return self.user.absolute

    @property
    def leds(self) -> int:
        return self.user.leds

    @property
    def blocked(self) -> bool:
        return time.monotonic() < self._blocked_until

    def wrong_password(self, peer: str) -> None:
        log.warning("VNC client %s of %s has given a wrong password", peer, self.name)
        self.failures += 1
        if self.failures >= MAX_FAILURES:
            self._blocked_until = time.monotonic() + PENALTY

    def key(self, keysym: int, down: bool) -> None:
        with self.lock:
            self.user.keysym(keysym, down)

    def raw_key(self, key: int, down: bool) -> None:
        with self.lock:
            self.user.key(key, down)

    def pointer(self, x: int, y: int, mask: int, relative: bool) -> None:
        """A client that was told of a relative pointer sends movements, around 7FFFh."""
        with self.lock:
            if relative and not self.absolute:
                self.user.relative(x - 0x7FFF, y - 0x7FFF, mask)
            else:
                self.user.pointer(x, y, mask)

    def tiles(self, before: np.ndarray, now: np.ndarray) -> np.ndarray:
        return changed_tiles(before, now, TILE)

    # --- pictures ----------------------------------------------------------------------------------------------------
    def update_wanted(self) -> None:
        """Some client waits for news: look at the screen, now or when it is time."""
        if not self._ticking and not self._closed:
            self._ticking = True
            rate = RATE if time.monotonic() - self._changed_at < 1 else IDLE_RATE
            wait = self._looked_at + 1 / rate - time.monotonic()
            self.loop.call_later(max(int(wait * 1e9), 0), self._tick)

    def _tick(self) -> None:
        self._ticking = False
        if self._closed or not any(connection.due for _, connection in self.clients.values()):
            return
        now = time.monotonic()
        if now - self._looked_at >= 0.5 / RATE:         # virtual time may run faster
            self._look(now)
        for fd, (_, connection) in list(self.clients.items()):
            if connection.due and fd in self.clients:
                self._send(fd, connection)
        if any(connection.due for _, connection in self.clients.values()):
            self.update_wanted()

    def _look(self, now: float) -> None:
        self._looked_at = now
        with self.lock:
            picture = self.source.poll(now)
        if picture is None:
            return
        self._changed_at = now
        before, self.picture = self.picture, picture
        if before is None or before.shape != picture.shape:
            for _, connection in self.clients.values():
                if connection.shape != picture.shape:
                    connection.resize((picture.shape[0], picture.shape[1]))
                connection.history = None
                connection.mark_all()
            return
        tiles = changed_tiles(before, picture, TILE)
        for _, connection in self.clients.values():
            connection.history = before if not connection.dirty.any() else None
            connection.changed(tiles)

    def _send(self, fd: int, connection: Connection) -> None:
        if self.picture is None:
            return
        connection.update(self.picture, connection.history)
        connection.history = None
        self._write(fd)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return address == "localhost"


def _listen(address: str, display: int, unused: bool) -> tuple[socket.socket, int]:
    """A socket that listens, and its display."""
    for number in range(display, display + (DISPLAYS if unused else 1)):
        port = FIRST_PORT + number
        if port > 65535:
            break
        try:
            family, kind, _, _, where = socket.getaddrinfo(address.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        except (socket.gaierror, UnicodeError):
            raise XenfastError(f"vnclisten: {address!r} is no address of this host") from None
        sock = socket.socket(family, kind)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(where)
            sock.listen(8)
            sock.setblocking(False)
            return sock, number
        except OSError as error:
            sock.close()
            if not unused:
                raise XenfastError(f"VNC cannot listen on {address}:{port}: {error.strerror}") from None
    raise XenfastError(f"VNC: no display from {display} on is free on {address}")


def start(vga: Vga, user: Input, loop: Any, lock: Any, config: Any, name: str) -> VncServer | None:
    """The server that a configuration (``libxl.config.DomainConfig``) asks for; None when it asks for none."""
    if not config.vnc:
        return None
    return VncServer(VgaSource(vga), user, loop, lock, name=name, listen=config.vnclisten, display=config.vncdisplay,
                     unused=bool(config.vncunused), password=config.vncpasswd)


def store_nodes(server: VncServer | None) -> dict[str, str]:
    """What Xen's device model writes below /local/domain/DOMID/console, where ``xl vncviewer`` looks."""
    if server is None:
        return {}
    return {"vnc-port": str(server.port), "vnc-listen": server.listen} | ({"vnc-pass": server.password} if server.password else {})
