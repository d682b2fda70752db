"""What the monitor shows: the VGA's registers and memory as an array of colours, or as text.

Specified by IBM's PS/2 Hardware Interface Technical Reference (Video Subsystem: CRT Controller, Attribute Controller, Video DAC).
One way for all modes of the VGA: for every line the CRT Controller gives the address of its first character clock and the row within the
character; each clock fetches 32 bits, one byte of each plane; the Attribute Controller makes eight or nine dots of them.  Everything is
done for all lines at once with numpy.  Colours are 0x00RRGGBB.

A picture has the size the monitor sees: 320x200 in 256 colours is scanned out as 640x400.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xenfast.devices.vga_dispi import INDEX_BPP, INDEX_XRES, INDEX_YRES

if TYPE_CHECKING:
    from xenfast.devices.vga import Vga

BLANK = np.zeros((400, 720), dtype=np.uint32)
MAX_WIDTH, MAX_HEIGHT = 2048, 2048
FONT_PLACES = (0x0000, 0x4000, 0x8000, 0xC000, 0x2000, 0x6000, 0xA000, 0xE000)     # of plane 2, by SR3
CURSOR_FRAMES, BLINK_FRAMES = 8, 16         # half periods

# Code page 437, with the pictures that the codes 0-31 and 127 have on the screen
CODE_PAGE = (
    " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼"
    + bytes(range(32, 127)).decode("ascii") + "⌂"
    + bytes(range(128, 255)).decode("cp437") + " "
)


def blank(vga: Vga) -> bool:
    """Is the picture dark whatever is in the memory?"""
    if vga.dispi.on:
        return False
    return not vga.ar_index & 0x20 or bool(vga.seq[1] & 0x20) or not vga.crtc[0x17] & 0x80


def is_text(vga: Vga) -> bool:
    return not vga.dispi.on and not vga.gr[6] & 1


def size(vga: Vga) -> tuple[int, int]:
    """Height and width of the picture."""
    if vga.dispi.on:
        return vga.dispi.regs[INDEX_YRES], vga.dispi.regs[INDEX_XRES]
    if blank(vga):
        return BLANK.shape[0], BLANK.shape[1]
    dots = 9 if is_text(vga) and not vga.seq[1] & 1 else 8
    double = 1 + (vga.seq[1] >> 3 & 1)
    return min(height(vga), MAX_HEIGHT), min((vga.crtc[1] + 1) * dots * double, MAX_WIDTH)


def height(vga: Vga) -> int:
    """Lines up to Vertical Display End."""
    overflow = vga.crtc[7]
    lines = (vga.crtc[0x12] | (overflow & 2) << 7 | (overflow & 0x40) << 3) + 1
    return lines << 1 if vga.crtc[0x17] & 4 else lines


def frame(vga: Vga, number: int = 0) -> np.ndarray:
    """The picture as (height, width) of uint32; ``number`` counts frames for what blinks, which is visible in frame 0."""
    if vga.dispi.on:
        return _linear(vga)
    if blank(vga):
        return BLANK
    vga.memory.sync()
    cells, rows, addresses = fetch(vga)
    pixels = _text(vga, cells, rows, addresses, number) if is_text(vga) else _graphics(vga, cells)
    picture = palette(vga)[pixels]
    if vga.seq[1] & 8:                  # half the dot clock
        return picture.repeat(2, axis=1)[:MAX_HEIGHT, :MAX_WIDTH]
    return picture[:MAX_HEIGHT, :MAX_WIDTH]


def rgb(picture: np.ndarray) -> np.ndarray:
    """(height, width, 3) of uint8 from 0x00RRGGBB."""
    return np.ascontiguousarray(picture.astype("<u4").view(np.uint8).reshape(*picture.shape, 4)[:, :, 2::-1])


# --- colours -------------------------------------------------------------------------------------------------------------
def _dac_colours(vga: Vga) -> np.ndarray:
    """256 colours of the DAC."""
    dac: np.ndarray = np.frombuffer(bytes(vga.dac), dtype=np.uint8).reshape(256, 3).astype(np.uint32)
    if not vga.dispi.dac8:
        dac = dac << 2 | dac >> 4
    return dac[:, 0] << 16 | dac[:, 1] << 8 | dac[:, 2]


def palette(vga: Vga) -> np.ndarray:
    """What the dots of the present mode are as colours: 256 for modes with 8 bits, else 16 through the Attribute Controller."""
    colours, ar = _dac_colours(vga), vga.ar
    index: np.ndarray = np.arange(256)
    if not vga.gr[5] & 0x40:
        low = np.frombuffer(bytes(ar[:16]), dtype=np.uint8)[index & 15 & ar[0x12]].astype(int)
        high = ar[0x14] << 4 & 0xC0
        index = low & 0x0F | ar[0x14] << 4 & 0x30 | high if ar[0x10] & 0x80 else low | high
    return colours[index & vga.dac_mask]


# --- the CRT Controller --------------------------------------------------------------------------------------------------
def fetch(vga: Vga) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For all lines: the words of the planes (lines, clocks), the row in the character (lines), the counters (lines, clocks).

    There is one clock more than is shown, for pixel panning.
    """
    base, rows = lines(vga)
    crtc = vga.crtc
    step = 4 if crtc[0x14] & 0x20 else 2 if crtc[0x17] & 8 else 1
    counters = base[:, None] + (np.arange(crtc[1] + 2) // step)[None, :]
    return vga.memory.words[memory_address(vga, counters, rows[:, None])], rows, counters


def lines(vga: Vga) -> tuple[np.ndarray, np.ndarray]:
    """The address counter at the start of every line, and the row within the character."""
    crtc = vga.crtc
    shown = min(height(vga), MAX_HEIGHT)
    line: np.ndarray = np.arange(shown)
    split = (crtc[0x18] | (crtc[7] & 0x10) << 4 | (crtc[9] & 0x40) << 3) + 1
    if crtc[0x17] & 4:
        split <<= 1
    above = line < split
    line = np.where(above, line, line - split)
    if crtc[9] & 0x80:                  # every line twice
        line = line >> 1
    tall = (crtc[9] & 0x1F) + 1
    line = np.where(above, line + (crtc[8] & 0x1F), line)
    start = (crtc[0x0C] << 8 | crtc[0x0D]) + (crtc[8] >> 5 & 3)
    base = np.where(above, start, 0) + line // tall * (crtc[0x13] << 1)
    return base, line % tall


def memory_address(vga: Vga, counters: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Address in the planes for values of the address counter (CR14, CR17)."""
    crtc = vga.crtc
    if crtc[0x14] & 0x40:               # doublewords
        address = counters << 2 | counters >> 14 & 3
    elif crtc[0x17] & 0x40:             # bytes
        address = counters
    else:                               # words: bit 13 or 15 comes round to bit 0
        address = counters << 1 | counters >> (15 if crtc[0x17] & 0x20 else 13) & 1
    if not crtc[0x17] & 1:
        address = address & ~0x2000 | (rows & 1) << 13
    if not crtc[0x17] & 2:
        address = address & ~0x4000 | (rows & 2) << 13
    return address & 0xFFFF


# --- the Attribute Controller --------------------------------------------------------------------------------------------
def _pan(vga: Vga, pixels: np.ndarray, dots: int, width: int) -> np.ndarray:
    """Shift lines to the left by the pixel panning register, and cut them to their width."""
    pan = vga.ar[0x13] & 15
    if dots == 9:
        pan = pan + 1 if pan < 8 else 0
    elif vga.gr[5] & 0x40:
        pan = pan & 6                   # dots of 256 colours are two clocks wide
    else:
        pan &= 7
    if not pan:
        return pixels[:, :width]
    split = (vga.crtc[0x18] | (vga.crtc[7] & 0x10) << 4 | (vga.crtc[9] & 0x40) << 3) + 1
    if vga.ar[0x10] & 0x20 and split < len(pixels):     # the part below the split stands still
        return np.concatenate((pixels[:split, pan:pan + width], pixels[split:, :width]))
    return pixels[:, pan:pan + width]


def _text(vga: Vga, cells: np.ndarray, rows: np.ndarray, counters: np.ndarray, number: int) -> np.ndarray:
    """Characters (plane 0), their attributes (plane 1) and the font (plane 2) as dots."""
    planes = cells.view(np.uint8).reshape(*cells.shape, 4)
    codes, attributes = planes[:, :, 0].astype(np.intp), planes[:, :, 1]
    select = vga.seq[3]
    font_b, font_a = FONT_PLACES[select & 3 | select >> 2 & 4], FONT_PLACES[select >> 2 & 3 | select >> 3 & 4]
    address = codes << 5 | rows[:, None]
    place = np.where(attributes & 8, font_a, font_b) if font_a != font_b else font_b
    bits = np.unpackbits(vga.memory.planes[place + address & 0xFFFF, 2], axis=1).reshape(*cells.shape, 8)
    dots = 8 if vga.seq[1] & 1 else 9
    if dots == 9:
        ninth = bits[:, :, 7] & (codes >> 5 == 6) if vga.ar[0x10] & 4 else np.zeros(codes.shape, np.uint8)
        bits = np.concatenate((bits, ninth[:, :, None].astype(np.uint8)), axis=2)
    background: np.ndarray = attributes >> 4
    foreground: np.ndarray = attributes & 15
    if vga.ar[0x10] & 8:                # bit 7 blinks
        background = background & 7
        if number // BLINK_FRAMES & 1:
            foreground = np.where(attributes & 0x80, background, foreground)
    on = bits != 0
    if vga.ar[0x10] & 2:                # a monochrome adapter underlines
        underline = (attributes & 0x77 == 1) & (rows == vga.crtc[0x14] & 0x1F)[:, None]
        on |= underline[:, :, None]
    here = _cursor(vga, rows, counters)
    if here is not None and not number // CURSOR_FRAMES & 1:
        on |= here[:, :, None]
    pixels = np.where(on, foreground[:, :, None], background[:, :, None])
    shape = pixels.shape
    return _pan(vga, pixels.reshape(shape[0], shape[1] * dots), dots, (shape[1] - 1) * dots)


def _cursor(vga: Vga, rows: np.ndarray, counters: np.ndarray) -> np.ndarray | None:
    """Where the cursor is, as (lines, clocks) of bool; None when it is off."""
    crtc = vga.crtc
    first, last = crtc[0x0A] & 0x1F, crtc[0x0B] & 0x1F
    if crtc[0x0A] & 0x20 or first > last:
        return None
    at = (crtc[0x0E] << 8 | crtc[0x0F]) + (crtc[0x0B] >> 5 & 3)
    return (counters == at) & ((rows >= first) & (rows <= last))[:, None]


def _graphics(vga: Vga, cells: np.ndarray) -> np.ndarray:
    """Dots of graphics modes: 4 of 8 bits, 8 of 2 bits (CGA), or 8 of 4 bits a clock (GR5 bits 5-6)."""
    planes = np.ascontiguousarray(cells).view(np.uint8).reshape(*cells.shape, 4)
    height, clocks = cells.shape
    shift = vga.gr[5] >> 5 & 3
    pixels: np.ndarray
    if shift >= 2:
        pixels = planes.reshape(height, clocks * 4).repeat(2, axis=1)
    elif shift == 1:                    # planes 0 and 2 give four dots, then 1 and 3 the next four
        low = np.concatenate((planes[:, :, 0:1], planes[:, :, 1:2]), axis=2)
        high = np.concatenate((planes[:, :, 2:3], planes[:, :, 3:4]), axis=2)
        pair = np.stack([low >> s & 3 | (high >> s & 3) << 2 for s in (6, 4, 2, 0)], axis=3)
        pixels = pair.reshape(height, clocks * 8)
    else:
        bits = np.unpackbits(planes, axis=2).reshape(height, clocks, 4, 8)
        pixels = (bits[:, :, 0] | bits[:, :, 1] << 1 | bits[:, :, 2] << 2 | bits[:, :, 3] << 3).reshape(height, clocks * 8)
    return _pan(vga, pixels, 8, (clocks - 1) * 8)


# --- linear modes --------------------------------------------------------------------------------------------------------
def _linear(vga: Vga) -> np.ndarray:
    """The frame buffer of the DISPI interface."""
    dispi = vga.dispi
    width, height, bpp = dispi.regs[INDEX_XRES], dispi.regs[INDEX_YRES], dispi.regs[INDEX_BPP]
    pitch, start = dispi.pitch, dispi.start()
    if bpp == 4:
        vga.memory.sync()
        at = (start + np.arange(height)[:, None] * pitch + np.arange((width + 7) // 8)[None, :]) & 0xFFFF
        planes = vga.memory.words[at].view(np.uint8).reshape(height, -1, 4)
        bits = np.unpackbits(planes, axis=2).reshape(height, -1, 4, 8)
        pixels = bits[:, :, 0] | bits[:, :, 1] << 1 | bits[:, :, 2] << 2 | bits[:, :, 3] << 3
        return palette(vga)[pixels.reshape(height, -1)[:, :width]]
    depth = (bpp + 7) // 8
    end = start + pitch * (height - 1) + width * depth
    raw = vga.lfb.bytes[start:end]
    image = np.lib.stride_tricks.as_strided(raw, (height, width * depth), (pitch, 1), writeable=False) if end <= len(
        vga.lfb.bytes) else np.zeros((height, width * depth), np.uint8)
    if bpp == 8:
        return _dac_colours(vga)[image & vga.dac_mask]
    if bpp == 32:
        return np.ascontiguousarray(image).view("<u4") & np.uint32(0xFFFFFF)
    if bpp == 24:
        part = image.reshape(height, width, 3).astype(np.uint32)
        return part[:, :, 2] << 16 | part[:, :, 1] << 8 | part[:, :, 0]
    value = np.ascontiguousarray(image).view("<u2").astype(np.uint32)
    green = 6 if bpp == 16 else 5
    red, blue = value >> (5 + green) & 31, value & 31
    middle: np.ndarray = value >> 5 & (1 << green) - 1
    middle = middle << 8 - green | middle >> 2 * green - 8
    return (red << 3 | red >> 2) << 16 | middle << 8 | blue << 3 | blue >> 2


# --- text ----------------------------------------------------------------------------------------------------------------
def text(vga: Vga) -> list[str]:
    """The lines of a text mode, without the blanks at their ends; none in graphics modes."""
    if not is_text(vga) or blank(vga):
        return []
    vga.memory.sync()
    base, rows = lines(vga)
    columns = vga.crtc[1] + 1
    step = 4 if vga.crtc[0x14] & 0x20 else 2 if vga.crtc[0x17] & 8 else 1
    first = np.flatnonzero(np.concatenate(([True], (base[1:] != base[:-1]) | (rows[1:] < rows[:-1]))))
    counters = base[first][:, None] + (np.arange(columns) // step)[None, :]
    codes = vga.memory.planes[memory_address(vga, counters, np.zeros((len(first), 1), int)), 0]
    return ["".join(CODE_PAGE[code] for code in line).rstrip() for line in codes.tolist()]


def cursor(vga: Vga) -> tuple[int, int] | None:
    """Column and row of the cursor in a text mode."""
    at = (vga.crtc[0x0E] << 8 | vga.crtc[0x0F]) - (vga.crtc[0x0C] << 8 | vga.crtc[0x0D])
    pitch = vga.crtc[0x13] << 1
    if not is_text(vga) or blank(vga) or not pitch or at < 0:
        return None
    return at % pitch, at // pitch
