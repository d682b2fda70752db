"""The standard VGA: registers, planes, what the guest has mapped, DISPI, pictures."""

import random

import numpy as np
import pytest

from tests.devices.fuzz import storm
from tests.devices.qtest import qemu
from tests.firmware.pc import FakeTimers
from xenfast import _core
from xenfast.devices import vga_picture
from xenfast.devices.edid import block
from xenfast.devices.font import font
from xenfast.devices.pci import PciDevice
from xenfast.devices.vga import PORTS, Vga
from xenfast.devices.vga_memory import HOT, PAGE, Window
from xenfast.devices.vga_pci import VgaCard
from xenfast.firmware.vga_modes import MODES, PALETTES

MIB = 1 << 20


class Guest:
    """An adapter whose window and frame buffer are pages of a machine."""

    def __init__(self, real=True):
        self.pages = {}
        self.memory = _core.Memory(1024) if real else None
        self.timers = FakeTimers()
        self.vga = Vga(self.timers, size=MIB, memory=self.memory, domid=1, window=Window(self.set_pages) if real else None)

    def set_pages(self, gfn, mfns, count):
        for i in range(count):
            if mfns is None:
                self.pages.pop(gfn + i)
            else:
                self.pages[gfn + i] = int(mfns[i])

    def poke(self, address, data):
        """As the guest writes: mapped pages directly, else the window traps."""
        for i, byte in enumerate(data):
            mfn = self.pages.get(address + i >> 12)
            if mfn is None:
                self.vga.window.write(address + i - 0xA0000, 1, byte)
            else:
                self.memory.view(mfn)[address + i & PAGE - 1] = byte

    def peek(self, address, n):
        return bytes(
            self.memory.view(self.pages[a >> 12])[a & PAGE - 1] if a >> 12 in self.pages else self.vga.window.read(a - 0xA0000, 1)
            for a in range(address, address + n))

    def out(self, port, value, size=1):
        self.vga.ports.write(port - PORTS, size, value)

    def inb(self, port):
        return self.vga.ports.read(port - PORTS, 1)

    def mode(self, number):
        mode = MODES[number]
        self.vga.set_mode(mode.misc, mode.seq, mode.crtc, mode.ar, mode.gr)
        for i, colour in enumerate(PALETTES[mode.palette]):
            self.vga.dac[3 * i:3 * i + 3] = bytes(colour)
        if mode.kind == "text":
            self.vga.memory.planes[:0x2000, 2].reshape(256, 32)[:, :16] = np.frombuffer(font(16), np.uint8).reshape(256, 16)
        return self

    @property
    def mapped(self):
        return sorted(self.pages)

    def frame(self, number=0):
        return vga_picture.frame(self.vga, number)


@pytest.fixture(params=["mapped", "trapped"])
def guest(request):
    return Guest(request.param == "mapped")


# --- registers ---------------------------------------------------------------------------------------------------------------
def test_registers_read_back_what_exists_of_them():
    """Index and data ports of the Sequencer, Graphics Controller and CRT Controller, by bytes or one word."""
    guest = Guest()
    guest.out(0x3C2, 0x67)
    guest.out(0x3C4, 0xFF02, 2)
    guest.out(0x3CE, 0xFF05, 2)
    guest.out(0x3D4, 0x0F)
    guest.out(0x3D5, 0x5A)
    assert guest.inb(0x3C5) == 0x0F and guest.inb(0x3CF) == 0x7B and guest.inb(0x3D5) == 0x5A and guest.inb(0x3CC) == 0x67


def test_one_crtc_at_two_addresses():
    """3Bxh answers while Miscellaneous Output bit 0 is 0, 3Dxh while it is 1."""
    guest = Guest()
    guest.out(0x3C2, 0)
    guest.out(0x3B4, 0x330E, 2)
    assert guest.inb(0x3B5) == 0x33 and guest.inb(0x3D5) == 0xFF
    guest.out(0x3C2, 1)
    assert guest.inb(0x3B5) == 0xFF and guest.inb(0x3D5) == 0x33


def test_crtc_protection():
    """CR11 bit 7 protects CR0-7, but for the bit of the line comparison."""
    guest = Guest().mode(3)
    before = bytes(guest.vga.crtc[:8])
    guest.out(0x3D4, 0x8E11, 2)
    for index in range(8):
        guest.out(0x3D4, index | 0x0000, 2)
    assert bytes(guest.vga.crtc[:7]) == before[:7] and guest.vga.crtc[7] == before[7] & ~0x10
    guest.out(0x3D4, 0x0E11, 2)
    guest.out(0x3D4, 0x1200, 2)
    assert guest.vga.crtc[0] == 0x12


