"""dom.screen: text, pictures, waiting, typing in every keymap, the pointer; PNG files."""

import threading
import zlib

import numpy as np
import pytest

from tests.firmware.pc import FakeTimers
from xenfast.devices.ps2 import Ps2Controller
from xenfast.devices.usb_hid import Tablet, UsbKeyboard
from xenfast.devices.vga import Vga
from xenfast.errors import XenfastError
from xenfast.firmware.vga_modes import MODES
from xenfast.libxl import keymaps, png
from xenfast.libxl.screen import KEY_NS, Input, NotSeen, Screen
from xenfast.xen.hvm.irq import nowhere


class Guest:
    """An adapter, a keyboard and a mouse whose bytes are taken at once, a clock that runs while somebody waits."""

    def __init__(self, keymap="", usb=()):
        self.timers = FakeTimers()
        self.vga = Vga(self.timers, size=1 << 20)
        self.ps2 = Ps2Controller(nowhere(), nowhere())
        self.user = Input(self.ps2.keyboard, self.ps2.mouse, self.timers, usb=usb, keymap=keymap)
        self.screen = Screen(self.vga, self.user, threading.RLock(), self.run)
        self.codes, self.packets = [], []
        self.each = lambda: None
        self.mode(3)

    def mode(self, number):
        mode = MODES[number]
        self.vga.set_mode(mode.misc, mode.seq, mode.crtc, mode.ar, mode.gr)
        self.vga.dac[3 * 63:3 * 64] = b"\x3f\x3f\x3f"

    def write(self, row, text):
        for i, code in enumerate(text.encode("cp437")):
            self.vga.memory.planes[2 * (row * 80 + i), :2] = code, 7

    def take(self):
        while self.ps2.read_status() & 1:
            status = self.ps2.read_status()
            (self.packets if status & 0x20 else self.codes).append(self.ps2.read_data())

    def run(self, until=None, timeout=None):
        for _ in range(int((timeout or 10) * 1000)):
            if until is not None and until():
                return "until"
            self.timers.advance(1_000_000)
            self.take()
            self.each()
        return "timeout"


def test_text_size_cursor_picture():
    """The lines of the screen, where the cursor is, the picture as an array; no text in graphics modes."""
    guest = Guest()
    guest.write(0, "boot: ")
    guest.vga.crtc[0x0F] = 6
    screen = guest.screen
    assert screen.text[0] == "boot:" and screen.cursor == (6, 0) and screen.size == (400, 720) and screen.is_text
    assert screen.picture().shape == (400, 720, 3) and screen.picture().dtype == np.uint8
    guest.mode(0x12)
    assert screen.text == [] and screen.size == (480, 640) and not screen.is_text


def test_waiting_for_text():
    """wait_text lets the host run until it is there; in vain it says what is there instead."""
    guest = Guest()
    guest.each = lambda: guest.write(3, "login: ") if guest.timers.now() > 50_000_000 else None
    assert guest.screen.wait_text(r"log(\w+):")[1] == "in" and guest.timers.now() < 80_000_000
    with pytest.raises(NotSeen, match="has not shown 'root#'; its last line is 'login:'"):
        guest.screen.wait_text("root#", timeout=0.1)


def test_waiting_for_pictures(tmp_path):
    """Until a function of the picture is true, until it is that of a file, until it stands still."""
    guest = Guest()
    guest.write(0, "abc")
    guest.screen.png(tmp_path / "abc.png")
    guest.write(0, "xyz")
    guest.each = lambda: guest.write(0, "abc") if guest.timers.now() > 30_000_000 else None
    picture = guest.screen.wait_picture(tmp_path / "abc.png", timeout=1)
    assert (picture == png.read(tmp_path / "abc.png")).all()
    assert guest.screen.wait_picture(lambda picture: picture.shape[0] == 400).shape == (400, 720, 3)
    assert guest.screen.wait_still(0.05, timeout=1).shape == (400, 720, 3)
    with pytest.raises(NotSeen):
        guest.screen.wait_picture(lambda picture: False, timeout=0.05)


