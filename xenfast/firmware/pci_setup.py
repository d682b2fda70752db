"""PCI at power-on: every function is found, its BARs get addresses, its interrupt pin a line, and it is switched on.

Follows what Xen's hvmloader does (tools/firmware/hvmloader/pci.c), with the numbers of PCI Local Bus Specification 3.0, 6.2.5:
BARs are placed largest first, memory from F0000000h on, ports from C000h on.  A hole that is too small grows downward by powers
of two to 2 GiB; what does not fit even then and has 64-bit BARs goes above 4 GiB.  Nothing here knows a device by its class in
Python: everything goes by ``config_read(slot, function, offset, size)`` and ``config_write``, as by ports.
"""

import logging
from dataclasses import dataclass, field
from typing import Any

from xenfast.errors import XenfastError
from xenfast.firmware import pirq
from xenfast.firmware.acpi.machine import PM1A_EVENT, SCI, pci_link

log = logging.getLogger("xenfast")

MEMORY_START, MEMORY_END = 0xF0000000, 0xFC000000
LOWEST_START = 0x80000000
PORT_START, PORT_END = 0xC000, 0x10000
HIGH_ALIGN = 1 << 30
FOUR_GIB = 1 << 32

ID, COMMAND, CLASS, HEADER_TYPE, BAR0, ROM = 0x00, 0x04, 0x0A, 0x0E, 0x10, 0x30
LINE, PIN = 0x3C, 0x3D
COMMAND_IO, COMMAND_MEMORY, COMMAND_MASTER = 1, 2, 4
IS_IO, IS_64, IS_PREFETCHABLE = 1, 4, 8
ROM_REGISTER = 6
CLASS_IDE, CLASS_VGA, CLASS_ISA_BRIDGE = 0x0101, 0x0300, 0x0601
PIIX4_PM = 0x71138086
PIRQ_ROUTES, IDE_TIMINGS, PM_BASE, PM_MISC = 0x60, 0x40, 0x40, 0x80


@dataclass
class Bar:
    function: "Function"
    number: int             # 6: the expansion ROM
    size: int
    flags: int              # of the register's low bits
    address: int = 0

    @property
    def register(self) -> int:
        return ROM if self.number == ROM_REGISTER else BAR0 + 4 * self.number

    @property
    def is_io(self) -> bool:
        return self.number != ROM_REGISTER and bool(self.flags & IS_IO)

    @property
    def is_wide(self) -> bool:
        return self.number != ROM_REGISTER and self.flags & (IS_IO | IS_64) == IS_64


@dataclass
class Function:
    slot: int
    function: int
    id: int                 # device ID in the upper half
    kind: int               # class and subclass
    bars: list[Bar] = field(default_factory=list)


@dataclass
class Placement:
    """What has been put where.  ``window_high`` is None when nothing is above 4 GiB."""

    functions: list[Function]
    window: tuple[int, int]
    window_high: tuple[int, int] | None
    irqs: list[int]         # of PIRQ A to D

    def text(self) -> str:
        lines = []
        for one in self.functions:
            vendor, device = one.id & 0xFFFF, one.id >> 16
            bars = ", ".join(f"BAR {bar.number} at {bar.address:#x} ({bar.size:#x} bytes)" for bar in one.bars)
            lines.append(f"pci {one.slot:02x}.{one.function} {vendor:04x}:{device:04x} {bars}".rstrip())
        return "\n".join(lines)


def find(pci: Any) -> list[Function]:
    """All functions and their BARs, sized by writing ones (6.2.5.1)."""
    found = []
    for slot in range(32):
        for number in range(8):
            identity = pci.config_read(slot, number, ID, 4)
            if identity in (0, 0xFFFFFFFF):
                if number == 0:
                    break
                continue
            one = Function(slot, number, identity, pci.config_read(slot, number, CLASS, 2))
            header = pci.config_read(slot, number, HEADER_TYPE, 1)
            pci.config_write(slot, number, COMMAND, 2, pci.config_read(slot, number, COMMAND, 2) & ~3)
            if header & 0x7F == 0:
                one.bars = _bars(pci, one)
            found.append(one)
            if number == 0 and not header & 0x80:
                break
    return found


def _bars(pci: Any, one: Function) -> list[Bar]:
    bars = []
    number = 0
    while number <= ROM_REGISTER:
        bar = Bar(one, number, 0, 0)
        mask, bar.flags = _ones(pci, one, bar.register)
        number += 1
        if bar.number == ROM_REGISTER:
            mask &= ~0x7FF
        elif bar.is_io:
            mask = mask & ~3 | 0xFFFF0000       # the upper half may be hard-wired to 0
        else:
            mask &= ~0xF
            if bar.is_wide:
                mask |= _ones(pci, one, BAR0 + 4 * number)[0] << 32
                number += 1
            elif mask:
                mask |= 0xFFFFFFFF << 32
        if bar.is_io:
            bar.size = -mask & 0xFFFFFFFF
        elif mask & 0xFFFFFFFF or (bar.is_wide and mask):
            bar.size = -(mask if bar.number != ROM_REGISTER else mask | 0xFFFFFFFF << 32) & (1 << 64) - 1
        if bar.size & bar.size - 1 == 0 and 0 < bar.size <= 1 << 40 and (not bar.is_io or bar.size <= 0x1000):
            bars.append(bar)
    return bars


