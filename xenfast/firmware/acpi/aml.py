"""A writer of AML, the byte code of ACPI's name space: every function gives the bytes of one term, made of the bytes of others.

Specified in ACPI 6.3, chapters 20 (AML: grammar and opcodes) and 6.4 (resource descriptors).  Terms are ``bytes``; where a term
is expected an ``int`` is written as an integer and a ``str`` as a string, so names in expressions are ``path("PICD")``.
Left out: what no table here uses (references, events, BankField, IndexField, conversions but ToBuffer).
"""

from collections.abc import Iterable
from struct import pack

Term = bytes | int | str

# --- names (20.2.2) and lengths (20.2.4) -----------------------------------------------------------------------------------


def segment(name: str) -> bytes:
    """A name of up to four characters, filled up with underscores."""
    if not 1 <= len(name) <= 4 or name[0].isdigit() or not all(c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789" for c in name):
        raise ValueError(f"no ACPI name: {name!r}")
    return name.ljust(4, "_").encode()


def path(name: str) -> bytes:
    r"""A name string: ``PICD``, ``\_SB.PCI0``, ``^^HPET``."""
    rest = name.lstrip("\\^")
    prefix = name[:len(name) - len(rest)].encode()
    if not rest:
        return prefix + b"\x00"
    segments = [segment(part) for part in rest.split(".")]
    if len(segments) == 1:
        return prefix + segments[0]
    if len(segments) == 2:
        return prefix + b"\x2e" + b"".join(segments)
    return prefix + b"\x2f" + bytes([len(segments)]) + b"".join(segments)


def with_length(body: bytes) -> bytes:
    """PkgLength and what it counts: itself and the body."""
    size = len(body)
    if size + 1 < 1 << 6:
        return bytes([size + 1]) + body
    for more in (1, 2, 3):
        total = size + 1 + more
        if total < 1 << 4 + 8 * more:
            return bytes([more << 6 | total & 15]) + (total >> 4).to_bytes(more, "little") + body
    raise ValueError("more than PkgLength can say")


def package_length(bits: int) -> bytes:
    """PkgLength as a count of its own, of the bits of a field."""
    if bits < 1 << 6:
        return bytes([bits])
    more = 1 if bits < 1 << 12 else 2
    return bytes([more << 6 | bits & 15]) + (bits >> 4).to_bytes(more, "little")


# --- data (20.2.3) -----------------------------------------------------------------------------------------------------------


def integer(value: int) -> bytes:
    """The shortest form: ZeroOp, OneOp, OnesOp, or a prefix and 1, 2, 4 or 8 bytes."""
    if value in (0, 1):
        return bytes([value])
    if value == (1 << 64) - 1:
        return b"\xff"
    for prefix, size in ((0x0A, 1), (0x0B, 2), (0x0C, 4), (0x0E, 8)):
        if 0 <= value < 1 << 8 * size:
            return bytes([prefix]) + value.to_bytes(size, "little")
    raise ValueError(f"no 64-bit integer: {value}")


def term(value: Term) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, int):
        return integer(value)
    return b"\x0d" + value.encode("ascii") + b"\x00"


def terms(values: Iterable[Term]) -> bytes:
    return b"".join(map(term, values))


def buffer(data: bytes) -> bytes:
    return b"\x11" + with_length(integer(len(data)) + data)


def package(*elements: Term) -> bytes:
    return b"\x12" + with_length(bytes([len(elements)]) + terms(elements))


def eisa_id(text: str) -> bytes:
    """EISA's compressed id as an integer: three letters of 5 bits and four hex digits, bytes of it swapped (19.3.4)."""
    a, b, c = (ord(letter) - 0x40 for letter in text[:3])
    return b"\x0c" + pack(">HH", a << 10 | b << 5 | c, int(text[3:], 16))


# --- named objects (20.2.5.1, 20.2.5.2) ------------------------------------------------------------------------------------


