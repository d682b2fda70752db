"""The video BIOS: int 10h called by real-mode code, what it leaves in the data area and on the screen."""

import random

import numpy as np
import pytest

from tests.firmware.pc import Pc
from xenfast.devices import vga_picture
from xenfast.devices.font import font
from xenfast.devices.vga import PORTS, Vga
from xenfast.devices.vga_memory import WINDOW
from xenfast.firmware import vgabios
from xenfast.firmware.traps import Traps
from xenfast.firmware.vga_modes import MODES, parameter_table
from xenfast.firmware.vgabios_core import BASE

BUFFER = 0x20000            # ES is 2000h: what functions read and fill


class VideoPc(Pc):
    """A bare processor with the adapter and its BIOS after power-on."""

    def __init__(self, size=4 << 20):
        super().__init__()
        self.vga = Vga(self.hvm.timers, size=size)
        self.hvm.rom = self.mem.write
        self.hvm.ports.add(PORTS, self.vga.ports)
        self.hvm.mmio.add(WINDOW, self.vga.window)
        self.bios = vgabios.install(self.hvm, Traps(self.hvm), self.vga)
        self.bios.post(self.mem)
        self.mem.write(0x7C00, bytes((0xCD, 0x10, 0xF4)))

    def int10(self, ax=0, bx=0, cx=0, dx=0, bp=0, di=0):
        """Run INT 10h; the registers afterwards."""
        cpu = self.cpu
        for name, value in (("rax", ax), ("rbx", bx), ("rcx", cx), ("rdx", dx), ("rbp", bp), ("rdi", di), ("rsp", 0x7000)):
            setattr(cpu, name, value)
        cpu.set_segment("es", BUFFER >> 4, BUFFER, 0xFFFF, 0x93)
        self.run(0, 0x7C00)
        return cpu

    def type(self, text, bx=7):
        for char in text.encode("cp437"):
            self.int10(0x0E00 | char, bx)

    def bda(self, offset, size=1):
        return self.mem.read_int(0x400 + offset, size)

    @property
    def text(self):
        return vga_picture.text(self.vga)

    @property
    def frame(self):
        return vga_picture.frame(self.vga)


@pytest.fixture
def pc():
    return VideoPc()


def test_after_power_on(pc):
    """Mode 3 with an empty screen; vectors, ROM signature and checksum, data area."""
    assert pc.text == [""] * 25 and pc.frame.shape == (400, 720)
    image = pc.mem.read(BASE, 0x5000)
    assert image[:2] == b"\x55\xaa" and image[2] * 512 == len(image) and sum(image) & 0xFF == 0 and image[0x1E:0x21] == b"IBM"
    assert pc.bda(0x49) == 3 and pc.bda(0x4A, 2) == 80 and pc.bda(0x4C, 2) == 0x1000 and pc.bda(0x63, 2) == 0x3D4
    assert pc.bda(0x84) == 24 and pc.bda(0x85, 2) == 16 and pc.bda(0x10, 2) & 0x30 == 0x20 and pc.bda(0x60, 2) == 0x0D0E
    pointer = pc.mem.read_int(0x43 * 4, 4)
    assert pc.mem.read((pointer >> 16 << 4) + (pointer & 0xFFFF), 4096) == font(16)


def test_teletype(pc):
    """Characters, carriage return, line feed, backspace, the end of a line, and scrolling at the end of the screen."""
    pc.type("Hello\r\nworld\b\bLD\r\n")
    assert pc.text[:3] == ["Hello", "worLD", ""] and vga_picture.cursor(pc.vga) == (0, 2)
    pc.type("x" * 81)
    assert pc.text[2:4] == ["x" * 80, "x"] and (pc.bda(0x50), pc.bda(0x51)) == (1, 3)
    pc.type("\r\n" * 22)
    assert pc.text[:3] == ["worLD", "x" * 80, "x"] and vga_picture.cursor(pc.vga) == (0, 24)


