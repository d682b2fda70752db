"""All ACPI tables of a machine at one place in guest memory, from ``machine.Machine``; a pure function of it.

``build(machine, base)`` gives the bytes to write at ``base`` and the RSDP, which goes where the guest looks for it: a multiple of
16 from E0000h on for a PC (ACPI 6.3, 5.2.5.1), wherever hvm_start_info says for PVH.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

from xenfast.errors import XenfastError
from xenfast.firmware.acpi import dsdt, tables
from xenfast.firmware.acpi.machine import TABLES, Machine

ALIGN = 64      # the FACS needs it


@dataclass(frozen=True)
class Acpi:
    """``data`` belongs at ``base``; ``where`` has the address of each table by its signature (of SSDTs and extras the last)."""

    base: int
    data: bytes
    rsdp: bytes
    where: dict[str, int]

    @property
    def end(self) -> int:
        return self.base + len(self.data)


class _Layout:
    def __init__(self, base: int) -> None:
        self.base, self.data = base, bytearray()
        self.where: dict[str, int] = {}

    def add(self, content: bytes) -> int:
        self.data += bytes(-len(self.data) % ALIGN)
        address = self.base + len(self.data)
        self.data += content
        self.where[content[:4].decode("latin-1")] = address
        return address


@lru_cache(maxsize=64)
def build(machine: Machine, base: int = TABLES) -> Acpi:
    """The tables of a machine.  A PVH guest has neither I/O APIC nor ISA devices, whatever ``machine`` says of them."""
    if base % ALIGN:
        raise ValueError(f"ACPI tables at {base:#x}")
    if not 1 <= machine.vcpus <= machine.processors <= 255:
        raise XenfastError(f"ACPI tables are for 1 to 255 vcpus, not {machine.vcpus} of {machine.processors}")
    if machine.kind == "pvh":
        machine = replace(machine, rtc=False, ps2=False, vga=False, hpet=False)
    out = _Layout(base)
    facs = out.add(tables.facs()) if machine.kind == "hvm" else 0
    found = []
    checksum = lapics = 0
    if machine.apic:
        madt = out.add(tables.madt(machine))
        found.append(madt)
        # The DSDT reads 8-byte entries by number: longer ones, of APIC IDs from 255 on, it does not know.
        if machine.hot_plug and machine.apic_id(machine.processors - 1) < tables.X2APIC_FROM:
            checksum, lapics = madt + 9, madt + tables.MADT_LAPICS
    code = out.add(tables.table(b"DSDT", 2, dsdt.dsdt(machine, checksum, lapics)))
    found.insert(0, out.add(tables.fadt(machine, facs, code)))
    if machine.hpet:
        found.append(out.add(tables.hpet()))
    if machine.kind == "hvm":
        found.append(out.add(tables.waet()))
    if machine.laptop_slate:
        found.append(out.add(tables.table(b"SSDT", 2, dsdt.laptop_slate())))
    if machine.numa:
        found += [out.add(tables.srat(machine)), out.add(tables.slit(machine.numa))]
    found += [out.add(extra) for extra in machine.extra]
    rsdt, xsdt = out.add(tables.rsdt(found)), out.add(tables.xsdt(found))
    return Acpi(base, bytes(out.data), tables.rsdp(rsdt, xsdt), out.where)


def split_tables(blob: bytes) -> tuple[bytes, ...]:
    """The tables of a file for acpi_firmware=: each with its header, one behind the other, checksums made right."""
    found = []
    at = 0
    while at < len(blob):
        size = int.from_bytes(blob[at + 4:at + 8], "little")
        if not tables.HEADER <= size <= len(blob) - at:
            raise XenfastError(f"acpi_firmware: there is no ACPI table at offset {at}")
        one = bytearray(blob[at:at + size])
        one[9] = 0
        one[9] = tables.checksum(one)
        found.append(bytes(one))
        at += size
    return tuple(found)
