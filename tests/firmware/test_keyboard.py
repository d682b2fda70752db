"""INT 09h and 16h: from scan codes to what programs read."""

import pytest

from tests.firmware.pc import BiosPc
from xenfast.firmware.keyboard import EXTENDED, KEYPAD, KEYS, translate
from xenfast.xen.hvm.bus import Region

SHIFT, CTRL, ALT = (0x2A,), (0x1D,), (0x38,)


class Controller:
    """Ports 60h and 64h: bytes that wait, and a keyboard that acknowledges whatever it is sent."""

    def __init__(self, pc):
        self.pc, self.waiting, self.sent = pc, [], []
        pc.hvm.ports.add(0x60, Region(1, lambda *_: self.waiting.pop(0) if self.waiting else 0, self._data, width=1))
        pc.hvm.ports.add(0x64, Region(1, lambda *_: 0x18 | bool(self.waiting), lambda *_: None, width=1))

    def _data(self, _offset, _size, value):
        self.sent.append(value)
        self.waiting.append(0xFA)


@pytest.fixture
def pc():
    pc = BiosPc.started()
    pc.keyboard = Controller(pc)
    return pc


def press(pc, *codes):
    """INT 09h for each scan code."""
    for code in codes:
        pc.keyboard.waiting.append(code)
        assert pc.interrupt(0x09) is not None


def buffer(pc):
    """Everything INT 16h/10h gives."""
    out = []
    while not pc.interrupt(0x16, ax=0x1100).zf:
        out.append(pc.interrupt(0x16, ax=0x1000).ax)
    return out


def stroke(scan, *, held=(), extended=False):
    prefix = (0xE0,) if extended else ()
    return (*held, *prefix, scan, *prefix, scan | 0x80, *(code | 0x80 for code in held))


@pytest.mark.parametrize(("column", "held"), [(0, ()), (1, SHIFT), (2, CTRL), (3, ALT)])
@pytest.mark.parametrize("extended", [False, True])
def test_every_key(pc, column, held, extended):
    """The table of keys, plain, with Shift, Ctrl and Alt."""
    table = EXTENDED if extended else KEYS
    for scan, row in table.items():
        if (scan == 0x53 and column == 3) or (scan == 0x37 and column == 1):     # with Ctrl: reboot; PrtSc
            continue
        press(pc, *stroke(scan, held=held, extended=extended))
        assert buffer(pc) == ([row[column]] if row[column] is not None else []), hex(scan)


def test_some_keys_as_the_reference_has_them(pc):
    """IBM's table, by hand."""
    for codes, code in (
        (stroke(0x1E), 0x1E61), (stroke(0x1E, held=SHIFT), 0x1E41), (stroke(0x1E, held=CTRL), 0x1E01), (stroke(0x1E, held=ALT), 0x1E00),
        (stroke(0x1C), 0x1C0D), (stroke(0x3B), 0x3B00), (stroke(0x3B, held=ALT), 0x6800), (stroke(0x57), 0x8500),
        (stroke(0x03, held=CTRL), 0x0300), (stroke(0x0F, held=SHIFT), 0x0F00), (stroke(0x48), 0x4800),
        (stroke(0x48, extended=True), 0x48E0),
        (stroke(0x1C, extended=True), 0xE00D), (stroke(0x39), 0x3920), (stroke(0x0E, held=CTRL), 0x0E7F),
    ):
        press(pc, *codes)
        assert buffer(pc) == [code]


def test_old_functions_hide_new_keys(pc):
    """INT 16h/00h and 01h: grey keys as those of the keypad, F11 and F12 not at all."""
    press(pc, *stroke(0x57), *stroke(0x48, extended=True), *stroke(0x35, extended=True), *stroke(0x1C, extended=True), *stroke(0x4C))
    assert pc.interrupt(0x16, ax=0x0100).ax == 0x4800
    assert [pc.interrupt(0x16).ax for _ in range(3)] == [0x4800, 0x352F, 0x1C0D]
    assert pc.interrupt(0x16, ax=0x0100).zf
    assert translate(0x4CF0, 0x10) == 0x4C00 and translate(0x00F0, 0x00) == 0x00F0