def test_typing_is_paced():
    """A text reaches the guest key by key, with Shift where it is needed, as the clock goes on."""
    guest = Guest()
    guest.screen.send_keys("aB\n")
    assert guest.screen.typing
    guest.run(lambda: not guest.screen.typing)
    guest.take()
    assert guest.codes == [0x1E, 0x9E, 0x2A, 0x30, 0xB0, 0xAA, 0x1C, 0x9C] and guest.timers.now() >= 2 * KEY_NS
    guest.codes.clear()
    guest.screen.press("ctrl-alt-delete", "f12", "down", "alt-F")
    guest.run(lambda: not guest.screen.typing)
    guest.take()
    assert bytes(guest.codes).hex() == "1d38e053e0d3b89d" + "58d8" + "e050e0d0" + "382a21a1aab8"


def test_a_guest_that_does_not_listen_loses_no_key():
    """Keys wait while the keyboard's buffer is full."""
    guest = Guest()
    guest.screen.send_keys("0123456789" * 5)
    guest.timers.advance(10**10)
    for _ in range(200):
        guest.take()
        guest.timers.advance(KEY_NS)
    guest.take()
    made = [code for code in guest.codes if code < 0x80]
    assert made == [0x0B, *range(2, 11)] * 5


def test_what_cannot_be_typed_is_said():
    """Characters, keys, keymaps and buttons that do not exist are one sentence each."""
    guest = Guest()
    with pytest.raises(XenfastError, match="no key for 'ß'"):
        guest.screen.send_keys("Straße")
    with pytest.raises(XenfastError, match="no key 'hyper'"):
        guest.screen.press("ctrl-hyper-x")
    with pytest.raises(XenfastError, match="no mouse button 'fourth'"):
        guest.screen.click("fourth")
    with pytest.raises(XenfastError, match="no keymap 'xx'; there are be, br"):
        Guest("xx")


@pytest.mark.parametrize("name", sorted({*keymaps.LAYOUTS, *keymaps.SAME_AS}))
def test_every_keymap_types_ascii(name):
    """Each layout has a key for every ASCII character (an Italian keyboard has no braces without both modifiers)."""
    table = keymaps.layout(name)
    missing = {chr(c) for c in range(32, 127)} - set(table)
    assert missing <= ({"{", "}"} if name == "it" else set())
    assert all(0 < stroke.key < 0x100 for made in table.values() for stroke in made)


def test_german_keys():
    """y and z change places, dead keys are followed by a space, AltGr makes brackets, accents compose."""
    assert [s.key for s in keymaps.strokes("yz", "de")] == [0x2C, 0x15]
    assert keymaps.strokes("^", "de") == [keymaps.Stroke(0x29), keymaps.Stroke(0x39)]
    assert keymaps.strokes("[é", "de") == [keymaps.Stroke(9, alt_gr=True), keymaps.Stroke(0x0D), keymaps.Stroke(0x12)]


def test_keysyms():
    """A client's keysyms press the keys of the guest's keymap; Shift is corrected where the layouts differ."""
    guest = Guest("de")
    for keysym, down in ((ord("z"), True), (ord("z"), False), (0xFFBE, True), (0xFFBE, False), (0x20AC, True), (0x20AC, False)):
        guest.user.keysym(keysym, down)
    guest.take()
    assert bytes(guest.codes).hex() == "1595" + "3bbb" + "e03812e0b892"
    guest.codes.clear()
    for keysym, down in ((0xFFE1, True), (ord("/"), True), (ord("/"), False), (ord("#"), True), (ord("#"), False), (0xFFE1, False)):
        guest.user.keysym(keysym, down)         # Shift-3 is # for the client, which has pressed Shift
    guest.take()
    assert bytes(guest.codes).hex() == "2a" + "0888" + "aa2b2a" + "ab" + "aa"
    guest.codes.clear()
    guest.ps2.keyboard.leds = 4                 # Caps Lock is on: a is Shift-A
    guest.user.keysym(ord("A"), True)
    guest.take()
    assert guest.codes == [0x1E]
    guest.user.keysym(0x12345678, True)
    guest.user.release_all()
    guest.take()
    assert guest.codes == [0x1E, 0x9E]


