"""The ACPI tables that are no byte code: each function gives one whole table, with its checksum.

Specified in ACPI 6.3, 5.2 (5.2.5 RSDP, 5.2.7 RSDT, 5.2.8 XSDT, 5.2.9 FADT, 5.2.10 FACS, 5.2.12 MADT, 5.2.16 SRAT, 5.2.17
SLIT), the HPET specification 1.0a (3.2.4) and Microsoft's "Windows ACPI emulated devices table".  An i440FX has no MCFG.
"""

from struct import pack

from xenfast.firmware.acpi.machine import (
    GPE0,
    GPE0_LENGTH,
    HPET,
    IO_APIC,
    IO_APIC_ID,
    LOCAL_APIC,
    PCI_IRQS,
    PM1A_CONTROL,
    PM1A_EVENT,
    PM_TIMER,
    RESET_PORT,
    RESET_VALUE,
    SCI,
    Machine,
    NumaNode,
)

OEM_ID, OEM_TABLE_ID, CREATOR = b"Xen", b"HVM", b"XFST"
HEADER = 36


def checksum(data: bytes | bytearray) -> int:
    """The byte that makes the sum of all zero."""
    return -sum(data) & 0xFF


def table(signature: bytes, revision: int, body: bytes) -> bytes:
    """A table of a header (5.2.6) and a body."""
    head = pack("<4sIBB6s8sI4sI", signature, HEADER + len(body), revision, 0, OEM_ID, OEM_TABLE_ID, 0, CREATOR, 0)
    return head[:9] + bytes([checksum(head + body)]) + head[10:] + body


def rsdp(rsdt_address: int, xsdt_address: int) -> bytes:
    first = pack("<8sB6sBI", b"RSD PTR ", 0, OEM_ID, 2, rsdt_address)
    first = first[:8] + bytes([checksum(first)]) + first[9:]
    rest = pack("<IQB3x", HEADER, xsdt_address, 0)
    return first + rest[:12] + bytes([checksum(first + rest)]) + rest[13:]


def rsdt(addresses: list[int]) -> bytes:
    return table(b"RSDT", 1, pack(f"<{len(addresses)}I", *addresses))


def xsdt(addresses: list[int]) -> bytes:
    return table(b"XSDT", 1, pack(f"<{len(addresses)}Q", *addresses))


# --- FADT --------------------------------------------------------------------------------------------------------------------

# IA-PC boot architecture flags (table 5-10)
LEGACY_DEVICES, HAS_8042, NO_VGA, NO_CMOS_RTC = 1 << 0, 1 << 1, 1 << 2, 1 << 5
# fixed feature flags (table 5-9)
WBINVD, PROC_C1, FIX_RTC, TMR_VAL_EXT, RESET_REG_SUP, PLATFORM_CLOCK, HW_REDUCED = (
    1 << 0, 1 << 2, 1 << 6, 1 << 8, 1 << 10, 1 << 15, 1 << 20,
)
PROFILE_UNSPECIFIED, PROFILE_DESKTOP = 0, 1
NO_C2, NO_C3 = 0x0FFF, 0x0FFF       # latencies that say a processor has no such state
CENTURY = 0x32                      # register of the CMOS


def address(space: int, bits: int, access: int, where: int) -> bytes:
    """A generic address structure (5.2.3.2)."""
    return pack("<BBBBQ", space, bits, 0, access, where)


NO_ADDRESS = bytes(12)


def fadt(machine: Machine, facs_address: int, dsdt_address: int) -> bytes:
    """Revision 4 for a PC, with the power and sleep buttons in PM1; revision 6, hardware-reduced, for PVH."""
    return _fadt_pc(machine, facs_address, dsdt_address) if machine.kind == "hvm" else _fadt_reduced(machine, dsdt_address)


def _boot_flags(machine: Machine) -> int:
    flags = LEGACY_DEVICES if machine.kind == "hvm" else 0
    return flags | machine.ps2 * HAS_8042 | (not machine.vga) * NO_VGA | (not machine.rtc) * NO_CMOS_RTC


def _fadt_pc(machine: Machine, facs_address: int, dsdt_address: int) -> bytes:
    flags = PROC_C1 | WBINVD | FIX_RTC | TMR_VAL_EXT | RESET_REG_SUP | PLATFORM_CLOCK
    parts = [
        pack("<IIBB", facs_address, dsdt_address, 0, PROFILE_DESKTOP),
        pack("<HIBBBB", SCI, 0, 0, 0, 0, 0),                                # no SMI command: the machine is always in ACPI mode
        pack("<8I", PM1A_EVENT, 0, PM1A_CONTROL, 0, 0, PM_TIMER, GPE0, 0),
        pack("<8B", 4, 2, 0, 4, GPE0_LENGTH, 0, 0, 0),                      # their lengths, GPE1_BASE, CST_CNT
        pack("<4H", NO_C2, NO_C3, 0, 0),
        pack("<5BH", 0, 0, 0, 0, CENTURY if machine.rtc else 0, _boot_flags(machine)),
        pack("<xI", flags),
        address(1, 8, 1, RESET_PORT), pack("<BHB", RESET_VALUE, 0, 0),
        pack("<QQ", facs_address, dsdt_address),
        address(1, 32, 2, PM1A_EVENT), NO_ADDRESS,
        address(1, 16, 2, PM1A_CONTROL), NO_ADDRESS, NO_ADDRESS,
        address(1, 32, 3, PM_TIMER),
        address(1, 8 * GPE0_LENGTH, 1, GPE0), NO_ADDRESS,
    ]
    return table(b"FACP", 4, b"".join(parts))


