"""Int 10h functions 11h (fonts), 12h (alternate select), 1Ah, 1Bh (what is there) and 1Ch (save and restore).

Specified by IBM's PS/2 and PC BIOS Interface Technical Reference (interrupt 10h).  The layout of a save area is the BIOS's own
business; ours is ``STATES``.
"""

from __future__ import annotations

from typing import Any

from xenfast.devices import font as fonts
from xenfast.devices.vga import CRTC_COUNT
from xenfast.devices.vga_picture import height
from xenfast.firmware.vga_modes import MODES, TEXT
from xenfast.firmware.vgabios_core import (
    BDA,
    CELL,
    COLUMNS,
    CONTROL,
    CRTC_PORT,
    DCC,
    FLAGS,
    MODE,
    PAGE,
    PAGE_SIZE,
    ROWS,
    SAVE_POINTER,
    SEGMENT,
    SWITCHES,
    VECTOR_FONT,
    VECTOR_FONT_HIGH,
    VgaBios,
)

# --- 11h: fonts ---------------------------------------------------------------------------------------------------------------
ROM_FONTS = {1: 14, 2: 8, 4: 16}                        # AL & 0Fh -> height
GRAPHICS_FONTS = {0x22: 14, 0x23: 8, 0x24: 16}
ROWS_OF_CODE = {1: 14, 2: 25, 3: 43}                    # BL of 21h-24h; 0: DL


def f11_fonts(bios: VgaBios, call: Any) -> None:
    al = call.al
    if al in (0x00, 0x10):
        size = call.bh
        data = call.mem.read(call.linear("es", call.bp), size * min(call.cx, 256)) if 0 < size <= 32 else b""
        bios.load_font(data, size, call.dx & 0xFF, call.cx, call.bl)
        if al == 0x10 and data:
            set_cell(bios, call.mem, size)
    elif al & ~0x10 in ROM_FONTS and al < 0x20:
        size = ROM_FONTS[al & 0x0F]
        bios.load_font(fonts.font(size), size, 0, 256, call.bl)
        if al & 0x10:
            set_cell(bios, call.mem, size)
    elif al == 0x03:
        bios.vga.set_seq(3, call.bl)
    elif al == 0x20:
        call.mem.write_int(VECTOR_FONT_HIGH * 4, 4, call.es << 16 | call.bp)
    elif al == 0x21:
        _graphics_font(call, call.es << 16 | call.bp, call.cx)
    elif al in GRAPHICS_FONTS:
        size = GRAPHICS_FONTS[al]
        _graphics_font(call, SEGMENT << 16 | bios.rom.font(size), size)
    elif al == 0x30:
        _information(bios, call)


def _graphics_font(call: Any, pointer: int, size: int) -> None:
    call.mem.write_int(VECTOR_FONT * 4, 4, pointer)
    call.mem.write_int(BDA + CELL, 2, size)
    rows = ROWS_OF_CODE.get(call.bl, call.dl)
    call.mem.write_int(BDA + ROWS, 1, rows - 1)