def test_the_attribute_controllers_flip_flop():
    """Port 3C0h takes an index, then data; reading status 1 starts again; the palette is closed while the screen has it."""
    guest = Guest().mode(3)
    guest.inb(0x3DA)
    for value in (0x03, 0x2A):
        guest.out(0x3C0, value)
    assert guest.vga.ar[3] == 0x2A and guest.vga.ar_index == 3
    guest.inb(0x3DA)
    for value in (0x23, 0x11):          # bit 5: no access to the palette
        guest.out(0x3C0, value)
    assert guest.vga.ar[3] == 0x2A
    guest.inb(0x3DA)
    guest.out(0x3C0, 0x23)
    assert guest.inb(0x3C1) == 0x2A


def test_the_dac_takes_and_gives_three_components():
    """A colour counts when it is complete, six bits a component, and the index goes on."""
    guest = Guest()
    guest.out(0x3C8, 255)
    for value in (0xFF, 0x10, 0x20, 1, 2, 3):
        guest.out(0x3C9, value)
    assert bytes(guest.vga.dac[765:]) == bytes((0x3F, 0x10, 0x20)) and bytes(guest.vga.dac[:3]) == bytes((1, 2, 3))
    guest.out(0x3C7, 255)
    assert [guest.inb(0x3C9) for _ in range(4)] == [0x3F, 0x10, 0x20, 1] and guest.inb(0x3C7) == 3


def test_the_retrace_comes_70_times_a_second():
    """Input Status 1 shows one vertical retrace a frame, at the rate of the mode."""
    guest = Guest().mode(3)
    seen, before = 0, 8
    for _ in range(20000):
        guest.timers.time += 10_000
        now = guest.inb(0x3DA) & 8
        seen += now > before
        before = now
    assert 13 <= seen <= 15             # 0.2 s


# --- the planes --------------------------------------------------------------------------------------------------------------
def test_planar_accesses_are_those_of_qemu():
    """Write modes 0-3, logical functions, rotation, set and reset, masks, both read modes: 4000 random accesses as QEMU has them."""
    rng = random.Random(5)
    guest = Guest()
    with qemu("-device", "VGA") as peer:

        def out(port, value):
            peer.write(port, 2, value)
            guest.out(port, value, 2)

        for port, value in ((0x3C4, 0x0604), (0x3C4, 0x0F02), (0x3CE, 0x0506)):
            out(port, value)
        for step in range(4000):
            kind = rng.random()
            offset = rng.randrange(64)
            if kind < 0.04:             # the plain write, perhaps with set and reset
                for value in (0x0003, 0x0005, 0xFF08, rng.getrandbits(4) << 8, rng.getrandbits(4) << 8 | 1):
                    out(0x3CE, value)
            elif kind < 0.3:
                index = rng.choice((0, 1, 2, 3, 4, 5, 7, 8))
                value = rng.getrandbits(8) & (0x0B if index == 5 else 0xFF)
                out(0x3CE, value << 8 | index)
            elif kind < 0.5:
                out(0x3C4, rng.getrandbits(4) << 8 | 2)
            elif kind < 0.75:
                value = rng.getrandbits(8)
                peer.mem_write(0xA0000 + offset, 1, value)
                guest.poke(0xA0000 + offset, bytes((value,)))
            else:
                assert guest.peek(0xA0000 + offset, 1)[0] == peer.mem_read(0xA0000 + offset, 1), step


@pytest.mark.parametrize("number", sorted(MODES))
def test_mapped_pages_and_traps_show_the_same(number):
    """In every mode what the guest writes and reads is the same whether its pages are mapped or every access traps."""
    rng = random.Random(number)
    mapped, trapped = Guest().mode(number), Guest(real=False).mode(number)
    base = MODES[number].segment << 4
    for _ in range(300):
        address, data = base + rng.randrange(0x7F00), rng.randbytes(2)
        mapped.poke(address, data)
        trapped.poke(address, data)
        at = base + rng.randrange(0x7F00)
        assert mapped.peek(at, 2) == trapped.peek(at, 2)
    mapped.vga.memory.sync()
    assert (mapped.vga.memory.words == trapped.vga.memory.words).all()
    assert (mapped.frame() == trapped.frame()).all()


