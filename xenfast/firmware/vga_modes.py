"""The video modes of a VGA BIOS: register values, palettes, and the table of them that stands in the ROM.

Register values are those of IBM's PS/2 Hardware Interface Technical Reference (Video Subsystem, "BIOS mode settings"), which software
compares with.  A ``Mode`` is what int 10h function 0 sets; ``parameters()`` is its 64-byte entry of the video parameter table.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

TEXT, CGA, PLANAR, CHAIN4, LINEAR = "text", "cga", "planar", "chain4", "linear"


@dataclass(frozen=True)
class Mode:
    number: int
    kind: str
    columns: int
    rows: int
    cell: int               # lines of a character
    page_size: int          # bytes, as in the BIOS data area
    pages: int
    segment: int
    palette: str            # of PALETTES
    misc: int
    seq: bytes              # SR1 to SR4
    crtc: bytes             # CR0 to CR18
    ar: bytes               # AR0 to AR14
    gr: bytes               # GR0 to GR8
    colours: int = 16       # how many colours a dot may have, in graphics modes
    width: int = 0
    height: int = 0


def _hex(text: str) -> bytes:
    return bytes.fromhex(text)


# Attribute Controller
AR_TEXT = _hex("00 01 02 03 04 05 14 07 38 39 3A 3B 3C 3D 3E 3F 0C 00 0F 08 00")
AR_MONO = _hex("00 08 08 08 08 08 08 08 10 18 18 18 18 18 18 18 0E 00 0F 08 00")
AR_CGA4 = _hex("00 13 15 17 02 04 06 07 10 11 12 13 14 15 16 17 01 00 03 00 00")
AR_CGA2 = _hex("00 17 17 17 17 17 17 17 17 17 17 17 17 17 17 17 01 00 01 00 00")
AR_EGA200 = _hex("00 01 02 03 04 05 06 07 10 11 12 13 14 15 16 17 01 00 0F 00 00")
AR_MONO350 = _hex("00 08 00 00 18 18 00 00 00 08 00 00 00 18 00 00 0B 00 05 00 00")
AR_EGA350 = _hex("00 01 02 03 04 05 14 07 38 39 3A 3B 3C 3D 3E 3F 01 00 0F 00 00")
AR_TWO = _hex("00 3F 3F 3F 3F 3F 3F 3F 3F 3F 3F 3F 3F 3F 3F 3F 01 00 0F 00 00")
AR_256 = _hex("00 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F 41 00 0F 00 00")

# CRT Controller: 400 lines (also 200 scanned twice), 350, 480; 40 or 80 columns
CRTC_40 = _hex("2D 27 28 90 2B A0 BF 1F 00 4F 0D 0E 00 00 00 00 9C 8E 8F 14 1F 96 B9 A3 FF")
CRTC_80 = _hex("5F 4F 50 82 55 81 BF 1F 00 4F 0D 0E 00 00 00 00 9C 8E 8F 28 1F 96 B9 A3 FF")
CRTC_MONO = _hex("5F 4F 50 82 55 81 BF 1F 00 4F 0D 0E 00 00 00 00 9C 8E 8F 28 0F 96 B9 A3 FF")
CRTC_CGA4 = _hex("2D 27 28 90 2B 80 BF 1F 00 C1 00 00 00 00 00 00 9C 8E 8F 14 00 96 B9 A2 FF")
CRTC_CGA2 = _hex("5F 4F 50 82 54 80 BF 1F 00 C1 00 00 00 00 00 00 9C 8E 8F 28 00 96 B9 C2 FF")
CRTC_D = _hex("2D 27 28 90 2B 80 BF 1F 00 C0 00 00 00 00 00 00 9C 8E 8F 14 00 96 B9 E3 FF")
CRTC_E = _hex("5F 4F 50 82 54 80 BF 1F 00 C0 00 00 00 00 00 00 9C 8E 8F 28 00 96 B9 E3 FF")
CRTC_F = _hex("5F 4F 50 82 54 80 BF 1F 00 40 00 00 00 00 00 00 83 85 5D 28 0F 63 BA E3 FF")
CRTC_11 = _hex("5F 4F 50 82 54 80 0B 3E 00 40 00 00 00 00 00 00 EA 8C DF 28 00 E7 04 C3 FF")
CRTC_12 = _hex("5F 4F 50 82 54 80 0B 3E 00 40 00 00 00 00 00 00 EA 8C DF 28 00 E7 04 E3 FF")
CRTC_13 = _hex("5F 4F 50 82 54 80 BF 1F 00 41 00 00 00 00 00 00 9C 8E 8F 28 40 96 B9 A3 FF")

# Graphics Controller
GR_TEXT = _hex("00 00 00 00 00 10 0E 00 FF")
GR_MONO = _hex("00 00 00 00 00 10 0A 00 FF")
GR_CGA4 = _hex("00 00 00 00 00 30 0F 00 FF")
GR_CGA2 = _hex("00 00 00 00 00 00 0D 00 FF")
GR_PLANAR = _hex("00 00 00 00 00 00 05 0F FF")
GR_F = _hex("00 00 00 00 00 00 05 05 FF")
GR_11 = _hex("00 00 00 00 00 00 05 01 FF")
GR_256 = _hex("00 00 00 00 00 40 05 0F FF")

SEQ_40, SEQ_80 = _hex("08 03 00 02"), _hex("00 03 00 02")
SEQ_CGA4, SEQ_CGA2 = _hex("09 03 00 02"), _hex("01 01 00 06")
SEQ_D, SEQ_E, SEQ_13 = _hex("09 0F 00 06"), _hex("01 0F 00 06"), _hex("01 0F 00 0E")

# number kind columns rows cell page_size pages segment palette misc seq crtc ar gr colours width height
_TABLE = (
    Mode(0x00, TEXT, 40, 25, 16, 0x0800, 8, 0xB800, "ega", 0x67, SEQ_40, CRTC_40, AR_TEXT, GR_TEXT),
    Mode(0x01, TEXT, 40, 25, 16, 0x0800, 8, 0xB800, "ega", 0x67, SEQ_40, CRTC_40, AR_TEXT, GR_TEXT),
    Mode(0x02, TEXT, 80, 25, 16, 0x1000, 8, 0xB800, "ega", 0x67, SEQ_80, CRTC_80, AR_TEXT, GR_TEXT),
    Mode(0x03, TEXT, 80, 25, 16, 0x1000, 8, 0xB800, "ega", 0x67, SEQ_80, CRTC_80, AR_TEXT, GR_TEXT),
    Mode(0x04, CGA, 40, 25, 8, 0x4000, 1, 0xB800, "cga", 0x63, SEQ_CGA4, CRTC_CGA4, AR_CGA4, GR_CGA4, 4, 320, 200),
    Mode(0x05, CGA, 40, 25, 8, 0x4000, 1, 0xB800, "cga", 0x63, SEQ_CGA4, CRTC_CGA4, AR_CGA4, GR_CGA4, 4, 320, 200),
    Mode(0x06, CGA, 80, 25, 8, 0x4000, 1, 0xB800, "cga", 0x63, SEQ_CGA2, CRTC_CGA2, AR_CGA2, GR_CGA2, 2, 640, 200),
    Mode(0x07, TEXT, 80, 25, 16, 0x1000, 8, 0xB000, "mono", 0x66, SEQ_80, CRTC_MONO, AR_MONO, GR_MONO),
    Mode(0x0D, PLANAR, 40, 25, 8, 0x2000, 8, 0xA000, "cga", 0x63, SEQ_D, CRTC_D, AR_EGA200, GR_PLANAR, 16, 320, 200),
    Mode(0x0E, PLANAR, 80, 25, 8, 0x4000, 4, 0xA000, "cga", 0x63, SEQ_E, CRTC_E, AR_EGA200, GR_PLANAR, 16, 640, 200),
    Mode(0x0F, PLANAR, 80, 25, 14, 0x8000, 2, 0xA000, "mono", 0xA2, SEQ_E, CRTC_F, AR_MONO350, GR_F, 4, 640, 350),
    Mode(0x10, PLANAR, 80, 25, 14, 0x8000, 2, 0xA000, "ega", 0xA3, SEQ_E, CRTC_F, AR_EGA350, GR_PLANAR, 16, 640, 350),
    Mode(0x11, PLANAR, 80, 30, 16, 0xA000, 1, 0xA000, "ega", 0xE3, SEQ_E, CRTC_11, AR_TWO, GR_11, 2, 640, 480),
    Mode(0x12, PLANAR, 80, 30, 16, 0xA000, 1, 0xA000, "ega", 0xE3, SEQ_E, CRTC_12, AR_EGA350, GR_PLANAR, 16, 640, 480),
    Mode(0x13, CHAIN4, 40, 25, 8, 0x2000, 1, 0xA000, "vga", 0x63, SEQ_13, CRTC_13, AR_256, GR_256, 256, 320, 200),
)
MODES = {mode.number: mode for mode in _TABLE}


def with_lines(mode: Mode, lines: int) -> Mode:
    """A text mode with 200 or 350 lines instead of 400 (int 10h AH=12h BL=30h)."""
    crtc = bytearray(mode.crtc)
    if mode.kind != TEXT or lines == 400:
        return mode
    if lines == 350:
        for register, value in ((0x09, 0x4D), (0x0A, 0x0B), (0x0B, 0x0C), (0x10, 0x83), (0x11, 0x85), (0x12, 0x5D), (0x14, 0x1F),
                                (0x15, 0x63), (0x16, 0xBA)):
            crtc[register] = value
        return replace(mode, cell=14, misc=mode.misc & 0x3F | 0x80, crtc=bytes(crtc))
    crtc[0x09], crtc[0x0A], crtc[0x0B], crtc[0x14] = 0xC7, 0x06, 0x07, 0x1F
    seq = bytes((mode.seq[0] | 1, *mode.seq[1:]))
    return replace(mode, cell=8, misc=0x63 | mode.misc & 1, seq=seq, crtc=bytes(crtc), palette="cga", ar=AR_EGA200[:16] + mode.ar[16:])


# --- palettes: 6-bit components ----------------------------------------------------------------------------------------------
def _ega(i: int) -> tuple[int, int, int]:
    """rgbRGB: two bits a colour."""
    red, green, blue = (0x2A * (i >> bit & 1) + 0x15 * (i >> bit + 3 & 1) for bit in (2, 1, 0))
    return red, green, blue


def _cga(i: int) -> tuple[int, int, int]:
    """IRGB with I in bit 4, and brown instead of dark yellow."""
    light = 0x15 * (i >> 4 & 1)
    red, green, blue = (0x2A * (i >> bit & 1) + light for bit in (2, 1, 0))
    return (red, 0x15, blue) if i & 0x17 == 6 else (red, green, blue)


def _mono(i: int) -> tuple[int, int, int]:
    grey = (0x00, 0x2A, 0x00, 0x3F)[i >> 3 & 3]
    return grey, grey, grey


GREYS = (0x00, 0x05, 0x08, 0x0B, 0x0E, 0x11, 0x14, 0x18, 0x1C, 0x20, 0x24, 0x28, 0x2D, 0x32, 0x38, 0x3F)
# From one component at its lowest to it at its highest: three lightnesses, each in three saturations
RAMPS = ("00 10 1F 2F 3F", "1F 27 2F 37 3F", "2D 31 36 3A 3F", "00 07 0E 15 1C", "0E 11 15 18 1C", "14 16 18 1A 1C",
         "00 04 08 0C 10", "08 0A 0C 0E 10", "0B 0C 0D 0F 10")
# Round the wheel from blue: which component changes, and whether it rises
WHEEL = ((0, True), (2, False), (1, True), (0, False), (2, True), (1, False))


def _vga() -> list[tuple[int, int, int]]:
    """256 colours: the 16 of the text modes, 16 greys, 24 hues in 9 ramps, 8 times black."""
    out = [_cga(i & 7 | (i & 8) << 1) for i in range(16)] + [(grey, grey, grey) for grey in GREYS]
    for text in RAMPS:
        ramp = bytes.fromhex(text)
        colour = [ramp[0], ramp[0], ramp[4]]
        for component, rises in WHEEL:
            for step in range(4):
                colour[component] = ramp[step if rises else 4 - step]
                out.append((colour[0], colour[1], colour[2]))
            colour[component] = ramp[4 if rises else 0]
    return out + [(0, 0, 0)] * 8


PALETTES = {
    "ega": [_ega(i) for i in range(64)],
    "cga": [_cga(i) for i in range(64)],
    "mono": [_mono(i) for i in range(64)],
    "vga": _vga(),
}


def grey(red: int, green: int, blue: int) -> int:
    """The grey of a colour, as the BIOS sums it: 30 % red, 59 % green, 11 % blue."""
    return min((77 * red + 151 * green + 28 * blue + 0x80) >> 8, 0x3F)


# --- the video parameter table -------------------------------------------------------------------------------------------------
def parameters(mode: Mode) -> bytes:
    """Columns, rows - 1, cell, page size, SR1-4, misc, CRTC, AR, GR."""
    return (bytes((mode.columns, mode.rows - 1, mode.cell)) + mode.page_size.to_bytes(2, "little") + mode.seq + bytes((mode.misc,))
            + mode.crtc + mode.ar[:20] + mode.gr)


def parameter_table() -> bytes:
    """29 entries in the order of the PS/2: modes 0-3 and 7 with 200, then 350, then 400 lines."""
    cga = [with_lines(MODES[n], 200) for n in range(4)]
    low = cga + [MODES[n] for n in (4, 5, 6)] + [with_lines(MODES[7], 350)]
    unused = [MODES[3]] * 5                                     # 08h-0Ch
    graphics = [MODES[n] for n in (0x0D, 0x0E)] + [MODES[3]] * 2 + [MODES[n] for n in (0x0F, 0x10)]
    ega = [with_lines(MODES[n], 350) for n in range(4)]
    vga = [MODES[n] for n in (1, 3, 7, 0x11, 0x12, 0x13)]
    table = low + unused + graphics + ega + vga
    assert len(table) == 29
    return b"".join(parameters(mode) for mode in table)
