"""Int 10h function 10h: the palette of the Attribute Controller and the colours of the DAC.

Specified by IBM's PS/2 and PC BIOS Interface Technical Reference (interrupt 10h, AH=10h).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from xenfast.firmware.vga_modes import grey
from xenfast.firmware.vgabios_core import BDA, CGA_MODE, FLAGS, VgaBios

OVERSCAN, MODE_CONTROL, COLOUR_SELECT = 0x11, 0x10, 0x14


def set_register(bios: VgaBios, call: Any) -> None:
    if call.bl <= COLOUR_SELECT:
        bios.vga.set_ar(call.bl, call.bh)


def set_overscan(bios: VgaBios, call: Any) -> None:
    bios.vga.set_ar(OVERSCAN, call.bh)


def set_all(bios: VgaBios, call: Any) -> None:
    """16 registers and the overscan from ES:DX."""
    data = call.mem.read(call.linear("es", call.dx), 17)
    for i in range(16):
        bios.vga.set_ar(i, data[i])
    bios.vga.set_ar(OVERSCAN, data[16])


def toggle_blinking(bios: VgaBios, call: Any) -> None:
    """BL 0: bit 7 of an attribute is the brightness of the background; 1: it blinks."""
    if call.bl > 1:
        return
    control = bios.vga.ar[MODE_CONTROL]
    bios.vga.set_ar(MODE_CONTROL, control & ~0x08 | call.bl << 3)
    mode = call.mem.read_int(BDA + CGA_MODE, 1)
    call.mem.write_int(BDA + CGA_MODE, 1, mode & ~0x20 | call.bl << 5)


def get_register(bios: VgaBios, call: Any) -> None:
    if call.bl <= COLOUR_SELECT:
        call.bh = bios.vga.ar[call.bl]


def get_overscan(bios: VgaBios, call: Any) -> None:
    call.bh = bios.vga.ar[OVERSCAN]


def get_all(bios: VgaBios, call: Any) -> None:
    call.mem.write(call.linear("es", call.dx), bytes(bios.vga.ar[:16]) + bytes((bios.vga.ar[OVERSCAN],)))


def _store(bios: VgaBios, call: Any, index: int, colours: bytes) -> None:
    """Colours into the DAC, as greys when that has been asked for."""
    greys = call.mem.read_int(BDA + FLAGS, 1) & 2
    mask = 0xFF if bios.vga.dispi.dac8 else 0x3F
    for i in range(len(colours) // 3):
        red, green, blue = (value & mask for value in colours[3 * i:3 * i + 3])
        if greys:
            red = green = blue = grey(red, green, blue)
        at = (index + i & 0xFF) * 3
        bios.vga.dac[at:at + 3] = bytes((red, green, blue))


def set_colour(bios: VgaBios, call: Any) -> None:
    _store(bios, call, call.bl, bytes((call.dh, call.ch, call.cl)))


def set_colours(bios: VgaBios, call: Any) -> None:
    count = min(call.cx, 256)
    _store(bios, call, call.bl, call.mem.read(call.linear("es", call.dx), 3 * count))


def select_page(bios: VgaBios, call: Any) -> None:
    """BL 0: BH is four pages of 64 colours or 16 of 16; BL 1: BH is the page."""
    ar = bios.vga.ar
    if call.bl == 0:
        bios.vga.set_ar(MODE_CONTROL, ar[MODE_CONTROL] & 0x7F | (call.bh & 1) << 7)
    elif call.bl == 1:
        bios.vga.set_ar(COLOUR_SELECT, call.bh if ar[MODE_CONTROL] & 0x80 else call.bh << 2)


def get_colour(bios: VgaBios, call: Any) -> None:
    call.dh, call.ch, call.cl = bios.vga.dac[call.bl * 3:call.bl * 3 + 3]


def get_colours(bios: VgaBios, call: Any) -> None:
    count = min(call.cx, 256)
    colours = (bytes(bios.vga.dac) * 2)[3 * call.bl:3 * (call.bl + count)]
    call.mem.write(call.linear("es", call.dx), colours)


def set_mask(bios: VgaBios, call: Any) -> None:
    bios.vga.dac_mask = call.bl


def get_mask(bios: VgaBios, call: Any) -> None:
    call.bl = bios.vga.dac_mask


def get_page(bios: VgaBios, call: Any) -> None:
    sixteen = bios.vga.ar[MODE_CONTROL] >> 7
    call.bl, call.bh = sixteen, bios.vga.ar[COLOUR_SELECT] >> (0 if sixteen else 2)


def sum_greys(bios: VgaBios, call: Any) -> None:
    """CX colours from BX on become greys."""
    for i in range(min(call.cx, 256)):
        at = (call.bx + i & 0xFF) * 3
        shade = grey(*(value & 0x3F for value in bios.vga.dac[at:at + 3]))
        bios.vga.dac[at:at + 3] = bytes((shade, shade, shade))


SUBFUNCTIONS: dict[int, Callable[[VgaBios, Any], None]] = {
    0x00: set_register, 0x01: set_overscan, 0x02: set_all, 0x03: toggle_blinking, 0x07: get_register, 0x08: get_overscan,
    0x09: get_all, 0x10: set_colour, 0x12: set_colours, 0x13: select_page, 0x15: get_colour, 0x17: get_colours, 0x18: set_mask,
    0x19: get_mask, 0x1A: get_page, 0x1B: sum_greys,
}   # fmt: skip


def f10_palette(bios: VgaBios, call: Any) -> None:
    function = SUBFUNCTIONS.get(call.al)
    if function is not None:
        function(bios, call)


FUNCTIONS = {0x10: f10_palette}
