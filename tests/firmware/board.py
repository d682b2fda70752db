"""A small PC for tests of the firmware: a domain with RAM, a PCI bus with bridge and cards, CMOS, and a debug port."""

from types import SimpleNamespace

from xenfast.devices.fw_cfg import FwCfg
from xenfast.devices.pci import PIN_A, PciBus, PciDevice
from xenfast.devices.piix import Piix3, PirqRouter
from xenfast.xen.hvm.bus import Region
from xenfast.xen.hvm.irq import nowhere
from xenfast.xen.hypervisor import Hypervisor
from xenfast.xen.time import VirtualClock

CONFIG = {
    "firmware_override": "", "bios": "seabios", "bios_path_override": "", "boot": "dc", "acpi": 1, "apic": 1, "hpet": 1, "vga": "stdvga",
    "acpi_s3": 1, "acpi_s4": 1, "acpi_laptop_slate": 0, "acpi_firmware": "", "smbios_firmware": "", "smbios": {}, "ms_vm_genid": "",
    "vnuma": (),
    "mmio_hole": 0, "vcpus": 2, "maxvcpus": 4, "serial": ["pty"], "uuid": "00112233-4455-6677-8899-aabbccddeeff", "disks": [],
}


def config(**changes):
    return SimpleNamespace(**{**CONFIG, **changes})


class Cmos:
    def __init__(self):
        self.index, self.data = 0, bytearray(128)
        self.region = Region(2, self._read, self._write, width=1)

    def _read(self, offset, size):
        return self.data[self.index] if offset else 0xFF

    def _write(self, offset, size, value):
        if offset:
            self.data[self.index] = value
        else:
            self.index = value & 0x7F


class DebugPort:
    """Port 402h: SeaBIOS and OVMF write their log there."""

    def __init__(self):
        self.text = bytearray()
        self.region = Region(1, lambda offset, size: 0xE9, lambda offset, size, value: self.text.append(value & 0xFF))


class Pc:
    def __init__(self, mib=32, vcpus=2, memory_mib=None, extra=()):
        self.hv = Hypervisor(memory_mib or mib + 8, clock=VirtualClock())
        pages = mib << 8
        self.domain = self.hv.create_domain("guest", kind="hvm", vcpus=vcpus, max_pages=pages + 1024)
        self.hvm = self.domain.hvm
        self.hvm.populate_ram(pages)
        router = PirqRouter(lambda pin, level: None, lambda irq: nowhere())
        self.pci = PciBus(self.hvm.ports, self.hvm.mmio, router.interrupt, self.hvm.msi)
        self.hvm.ports.add(0xCF8, self.pci.address)
        self.hvm.ports.add(0xCFC, self.pci.data)
        self.pci.attach(PciDevice("i440FX", 0x8086, 0x1237, 0x060000), 0)
        self.pci.attach(Piix3(router), 1, 0)
        self.cmos, self.debug = Cmos(), DebugPort()
        self.hvm.ports.add(0x70, self.cmos.region)
        self.hvm.ports.add(0x402, self.debug.region)
        self.elcr = []
        self.hvm.ports.add(0x4D0, Region(2, lambda at, n: 0, lambda at, n, v: self.elcr.append((at, v)), width=1))
        self._fw_cfg = None
        self.fdc = SimpleNamespace(drives=[])
        for slot, size in extra:
            card = PciDevice("card", 0x1234, 0x5678, 0xFF0000, pin=PIN_A)
            card.bar_ram(0, size, lambda where: None)
            self.pci.attach(card, slot)

    def fw_cfg(self):
        if self._fw_cfg is None:
            self._fw_cfg = FwCfg(self.hvm.physmem)
            self._fw_cfg.attach(self.hvm.ports)
        return self._fw_cfg
