"""The PCI bus: configuration mechanism 1, what every function has, and how its interrupt pins are routed.

PCI Local Bus Specification 3.0: configuration space 6.1 to 6.7, mechanism 1 3.2.2.3.2, INTx 2.2.6; PCI Power Management 1.2.
There is one bus, number 0; there are no bridges, no cardbus, no parity errors and no built-in self test.  MSI and MSI-X are in
msi.py, the south bridge that owns the interrupt router is in piix.py.

A device subclasses ``PciDevice``: the constructor names it, puts its regions into BARs and adds capabilities; ``PciBus.attach()``
puts it at slot and function.  From then on the guest moves its regions about by programming the BARs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from xenfast.devices.msi import Msi, Msix
from xenfast.xen.hvm.bus import Bus, Region
from xenfast.xen.hvm.irq import Line

# Configuration space header, type 0 (6.1)
VENDOR_ID, DEVICE_ID, COMMAND, STATUS, REVISION_ID, CLASS_CODE = 0x00, 0x02, 0x04, 0x06, 0x08, 0x09
CACHE_LINE_SIZE, LATENCY_TIMER, HEADER_TYPE, BIST = 0x0C, 0x0D, 0x0E, 0x0F
BASE_ADDRESS, SUBSYSTEM_VENDOR_ID, SUBSYSTEM_ID, EXPANSION_ROM, CAPABILITIES = 0x10, 0x2C, 0x2E, 0x30, 0x34
INTERRUPT_LINE, INTERRUPT_PIN, MIN_GNT, MAX_LAT = 0x3C, 0x3D, 0x3E, 0x3F

COMMAND_IO, COMMAND_MEMORY, COMMAND_MASTER, COMMAND_INTX_DISABLE = 1, 2, 4, 1 << 10
COMMAND_WRITABLE = 0x0547               # I/O, memory, master, parity response, SERR#, INTx disable
STATUS_INTERRUPT, STATUS_CAPABILITIES, STATUS_DEVSEL_MEDIUM = 1 << 3, 1 << 4, 1 << 9
STATUS_W1C = 0xF900

BAR_IO, BAR_64, BAR_PREFETCH = 1, 4, 8
ROM_ENABLE, ROM_REGISTER = 1, 6         # the expansion ROM's base register counts as BAR 6 here
CAP_PM, CAP_MSI, CAP_VENDOR, CAP_MSIX = 0x01, 0x05, 0x09, 0x11
PIN_NONE, PIN_A, PIN_B, PIN_C, PIN_D = range(5)
SUBSYSTEM = (0x1AF4, 0x1100)            # what guests know as the subsystem of emulated devices


def gsi(slot: int, pin: int) -> int:
    """The I/O APIC's input that a pin (PIN_A .. PIN_D) of a slot has for itself, as in Xen: 16 to 47."""
    return (slot * 4 + slot // 8 + pin - PIN_A & 31) + 16


def link(slot: int, pin: int) -> int:
    """The PIRQ line, 0 (A) to 3 (D), that it has in the router, as in Xen."""
    return slot + pin - PIN_A & 3


class Bar:
    """A base address register and what is behind it: a Region, or RAM that somebody else maps (``moved``)."""

    def __init__(self, number: int, size: int, flags: int, region: Region | None, moved: Callable[[int | None], None] | None) -> None:
        if size & size - 1 or size < (4 if flags & BAR_IO else 16):
            raise ValueError(f"a BAR cannot be {size:#x} bytes")
        self.number, self.size, self.flags, self.region, self.moved = number, size, flags, region, moved
        self.register = EXPANSION_ROM if number == ROM_REGISTER else BASE_ADDRESS + 4 * number
        self.length = 8 if flags & BAR_64 and not flags & BAR_IO and number != ROM_REGISTER else 4
        self.address: int | None = None         # where it is decoded now

    def wanted(self, config: bytearray) -> int | None:
        """Where it would be with these registers; None: nowhere."""
        value = int.from_bytes(config[self.register:self.register + self.length], "little")
        command = int.from_bytes(config[COMMAND:COMMAND + 2], "little")
        if not command & (COMMAND_IO if self.flags & BAR_IO else COMMAND_MEMORY):
            return None
        if self.number == ROM_REGISTER and not value & ROM_ENABLE:
            return None
        address = value & -self.size
        limit = 1 << 16 if self.flags & BAR_IO else 1 << 32 if self.length == 4 else 1 << 48
        if address == 0 or address + self.size >= limit:        # not set yet, or being sized
            return None
        return address


class PciDevice:
    """A function: 256 bytes of configuration space (``config``; ``wmask`` and ``w1c`` say what a write does to each bit).


    ``intx`` is the interrupt line for the device to use; with MSI enabled a rising edge of it becomes a message.
    ``bus_master`` says whether DMA is allowed.  Devices override ``config_changed(offset, size)``, which follows a write,
    ``reset()``, ``save()``, ``load()``.
    """

    def __init__(self, name: str, vendor: int, device: int, class_code: int, *, revision: int = 0, pin: int = PIN_NONE,
                 subsystem: tuple[int, int] = SUBSYSTEM) -> None:
        self.name = name
        self.config, self.wmask, self.w1c = bytearray(256), bytearray(256), bytearray(256)
        self.bars: list[Bar] = []
        self.bus: PciBus | None = None
        self.slot = self.function = 0
        self.msi: Msi | None = None
        self.msix: Msix | None = None
        self.intx = Line(self._intx_changed)
        self._wire: Line | None = None          # from the pin to the router
        self._pm = 0
        self._last_capability, self._free = CAPABILITIES, 0x40
        self.put(VENDOR_ID, 2, vendor)
        self.put(DEVICE_ID, 2, device)
        self.put(COMMAND, 2, 0, COMMAND_WRITABLE)
        self.put(STATUS, 2, STATUS_DEVSEL_MEDIUM)
        self.w1c[STATUS:STATUS + 2] = STATUS_W1C.to_bytes(2, "little")
        self.put(REVISION_ID, 1, revision)
        self.put(CLASS_CODE, 3, class_code)
        self.put(CACHE_LINE_SIZE, 1, 0, 0xFF)
        self.put(LATENCY_TIMER, 1, 0, 0xFF)
        self.put(SUBSYSTEM_VENDOR_ID, 2, subsystem[0])
        self.put(SUBSYSTEM_ID, 2, subsystem[1])
        self.put(INTERRUPT_LINE, 1, 0, 0xFF)
        self.put(INTERRUPT_PIN, 1, pin)

    # --- for the constructors of devices ------------------------------------------------------------------------------------------
    def put(self, offset: int, size: int, value: int, writable: int = 0) -> None:
        """A register: its value after reset and the bits that the guest may change."""
        self.config[offset:offset + size] = value.to_bytes(size, "little")
        self.wmask[offset:offset + size] = writable.to_bytes(size, "little")

    def get(self, offset: int, size: int) -> int:
        return int.from_bytes(self.config[offset:offset + size], "little")

    def bar_io(self, number: int, region: Region) -> Bar:
        """A BAR of ports; its size is the region's."""
        return self._bar(Bar(number, region.size, BAR_IO, region, None))

    def bar_memory(self, number: int, region: Region, *, wide: bool = False, prefetch: bool = False) -> Bar:
        """A BAR of registers in memory; ``wide``: a 64-bit BAR, which takes two numbers."""
        return self._bar(Bar(number, region.size, (BAR_64 if wide else 0) | (BAR_PREFETCH if prefetch else 0), region, None))

    def bar_ram(self, number: int, size: int, moved: Callable[[int | None], None], *, wide: bool = False, prefetch: bool = True) -> Bar:
        """A BAR of memory that runs at full speed: ``moved(address or None)`` puts it into the guest's physmap, or takes it away."""
        return self._bar(Bar(number, size, (BAR_64 if wide else 0) | (BAR_PREFETCH if prefetch else 0), None, moved))

    def rom(self, data: bytes) -> Bar:
        """The expansion ROM (6.2.5.2)."""
        size = max(2048, 1 << (len(data) - 1).bit_length())
        data = data.ljust(size, b"\xff")
        region = Region(size, lambda at, n: int.from_bytes(data[at:at + n], "little"), lambda at, n, value: None, width=8,
                        name=f"{self.name} ROM")
        return self._bar(Bar(ROM_REGISTER, size, 0, region, None))

    def _bar(self, bar: Bar) -> Bar:
        mask = (1 << 8 * bar.length) - 1
        self.put(bar.register, bar.length, bar.flags, -bar.size & mask | (ROM_ENABLE if bar.number == ROM_REGISTER else 0))
        self.bars.append(bar)
        return bar

    def add_capability(self, number: int, body: bytes, writable: bytes = b"", at: int | None = None) -> int:
        """Append to the list (6.7); ``body`` follows the two bytes of ID and next pointer.  Returns its offset."""
        if at is None:
            at = self._free
        end = at + 2 + len(body)
        if at < 0x40 or at & 3 or end > 256:
            raise ValueError(f"there is no room for capability {number:#x} at {at:#x}")
        self._free = max(self._free, end + 3 & ~3)
        self.config[at:end] = bytes((number, 0)) + body
        self.wmask[at:end] = bytes(2) + writable.ljust(len(body), b"\0")
        self.config[self._last_capability if self._last_capability == CAPABILITIES else self._last_capability + 1] = at
        self._last_capability = at
        self.config[STATUS] |= STATUS_CAPABILITIES
        return at

    def add_power_management(self, at: int | None = None) -> int:
        """States D0 and D3hot; nothing is lost in D3 but the decoding of addresses, interrupts and DMA (PM 1.2, 3.2.4, 5.4)."""
        self._pm = self.add_capability(CAP_PM, bytes((0x03, 0, 0x08, 0, 0, 0)), bytes((0, 0, 0x03, 0, 0, 0)), at)
        return self._pm

    def add_msi(self, vectors: int = 1, at: int | None = None) -> Msi:
        self.msi = Msi(vectors, self.send_msi)
        self.msi.offset = self.add_capability(CAP_MSI, *self.msi.capability(), at)
        return self.msi

    def add_msix(self, bar: int, vectors: int, at: int | None = None) -> Msix:
        """Table and pending bits fill a BAR of their own."""
        self.msix = Msix(vectors, self.send_msi, self.name)
        self.bar_memory(bar, self.msix.region)
        self.msix.offset = self.add_capability(CAP_MSIX, *self.msix.capability(bar), at)
        return self.msix

    # --- for devices at run time ---------------------------------------------------------------------------------------------------
    @property
    def command(self) -> int:
        return self.get(COMMAND, 2)

    @property
    def powered(self) -> bool:
        return not self._pm or not self.config[self._pm + 4] & 3

    @property
    def bus_master(self) -> bool:
        """May it do DMA?"""
        return bool(self.config[COMMAND] & COMMAND_MASTER) and self.powered

    def send_msi(self, address: int, data: int) -> None:
        """A message is a write of the device's own: it needs bus mastering."""
        if self.bus is not None and self.bus_master:
            self.bus.msi(address, data)

    def notify(self, vector: int) -> bool:
        """Message number ``vector`` by MSI-X or MSI; False: neither is on, use ``intx``."""
        for kind in (self.msix, self.msi):
            if kind is not None and kind.enabled:
                kind.notify(vector)
                return True
        return False

    def _intx_changed(self, _number: int, level: bool) -> None:
        self.config[STATUS] = self.config[STATUS] & ~STATUS_INTERRUPT | (STATUS_INTERRUPT if level else 0)
        if level:
            self.notify(0)
        self._drive()

    def _drive(self) -> None:
        if self._wire is not None:
            quiet = self.command & COMMAND_INTX_DISABLE or not self.powered \
                or (self.msi and self.msi.enabled) or (self.msix and self.msix.enabled)
            self._wire.set(self.intx.level and not quiet)

    # --- configuration space ---------------------------------------------------------------------------------------------------------
    def config_read(self, offset: int, size: int) -> int:
        return int.from_bytes(self.config[offset:offset + size], "little")

    def config_write(self, offset: int, size: int, value: int) -> None:
        for at in range(offset, min(offset + size, 256)):
            new, mask = value & 0xFF, self.wmask[at]
            self.config[at] = (self.config[at] & ~mask | new & mask) & ~(new & self.w1c[at])
            value >>= 8
        self.config_changed(offset, size)

    def config_changed(self, offset: int, size: int) -> None:
        """After every write; devices with registers of their own there extend it."""
        for kind in (self.msi, self.msix):
            if kind is not None and kind.offset <= offset + size - 1 and offset < kind.offset + kind.length:
                kind.configure(self.config)
        self.update()

    def update(self) -> None:
        """Have buses and lines follow the registers."""
        for bar in self.bars:
            address = bar.wanted(self.config) if self.bus is not None and self.powered else None
            if address != bar.address:
                self._move(bar, address)
        self._drive()

    def _move(self, bar: Bar, address: int | None) -> None:
        assert self.bus is not None or bar.address is not None
        if bar.moved is not None:
            bar.address = address
            bar.moved(address)
            return
        assert bar.region is not None and self.bus is not None
        bus = self.bus.ports if bar.flags & BAR_IO else self.bus.mmio
        bus.remove(bar.region)
        bar.address = address
        if address is not None:
            bus.add(address, bar.region)

    # --- life -----------------------------------------------------------------------------------------------------------------------
    def plugged(self, bus: PciBus, slot: int, function: int, wire: Line | None) -> None:
        """By the bus: registers as they are now are what reset() goes back to."""
        self.bus, self.slot, self.function, self._wire = bus, slot, function, wire
        self._initial = bytes(self.config)

    def unplugged(self) -> None:
        self.config[COMMAND:COMMAND + 2] = bytes(2)
        self.update()
        self.intx.set(False)
        self.bus = self._wire = None

    def reset(self) -> None:
        """RST#: registers to their defaults, no addresses decoded, the line low."""
        self.config[:] = self._initial
        for kind in (self.msi, self.msix):
            if kind is not None:
                kind.reset()
        self.intx.set(False)
        self.update()

    def save(self) -> dict[str, Any]:
        state: dict[str, Any] = {"config": bytes(self.config), "intx": self.intx.level}
        if self.msix is not None:
            state["msix"] = self.msix.save()
        if self.msi is not None:
            state["msi"] = self.msi.save()
        return state

    def load(self, state: dict[str, Any]) -> None:
        """The state of another one of this kind.  The interrupt controllers are loaded after the devices."""
        self.config[:] = state["config"]
        for kind, name in ((self.msi, "msi"), (self.msix, "msix")):
            if kind is not None:
                kind.configure(self.config, quiet=True)
                kind.load(state[name])
        self.intx.level = bool(state["intx"])
        self.update()

    def __repr__(self) -> str:
        return f"<{self.name} {self.slot:02x}.{self.function}>"


class PciBus:
    """Bus 0 and the host bridge's two ports: ``address`` (CONFADD, CF8h) and ``data`` (CONFDATA, CFCh), regions for the port bus.

    ``interrupt(slot, pin)`` makes the wire from an interrupt pin; ``msi(address, data)`` is where messages go.
    """

    def __init__(self, ports: Bus, mmio: Bus, interrupt: Callable[[int, int], Line], msi: Callable[[int, int], None]) -> None:
        self.ports, self.mmio, self.interrupt, self.msi = ports, mmio, interrupt, msi
        self.functions: dict[int, PciDevice] = {}       # slot << 3 | function
        self.confadd = 0
        self.address = Region(4, self._read_address, self._write_address, name="PCI CONFADD")
        self.data = Region(4, self._read_data, self._write_data, name="PCI CONFDATA")

    def attach(self, device: PciDevice, slot: int, function: int = 0) -> PciDevice:
        key = slot << 3 | function
        if not (0 <= slot < 32 and 0 <= function < 8) or key in self.functions:
            raise ValueError(f"there is no place for {device.name} at {slot:02x}.{function}")
        self.functions[key] = device
        pin = device.config[INTERRUPT_PIN]
        device.plugged(self, slot, function, self.interrupt(slot, pin) if pin else None)
        self._multifunction(slot)
        return device

    def detach(self, device: PciDevice) -> None:
        """It vanishes, as on unplug; harmless when it is not there."""
        key = device.slot << 3 | device.function
        if self.functions.get(key) is device:
            del self.functions[key]
            device.unplugged()

    def _multifunction(self, slot: int) -> None:
        first = self.functions.get(slot << 3)
        if first is not None and any(slot << 3 | n in self.functions for n in range(1, 8)):
            first.config[HEADER_TYPE] |= 0x80
            first._initial = bytes(first.config)

    def _read_address(self, offset: int, size: int) -> int:
        return self.confadd if size == 4 else (1 << 8 * size) - 1       # only dwords are CONFADD

    def _write_address(self, offset: int, size: int, value: int) -> None:
        if size == 4:
            self.confadd = value & 0x80FFFFFC

    def _target(self) -> PciDevice | None:
        if not self.confadd & 1 << 31 or self.confadd >> 16 & 0xFF:     # bus 0 is all there is
            return None
        return self.functions.get(self.confadd >> 8 & 0xFF)

    def _read_data(self, offset: int, size: int) -> int:
        device = self._target()
        return (1 << 8 * size) - 1 if device is None else device.config_read((self.confadd & 0xFC) + offset, size)

    def _write_data(self, offset: int, size: int, value: int) -> None:
        device = self._target()
        if device is not None:
            device.config_write((self.confadd & 0xFC) + offset, size, value)

    def config_read(self, slot: int, function: int, offset: int, size: int) -> int:
        """For firmware that need not go by ports."""
        device = self.functions.get(slot << 3 | function)
        return (1 << 8 * size) - 1 if device is None else device.config_read(offset, size)

    def config_write(self, slot: int, function: int, offset: int, size: int, value: int) -> None:
        device = self.functions.get(slot << 3 | function)
        if device is not None:
            device.config_write(offset, size, value)

    def reset(self) -> None:
        self.confadd = 0
        for device in list(self.functions.values()):
            device.reset()

    def save(self) -> dict[str, Any]:
        """Of the bus; the devices are saved by whoever has them."""
        return {"confadd": self.confadd}

    def load(self, state: dict[str, Any]) -> None:
        self.confadd = state["confadd"]