def test_caps_num_scroll(pc):
    """Locks change letters and the keypad, and light the lamps; held keys do not flicker."""
    press(pc, 0x3A, 0x3A, 0xBA)
    assert pc.keyboard.sent[-2:] == [0xED, 4]
    press(pc, *stroke(0x10), *stroke(0x10, held=SHIFT), *stroke(0x02))
    assert buffer(pc) == [0x1051, 0x1071, 0x0231]
    press(pc, *stroke(0x3A), *stroke(0x45), *stroke(0x47), *stroke(0x47, held=SHIFT), *stroke(0x53), *stroke(0x47, extended=True))
    assert buffer(pc) == [0x4737, 0x4700, 0x532E, 0x47E0]
    assert pc.keyboard.sent[-1] == 2
    press(pc, *stroke(0x46))
    assert pc.mem.read_int(0x417, 1) == 0x30 and pc.mem.read_int(0x497, 1) & 7 == 3
    assert all(cursor >> 8 == scan for scan, (cursor, _, _) in KEYPAD.items())


def test_shift_states(pc):
    """INT 16h/02h and 12h, left and right keys apart."""
    press(pc, 0x36, 0x1D, 0xE0, 0x38)
    assert pc.interrupt(0x16, ax=0x0200).al == 0x0D
    after = pc.interrupt(0x16, ax=0x1200)
    assert after.al == 0x0D and after.ah == 0x09
    press(pc, 0xB6, 0x9D, 0xE0, 0xB8)
    assert pc.interrupt(0x16, ax=0x1200).ax == 0
    press(pc, 0x1D, 0xE0, 0x1D, 0x9D)
    assert pc.interrupt(0x16, ax=0x0200).al == 4
    press(pc, 0xE0, 0x9D, *stroke(0x52))
    assert pc.interrupt(0x16, ax=0x0200).al == 0x80


def test_fake_shifts_of_grey_keys_are_nothing(pc):
    """E0 2A around a grey key does not shift."""
    press(pc, 0xE0, 0x2A, 0xE0, 0x4B, 0xE0, 0xCB, 0xE0, 0xAA)
    assert buffer(pc) == [0x4BE0] and pc.mem.read_int(0x417, 1) == 0


def test_a_character_by_its_number(pc):
    """Alt and 2, 2, 5 on the keypad."""
    press(pc, 0x38, 0x50, 0xD0, 0x50, 0xD0, 0x4C, 0xCC, 0xB8)
    assert buffer(pc) == [0x00E1]


def test_the_buffer_holds_fifteen(pc):
    """What comes then is lost; the buffer goes round."""
    for _ in range(2):
        press(pc, *[code for _ in range(20) for code in stroke(0x1E)])
        assert len(buffer(pc)) == 15
    assert pc.interrupt(0x16, ax=0x0500, cx=0x1234).al == 0
    assert buffer(pc) == [0x1234]
    for _ in range(15):
        assert pc.interrupt(0x16, ax=0x0500, cx=1).al == 0
    assert pc.interrupt(0x16, ax=0x0500, cx=1).al == 1


def test_waiting_for_a_key(pc):
    """INT 16h/00h halts until a key comes."""
    halts = []

    def on_halt(pc):
        halts.append(1)
        if len(halts) == 3:
            pc.keyboard.waiting.append(0x1E)
            pc.cpu.interrupt(9)
        else:
            pc.cpu.interrupt(8)
        return pc.cpu.rip != 0x7C04

    pc.on_halt = on_halt
    assert pc.interrupt(0x16).ax == 0x1E61 and len(halts) == 3


