"""ELF images and the notes in them.

Specified in the System V ABI (ELF-64 object file format); the Xen notes in xen/include/public/elfnote.h.  Reads what
a loader needs: the header, program headers, and notes (from PT_NOTE, or from SHT_NOTE sections where a linker made no
such segment).  32-bit images are read as well, so that a 32-bit kernel gets a proper answer.  Symbols are read for
profiles only; relocations and dynamic linking are left out: kernels have none.

Every offset here comes from a file that may be truncated or hostile, so all reads go through ``_slice`` and
``_unpack``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from xenfast.abi import elfnote
from xenfast.errors import XenfastError

MAGIC = b"\x7fELF"
ELFCLASS32, ELFCLASS64 = 1, 2
ELFDATA2LSB = 1
PT_LOAD, PT_NOTE = 1, 4
SHT_SYMTAB, SHT_NOTE = 2, 7
STT_FUNC = 2
SYMBOL = struct.Struct("<IBBHQQ")      # st_name, st_info, st_other, st_shndx, st_value, st_size
EM_386, EM_X86_64 = 3, 62
MACHINE_NAMES = {
    2: "SPARC",
    8: "MIPS",
    20: "PowerPC",
    21: "PowerPC64",
    22: "S390",
    40: "Arm",
    50: "Itanium",
    183: "AArch64",
    243: "RISC-V",
    258: "LoongArch",
}

# by ELF class: (header, program header, section header); fields of each named below in the order of the 64-bit struct
HEADER = {
    ELFCLASS32: struct.Struct("<16xHHIIIIIHHHHHH"),
    ELFCLASS64: struct.Struct("<16xHHIQQQIHHHHHH"),
}
PROGRAM_HEADER = {ELFCLASS32: struct.Struct("<IIIIIIII"), ELFCLASS64: struct.Struct("<IIQQQQQQ")}
SECTION_HEADER = {ELFCLASS32: struct.Struct("<IIIIIIIIII"), ELFCLASS64: struct.Struct("<IIQQQQIIQQ")}


@dataclass(frozen=True)
class Segment:
    """A program header with what the loader needs of it."""

    type: int
    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int


@dataclass(frozen=True)
class Note:
    owner: bytes
    type: int
    data: bytes


@dataclass
class Elf:
    """A parsed image.  ``xen_notes`` maps XEN_ELFNOTE_* to an int, or to a str for the string notes."""

    data: memoryview
    elf_class: int
    machine: int
    entry: int
    segments: list[Segment] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    xen_notes: dict[int, int | str] = field(default_factory=dict)

    @property
    def bits(self) -> int:
        return 64 if self.elf_class == ELFCLASS64 else 32

    def load_segments(self) -> list[Segment]:
        return [segment for segment in self.segments if segment.type == PT_LOAD and segment.memsz]

    def contents(self, segment: Segment) -> memoryview:
        """The bytes of a segment that are in the file."""
        return _slice(self.data, segment.offset, segment.filesz, "a segment")


def parse(image: bytes | bytearray | memoryview) -> Elf:
    """Read an ELF image; raises XenfastError when it is not one for x86."""
    data = memoryview(image).cast("B")
    if bytes(data[:4]) != MAGIC:
        raise XenfastError("the kernel is not an ELF image")
    if len(data) < 52:
        raise XenfastError("the kernel is truncated: its ELF header is cut short")
    elf_class, encoding = data[4], data[5]
    if elf_class not in HEADER or encoding != ELFDATA2LSB:
        raise XenfastError("the kernel is not a little-endian ELF image, so it is not for x86")
    (_, machine, _, entry, phoff, shoff, _, _, phentsize, phnum, shentsize, shnum, _) = _unpack(
        HEADER[elf_class], data, 0, "the ELF header"
    )
    if machine not in (EM_386, EM_X86_64):
        raise XenfastError(f"the kernel is for {MACHINE_NAMES.get(machine, f'ELF machine {machine}')}, not for x86")
    elf = Elf(data, elf_class, machine, entry)
    elf.segments = _program_headers(data, elf_class, phoff, phentsize, phnum)
    elf.notes = _all_notes(elf, shoff, shentsize, shnum)
    elf.xen_notes = _xen_notes(elf.notes)
    return elf


def functions(elf: Elf) -> list[tuple[int, str]]:
    """(address, name) of the functions in its symbol table; none when it has been stripped."""
    _, _, _, _, _, shoff, _, _, _, _, shentsize, shnum, _ = _unpack(HEADER[elf.elf_class], elf.data, 0, "its header")
    if elf.elf_class != ELFCLASS64 or not shoff or shentsize < SECTION_HEADER[ELFCLASS64].size:
        return []
    sections = [_unpack(SECTION_HEADER[ELFCLASS64], elf.data, shoff + i * shentsize, "its section headers") for i in range(shnum)]
    found = []
    for section in sections:
        if section[1] != SHT_SYMTAB or section[6] >= len(sections):
            continue
        names = bytes(_slice(elf.data, sections[section[6]][4], sections[section[6]][5], "its symbol names"))
        table = _slice(elf.data, section[4], section[5] - section[5] % SYMBOL.size, "its symbols")
        for name, info, _, _, value, _ in SYMBOL.iter_unpack(table):
            if info & 15 == STT_FUNC and name < len(names):
                found.append((value, names[name:names.index(b"\0", name)].decode("ascii", "replace")))
    return found


def _program_headers(data: memoryview, elf_class: int, offset: int, size: int, count: int) -> list[Segment]:
    layout = PROGRAM_HEADER[elf_class]
    if count and size < layout.size:
        raise XenfastError("the kernel's ELF program headers have an impossible size")
    segments = []
    for i in range(count):
        values = _unpack(layout, data, offset + i * size, "its program headers")
        if elf_class == ELFCLASS64:
            kind, _, off, vaddr, paddr, filesz, memsz, _ = values
        else:
            kind, off, vaddr, paddr, filesz, memsz, _, _ = values
        if kind == PT_LOAD:
            if filesz > memsz:
                raise XenfastError("the kernel has a segment that is larger in the file than in memory")
            _slice(data, off, filesz, "a segment")
        segments.append(Segment(kind, off, vaddr, paddr, filesz, memsz))
    return segments


def _all_notes(elf: Elf, shoff: int, shentsize: int, shnum: int) -> list[Note]:
    notes: list[Note] = []
    for segment in elf.segments:
        if segment.type == PT_NOTE:
            notes += _parse_notes(_slice(elf.data, segment.offset, segment.filesz, "its notes"))
    if notes or not shoff or shentsize < SECTION_HEADER[elf.elf_class].size:
        return notes
    for i in range(shnum):
        values = _unpack(SECTION_HEADER[elf.elf_class], elf.data, shoff + i * shentsize, "its section headers")
        if values[1] == SHT_NOTE:
            notes += _parse_notes(_slice(elf.data, values[4], values[5], "its notes"))
    return notes


def _parse_notes(data: memoryview) -> list[Note]:
    """Notes are (namesz, descsz, type), the name and the contents, each padded to 4 bytes."""
    notes, pos = [], 0
    while pos + 12 <= len(data):
        namesz, descsz, kind = struct.unpack_from("<III", data, pos)
        name = pos + 12
        desc = name + (namesz + 3 & ~3)
        end = desc + (descsz + 3 & ~3)
        if desc + descsz > len(data):
            break
        notes.append(Note(bytes(data[name : name + namesz]), kind, bytes(data[desc : desc + descsz])))
        pos = end
    return notes


def _xen_notes(notes: list[Note]) -> dict[int, int | str]:
    found: dict[int, int | str] = {}
    for note in notes:
        if note.owner != elfnote.ELFNOTE_NAME:
            continue
        if note.type in elfnote.STRING_NOTES:
            found[note.type] = note.data.split(b"\0")[0].decode("ascii", "replace")
        elif len(note.data) in (4, 8):
            found[note.type] = int.from_bytes(note.data, "little")
        elif note.type == elfnote.XEN_ELFNOTE_L1_MFN_VALID and len(note.data) == 16:
            found[note.type] = int.from_bytes(note.data[:8], "little")
    return found


def _slice(data: memoryview, offset: int, size: int, what: str) -> memoryview:
    if offset + size > len(data):
        raise XenfastError(
            f"the kernel is truncated: {what} would end at byte {offset + size}, the file ends at byte {len(data)}"
        )
    return data[offset : offset + size]


def _unpack(layout: struct.Struct, data: memoryview, offset: int, what: str) -> tuple[int, ...]:
    return layout.unpack(_slice(data, offset, layout.size, what))