@pytest.mark.parametrize(("number", "first", "count"), [(3, 0xB8, 8), (7, 0xB0, 8), (4, 0xB8, 8), (0x13, 0xA0, 16), (0x12, 0, 0)])
def test_which_modes_need_no_traps(number, first, count):
    """Text, CGA graphics and mode 13h are pages of RAM; 16 colours are not."""
    assert Guest().mode(number).mapped == list(range(first, first + count))


def test_a_mode_that_is_left_keeps_its_contents():
    """Text stands in planes 0 and 1 when a program opens the planes for the font, and is there again afterwards."""
    guest = Guest().mode(3)
    guest.poke(0xB8000, b"A\x07B\x17")
    for port, value in ((0x3C4, 0x0402), (0x3C4, 0x0704), (0x3CE, 0x0204), (0x3CE, 0x0005), (0x3CE, 0x0406)):
        guest.out(port, value, 2)
    assert guest.mapped == [] and list(guest.vga.memory.planes[0][:2]) == [0x41, 0x07] and guest.vga.memory.planes[2][0] == 0x42
    guest.poke(0xA0000 + 0x41 * 32, b"\xff" * 16)
    for port, value in ((0x3C4, 0x0302), (0x3C4, 0x0304), (0x3CE, 0x0004), (0x3CE, 0x1005), (0x3CE, 0x0E06)):
        guest.out(port, value, 2)
    assert guest.peek(0xB8000, 4) == b"A\x07B\x17" and (guest.frame()[:16, :8] == 0xAAAAAA).all()


def test_a_plane_that_is_written_much_is_mapped():
    """After many accesses to one plane (a font, mode X) the guest has the plane itself."""
    guest = Guest().mode(3)
    for port, value in ((0x3C4, 0x0402), (0x3C4, 0x0704), (0x3CE, 0x0204), (0x3CE, 0x0005), (0x3CE, 0x0406)):
        guest.out(port, value, 2)
    data = bytes(i * 7 & 0xFF for i in range(HOT + 100))
    guest.poke(0xA0000, data)
    assert guest.mapped == list(range(0xA0, 0xB0)) and guest.peek(0xA0000, len(data)) == data
    guest.out(0x3C4, 0x0302, 2)
    assert guest.mapped == [] and bytes(guest.vga.memory.planes[:len(data), 2]) == data


# --- pictures ----------------------------------------------------------------------------------------------------------------
def test_text_and_its_picture(guest):
    """A character's dots are its font's, nine wide, in the colours of its attribute; the text can be read."""
    guest.mode(3)
    guest.vga.crtc[0x0A] = 0x20
    guest.poke(0xB8000, b"X\x1E" + b" \x07" * 79 + b"\xc4\x0c" + b"Y\x07")
    picture = guest.frame()
    assert picture.shape == (400, 720)
    rows = np.unpackbits(np.frombuffer(font(16)[88 * 16:89 * 16], np.uint8).reshape(16, 1), axis=1)
    assert (picture[:16, :8] == np.where(rows, 0xFFFF55, 0x0000AA)).all() and (picture[:16, 8] == 0x0000AA).all()
    assert picture[16 + 7, 8] == 0xFF5555               # the ninth dot of a line
    lines = vga_picture.text(guest.vga)
    assert len(lines) == 25 and lines[0] == "X" and lines[1] == "─Y"


def test_cursor_and_blinking(guest):
    """The cursor is an underline that comes and goes, as do characters with attribute bit 7."""
    guest.mode(3)
    guest.poke(0xB8000, b"\xdb\x87 \x07 \x07")
    guest.vga.crtc[0x0F] = 2
    shown = [vga_picture.frame(guest.vga, n) for n in (0, 8, 16)]
    assert [int(picture[13, 18]) for picture in shown] == [0xAAAAAA, 0, 0xAAAAAA]
    assert [int(picture[0, 0]) for picture in shown] == [0xAAAAAA, 0xAAAAAA, 0] and vga_picture.cursor(guest.vga) == (2, 0)


