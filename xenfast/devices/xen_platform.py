"""The Xen platform device, PCI 5853:0001: how a guest with PV drivers learns that it runs on Xen, and gets rid of emulated devices.

Xen's docs/misc/hvm-emulated-unplug.pandoc (ports 10h to 1Fh) and what drivers in the field do: Linux (arch/x86/xen/platform-pci-unplug.c,
drivers/xen/platform-pci.c), older Xenlinux (the ports of BAR 0), Windows PV drivers, MiniOS.

The guest reads the magic number at 10h and the protocol version at 12h, registers its product and build number, and reads
the magic again: it is another one if that build is blacklisted.  Then it writes which devices are to go.  They
stay away until the domain is made anew.

BAR 1 is 16 MiB of guest-physical space for the guest to put shared info and grant table in (XENMEM_add_to_physmap); there is
nothing behind it.  ``intx`` is raised by the hypervisor for event channels (HVM_PARAM_CALLBACK_IRQ, PCI INTx).
"""

import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

from xenfast.devices.pci import PIN_A, PciDevice
from xenfast.xen.hvm.bus import Region

log = logging.getLogger("xenfast")

VENDOR, DEVICE, CLASS, REVISION = 0x5853, 0x0001, 0xFF8000, 1

# The fixed ports: offset from 10h, and size of the access
PORT, PORTS = 0x10, 0x10
MAGIC, BLACKLISTED_MAGIC = 0x49D2, 0xFFFF
PROTOCOL_VERSION = 1
UNPLUG_DISKS, UNPLUG_NICS, UNPLUG_AUX_DISKS, UNPLUG_NVME = 1, 2, 4, 8       # word written to 10h
PFFLAG_ROM_LOCK = 1                     # byte written to 10h: the option ROM area is read-only

# BAR 0
FLAGS, XENLINUX_UNPLUG, OLD_UNPLUG = 0, 4, 8
IO_SIZE, MMIO_SIZE = 0x100, 16 << 20

PRODUCTS = {1: "XenSource Windows", 2: "GPLPV Windows", 3: "Linux (old)", 4: "Xenserver Windows", 5: "Univention Windows",
            6: "Citrix FreeBSD", 0xFFFE: "experimental", 0xFFFF: "Linux"}
MAX_LINE, MAX_LINES = 256, 200          # what a guest may log


class Controller(Protocol):
    """A controller of disks: IDE, AHCI."""

    def unplug(self, *, disks: bool = True, first: bool = True, cdroms: bool = False) -> None: ...


