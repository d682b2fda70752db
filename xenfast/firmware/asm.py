"""A small assembler for the firmware's own stubs: a table of instruction forms, labels, and places.

The firmware does its work in Python; what stands in ROM are a few instructions per service, so a table of the forms that
they use is all there is.  A line is ``label:``, an instruction of the table, data (``db 1, 0x2A``, ``dw label``,
``dd 0xF0000``, ``ds "text"``), or ``trap NAME``: the OUT that calls the firmware's function of that name (traps.py).  Operands
are numbers, labels, or ``label+n``.  Encodings: SDM Vol. 2.
"""

import re

from xenfast.errors import XenfastError
from xenfast.firmware.traps import TRAP_PORT

# form -> bytes. ib iw id: an immediate of 1, 2, 4 bytes; rb rw rd: a target relative to the next instruction
FORMS = {
    # moves and stack
    "mov al, ib": "B0 ib", "mov cl, ib": "B1 ib", "mov dl, ib": "B2 ib", "mov bl, ib": "B3 ib",
    "mov ah, ib": "B4 ib", "mov ax, iw": "B8 iw", "mov cx, iw": "B9 iw", "mov dx, iw": "BA iw", "mov bx, iw": "BB iw",
    "mov sp, iw": "BC iw", "mov si, iw": "BE iw", "mov ds, ax": "8E D8", "mov es, ax": "8E C0", "mov ss, ax": "8E D0",
    "mov ax, cs": "8C C8", "mov al, ah": "88 E0", "mov ah, al": "88 C4", "mov bp, sp": "89 E5",
    "xchg bx, bx": "87 DB", "mov dword [iw], id": "66 C7 06 iw id",
    "push ax": "50", "push cx": "51", "push dx": "52", "push bx": "53", "push bp": "55", "push si": "56", "push di": "57",
    "pop ax": "58", "pop cx": "59", "pop dx": "5A", "pop bx": "5B", "pop bp": "5D", "pop si": "5E", "pop di": "5F",
    "push ds": "1E", "pop ds": "1F", "push es": "06", "pop es": "07", "push cs": "0E", "pusha": "60", "popa": "61",
    "pushad": "66 60", "popad": "66 61", "pushf": "9C", "popf": "9D",
    # arithmetic
    "xor ax, ax": "31 C0", "and al, ib": "24 ib", "or al, ib": "0C ib", "cmp al, ib": "3C ib", "cmp ah, ib": "80 FC ib",
    "test al, ib": "A8 ib", "add sp, ib": "83 C4 ib", "dec cx": "49",
    # control
    "jmp rb": "EB rb", "jc rb": "72 rb", "jnc rb": "73 rb", "jz rb": "74 rb", "jnz rb": "75 rb", "loop rb": "E2 rb",
    "near jmp rw": "E9 rw", "call rw": "E8 rw", "jmp far iw:iw": "EA iw2 iw1", "call far es:[iw]": "26 FF 1E iw",
    "ret": "C3", "retf": "CB", "iret": "CF", "int ib": "CD ib",
    # system
    "cli": "FA", "sti": "FB", "hlt": "F4", "cld": "FC", "clc": "F8", "stc": "F9", "nop": "90",
    "in al, ib": "E4 ib", "out ib, al": "E6 ib",
    # data
    "db *": "ib", "dw *": "iw", "dd *": "id", "dq *": "iq",
}   # fmt: skip
SLOT_SIZES = {"ib": 1, "iw": 2, "iw1": 2, "iw2": 2, "id": 4, "iq": 8, "rb": 1, "rw": 2}


_TOKEN = re.compile(r"[\w+]+|[\[\]:]")
Form = tuple[list[str], list[str]]      # its tokens, and the bytes


def _forms() -> dict[tuple[str, int], list[Form]]:
    """By the first token and their number; forms without operands of their own first: "mov al, ah" is not "mov al, ib"."""
    found: dict[tuple[str, int], list[Form]] = {}
    for form, code in FORMS.items():
        if not form.endswith("*"):
            tokens, parts = _TOKEN.findall(form), code.split()
            same = found.setdefault((tokens[0], len(tokens)), [])
            same.insert(0 if not any(part in SLOT_SIZES for part in parts) else len(same), (tokens, parts))
    return found


