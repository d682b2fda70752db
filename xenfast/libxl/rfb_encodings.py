"""Pixels on the wire: RFB's pixel formats and encodings.

Specified by RFC 6143, 7.4 (PIXEL_FORMAT) and 7.7 (Raw, CopyRect, RRE, Hextile, ZRLE), and by the community's rfbproto (Zlib, Tight).  Every
encoder takes an array (height, width) of pixels that are in the client's format already.

Left out: Tight's JPEG and gradient filters, ZRLE's palette with runs: zlib makes of the plain forms what they would.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np

RAW, COPYRECT, RRE, HEXTILE, ZLIB, TIGHT, ZRLE = 0, 1, 2, 5, 6, 7, 16
TILE = 64                               # of ZRLE
SMALL_TILE = 16                         # of Hextile
TIGHT_WIDTH = 2048                      # a rectangle of Tight is at most so wide
TIGHT_MIN = 12                          # bytes below which Tight does not compress
SYNC = zlib.Z_SYNC_FLUSH


@dataclass(frozen=True)
class PixelFormat:
    """What a client wants its pixels to be."""

    bpp: int = 32
    depth: int = 24
    big_endian: bool = False
    true_colour: bool = True
    maxima: tuple[int, int, int] = (255, 255, 255)
    shifts: tuple[int, int, int] = (16, 8, 0)

    @classmethod
    def parse(cls, data: bytes) -> PixelFormat:
        """From the 16 bytes of the wire; ValueError when it cannot be."""
        bpp, depth, big, true, rmax, gmax, bmax, rshift, gshift, bshift = struct.unpack(">BBBBHHHBBB3x", data)
        if bpp not in (8, 16, 32):
            raise ValueError(f"{bpp} bits a pixel")
        if not true:                    # a palette of 256: the server chooses it, as 3, 3 and 2 bits
            return cls(8, 8, False, False, (7, 7, 3), (0, 3, 6))
        if any(shift + maximum.bit_length() > bpp for maximum, shift in ((rmax, rshift), (gmax, gshift), (bmax, bshift))):
            raise ValueError("colours beyond the pixel")
        return cls(bpp, depth, bool(big), True, (rmax, gmax, bmax), (rshift, gshift, bshift))

    def pack(self) -> bytes:
        return struct.pack(">BBBBHHHBBB3x", self.bpp, self.depth, self.big_endian, self.true_colour, *self.maxima, *self.shifts)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype((">" if self.big_endian else "<") + f"u{self.bpp // 8}")

    @property
    def plain(self) -> bool:
        """Is a pixel 0x00RRGGBB?"""
        return self.bpp == 32 and self.maxima == (255, 255, 255) and self.shifts == (16, 8, 0)

    def convert(self, picture: np.ndarray) -> np.ndarray:
        """0x00RRGGBB to this format."""
        if self.plain:
            return picture.astype(self.dtype)
        out = np.zeros(picture.shape, np.uint32)
        for source, maximum, shift in zip((16, 8, 0), self.maxima, self.shifts):
            table = (np.arange(256, dtype=np.uint32) * np.uint32(maximum) + 127) // 255 << np.uint32(shift)
            out |= table[picture >> source & 0xFF]
        return out.astype(self.dtype)

    def colour_map(self) -> bytes:
        """SetColourMapEntries for a client without true colour: 256 colours of 16 bits a component."""
        out = struct.pack(">BxHH", 1, 0, 256)
        for i in range(256):
            out += struct.pack(">3H", *((i >> shift & maximum) * 65535 // maximum for maximum, shift in zip(self.maxima, self.shifts)))
        return out

    def compact(self) -> slice | None:
        """The three bytes of four that matter in ZRLE and Tight (CPIXEL); None: all of them do."""
        if self.bpp != 32 or self.depth > 24 or not self.true_colour:
            return None
        used = 0
        for maximum, shift in zip(self.maxima, self.shifts):
            used |= maximum << shift
        if not used >> 24:
            return slice(1, 4) if self.big_endian else slice(0, 3)
        if not used & 0xFF:
            return slice(0, 3) if self.big_endian else slice(1, 4)
        return None


def _bytes(pixels: np.ndarray, part: slice | None) -> bytes:
    """Pixels as they are sent, three bytes of each when that is enough."""
    if part is None:
        return pixels.tobytes()
    flat = np.ascontiguousarray(pixels)
    return flat.view(np.uint8).reshape(-1, 4)[:, part].tobytes()


def _pack(index: np.ndarray, bits: int) -> bytes:
    """Indices of 1, 2 or 4 bits, each line from a new byte on."""
    if bits == 1:
        return np.packbits(index.astype(np.uint8), axis=1).tobytes()
    per = 8 // bits
    height, width = index.shape
    padded = np.zeros((height, -(-width // per) * per), np.uint8)
    padded[:, :width] = index
    parts = padded.reshape(height, -1, per)
    out = np.zeros(parts.shape[:2], np.uint8)
    for i in range(per):
        out |= parts[:, :, i] << (8 - bits * (i + 1))
    return out.tobytes()


class Encoders:
    """The encodings of one client, with their compressors, whose history lives as long as the connection."""

    def __init__(self) -> None:
        self.format = PixelFormat()
        self.level = 3
        self._streams: dict[str, zlib._Compress] = {}

    def deflate(self, name: str, data: bytes) -> bytes:
        if name not in self._streams:
            self._streams[name] = zlib.compressobj(self.level)
        stream = self._streams[name]
        return stream.compress(data) + stream.flush(SYNC)

    def encode(self, encoding: int, picture: np.ndarray) -> bytes:
        """The data of a rectangle of 0x00RRGGBB."""
        pixels = self.format.convert(picture)
        if encoding == ZRLE:
            return self._zrle(pixels)
        if encoding == TIGHT:
            return self._tight(pixels)
        if encoding == ZLIB:
            data = self.deflate("zlib", pixels.tobytes())
            return len(data).to_bytes(4, "big") + data
        if encoding == HEXTILE:
            return self._hextile(pixels)
        if encoding == RRE:
            return self._rre(pixels)
        return pixels.tobytes()

    # --- RRE (7.7.3), Hextile (7.7.4) --------------------------------------------------------------------------------
    def _rre(self, pixels: np.ndarray) -> bytes:
        """A background and rectangles one line high."""
        values, counts = np.unique(pixels, return_counts=True)
        background = values[counts.argmax()].astype(self.format.dtype)
        runs = list(_runs(pixels, background))
        out = len(runs).to_bytes(4, "big") + background.tobytes()
        return out + b"".join(colour + struct.pack(">4H", x, y, width, 1) for colour, x, y, width in runs)

    def _hextile(self, pixels: np.ndarray) -> bytes:
        height, width = pixels.shape
        return b"".join(
            self._hextile_tile(pixels[y:y + SMALL_TILE, x:x + SMALL_TILE])
            for y in range(0, height, SMALL_TILE) for x in range(0, width, SMALL_TILE))

    def _hextile_tile(self, tile: np.ndarray) -> bytes:
        """A background alone (2), runs of one colour on it (2, 4, 8), or the pixels (1)."""
        values, counts = np.unique(tile, return_counts=True)
        background = values[counts.argmax()].astype(self.format.dtype)
        if len(values) == 1:
            return b"\x02" + background.tobytes()
        if len(values) == 2:
            colour = values[1 - counts.argmax()].astype(self.format.dtype)
            runs = [bytes((x << 4 | y, width - 1 << 4)) for _, x, y, width in _runs(tile, background)]
            if len(runs) < 256 and 2 * len(runs) + 2 * colour.itemsize + 2 < tile.nbytes:
                return b"\x0e" + background.tobytes() + colour.tobytes() + bytes((len(runs),)) + b"".join(runs)
        return b"\x01" + tile.tobytes()

    # --- ZRLE (7.7.6) ------------------------------------------------------------------------------------------------
    def _zrle(self, pixels: np.ndarray) -> bytes:
        part = self.format.compact()
        height, width = pixels.shape
        tiles = b"".join(
            self._zrle_tile(pixels[y:y + TILE, x:x + TILE], part) for y in range(0, height, TILE) for x in range(0, width, TILE))
        data = self.deflate("zrle", tiles)
        return len(data).to_bytes(4, "big") + data

    def _zrle_tile(self, tile: np.ndarray, part: slice | None) -> bytes:
        """One colour (1), a palette of up to 16 (2-16), or the pixels (0)."""
        if (tile == tile[0, 0]).all():
            return b"\x01" + _bytes(tile[:1, :1], part)
        colours, index = np.unique(tile, return_inverse=True)
        count = len(colours)
        if count > 16:
            return b"\x00" + _bytes(tile, part)
        bits = 1 if count == 2 else 2 if count <= 4 else 4
        return bytes((count,)) + _bytes(colours.astype(tile.dtype), part) + _pack(index.reshape(tile.shape), bits)

    # --- Tight (rfbproto) --------------------------------------------------------------------------------------------
    def _tight(self, pixels: np.ndarray) -> bytes:
        """One colour (8), a palette of up to 256 (filter 1), or the pixels."""
        part = self.format.compact()
        if (pixels == pixels[0, 0]).all():
            return b"\x80" + _bytes(pixels[:1, :1], part)
        colours, index = np.unique(pixels, return_inverse=True)
        count = len(colours)
        if count == 2 or (count <= 256 and pixels.itemsize > 1):
            index = index.reshape(pixels.shape)
            data = _pack(index, 1) if count == 2 else index.astype(np.uint8).tobytes()
            stream = 1 if count == 2 else 2
            head = bytes((stream << 4 | 0x40, 1, count - 1)) + _bytes(colours.astype(pixels.dtype), part)
            return head + self._tight_data(stream, data)
        return b"\x00" + self._tight_data(0, _bytes(pixels, part))

    def _tight_data(self, stream: int, data: bytes) -> bytes:
        if len(data) < TIGHT_MIN:
            return data
        packed = self.deflate(f"tight{stream}", data)
        size = len(packed)
        if size < 0x80:
            head = bytes((size,))
        elif size < 0x4000:
            head = bytes((size & 0x7F | 0x80, size >> 7))
        else:
            head = bytes((size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14))
        return head + packed


def _runs(pixels: np.ndarray, background: np.generic) -> list[tuple[bytes, int, int, int]]:
    """What is not background, in pieces of lines of one colour: (pixel, x, y, width)."""
    out = []
    for y, line in enumerate(pixels):
        if (line == background).all():
            continue
        edges = np.flatnonzero(line[1:] != line[:-1]) + 1
        starts = [0, *edges.tolist()]
        ends = [*edges.tolist(), len(line)]
        out += [(line[start:start + 1].tobytes(), start, y, end - start) for start, end in zip(starts, ends) if line[start] != background]
    return out


# --- what has changed ---------------------------------------------------------------------------------------------------------
def changed_tiles(before: np.ndarray, now: np.ndarray, tile: int) -> np.ndarray:
    """Which tiles of two pictures of one size differ, as (rows, columns) of bool."""
    differ = before != now
    rows = np.logical_or.reduceat(differ, np.arange(0, differ.shape[0], tile), axis=0)
    return np.logical_or.reduceat(rows, np.arange(0, differ.shape[1], tile), axis=1)


def rectangles(mask: np.ndarray, tile: int, height: int, width: int) -> list[tuple[int, int, int, int]]:
    """The tiles of a mask as rectangles (x, y, width, height), joined along lines and then downward."""
    done: list[list[int]] = []
    open_: dict[tuple[int, int], list[int]] = {}
    for row, line in enumerate(mask):
        edges = np.flatnonzero(np.diff(np.concatenate(([0], line.astype(np.int8), [0]))))
        runs = {(int(edges[i]), int(edges[i + 1])) for i in range(0, len(edges), 2)}
        for run in [run for run in open_ if run not in runs]:
            done.append(open_.pop(run))
        for run in sorted(runs):
            if run in open_:
                open_[run][3] = row + 1
            else:
                open_[run] = [run[0], row, run[1], row + 1]
    done += open_.values()
    out = []
    for x, y, x_end, y_end in sorted(done, key=lambda r: (r[1], r[0])):
        x, y, x_end, y_end = x * tile, y * tile, min(x_end * tile, width), min(y_end * tile, height)
        out.append((x, y, x_end - x, y_end - y))
    return out


def scrolled(before: np.ndarray, now: np.ndarray, steps: tuple[int, ...]) -> int:
    """By how many lines the picture has moved up, of the candidates; 0: it has not."""
    height = len(now)
    for step in steps:
        if step < height // 2 and (now[:height - step * 2] == before[step:height - step]).all() and (before[step:] != before[:-step]).any():
            return step
    return 0