class XenPlatform(PciDevice):
    """``ports`` is the region for the fixed ports; ``disks`` and ``nics`` are what goes.

    ``blacklist`` has product numbers, or (product, build) pairs.
    """

    def __init__(
        self, disks: Sequence[Controller] = (), nics: Sequence[PciDevice] = (), *, blacklist: Collection[int | tuple[int, int]] = (),
        rom_lock: Callable[[bool], None] | None = None, mmio: bool = True,
    ) -> None:  # fmt: skip
        super().__init__("Xen platform device", VENDOR, DEVICE, CLASS, revision=REVISION, pin=PIN_A, subsystem=(VENDOR, DEVICE))
        self.disks, self.nics, self.blacklist, self.rom_lock = disks, nics, blacklist, rom_lock
        self.on_unplug: Callable[[int], None] | None = None     # for whoever wants to know
        self.ports = Region(PORTS, self._read_port, self._write_port, width=4, name="Xen platform ports")
        self.bar_io(0, Region(IO_SIZE, self._read_io, self._write_io, width=4, name="Xen platform I/O"))
        if mmio:
            region = Region(MMIO_SIZE, lambda offset, size: 0, lambda offset, size, value: None, width=8, name="Xen platform memory")
            self.bar_memory(1, region, prefetch=True)
        self.gone = 0
        self.lines = 0
        self._forget()

    def _forget(self) -> None:
        self.flags = 0
        self.product: int | None = None
        self.build: int | None = None
        self.line = b""

    # --- the fixed ports -------------------------------------------------------------------------------------------------
    @property
    def blacklisted(self) -> bool:
        return self.product in self.blacklist or (self.product, self.build) in self.blacklist

    def _read_port(self, offset: int, size: int) -> int:
        match offset, size:
            case 0, 1:
                return self.flags
            case 0, 2:
                return BLACKLISTED_MAGIC if self.blacklisted else MAGIC
            case 2, 1:
                return PROTOCOL_VERSION
        return (1 << 8 * size) - 1

    def _write_port(self, offset: int, size: int, value: int) -> None:
        match offset, size:
            case 0, 1:
                self._set_flags(value)
            case 0, 2:
                self.unplug(value)
            case 0, 4:
                self.build = value
                name = PRODUCTS.get(self.product or 0, f"product {self.product}")
                log.info("PV drivers: %s, build %#x%s", name, value, ", which is blacklisted" if self.blacklisted else "")
            case 2, 1:
                self._log(value)
            case 2, 2:
                self.product, self.build = value, None

    # --- BAR 0 -------------------------------------------------------------------------------------------------------------
    def _read_io(self, offset: int, size: int) -> int:
        return self.flags if offset == FLAGS and size == 1 else (1 << 8 * size) - 1

    def _write_io(self, offset: int, size: int, value: int) -> None:
        if offset == FLAGS:
            self._set_flags(value)
        elif offset == XENLINUX_UNPLUG and value == 1:
            self.unplug(UNPLUG_DISKS | UNPLUG_NICS)
        elif offset == OLD_UNPLUG:
            if value in (1, 2):
                self.unplug(UNPLUG_DISKS if value == 1 else UNPLUG_NICS)
            else:
                self._log(value & 0xFF)

    def _set_flags(self, value: int) -> None:
        self.flags = value & PFFLAG_ROM_LOCK
        if self.rom_lock is not None:
            self.rom_lock(bool(self.flags))

    def _log(self, character: int) -> None:
        """A guest's driver writes messages here, a character at a time."""
        if character != 10 and len(self.line) < MAX_LINE:
            self.line += bytes([character])
            return
        if self.lines < MAX_LINES and self.line:
            self.lines += 1
            log.info("PV drivers: %s", self.line.decode("latin-1").encode("unicode_escape").decode())
        self.line = b""

    # --- unplug ------------------------------------------------------------------------------------------------------------
    def unplug(self, mask: int) -> None:
        """Take away what the bits name; what is gone already stays gone."""
        mask &= UNPLUG_DISKS | UNPLUG_NICS | UNPLUG_AUX_DISKS | UNPLUG_NVME
        if mask & (UNPLUG_DISKS | UNPLUG_AUX_DISKS):
            for controller in self.disks:
                controller.unplug(first=bool(mask & UNPLUG_DISKS))
        if mask & UNPLUG_NICS:
            for nic in self.nics:
                if nic.bus is not None:
                    nic.bus.detach(nic)
        if mask & ~self.gone:
            names = ("disks", "network cards", "disks but the first", "NVMe disks")
            log.info("unplugged: %s", ", ".join(name for bit, name in enumerate(names) if mask >> bit & 1))
        self.gone |= mask
        if self.on_unplug is not None:
            self.on_unplug(mask)

    # --- life --------------------------------------------------------------------------------------------------------------
    def reset(self) -> None:
        super().reset()
        self._forget()

    def save(self) -> dict[str, Any]:
        own = ("flags", "product", "build", "line", "gone")
        return super().save() | {name: getattr(self, name) for name in own}

    def load(self, state: dict[str, Any]) -> None:
        super().load(state)
        self.flags, self.product, self.build, self.line = state["flags"], state["product"], state["build"], state["line"]
        if state["gone"]:
            self.unplug(state["gone"])
