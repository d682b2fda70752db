"""The PIIX3's IDE function as a guest finds it: configuration space, the bus master's ports, both channels, unplug, hostility."""

from tests.devices.fuzz import storm
from tests.devices.storage import MemImage, guest_memory, pattern
from xenfast.devices.drive import Drive
from xenfast.devices.ide import Piix3Ide
from xenfast.devices.pci import PciBus
from xenfast.xen.hvm import bus
from xenfast.xen.hvm.irq import Line, nowhere

DATA = pattern(512)


class Pc:
    """Buses, the function at 00:01.1, the legacy blocks where machine.py puts them."""

    def __init__(self, *drives):
        self.mem = guest_memory()
        self.ports, self.mmio, self.irqs = bus.ports(), bus.memory(), []
        self.pci = PciBus(self.ports, self.mmio, lambda slot, pin: nowhere(), lambda address, data: None)
        self.ide = Piix3Ide(self.mem, [Line(lambda n, level: self.irqs.append((n, level)), n) for n in (14, 15)], drives)
        self.pci.attach(self.ide, 1, 1)
        for channel, command, control in zip(self.ide.channels, (0x1F0, 0x170), (0x3F6, 0x376), strict=True):
            self.ports.add(command, channel.command_block)
            self.ports.add(control, channel.control_block)

    def out(self, port, value, size=1):
        self.ports.write(port, size, value)

    def inp(self, port, size=1):
        return self.ports.read(port, size)


def test_configuration():
    """8086:7010, class 010180h, timing registers that keep what is written, 16 ports behind BAR 4."""
    pc = Pc(Drive(MemImage(512, DATA)))
    assert pc.pci.config_read(1, 1, 0, 4) == 0x70108086 and pc.pci.config_read(1, 1, 8, 4) >> 8 == 0x010180
    pc.pci.config_write(1, 1, 0x40, 4, 0xE3078000)
    assert pc.pci.config_read(1, 1, 0x40, 4) == 0xE3078000
    pc.pci.config_write(1, 1, 0x20, 4, 0xFFFFFFFF)
    assert pc.pci.config_read(1, 1, 0x20, 4) == 0xFFFFFFF1
    pc.pci.config_write(1, 1, 0x20, 4, 0xC000)
    pc.pci.config_write(1, 1, 4, 2, 5)
    pc.out(0xC004, 0x12345678, 4)
    assert pc.inp(0xC004, 4) == 0x12345678 and pc.inp(0xC00C, 4) == 0


def test_dma_by_ports_on_the_second_channel():
    """READ DMA of the secondary slave with every register at its legacy or bus master port; IRQ 15."""
    pc = Pc(None, None, None, Drive(MemImage(512, DATA)))
    pc.pci.config_write(1, 1, 0x20, 4, 0xC000)
    pc.pci.config_write(1, 1, 4, 2, 5)
    pc.mem.write(0x1000, (0x5000).to_bytes(4, "little") + (1024 | 1 << 31).to_bytes(4, "little"))
    pc.out(0xC00C, 0x1000, 4)
    for port, value in ((0x176, 0xF0), (0x172, 2), (0x173, 7), (0x174, 0), (0x175, 0), (0x177, 0xC8)):
        pc.out(port, value)
    pc.out(0xC008, 9)
    assert pc.irqs == [(15, True)] and pc.inp(0xC00A) == 4 and pc.inp(0x376) == 0x50 and pc.irqs == [(15, True)]
    assert pc.inp(0x177) == 0x50 and pc.irqs == [(15, True), (15, False)]
    assert pc.mem.read(0x5000, 1024) == DATA[7 * 512:9 * 512]


def test_string_io_by_the_bus():
    """REP INSW and REP OUTSW of the data port arrive as blocks."""
    pc = Pc(Drive(MemImage(512, DATA)))
    for port, value in ((0x1F6, 0xE0), (0x1F2, 2), (0x1F3, 1), (0x1F4, 0), (0x1F5, 0), (0x1F7, 0x20)):
        pc.out(port, value)
    assert pc.ports.read_block(0x1F0, 2, 512) == DATA[512:1536]
    pc.out(0x1F2, 1)
    pc.out(0x1F7, 0x30)
    pc.ports.write_block(0x1F0, 4, b"z" * 512)
    assert pc.ide.channels[0].units[0].device.drive.image.data[1024:1536] == b"z" * 512


def test_unplug():
    """Disks go, CD-ROM drives stay; a disk that has gone is flushed first and the channel floats."""
    disk = MemImage(512, DATA)
    pc = Pc(Drive(disk), Drive(MemImage(512)), None, Drive(MemImage(512), cdrom=True))
    pc.ide.unplug(first=False)
    assert pc.inp(0x1F7) == 0x50
    pc.ide.unplug()
    assert disk.flushes == 1 and pc.inp(0x1F7) == 0x7F
    pc.out(0x176, 0xB0)
    assert pc.inp(0x174) == 0x14


def test_state_goes_to_another_machine():
    """A machine loaded from another's state, drives unplugged there included, answers as that one."""
    def make():
        return Pc(Drive(MemImage(512, DATA)), Drive(MemImage(512, DATA)), Drive(MemImage(512, DATA), cdrom=True))

    one, other = make(), make()
    one.pci.config_write(1, 1, 0x20, 4, 0xC000)
    one.pci.config_write(1, 1, 4, 2, 5)
    one.ide.channels[0].unplug(1)
    one.out(0x1F6, 0xE0)
    one.out(0x1F2, 2)
    one.out(0x1F7, 0x20)
    one.ports.read_block(0x1F0, 2, 100)
    other.ide.load(one.ide.save())
    assert other.inp(0xC002) == one.inp(0xC002) and other.ide.channels[0].units[1] is None
    assert other.ports.read_block(0x1F0, 2, 412) == one.ports.read_block(0x1F0, 2, 412)
    assert other.ide.save() == one.ide.save()


def test_hostile_guest():
    """Random accesses to every port, and tables and commands that get far: no traceback, no long loop, the buses survive."""
    readonly, empty = Drive(MemImage(512, DATA, readonly=True)), Drive(None, cdrom=True)
    pc = Pc(Drive(MemImage(512, DATA)), Drive(MemImage(512, DATA), cdrom=True), readonly, empty)
    pc.ide.config_write(4, 2, 5)
    commands = [*pc.ide.channels[0].units[0].device.commands, *pc.ide.channels[0].units[1].device.commands]
    master = pc.ide.bars[0].region
    regions = [master, *(region for channel in pc.ide.channels for region in (channel.command_block, channel.control_block))]

    def interesting(rng):
        return rng.choice((
            (rng.choice((1, 3)), 7, 1, rng.choice(commands)),
            (rng.choice((1, 3)), 6, 1, rng.choice((0xE0, 0xF0, 0xA0, 0xB0))),
            (rng.choice((1, 3)), rng.randrange(1, 6), 1, rng.choice((0, 1, 2, 3))),
            (rng.choice((2, 4)), 0, 1, rng.choice((0, 0, 0, 2, 4))),
            (1, 0, 4, rng.choice((0x28, 0x43, 0xBE, 0x12, 0x10000028, 0x55))),
            (0, rng.choice((0, 8)), 1, rng.choice((0, 1, 9))),
            (0, rng.choice((4, 12)), 4, rng.randrange(0, 1 << 20) & ~3),
        ))  # fmt: skip

    storm(regions, pc.mem, 20000, interesting=interesting)
    pc.ide.load(pc.ide.save())
    pc.ide.reset()
    assert pc.inp(0x3F6) == 0x50
