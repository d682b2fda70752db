"""The video BIOS: ROM at C0000h, int 10h for text, graphics and VBE, in Python on the adapter's own memory.

Specified by IBM's PS/2 and PC BIOS Interface Technical Reference (interrupt 10h), with what later BIOSes agree on from Ralf Brown's
interrupt list, and VBE 3.0.  Here is the table of functions, and how a machine gets the ROM.

Left out: the EGA's second adapter (12h/35h), the protected-mode interface (4F0Ah), VBE/PM's reduced states beyond on and off.
"""

from __future__ import annotations

from typing import Any

from xenfast.devices.vga import Vga
from xenfast.firmware import vgabios_fonts, vgabios_palette, vgabios_text, vgabios_vbe
from xenfast.firmware.vgabios_core import BASE, VgaBios

FUNCTIONS: dict[int, vgabios_text.Function] = {
    **vgabios_text.FUNCTIONS,           # 00h-0Fh, 13h
    **vgabios_palette.FUNCTIONS,        # 10h
    **vgabios_fonts.FUNCTIONS,          # 11h, 12h, 1Ah, 1Bh, 1Ch
    0x4F: vgabios_vbe.int10_4f,
}


def int10(bios: VgaBios, call: Any) -> None:
    """The interrupt; a function that is not there changes nothing."""
    function = FUNCTIONS.get(call.ah)
    if function is not None:
        function(bios, call)


def install(hvm: Any, traps: Any, vga: Vga) -> VgaBios:
    """Put the ROM at C0000h and bind its trap; the caller runs ``post(memory)`` when the data area has been cleared."""
    bios = VgaBios(vga)
    hvm.rom(BASE, bytes(bios.rom.image))
    for offset, _name in bios.rom.traps:
        traps.bind(BASE + offset, lambda call: int10(bios, call))
    return bios
