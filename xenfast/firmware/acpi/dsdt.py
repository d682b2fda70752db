r"""The DSDT: processors with hot plug, and for an HVM guest the PC of devices/machine.py as far as ACPI describes it.

Specified in ACPI 6.3 (5.2.11.1, chapters 6, 8, 9 for devices, buttons and processors) and in the PIIX3 data sheet for the
PIRQ router, whose four bytes at 60h of 00:01.0 are behind the link devices.  Names are those of Xen's DSDT where a guest's
configuration may refer to them (\_SB.PR00, \_SB.PCI0, LNKA to LNKD).  Left out: hot plug of PCI devices, C states.
"""

from xenfast.firmware.acpi import aml
from xenfast.firmware.acpi.aml import arg, local, name, path, resources
from xenfast.firmware.acpi.machine import (
    CPU_EVENT,
    CPU_MAP,
    CPU_MAP_LENGTH,
    GENERATION_ID,
    HPET,
    PCI_IRQS,
    PCI_SLOTS,
    Machine,
    pci_gsi,
    pci_link,
)

PRESENT = 0x0F                  # _STA: present, enabled, shown, functioning
ABSENT = 0
DEVICE_CHECK, EJECT_REQUEST = 1, 3
LAPIC_ENTRY = 8                 # bytes of a local APIC's entry in the MADT; bit 32 says enabled


def dsdt(machine: Machine, madt_checksum: int, madt_lapics: int) -> bytes:
    """The definition block without its header.  Addresses: the MADT's checksum byte and its first local APIC entry.

    Both are 0 where there is no MADT: then processors cannot be plugged in.
    """
    parts = [sleep_states(machine)] if machine.kind == "hvm" else []
    parts.append(processors(machine, madt_checksum, madt_lapics))
    if machine.kind == "hvm":
        parts += [interrupt_model(), aml.scope("\\_SB", pci_root(machine))]
        if madt_lapics:
            parts.append(aml.scope("\\_GPE", aml.method(f"_L{CPU_EVENT:02X}", 0, aml.call("\\_SB.PRSC"))))
    if machine.generation_id:
        parts.append(generation_id())
    return b"".join(parts)


def sleep_states(machine: Machine) -> bytes:
    r"""\_S5 and what else there is: SLP_TYP of the PIIX4, in PM1a_CNT (7.4.2)."""
    states = [("\\_S5", 0)]
    if machine.s3:
        states.append(("\\_S3", 1))
    if machine.s4:
        states.append(("\\_S4", 0))
    return b"".join(name(state, aml.package(kind, kind, 0, 0)) for state, kind in states)


def interrupt_model() -> bytes:
    r"""\_PIC: the system says 0 for PICs, 1 for APICs (5.8.1); _PRT asks PICD."""
    return name("\\PICD", 0) + aml.method("\\_PIC", 1, aml.store(arg(0), path("PICD")))


# --- processors (8.4) and their hot plug: a bit each at CPU_MAP, GPE 2 when one changed -----------------------------------


def processors(machine: Machine, madt_checksum: int, madt_lapics: int) -> bytes:
    count = machine.processors
    if not madt_lapics:
        bare = [aml.processor(f"PR{n:02X}", n, 0, 0, name("_HID", "ACPI0007"), name("_UID", n)) for n in range(count)]
        return aml.scope("\\_SB", *bare)
    each = b"".join(processor(n, madt_lapics + LAPIC_ENTRY * n) for n in range(count))
    if machine.kind != "hvm":
        return aml.scope("\\_SB", each)
    return aml.scope(
        "\\_SB",
        aml.op_region("MSUM", aml.SYSTEM_MEMORY, madt_checksum, 1),
        aml.field("MSUM", aml.BYTE_ACCESS, ("MSU", 8)),
        each,
        aml.op_region("PRST", aml.SYSTEM_IO, CPU_MAP, CPU_MAP_LENGTH),
        aml.field("PRST", aml.BYTE_ACCESS, ("PRS", 8 * CPU_MAP_LENGTH)),
        changed_processors(count),
    )


def processor(number: int, entry: int) -> bytes:
    """A processor whose _STA and _MAT are what its entry in the MADT says (8.4.1, 6.2.10)."""
    return aml.processor(
        f"PR{number:02X}", number, 0, 0,
        name("_HID", "ACPI0007"),
        name("_UID", number),
        aml.op_region("MATR", aml.SYSTEM_MEMORY, entry, LAPIC_ENTRY),
        aml.field("MATR", aml.DWORD_ACCESS, ("MAT", 64)),
        aml.field("MATR", aml.DWORD_ACCESS, (None, 32), ("FLG", 1)),
        aml.method("_MAT", 0, aml.return_(aml.to_buffer(path("MAT")))),
        aml.method("_STA", 0, aml.if_(path("FLG"), aml.return_(PRESENT)), aml.return_(ABSENT)),
        aml.method("_EJ0", 1),
    )


