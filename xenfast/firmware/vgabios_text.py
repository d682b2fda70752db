"""Int 10h functions 00h to 0Fh and 13h: modes, cursor, pages, scrolling, characters and dots.

Specified by IBM's PS/2 and PC BIOS Interface Technical Reference (interrupt 10h).  A function takes the bios and a ``Call``
(firmware/traps.py); ``FUNCTIONS`` is the table by AH.  Left out: the light pen (none is there) and the sound of BEL.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from xenfast.firmware.vgabios_core import BDA, BEL, BS, CGA_PALETTE, COLUMNS, CONTROL, CR, CURSOR_SHAPE, LF, MODE, PAGE, VgaBios

TEXT_MODES = (0, 1, 2, 3, 7)
LONGEST = 0x1000                        # characters of one string


def f00_set_mode(bios: VgaBios, call: Any) -> None:
    number = call.al & 0x7F
    if bios.set_mode(call.mem, number, not call.al & 0x80):
        call.al = 0x3F if number == 6 else 0x30 if number < 8 else 0x20


def f01_cursor_shape(bios: VgaBios, call: Any) -> None:
    bios.set_cursor_shape(call.mem, call.ch, call.cl)


def f02_set_cursor(bios: VgaBios, call: Any) -> None:
    bios.set_cursor(call.mem, call.bh, call.dl, call.dh)


def f03_get_cursor(bios: VgaBios, call: Any) -> None:
    call.dl, call.dh = bios.cursor(call.mem, call.bh)
    call.cx = call.mem.read_int(BDA + CURSOR_SHAPE, 2)


def f04_light_pen(_bios: VgaBios, call: Any) -> None:
    call.ah = 0


def f05_page(bios: VgaBios, call: Any) -> None:
    bios.set_page(call.mem, call.al & 7)


def f06_scroll_up(bios: VgaBios, call: Any) -> None:
    _scroll(bios, call, call.al)


def f07_scroll_down(bios: VgaBios, call: Any) -> None:
    _scroll(bios, call, -call.al)


def _scroll(bios: VgaBios, call: Any, lines: int) -> None:
    page = call.mem.read_int(BDA + PAGE, 1)
    bios.screen(call.mem).scroll(bios.page_offset(call.mem, page), call.cl, call.ch, call.dl, call.dh, lines, call.bh)


def f08_read(bios: VgaBios, call: Any) -> None:
    screen = bios.screen(call.mem)
    column, row = bios.cursor(call.mem, call.bh)
    there = screen.get(bios.page_offset(call.mem, call.bh), column, row)
    if isinstance(there, tuple):
        call.al, call.ah = there
    else:
        call.ax = bios.find_glyph(call.mem, screen, there)


def f09_write(bios: VgaBios, call: Any) -> None:
    bios.write(call.mem, call.al, call.bh, call.cx, call.bl)


def f0a_write_character(bios: VgaBios, call: Any) -> None:
    text = call.mem.read_int(BDA + MODE, 1) & 0x7F in TEXT_MODES and not bios.vga.dispi.on
    bios.write(call.mem, call.al, call.bh, call.cx, None if text else call.bl)


def f0b_colours(bios: VgaBios, call: Any) -> None:
    """CGA: BH 0 the background and border, BH 1 the palette of mode 4."""
    ar, bl = bios.vga.ar, call.bl
    value = call.mem.read_int(BDA + CGA_PALETTE, 1)
    if call.bh == 0:
        value = value & 0xE0 | bl & 0x1F
        colour = bl & 7 | (bl & 8) << 1
        ar[0x11] = colour
        if call.mem.read_int(BDA + MODE, 1) & 0x7F in (4, 5, 6):
            ar[0] = colour
    else:
        value = value & ~0x20 | (bl & 1) << 5
    call.mem.write_int(BDA + CGA_PALETTE, 1, value)
    if call.mem.read_int(BDA + MODE, 1) & 0x7F in (4, 5):
        for i in (1, 2, 3):
            ar[i] = i << 1 | value >> 5 & 1 | value & 0x10


def f0c_write_dot(bios: VgaBios, call: Any) -> None:
    bios.screen(call.mem).dot(bios.page_offset(call.mem, call.bh), call.cx, call.dx, call.al)


def f0d_read_dot(bios: VgaBios, call: Any) -> None:
    call.al = bios.screen(call.mem).read_dot(bios.page_offset(call.mem, call.bh), call.cx, call.dx)


def f0e_teletype(bios: VgaBios, call: Any) -> None:
    mem = call.mem
    text = mem.read_int(BDA + MODE, 1) & 0x7F in TEXT_MODES and not bios.vga.dispi.on
    page = mem.read_int(BDA + PAGE, 1)
    bios.teletype(mem, call.al, page, None if text else call.bl or 7)


def f0f_get_mode(bios: VgaBios, call: Any) -> None:
    mem = call.mem
    call.ah = mem.read_int(BDA + COLUMNS, 1)
    call.al = mem.read_int(BDA + MODE, 1) & 0x7F | mem.read_int(BDA + CONTROL, 1) & 0x80
    call.bh = mem.read_int(BDA + PAGE, 1)


def f13_string(bios: VgaBios, call: Any) -> None:
    """AL bit 0 moves the cursor, bit 1: attributes stand in the string."""
    mem, page = call.mem, call.bh
    if page == 0xFF:
        page = mem.read_int(BDA + PAGE, 1)
    before = bios.cursor(mem, page)
    bios.set_cursor(mem, page, call.dl, call.dh)
    step = 2 if call.al & 2 else 1
    data = mem.read(call.linear("es", call.bp), min(call.cx, LONGEST) * step)
    for at in range(0, len(data) - step + 1, step):
        code, colour = data[at], data[at + 1] if step == 2 else call.bl
        if code not in (BEL, BS, LF, CR):
            screen = bios.screen(mem)
            column, row = bios.cursor(mem, page)
            screen.put(bios.page_offset(mem, page), column, row, code, colour, bios.glyph(mem, screen, code))
            column += 1
            if column < screen.columns:
                bios.set_cursor(mem, page, column, row)
                continue
            bios.set_cursor(mem, page, 0, row)
            code = LF
        bios.teletype(mem, code, page, colour)
    if not call.al & 1:
        bios.set_cursor(mem, page, *before)


Function = Callable[[VgaBios, Any], None]
FUNCTIONS: dict[int, Function] = {
    0x00: f00_set_mode, 0x01: f01_cursor_shape, 0x02: f02_set_cursor, 0x03: f03_get_cursor, 0x04: f04_light_pen, 0x05: f05_page,
    0x06: f06_scroll_up, 0x07: f07_scroll_down, 0x08: f08_read, 0x09: f09_write, 0x0A: f0a_write_character, 0x0B: f0b_colours,
    0x0C: f0c_write_dot, 0x0D: f0d_read_dot, 0x0E: f0e_teletype, 0x0F: f0f_get_mode, 0x13: f13_string,
}   # fmt: skip