def test_start_address_split_screen_and_panning(guest):
    """The picture begins where CRC and CRD say; below the line comparison it is that of address 0; AR13 shifts it."""
    guest.mode(0x13)
    guest.poke(0xA0000, bytes((1,)) * 320 + bytes((2,)) * 320 + bytes(range(1, 9)) + bytes((3,)) * 312)
    guest.vga.crtc[0x0C], guest.vga.crtc[0x0D] = 0, 80
    guest.vga.crtc[0x18], guest.vga.crtc[7], guest.vga.crtc[9] = 99, 0x0F, 0x01
    colours = vga_picture.palette(guest.vga)
    picture = guest.frame()
    assert (picture[:2] == colours[2]).all() and picture[2, 0] == colours[1] and (picture[100:102] == colours[1]).all()
    guest.vga.ar[0x13] = 4
    assert list(guest.frame()[2, :4:2]) == [colours[3], colours[4]]


def test_planar_and_cga_dots(guest):
    """16 colours come from four planes, four colours from two bits of alternating planes."""
    guest.mode(0x12)
    guest.out(0x3C4, 0x0502, 2)
    guest.poke(0xA0000, b"\x80")
    assert guest.frame()[0, 0] == 0xAA00AA and guest.frame().shape == (480, 640)
    guest.mode(4)
    guest.vga.memory.words[:] = 0
    guest.vga.memory.refresh()
    guest.poke(0xB8000, b"\x1b\x40")
    guest.poke(0xBA000, b"\xc0")
    picture = guest.frame()
    assert picture.shape == (400, 640)
    assert [int(c) for c in picture[0, :10:2]] == [0, 0x55FFFF, 0xFF55FF, 0xFFFFFF, 0x55FFFF] and picture[2, 0] == 0xFFFFFF


def test_mode_x(guest):
    """Without chain 4 the planes are columns of dots."""
    guest.mode(0x13)
    for port, value in ((0x3C4, 0x0604), (0x3D4, 0x0014), (0x3D4, 0xE317)):
        guest.out(port, value, 2)
    for plane in range(4):
        guest.out(0x3C4, 2 | 0x100 << plane, 2)
        guest.poke(0xA0000, bytes((plane + 1,)))
    colours = vga_picture.palette(guest.vga)
    assert list(guest.frame()[0, :8:2]) == list(colours[1:5])


def test_a_dark_screen():
    """The picture is black while the palette belongs to the processor or the Sequencer is told so."""
    guest = Guest().mode(3)
    guest.poke(0xB8000, b"\xdb\x07" * 80)
    assert guest.frame().any()
    guest.vga.seq[1] |= 0x20
    assert not guest.frame().any() and vga_picture.text(guest.vga) == []


# --- DISPI -------------------------------------------------------------------------------------------------------------------
def dispi(guest, **values):
    names = ("id", "xres", "yres", "bpp", "enable", "bank", "virt_width", "virt_height", "x_offset", "y_offset", "memory")
    for name, value in values.items():
        guest.vga.dispi.ports.write(0, 2, names.index(name))
        guest.vga.dispi.ports.write(1, 2, value)
        guest.vga.dispi.ports.write(0, 2, names.index(name))
    return guest.vga.dispi.ports.read(1, 2)


@pytest.mark.parametrize(("bpp", "dot", "colour"), [
    (8, b"\x05", 0xAA00AA), (15, b"\x1f\x7c", 0xFF00FF), (16, b"\xe0\x07", 0x00FF00), (24, b"\x11\x22\x33", 0x332211),
    (32, b"\x11\x22\x33\xff", 0x332211)])
def test_linear_depths(bpp, dot, colour):
    """Dots of 8 to 32 bits, at an offset into a longer line."""
    guest = Guest().mode(0x13)
    dispi(guest, xres=320, yres=200, bpp=bpp, enable=0x41, virt_width=400, x_offset=3, y_offset=2)
    at = (400 * 2 + 3 + 400 * 10 + 7) * len(dot)
    guest.vga.lfb.bytes[at:at + len(dot)] = list(dot)
    picture = guest.frame()
    assert picture.shape == (200, 320) and picture[10, 7] == colour and np.count_nonzero(picture) == 1


def test_banks_are_mapped():
    """The window at A0000h shows 64 KiB of the frame buffer, without traps."""
    guest = Guest().mode(0x13)
    dispi(guest, xres=640, yres=480, bpp=8, enable=1, bank=3)
    assert guest.mapped == list(range(0xA0, 0xB0))
    guest.poke(0xA0010, b"\x77")
    assert guest.vga.lfb.bytes[0x30010] == 0x77
    dispi(guest, enable=0)
    assert guest.pages[0xA0] != guest.vga.lfb.mfns[0x30]            # mode 13h again


