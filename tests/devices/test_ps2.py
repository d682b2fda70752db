"""The keyboard controller, the keyboard and the mouse, spoken to through ports 60h and 64h."""

import random

import pytest

from tests.devices.fuzz import storm
from tests.devices.qtest import qemu
from xenfast.devices.ps2 import Ps2Controller
from xenfast.devices.ps2_keyboard import PAUSE, PRINT_SCREEN, SET2, SET3
from xenfast.xen.hvm.irq import Line


class Host:
    """What a driver sees."""

    def __init__(self):
        self.interrupts, self.resets = [], 0
        self.ps2 = Ps2Controller(Line(self._irq, 1), Line(self._irq, 12), self._reset)
        self.keyboard, self.mouse = self.ps2.keyboard, self.ps2.mouse

    def _irq(self, number, level):
        if level:
            self.interrupts.append(number)

    def _reset(self):
        self.resets += 1

    def command(self, value, *data):
        self.ps2.control.write(0, 1, value)
        for byte in data:
            self.ps2.data.write(0, 1, byte)
        return self.read()

    def send(self, *data):
        for byte in data:
            self.ps2.data.write(0, 1, byte)
        return self.read()

    def to_mouse(self, *data):
        out = []
        for byte in data:
            out += self.command(0xD4, byte)
        return out

    def read(self):
        out = []
        while self.ps2.control.read(0, 1) & 1:
            out.append(self.ps2.data.read(0, 1))
        return out

    def type(self, *keys):
        for key in keys:
            self.keyboard.key(key, True)
            self.keyboard.key(key, False)
        return self.read()


@pytest.fixture
def host():
    return Host()


def test_controller_commands(host):
    """Self test, interface tests, command byte, ports on and off, output port, A20, the reset pulse."""
    assert host.command(0xAA) == [0x55] and host.command(0xAB) == [0] and host.command(0xA9) == [0]
    assert host.command(0x20) == [0x77]
    host.command(0x60, 0x45)
    assert host.command(0x20) == [0x45] and host.ps2.control.read(0, 1) & 0x1C == 0x1C
    host.command(0xA7)
    host.command(0xAD)
    assert host.command(0x20) == [0x75]
    host.command(0xA8)
    host.command(0xAE)
    assert host.command(0x20) == [0x45]
    host.command(0xDD)
    assert host.command(0xD0)[0] & 2 == 0
    host.command(0xD1, 0xDF)
    assert host.command(0xD0)[0] & 2 and host.resets == 0
    host.command(0xFE)
    host.command(0xD1, 0xDE)
    assert host.resets == 2
    assert host.command(0xD3, 0x5A) == [0x5A] and host.interrupts[-1] != 12     # the mouse's interrupt is off


def test_keys_in_set_1_behind_the_translation(host):
    """What a BIOS sees: set 1, an interrupt a byte, prefixes, Print Screen, Pause and Break."""
    assert host.type(0x1E, 0xC8) == [0x1E, 0x9E, 0xE0, 0x48, 0xE0, 0xC8] and host.interrupts == [1] * 6
    assert host.type(PRINT_SCREEN) == [0xE0, 0x2A, 0xE0, 0x37, 0xE0, 0xB7, 0xE0, 0xAA]
    assert host.type(PAUSE) == [0xE1, 0x1D, 0x45, 0xE1, 0x9D, 0xC5]
    host.keyboard.key(0x1D, True)
    assert host.type(PAUSE) == [0x1D, 0xE0, 0x46, 0xE0, 0xC6]
    host.keyboard.key(0x1D, False)
    host.keyboard.key(0x38, True)
    assert host.type(PRINT_SCREEN) == [0x9D, 0x38, 0x54, 0xD4]


@pytest.mark.parametrize("key", [k for k in range(1, 0x59) if k not in (0x54, 0x55)])
def test_translation_gives_the_key_back(host, key):
    """Every key sends its code of set 2, and the controller makes its code of set 1 of it."""
    host.command(0x60, 0x01)
    made = host.type(key)
    assert made in ([SET2[key], 0xF0, SET2[key]], [0x83, 0xF0, 0x83])
    host.command(0x60, 0x41)
    assert host.type(key) == [key, key | 0x80]


