"""PNG files of screens: written and read with zlib alone.

Specified by W3C's Portable Network Graphics specification (second edition).  Written are 8-bit RGB pictures; read are 8-bit
grey, RGB, palette and RGBA ones without interlacing, so that pictures of another program can be waited for.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from xenfast.errors import XenfastError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE, RGBA = 0, 2, 3, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, RGBA: 4}
MAX_PIXELS = 1 << 26


def _chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def encode(picture: np.ndarray) -> bytes:
    """A PNG of an array (height, width, 3) of uint8; each line is stored as its difference from the one above."""
    height, width, _ = picture.shape
    lines = picture.reshape(height, width * 3)
    rows = np.empty((height, width * 3 + 1), np.uint8)
    rows[:, 0] = 2
    rows[0, 1:] = lines[0]
    rows[1:, 1:] = lines[1:] - lines[:-1]
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes((8, RGB, 0, 0, 0))
    return SIGNATURE + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(rows.tobytes(), 6)) + _chunk(b"IEND", b"")


def write(path: str | Path, picture: np.ndarray) -> None:
    try:
        Path(path).write_bytes(encode(picture))
    except OSError as error:
        raise XenfastError(f"{path}: {error.strerror}") from None


def read(path: str | Path) -> np.ndarray:
    """The picture of a file as (height, width, 3) of uint8."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise XenfastError(f"{path}: {error.strerror}") from None
    try:
        return decode(data)
    except (ValueError, IndexError, zlib.error) as error:
        raise XenfastError(f"{path} cannot be read as a PNG: {error}") from None


def decode(data: bytes) -> np.ndarray:
    """ValueError, IndexError or zlib.error when it is no PNG of the kinds that are read."""
    if data[:8] != SIGNATURE:
        raise ValueError("it does not begin as one")
    at, body, palette, head = 8, bytearray(), b"", b""
    while at + 8 <= len(data):
        size, kind = int.from_bytes(data[at:at + 4], "big"), data[at + 4:at + 8]
        part = data[at + 8:at + 8 + size]
        head = part if kind == b"IHDR" else head
        palette = part if kind == b"PLTE" else palette
        body += part if kind == b"IDAT" else b""
        at += size + 12
    width, height = int.from_bytes(head[:4], "big"), int.from_bytes(head[4:8], "big")
    depth, colour, interlace = head[8], head[9], head[12]
    if depth != 8 or colour not in CHANNELS or interlace or not 0 < width * height <= MAX_PIXELS:
        raise ValueError(f"{depth} bits of colour type {colour} are not read")
    channels = CHANNELS[colour]
    stride = width * channels
    raw = zlib.decompressobj().decompress(bytes(body), height * (stride + 1))
    if len(raw) != height * (stride + 1):
        raise ValueError("it is too short")
    lines = _unfilter(np.frombuffer(raw, np.uint8).reshape(height, stride + 1), channels)
    pixels = lines.reshape(height, width, channels)
    if colour == PALETTE:
        table = np.zeros((256, 3), np.uint8)
        table[:len(palette) // 3] = np.frombuffer(palette[:len(palette) // 3 * 3], np.uint8).reshape(-1, 3)
        return table[pixels[:, :, 0]]
    return np.repeat(pixels, 3, axis=2) if colour == GREY else np.ascontiguousarray(pixels[:, :, :3])


def _unfilter(rows: np.ndarray, channels: int) -> np.ndarray:
    """Undo the filter of each line (section 9)."""
    out = np.zeros((len(rows), rows.shape[1] - 1), np.uint8)
    above = np.zeros(rows.shape[1] - 1, np.uint8)
    for y, row in enumerate(rows):
        kind, line = row[0], row[1:]
        if kind == 0:
            out[y] = line
        elif kind == 1:                 # a running sum along the line, for each channel
            out[y] = np.cumsum(line.reshape(-1, channels), axis=0, dtype=np.uint8).reshape(-1)
        elif kind == 2:
            out[y] = line + above
        elif kind in (3, 4):
            out[y] = _by_byte(line.tolist(), above.tolist(), channels, kind)
        else:
            raise ValueError(f"filter {kind} does not exist")
        above = out[y]
    return out


def _by_byte(line: list[int], above: list[int], channels: int, kind: int) -> list[int]:
    """The average and Paeth filters, which need the byte just decoded."""
    out = [0] * channels + line
    up = [0] * channels + above
    for i in range(channels, len(out)):
        a, b, c = out[i - channels], up[i], up[i - channels]
        if kind == 3:
            guess = (a + b) // 2
        else:
            pa, pb, pc = abs(b - c), abs(a - c), abs(a + b - 2 * c)
            guess = a if pa <= pb and pa <= pc else b if pb <= pc else c
        out[i] = out[i] + guess & 0xFF
    return out[channels:]
