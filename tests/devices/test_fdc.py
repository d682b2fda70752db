"""The floppy controller as drivers use it: reset, seeks, reading and writing by DMA and by the FIFO, formats, errors, change line."""

import pytest

from tests.devices.fuzz import storm
from tests.devices.qtest import qemu
from tests.devices.storage import FakeTimers, MemImage, guest_memory, pattern
from xenfast.devices import fdc
from xenfast.devices.drive import Drive
from xenfast.xen.hvm.irq import Line

DATA = pattern(2880)
MFM = 0x40


class Channel:
    """A channel of a DMA controller, programmed with an address and a count."""

    def __init__(self, mem):
        self.mem, self.address, self.count, self.terminal_count = mem, 0, 0, True

    def program(self, address, count):
        self.address, self.count, self.terminal_count = address, count, False

    def to_memory(self, data):
        size = min(len(data), self.count)
        self.mem.write(self.address, bytes(data[:size]))
        return self._moved(size)

    def from_memory(self, size):
        size = min(size, self.count)
        data = self.mem.read(self.address, size)
        self._moved(size)
        return data

    def _moved(self, size):
        self.address += size
        self.count -= size
        if size and not self.count:
            self.terminal_count = True
        return size


class Host:
    def __init__(self, *drives):
        self.mem, self.timers, self.irqs = guest_memory(64), FakeTimers(), []
        self.dma = Channel(self.mem)
        self.line = Line(lambda number, level: self.irqs.append(level))
        self.drives = [drive if isinstance(drive, Drive) or drive is None else Drive(drive) for drive in drives]
        self.fdc = fdc.Fdc(self.timers, self.line, self.dma, self.drives)
        self.fdc.dor = 0

    def reset(self):
        """As a BIOS does; leaves the controller idle at 500 kbit/s."""
        self.write(2, 0)
        self.write(2, 0x1C)
        self.timers.run()
        for n in range(4):
            assert self.command(8) == bytes([0xC0 | n, self.fdc.drives[n].cylinder])
        self.write(7, 0)
        self.command(3, 0xDF, 0x02)
        return self

    def read(self, register):
        return self.fdc.region7.read(0, 1) if register == 7 else self.fdc.region.read(register, 1)

    def write(self, register, value):
        (self.fdc.region7 if register == 7 else self.fdc.region).write(0 if register == 7 else register, 1, value)

    def command(self, *data, results=None):
        for byte in data:
            assert self.read(4) & 0xC0 == 0x80
            self.write(5, byte)
        self.timers.run()
        return self.results()

    def results(self):
        got = b""
        while self.read(4) & 0xC0 == 0xC0:
            got += bytes([self.read(5)])
        return got

    def seek(self, cylinder, drive=0):
        self.command(0x0F, drive, cylinder)
        return self.command(8)

    def move(self, code, cylinder, head, sector, count, *, address=0x8000, eot=18, drive=0, mt=0x80):
        self.dma.program(address, count * 512)
        return self.command(mt | MFM | code, head << 2 | drive, cylinder, head, sector, 2, eot, 0x1B, 0xFF)


@pytest.fixture
def host():
    return Host(MemImage(2880, DATA)).reset()


def test_reset_and_polling():
    """Leaving reset gives one interrupt, and each drive's state by four SENSE INTERRUPT STATUS; a fifth is invalid."""
    host = Host(MemImage(2880))
    host.reset()
    assert host.irqs == [True, False] and host.command(8) == b"\x80" and host.read(4) == 0x80
    host.write(4, 0x80)
    host.timers.run()
    assert host.line.level and host.command(8) == b"\xc0\0"
    host.write(2, 0)
    assert host.read(4) == 0


def test_who_it_is(host):
    """VERSION 90h, PART ID invalid, LOCK and DUMPREG as the 82077AA has them."""
    assert host.command(0x10) == b"\x90" and host.command(0x18) == b"\x80"
    host.command(0x13, 0, 0x57, 0x10)
    assert host.command(0x94) == b"\x10"
    host.reset()
    host.seek(5)
    dump = host.command(0x0E)
    assert dump == bytes([5, 0, 0, 0, 0xDF, 0x02, 0, 0x80, 0x07, 0x10])
    assert host.command(0x14) == b"\0"
    host.reset()
    assert host.command(0x0E)[8:] == b"\x20\0"


