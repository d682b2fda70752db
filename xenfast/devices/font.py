"""The fonts of the text modes: 256 characters of code page 437 in 8x8, 8x14 and 8x16 dots, a byte a row, bit 7 on the left.

The drawings are devices/font_art.py; here letters get their accents, and the lines, shades and blocks are computed for each height so
that they join.  ``font(16)[65 * 16:66 * 16]`` is the letter A.
"""

from __future__ import annotations

import functools
import unicodedata

from xenfast.devices.font_art import ACCENTS, LARGE, SMALL
from xenfast.devices.vga_picture import CODE_PAGE

HEIGHTS = (8, 14, 16)

# Codes B3h to DAh: lines that leave the middle upward, to the right, downward, to the left; 1 single, 2 double
LINES = (
    "1010 1011 1012 2021 0021 0012 2022 2020 0022 2002 2001 1002 0011 1100 1101 0111 1110 0101 1111 1210 2120"
    " 2200 0220 2202 0222 2220 0202 2222 1202 2101 0212 0121 2100 1200 0210 0120 2121 1212 1001 0110"
).split()
FIRST_LINE = 0xB3
SHADES = {0xB0: (0x22, 0x88), 0xB1: (0xAA, 0x55), 0xB2: (0xDD, 0x77)}      # even rows, odd rows
DOT_ROWS = {8: 3, 14: 6, 16: 7}                                            # the row in the middle


def _dots(row: str) -> int:
    shift = 7 - len(row) if len(row) < 7 else 8 - len(row)
    return int(row.replace("#", "1").replace(".", "0"), 2) << shift


def _parse(art: str) -> dict[str, list[int]]:
    """Character -> its rows from the height of capitals on."""
    glyphs = {}
    for line in art.strip("\n").split("\n"):
        name, *words = line.split(" ")
        rows: list[int] = []
        for word in words:
            if word.startswith("^"):
                rows += [0] * int(word[1:])
            else:
                row, _, times = word.partition("*")
                rows += [_dots(row)] * int(times or 1)
        glyphs[name] = rows
    return glyphs


def _accented(base: list[int], letter: str, accent: str, large: bool) -> tuple[list[int], int]:
    """The rows of a letter with its accent, and by how many rows they begin above the height of capitals."""
    tall, small = ACCENTS[accent]
    marks = [_dots(row) for row in tall] if large else [_dots(small)]
    if accent == "cedilla":
        body = base + [0] * ((10 if large else 7) - len(base))
        return body + marks, 0
    if letter.islower() or letter == "ı":
        return marks + base[len(marks):], 0
    if large:                           # a lower capital
        return [*marks, 0, *base[:2], *base[3:7], *base[8:]], 1
    if base[0] == marks[0]:
        return [*marks, 0, base[0], *base[3:]], 0
    return [*marks, *base[:2], *base[3:]], 0


COMBINING = {"\u0301": "acute", "\u0300": "grave", "\u0302": "circumflex", "\u0308": "diaeresis", "\u030a": "ring",
             "\u0303": "tilde", "\u0327": "cedilla"}


def _lines(code: int, height: int) -> list[int]:
    """A box-drawing character: arms from the edges to the middle, double ones hollow, single ones drawn across a double."""
    up, right, down, left = (int(digit) for digit in LINES[code - FIRST_LINE])
    middle = DOT_ROWS[height]
    top, bottom = (middle - 1, middle + 1) if max(left, right) == 2 else (middle, middle)
    first, last = (1, 6) if max(up, down) == 2 else (3, 4)
    grid = [[0] * 8 for _ in range(height)]

    def fill(row: int, row_end: int, column: int, column_end: int, bit: int) -> None:
        for r in range(row, row_end + 1):
            grid[r][column:column_end + 1] = [bit] * (column_end + 1 - column)

    if up:
        fill(0, bottom, first, last, 1)
    if down:
        fill(top, height - 1, first, last, 1)
    if left:
        fill(top, bottom, 0, last, 1)
    if right:
        fill(top, bottom, first, 7, 1)
    if up == 2:
        fill(0, middle, 3, 4, 0)
    if down == 2:
        fill(middle, height - 1, 3, 4, 0)
    if left == 2:
        fill(middle, middle, 0, 4, 0)
    if right == 2:
        fill(middle, middle, 3, 7, 0)
    across, along = left == right == 2, up == down == 2         # a double line goes through: a single one ends at its near side
    if up == 1:
        fill(0, top if across and not down else bottom, 3, 4, 1)
    if down == 1:
        fill(bottom if across and not up else top, height - 1, 3, 4, 1)
    if left == 1:
        fill(middle, middle, 0, 2 if along and not right else last, 1)
    if right == 1:
        fill(middle, middle, 5 if along and not left else first, 7, 1)
    return [sum(bit << 7 - column for column, bit in enumerate(row)) for row in grid]


def _block(code: int, height: int) -> list[int]:
    half = height // 2
    return {
        0xDB: [0xFF] * height,
        0xDC: [0] * half + [0xFF] * (height - half),
        0xDD: [0xF0] * height,
        0xDE: [0x0F] * height,
        0xDF: [0xFF] * half + [0] * (height - half),
    }[code]


def _integral(code: int, height: int) -> list[int]:
    """The halves of the integral sign, which join."""
    stem = [0x18] * height
    if code == 0xF4:
        return [0] * (1 if height == 8 else 2) + [0x0E, 0x1B] + stem[:height - (3 if height == 8 else 4)]
    return stem[:height - (3 if height == 8 else 5)] + [0xD8, 0x70] + [0] * (1 if height == 8 else 3)


def _glyph(code: int, height: int, art: dict[str, list[int]]) -> list[int]:
    """The rows of one character."""
    large, first = height != 8, {8: 0, 14: 1, 16: 2}[height]
    if code in (0x00, 0x20, 0xFF):
        return [0] * height
    if code in SHADES:
        return [SHADES[code][row & 1] for row in range(height)]
    if FIRST_LINE <= code < FIRST_LINE + len(LINES):
        return _lines(code, height)
    if 0xDB <= code <= 0xDF:
        return _block(code, height)
    if code in (0xF4, 0xF5):
        return _integral(code, height)
    if code in (0x08, 0x0A):            # inverse bullet and circle
        return [~row & 0xFF for row in _glyph(code - 1, height, art)]
    letter = CODE_PAGE[code]
    above = 0
    if letter in art:
        rows = art[letter]
    else:
        base, mark = tuple(unicodedata.normalize("NFD", letter))
        base = "ı" if base == "i" else base
        rows, above = _accented(art[base], base, COMBINING[mark], large)
    if letter == "|":                   # from edge to edge of the line
        rows, above = rows[:height - first], 0
    return ([0] * (first - above) + rows + [0] * height)[:height]


@functools.cache
def font(height: int) -> bytes:
    """256 characters of 8 x ``height`` dots (8, 14 or 16)."""
    art = _parse(LARGE if height != 8 else SMALL)
    return bytes(row for code in range(256) for row in _glyph(code, height, art))