def test_impossible_modes_are_refused():
    """What does not fit into the memory, or no depth, leaves the registers as they are."""
    guest = Guest()
    dispi(guest, xres=1024, yres=768, bpp=32, enable=1)             # 3 MiB of one
    assert not guest.vga.dispi.on
    assert dispi(guest, bpp=7) == 32 and dispi(guest, xres=5000) == 1024
    dispi(guest, xres=320, yres=200, bpp=8, enable=1)
    assert guest.vga.dispi.on and dispi(guest, y_offset=60000) == 0 and dispi(guest, virt_width=0xFFFF) == 320
    assert dispi(guest, memory=1) == 16 and dispi(guest, enable=3) == 3 and dispi(guest, xres=0) == 2560


# --- the card ----------------------------------------------------------------------------------------------------------------
def test_the_card():
    """1234:1111, a frame buffer that is mapped where BAR 0 says, registers and EDID in BAR 2."""
    guest = Guest()
    card = VgaCard(guest.vga, guest.set_pages)
    assert isinstance(card, PciDevice) and card.get(0, 4) == 0x11111234 and card.get(9, 3) == 0x030000
    card._moved(0xE0000000)
    assert guest.pages[0xE0000] == guest.vga.lfb.mfns[0] and len(guest.mapped) == 256
    card._moved(0xE1000000)
    assert guest.mapped[0] == 0xE1000 and guest.vga.lfb_address == 0xE1000000
    card._moved(None)
    assert guest.mapped == []
    assert card.read(0, 4) == 0xFFFFFF00 and card.read(0x500, 2) == 0xB0C5 and sum(block()) & 0xFF == 0
    card.write(0x502, 2, 640)
    card.write(0x40E, 2, 0x0506)
    assert guest.vga.dispi.regs[1] == 640 and guest.vga.gr[6] == 5


# --- state -------------------------------------------------------------------------------------------------------------------
def test_save_and_load(guest):
    """Another adapter with the state of this one shows the same picture and the same memory."""
    guest.mode(3)
    guest.poke(0xB8000, b"s\x07a\x07v\x07e\x07")
    guest.vga.lfb.bytes[5] = 9
    other = Guest()
    other.vga.load(guest.vga.save())
    assert (other.frame() == guest.frame()).all() and other.vga.lfb.bytes[5] == 9 and other.mapped[0] == 0xB8
    assert other.peek(0xB8000, 4) == b"s\x07a\x07"
    other.vga.reset()
    assert other.mapped == [] and not other.frame().any()


def test_any_access_is_answered(guest):
    """Random accesses to every register, with the picture and the text taken now and then: no exception, no hang."""
    vga, rng = guest.vga, random.Random(3)

    class Looker:
        def write(self, *_):
            assert vga_picture.frame(vga, rng.randrange(64)).shape == vga_picture.size(vga)
            vga_picture.text(vga)

    def interesting(rng):
        if rng.random() < 0.1:
            return 1, 1, 2, rng.choice((0, 1, 0x41, 320, 200, 8, 16, 32, 640))
        return 0, rng.choice((0x14, 0x1E, 0x24, 4)), 2, rng.getrandbits(5) | rng.getrandbits(8) << 8

    storm([vga.ports, vga.dispi.ports, vga.window], Looker(), accesses=5000, interesting=interesting)


# --- fonts -------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("height", [8, 14, 16])
def test_fonts_are_complete(height):
    """256 characters, all different but for the blanks; lines and blocks reach the edges where they are to join."""
    glyphs = [font(height)[i * height:(i + 1) * height] for i in range(256)]
    blanks = [i for i, glyph in enumerate(glyphs) if not any(glyph)]
    assert blanks == [0, 32, 255]
    twins = {(a, b) for a in range(256) for b in range(a) if glyphs[a] == glyphs[b] and a not in blanks}
    assert twins <= {(0xF8, 0xA7)}
    assert all(row for row in glyphs[0xB3]) and all(row == 0xFF for row in glyphs[0xDB])
    middle = next(i for i, row in enumerate(glyphs[0xC4]) if row)
    assert glyphs[0xC4][middle] == 0xFF and glyphs[0xDA][middle] & 1 and glyphs[0xDA][-1] == glyphs[0xB3][-1] and not glyphs[0xDA][0]
    assert glyphs[0xCD].count(b"\xff") == 2 and all(row for row in glyphs[0xBA])