def changed_processors(count: int) -> bytes:
    """PRSC: for each processor, is its bit what its entry says?  Else correct the entry and its table's sum, and tell."""
    body = [aml.store(aml.to_buffer(path("PRS")), local(0))]
    for n in range(count):
        flag = path(f"^PR{n:02X}.FLG")
        plugged = path(f"^PR{n:02X}")
        if n % 8 == 0:
            body.append(aml.store(aml.deref_of(aml.index(local(0), n // 8)), local(1)))
        body += [
            aml.and_(local(1), 1, local(2)),
            aml.if_(
                aml.logical_not(aml.equal(local(2), flag)),
                aml.store(local(2), flag),
                aml.if_(local(2), aml.subtract(path("MSU"), 1, path("MSU")), aml.notify(plugged, DEVICE_CHECK)),
                aml.else_(aml.add(path("MSU"), 1, path("MSU")), aml.notify(plugged, EJECT_REQUEST)),
            ),
            aml.shift_right(local(1), 1, local(1)),
        ]
    return aml.method("PRSC", 0, *body, serialized=True)


# --- the root of PCI ---------------------------------------------------------------------------------------------------------


def pci_root(machine: Machine) -> bytes:
    links = [link_device(n) for n in range(4)]
    return aml.device(
        "PCI0",
        name("_HID", aml.eisa_id("PNP0A03")),
        name("_UID", 0),
        name("_BBN", 0),
        name("_CRS", root_windows(machine)),
        *([hpet()] if machine.hpet else []),
        isa_bridge(machine),
        *links,
        routing(),
    )


def root_windows(machine: Machine) -> bytes:
    """What the bridge passes on: bus numbers, ports, the VGA window, the PCI hole and the one above 4 GiB."""
    first, end = machine.pci_window
    windows = [
        aml.word_bus_number(0, 0xFF),
        aml.io(0xCF8, 8),
        aml.word_io(0, 0xCF7),
        aml.word_io(0xD00, 0xFFFF),
        aml.dword_memory(0xA0000, 0xBFFFF, aml.WRITE_COMBINING | aml.READ_WRITE),
        aml.dword_memory(first, end - 1),
    ]
    if machine.pci_window_high:
        first, end = machine.pci_window_high
        windows.append(aml.qword_memory(first, end - 1))
    return resources(*windows)


def routing() -> bytes:
    """_PRT (6.2.13): with APICs each pin has a GSI of its own, with PICs it ends at one of four links."""
    apics = [
        aml.package(slot << 16 | 0xFFFF, pin, 0, pci_gsi(slot, pin)) for slot in PCI_SLOTS for pin in range(4)
    ]
    pics = [
        aml.package(slot << 16 | 0xFFFF, pin, path(f"LNK{'ABCD'[pci_link(slot, pin)]}"), 0)
        for slot in PCI_SLOTS for pin in range(4)
    ]
    return (
        aml.method("_PRT", 0, aml.if_(path("PICD"), aml.return_(path("PRTA"))), aml.return_(path("PRTP")))
        + name("PRTP", aml.package(*pics))
        + name("PRTA", aml.package(*apics))
    )


def link_device(number: int) -> bytes:
    """A PCI interrupt link (PNP0C0F): one byte of the router; bit 7 cuts it off, bits 3-0 are the ISA interrupt."""
    register = path(f"PIR{'ABCD'[number]}")
    off = aml.and_(register, 0x80)
    mask = path("IRQM")
    return aml.device(
        f"LNK{'ABCD'[number]}",
        name("_HID", aml.eisa_id("PNP0C0F")),
        name("_UID", number + 1),
        aml.method("_STA", 0, aml.if_(off, aml.return_(0x09)), aml.return_(0x0B)),
        name("_PRS", resources(aml.irq_flags(*PCI_IRQS))),
        aml.method("_DIS", 0, aml.or_(register, 0x80, register)),
        name("NOW", resources(aml.irq_flags())),
        aml.method(
            "_CRS", 0,
            aml.create_word_field(path("NOW"), 1, "IRQM"),
            aml.store(0, mask),
            aml.if_(aml.logical_not(off), aml.shift_left(1, aml.and_(register, 0x0F), mask)),
            aml.return_(path("NOW")),
            serialized=True,
        ),
        aml.method(
            "_SRS", 1,
            aml.create_word_field(arg(0), 1, "IRQM"),
            aml.if_(mask, aml.subtract(aml.find_set_right_bit(mask), 1, register)),
            serialized=True,
        ),
    )


def hpet() -> bytes:
    return aml.device(
        "HPET",
        name("_HID", aml.eisa_id("PNP0103")),
        name("_UID", 0),
        name("_CRS", resources(aml.memory32_fixed(HPET, 0x400))),
    )


# --- the ISA bridge and what is behind it ----------------------------------------------------------------------------------

BOARD_PORTS = (     # (first, count) of the board: what is at them is no device of its own
    (0x10, 0x10), (0x22, 0x0C), (0x30, 0x10), (0x44, 0x1C), (0x62, 0x02), (0x65, 0x0B), (0x72, 0x0E), (0x80, 0x01),
    (0x84, 0x03), (0x88, 0x01), (0x8C, 0x03), (0x90, 0x02), (0x93, 0x0D), (0xA2, 0x1E), (0xE0, 0x10), (0x4D0, 0x02),
    (0x8A0, 0x04), (0xCC0, 0x10), (CPU_MAP, 0x20), (0xAFE0, 0x04), (0xB000, 0x40),
)
DMA_PORTS = ((0x00, 0x10), (0x81, 0x03), (0x87, 0x01), (0x89, 0x03), (0x8F, 0x01), (0xC0, 0x20), (0x480, 0x10))


def isa_bridge(machine: Machine) -> bytes:
    ios = aml.io
    devices: list[tuple[bool, str, str, int, list[bytes]]] = [
        # there?         name    id         uid  resources
        (True,           "SYSR", "PNP0C02", 1, [ios(first, count) for first, count in BOARD_PORTS]),
        (True,           "PIC",  "PNP0000", 0, [ios(0x20, 2), ios(0xA0, 2), aml.irq(2)]),
        (True,           "DMA0", "PNP0200", 0, [aml.dma(4), *(ios(first, count) for first, count in DMA_PORTS)]),
        (True,           "TMR",  "PNP0100", 0, [ios(0x40, 4), aml.irq(0)]),
        (machine.rtc,    "RTC",  "PNP0B00", 0, [ios(0x70, 2), aml.irq(8)]),
        (True,           "SPKR", "PNP0800", 0, [ios(0x61, 1)]),
        (True,           "FPU",  "PNP0C04", 0, [ios(0xF0, 0x10), aml.irq(13)]),
        (machine.ps2,    "PS2K", "PNP0303", 0, [ios(0x60, 1), ios(0x64, 1), aml.irq(1)]),
        (machine.ps2,    "PS2M", "PNP0F13", 0, [aml.irq(12)]),
        (machine.fdc,    "FDC0", "PNP0700", 0, [ios(0x3F0, 6), ios(0x3F7, 1), aml.irq(6), aml.dma(2)]),
        (machine.com[0], "UAR1", "PNP0501", 1, [ios(0x3F8, 8, alignment=8), aml.irq(4)]),
        (machine.com[1], "UAR2", "PNP0501", 2, [ios(0x2F8, 8, alignment=8), aml.irq(3)]),
        (machine.lpt,    "LTP1", "PNP0400", 1, [ios(0x378, 8, alignment=8), aml.irq(7)]),
    ]
    return aml.device(
        "ISA",
        name("_ADR", 0x00010000),
        aml.op_region("PIRQ", aml.PCI_CONFIG, 0x60, 4),
        aml.scope("\\", aml.field("\\_SB.PCI0.ISA.PIRQ", aml.BYTE_ACCESS, *((f"PIR{n}", 8) for n in "ABCD"))),
        *(
            aml.device(label, name("_HID", aml.eisa_id(eisa)), name("_UID", uid), name("_CRS", resources(*what)))
            for there, label, eisa, uid, what in devices if there
        ),
    )


# --- other devices -----------------------------------------------------------------------------------------------------------


def generation_id() -> bytes:
    """The virtual machine generation ID, after Microsoft's paper of that name: ADDR says where its 16 bytes are."""
    return aml.scope(
        "\\_SB",
        aml.device(
            "VGID",
            name("_HID", "XEN0000"),
            name("_CID", "VM_Gen_Counter"),
            name("_DDN", "VM_Gen_Counter"),
            aml.method("_STA", 0, aml.return_(PRESENT)),
            name("ADDR", aml.package(GENERATION_ID, 0)),
        ),
    )


def laptop_slate() -> bytes:
    """An SSDT for Windows 8 and later: the machine is no tablet (acpi_laptop_slate of xl.cfg)."""
    return aml.scope("\\_SB", aml.device("CONV", name("_HID", "ID9001"), name("_CID", "PNP0C60")))
