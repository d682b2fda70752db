"""One client of the VNC server: the RFB protocol, versions 3.3, 3.7 and 3.8.

Specified by RFC 6143 and, for what came after it, the community's rfbproto (extended key events, pointer motion change,
ExtendedDesktopSize).  The protocol is a generator that is given so many bytes as it asks for; so a client that sends half a message
waits, and one that sends nonsense is closed with one line in the log.  What is kept for a client is bounded: an update is made
when the one before has left, and texts are cut.

Left out: fences and continuous updates, the extended clipboard, file transfer, TLS and other security types.
"""

from __future__ import annotations

import hmac
import logging
import os
import struct
from collections.abc import Generator
from typing import TYPE_CHECKING

import numpy as np

from xenfast.libxl import des
from xenfast.libxl.rfb_encodings import (
    COPYRECT,
    HEXTILE,
    RAW,
    RRE,
    TIGHT,
    TIGHT_WIDTH,
    ZLIB,
    ZRLE,
    Encoders,
    PixelFormat,
    rectangles,
    scrolled,
)

if TYPE_CHECKING:
    from xenfast.libxl.vnc import VncServer

log = logging.getLogger("xenfast")

SECURITY_NONE, SECURITY_VNC = 1, 2
# Messages of the client (7.5)
(SET_PIXEL_FORMAT, SET_ENCODINGS, UPDATE_REQUEST, KEY_EVENT, POINTER_EVENT, CUT_TEXT, SET_DESKTOP_SIZE, QEMU) = 0, 2, 3, 4, 5, 6, 251, 255
QEMU_KEY = 0
# Pseudo-encodings
DESKTOP_SIZE, CURSOR, POINTER_MODE, QEMU_KEYS, QEMU_LEDS, EXTENDED_SIZE = -223, -239, -257, -258, -261, -308
LEVELS = range(-256, -246)              # of compression
ENCODINGS = (ZRLE, TIGHT, ZLIB, HEXTILE, RRE, RAW)
TILE = 32                               # of what is compared and sent
MAX_CUT = 64 << 10                      # bytes of a text that are kept
MAX_OUT = 1 << 20                       # bytes that wait to be sent, without an update's
SCROLL_STEPS = (16, 14, 8)
MAX_RECTANGLES = 400

Protocol = Generator[int, bytes, None]


class Broken(Exception):
    """The client has broken the protocol; the text says how."""


