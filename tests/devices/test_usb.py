"""The UHCI controller, driven by descriptors in memory, and the HID devices behind it."""

import pytest

from tests.devices.fuzz import storm
from tests.firmware.pc import FakeTimers
from xenfast.devices.uhci import FRNUM, PORTSC, USBCMD, USBINTR, USBSTS, Uhci
from xenfast.devices.usb_hid import KINDS, USAGES, Tablet, UsbKeyboard, UsbMouse

FRAMES, QUEUE, TDS, BUFFER = 0x1000, 0x2000, 0x3000, 0x4000
SETUP, IN, OUT = 0x2D, 0x69, 0xE1
ACTIVE, STALLED, TIMEOUT, NAK, IOC, SPD = 1 << 23, 1 << 22, 1 << 18, 1 << 19, 1 << 24, 1 << 29
MS = 1_000_000


class Mem:
    """A little memory; beyond it there is none."""

    def __init__(self):
        self.data = bytearray(1 << 20)

    def read(self, at, n):
        return bytes(self.data[at:at + n]).ljust(n, b"\xff")

    def write(self, at, data):
        if at + len(data) <= len(self.data):
            self.data[at:at + len(data)] = data

    def read_int(self, at, n):
        return int.from_bytes(self.read(at, n), "little")

    def write_int(self, at, n, value):
        self.write(at, (value & (1 << 8 * n) - 1).to_bytes(n, "little"))


