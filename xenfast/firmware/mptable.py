"""The MP configuration table, by which systems without ACPI find processors and the I/O APIC.

Specified in Intel's MultiProcessor Specification 1.4, chapter 4.  What is wired to which pin is as in the MADT and _PRT
(acpi/).  Left out: extended entries; IMCR, since interrupts are in virtual wire mode.
"""

from collections.abc import Iterable
from struct import pack

from xenfast.firmware.acpi.machine import IO_APIC, IO_APIC_ID, LOCAL_APIC, PCI_IRQS, PCI_SLOTS, SCI, pci_gsi

OEM, PRODUCT = b"XEN".ljust(8), b"HVM".ljust(12)
PROCESSOR, BUS, IOAPIC, INTERRUPT, LOCAL_INTERRUPT = range(5)       # entry types
LAPIC_VERSION, IOAPIC_VERSION = 0x14, 0x11
ENABLED, BOOT = 1, 2
PCI_BUS, ISA_BUS = 0, 1
INT, NMI, SMI, EXTINT = range(4)
CONFORMS, LOW_LEVEL = 0, 0xF
ALL = 0xFF
ISA_IRQS = [irq for irq in range(16) if irq not in (2, *PCI_IRQS)]


def build(address: int, apic_ids: list[int], signature: tuple[int, int] = (0, 0), slots: Iterable[int] = PCI_SLOTS) -> bytes:
    """Floating pointer and table, for a multiple of 16 from F0000h to FFFFFh; ``signature`` is EAX and EDX of CPUID 1.

    Processors whose APIC ID has more than 8 bits are left out.
    """
    table = _table([n for n in apic_ids if n < 255], signature, slots)
    pointer = pack("<4sIBBBBBBBB", b"_MP_", address + 16, 1, 4, 0, 0, 0, 0, 0, 0)
    return pointer[:10] + bytes([-sum(pointer) & 0xFF]) + pointer[11:] + table


def _table(apic_ids: list[int], signature: tuple[int, int], slots: Iterable[int]) -> bytes:
    entries = [pack("<BBBBII8x", PROCESSOR, apic_id, LAPIC_VERSION, ENABLED | BOOT * (n == 0), *signature)
               for n, apic_id in enumerate(apic_ids)]
    entries += [pack("<BB6s", BUS, PCI_BUS, b"PCI   "), pack("<BB6s", BUS, ISA_BUS, b"ISA   ")]
    entries.append(pack("<BBBBI", IOAPIC, IO_APIC_ID, IOAPIC_VERSION, ENABLED, IO_APIC))
    entries += [_pin(LOW_LEVEL, PCI_BUS, slot << 2 | pin, pci_gsi(slot, pin)) for slot in slots for pin in range(4)]
    entries += [_pin(LOW_LEVEL if irq == SCI else CONFORMS, ISA_BUS, irq, irq or 2) for irq in ISA_IRQS]
    entries.append(pack("<BBHBBBB", LOCAL_INTERRUPT, EXTINT, CONFORMS, ISA_BUS, 0, ALL, 0))
    entries.append(pack("<BBHBBBB", LOCAL_INTERRUPT, NMI, CONFORMS, ISA_BUS, 0, ALL, 1))
    body = b"".join(entries)
    head = pack("<4sHBB8s12sIHHIHBx", b"PCMP", 44 + len(body), 4, 0, OEM, PRODUCT, 0, 0, len(entries), LOCAL_APIC, 0, 0)
    return head[:7] + bytes([-sum(head + body) & 0xFF]) + head[8:] + body


def _pin(flags: int, bus: int, irq: int, pin: int) -> bytes:
    return pack("<BBHBBBB", INTERRUPT, INT, flags, bus, irq, IO_APIC_ID, pin)
