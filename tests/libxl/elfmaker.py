"""Make small ELF images with Xen notes, for tests."""

import struct

from xenfast.abi import elfnote


def note(kind: int, value: int | str) -> bytes:
    desc = value.encode() + b"\0" if isinstance(value, str) else value.to_bytes(8, "little")
    return struct.pack("<III", 4, len(desc), kind) + elfnote.ELFNOTE_NAME + desc + bytes(-len(desc) % 4)


def make(
    notes: dict[int, int | str],
    code: bytes = b"\xf4" * 64,
    *,
    vaddr: int = 0xFFFFFFFF80100000,
    paddr: int = 0x100000,
    memsz: int = 0,
    machine: int = 62,
    bits: int = 64,
) -> bytes:
    """An image of one PT_LOAD and one PT_NOTE."""
    blob = b"".join(note(*item) for item in notes.items())
    if bits == 64:
        size, start = 64 + 2 * 56, 64 + 2 * 56
        ident = b"\x7fELF\x02\x01\x01" + bytes(9)
        header = ident + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, vaddr, 64, 0, 0, 64, 56, 2, 0, 0, 0)
        load = struct.pack("<IIQQQQQQ", 1, 7, start, vaddr, paddr, len(code), max(memsz, len(code)), 4096)
        notes_header = struct.pack("<IIQQQQQQ", 4, 4, start + len(code), 0, 0, len(blob), len(blob), 4)
    else:
        size = start = 52 + 2 * 32
        ident = b"\x7fELF\x01\x01\x01" + bytes(9)
        vaddr &= 0xFFFFFFFF
        header = ident + struct.pack("<HHIIIIIHHHHHH", 2, machine, 1, vaddr, 52, 0, 0, 52, 32, 2, 0, 0, 0)
        load = struct.pack("<IIIIIIII", 1, start, vaddr, paddr, len(code), max(memsz, len(code)), 7, 4096)
        notes_header = struct.pack("<IIIIIIII", 4, start + len(code), 0, 0, len(blob), len(blob), 4, 4)
    image = header + load + notes_header
    assert len(image) == size
    return image + code + blob


PV_NOTES: dict[int, int | str] = {
    elfnote.XEN_ELFNOTE_GUEST_OS: "test",
    elfnote.XEN_ELFNOTE_XEN_VERSION: "xen-3.0",
    elfnote.XEN_ELFNOTE_VIRT_BASE: 0xFFFFFFFF80000000,
    elfnote.XEN_ELFNOTE_ENTRY: 0xFFFFFFFF80100000,
}