@pytest.mark.parametrize("number", sorted(MODES))
def test_every_mode_writes_and_reads_characters(pc, number):
    """Set a mode; a character is the font's dots on the screen, and is read back; the data area says the mode."""
    mode = MODES[number]
    pc.int10(number)
    assert pc.bda(0x49) == number and pc.bda(0x4A, 2) == mode.columns and pc.bda(0x84) == mode.rows - 1
    assert pc.int10(0x0F00).rax & 0xFFFF == mode.columns << 8 | number
    pc.int10(0x0200, dx=0x0305)
    pc.int10(0x0900 | ord("R"), 0x0007, cx=2)
    assert pc.int10(0x0800).rax & 0xFF == ord("R")
    before = pc.frame
    height = before.shape[0] // mode.rows
    width = before.shape[1] // mode.columns
    cell = before[3 * height:4 * height, 5 * width:6 * width] != before[-1, -1]
    glyph = np.unpackbits(np.frombuffer(font(mode.cell), np.uint8).reshape(256, mode.cell, 1)[ord("R")], axis=1).astype(bool)
    if not width % 9:                   # without the ninth dots
        cell = cell[:, :width // 9 * 8]
    shown = cell[::cell.shape[0] // mode.cell, ::cell.shape[1] // 8]
    if mode.kind == "text":             # the cursor is there, too
        shown, glyph = shown[:12], glyph[:12]
    assert (shown == glyph).all()


@pytest.mark.parametrize("number", [3, 4, 6, 0x0D, 0x12, 0x13])
def test_scrolling(pc, number):
    """A rectangle moves up or down by lines, what becomes free is cleared, the rest stays; 0 lines clear it."""
    pc.int10(number)
    for row in range(6):
        pc.int10(0x0200, dx=row << 8)
        pc.int10(0x0900 | ord("A") + row, 7, cx=10)

    def column(x):
        out = ""
        for row in range(6):
            pc.int10(0x0200, dx=row << 8 | x)
            out += chr(pc.int10(0x0800).rax & 0xFF)
        return out

    pc.int10(0x0602, 0x0000, cx=0x0102, dx=0x0405)
    assert (column(1), column(2), column(5), column(6)) == ("ABCDEF", "ADE  F", "ADE  F", "ABCDEF")
    pc.int10(0x0701, 0x0000, cx=0x0002, dx=0x0303)
    assert (column(2), column(4)) == (" ADE F", "ADE  F")
    pc.int10(0x0600, 0x0000, cx=0x0000, dx=0x184F)
    assert column(1) == "      "


@pytest.mark.parametrize("number", [4, 6, 0x0D, 0x0E, 0x0F, 0x10, 0x11, 0x12, 0x13])
def test_dots(pc, number):
    """Dots are written, read, written with exclusive or; beyond the edges nothing happens."""
    pc.int10(number)
    colour = min(MODES[number].colours - 1, 5)
    pc.int10(0x0C00 | colour, cx=101, dx=57)
    read = pc.int10(0x0D00, cx=101, dx=57).rax & 0xFF
    assert read == (15 if number == 0x11 else colour)
    if number != 0x13:
        pc.int10(0x0C80 | colour, cx=101, dx=57)
        assert pc.int10(0x0D00, cx=101, dx=57).rax & 0xFF == 0
    pc.int10(0x0C01, cx=5000, dx=57)
    pc.int10(0x0C01, cx=5, dx=60000)
    assert np.count_nonzero(pc.frame != pc.frame[-1, -1]) in (0, 4)


def test_pages(pc):
    """Each page has its cursor and contents; selecting one changes the start address."""
    pc.int10(0x0200, 0x0100, dx=0x0203)
    pc.int10(0x0900 | ord("p"), 0x0107, cx=1)
    assert pc.text[2] == ""
    pc.int10(0x0501)
    assert pc.text[2] == "   p" and vga_picture.cursor(pc.vga) == (3, 2) and pc.bda(0x4E, 2) == 0x1000 and pc.bda(0x62) == 1
    assert pc.int10(0x0300).rdx & 0xFFFF == 0


def test_cursor_shape(pc):
    """Shapes for cells of 8 lines are scaled to 16; bit 5 of CH hides the cursor."""
    for shape, registers in ((0x0607, (13, 14)), (0x0007, (1, 14)), (0x2000, (0x20, 0)), (0x0A0B, (10, 11))):
        pc.int10(0x0100, cx=shape)
        assert (pc.vga.crtc[0x0A], pc.vga.crtc[0x0B]) == registers and pc.bda(0x60, 2) == shape


def test_strings(pc):
    """13h writes strings with one attribute or with one each, and moves the cursor or not."""
    pc.mem.write(BUFFER, b"ab\r\nc")
    pc.int10(0x1301, 0x001E, cx=5, dx=0x0502)
    assert pc.text[5:7] == ["  ab", "c"] and (pc.bda(0x50), pc.bda(0x51)) == (1, 6)
    pc.mem.write(BUFFER, b"x\x0cy\x0d")
    pc.int10(0x1302, cx=2, dx=0x0800)
    pc.int10(0x0200, dx=0x0801)
    assert pc.int10(0x0800).rax & 0xFFFF == 0x0D00 | ord("y")


def test_modes_keep_the_screen_when_asked(pc):
    """Bit 7 of AL sets the mode without clearing."""
    pc.type("stay")
    pc.int10(0x0083)
    assert pc.text[0] == "stay" and pc.bda(0x87) & 0x80 and pc.int10(0x0F00).rax & 0xFF == 0x83
    pc.int10(0x0003)
    assert pc.text[0] == "" and not pc.bda(0x87) & 0x80


def test_lines_of_text_modes(pc):
    """12h/30h selects 200, 350 or 400 lines for the next mode; 11h/12h gives 50 rows of 8 lines."""
    for al, lines, cell in ((0, 200, 8), (1, 350, 14), (2, 400, 16)):
        assert pc.int10(0x1200 | al, 0x30).rax & 0xFF == 0x12
        pc.int10(3)
        assert pc.frame.shape[0] == (400 if lines == 200 else lines) and pc.bda(0x85) == cell and len(pc.text) == 25
    pc.int10(0x1112, 0)
    assert len(pc.text) == 50 and pc.bda(0x84) == 49 and pc.bda(0x85) == 8
    pc.int10(0x0200, dx=0x3100)
    pc.type("last")
    assert pc.text[49] == "last"
    pc.int10(0x1111, 0)
    assert len(pc.text) == 28
    pc.int10(0x1114, 0)
    assert len(pc.text) == 25


def test_fonts(pc):
    """Characters of one's own, in any block; where the ROM's fonts are; graphics fonts by vector."""
    pc.mem.write(BUFFER + 0x100, b"\xff" * 16)
    pc.int10(0x1100, 0x1000, cx=1, dx=ord("A"), bp=0x100)
    pc.int10(0x0100, cx=0x2000)
    pc.type("A")
    assert (pc.frame[:16, :8] == 0xAAAAAA).all()
    for bh, height, first in ((2, 14, 0), (3, 8, 0), (4, 8, 128), (6, 16, 0)):
        cpu = pc.int10(0x1130, bh << 8)
        at = cpu.segment("es")[1] + (cpu.rbp & 0xFFFF)
        assert pc.mem.read(at, 1024) == font(height)[first * height:][:1024] and cpu.rcx & 0xFF == 16 and cpu.rdx & 0xFF == 24
    pc.int10(0x12)
    pc.mem.write(BUFFER, b"\x3c" * 8 * 256)
    pc.int10(0x1121, 0x0000, cx=8, dx=60, bp=0)
    pc.type("Q")
    assert pc.bda(0x84) == 59 and (pc.frame[:8, 2:6] != 0).all() and not pc.frame[8:16, :8].any()


def test_palette(pc):
    """Attribute registers, DAC colours one by one and in blocks, greys, pages of colours."""
    pc.int10(0x1000, 0x2A07)
    assert pc.int10(0x1007, 7).rbx >> 8 & 0xFF == 0x2A
    pc.int10(0x1010, 7, cx=0x0A0B, dx=0x0C00)
    cpu = pc.int10(0x1015, 7)
    assert (cpu.rcx & 0xFFFF, cpu.rdx >> 8 & 0xFF) == (0x0A0B, 0x0C)
    pc.mem.write(BUFFER, bytes(range(12)))
    pc.int10(0x1012, 250, cx=4, dx=0)
    pc.int10(0x1017, 250, cx=4, dx=0x40)
    assert pc.mem.read(BUFFER + 0x40, 12) == bytes(range(12))
    pc.int10(0x101B, 250, cx=4)
    assert pc.vga.dac[750] == pc.vga.dac[751] == pc.vga.dac[752]
    pc.int10(0x1013, 0x0100)
    pc.int10(0x1013, 0x0201)
    assert pc.int10(0x101A).rbx & 0xFFFF == 0x0201
    pc.int10(0x1003, 0)
    assert not pc.vga.ar[0x10] & 8
    pc.int10(0x1009, dx=0x80)
    assert pc.mem.read(BUFFER + 0x80, 17) == bytes(pc.vga.ar[:16]) + bytes((pc.vga.ar[0x11],))
    pc.int10(0x0B00, 0x0101)
    pc.int10(4)
    pc.int10(0x0B00, 0x0100)
    assert list(pc.vga.ar[1:4]) == [0x12, 0x14, 0x16]


def test_what_is_there(pc):
    """12h/10h, 1Ah, 1Bh: a VGA with 256 KiB and a colour monitor."""
    cpu = pc.int10(0x1200, 0xFF10)
    assert cpu.rbx & 0xFFFF == 0x0003 and cpu.rcx & 0xFF == 9
    cpu = pc.int10(0x1A00)
    assert cpu.rax & 0xFF == 0x1A and cpu.rbx & 0xFFFF == 0x0008
    assert pc.int10(0x1B00, di=0).rax & 0xFF == 0x1B
    state = pc.mem.read(BUFFER, 64)
    assert state[4] == 3 and state[0x22] == 25 and state[0x23] == 16 and state[0x25] == 8 and state[0x27] == 16 and state[0x31] == 3


def test_the_parameter_table():
    """29 entries of 64 bytes; 18h is mode 3 with 400 lines."""
    table = parameter_table()
    assert len(table) == 29 * 64
    assert table[0x18 * 64:0x18 * 64 + 10] == bytes((80, 24, 16, 0, 0x10, 0, 3, 0, 2, 0x67))


def test_save_and_restore(pc):
    """1Ch: registers, data area and colours come back."""
    size = pc.int10(0x1C00, cx=7).rbx & 0xFFFF
    assert size == 17
    pc.int10(0x1010, 1, cx=0x1111, dx=0x1100)
    pc.int10(0x1C01, 0, cx=7)
    pc.int10(0x13)
    pc.int10(0x1C02, 0, cx=7)
    assert pc.bda(0x49) == 3 and vga_picture.is_text(pc.vga) and pc.vga.dac[3] == 0x11


# --- VBE ---------------------------------------------------------------------------------------------------------------------
def test_vbe_information(pc):
    """Signature, version 3, memory, a list of modes each of which describes itself."""
    pc.mem.write(BUFFER, b"VBE2")
    assert pc.int10(0x4F00, di=0).rax & 0xFFFF == 0x004F
    info = pc.mem.read(BUFFER, 512)
    assert info[:6] == b"VESA\x00\x03" and int.from_bytes(info[18:20], "little") == 64
    pointer = int.from_bytes(info[14:18], "little")
    at, modes = (pointer >> 16 << 4) + (pointer & 0xFFFF), []
    while (mode := pc.mem.read_int(at, 2)) != 0xFFFF:
        modes.append(mode)
        at += 2
    assert {0x101, 0x103, 0x111, 0x118} < set(modes) and 0x147 not in modes         # 1600 x 1200 x 32 needs 8 MiB
    for mode in modes:
        assert pc.int10(0x4F01, cx=mode, di=0x200).rax & 0xFFFF == 0x004F
        block = pc.mem.read(BUFFER + 0x200, 256)
        assert block[0] & 1 and block[25] in (4, 8, 15, 16, 24, 32)
    assert pc.int10(0x4F01, cx=0x147, di=0x200).rax & 0xFFFF == 0x014F
    assert pc.int10(0x4F99).rax & 0xFFFF == 0x0100


def test_vbe_modes(pc):
    """A linear mode, its length of lines and start, text in it, and back."""
    assert pc.int10(0x4F02, 0x4115).rax & 0xFFFF == 0x004F and pc.int10(0x4F03).rbx & 0xFFFF == 0x4115
    assert pc.frame.shape == (600, 800) and not pc.frame.any()
    pc.type("Text")
    assert pc.frame[:16, :32].any() and not pc.frame[16:].any()
    cpu = pc.int10(0x4F06, 0, cx=1024)
    assert (cpu.rbx & 0xFFFF, cpu.rcx & 0xFFFF, cpu.rdx & 0xFFFF) == (3072, 1024, (4 << 20) // 3072)
    assert pc.int10(0x4F07, 0, cx=8, dx=16).rax & 0xFFFF == 0x004F
    cpu = pc.int10(0x4F07, 1)
    assert (cpu.rcx & 0xFFFF, cpu.rdx & 0xFFFF) == (8, 16)
    assert pc.int10(0x4F07, 0, cx=0, dx=4000).rax & 0xFFFF == 0x014F
    assert pc.int10(0x4F05).rax & 0xFFFF == 0x034F
    pc.int10(3)
    assert pc.text == [""] * 25 and pc.int10(0x4F03).rbx & 0xFFFF == 3


def test_vbe_banks_palette_and_state(pc):
    """Windows of 64 KiB, palettes of 8 bits, save and restore of a mode."""
    pc.int10(0x4F02, 0x0101)
    assert pc.int10(0x4F05, 0, dx=4).rax & 0xFFFF == 0x004F and pc.int10(0x4F05, 0x100).rdx & 0xFFFF == 4
    pc.vga.window.write(0, 1, 0x21)
    assert pc.vga.lfb.bytes[0x40000] == 0x21
    assert pc.int10(0x4F08, 0x0800).rbx >> 8 & 0xFF == 8
    pc.mem.write(BUFFER, bytes((0x10, 0x80, 0xF0, 0)))
    pc.int10(0x4F09, 0, cx=1, dx=0x21, di=0)
    assert pc.frame[0x40000 // 640, 0x40000 % 640] == 0xF08010
    pc.int10(0x4F09, 1, cx=1, dx=0x21, di=8)
    assert pc.mem.read(BUFFER + 8, 4) == bytes((0x10, 0x80, 0xF0, 0))
    assert pc.int10(0x4F04, 0, cx=15, dx=0).rbx & 0xFFFF == 18
    pc.int10(0x4F04, 0x400, cx=15, dx=1)
    pc.int10(3)
    pc.int10(0x4F04, 0x400, cx=15, dx=2)
    assert pc.vga.dispi.on and pc.frame.shape == (480, 640) and pc.int10(0x4F03).rbx & 0xFFFF == 0x101


def test_vbe_power_and_ddc(pc):
    """The picture can be turned off; the EDID is the monitor's."""
    assert pc.int10(0x4F10, 0).rbx & 0xFFFF == 0x0710
    pc.int10(0x4F10, 0x0401)
    assert pc.vga.seq[1] & 0x20 and pc.int10(0x4F10, 2).rbx >> 8 & 0xFF == 4
    assert pc.int10(0x4F15, 1, dx=0, di=0).rax & 0xFFFF == 0x004F
    block = pc.mem.read(BUFFER, 128)
    assert block[:8] == bytes((0, 255, 255, 255, 255, 255, 255, 0)) and sum(block) & 0xFF == 0


def test_any_call_is_answered(pc):
    """Random registers to every function, with rubbish in the data area: no exception, no hang."""
    rng = random.Random(11)
    for _ in range(600):
        ah = rng.choice((*vgabios.FUNCTIONS, 0x4F, 0x4F, 0x00, rng.getrandbits(8)))
        al = rng.choice((rng.getrandbits(8), rng.randrange(0x25), rng.choice(list(MODES))))
        bx = rng.choice((rng.getrandbits(16), rng.randrange(8), 0x4101 + rng.randrange(0x20)))
        pc.int10(ah << 8 | al, bx, rng.choice((rng.getrandbits(16), 1, 80)), rng.getrandbits(16), rng.getrandbits(16), rng.getrandbits(16))
        if rng.random() < 0.1:
            pc.mem.write(0x449 + rng.randrange(0x60), rng.randbytes(3))
        if rng.random() < 0.05:
            assert pc.frame.shape == vga_picture.size(pc.vga)
        pc.mem.write(0x7C00, bytes((0xCD, 0x10, 0xF4)))
        pc.mem.write_int(0x40, 4, 0xC0000000 | pc.bios.rom.int10)
        pc.mem.write(BASE, bytes(pc.bios.rom.image))