def test_sets_1_and_3(host):
    """Without translation the keyboard's own set shows; set 3 has one code a key, and keys that only make."""
    host.command(0x60, 0x01)
    assert host.send(0xF0, 0) == [0xFA, 0xFA, 2]
    assert host.send(0xF0, 1) == [0xFA, 0xFA] and host.type(0xC8) == [0xE0, 0x48, 0xE0, 0xC8]
    assert host.send(0xF0, 3) == [0xFA, 0xFA] and host.type(0xC8, 0x1C) == [0x63, 0xF0, 0x63, 0x5A, 0xF0, 0x5A]
    assert host.send(0xFD, 0x63, 0x5A) == [0xFA] * 3
    assert host.send(0xF4) == [0xFA] and host.type(0xC8, 0x1C, 0x10) == [0x63, 0x5A, 0x15, 0xF0, 0x15]
    assert host.send(0xF6) == [0xFA] and host.type(0x1C) == [0x5A, 0xF0, 0x5A]
    codes = [code for key, code in SET3.items() if code and key != 0x54]
    assert len(set(codes)) == len(codes)


def test_keyboard_commands(host):
    """Identify, echo, LEDs, rate, resend, reset, disable; what is no command is to be sent again."""
    host.command(0x60, 0x01)
    assert host.send(0xF2) == [0xFA, 0xAB, 0x83] and host.send(0xEE) == [0xEE]
    seen = []
    host.keyboard.on_leds = seen.append
    assert host.send(0xED, 5) == [0xFA, 0xFA] and seen == [5] and host.send(0xF3, 0x20) == [0xFA, 0xFA]
    assert host.send(0xFE) == [0xFA] and host.send(0xE5) == [0xFE]
    assert host.send(0xF5) == [0xFA] and host.type(0x1E) == []
    assert host.send(0xFF) == [0xFA, 0xAA] and host.type(0x1E) == [0x1C, 0xF0, 0x1C]
    assert host.send(0xED, 0xEE) == [0xFA, 0xEE]        # a command instead of the parameter


def test_a_keyboard_whose_bytes_nobody_takes(host):
    """16 bytes are kept, the rest is lost whole keys at a time, and the driver is told."""
    lost = [host.keyboard.key(0x1E, True) for _ in range(40)].count(False)
    assert lost >= 20 and host.read()[-1] == 0xFF
    assert host.type(0x1F) == [0x1F, 0x9F]


def test_mouse_packets(host):
    """Movement with signs, added up until it is taken; buttons; nothing before it is enabled."""
    host.mouse.move(5, 5)
    assert host.read() == [] and host.to_mouse(0xF4) == [0xFA]
    host.mouse.move(5, -3)
    host.mouse.move(300, 1)
    host.mouse.move(-2, 0)
    assert host.read() == [0x08, 5, 3, 0x28, 255, 0xFF, 0x08, 43, 0] and set(host.interrupts[1:]) == {12}
    host.mouse.button(1, True)
    assert host.read() == [0x0A, 0, 0]
    host.mouse.button(1, False)
    assert host.read() == [0x08, 0, 0]


def test_mouse_commands(host):
    """Reset, identify, status, defaults, resolution, scaling, remote mode, wrap mode."""
    assert host.to_mouse(0xFF) == [0xFA, 0xAA, 0] and host.to_mouse(0xF2) == [0xFA, 0]
    assert host.to_mouse(0xE8, 3, 0xE7, 0xF3, 40, 0xE9) == [0xFA] * 6 + [0x10, 3, 40]
    assert host.to_mouse(0xF0) == [0xFA]
    host.mouse.move(7, 0)
    assert host.read() == [] and host.to_mouse(0xEB) == [0xFA, 8, 7, 0]
    assert host.to_mouse(0xEE) == [0xFA] and host.to_mouse(0xF4, 0x12) == [0xF4, 0x12] and host.to_mouse(0xEC) == [0xFA]
    assert host.to_mouse(0x77) == [0xFE]


