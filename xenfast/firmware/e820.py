"""The memory map that int 15h/E820h, hvm_start_info and XENMEM_memory_map give: where RAM is, and what is not to be touched.

Specified in ACPI 6.3, chapter 15.  Ranges are as Xen's hvmloader gives them; they are sorted and do not overlap.
"""

from typing import NamedTuple

RAM, RESERVED, ACPI, NVS, UNUSABLE = 1, 2, 3, 4, 5
CONVENTIONAL_END, VGA, ISA_ROM, HIGH_MEMORY = 0x9FC00, 0xA0000, 0xE0000, 0x100000
RESERVED_MEMORY, FOUR_GIB = 0xFC000000, 1 << 32
PAGE = 4096
BIOS_ROM = 0xF0000


class Range(NamedTuple):
    start: int
    size: int
    type: int

    @property
    def end(self) -> int:
        return self.start + self.size


def hvm(low_end: int, high_end: int, *, tables_end: int = 0, conventional_end: int = CONVENTIONAL_END,
        rom_start: int = BIOS_ROM) -> list[Range]:
    """Map of a PC.  RAM goes to ``low_end`` and from 4 GiB to ``high_end``; ACPI tables, if any, from FC000000h to ``tables_end``.

    The tables are NVS: AML writes to the MADT when processors come and go, so that they are never free memory.
    """
    tables = -(-max(tables_end, RESERVED_MEMORY) // PAGE) * PAGE
    return _sorted([
        (0, conventional_end, RAM),
        (conventional_end, VGA, RESERVED),                  # the extended BIOS data area
        (rom_start, HIGH_MEMORY, RESERVED),
        (HIGH_MEMORY, low_end, RAM),
        (RESERVED_MEMORY, tables, NVS),
        (tables, FOUR_GIB, RESERVED),                       # special pages, I/O APIC, HPET, local APICs, BIOS
        (FOUR_GIB, high_end, RAM),
    ])


def pvh(low_end: int, high_end: int, *, tables_end: int = 0, reserved_start: int = 0xFEFF8000) -> list[Range]:
    """Map of a PVH guest: no BIOS and no VGA; the pages that the toolstack has put below 4 GiB, and ACPI tables."""
    tables = -(-max(tables_end, RESERVED_MEMORY) // PAGE) * PAGE
    return _sorted([
        (0, low_end, RAM),
        (RESERVED_MEMORY, tables, NVS),
        (reserved_start, 0xFF000000, RESERVED),
        (FOUR_GIB, high_end, RAM),
    ])


def _sorted(ends: list[tuple[int, int, int]]) -> list[Range]:
    return sorted(Range(start, end - start, kind) for start, end, kind in ends if end > start)


def packed(ranges: list[Range]) -> bytes:
    """As struct e820entry: 64-bit start, 64-bit size, 32-bit type."""
    return b"".join(one.start.to_bytes(8, "little") + one.size.to_bytes(8, "little") + one.type.to_bytes(4, "little") for one in ranges)


def text(ranges: list[Range]) -> str:
    """A line each, for logs."""
    names = {RAM: "RAM", RESERVED: "reserved", ACPI: "ACPI data", NVS: "ACPI NVS", UNUSABLE: "unusable"}
    return "\n".join(f"{one.start:016x}-{one.end - 1:016x} {names.get(one.type, one.type)}" for one in ranges)