class Connection:
    """The state of one client.  ``received(data)`` takes what has come, ``out`` is what is to be sent."""

    def __init__(self, server: VncServer, peer: str) -> None:
        self.server, self.peer = server, peer
        self.out = bytearray()
        self.closing = False            # after what is in ``out``
        self.ready = False              # past the handshake
        self.encoders = Encoders()
        self.encodings: list[int] = [RAW]
        self.cut_text = b""
        self.wanted = False             # an update
        self.shape = server.shape()     # what the client believes the screen to be
        self.dirty = np.ones(self._tiles(), dtype=bool)
        self.resized = self.announce = False
        self.history: np.ndarray | None = None          # the picture that the client had all of, before the last change
        self.pointer_mode: bool | None = None
        self.leds: int | None = None
        self.cursor_sent = self.keys_sent = self.map_sent = False
        self._in = bytearray()
        self._protocol = self._run()
        self._need = next(self._protocol)

    def _tiles(self) -> tuple[int, int]:
        return -(-self.shape[0] // TILE), -(-self.shape[1] // TILE)

    # --- bytes in ----------------------------------------------------------------------------------------------------
    def received(self, data: bytes) -> None:
        """Raises Broken when the client is to be closed."""
        self._in += data
        while len(self._in) >= self._need and not self.closing:
            part = bytes(self._in[:self._need])
            del self._in[:self._need]
            self._need = self._protocol.send(part)

    def _run(self) -> Protocol:
        """The whole life of a connection."""
        yield from self._handshake()
        self.ready = True
        while True:
            (kind,) = yield 1
            message = MESSAGES.get(kind)
            if message is None:
                raise Broken(f"message {kind} does not exist")
            yield from message(self)

    # --- 7.1 to 7.3: handshake -----------------------------------------------------------------------------------------
    def _handshake(self) -> Protocol:
        self.out += b"RFB 003.008\n"
        version = yield 12
        if version[:8] != b"RFB 003." or version[11:] != b"\n" or not version[8:11].isdigit():
            raise Broken("no RFB version")
        minor = int(version[8:11])
        minor = 8 if minor >= 8 else 7 if minor == 7 else 3
        kind = SECURITY_VNC if self.server.password else SECURITY_NONE
        if self.server.blocked:
            yield from self._refuse(minor, "too many wrong passwords; try again later")
        if minor == 3:
            self.out += kind.to_bytes(4, "big")
        else:
            self.out += bytes((1, kind))
            (chosen,) = yield 1
            if chosen != kind:
                raise Broken(f"security type {chosen} was not offered")
        if kind == SECURITY_VNC:
            yield from self._authenticate(minor)
        elif minor == 8:
            self.out += bytes(4)
        (shared,) = yield 1
        if not shared:
            self.server.only(self)
        self.shape = self.server.shape()
        self.mark_all()
        height, width = self.shape
        name = self.server.name.encode("utf-8")[:255]
        self.out += struct.pack(">HH", width, height) + PixelFormat().pack() + len(name).to_bytes(4, "big") + name

    def _authenticate(self, minor: int) -> Protocol:
        challenge = os.urandom(16)
        self.out += challenge
        answer = yield 16
        if hmac.compare_digest(answer, des.vnc_response(self.server.password, challenge)):
            self.server.failures = 0
            self.out += bytes(4)
            return
        self.server.wrong_password(self.peer)
        self.out += (1).to_bytes(4, "big")
        if minor == 8:
            self._reason("the password is wrong")
        self.closing = True
        yield 1

    def _refuse(self, minor: int, reason: str) -> Protocol:
        self.out += bytes(4) if minor == 3 else bytes(1)
        self._reason(reason)
        self.closing = True
        yield 1

    def _reason(self, text: str) -> None:
        self.out += len(text).to_bytes(4, "big") + text.encode()

    # --- 7.5: messages of the client -----------------------------------------------------------------------------------
    def _set_pixel_format(self) -> Protocol:
        data = yield 19
        try:
            self.encoders.format = PixelFormat.parse(data[3:])
        except ValueError as error:
            raise Broken(f"a pixel format with {error}") from None
        self.map_sent = False
        self.mark_all()

    def _set_encodings(self) -> Protocol:
        head = yield 3
        count = int.from_bytes(head[1:], "big")
        data = yield 4 * count
        self.encodings = list(dict.fromkeys(struct.unpack(f">{count}i", data)))[:256]
        for number in self.encodings:
            if number in LEVELS:
                self.encoders.level = number - LEVELS.start
        self.announce = EXTENDED_SIZE in self.encodings

    def _update_request(self) -> Protocol:
        data = yield 9
        incremental, x, y, width, height = struct.unpack(">BHHHH", data)
        if not incremental:
            rows, columns = self.dirty.shape
            self.dirty[min(y // TILE, rows):-(-(y + height) // TILE), min(x // TILE, columns):-(-(x + width) // TILE)] = True
        self.wanted = True
        self.server.update_wanted()

    def _key_event(self) -> Protocol:
        data = yield 7
        down, keysym = struct.unpack(">BxxI", data)
        self.server.key(keysym, bool(down))

    def _pointer_event(self) -> Protocol:
        data = yield 5
        mask, x, y = struct.unpack(">BHH", data)
        self.server.pointer(x, y, mask, self.pointer_mode is False)

    def _cut_text(self) -> Protocol:
        head = yield 7
        size = int.from_bytes(head[3:], "big")
        if size >= 1 << 31:                     # the extended clipboard, which was not offered
            size = (1 << 32) - size
        kept = b""
        while size:
            part = yield min(size, 4096)
            size -= len(part)
            kept += part[:MAX_CUT - len(kept)]
        self.cut_text = kept

    def _set_desktop_size(self) -> Protocol:
        head = yield 7
        yield 16 * head[5]
        self._extended_size(1, 1)               # by this client: prohibited

    def _qemu(self) -> Protocol:
        (kind,) = yield 1
        if kind != QEMU_KEY:
            raise Broken(f"message 255, {kind} does not exist")
        data = yield 10
        down, keysym, key = struct.unpack(">HII", data)
        if 0 < key < 0x100:
            self.server.raw_key(key, bool(down))
        else:
            self.server.key(keysym, bool(down))

    # --- 7.6: updates --------------------------------------------------------------------------------------------------
    def mark_all(self) -> None:
        self.dirty = np.ones(self._tiles(), dtype=bool)

    def changed(self, tiles: np.ndarray) -> None:
        """Of the picture."""
        rows, columns = min(tiles.shape[0], self.dirty.shape[0]), min(tiles.shape[1], self.dirty.shape[1])
        self.dirty[:rows, :columns] |= tiles[:rows, :columns]       # a client that cannot be resized sees a part

    def resize(self, shape: tuple[int, int]) -> None:
        """The screen has another size; a client that cannot be told sees a part of it."""
        if DESKTOP_SIZE in self.encodings or EXTENDED_SIZE in self.encodings:
            self.shape, self.resized = shape, True
        self.mark_all()

    @property
    def due(self) -> bool:
        """May an update be made now?"""
        return self.wanted and self.ready and not self.out and not self.closing

    def update(self, picture: np.ndarray, before: np.ndarray | None) -> None:
        """Make the update that was asked for, if there is anything to say.  ``before``: the picture all of which the client has."""
        head: list[bytes] = []
        self._changes_of_state(head)
        if self.resized:
            if EXTENDED_SIZE in self.encodings:
                head.append(self._size_rectangle(0, 0))
            else:
                head.append(struct.pack(">HHHHi", 0, 0, self.shape[1], self.shape[0], DESKTOP_SIZE))
            self.resized = False
        if not self.dirty.any() and not head:
            return
        if not self.encoders.format.true_colour and not self.map_sent:
            self.out += self.encoders.format.colour_map()
            self.map_sent = True
        picture = self._fit(picture)
        body = self._scroll(picture, before) + self._rectangles(picture)
        self.out += struct.pack(">BxH", 0, len(head) + len(body)) + b"".join(head) + b"".join(body)
        self.wanted = False
        self.dirty[:] = False

    def _fit(self, picture: np.ndarray) -> np.ndarray:
        if picture.shape == self.shape:
            return picture
        out = np.zeros(self.shape, np.uint32)
        height, width = min(picture.shape[0], self.shape[0]), min(picture.shape[1], self.shape[1])
        out[:height, :width] = picture[:height, :width]
        return out

    def _scroll(self, picture: np.ndarray, before: np.ndarray | None) -> list[bytes]:
        """A picture that has moved up is copied by the client itself (CopyRect)."""
        if before is None or COPYRECT not in self.encodings or before.shape != picture.shape or self.dirty.mean() < 0.02:
            return []
        step = scrolled(before, picture, SCROLL_STEPS)
        if not step:
            return []
        height, width = picture.shape
        moved = before.copy()
        moved[:height - step] = before[step:]
        self.dirty = self.server.tiles(moved, picture)
        return [struct.pack(">HHHHiHH", 0, 0, width, height - step, COPYRECT, 0, step)]

    def _rectangles(self, picture: np.ndarray) -> list[bytes]:
        encoding = next((number for number in self.encodings if number in ENCODINGS), RAW)
        height, width = picture.shape
        places = rectangles(self.dirty, TILE, height, width)
        if len(places) > MAX_RECTANGLES:
            places = [(0, 0, width, height)]
        out = []
        for x, y, w, h in places:
            for left in range(x, x + w, TIGHT_WIDTH):
                part = picture[y:y + h, left:min(left + TIGHT_WIDTH, x + w)]
                out.append(struct.pack(">HHHHi", left, y, part.shape[1], h, encoding) + self.encoders.encode(encoding, part))
        return out

    def _changes_of_state(self, head: list[bytes]) -> None:
        """Pseudo-rectangles: what the client has said it understands, and what is news to it."""
        if CURSOR in self.encodings and not self.cursor_sent:
            dot = self.encoders.format.convert(np.array([[0, 0, 0], [0, 0xFFFFFF, 0], [0, 0, 0]], np.uint32)).tobytes()
            head.append(struct.pack(">HHHHi", 1, 1, 3, 3, CURSOR) + dot + b"\xe0\xe0\xe0")
            self.cursor_sent = True
        if QEMU_KEYS in self.encodings and not self.keys_sent:
            head.append(struct.pack(">HHHHi", 0, 0, self.shape[1], self.shape[0], QEMU_KEYS))
            self.keys_sent = True
        absolute = self.server.absolute
        if POINTER_MODE in self.encodings and absolute != self.pointer_mode:
            head.append(struct.pack(">HHHHi", int(absolute), 0, self.shape[1], self.shape[0], POINTER_MODE))
            self.pointer_mode = absolute
        if QEMU_LEDS in self.encodings and self.server.leds != self.leds:
            head.append(struct.pack(">HHHHiB", 0, 0, 1, 1, QEMU_LEDS, self.server.leds))
            self.leds = self.server.leds
        if self.announce:
            head.append(self._size_rectangle(0, 0))
            self.announce = False

    def _size_rectangle(self, reason: int, status: int) -> bytes:
        height, width = self.shape
        return struct.pack(">HHHHiBxxxIHHHHI", reason, status, width, height, EXTENDED_SIZE, 1, 0, 0, 0, width, height, 0)

    def _extended_size(self, reason: int, status: int) -> None:
        if len(self.out) < MAX_OUT:
            self.out += struct.pack(">BxH", 0, 1) + self._size_rectangle(reason, status)


MESSAGES = {
    SET_PIXEL_FORMAT: Connection._set_pixel_format, SET_ENCODINGS: Connection._set_encodings, UPDATE_REQUEST: Connection._update_request,
    KEY_EVENT: Connection._key_event, POINTER_EVENT: Connection._pointer_event, CUT_TEXT: Connection._cut_text,
    SET_DESKTOP_SIZE: Connection._set_desktop_size, QEMU: Connection._qemu,
}   # fmt: skip