def test_seeks(host):
    """A seek ends with an interrupt and the cylinder; meanwhile the drive is busy and the controller is not."""
    for byte in (0x0F, 4, 33):
        host.write(5, byte)
    assert host.read(4) == 0x81
    host.timers.run()
    assert host.line.level and host.read(4) == 0x80 and host.command(8) == bytes([0x24, 33])
    assert not host.line.level
    host.command(0x07, 0)
    assert host.command(8) == bytes([0x20, 0]) and host.command(4, 0) == b"\x38"
    assert host.seek(200) == bytes([0x20, 84])
    host.command(0x07, 1)
    assert host.command(8) == bytes([0x71, 0])
    host.command(0xCF, 0, 3)
    host.command(0x8F, 0, 9)
    assert host.command(8)[1] == 75


def test_reading_by_dma(host):
    """One sector, sectors across the heads, to the terminal count; the result names the next sector."""
    host.seek(2)
    first = (2 * 2 + 0) * 18
    assert host.move(6, 2, 0, 3, 1) == bytes([0, 0, 0, 2, 0, 4, 2])
    assert host.mem.read(0x8000, 512) == DATA[(first + 2) * 512:(first + 3) * 512]
    assert host.move(6, 2, 0, 17, 4) == bytes([0, 0, 0, 2, 1, 3, 2])
    assert host.mem.read(0x8000, 2048) == DATA[(first + 16) * 512:(first + 20) * 512]
    assert host.move(6, 2, 0, 1, 36) == bytes([0, 0, 0, 3, 0, 1, 2])
    assert host.mem.read(0x8000, 36 * 512) == DATA[first * 512:(first + 36) * 512]


def test_writing_by_dma(host):
    """Sectors come from memory; a count that ends in a sector leaves zeros in the rest of it."""
    host.seek(1)
    host.mem.write(0x8000, b"q" * 1024)
    assert host.move(5, 1, 1, 5, 2) == bytes([4, 0, 0, 1, 1, 7, 2])
    at = ((1 * 2 + 1) * 18 + 4) * 512
    assert host.drives[0].image.data[at:at + 1024] == b"q" * 1024
    host.dma.program(0x8000, 100)
    host.command(MFM | 5, 0, 1, 0, 1, 2, 18, 0x1B, 0xFF)
    assert host.drives[0].image.data[36 * 512:37 * 512] == b"q" * 100 + bytes(412)


def test_the_end_of_the_track(host):
    """Without a terminal count the command ends abnormally at EOT; with a masked channel it is an overrun."""
    assert host.move(6, 0, 0, 17, 10, mt=0) == bytes([0x40, 0x80, 0, 1, 0, 1, 2])
    assert host.move(6, 0, 0, 17, 30) == bytes([0x40, 0x80, 0, 1, 0, 1, 2])
    host.dma.count, host.dma.terminal_count = 0, False
    assert host.command(MFM | 6, 0, 0, 0, 1, 2, 18, 0x1B, 0xFF)[:2] == b"\x40\x10"


def test_without_dma(host):
    """With ND every byte goes through the FIFO, an interrupt a sector, until EOT."""
    host.command(3, 0xDF, 0x03)
    for byte in (MFM | 6, 0, 0, 0, 17, 2, 18, 0x1B, 0xFF):
        host.write(5, byte)
    host.timers.run()
    assert host.line.level and host.read(4) == 0xF0
    data = bytes(host.read(5) for _ in range(1024))
    assert data == DATA[16 * 512:18 * 512] and host.results()[:3] == b"\x40\x80\0"
    for byte in (MFM | 5, 0, 0, 0, 18, 2, 18, 0x1B, 0xFF):
        host.write(5, byte)
    host.timers.run()
    assert host.read(4) == 0xB0
    for _ in range(512):
        host.write(5, 0x77)
    assert host.results()[:2] == b"\x40\x80" and host.drives[0].image.data[17 * 512:18 * 512] == b"\x77" * 512


