"""The $PIR table: which PIRQ of the router each interrupt pin of each slot is wired to, for systems without ACPI and MP table.

Specified in Microsoft's "PCI IRQ Routing Table Specification" 1.0.  Links are the registers of the PIIX3 (60h to 63h), the
wiring is Xen's (``acpi.machine.pci_link``).
"""

from struct import pack

from xenfast.firmware.acpi.machine import PCI_IRQS, PCI_SLOTS, pci_link

ROUTER_DEVFN = 1 << 3
ROUTER = 0x8086, 0x7000         # PIIX3
LINKS = 0x60


def build(slots: range = PCI_SLOTS) -> bytes:
    """The table, for a multiple of 16 from F0000h to FFFFFh."""
    irqs = sum(1 << irq for irq in PCI_IRQS)
    entries = b"".join(
        pack("<BB", 0, slot << 3) + b"".join(pack("<BH", LINKS + pci_link(slot, pin), irqs) for pin in range(4)) + bytes(2)
        for slot in slots
    )
    vendor, device = ROUTER
    head = pack("<4sHHBBHHHI11xB", b"$PIR", 0x0100, 32 + len(entries), 0, ROUTER_DEVFN, 0, vendor, device, 0, 0)
    return head[:31] + bytes([-sum(head + entries) & 0xFF]) + entries


def links(irqs: tuple[int, ...] = PCI_IRQS) -> list[int]:
    """What firmware writes into the four registers: one interrupt after the other, 5, 10, 11, 5."""
    return [irqs[n % len(irqs)] for n in range(4)]