class Driver:
    """What a guest's driver does: one queue in every frame."""

    def __init__(self, device=None):
        self.timers, self.mem = FakeTimers(), Mem()
        self.hc = Uhci(self.timers, self.mem)
        self.hc.config[4] = 5                       # ports, bus master
        self.device = device
        self.mem.write(FRAMES, (QUEUE | 2).to_bytes(4, "little") * 1024)
        self.mem.write(QUEUE, (1).to_bytes(4, "little") * 2)
        if device is not None:
            assert self.hc.attach(device)
            self.out(PORTSC, 2, 0x200)
            self.out(PORTSC, 2, 0)
            self.out(PORTSC, 2, 0x0E)
        self.out(8, 4, FRAMES)
        self.out(USBINTR, 2, 0x0F)
        self.out(USBCMD, 2, 0xC1)
        self.address = 0

    def out(self, offset, size, value):
        self.hc.write(offset, size, value)

    def inw(self, offset):
        return self.hc.read(offset, 2)

    def run(self, ms=1):
        for _ in range(ms):
            self.timers.advance(MS)

    def submit(self, tds):
        """(pid, endpoint, data or size) each; the first buffers are written, all are linked depth first."""
        for i, (pid, endpoint, data) in enumerate(tds):
            size = data if isinstance(data, int) else len(data)
            if not isinstance(data, int):
                self.mem.write(BUFFER + 64 * i, data)
            link = TDS + 16 * (i + 1) | 4 if i + 1 < len(tds) else 1
            status = ACTIVE | SPD | 3 << 27 | (IOC if i + 1 == len(tds) else 0)
            token = (size - 1 & 0x7FF) << 21 | endpoint << 15 | self.address << 8 | pid
            for j, word in enumerate((link, status, token, BUFFER + 64 * i)):
                self.mem.write_int(TDS + 16 * i + 4 * j, 4, word)
        self.mem.write_int(QUEUE + 4, 4, TDS)

    def status(self, i):
        return self.mem.read_int(TDS + 16 * i + 4, 4)

    def transfer(self, tds, ms=4):
        self.submit(tds)
        self.run(ms)
        out = b""
        for i, (pid, _, _) in enumerate(tds):
            if pid == IN and not self.status(i) & (ACTIVE | STALLED):
                out += self.mem.read(BUFFER + 64 * i, self.status(i) + 1 & 0x7FF)
        return out

    def control_in(self, kind, request, value, index, size):
        setup = bytes((kind, request)) + b"".join(n.to_bytes(2, "little") for n in (value, index, size))
        return self.transfer([(SETUP, 0, setup)] + [(IN, 0, 8)] * -(-size // 8))

    def control_out(self, kind, request, value, index=0, data=b""):
        setup = bytes((kind, request)) + b"".join(n.to_bytes(2, "little") for n in (value, index, len(data)))
        tds = [(SETUP, 0, setup), *((OUT, 0, data[i:i + 8]) for i in range(0, len(data), 8)), (IN, 0, 0)]
        self.transfer(tds)
        return not self.status(len(tds) - 1) & STALLED

    def configure(self):
        assert self.control_out(0, 5, 7)
        self.address = 7
        assert self.control_out(0, 9, 1) and self.device.in_use
        return self

    def poll(self):
        return self.transfer([(IN, 1, 8)])


def test_ports_and_reset():
    """A device shows at its port; reset disables it; the controller starts and stops; beyond two ports there is nothing."""
    driver = Driver(Tablet())
    assert driver.inw(PORTSC) & 7 == 5 and driver.inw(PORTSC + 2) == 0x80 and not driver.inw(PORTSC + 4) & 0x80
    assert not driver.inw(USBSTS) & 0x20
    before = driver.inw(FRNUM)
    driver.run(10)
    assert driver.inw(FRNUM) - before & 0x7FF == 10
    driver.out(USBCMD, 2, 0)
    assert driver.inw(USBSTS) & 0x20
    driver.out(USBCMD, 2, 2)
    assert driver.inw(USBCMD) == 0 and driver.inw(PORTSC) & 7 == 3
    driver.hc.detach(driver.device)
    assert driver.inw(PORTSC) & 3 == 2


@pytest.mark.parametrize("kind", KINDS)
def test_enumeration(kind):
    """Descriptors are complete and agree; an address and a configuration are taken; what is unknown stalls."""
    driver = Driver(KINDS[kind]())
    device = driver.control_in(0x80, 6, 0x0100, 0, 18)
    assert len(device) == 18 and device[1] == 1 and device[7] == 8
    driver.configure()
    head = driver.control_in(0x80, 6, 0x0200, 0, 9)
    total = int.from_bytes(head[2:4], "little")
    config = driver.control_in(0x80, 6, 0x0200, 0, 255)
    assert len(config) == total and [config[i] for i in (0, 9, 18, 27)] == [9, 9, 9, 7] and config[14] == 3
    size = int.from_bytes(config[25:27], "little")
    report = driver.control_in(0x81, 6, 0x2200, 0, 255)
    assert len(report) == size and report[-1] == 0xC0
    assert driver.control_in(0x80, 6, 0x0302, 0x0409, 255)[2:].decode("utf-16-le") == f"USB {kind}"
    assert driver.control_in(0x80, 8, 0, 0, 1) == b"\1" and driver.control_in(0x80, 0, 0, 0, 2) == b"\0\0"
    assert driver.control_in(0x80, 6, 0x0600, 0, 10) == b"" and driver.status(1) & STALLED
    assert not driver.control_out(0, 9, 5) and driver.control_out(0x21, 10, 0x0400)
    assert driver.control_in(0xA1, 2, 0, 0, 1) == b"\4"


def test_tablet():
    """Positions, buttons and wheel; movements that were not fetched are one; without news the device says so."""
    driver = Driver(Tablet()).configure()
    assert driver.poll() == b"" and driver.status(0) & (ACTIVE | NAK) == ACTIVE | NAK
    tablet = driver.device
    tablet.position(10, 20)
    tablet.position(0x1234, 0x7FFF)
    tablet.button(0, True)
    tablet.button(0, False)
    tablet.wheel_turn(1)
    assert [driver.poll() for _ in range(4)] == [
        bytes.fromhex(text) for text in ("003412FF7F00", "013412FF7F00", "003412FF7F00", "003412FF7FFF")]


def test_mouse_and_keyboard():
    """Movements beyond a report become several; keys are usages, with modifiers; LEDs arrive."""
    driver = Driver(UsbMouse()).configure()
    driver.device.move(-200, 5)
    driver.device.button(2, True)
    assert [driver.poll() for _ in range(3)] == [bytes.fromhex(t) for t in ("00810500", "00B70000", "04000000")]
    driver = Driver(UsbKeyboard()).configure()
    for key, down in ((0x2A, True), (0x1E, True), (0x1E, False), (0x2A, False)):
        driver.device.key(key, down)
    assert [driver.poll() for _ in range(4)] == [bytes.fromhex(t) for t in (
        "0200000000000000", "0200040000000000", "0200000000000000", "0000000000000000")]
    assert driver.control_out(0x21, 9, 0x0200, 0, b"\x02") and driver.device.leds == 2
    plain = {key: usage for key, usage in USAGES.items() if usage and key != 0x54}
    assert len(set(plain.values())) == len(plain)


def test_interrupts():
    """The end of a transfer, a short packet and errors interrupt, each when asked for; writing ones clears."""
    driver = Driver(Tablet()).configure()
    driver.out(USBSTS, 2, 0x1F)
    driver.device.position(1, 1)
    driver.poll()
    assert driver.inw(USBSTS) == 1 and driver.hc.intx.level
    driver.out(USBSTS, 2, 1)
    assert not driver.hc.intx.level
    driver.out(USBINTR, 2, 0)
    driver.address = 99
    driver.poll()
    assert driver.inw(USBSTS) == 3 and driver.status(0) & STALLED and driver.status(0) & TIMEOUT and not driver.hc.intx.level
    driver.out(USBINTR, 2, 1)
    assert driver.hc.intx.level


def test_an_idle_controller_is_slow_and_wakes_up():
    """Without progress frames are walked seldom; a device with news is heard within a frame or two."""
    driver = Driver(Tablet()).configure()
    driver.submit([(IN, 1, 8)])
    driver.run(200)
    calls = []
    walk = driver.hc._walk
    driver.hc._walk = lambda index: calls.append(index) or walk(index)
    driver.run(70)
    assert len(calls) <= 11
    driver.run(2000)
    calls.clear()
    driver.run(310)
    assert len(calls) <= 11
    driver.device.position(3, 4)
    driver.run(2)
    assert not driver.status(0) & ACTIVE


def test_loops_in_the_schedule_end():
    """Queues and descriptors that point at themselves cost a bounded time."""
    driver = Driver(Tablet()).configure()
    driver.mem.write_int(QUEUE, 4, QUEUE | 2)
    driver.submit([(IN, 0, 8)])
    driver.mem.write_int(TDS, 4, TDS)
    driver.run(3)
    driver.mem.write(FRAMES, TDS.to_bytes(4, "little") * 1024)
    driver.run(3)
    driver.mem.write_int(TDS + 4, 4, ACTIVE)
    driver.mem.write_int(TDS + 8, 4, 0x12)          # no such packet
    driver.run(2)
    assert driver.inw(USBSTS) & 0x30 == 0x30


def test_save_and_load():
    """A controller with the state of another has its devices where they were."""
    driver = Driver(Tablet()).configure()
    driver.device.position(5, 6)
    other = Driver(Tablet())
    other.hc.load(driver.hc.save())
    other.address = 7
    assert other.poll() == bytes.fromhex("000500060000") and other.inw(PORTSC) & 5 == 5
    other.hc._initial = bytes(other.hc.config)      # as when it was put on a bus
    other.hc.reset()
    assert not other.device.in_use and other.inw(USBCMD) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_any_access_is_answered(kind):
    """Random registers, random descriptors in memory, random requests: no exception, no endless walk."""
    driver = Driver(KINDS[kind]()).configure()
    timers = driver.timers

    class Rubbish:
        def write(self, at, data):
            driver.mem.write(0x1000 + at % 0x3000, data[:64])
            timers.advance(MS)

    def interesting(rng):
        kind = rng.random()
        if kind < 0.3:
            pid, data = rng.choice((SETUP, IN, OUT)), rng.randbytes(8)
            if pid == SETUP:
                data = bytes((rng.choice((0, 0x80, 0x81, 0x21, 0xA1, 2)), rng.randrange(12), rng.getrandbits(3), rng.getrandbits(6) & 0x23,
                              0, 0, rng.getrandbits(8), 0))
            driver.mem.write(FRAMES, (QUEUE | 2).to_bytes(4, "little") * 1024)
            driver.address = driver.device.address
            driver.submit([(pid, rng.choice((0, 0, 1, 2)), data)])
            driver.hc.config[4] = 5
            timers.advance(MS)
        return 0, rng.choice((0, 2, 4, 16, 18)), 2, rng.choice((1, 0xC1, 5, 0xFF, 0x0E, 4))

    storm([driver.hc.bars[0].region], Rubbish(), accesses=6000, interesting=interesting)
