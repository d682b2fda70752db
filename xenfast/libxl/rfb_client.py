"""As much of an RFB client as a screenshot takes: connect, log in, one picture.

Specified by RFC 6143.  The pixel format is asked for as 32 bits 0x00RRGGBB, the encoding as Raw, which every server has.
"""

from __future__ import annotations

import socket
import struct

import numpy as np

from xenfast.errors import XenfastError
from xenfast.libxl import des
from xenfast.libxl.rfb_encodings import RAW, PixelFormat

NONE, VNC = 1, 2
MAX_PIXELS = 1 << 26


class Wire:
    """A connection whose troubles are one sentence."""

    def __init__(self, host: str, port: int, timeout: float) -> None:
        self.where = f"{host}:{port}"
        try:
            self.sock = socket.create_connection((host, port), timeout)
        except OSError as error:
            raise XenfastError(f"no VNC server answers at {self.where}: {error.strerror or error}") from None

    def take(self, size: int) -> bytes:
        out = bytearray()
        while len(out) < size:
            try:
                part = self.sock.recv(min(size - len(out), 1 << 20))
            except OSError as error:
                raise XenfastError(f"the VNC server at {self.where} does not answer: {error.strerror or error}") from None
            if not part:
                raise XenfastError(f"the VNC server at {self.where} has closed the connection")
            out += part
        return bytes(out)

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def send(self, data: bytes) -> None:
        try:
            self.sock.sendall(data)
        except OSError as error:
            raise XenfastError(f"the VNC server at {self.where} takes nothing: {error.strerror or error}") from None


def picture(host: str, port: int, password: str = "", timeout: float = 10.0) -> np.ndarray:
    """What a VNC server shows, as (height, width, 3) of uint8."""
    wire = Wire(host, port, timeout)
    with wire.sock:
        _log_in(wire, password)
        width, height = wire.number(2), wire.number(2)
        wire.take(16)                   # the pixel format it would like
        wire.take(min(wire.number(4), 1 << 16))
        if not 0 < width * height <= MAX_PIXELS:
            raise XenfastError(f"the VNC server at {wire.where} has a screen of {width} x {height}")
        wire.send(b"\0\0\0\0" + PixelFormat().pack() + struct.pack(">BxHi", 2, 1, RAW))
        wire.send(struct.pack(">BBHHHH", 3, 0, 0, 0, width, height))
        return _update(wire, width, height)


def _log_in(wire: Wire, password: str) -> None:
    greeting = wire.take(12)
    if greeting[:4] != b"RFB ":
        raise XenfastError(f"what answers at {wire.where} is no VNC server")
    new = greeting >= b"RFB 003.008"
    wire.send(b"RFB 003.008\n" if new else b"RFB 003.003\n")
    if new:
        kinds = wire.take(wire.number(1))
        if not kinds:
            raise XenfastError(f"the VNC server at {wire.where} refuses: {_reason(wire)}")
        kind = next((kind for kind in (NONE, VNC) if kind in kinds), None)
        if kind is None:
            raise XenfastError(f"the VNC server at {wire.where} wants a way to log in that there is not")
        wire.send(bytes((kind,)))
    else:
        kind = wire.number(4)
    if kind == VNC:
        wire.send(des.vnc_response(password, wire.take(16)))
    if (new or kind == VNC) and wire.number(4):
        raise XenfastError(f"the VNC server at {wire.where} refuses: {_reason(wire) if new else 'wrong password'}")
    wire.send(b"\1")


def _reason(wire: Wire) -> str:
    return wire.take(min(wire.number(4), 4096)).decode("utf-8", "replace")


def _update(wire: Wire, width: int, height: int) -> np.ndarray:
    """Rectangles until all of the screen has come."""
    out = np.zeros((height, width), np.uint32)
    missing = width * height
    while missing > 0:
        kind = wire.number(1)
        if kind == 1:                   # colours
            wire.take(3)
            wire.take(6 * wire.number(2))
        elif kind == 3:                 # cut text
            wire.take(3)
            size = wire.number(4)
            while size:
                size -= len(wire.take(min(size, 1 << 16)))
        elif kind == 0:
            wire.take(1)
            for _ in range(wire.number(2)):
                x, y, w, h, encoding = struct.unpack(">HHHHi", wire.take(12))
                if encoding != RAW or x + w > width or y + h > height:
                    raise XenfastError(f"the VNC server at {wire.where} sends what was not asked for")
                out[y:y + h, x:x + w] = np.frombuffer(wire.take(4 * w * h), "<u4").reshape(h, w)
                missing -= w * h
        elif kind != 2:                 # 2 is the bell
            raise XenfastError(f"the VNC server at {wire.where} sends what was not asked for")
    return np.ascontiguousarray(out.view(np.uint8).reshape(height, width, 4)[:, :, 2::-1])
