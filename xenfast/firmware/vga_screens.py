"""How the video BIOS writes characters and dots: one class a layout of video memory, all on the adapter's memory itself.

Positions of characters are columns and rows; ``page`` is the offset of the page in the planes' (or the window's) bytes.  ``attribute``
is the text attribute, or in graphics modes the colour, with bit 7 for exclusive or.  Everything a caller gives is clipped here.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from xenfast.devices.vga import Vga
from xenfast.devices.vga_dispi import INDEX_BPP, INDEX_XRES, INDEX_YRES

XOR = 0x80


def bits(glyph: bytes) -> np.ndarray:
    """A glyph as (rows, 8) of 0 and 1."""
    return np.unpackbits(np.frombuffer(glyph, dtype=np.uint8)).reshape(-1, 8)


class Screen:
    """The layout of the present mode.  ``columns`` and ``rows`` are of characters, ``cell`` the lines of one."""

    def __init__(self, vga: Vga, columns: int, rows: int, cell: int) -> None:
        self.vga, self.columns, self.rows, self.cell = vga, columns, rows, cell

    def put(self, page: int, column: int, row: int, code: int, attribute: int | None, glyph: bytes) -> None:
        """One character; without attribute it keeps the one that is there."""
        raise NotImplementedError

    def get(self, page: int, column: int, row: int) -> tuple[int, int] | bytes:
        """Code and attribute, or in graphics modes the glyph that is there."""
        raise NotImplementedError

    def scroll(self, page: int, left: int, top: int, right: int, bottom: int, lines: int, attribute: int) -> None:
        """Move a rectangle up (negative: down) and clear what becomes free; 0 lines clear all of it."""
        right, bottom = min(right, self.columns - 1), min(bottom, self.rows - 1)
        if left > right or top > bottom:
            return
        height = bottom + 1 - top
        if not lines or abs(lines) >= height:
            self.fill(page, left, top, right, bottom, attribute)
            return
        if lines > 0:
            self.move(page, left, right, top + lines, top, height - lines)
            self.fill(page, left, bottom + 1 - lines, right, bottom, attribute)
        else:
            self.move(page, left, right, top, top - lines, height + lines)
            self.fill(page, left, top, right, top - 1 - lines, attribute)

    def fill(self, page: int, left: int, top: int, right: int, bottom: int, attribute: int) -> None:
        raise NotImplementedError

    def move(self, page: int, left: int, right: int, source: int, target: int, count: int) -> None:
        """Copy ``count`` rows of characters, of columns ``left`` to ``right``."""
        raise NotImplementedError

    def dot(self, page: int, x: int, y: int, colour: int) -> None:
        """One dot."""

    def read_dot(self, page: int, x: int, y: int) -> int:
        return 0


class TextScreen(Screen):
    """A byte of code and a byte of attribute a character."""

    def _cells(self, page: int) -> np.ndarray:
        cells = self.vga.memory.layout("odd/even")
        first = page >> 1
        count = self.rows * self.columns
        return cells[first:first + count].reshape(self.rows, self.columns, 2) if first + count <= len(cells) else np.zeros(
            (self.rows, self.columns, 2), np.uint8)

    def put(self, page: int, column: int, row: int, code: int, attribute: int | None, glyph: bytes) -> None:
        at = (page >> 1) + row * self.columns + column
        cells = self.vga.memory.layout("odd/even")
        if column < self.columns and at < len(cells):
            cells[at, 0] = code
            if attribute is not None:
                cells[at, 1] = attribute

    def repeat(self, page: int, column: int, row: int, code: int, attribute: int | None, count: int) -> None:
        """So many copies of a character."""
        at = (page >> 1) + row * self.columns + column
        cells = self.vga.memory.layout("odd/even")[at:at + count]
        cells[:, 0] = code
        if attribute is not None:
            cells[:, 1] = attribute

    def get(self, page: int, column: int, row: int) -> tuple[int, int]:
        at = (page >> 1) + row * self.columns + column
        cells = self.vga.memory.layout("odd/even")
        return (int(cells[at, 0]), int(cells[at, 1])) if at < len(cells) else (0x20, 0x07)

    def fill(self, page: int, left: int, top: int, right: int, bottom: int, attribute: int) -> None:
        self._cells(page)[top:bottom + 1, left:right + 1] = (0x20, attribute)

    def move(self, page: int, left: int, right: int, source: int, target: int, count: int) -> None:
        cells = self._cells(page)
        cells[target:target + count, left:right + 1] = cells[source:source + count, left:right + 1].copy()


class DotScreen(Screen):
    """Graphics modes: subclasses say how a rectangle of dots is read and written (values of dots, one a byte)."""

    width = height = 0
    top_colour = 255

    def read_dots(self, page: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        raise NotImplementedError

    def write_dots(self, page: int, x: int, y: int, dots: np.ndarray) -> None:
        raise NotImplementedError

    def put(self, page: int, column: int, row: int, code: int, attribute: int | None, glyph: bytes) -> None:
        if column >= self.columns or row >= self.rows or len(glyph) < self.cell:
            return
        x, y = column * 8, row * self.cell
        shape = bits(glyph[:self.cell])
        attribute = 7 if attribute is None else attribute
        if attribute & XOR and self.top_colour < 255:
            dots = self.read_dots(page, x, y, 8, self.cell) ^ shape * (attribute & self.top_colour)
        else:
            dots = shape * (attribute & self.top_colour)
        self.write_dots(page, x, y, dots.astype(np.uint8))

    def get(self, page: int, column: int, row: int) -> bytes:
        if column >= self.columns or row >= self.rows:
            return bytes(self.cell)
        dots = self.read_dots(page, column * 8, row * self.cell, 8, self.cell)
        return np.packbits(dots != 0, axis=1).tobytes()

    def fill(self, page: int, left: int, top: int, right: int, bottom: int, attribute: int) -> None:
        dots = np.full(((bottom + 1 - top) * self.cell, (right + 1 - left) * 8), attribute & self.top_colour, np.uint8)
        self.write_dots(page, left * 8, top * self.cell, dots)

    def move(self, page: int, left: int, right: int, source: int, target: int, count: int) -> None:
        dots = self.read_dots(page, left * 8, source * self.cell, (right + 1 - left) * 8, count * self.cell)
        self.write_dots(page, left * 8, target * self.cell, dots)

    def dot(self, page: int, x: int, y: int, colour: int) -> None:
        if not (x < self.width and y < self.height):
            return
        left = x & ~7
        dots = self.read_dots(page, left, y, 8, 1)
        if colour & XOR and self.top_colour < 255:
            dots[0, x - left] ^= colour & self.top_colour
        else:
            dots[0, x - left] = colour & self.top_colour
        self.write_dots(page, left, y, dots)

    def read_dot(self, page: int, x: int, y: int) -> int:
        if not (x < self.width and y < self.height):
            return 0
        return int(self.read_dots(page, x & ~7, y, 8, 1)[0, x & 7])


class CgaScreen(DotScreen):
    """Two banks of 8 KiB for even and odd lines; 2 bits a dot, or 1."""

    def __init__(self, vga: Vga, columns: int, rows: int, cell: int, depth: int) -> None:
        super().__init__(vga, columns, rows, cell)
        self.depth, self.top_colour = depth, (1 << depth) - 1
        self.width, self.height = columns * 8, rows * cell

    def _bytes(self) -> np.ndarray:
        """(2 banks, 100 lines, 80 bytes), as (..., 40, 2) where bytes alternate between two planes."""
        if self.depth == 2:
            return self.vga.memory.layout("odd/even")[:8192].reshape(2, 4096, 2)[:, :4000].reshape(2, 100, 40, 2)
        return self.vga.memory.layout("plane", 0)[:16384].reshape(2, 8192)[:, :8000].reshape(2, 100, 80, 1)

    def read_dots(self, page: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        lines = np.arange(y, y + height)
        data = self._bytes()[lines & 1, lines >> 1, x // 8:(x + width) // 8].reshape(height, -1)
        if self.depth == 1:
            return np.unpackbits(data, axis=1)
        return np.stack([data >> s & 3 for s in (6, 4, 2, 0)], axis=2).reshape(height, -1)

    def write_dots(self, page: int, x: int, y: int, dots: np.ndarray) -> None:
        height, width = dots.shape
        if self.depth == 1:
            data = np.packbits(dots & 1, axis=1).reshape(height, -1, 1)
        else:
            four = dots.reshape(height, -1, 4)
            data = (four[:, :, 0] << 6 | four[:, :, 1] << 4 | four[:, :, 2] << 2 | four[:, :, 3]).astype(np.uint8).reshape(height, -1, 2)
        lines = np.arange(y, y + height)
        self._bytes()[lines & 1, lines >> 1, x // 8:(x + width) // 8] = data


class PlanarScreen(DotScreen):
    """Four planes, eight dots a byte."""

    def __init__(self, vga: Vga, columns: int, rows: int, cell: int, height: int, colours: int) -> None:
        super().__init__(vga, columns, rows, cell)
        self.width, self.height = columns * 8, height
        self.top_colour = 15
        self.two = colours == 2
        self.pitch = vga.crtc[0x13] * 2 if not vga.dispi.on else vga.dispi.pitch

    def _at(self, page: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        return (page + np.arange(y, y + height)[:, None] * self.pitch + np.arange(x // 8, (x + width) // 8)[None, :]) & 0xFFFF

    def read_dots(self, page: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        memory = self.vga.memory
        memory.sync()
        planes = np.unpackbits(memory.planes[self._at(page, x, y, width, height)], axis=2).reshape(height, -1, 4, 8)
        dots = planes[:, :, 0] | planes[:, :, 1] << 1 | planes[:, :, 2] << 2 | planes[:, :, 3] << 3
        return dots.reshape(height, -1)

    def write_dots(self, page: int, x: int, y: int, dots: np.ndarray) -> None:
        height, width = dots.shape
        if self.two:                    # two colours: all planes alike
            dots = (dots & 1) * np.uint8(15)
        memory = self.vga.memory
        memory.sync()
        planes = np.stack([np.packbits(dots >> plane & 1, axis=1) for plane in range(4)], axis=2)
        memory.planes[self._at(page, x, y, width, height)] = planes
        memory.refresh()


class Chain4Screen(DotScreen):
    """Mode 13h: a byte a dot, in the window's order."""

    width, height = 320, 200

    def _lines(self) -> np.ndarray:
        return self.vga.memory.layout("chain4")[:16000].reshape(200, 80, 4)

    def read_dots(self, page: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        return self._lines()[y:y + height, x // 4:(x + width) // 4].reshape(height, width).copy()

    def write_dots(self, page: int, x: int, y: int, dots: np.ndarray) -> None:
        height, width = dots.shape
        self._lines()[y:y + height, x // 4:(x + width) // 4] = dots.reshape(height, width // 4, 4)


def _colour(index: int, bpp: int) -> int:
    """A colour of the 16 of the text modes as it stands in memory."""
    light = 0x55 if index & 8 else 0
    red, green, blue = (0xAA * (index >> bit & 1) + light for bit in (2, 1, 0))
    if index == 6:
        green = 0x55
    if bpp >= 24:
        return red << 16 | green << 8 | blue
    return red >> 3 << 11 | green >> 2 << 5 | blue >> 3 if bpp == 16 else red >> 3 << 10 | green >> 3 << 5 | blue >> 3


@functools.cache
def _colours(bpp: int) -> np.ndarray:
    """The bytes of 256 colours."""
    depth = (bpp + 7) // 8
    values = (i if bpp == 8 else _colour(i & 15, bpp) for i in range(256))
    return np.array([list(value.to_bytes(4, "little")[:depth]) for value in values], np.uint8)


class LinearScreen(DotScreen):
    """The frame buffer of VBE modes, in 8 to 32 bits a dot; colours 0-15 are those of the text modes."""

    def __init__(self, vga: Vga, columns: int, rows: int, cell: int) -> None:
        super().__init__(vga, columns, rows, cell)
        self.width, self.height = vga.dispi.regs[INDEX_XRES], vga.dispi.regs[INDEX_YRES]
        self.bpp = vga.dispi.regs[INDEX_BPP]

    def _lines(self) -> np.ndarray:
        depth = (self.bpp + 7) // 8
        dispi = self.vga.dispi
        pitch = dispi.pitch
        rows = min(self.height, (len(self.vga.lfb.bytes) - dispi.start()) // pitch)
        raw = self.vga.lfb.bytes[dispi.start():dispi.start() + rows * pitch].reshape(rows, pitch)
        return raw[:, :self.width * depth].reshape(rows, self.width, depth)

    def read_dots(self, page: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        data = self._lines()[y:y + height, x:x + width]
        if self.bpp == 8:
            return data[:, :, 0].copy()
        return (data != 0).any(axis=2).astype(np.uint8) * np.uint8(7)

    def write_dots(self, page: int, x: int, y: int, dots: np.ndarray) -> None:
        height, width = dots.shape
        lines = self._lines()
        target = lines[y:y + height, x:x + width]
        target[:] = _colours(self.bpp)[dots[:target.shape[0], :target.shape[1]]]

    def move(self, page: int, left: int, right: int, source: int, target: int, count: int) -> None:
        lines = self._lines()
        x = slice(left * 8, (right + 1) * 8)
        lines[target * self.cell:(target + count) * self.cell, x] = lines[source * self.cell:(source + count) * self.cell, x].copy()


def screen_of(vga: Vga, mode: Any, columns: int, rows: int, cell: int) -> Screen:
    """The layout of a mode (vga_modes.Mode, or None: a VBE mode)."""
    if vga.dispi.on:
        if vga.dispi.regs[INDEX_BPP] == 4:
            return PlanarScreen(vga, columns, rows, cell, vga.dispi.regs[INDEX_YRES], 16)
        return LinearScreen(vga, columns, rows, cell)
    if mode is None or mode.kind == "text":
        return TextScreen(vga, columns, rows, cell)
    if mode.kind == "cga":
        return CgaScreen(vga, columns, rows, cell, 2 if mode.colours == 4 else 1)
    if mode.kind == "planar":
        return PlanarScreen(vga, columns, rows, cell, mode.height, mode.colours)
    return Chain4Screen(vga, columns, rows, cell)