def test_the_pointer():
    """Positions become movements for a PS/2 mouse, clicks and the wheel are passed on."""
    guest = Guest()
    for byte in (0xF3, 200, 0xF3, 100, 0xF3, 80, 0xF4):
        guest.ps2.write_command(0, 1, 0xD4)
        guest.ps2.write_data(0, 1, byte)
    guest.take()
    guest.packets.clear()
    guest.user.pointer(100, 100, 0)
    guest.user.pointer(110, 95, 1)
    guest.take()
    guest.user.pointer(110, 95, 16)
    guest.take()
    assert guest.packets == [8, 10, 5, 0, 9, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0, 1]
    guest.packets.clear()
    guest.screen.mouse_move(-3, 0)
    guest.screen.click("right")
    guest.screen.wheel(-2)
    guest.take()
    assert guest.packets == [0x18, 0xFD, 0, 0, 0x0A, 0, 0, 0, 8, 0, 0, 0xFE]


def test_usb_devices():
    """A guest that has set up the tablet gets positions in 1/32768 of the picture; a USB keyboard gets the keys."""
    tablet, keyboard = Tablet(), UsbKeyboard()
    guest = Guest(usb=[tablet, keyboard])
    guest.screen.mouse_to(5, 5)
    assert not tablet.queue and not guest.user.absolute
    tablet.configuration = keyboard.configuration = 1
    guest.screen.mouse_to(719, 0)
    guest.screen.mouse_button("left", True)
    guest.user.pointer(0, 10_000, 1 | 8)
    assert [report.hex() for report in tablet.queue] == ["00ff7f000000", "01ff7f000000", "010000ff7f00", "010000ff7f01"]
    guest.screen.send_keys("A")
    guest.run(lambda: not guest.screen.typing)
    keyboard.leds = 2
    assert [report[:3].hex() for report in keyboard.queue] == ["020000", "020004", "020000", "000000"] and guest.user.leds == 4
    assert guest.codes == []


# --- PNG ---------------------------------------------------------------------------------------------------------------------
def chunk(kind, data):
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def test_png_round_trip(tmp_path):
    """What is written is read again, and is a file of the right signature and checksums."""
    picture = np.random.default_rng(1).integers(0, 256, (7, 11, 3)).astype(np.uint8)
    png.write(tmp_path / "a.png", picture)
    assert (png.read(tmp_path / "a.png") == picture).all()
    with pytest.raises(XenfastError, match="No such file"):
        png.read(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes(b"GIF89a")
    with pytest.raises(XenfastError, match="cannot be read as a PNG"):
        png.read(tmp_path / "c.png")
    whole = (tmp_path / "a.png").read_bytes()
    for n in range(0, len(whole) - 20, 7):
        (tmp_path / "d.png").write_bytes(whole[:n])
        with pytest.raises(XenfastError):
            png.read(tmp_path / "d.png")


@pytest.mark.parametrize("kind", range(5))
def test_png_filters(kind):
    """Each of the five filters of the specification is undone."""
    width, height, channels = 5, 4, 3
    picture = np.random.default_rng(kind).integers(0, 256, (height, width * channels)).astype(int)
    raw = b""
    for y in range(height):
        raw += bytes((kind,))
        for x in range(width * channels):
            a = picture[y][x - channels] if x >= channels else 0
            b = picture[y - 1][x] if y else 0
            c = picture[y - 1][x - channels] if y and x >= channels else 0
            p = a + b - c
            paeth = min((abs(p - v), i) for i, v in enumerate((a, b, c)))[1]
            guess = (0, a, b, (a + b) // 2, (a, b, c)[paeth])[kind]
            raw += bytes((int(picture[y][x] - guess) & 0xFF,))
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes((8, 2, 0, 0, 0))
    data = png.SIGNATURE + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    assert (png.decode(data).reshape(height, -1) == picture).all()