def _ones(pci: Any, one: Function, register: int) -> tuple[int, int]:
    """What a register keeps of all ones, and its low bits as they were."""
    before = pci.config_read(one.slot, one.function, register, 4)
    pci.config_write(one.slot, one.function, register, 4, 0xFFFFFFFE if register == ROM else 0xFFFFFFFF)
    mask = pci.config_read(one.slot, one.function, register, 4)
    pci.config_write(one.slot, one.function, register, 4, before)
    return mask, before & 0xF


def hole(bars: list[Bar], start: int) -> int:
    """Where the hole below 4 GiB must begin for these BARs to fit: grown by powers of two, at most to 2 GiB."""
    need = sum(bar.size for bar in bars)
    while need > MEMORY_END - start and start > LOWEST_START:
        start = max(FOUR_GIB - 2 * (FOUR_GIB - start), LOWEST_START)
    return start


def place(pci: Any, *, hole_mib: int = 0, high_start: int = FOUR_GIB) -> Placement:
    """Give everything its place.  ``hole_mib``: of the hole below 4 GiB; ``high_start``: the end of RAM above it."""
    functions = find(pci)
    memory = [bar for one in functions for bar in one.bars if not bar.is_io]
    ports = [bar for one in functions for bar in one.bars if bar.is_io]
    start = FOUR_GIB - (hole_mib << 20) if hole_mib else MEMORY_START
    if not 256 << 20 <= start <= MEMORY_END - (16 << 20):
        raise XenfastError(f"mmio_hole cannot be {hole_mib} MiB: it is between 80 and 3840")
    start = hole(memory, start)
    low, high = _divided(memory, MEMORY_END - start)
    _give(low, start, MEMORY_END)
    _give(ports, PORT_START, PORT_END)
    window_high = None
    if high:
        first = -(-max(high_start, FOUR_GIB) // HIGH_ALIGN) * HIGH_ALIGN
        first = -(-first // high[0].size) * high[0].size
        window_high = first, _give(high, first, 1 << 46)
    irqs = pirq.links()
    for one in functions:
        _program(pci, one, irqs)
    placement = Placement(functions, (start, MEMORY_END), window_high, irqs)
    log.debug("%s", placement.text())
    return placement


def _divided(bars: list[Bar], room: int) -> tuple[list[Bar], list[Bar]]:
    """What stays below 4 GiB and what goes above, each largest first: 64-bit BARs go, the largest before the others."""
    low = sorted(bars, key=lambda bar: -bar.size)
    high: list[Bar] = []
    for bar in list(low):
        if sum(b.size for b in low) <= room:
            break
        if bar.is_wide:
            low.remove(bar)
            high.append(bar)
    return low, high


def _give(bars: list[Bar], start: int, end: int) -> int:
    """Addresses from ``start`` on; the end of the last.  What does not fit gets none, and a line in the log."""
    for bar in sorted(bars, key=lambda bar: -bar.size):
        at = -(-start // bar.size) * bar.size
        if at + bar.size > end:
            log.warning("pci %02x.%x: no room for BAR %d of %#x bytes", bar.function.slot, bar.function.function, bar.number, bar.size)
            continue
        bar.address, start = at, at + bar.size
    return start


def _program(pci: Any, one: Function, irqs: list[int]) -> None:
    def write(register: int, size: int, value: int) -> None:
        pci.config_write(one.slot, one.function, register, size, value)

    command = pci.config_read(one.slot, one.function, COMMAND, 2)
    for bar in one.bars:
        if bar.address:
            write(bar.register, 4, (bar.address & 0xFFFFFFFF) | (bar.flags if bar.number != ROM_REGISTER else 0))
            if bar.is_wide:
                write(bar.register + 4, 4, bar.address >> 32)
            if bar.number != ROM_REGISTER:
                command |= COMMAND_IO if bar.is_io else COMMAND_MEMORY
    if one.kind == CLASS_IDE:
        write(IDE_TIMINGS, 2, 0x8000)           # decode the legacy ports of both channels
        write(IDE_TIMINGS + 2, 2, 0x8000)
        command |= COMMAND_IO
    elif one.kind == CLASS_VGA:
        command |= COMMAND_IO | COMMAND_MEMORY  # its legacy ports and memory, by which firmware knows the primary one
    elif one.kind == CLASS_ISA_BRIDGE:
        for number, irq in enumerate(irqs):
            write(PIRQ_ROUTES + number, 1, irq)
    elif one.id == PIIX4_PM:
        write(PM_BASE, 4, PM1A_EVENT | 1)
        write(PM_MISC, 1, 1)                    # decode it
        command |= COMMAND_IO
    pin = pci.config_read(one.slot, one.function, PIN, 1)
    if one.id == PIIX4_PM:
        write(LINE, 1, SCI)
    elif 1 <= pin <= 4:
        write(LINE, 1, irqs[pci_link(one.slot, pin - 1)])
    write(COMMAND, 2, command | COMMAND_MASTER)