def hook(pc, vector, at=0x9000):
    """A counter at 0x8FF0 + vector as the handler."""
    pc.mem.write(at, bytes((0x2E, 0xFE, 0x06)) + (0x200 + vector).to_bytes(2, "little") + b"\xCF")    # inc byte [cs:0x200+n]; iret
    pc.mem.write_int(vector * 4, 4, 0x0800 << 16 | at - 0x8000)
    return lambda: pc.mem.read_int(0x8200 + vector, 1)


def test_print_screen_break_and_sysrq(pc):
    """INT 05h, 1Bh, and 15h/85h by way of the keyboard."""
    printed, broken = hook(pc, 0x05), hook(pc, 0x1B, 0x9100)
    press(pc, 0xE0, 0x2A, 0xE0, 0x37, 0xE0, 0xB7, 0xE0, 0xAA)
    assert printed() == 1
    press(pc, *stroke(0x1E), 0x1D, 0xE0, 0x46, 0xE0, 0xC6, 0x9D)
    assert broken() == 1 and buffer(pc) == [0] and pc.mem.read_int(0x471, 1) == 0x80
    seen = []
    pc.bios.system.functions[0x85] = lambda call: seen.append(call.al)
    press(pc, 0x38, 0x54, 0x54, 0xD4, 0xB8)
    assert seen == [0, 1]


def test_pause(pc):
    """E1 1D 45: INT 09h waits until another key is pressed, which is lost."""
    keys = [0xE1, 0x1D, 0x45, 0xE1, 0x9D, 0xC5]
    halts = []

    def on_halt(pc):
        if pc.cpu.rip == 0x7C04:
            return False
        halts.append(1)
        if len(halts) == 4:
            pc.keyboard.waiting.append(0x1E)
            pc.cpu.interrupt(9)
        else:
            pc.cpu.interrupt(8)
        return True

    pc.on_halt = on_halt
    press(pc, *keys)
    assert len(halts) == 4 and buffer(pc) == [] and not pc.mem.read_int(0x418, 1) & 8


def test_ctrl_alt_del(pc):
    """The warm-start flag, and the way of a reset."""
    resets = []
    pc.bios.config.reset = lambda: resets.append(1)
    pc.keyboard.waiting.append(0x1D)
    pc.interrupt(9)
    pc.keyboard.waiting.append(0x38)
    pc.interrupt(9)
    pc.keyboard.waiting.append(0x53)
    assert pc.interrupt(9, budget=300) is None
    assert resets == [1] and pc.mem.read_int(0x472, 2) == 0x1234


def test_programs_may_change_keys(pc):
    """INT 15h/4Fh: another scan code, or none."""
    def intercept(call):
        if call.al == 0x1E:
            call.al, call.cf = 0x30, True           # a becomes b
        else:
            call.cf = call.al & 0x7F != 0x2E        # c vanishes

    pc.bios.system.functions[0x4F] = intercept
    press(pc, *stroke(0x1E), *stroke(0x2E), *stroke(0x20))
    assert buffer(pc) == [0x3062, 0x2064]


def test_other_functions(pc):
    """What there is, the keyboard's ID, the repetition rate; a function that is not there changes nothing."""
    assert pc.interrupt(0x16, ax=0x0900).al == 0x30
    assert pc.interrupt(0x16, ax=0x0A00).bx == 0x41AB
    pc.interrupt(0x16, ax=0x0305, bx=0x0102)
    assert pc.keyboard.sent[-2:] == [0xF3, 0x22]
    assert pc.interrupt(0x16, ax=0x7777, bx=1).ax == 0x7777


def test_bytes_that_are_no_keys(pc):
    """Acknowledgements, errors, every byte in every order: nothing breaks."""
    for code in (*range(256), 0xE0, *range(0, 256, 3), 0xE1, *range(0, 128, 5)):
        pc.keyboard.waiting.append(code)
        pc.interrupt(0x09, budget=2000)             # some of them pause, or print the screen
    assert all(0 <= code <= 0xFFFF for code in buffer(pc))