def set_cell(bios: VgaBios, mem: Any, cell: int) -> None:
    """Characters of the text mode have another height: so many rows fit, and the cursor moves to the last lines."""
    crtc = bios.vga.crtc
    lines = height(bios.vga)
    double = crtc[9] >> 7
    shown = {200: 200, 350: 350, 400: 400}.get(lines >> double, lines >> double)
    if 350 < shown < 400:                               # a height was set before that does not divide the lines
        shown = 400
    elif 200 < shown < 350 and not double:
        shown = 350
    crtc[9] = crtc[9] & 0xE0 | cell - 1
    if mem.read_int(BDA + MODE, 1) & 0x7F == 7:
        crtc[0x14] = cell - 1
    if cell >= 3:
        crtc[0x0A], crtc[0x0B] = (cell - 2, cell - 1) if cell <= 8 else (cell - 3, cell - 2)
    rows = max(shown // cell, 1)
    end = (rows * cell << double) - 1
    crtc[0x12] = end & 0xFF
    crtc[7] = crtc[7] & ~0x42 | (end >> 7 & 2) | (end >> 3 & 0x40)
    columns = mem.read_int(BDA + COLUMNS, 2)
    mem.write_int(BDA + ROWS, 1, rows - 1)
    mem.write_int(BDA + CELL, 2, cell)
    mem.write_int(BDA + PAGE_SIZE, 2, rows * columns * 2 + 0xFF & ~0xFF)
    bios.set_page(mem, mem.read_int(BDA + PAGE, 1))


def _information(bios: VgaBios, call: Any) -> None:
    far = SEGMENT << 16
    rom = bios.rom
    pointers = {
        0: call.mem.read_int(VECTOR_FONT_HIGH * 4, 4), 1: call.mem.read_int(VECTOR_FONT * 4, 4), 2: far | rom.font14, 3: far | rom.font8,
        4: far | rom.font8 + 128 * 8, 5: far | rom.empty, 6: far | rom.font16, 7: far | rom.empty,
    }   # fmt: skip
    if call.bh in pointers:
        call.cx = call.mem.read_int(BDA + CELL, 1)
        call.dl = call.mem.read_int(BDA + ROWS, 1)
        call.es, call.bp = pointers[call.bh] >> 16, pointers[call.bh] & 0xFFFF


# --- 12h: alternate select ----------------------------------------------------------------------------------------------------
def f12_select(bios: VgaBios, call: Any) -> None:
    mem, al, bl = call.mem, call.al, call.bl
    flags = mem.read_int(BDA + FLAGS, 1)
    if bl == 0x10:                                      # what an EGA BIOS tells
        call.bh = mem.read_int(BDA + CRTC_PORT, 2) == 0x3B4
        call.bl = 3
        switches = mem.read_int(BDA + SWITCHES, 1)
        call.ch, call.cl = switches >> 4, switches & 0x0F
        return
    if bl == 0x30 and al <= 2:                          # lines of text modes, from the next mode on
        flags = flags & ~0x90 | (0x80, 0x00, 0x10)[al]
    elif bl == 0x31 and al <= 1:                        # palettes with modes
        flags = flags & ~0x08 | al << 3
    elif bl == 0x32 and al <= 1:                        # the adapter answers the processor: it always does
        pass
    elif bl == 0x33 and al <= 1:                        # greys
        flags = flags & ~0x02 | (1 - al) << 1
    elif bl == 0x34 and al <= 1:                        # cursor emulation
        mem.write_int(BDA + CONTROL, 1, mem.read_int(BDA + CONTROL, 1) & ~1 | al)
    elif bl == 0x36 and al <= 1:                        # picture on or off
        bios.vga.set_seq(1, bios.vga.seq[1] & ~0x20 | al << 5)
    elif bl != 0x20:                                    # 20h: print screen for any number of rows: int 5 does that already
        return
    mem.write_int(BDA + FLAGS, 1, flags)
    call.al = 0x12


# --- 1Ah, 1Bh: what is there --------------------------------------------------------------------------------------------------
def f1a_combination(_bios: VgaBios, call: Any) -> None:
    if call.al == 0:
        call.bl, call.bh = call.mem.read_int(BDA + DCC, 1), 0
    elif call.al == 1:
        call.mem.write_int(BDA + DCC, 1, call.bl)
    else:
        return
    call.al = 0x1A


def f1b_state(bios: VgaBios, call: Any) -> None:
    """64 bytes at ES:DI."""
    if call.bx:
        return
    mem = call.mem
    mode = MODES.get(mem.read_int(BDA + MODE, 1) & 0x7F)
    out = bytearray(64)
    out[0:4] = (SEGMENT << 16 | bios.rom.functionality).to_bytes(4, "little")
    out[0x04:0x22] = mem.read(BDA + MODE, 0x1E)
    out[0x22] = mem.read_int(BDA + ROWS, 1) + 1 & 0xFF
    out[0x23:0x25] = mem.read(BDA + CELL, 2)
    out[0x25] = mem.read_int(BDA + DCC, 1)
    if mode is not None:
        colours = (0 if mode.number == 7 else 16) if mode.kind == TEXT else mode.colours
        out[0x27:0x29] = colours.to_bytes(2, "little")
        out[0x29] = mode.pages
    out[0x2A] = {200: 0, 350: 1, 400: 2, 480: 3}.get(height(bios.vga), 2)
    out[0x2B] = bios.vga.seq[3] & 3 | bios.vga.seq[3] >> 2 & 4
    out[0x2C] = bios.vga.seq[3] >> 2 & 3 | bios.vga.seq[3] >> 3 & 4
    flags = mem.read_int(BDA + FLAGS, 1)
    out[0x2D] = 1 | flags & 0x02 | flags & 0x08 | (flags & 0x04) | (bios.vga.ar[0x10] << 2 & 0x20)
    out[0x31] = 3                                       # 256 KiB
    mem.write(call.linear("es", call.di), bytes(out))
    call.al = 0x1B


# --- 1Ch: save and restore ----------------------------------------------------------------------------------------------------
# CX bit -> bytes of its part: registers, data area, colours, (VBE) linear modes
STATES = {1: 128, 2: 128, 4: 832, 8: 64}
AREAS = ((BDA + MODE, 0x1E), (BDA + ROWS, 7), (BDA + SAVE_POINTER, 4), (VECTOR_FONT_HIGH * 4, 4), (VECTOR_FONT * 4, 4))


def state_size(parts: int) -> int:
    return sum(size for bit, size in STATES.items() if parts & bit)


def save_state(bios: VgaBios, mem: Any, parts: int, address: int) -> None:
    vga = bios.vga
    out = b""
    if parts & 1:
        head = bytes((vga.misc, vga.feature, vga.seq_index & 0xFF, vga.gr_index & 0xFF, vga.crtc_index & 0xFF, vga.ar_index,
                      vga.ar_data, vga.dac_mask))
        out += (head + vga.seq[:5] + vga.gr[:9] + vga.ar[:21] + vga.crtc[:CRTC_COUNT]).ljust(STATES[1], b"\0")
    if parts & 2:
        out += b"".join(mem.read(at, n) for at, n in AREAS).ljust(STATES[2], b"\0")
    if parts & 4:
        out += (bytes((vga.dac_mask, vga.dac_index)) + vga.dac).ljust(STATES[4], b"\0")
    if parts & 8:
        out += bios.vbe.save().ljust(STATES[8], b"\0")
    mem.write(address, out)


def restore_state(bios: VgaBios, mem: Any, parts: int, address: int) -> None:
    vga = bios.vga
    data = memoryview(mem.read(address, state_size(parts)))
    if parts & 8:
        bios.vbe.restore(bytes(data[state_size(parts & 7):]))
    if parts & 1:
        misc, vga.feature, seq_index, gr_index, crtc_index, ar_index, ar_data, mask = data[:8]
        seq, gr, ar, crtc = data[8:13], data[13:22], data[22:43], data[43:43 + CRTC_COUNT]
        if not parts & 8 and not vga.dispi.on:
            vga.set_mode(misc, bytes(seq[1:]), bytes(crtc), bytes(ar), bytes(gr))
        vga.seq_index, vga.gr_index, vga.crtc_index = seq_index, gr_index, crtc_index
        vga.ar_index, vga.ar_data, vga.dac_mask = ar_index & 0x3F, bool(ar_data), mask
        data = data[STATES[1]:]
    if parts & 2:
        for at, n in AREAS:
            mem.write(at, bytes(data[:n]))
            data = data[n:]
        data = data[STATES[2] - sum(n for _, n in AREAS):]
    if parts & 4:
        vga.dac_mask, vga.dac_index = data[0], data[1]
        vga.dac[:] = data[2:770]


def f1c_save(bios: VgaBios, call: Any) -> None:
    """AL 0: how many blocks of 64 bytes, 1 save, 2 restore; at ES:BX."""
    parts = call.cx & 7
    if call.al > 2 or not parts:
        return
    if call.al == 0:
        call.bx = -(-state_size(parts) // 64)
    else:
        (save_state if call.al == 1 else restore_state)(bios, call.mem, parts, call.linear("es", call.bx))
    call.al = 0x1C


FUNCTIONS = {0x11: f11_fonts, 0x12: f12_select, 0x1A: f1a_combination, 0x1B: f1b_state, 0x1C: f1c_save}
