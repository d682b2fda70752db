"""VBE: int 10h AH=4Fh, modes with a linear frame buffer on the DISPI interface of the adapter.

Specified by VESA BIOS Extension Core Functions Standard 3.0, VBE/PM 1.0 (10h) and VBE/DDC 1.0 (15h); the EDID is VESA E-EDID 1.3.

Left out: the protected-mode interface (0Ah, answered "failed"), stereo, refresh rates of one's own, tripple buffering.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from xenfast.devices import edid
from xenfast.devices.vga_dispi import (
    DAC_8BIT,
    ENABLED,
    INDEX_BANK,
    INDEX_BPP,
    INDEX_ENABLE,
    INDEX_VIRT_WIDTH,
    INDEX_X_OFFSET,
    INDEX_XRES,
    INDEX_Y_OFFSET,
    INDEX_YRES,
    LFB_ENABLED,
    NO_CLEAR,
)

if TYPE_CHECKING:
    from xenfast.firmware.vgabios_core import VgaBios

OK, FAILED, NOT_HERE, WRONG_MODE = 0x004F, 0x014F, 0x024F, 0x034F

# VESA's numbers: mode -> width, height, bits a dot; from 140h on those that Bochs' adapter has, from 180h on our own
NUMBERS = {
    0x100: (640, 400, 8), 0x101: (640, 480, 8), 0x102: (800, 600, 4), 0x103: (800, 600, 8), 0x104: (1024, 768, 4),
    0x105: (1024, 768, 8), 0x106: (1280, 1024, 4), 0x107: (1280, 1024, 8), 0x10D: (320, 200, 15), 0x10E: (320, 200, 16),
    0x10F: (320, 200, 24), 0x110: (640, 480, 15), 0x111: (640, 480, 16), 0x112: (640, 480, 24), 0x113: (800, 600, 15),
    0x114: (800, 600, 16), 0x115: (800, 600, 24), 0x116: (1024, 768, 15), 0x117: (1024, 768, 16), 0x118: (1024, 768, 24),
    0x119: (1280, 1024, 15), 0x11A: (1280, 1024, 16), 0x11B: (1280, 1024, 24), 0x11C: (1600, 1200, 8), 0x11D: (1600, 1200, 15),
    0x11E: (1600, 1200, 16), 0x11F: (1600, 1200, 24),
    0x140: (320, 200, 32), 0x141: (640, 400, 32), 0x142: (640, 480, 32), 0x143: (800, 600, 32), 0x144: (1024, 768, 32),
    0x145: (1280, 1024, 32), 0x146: (320, 200, 8), 0x147: (1600, 1200, 32), 0x148: (1152, 864, 8), 0x149: (1152, 864, 15),
    0x14A: (1152, 864, 16), 0x14B: (1152, 864, 24), 0x14C: (1152, 864, 32),
}   # fmt: skip
WIDE = ((1280, 720), (1280, 800), (1280, 960), (1440, 900), (1400, 1050), (1680, 1050), (1920, 1080), (1920, 1200), (2560, 1440),
        (2560, 1600))
NUMBERS.update((0x180 + 3 * i + j, (*size, bpp)) for i, size in enumerate(WIDE) for j, bpp in enumerate((16, 24, 32)))

PLANAR, PACKED, DIRECT = 3, 4, 6        # memory models
# bits a dot -> size and position of red, green, blue, reserved
MASKS = {15: (5, 10, 5, 5, 5, 0, 1, 15), 16: (5, 11, 6, 5, 5, 0, 0, 0), 24: (8, 16, 8, 8, 8, 0, 0, 0), 32: (8, 16, 8, 8, 8, 0, 8, 24)}
DEFAULT_LFB = 0xE0000000


class Vbe:
    """The VBE mode that is set, if any."""

    def __init__(self, bios: VgaBios) -> None:
        self.bios, self.vga = bios, bios.vga
        self.mode: int | None = None            # as set, with its bits 14 and 15
        self.power = 0                          # of VBE/PM

    def forget(self) -> None:
        """A mode of the VGA was set."""
        self.mode = None

    def size(self, number: int) -> int:
        """Bytes that a mode takes; of a plane with 4 bits a dot."""
        width, height, bpp = NUMBERS[number]
        return width // 8 * height if bpp == 4 else width * ((bpp + 7) // 8) * height

    def numbers(self) -> list[int]:
        """The modes for which there is memory."""
        return [n for n, (_, _, bpp) in NUMBERS.items() if self.size(n) <= (0x10000 if bpp == 4 else len(self.vga.lfb.bytes))]

    def save(self) -> bytes:
        regs = self.vga.dispi.regs
        return b"".join(regs[i].to_bytes(2, "little") for i in range(1, 10)) + (self.mode or 0).to_bytes(2, "little")

    def restore(self, data: bytes) -> None:
        values = [int.from_bytes(data[i:i + 2], "little") for i in range(0, 20, 2)]
        dispi = self.vga.dispi
        dispi.disable()
        enable = values[INDEX_ENABLE - 1]
        if enable & ENABLED:
            for index in (INDEX_XRES, INDEX_YRES, INDEX_BPP):
                dispi.write(index, values[index - 1])
            dispi.write(INDEX_ENABLE, enable | NO_CLEAR)
            for index in (INDEX_VIRT_WIDTH, INDEX_X_OFFSET, INDEX_Y_OFFSET, INDEX_BANK):
                dispi.write(index, values[index - 1])
        self.mode = values[9] or None if dispi.on else None


# --- 00h, 01h: information ----------------------------------------------------------------------------------------------------
def controller(bios: VgaBios, call: Any) -> int:
    """VbeInfoBlock at ES:DI, 512 bytes when it says VBE2."""
    at = call.linear("es", call.di)
    full = call.mem.read(at, 4) == b"VBE2"
    far, rom = 0xC000 << 16, bios.rom
    out = bytearray(512 if full else 256)
    out[0:4] = b"VESA"
    out[4:6] = (0x0300).to_bytes(2, "little")
    out[6:10] = (far | rom.oem).to_bytes(4, "little")
    out[10:14] = (1).to_bytes(4, "little")              # the DAC may have 8 bits
    out[14:18] = (far | rom.modes).to_bytes(4, "little")
    out[18:20] = (len(bios.vga.lfb.bytes) >> 16).to_bytes(2, "little")
    if full:
        out[20:22] = (0x0100).to_bytes(2, "little")
        out[22:26], out[26:30], out[30:34] = ((far | where).to_bytes(4, "little") for where in (rom.vendor, rom.product, rom.revision))
    call.mem.write(at, bytes(out))
    return OK


def mode_information(bios: VgaBios, call: Any) -> int:
    number = call.cx & 0x3FFF
    if number not in NUMBERS or number not in bios.vbe.numbers():
        return FAILED
    call.mem.write(call.linear("es", call.di), mode_block(bios, number))
    return OK


def mode_block(bios: VgaBios, number: int) -> bytes:
    """ModeInfoBlock, 256 bytes."""
    width, height, bpp = NUMBERS[number]
    planar = bpp == 4
    pitch = width // 8 if planar else width * ((bpp + 7) // 8)
    memory = 0x40000 if planar else len(bios.vga.lfb.bytes)
    images = max(min((0x10000 if planar else memory) // (pitch * height) - 1, 255), 0)
    words: list[tuple[int, int, int]] = [               # offset, size, value
        # supported by the hardware, information complete, TTY, colour, graphics, not of the VGA's but for planes, linear
        (0, 2, 0x001F if planar else 0x00DB | 0x20), (2, 1, 7), (3, 1, 0), (4, 2, 64), (6, 2, 64), (8, 2, 0xA000), (10, 2, 0), (12, 4, 0),
        (16, 2, pitch),
        # VBE 1.2
        (18, 2, width), (20, 2, height), (22, 1, 8), (23, 1, 16), (24, 1, 4 if planar else 1), (25, 1, bpp), (26, 1, 1),
        (27, 1, PLANAR if planar else PACKED if bpp == 8 else DIRECT), (28, 1, 0), (29, 1, images), (30, 1, 1),
        # VBE 2.0
        (40, 4, 0 if planar else bios.vga.lfb_address or DEFAULT_LFB),
        # VBE 3.0: the same for linear modes
        (50, 2, pitch), (52, 1, images), (53, 1, images), (62, 4, 230_000_000),
    ]
    out = bytearray(256)
    for offset, size, value in words:
        out[offset:offset + size] = value.to_bytes(size, "little")
    if bpp in MASKS:
        out[31:39] = bytes(MASKS[bpp])
        out[39] = 0x02 if bpp == 32 else 0              # the reserved bits may be used
        out[54:62] = bytes(MASKS[bpp])
    return bytes(out)


# --- 02h, 03h: modes -----------------------------------------------------------------------------------------------------------
def set_mode(bios: VgaBios, call: Any) -> int:
    return enter(bios, call.mem, call.bx)


def enter(bios: VgaBios, mem: Any, request: int) -> int:
    """Set a mode: bit 14 the linear buffer, bit 15 without clearing."""
    number = request & 0x01FF
    keep = bool(request & 0x8000)
    if number < 0x100:
        return OK if bios.set_mode(mem, number & 0x7F, not keep) else FAILED
    if number not in bios.vbe.numbers():
        return FAILED
    width, height, bpp = NUMBERS[number]
    if request & 0x4000 and bpp == 4:
        return FAILED
    bios.set_mode(mem, 0x12 if bpp == 4 else 0x13, not keep)        # the VGA's registers, its palette
    dispi = bios.vga.dispi
    for index, value in ((INDEX_XRES, width), (INDEX_YRES, height), (INDEX_BPP, bpp)):
        dispi.write(index, value)
    dispi.write(INDEX_ENABLE, ENABLED | (LFB_ENABLED if request & 0x4000 else 0) | (NO_CLEAR if keep else 0))
    bios.vbe.mode = request & 0xC1FF
    mem.write_int(0x44A, 2, width // 8)
    mem.write_int(0x484, 1, height // 16 - 1)
    mem.write_int(0x485, 2, 16)
    return OK


def get_mode(bios: VgaBios, call: Any) -> int:
    if bios.vbe.mode is None or not bios.vga.dispi.on:
        call.bx = call.mem.read_int(0x449, 1) & 0x7F
    else:
        call.bx = bios.vbe.mode
    return OK


# --- 04h to 09h ---------------------------------------------------------------------------------------------------------------
def state(bios: VgaBios, call: Any) -> int:
    from xenfast.firmware import vgabios_fonts as states

    parts = call.cx & 15
    if call.dl == 0:
        call.bx = -(-states.state_size(parts) // 64)
    elif call.dl == 1:
        states.save_state(bios, call.mem, parts, call.linear("es", call.bx))
    elif call.dl == 2:
        states.restore_state(bios, call.mem, parts, call.linear("es", call.bx))
    else:
        return FAILED
    return OK


def window(bios: VgaBios, call: Any) -> int:
    """BL window A; BH 0 set to DX, 1 get."""
    dispi = bios.vga.dispi
    if not dispi.on or (bios.vbe.mode is not None and bios.vbe.mode & 0x4000):
        return WRONG_MODE
    if call.bl:
        return FAILED
    if call.bh == 1:
        call.dx = dispi.regs[INDEX_BANK]
        return OK
    dispi.write(INDEX_BANK, call.dx)
    return OK if call.bh == 0 and dispi.regs[INDEX_BANK] == call.dx else FAILED


def line_length(bios: VgaBios, call: Any) -> int:
    """BL 0 set in dots, 1 get, 2 set in bytes, 3 the longest."""
    dispi = bios.vga.dispi
    if not dispi.on:
        return FAILED
    bpp = dispi.regs[INDEX_BPP]
    depth = (bpp + 7) // 8
    memory = 0x10000 if bpp == 4 else len(bios.vga.lfb.bytes)
    dots = None
    if call.bl == 0:
        dots = call.cx
    elif call.bl == 2:
        dots = call.cx * 8 if bpp == 4 else -(-call.cx // depth)
    elif call.bl == 3:
        longest = memory // dispi.regs[INDEX_YRES]
        width = min(longest * 8 if bpp == 4 else longest // depth, 0xFFF8)
        call.cx = width & ~7
        call.bx = (width & ~7) // 8 if bpp == 4 else (width & ~7) * depth
        call.dx = dispi.regs[INDEX_YRES]
        return OK
    elif call.bl != 1:
        return FAILED
    if dots is not None:
        dots = dots + 7 & ~7
        if dots < dispi.regs[INDEX_XRES] or dots > 0xFFF8:
            return NOT_HERE
        dispi.write(INDEX_VIRT_WIDTH, dots)
        if dispi.regs[INDEX_VIRT_WIDTH] != dots:
            return NOT_HERE
    call.bx, call.cx = dispi.pitch & 0xFFFF, dispi.regs[INDEX_VIRT_WIDTH]
    call.dx = min(memory // dispi.pitch, 0xFFFF)
    return OK


def display_start(bios: VgaBios, call: Any) -> int:
    """BL 0, 80h (at the retrace): set to dot CX of line DX; 1 get; 2, 82h: set to byte ECX."""
    dispi = bios.vga.dispi
    if not dispi.on:
        return FAILED
    kind = call.bl & 0x7F
    if kind == 1:
        call.bh, call.cx, call.dx = 0, dispi.regs[INDEX_X_OFFSET], dispi.regs[INDEX_Y_OFFSET]
        return OK
    if kind == 0:
        x, y = call.cx, call.dx
    elif kind == 2:
        y, rest = divmod(call.ecx, dispi.pitch)
        bpp = dispi.regs[INDEX_BPP]
        x = rest * 8 if bpp == 4 else rest // ((bpp + 7) // 8)
    else:
        return FAILED
    before = dispi.regs[INDEX_X_OFFSET], dispi.regs[INDEX_Y_OFFSET]
    if y > 0xFFFF:
        return FAILED
    dispi.regs[INDEX_X_OFFSET] = 0                      # any order of two valid offsets may pass through an invalid pair
    dispi.write(INDEX_Y_OFFSET, y)
    dispi.write(INDEX_X_OFFSET, x)
    if (dispi.regs[INDEX_X_OFFSET], dispi.regs[INDEX_Y_OFFSET]) != (x, y):
        dispi.regs[INDEX_X_OFFSET], dispi.regs[INDEX_Y_OFFSET] = before
        return FAILED
    return OK


def dac_format(bios: VgaBios, call: Any) -> int:
    """BL 0 set to BH bits, 1 get."""
    dispi = bios.vga.dispi
    if dispi.on and dispi.regs[INDEX_BPP] > 8:
        return WRONG_MODE
    if call.bl == 0:
        enable = dispi.regs[INDEX_ENABLE]
        dispi.write(INDEX_ENABLE, (enable | DAC_8BIT if call.bh >= 8 else enable & ~DAC_8BIT) | NO_CLEAR)
    elif call.bl != 1:
        return FAILED
    call.bh = 8 if dispi.dac8 else 6
    return OK


def palette(bios: VgaBios, call: Any) -> int:
    """BL 0 set, 1 get, 80h set at the retrace; DX the first of CX; entries of blue, green, red, 0 at ES:DI."""
    first, count, kind = call.dx, call.cx, call.bl & 0x7F
    if first + count > 256 or kind > 1:
        return FAILED
    at = call.linear("es", call.di)
    dac, mask = bios.vga.dac, 0xFF if bios.vga.dispi.dac8 else 0x3F
    if kind == 1:
        entries = (dac[3 * i:3 * i + 3] for i in range(first, first + count))
        call.mem.write(at, b"".join(bytes((blue, green, red, 0)) for red, green, blue in entries))
        return OK
    data = call.mem.read(at, 4 * count)
    for i in range(count):
        blue, green, red, _ = data[4 * i:4 * i + 4]
        dac[3 * (first + i):3 * (first + i) + 3] = bytes((red & mask, green & mask, blue & mask))
    return OK


# --- 0Ah, 10h, 15h --------------------------------------------------------------------------------------------------------------
def protected_mode(_bios: VgaBios, _call: Any) -> int:
    return FAILED


def power(bios: VgaBios, call: Any) -> int:
    """VBE/PM: BL 0 version and states, 1 set BH, 2 get; the picture is dark in all states but 0."""
    if call.bl == 0:
        call.bl, call.bh = 0x10, 0x07                   # version 1.0; standby, suspend, off
    elif call.bl == 1 and call.bh in (0, 1, 2, 4):
        bios.vbe.power = call.bh
        bios.vga.set_seq(1, bios.vga.seq[1] & ~0x20 | (0x20 if call.bh else 0))
    elif call.bl == 2:
        call.bh = bios.vbe.power
    else:
        return FAILED
    return OK


def ddc(bios: VgaBios, call: Any) -> int:
    """VBE/DDC: BL 0 what there is, 1 block DX of the EDID to ES:DI."""
    if call.bl == 0:
        call.bl, call.bh = 0x02, 0x01                   # DDC2B, about a second for a block
        return OK
    if call.bl != 1 or call.cx or call.dx:
        return FAILED
    call.mem.write(call.linear("es", call.di), edid.block())
    return OK


FUNCTIONS: dict[int, Callable[[VgaBios, Any], int]] = {
    0x00: controller, 0x01: mode_information, 0x02: set_mode, 0x03: get_mode, 0x04: state, 0x05: window, 0x06: line_length,
    0x07: display_start, 0x08: dac_format, 0x09: palette, 0x0A: protected_mode, 0x10: power, 0x15: ddc,
}   # fmt: skip


def int10_4f(bios: VgaBios, call: Any) -> None:
    """AL 4Fh: there is such a function; AH 0: it was done."""
    function = FUNCTIONS.get(call.al)
    call.ax = function(bios, call) if function is not None else 0x0100