@pytest.mark.parametrize(("knock", "device", "packet"), [((200, 100, 80), 3, [8, 0, 0, 0xFF]), ((200, 200, 80), 4, [8, 0, 0, 0x1F])])
def test_wheels(host, knock, device, packet):
    """After the knock the mouse says its new name, and has a fourth byte: the wheel, and two more buttons."""
    for rate in knock:
        host.to_mouse(0xF3, rate)
    assert host.to_mouse(0xF2) == [0xFA, device] and host.to_mouse(0xF4) == [0xFA]
    if device == 4:
        host.mouse.button(3, True)
        assert host.read() == [8, 0, 0, 0x10]
    host.mouse.move(0, 0, -1)
    assert host.read() == packet


def test_ports_that_are_off(host):
    """What a device sends waits while its port is off; commands turn it on."""
    host.command(0xAD)
    assert host.type(0x1E) == []
    assert host.command(0xAE) == [0x1E, 0x9E]
    host.to_mouse(0xF4)
    host.command(0xA7)
    host.mouse.move(1, 0)
    assert host.read() == []
    assert host.command(0xA8) == [8, 1, 0]


def test_as_qemu_has_it():
    """Commands to controller, keyboard and mouse, 400 in random order: the answers are QEMU's."""
    rng = random.Random(8)
    host = Host()
    with qemu() as peer:

        def read_peer():
            out = []
            while peer.read(0x64, 1) & 1 and len(out) < 40:
                out.append(peer.read(0x60, 1))
            return out

        for port, value in ((0x64, 0x60), (0x60, 0x47)):
            peer.write(port, 1, value)
        host.command(0x60, 0x47)
        for step in range(400):
            kind = rng.choice(("controller", "keyboard", "mouse"))
            if kind == "controller":
                sequence = [(0x64, rng.choice((0x20, 0xAB, 0xA9)))]
            elif kind == "keyboard":
                choices = ((0xF2,), (0xEE,), (0xED, rng.randrange(8)), (0xF3, rng.randrange(0x80)), (0xF4,), (0xFF,), (0xF0, 2))
                sequence = [(0x60, byte) for byte in rng.choice(choices)]
            else:
                rate = rng.choice((200, 100, 80))
                choices = ((0xF2,), (0xE8, rng.randrange(4)), (0xF3, rate), (0xE6,), (0xE7,), (0xE9,), (0xF6,), (0xFF, 0xF3, 40))
                sequence = [step for byte in rng.choice(choices) for step in ((0x64, 0xD4), (0x60, byte))]
            mine, theirs = [], []
            for port, value in sequence:
                peer.write(port, 1, value)
                (host.ps2.control if port == 0x64 else host.ps2.data).write(0, 1, value)
                theirs += read_peer()
                mine += host.read()
            assert mine == theirs, (step, kind, sequence)


def test_save_and_load(host):
    """A controller with the state of another goes on where that was."""
    host.to_mouse(0xF3, 200, 0xF3, 100, 0xF3, 80, 0xF4)
    host.mouse.move(4, 0)
    host.keyboard.key(0x1E, True)
    other = Host()
    other.ps2.load(host.ps2.save())
    assert other.interrupts == [12] and other.read() == host.read() == [8, 0x1E, 4, 0, 0]
    assert other.mouse.id == 3
    other.ps2.reset()
    assert other.mouse.id == 0 and other.read() == []


def test_any_access_is_answered(host):
    """Random bytes at both ports among keys and movements: no exception, queues stay short."""
    rng = random.Random(4)

    class Fingers:
        def write(self, *_):
            host.keyboard.key(rng.getrandbits(8), bool(rng.getrandbits(1)))
            host.mouse.move(rng.randrange(-500, 500), rng.randrange(-500, 500), rng.randrange(-3, 3))
            host.mouse.button(rng.randrange(5), bool(rng.getrandbits(1)))

    storm([host.ps2.data, host.ps2.control], Fingers(), accesses=20000)
    assert max(len(host.keyboard.queue), len(host.mouse.queue), len(host.ps2.answers)) <= 72
