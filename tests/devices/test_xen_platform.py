"""The Xen platform device: what Linux, Xenlinux and Windows drivers do with it, and what a hostile guest may."""

from tests.devices.fuzz import storm
from tests.devices.storage import MemImage, guest_memory
from xenfast.devices.drive import Drive
from xenfast.devices.ide import Piix3Ide
from xenfast.devices.pci import PciBus, PciDevice
from xenfast.devices.xen_platform import XenPlatform
from xenfast.xen.hvm import bus
from xenfast.xen.hvm.irq import nowhere


class Pc:
    def __init__(self, **options):
        self.ports, self.mmio = bus.ports(), bus.memory()
        self.pci = PciBus(self.ports, self.mmio, lambda slot, pin: nowhere(), lambda address, data: None)
        self.images = [MemImage(64), MemImage(64), MemImage(64)]
        drives = [Drive(self.images[0]), Drive(self.images[1]), Drive(self.images[2], cdrom=True)]
        self.ide = Piix3Ide(guest_memory(16), [nowhere(), nowhere()], drives)
        self.nic = PciDevice("NIC", 0x8086, 0x100E, 0x020000)
        self.platform = XenPlatform([self.ide], [self.nic], **options)
        for slot, function, device in ((1, 1, self.ide), (2, 0, self.platform), (4, 0, self.nic)):
            self.pci.attach(device, slot, function)
        self.ports.add(0x10, self.platform.ports)

    def disks(self):
        return [unit is not None for channel in self.ide.channels for unit in channel.units]


def test_what_it_looks_like():
    """5853:0001, class FF80h, revision 1, interrupt pin A, 256 ports and 16 MiB of memory."""
    pc = Pc()
    assert pc.pci.config_read(2, 0, 0, 4) == 0x00015853 and pc.pci.config_read(2, 0, 8, 4) == 0xFF800001
    assert pc.pci.config_read(2, 0, 0x2C, 4) == 0x00015853 and pc.pci.config_read(2, 0, 0x3D, 1) == 1
    pc.pci.config_write(2, 0, 0x10, 4, 0xFFFFFFFF)
    pc.pci.config_write(2, 0, 0x14, 4, 0xFFFFFFFF)
    assert pc.pci.config_read(2, 0, 0x10, 4) == 0xFFFFFF01 and pc.pci.config_read(2, 0, 0x14, 4) == 0xFF000008


def test_linux_unplugs():
    """Magic, version, product, build, magic again, then the mask: disks and NICs go, the CD-ROM stays, data is flushed."""
    pc = Pc()
    assert pc.ports.read(0x10, 2) == 0x49D2 and pc.ports.read(0x12, 1) == 1
    pc.ports.write(0x12, 2, 0xFFFF)
    pc.ports.write(0x10, 4, 0x06010000)
    assert pc.ports.read(0x10, 2) == 0x49D2
    pc.ports.write(0x10, 2, 3)
    assert pc.disks() == [False, False, True, False] and pc.pci.config_read(4, 0, 0, 4) == 0xFFFFFFFF
    assert [image.flushes for image in pc.images] == [1, 1, 0]
    pc.ports.write(0x10, 2, 3)


def test_auxiliary_disks():
    """Bit 2 leaves the primary master."""
    pc = Pc()
    pc.ports.write(0x10, 2, 4)
    assert pc.disks() == [True, False, True, False] and pc.pci.config_read(4, 0, 0, 2) == 0x8086


def test_a_blacklisted_driver_finds_another_magic():
    """By product, or by product and build."""
    for blacklist, build, magic in (({3}, 1, 0xFFFF), ({(3, 7)}, 7, 0xFFFF), ({(3, 7)}, 8, 0x49D2)):
        pc = Pc(blacklist=blacklist)
        pc.ports.write(0x12, 2, 3)
        pc.ports.write(0x10, 4, build)
        assert pc.ports.read(0x10, 2) == magic


def test_older_protocols():
    """Xenlinux writes 1 to BAR 0 + 4; others name disks or NICs at BAR 0 + 8."""
    for port, value, disks, nic in ((4, 1, True, True), (8, 1, True, False), (8, 2, False, True)):
        pc = Pc()
        pc.pci.config_write(2, 0, 0x10, 4, 0xC100)
        pc.pci.config_write(2, 0, 4, 2, 1)
        pc.ports.write(0xC100 + port, 4, value)
        assert (not pc.disks()[0]) == disks and (pc.nic.bus is None) == nic


def test_drivers_may_log(caplog):
    """Lines written character by character reach the log, escaped; not more than a few hundred of them."""
    caplog.set_level("INFO", "xenfast")
    pc = Pc()
    for character in b"hello\x1b\n":
        pc.ports.write(0x12, 1, character)
    assert "hello\\x1b" in caplog.text
    for _ in range(300):
        pc.ports.write(0x12, 1, 65)
        pc.ports.write(0x12, 1, 10)
    assert len(caplog.records) <= 201


def test_the_rom_lock():
    """Bit 0 of the flags byte."""
    locks = []
    pc = Pc(rom_lock=locks.append)
    pc.ports.write(0x10, 1, 0xFF)
    assert locks == [True] and pc.ports.read(0x10, 1) == 1
    pc.ports.write(0x10, 1, 0)
    assert locks == [True, False]


def test_what_is_unplugged_is_unplugged_where_the_state_goes():
    """load() takes the same devices away."""
    one, other = Pc(), Pc()
    one.ports.write(0x12, 2, 5)
    one.ports.write(0x10, 2, 2)
    other.platform.load(one.platform.save())
    assert other.nic.bus is None and other.platform.product == 5 and other.disks()[0]


def test_hostile_guest():
    """Random accesses to all of its registers: no traceback."""
    pc = Pc()
    pc.platform.lines = 1 << 30
    storm([pc.platform.ports, *(bar.region for bar in pc.platform.bars)], pc.ide.channels[0].master.physmem, 5000)