@pytest.mark.parametrize(
    ("sectors", "rates", "spt", "heads"),
    [(320, (1, 2), 8, 1), (360, (1, 2), 9, 1), (640, (1, 2), 8, 2), (720, (1, 2), 9, 2), (1440, (1, 2), 9, 2), (2400, (0,), 15, 2),
     (2880, (0,), 18, 2), (3360, (0,), 21, 2), (5760, (3,), 36, 2), (2881, (0,), 20, 2)],
)  # fmt: skip
def test_formats_and_rates(sectors, rates, spt, heads):
    """A medium is readable at the rates of its format only, and its last sector is where its format says."""
    host = Host(MemImage(sectors, pattern(sectors))).reset()
    for rate in range(4):
        host.write(7, rate)
        result = host.command(MFM | 0x0A, 0)
        assert result == (bytes([0, 0, 0, 0, 0, 1, 2]) if rate in rates else bytes([0x40, 1, 0, 0, 0, 0, 0]))
    assert host.command(0x0A, 0)[:2] == b"\x40\x01"
    host.write(7, rates[0])
    cylinder, rest = divmod(sectors - 1, spt * heads)
    host.seek(cylinder)
    assert host.move(6, cylinder, rest // spt, rest % spt + 1, 1, eot=spt)[0] & 0xC0 == 0
    assert host.mem.read(0x8000, 512) == pattern(sectors)[-512:]


def test_errors(host):
    """Wrong cylinder, no such sector, wrong size, bad medium, write protection, no medium, no drive."""
    assert host.move(6, 1, 0, 1, 1)[:3] == b"\x40\x04\x10"
    assert host.move(6, 0, 0, 19, 1)[:3] == b"\x40\x04\0"
    assert host.command(MFM | 6, 0, 0, 0, 1, 3, 18, 0x1B, 0xFF)[:3] == b"\x40\x04\0"
    host.drives[0].image.bad = {0}
    assert host.move(6, 0, 0, 1, 1)[:3] == b"\x40\x20\x20"
    host.drives[0].image.readonly = True
    assert host.move(5, 0, 0, 1, 1)[:3] == b"\x40\x02\0" and host.command(4, 0) == b"\x78"
    host.drives[0].eject()
    assert host.move(6, 0, 0, 1, 1)[:3] == b"\x40\x01\0"
    assert host.command(MFM | 6, 1, 0, 0, 1, 2, 18, 0x1B, 0xFF)[0] == 0x41


def test_the_change_line(host):
    """Set until the head is stepped over a medium, set by a new medium, always set without one."""
    assert host.read(7) == 0x80
    host.seek(1)
    assert host.read(7) == 0
    host.drives[0].insert(MemImage(2880))
    assert host.read(7) == 0x80
    host.seek(2)
    assert host.read(7) == 0
    host.drives[0].eject()
    host.seek(3)
    assert host.read(7) == 0x80


def test_format_track(host):
    """Each sector named by the host is filled; one that the geometry does not have is refused."""
    host.seek(3)
    fields = b"".join(bytes([3, 1, n, 2]) for n in range(1, 19))
    host.mem.write(0x8000, fields)
    host.dma.program(0x8000, len(fields))
    assert host.command(MFM | 0x0D, 4, 2, 18, 0x54, 0xF6)[:3] == b"\x04\0\0"
    at = (3 * 2 + 1) * 18 * 512
    assert host.drives[0].image.data[at:at + 18 * 512] == b"\xf6" * 18 * 512
    host.mem.write(0x8000, bytes([3, 1, 77, 2]))
    host.dma.program(0x8000, 4)
    assert host.command(MFM | 0x0D, 4, 2, 1, 0x54, 0)[0] & 0xC0 == 0x40


def test_verify_and_scan(host):
    """VERIFY reads to EOT or its count; SCAN EQUAL finds the sector that is the host's, FFh matching all."""
    assert host.command(0xC0 | 0x16, 0, 0, 0, 1, 2, 18, 0x1B, 0xFF)[:2] == b"\0\0"
    assert host.command(MFM | 0x16, 0x80, 0, 0, 1, 2, 18, 0x1B, 3)[:6] == bytes([0, 0, 0, 0, 0, 4])
    host.mem.write(0x8000, b"".join(DATA[5 * 512:6 * 512] for _ in range(18)))
    result = host.move(0x11, 0, 0, 1, 18)
    assert result[:3] == bytes([0, 0, 8]) and result[5] == 6
    host.mem.write(0x8000, b"\x01" * 512 * 18)
    assert host.move(0x11, 0, 0, 1, 18, mt=0)[2] == 4


def test_implied_seek(host):
    """With EIS a read moves the head first."""
    host.command(0x13, 0, 0x40, 0)
    assert host.move(6, 40, 0, 1, 1)[0] == 0 and host.fdc.drives[0].cylinder == 40


def test_the_gate(host):
    """With DMAGATE# low no interrupt reaches the line until it is high again."""
    host.write(2, 0x14)
    host.command(0x07, 0)
    assert not host.line.level
    host.write(2, 0x1C)
    assert host.line.level


def test_state_in_the_middle_of_a_command():
    """A seek and a read that are under way end in the machine that the state went to."""
    one, other = Host(MemImage(2880, DATA)).reset(), Host(MemImage(2880, DATA))
    one.seek(1)
    for byte in (0x0F, 0, 7):
        one.write(5, byte)
    other.fdc.load(one.fdc.save())
    other.timers.run()
    assert other.command(8) == bytes([0x20, 7])
    one.command(3, 0xDF, 3)
    for byte in (MFM | 6, 1, 0, 0, 1, 2, 18, 0x1B, 0xFF):
        one.write(5, byte)
    assert other.fdc.load(one.fdc.save()) is None and other.fdc.save() == one.fdc.save()


def test_hostile_guest():
    """Random accesses, and random parameters for every command: no traceback, no loop."""
    host = Host(MemImage(2880, DATA), MemImage(720, readonly=True), None, MemImage(99)).reset()

    def interesting(rng):
        if rng.random() < 0.3:
            host.timers.run(rng.choice((1000, 10_000_000)))
            host.dma.program(rng.randrange(0, 64 * 4096), rng.choice((0, 1, 512, 5000, 65536)))
        command = rng.choice([*fdc.CONTROLS, *(code | 0x40 for code in fdc.TRANSFERS), *(code | 0xC0 for code in fdc.TRANSFERS)])
        return rng.choice((
            (0, 5, 1, command), (0, 5, 1, rng.choice((0, 0, 1, 2, 4, 18, 255))), (0, 2, 1, rng.choice((0x1C, 0x1C, 0x1C, 0x0C, 0))),
            (1, 0, 1, rng.randrange(4)),
        ))  # fmt: skip

    storm([host.fdc.region, host.fdc.region7], host.mem, 20000, interesting=interesting)
    host.fdc.load(host.fdc.save())
    host.reset()


def test_registers_as_qemu_has_them(tmp_path):
    """Reset, VERSION, CONFIGURE, LOCK, DUMPREG, seeks: the same answers byte for byte."""
    script = [
        ("reset",), (0x10,), (0x03, 0xDF, 0x02), (0x13, 0, 0x57, 0), (0x94,), (0x0E,), (0x07, 0), ("wait", 8), (0x0F, 0, 10), ("wait", 8),
        (0x04, 0), (0x0F, 0, 0), ("wait", 8), (0x04, 0), (0x1F,), (0x14,), (0x0E,), (0x08,),
    ]  # fmt: skip

    def play(read, write, wait):
        def results():
            got = []
            while read(4) & 0xC0 == 0xC0:
                got.append(read(5))
            return got

        seen = []
        for step in script:
            if step == ("reset",):
                write(2, 0)
                write(2, 0x1C)
                wait()
                for _ in range(4):
                    write(5, 8)
                    seen.append(results())
                continue
            if step[0] == "wait":
                wait()
                step = step[1:]
            for byte in step:
                write(5, byte)
            seen.append(results())
        return seen

    host = Host(MemImage(2880, DATA))
    image = tmp_path / "floppy"
    image.write_bytes(DATA)
    with qemu("-drive", f"if=floppy,format=raw,file={image}") as other:
        theirs = play(lambda n: other.read(0x3F0 + n, 1), lambda n, v: other.write(0x3F0 + n, 1, v), lambda: None)
    ours = play(host.read, host.write, host.timers.run)
    for answers in (ours, theirs):              # its DUMPREG does not tell what SPECIFY said, and has an EOT before there was any
        for answer in answers:
            answer[4:7] = [0, 0, 0] if len(answer) == 10 else answer[4:7]
    assert ours == theirs