def name(where: str, value: Term) -> bytes:
    return b"\x08" + path(where) + term(value)


def scope(where: str, *body: bytes) -> bytes:
    return b"\x10" + with_length(path(where) + b"".join(body))


def device(where: str, *body: bytes) -> bytes:
    return b"\x5b\x82" + with_length(path(where) + b"".join(body))


def processor(where: str, number: int, block: int, block_length: int, *body: bytes) -> bytes:
    return b"\x5b\x83" + with_length(path(where) + pack("<BIB", number, block, block_length) + b"".join(body))


def method(where: str, arguments: int, *body: bytes, serialized: bool = False) -> bytes:
    return b"\x14" + with_length(path(where) + bytes([arguments | serialized << 3]) + b"".join(body))


SYSTEM_MEMORY, SYSTEM_IO, PCI_CONFIG = 0, 1, 2
BYTE_ACCESS, WORD_ACCESS, DWORD_ACCESS, QWORD_ACCESS = 1, 2, 3, 4


def op_region(where: str, space: int, offset: Term, length: Term) -> bytes:
    return b"\x5b\x80" + path(where) + bytes([space]) + term(offset) + term(length)


def field(region: str, access: int, *fields: tuple[str | None, int]) -> bytes:
    """(name, bits) from the region's first bit on; None leaves bits out.  No lock, other bits are preserved."""
    body = b"".join((b"\x00" if label is None else segment(label)) + package_length(bits) for label, bits in fields)
    return b"\x5b\x81" + with_length(path(region) + bytes([access]) + body)


# --- statements and expressions (20.2.5.3, 20.2.5.4) ----------------------------------------------------------------------


def local(n: int) -> bytes:
    return bytes([0x60 + n])


def arg(n: int) -> bytes:
    return bytes([0x68 + n])


NOWHERE = b"\x00"       # the target of an expression whose value alone matters


def store(value: Term, target: bytes) -> bytes:
    return b"\x70" + term(value) + target


def add(a: Term, b: Term, target: bytes = NOWHERE) -> bytes:
    return b"\x72" + term(a) + term(b) + target


def subtract(a: Term, b: Term, target: bytes = NOWHERE) -> bytes:
    return b"\x74" + term(a) + term(b) + target


def shift_left(a: Term, count: Term, target: bytes = NOWHERE) -> bytes:
    return b"\x79" + term(a) + term(count) + target


def shift_right(a: Term, count: Term, target: bytes = NOWHERE) -> bytes:
    return b"\x7a" + term(a) + term(count) + target


def and_(a: Term, b: Term, target: bytes = NOWHERE) -> bytes:
    return b"\x7b" + term(a) + term(b) + target


def or_(a: Term, b: Term, target: bytes = NOWHERE) -> bytes:
    return b"\x7d" + term(a) + term(b) + target


def find_set_right_bit(a: Term, target: bytes = NOWHERE) -> bytes:
    """The number of the lowest bit that is set, from 1; 0 if there is none."""
    return b"\x82" + term(a) + target


def index(a: bytes, n: Term, target: bytes = NOWHERE) -> bytes:
    return b"\x88" + a + term(n) + target


def deref_of(a: bytes) -> bytes:
    return b"\x83" + a


def to_buffer(a: bytes, target: bytes = NOWHERE) -> bytes:
    return b"\x96" + a + target


def create_word_field(source: bytes, byte: Term, label: str) -> bytes:
    return b"\x8b" + source + term(byte) + path(label)


def create_dword_field(source: bytes, byte: Term, label: str) -> bytes:
    return b"\x8a" + source + term(byte) + path(label)


def logical_not(a: Term) -> bytes:
    return b"\x92" + term(a)


def logical_and(a: Term, b: Term) -> bytes:
    return b"\x90" + term(a) + term(b)


def equal(a: Term, b: Term) -> bytes:
    return b"\x93" + term(a) + term(b)


def less(a: Term, b: Term) -> bytes:
    return b"\x95" + term(a) + term(b)


