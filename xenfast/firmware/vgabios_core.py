"""The state behind int 10h: the ROM, the data area, setting modes, fonts, the cursor, writing characters.

Specified by IBM's PS/2 and PC BIOS Interface Technical Reference (interrupt 10h).  The functions of the interrupt are in
vgabios_text.py, vgabios_palette.py, vgabios_fonts.py and vgabios_vbe.py; vgabios.py is the table of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from xenfast.devices import font as fonts
from xenfast.devices.vga import Vga
from xenfast.devices.vga_picture import FONT_PLACES
from xenfast.firmware import vga_modes
from xenfast.firmware.asm import Assembler
from xenfast.firmware.vga_modes import MODES, PALETTES, TEXT, Mode
from xenfast.firmware.vga_screens import Screen, TextScreen, screen_of
from xenfast.firmware.vgabios_vbe import Vbe

BASE, SEGMENT, SIZE = 0xC0000, 0xC000, 0x5000
VECTOR_INT10, VECTOR_FONT_HIGH, VECTOR_INT42, VECTOR_FONT, VECTOR_INT6D = 0x10, 0x1F, 0x42, 0x43, 0x6D

# BIOS data area: offsets from 400h
BDA = 0x400
EQUIPMENT = 0x10
MODE, COLUMNS, PAGE_SIZE, PAGE_START, CURSORS, CURSOR_SHAPE, PAGE, CRTC_PORT = 0x49, 0x4A, 0x4C, 0x4E, 0x50, 0x60, 0x62, 0x63
CGA_MODE, CGA_PALETTE, ROWS, CELL, CONTROL, SWITCHES, FLAGS, DCC, SAVE_POINTER = 0x65, 0x66, 0x84, 0x85, 0x87, 0x88, 0x89, 0x8A, 0xA8
CONTROL_DEFAULT = 0x60                  # 256 KiB; bit 0: no cursor emulation; bit 7: the last mode was set without clearing
SWITCHES_DEFAULT = 0xF9
FLAGS_DEFAULT = 0x11                    # VGA active, 400 lines; bit 1 greys, bit 3 no palette loading, bit 7 200 lines
DCC_VGA_COLOUR = 0x08
CGA_MODE_VALUES = (0x2C, 0x28, 0x2D, 0x29, 0x2A, 0x2E, 0x1E, 0x29)
BEL, BS, LF, CR = 7, 8, 10, 13


class Layout:
    """Where things are in the ROM: offsets in segment C000h."""

    def __init__(self, modes: list[int]) -> None:
        asm = Assembler(SIZE)
        asm.put(bytes((0x55, 0xAA, SIZE // 512)))
        asm.code("near jmp init")
        asm.org(0x1E)
        asm.put(b"IBM VGA: xenfast video BIOS\0")      # programs look for the first three letters there
        asm.code("int10: trap int10\n iret\n init: retf")
        asm.align(16)
        self.put = asm.put
        self.font8, self.font14, self.font16 = (asm.put(fonts.font(height)) for height in (8, 14, 16))
        self.parameters = asm.put(vga_modes.parameter_table())
        self.functionality = asm.put(FUNCTIONALITY)
        far = SEGMENT << 16
        self.save_pointer2 = asm.put(bytes((26, 0)) + bytes(24))                       # secondary: its length, nothing in it
        self.save_pointer = asm.put(
            (far | self.parameters).to_bytes(4, "little") + bytes(12) + (far | self.save_pointer2).to_bytes(4, "little") + bytes(8))
        self.oem = asm.put(b"xenfast VBE\0")
        self.vendor = asm.put(b"xenfast\0")
        self.product = asm.put(b"xenfast VGA\0")
        self.revision = asm.put(b"1\0")
        self.modes = asm.put(b"".join(mode.to_bytes(2, "little") for mode in (*modes, 0xFFFF)))
        self.empty = asm.put(b"\1\0\1\0")               # int 10h/11h: one empty font header
        self.image = bytearray(asm.finish())
        self.int10 = asm.labels["int10"]
        self.traps = list(asm.traps)
        self.image[-1] = -sum(self.image) & 0xFF        # the ROM adds up to 0

    def font(self, height: int) -> int:
        return {8: self.font8, 14: self.font14, 16: self.font16}[height]


# Int 10h/1Bh: modes 0-13h; 200, 350, 400 lines; 2 of 8 blocks of characters; what AH=10h-1Ch can do; save areas
FUNCTIONALITY = bytes((0xFF, 0xE0, 0x0F, 0, 0, 0, 0, 0x07, 0x02, 0x08, 0xFF, 0x0E, 0, 0, 0x20, 0))


class VgaBios:
    """Int 10h.  ``vbe`` is set by vgabios_vbe."""

    def __init__(self, vga: Vga) -> None:
        self.vga = vga
        self.vbe = Vbe(self)
        self.rom = Layout(self.vbe.numbers())
        self._screen_key: Any = None
        self._screen: Screen | None = None

    # --- the data area -----------------------------------------------------------------------------------------------
    def post(self, mem: Any) -> None:
        """What the ROM's initialisation does, in a memory with read_int() and write_int()."""
        far = SEGMENT << 16
        mem.write_int(VECTOR_INT10 * 4, 4, far | self.rom.int10)
        mem.write_int(VECTOR_INT6D * 4, 4, far | self.rom.int10)
        mem.write_int(VECTOR_INT42 * 4, 4, 0xF000F065)              # the BIOS's own entry, of the days before the EGA
        mem.write_int(VECTOR_FONT_HIGH * 4, 4, far | self.rom.font8 + 128 * 8)
        mem.write_int(VECTOR_FONT * 4, 4, far | self.rom.font16)
        mem.write_int(BDA + CONTROL, 1, CONTROL_DEFAULT)
        mem.write_int(BDA + SWITCHES, 1, SWITCHES_DEFAULT)
        mem.write_int(BDA + FLAGS, 1, FLAGS_DEFAULT)
        mem.write_int(BDA + DCC, 1, DCC_VGA_COLOUR)
        mem.write_int(BDA + SAVE_POINTER, 4, far | self.rom.save_pointer)
        mem.write_int(BDA + EQUIPMENT, 2, mem.read_int(BDA + EQUIPMENT, 2) & ~0x30 | 0x20)
        self.set_mode(mem, 3)

    def screen(self, mem: Any) -> Screen:
        """The layout of the mode that is set."""
        data = mem.read(BDA + MODE, 2)
        tail = mem.read(BDA + ROWS, 3)
        vga = self.vga
        key = data, tail, vga.dispi.on, tuple(vga.dispi.regs[1:4]), vga.crtc[0x13]
        if key != self._screen_key or self._screen is None:
            columns = mem.read_int(BDA + COLUMNS, 2)
            mode = MODES.get(data[0] & 0x7F)
            rows, cell = tail[0] + 1, tail[1] | tail[2] << 8
            if mode is not None and mode.kind != TEXT:              # a program may write what it likes to the data area
                columns, rows, cell = mode.columns, min(rows, mode.height // max(cell, 1)), min(max(cell, 1), mode.height)
            if vga.dispi.on:
                columns, cell = vga.dispi.regs[1] // 8, 16
                rows = vga.dispi.regs[2] // 16
            self._screen = screen_of(vga, mode, max(min(columns, 512), 1), max(min(rows, 256), 1), cell)
            self._screen_key = key
        return self._screen

    def page_offset(self, mem: Any, page: int) -> int:
        """Where a page begins in the mode's memory."""
        if self.vga.dispi.on:
            return 0
        size = mem.read_int(BDA + PAGE_SIZE, 2)
        return page * size & 0xFFFF

    def cursor(self, mem: Any, page: int) -> tuple[int, int]:
        """Column and row."""
        at = mem.read_int(BDA + CURSORS + 2 * (page & 7), 2)
        return at & 0xFF, at >> 8

    def set_cursor(self, mem: Any, page: int, column: int, row: int) -> None:
        mem.write_int(BDA + CURSORS + 2 * (page & 7), 2, row << 8 | column)
        if page == mem.read_int(BDA + PAGE, 1) and not self.vga.dispi.on:
            at = self.page_offset(mem, page) // 2 + row * mem.read_int(BDA + COLUMNS, 2) + column
            self.vga.crtc[0x0E], self.vga.crtc[0x0F] = at >> 8 & 0xFF, at & 0xFF

    def glyph(self, mem: Any, screen: Screen, code: int) -> bytes:
        """The picture of a character in graphics modes: where int 43h and, in CGA modes, int 1Fh point."""
        if isinstance(screen, TextScreen):
            return b""
        if self.vga.dispi.on:
            return fonts.font(16)[code * 16:code * 16 + 16]
        vector, index = VECTOR_FONT, code
        if code >= 128 and mem.read_int(BDA + MODE, 1) & 0x7F in (4, 5, 6):
            vector, index = VECTOR_FONT_HIGH, code - 128
        pointer = mem.read_int(vector * 4, 4)
        return mem.read((pointer >> 16 << 4) + (pointer & 0xFFFF) + index * screen.cell, screen.cell)

    # --- modes -------------------------------------------------------------------------------------------------------
    def set_mode(self, mem: Any, number: int, clear: bool = True) -> bool:
        """Function 0.  False: there is no such mode."""
        mode = MODES.get(number)
        if mode is None:
            return False
        flags = mem.read_int(BDA + FLAGS, 1)
        if mode.kind == TEXT:
            lines = 200 if flags & 0x80 else 400 if flags & 0x10 else 350
            mode = vga_modes.with_lines(mode, lines if number != 7 or lines != 200 else 350)
        vga = self.vga
        vga.set_mode(mode.misc, mode.seq, mode.crtc, mode.ar, mode.gr)
        self.vbe.forget()
        if not flags & 0x08:
            self.load_palette(PALETTES[mode.palette], bool(flags & 0x02))
        if clear:
            self._clear(mode)
        if mode.kind == TEXT:
            self.load_font(fonts.font(mode.cell), mode.cell, 0, 256, 0)
        self._write_data_area(mem, mode, clear)
        return True

    def load_palette(self, colours: list[tuple[int, int, int]], greys: bool) -> None:
        for i, (red, green, blue) in enumerate(colours):
            if greys:
                red = green = blue = vga_modes.grey(red, green, blue)
            self.vga.dac[3 * i:3 * i + 3] = bytes((red, green, blue))

    def _clear(self, mode: Mode) -> None:
        memory = self.vga.memory
        memory.sync()
        if mode.kind == TEXT:
            memory.planes[:, 0], memory.planes[:, 1] = 0x20, 0x07
        elif mode.kind == "cga":
            memory.planes[:, :2] = 0
        else:
            memory.words[:] = 0
        memory.refresh()

    def load_font(self, data: bytes, height: int, first: int, count: int, block: int) -> None:
        """Characters into plane 2."""
        count = min(count, 256 - first, len(data) // max(height, 1))
        if count <= 0 or not 0 < height <= 32:
            return
        place = FONT_PLACES[block & 7]
        memory = self.vga.memory
        memory.sync()
        font = memory.planes[place:place + 0x2000, 2].reshape(256, 32)
        font[first:first + count, :height] = np.frombuffer(data, np.uint8)[:count * height].reshape(count, height)
        memory.refresh()

    def _write_data_area(self, mem: Any, mode: Mode, clear: bool) -> None:
        number = mode.number
        mono = not mode.misc & 1
        block = bytearray(0x1E)                         # 49h to 66h
        block[0] = number
        block[1:3] = mode.columns.to_bytes(2, "little")
        block[3:5] = mode.page_size.to_bytes(2, "little")
        shape = (0x0607 if mode.cell <= 8 else 0x0B0C if mode.cell == 14 else 0x0D0E) if mode.kind == TEXT else 0
        block[0x17:0x19] = shape.to_bytes(2, "little")
        block[0x1A:0x1C] = (0x3B4 if mono else 0x3D4).to_bytes(2, "little")
        block[0x1C] = CGA_MODE_VALUES[number] if number < 8 else 0x29
        block[0x1D] = 0x3F if number == 6 else 0x30
        mem.write(BDA + MODE, bytes(block))
        mem.write_int(BDA + ROWS, 1, mode.rows - 1 if mode.kind != TEXT else 24)
        mem.write_int(BDA + CELL, 2, mode.cell)
        control = mem.read_int(BDA + CONTROL, 1)
        mem.write_int(BDA + CONTROL, 1, control & 0x7F | (0 if clear else 0x80))
        mem.write_int(BDA + FLAGS, 1, mem.read_int(BDA + FLAGS, 1) & ~0x04 | (0x04 if mono else 0))
        far = SEGMENT << 16
        mem.write_int(VECTOR_FONT_HIGH * 4, 4, far | self.rom.font8 + 128 * 8)
        mem.write_int(VECTOR_FONT * 4, 4, far | self.rom.font(mode.cell))

    def set_page(self, mem: Any, page: int) -> None:
        """Show a page."""
        start = self.page_offset(mem, page)
        mem.write_int(BDA + PAGE, 1, page)
        mem.write_int(BDA + PAGE_START, 2, start)
        mode = MODES.get(mem.read_int(BDA + MODE, 1) & 0x7F)
        units = start // 2 if mode is None or mode.kind == TEXT else start
        self.vga.crtc[0x0C], self.vga.crtc[0x0D] = units >> 8 & 0xFF, units & 0xFF
        self.set_cursor(mem, page, *self.cursor(mem, page))

    def set_cursor_shape(self, mem: Any, first: int, last: int) -> None:
        """Function 1, with values for characters of 8 lines made to fit taller ones unless emulation is off."""
        mem.write_int(BDA + CURSOR_SHAPE, 2, first << 8 | last)
        cell = mem.read_int(BDA + CELL, 2)
        top, bottom = first & 0x3F, last & 0x1F
        if not mem.read_int(BDA + CONTROL, 1) & 1 and cell > 8 and bottom < 8 and top < 0x20 and top <= bottom:
            thin = bottom == top + 1
            bottom = (bottom + 1) * cell // 8 - 1
            bottom -= bottom == cell - 1
            top = bottom - 1 if thin else max((top + 1) * cell // 8 - 1, 0)
        self.vga.crtc[0x0A], self.vga.crtc[0x0B] = top, bottom

    # --- characters --------------------------------------------------------------------------------------------------
    def teletype(self, mem: Any, code: int, page: int, colour: int | None) -> None:
        """Function 0Eh: write and move on, scrolling at the end."""
        screen = self.screen(mem)
        column, row = self.cursor(mem, page)
        if code == CR:
            column = 0
        elif code == LF:
            row += 1
        elif code == BS:
            column = max(column - 1, 0)
        elif code != BEL:
            screen.put(self.page_offset(mem, page), column, row, code, colour, self.glyph(mem, screen, code))
            column += 1
            if column >= screen.columns:
                column, row = 0, row + 1
        if row >= screen.rows:
            row = screen.rows - 1
            offset = self.page_offset(mem, page)
            there = screen.get(offset, min(column, screen.columns - 1), row)
            attribute = there[1] if isinstance(there, tuple) else 0
            screen.scroll(offset, 0, 0, screen.columns - 1, row, 1, attribute)
        self.set_cursor(mem, page, column, row)

    def write(self, mem: Any, code: int, page: int, count: int, colour: int | None) -> None:
        """Functions 09h, 0Ah: so many copies from the cursor on, which stays."""
        screen = self.screen(mem)
        column, row = self.cursor(mem, page)
        offset = self.page_offset(mem, page)
        if isinstance(screen, TextScreen):
            screen.repeat(offset, column, row, code, colour, count)
            return
        glyph = self.glyph(mem, screen, code)
        for _ in range(min(count, screen.columns * screen.rows)):
            screen.put(offset, column, row, code, colour, glyph)
            column += 1
            if column >= screen.columns:
                column, row = 0, row + 1

    def find_glyph(self, mem: Any, screen: Screen, picture: bytes) -> int:
        """The code whose picture this is; 0 for none."""
        if not any(picture):
            return 0x20
        return next((code for code in range(256) if self.glyph(mem, screen, code) == picture), 0)