def _operands(form: list[str], tokens: list[str]) -> list[str] | None:
    """What stands in the places of a form; None when a line is not of this form."""
    if any(a != b and a not in SLOT_SIZES for a, b in zip(form, tokens)):
        return None
    return [b for a, b in zip(form, tokens) if a in SLOT_SIZES]


_BY_TOKENS = _forms()
_DATA = {form[:2]: code for form, code in FORMS.items() if form.endswith("*")}


class Assembler:
    """Code and data for ``size`` bytes from ``origin`` on; offsets of labels are within a segment that begins there."""

    def __init__(self, size: int, fill: int = 0) -> None:
        self.image = bytearray([fill]) * size
        self.used = bytearray(size)
        self.labels: dict[str, int] = {}
        self.traps: list[tuple[int, str]] = []      # where the functions are called: offset, name
        self.here = 0
        self._fixups: list[tuple[int, str, str, str]] = []      # place, slot, operand, line

    def org(self, offset: int) -> None:
        """Go on at this offset."""
        self.here = offset

    def align(self, n: int) -> None:
        self.here = -(-self.here // n) * n

    def label(self, name: str) -> int:
        if name in self.labels:
            raise XenfastError(f"firmware: the label {name!r} is there twice")
        self.labels[name] = self.here
        return self.here

    def put(self, data: bytes) -> int:
        """Bytes as they are; returns their offset."""
        start, end = self.here, self.here + len(data)
        if end > len(self.image) or any(self.used[start:end]):
            raise XenfastError(f"firmware: {len(data)} bytes at {start:#x} do not fit")
        self.image[start:end] = data
        self.used[start:end] = b"\1" * len(data)
        self.here = end
        return start

    def code(self, text: str) -> None:
        """Lines of assembly; ``;`` begins a comment."""
        for raw in text.splitlines():
            line = raw.split(";")[0].strip()
            while match := re.match(r"(\w+):\s*", line):
                self.label(match[1])
                line = line[match.end():]
            if line:
                self._line(line)

    def _line(self, line: str) -> None:
        directive, _, rest = line.partition(" ")
        if directive in _DATA:
            for item in rest.split(","):
                self._emit([_DATA[directive]], [item.strip()], line)
            return
        if directive == "trap":
            self.traps.append((self.here, rest.strip()))
            self.put(bytes((0xE6, TRAP_PORT)))
            return
        if directive == "ds":
            self.put(rest.strip().strip('"').encode("latin-1"))
            return
        tokens = _TOKEN.findall(line)
        for form, parts in _BY_TOKENS.get((tokens[0], len(tokens)), ()):
            operands = _operands(form, tokens)
            if operands is not None:
                self._emit(parts, operands, line)
                return
        raise XenfastError(f"firmware: no such instruction: {line!r}")

    def _emit(self, parts: list[str], operands: list[str], line: str) -> None:
        out = bytearray()
        index = 0
        for part in parts:
            size = SLOT_SIZES.get(part)
            if size is None:
                out.append(int(part, 16))
                continue
            operand = operands[int(part[2]) - 1] if len(part) == 3 else operands[index]
            index += 1
            self._fixups.append((self.here + len(out), part[:2], operand, line))
            out += bytes(size)
        self.put(bytes(out))

    def value(self, operand: str) -> int:
        """A number, a label, or a sum of them."""
        total = 0
        for term in operand.split("+"):
            term = term.strip()
            if term in self.labels:
                total += self.labels[term]
            elif re.fullmatch(r"\d\w*", term):
                total += int(term, 0)
            else:
                raise XenfastError(f"firmware: {term!r} is no label")
        return total

    def finish(self) -> bytes:
        """The bytes with all labels filled in."""
        for at, slot, operand, line in self._fixups:
            size, value = SLOT_SIZES[slot], self.value(operand)
            if slot[0] == "r":
                value -= at + size
                if not -(1 << 8 * size - 1) <= value < 1 << 8 * size - 1:
                    raise XenfastError(f"firmware: {line!r} is too far away")
            self.image[at:at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        self._fixups.clear()
        return bytes(self.image)