def if_(condition: bytes, *body: bytes) -> bytes:
    return b"\xa0" + with_length(condition + b"".join(body))


def else_(*body: bytes) -> bytes:
    return b"\xa1" + with_length(b"".join(body))


def while_(condition: bytes, *body: bytes) -> bytes:
    return b"\xa2" + with_length(condition + b"".join(body))


def return_(value: Term) -> bytes:
    return b"\xa4" + term(value)


def notify(target: bytes, value: Term) -> bytes:
    return b"\x86" + target + term(value)


def call(method_name: str, *arguments: Term) -> bytes:
    return path(method_name) + terms(arguments)


# --- resources (6.4): each function gives one descriptor, resources() the buffer -------------------------------------------


def resources(*descriptors: bytes) -> bytes:
    """A ResourceTemplate: the descriptors and an end tag without a checksum (6.4.2.9)."""
    return buffer(b"".join(descriptors) + b"\x79\x00")


def irq(*lines: int) -> bytes:
    """IRQNoFlags: edge, active high, one of the lines (6.4.2.1)."""
    return pack("<BH", 0x22, sum(1 << n for n in lines))


def irq_flags(*lines: int, level: bool = True, active_low: bool = True, shared: bool = True) -> bytes:
    """IRQ with its third byte (6.4.2.1)."""
    return pack("<BHB", 0x23, sum(1 << n for n in lines), (not level) | active_low << 3 | shared << 4)


def dma(*channels: int, width: int = 0) -> bytes:
    """Compatibility timing, no bus master; width 0 is 8 bits, 1 both, 2 16 bits (6.4.2.2)."""
    return pack("<BBB", 0x2A, sum(1 << n for n in channels), width)


def io(start: int, length: int, *, last: int | None = None, alignment: int = 1) -> bytes:
    """Ports decoded with 16 bits (6.4.2.5)."""
    return pack("<BBHHBB", 0x47, 1, start, start if last is None else last, alignment, length)


def memory32_fixed(start: int, length: int, *, writable: bool = True) -> bytes:
    return pack("<BHBII", 0x86, 9, writable, start, length)


def interrupts(*gsis: int, level: bool = True, active_low: bool = True, shared: bool = True) -> bytes:
    """Extended interrupt descriptor of a consumer (6.4.3.6)."""
    flags = 1 | (not level) << 1 | active_low << 2 | shared << 3
    return pack("<BHBB", 0x89, 2 + 4 * len(gsis), flags, len(gsis)) + pack(f"<{len(gsis)}I", *gsis)


MEMORY_RANGE, IO_RANGE, BUS_RANGE = 0, 1, 2
FIXED = 0x0C                # _MIF and _MAF: both ends are fixed; bit 0 clear: a producer, bit 1 clear: positive decode
CACHEABLE, WRITE_COMBINING, READ_WRITE = 1 << 1, 2 << 1, 1
ENTIRE_RANGE = 3            # of ports: ISA and other ranges


def _range(code: int, letter: str, kind: int, flags: int, first: int, last: int) -> bytes:
    length = 1 << {"H": 16, "I": 32, "Q": 64}[letter]
    body = pack(f"<BBB5{letter}", kind, FIXED, flags, 0, first, last, 0, (last - first + 1) % length)
    return pack("<BH", code, len(body)) + body


def word_bus_number(first: int, last: int) -> bytes:
    return _range(0x88, "H", BUS_RANGE, 0, first, last)


def word_io(first: int, last: int) -> bytes:
    return _range(0x88, "H", IO_RANGE, ENTIRE_RANGE, first, last)


def dword_memory(first: int, last: int, flags: int = READ_WRITE) -> bytes:
    return _range(0x87, "I", MEMORY_RANGE, flags, first, last)


def qword_memory(first: int, last: int, flags: int = READ_WRITE) -> bytes:
    return _range(0x8A, "Q", MEMORY_RANGE, flags, first, last)