def _fadt_reduced(machine: Machine, dsdt_address: int) -> bytes:
    """Nothing of ACPI's hardware is there (4.1): a PVH guest stops by a hypercall."""
    parts = [
        pack("<IIBB", 0, dsdt_address, 0, PROFILE_UNSPECIFIED),
        bytes(109 - 46), pack("<H", _boot_flags(machine)),
        pack("<xI", WBINVD | PROC_C1 | HW_REDUCED),
        NO_ADDRESS, pack("<BHB", 0, 0, 0),
        pack("<QQ", 0, dsdt_address),
        8 * NO_ADDRESS,
        2 * NO_ADDRESS,                                                     # SLEEP_CONTROL_REG, SLEEP_STATUS_REG
        b"XenVMMXe",                                                        # hypervisor vendor identity
    ]
    return table(b"FACP", 6, b"".join(parts))


def facs() -> bytes:
    """64 bytes at a multiple of 64, without a checksum."""
    return pack("<4sIIIIIQB31x", b"FACS", 64, 0, 0, 0, 0, 0, 1)


# --- MADT --------------------------------------------------------------------------------------------------------------------

MADT_LAPICS = HEADER + 8            # offset of the first local APIC's entry, which the DSDT reads
PCAT_COMPAT = 1
LEVEL_LOW = 0xF                     # MPS INTI flags (table 5-24)
X2APIC_FROM = 255                   # IDs from here on need the longer entry


def madt(machine: Machine) -> bytes:
    """Processors (those not plugged in yet are disabled), the I/O APIC, overrides of ISA interrupts, NMI at LINT1."""
    parts = [pack("<II", LOCAL_APIC, PCAT_COMPAT if machine.kind == "hvm" else 0)]
    small = [n for n in range(machine.processors) if machine.apic_id(n) < X2APIC_FROM]
    large = [n for n in range(machine.processors) if machine.apic_id(n) >= X2APIC_FROM]
    parts += [pack("<BBBBI", 0, 8, n, machine.apic_id(n), n < machine.vcpus) for n in small]
    parts += [pack("<BBHIII", 9, 16, 0, machine.apic_id(n), n < machine.vcpus, n) for n in large]
    if machine.kind == "hvm":
        parts.append(pack("<BBBBII", 1, 12, IO_APIC_ID, 0, IO_APIC, 0))
        parts.append(pack("<BBBBIH", 2, 10, 0, 0, 2, 0))                    # the PIT is wired to pin 2
        parts += [pack("<BBBBIH", 2, 10, 0, irq, irq, LEVEL_LOW) for irq in sorted({*PCI_IRQS, SCI})]
        parts.append(pack("<BBBHB", 4, 6, 0xFF, 0, 1))
        if large:
            parts.append(pack("<BBHIB3x", 0xA, 12, 0, 0xFFFFFFFF, 1))
    return table(b"APIC", 2, b"".join(parts))


# --- the others --------------------------------------------------------------------------------------------------------------

HPET_ID = 0x8086A201                # vendor 8086h, legacy routing, 64 bits, 3 timers, revision 1
WAET_FLAGS = 0x3                    # RTC needs no acknowledge read, one read of the PM timer is enough


def hpet() -> bytes:
    return table(b"HPET", 1, pack("<I", HPET_ID) + address(0, 0, 0, HPET) + pack("<BHB", 0, 0, 0))


def waet() -> bytes:
    return table(b"WAET", 1, pack("<I", WAET_FLAGS))


def srat(machine: Machine) -> bytes:
    """Which node a processor and a range of memory belongs to (5.2.16)."""
    parts = [pack("<IQ", 1, 0)]
    for number, node in enumerate(machine.numa):
        for vcpu in node.vcpus:
            apic_id = machine.apic_id(vcpu)
            if apic_id < X2APIC_FROM:
                parts.append(pack("<BBBBIB3sI", 0, 16, number & 0xFF, apic_id, 1, 0, (number >> 8).to_bytes(3, "little"), 0))
            else:
                parts.append(pack("<BBHIIIII", 2, 24, 0, number, apic_id, 1, 0, 0))
        parts += [pack("<BBIHQQIIQ", 1, 40, number, 0, start, size, 0, 1, 0) for start, size in node.memory]
    return table(b"SRAT", 3, b"".join(parts))


def slit(nodes: tuple[NumaNode, ...]) -> bytes:
    return table(b"SLIT", 1, pack("<Q", len(nodes)) + b"".join(bytes(node.distances) for node in nodes))
