"""Cases for the second oracle: integer forms in every size and segment, system instructions with every selector.

The integer forms are those of forms.py, with 16- and 32-bit operands and addresses and segment overrides.
"""

from __future__ import annotations

import random
import struct

from tests.conformance import forms
from tests.conformance.forms import FORMS, Draft, Form
from tests.conformance.second_oracle import ARITH, IF, NT, SELECTORS, WINDOW, Case, Environment

HERE = forms.WINDOW  # where forms.py puts its window
OVERRIDES = {"es": b"\x26", "cs": b"\x2e", "ss": b"\x36", "ds": b"\x3e", "fs": b"\x64", "gs": b"\x65"}
FORM16 = [(3, 6), (3, 7), (5, 6), (5, 7), (6, None), (7, None), (5, None), (3, None)]  # ModRM.rm: base, index

# forms that hold a 32-bit displacement in their opcode bytes, and those a host is asked about already
INTEGER = [
    f
    for f in FORMS
    if 32 in f.modes and not f.vex and not f.needs and "02000000" not in f.opcode and f.opcode != "e800000000"
]


def modrm_16(d: Draft) -> bytes:
    """A 16-bit address of d.target: a base and an index of Table 2-1, the displacement making up the rest."""
    rng = d.rng
    if rng.random() < 0.15:
        return b"\x06" + struct.pack("<H", d.target & 0xFFFF)
    rm = rng.randrange(8)
    base, index = FORM16[rm]
    rest = d.target - d.regs[base] - (d.regs[index] if index is not None else 0)
    disp_size = rng.choice([0, 1, 2])
    if base in d.pinned or disp_size == 2:
        return bytes([0x80 | rm]) + struct.pack("<H", rest & 0xFFFF)
    disp = rng.randrange(-128, 128) if disp_size else 0
    if disp_size == 0 and rm == 6:
        disp_size = 1
    d.regs[base] = d.regs[base] & 0xFFFF0000 | (d.regs[base] + rest - disp) & 0xFFFF
    return bytes([(0x40 if disp_size else 0) | rm]) + (struct.pack("<b", disp) if disp_size else b"")


def moved(d: Draft) -> None:
    """forms.py thinks of its window; ours is at WINDOW, in every segment."""
    for reg in d.pinned:
        value = d.regs[reg] & 0xFFFFFFFF
        if HERE - 0x1000 < value < HERE + 0x1000:
            d.regs[reg] = value - HERE + WINDOW
    d.target += WINDOW - HERE


def integer(rng: random.Random, form: Form, e: Environment) -> Case:
    """As forms.make: operand size, address size and segment drawn anew."""
    size = forms.draw_size(rng, form, 32)
    d = Draft(
        rng,
        32,
        size,
        [forms.value(rng) & 0xFFFFFFFF for _ in range(16)],
        0x202 | rng.getrandbits(12) & ARITH,
        bytearray(rng.randbytes(forms.WINDOW_SIZE)),
    )
    d.regs[4] = WINDOW + 256
    d.g, d.rm = rng.randrange(8), rng.randrange(8)
    d.is_mem = form.modrm is not None and form.mem and (not form.reg or rng.random() < 0.6)
    d.target = HERE + rng.randrange(96, 400 - form.span)
    d.pinned = {4}
    if form.setup:
        form.setup(d)
    if form.name in ("PUSH", "POP", "PUSHF", "PUSHA", "POPA", "ENTER", "LEAVE", "CALL"):
        d.regs[4] = HERE + 256
    moved(d)
    d.regs = [value & 0xFFFFFFFF for value in d.regs]
    wide = rng.random() < 0.5  # 32-bit addresses
    if wide:
        d.pinned |= {4}
    if form.name == "LOOP" and not wide:
        d.regs[1] = d.regs[1] & 0xFFFF | rng.getrandbits(16) << 16
    prefixes = [b""] if size in (0, 1) else [b"\x66" if size != e.bits // 8 else b""]
    if (
        form.width == "n"
        and form.modrm is None
        and rng.random() < 0.2
        and form.name not in ("Jcc", "JMP", "LOOP", "AAM")
    ):
        prefixes.append(b"\x66")
    addressed = d.is_mem or form.setup in (forms.string, forms.table) or form.name == "LOOP"
    if addressed and wide != (e.bits == 32):
        prefixes.append(b"\x67")
    if not wide and form.setup in (forms.string, forms.table):
        for reg in (1, 3, 6, 7):
            d.regs[reg] = d.regs[reg] & 0xFFFF | rng.getrandbits(16) << 16
    elif form.setup is forms.table:
        d.regs[3] &= 0xFFFF
    if addressed and form.name != "LOOP" and rng.random() < 0.4:
        name = rng.choice(list(OVERRIDES))
        if name != "cs" or e.real or e.vm or form.name in ("MOVZX", "CMP", "TEST", "LODS", "XLAT"):
            prefixes.append(OVERRIDES[name])
    if form.lock and d.is_mem and rng.random() < 0.2:
        prefixes.append(b"\xf0")
    if d.rep:
        prefixes.append(d.rep)
    rng.shuffle(prefixes)
    opcode = bytes.fromhex(form.opcode)
    reg = d.g if form.modrm == "r" else form.modrm or 0
    modrm = b""
    if form.modrm is not None:
        if not d.is_mem:
            modrm = bytes([0xC0 | reg << 3 | d.rm])
        elif wide:
            first, tail, _, _ = forms.address(d, False)
            modrm = bytes([first | reg << 3]) + tail
        else:
            modrm = modrm_16(d)
            modrm = bytes([modrm[0] | reg << 3]) + modrm[1:]
    elif form.opreg:
        opcode = opcode[:-1] + bytes([opcode[-1] | d.rm])
    code = b"".join(prefixes) + bytes.fromhex(form.prefix) + opcode + modrm
    code += forms.immediate(d, form) if form.imm else b""
    undefined = form.undefined
    if callable(undefined):
        count = d.imm if form.imm else 1 if opcode[0] in (0xD0, 0xD1) else d.regs[1]
        undefined = undefined(size, count & 31)
    return Case(form.name, code, [value & 0xFFFFFFFF for value in d.regs[:8]], d.flags, bytes(d.data), undefined)


# -- system instructions ----------------------------------------------------------------------------------------------
def _far_pointer(rng: random.Random, bits: int) -> bytes:
    return struct.pack(
        "<IH" if bits == 32 else "<HH", 0x2000 + rng.randrange(64), rng.choice(SELECTORS) | rng.randrange(4)
    )


def _iret_stack(rng: random.Random, e: Environment, bits: int) -> bytes:
    """A frame: mostly of the ring the code is in or an outer one, sometimes anything."""
    code = rng.choice([0x08, 0x1B, 0x28, 0x33, 0x18, rng.choice(SELECTORS) | rng.randrange(4)])
    data = rng.choice([0x73, 0x23, 0x48, rng.choice(SELECTORS) | rng.randrange(4)])
    flags = 0x202 | rng.getrandbits(12) & ARITH | rng.choice([0, 0, 0x3000, 0x4000])
    words = [0x2000 + rng.randrange(64), code, flags, 0x4180, data]
    return struct.pack("<5I" if bits == 32 else "<5H", *(word & ((1 << bits) - 1) for word in words))


# THE TABLE: name, code for the default operand size, and what is drawn: a selector in EAX (s) or on the stack (k), a
# far pointer in memory (p) or in the code (f), a frame on the stack (i), a descriptor table's address in memory (t), a
# machine status word (m), a CR3 (c), the number of an MSR (r), nothing.  [bx] and [edi] are both ModRM 7.
SYSTEM = [
    ("MOV Sreg", "8ec0", "s"),
    ("MOV Sreg", "8ed0", "s"),
    ("MOV Sreg", "8ed8", "s"),
    ("MOV Sreg", "8ee0", "s"),
    ("MOV Sreg", "8ee8", "s"),
    ("MOV Sreg", "8cc0", ""),
    ("MOV Sreg", "8cdb", ""),
    ("MOV Sreg", "8cd1", ""),
    ("PUSH Sreg", "06", ""),
    ("PUSH Sreg", "0e", ""),
    ("PUSH Sreg", "0fa0", ""),
    ("POP Sreg", "07", "k"),
    ("POP Sreg", "17", "k"),
    ("POP Sreg", "1f", "k"),
    ("POP Sreg", "0fa1", "k"),
    ("LES", "c407", "p"),
    ("LDS", "c507", "p"),
    ("LSS", "0fb207", "p"),
    ("LFS", "0fb407", "p"),
    ("LGS", "0fb507", "p"),
    ("LAR", "0f02c8", "s"),
    ("LSL", "0f03c8", "s"),
    ("VERR", "0f00e0", "s"),
    ("VERW", "0f00e8", "s"),
    ("ARPL", "63c8", "s"),
    ("LLDT", "0f00d0", "s"),
    ("LTR", "0f00d8", "s"),
    ("SLDT", "0f00c0", ""),
    ("STR", "0f00c8", ""),
    ("JMP far", "ea", "f"),
    ("CALL far", "9a", "f"),
    ("JMP far", "ff2f", "p"),
    ("CALL far", "ff1f", "p"),
    ("RET far", "cb", "i"),
    ("RET far", "ca0400", "i"),
    ("IRET", "cf", "i"),
    ("SGDT", "0f0107", ""),
    ("SIDT", "0f010f", ""),
    ("LGDT", "0f0117", "t"),
    ("LIDT", "0f011f", "t"),
    ("SMSW", "0f01e0", ""),
    ("LMSW", "0f01f0", "m"),
    ("CLTS", "0f06", ""),
    ("INVD", "0f08", ""),
    ("WBINVD", "0f09", ""),
    ("INVLPG", "0f013f", ""),
    ("HLT", "f4", ""),
    ("CLI", "fa", ""),
    ("STI", "fb", ""),
    ("PUSHF", "9c", ""),
    ("POPF", "9d", "k"),
    ("INT", "cd21", ""),
    ("INT3", "cc", ""),
    ("INTO", "ce", ""),
    ("UD2", "0f0b", ""),
    ("MOV CR", "0f20c0", ""),
    ("MOV CR", "0f20d0", ""),
    ("MOV CR", "0f20d8", ""),
    ("MOV CR", "0f22d8", "c"),
    ("MOV CR", "0f20e0", ""),
    ("MOV CR", "0f22d0", ""),
    ("MOV CR", "0f20c8", ""),
    ("MOV DR", "0f21c0", ""),
    ("MOV DR", "0f23c8", ""),
    ("RDMSR", "0f32", "r"),
    ("IN", "e460", ""),
    ("IN", "ed", ""),
    ("OUT", "e660", ""),
    ("RSM", "0faa", ""),
]


def system(rng: random.Random, row: tuple[str, str, str], e: Environment) -> Case:
    name, opcode, kind = row
    bits = e.bits if rng.random() < 0.7 else 48 - e.bits
    prefix = b"" if bits == e.bits else b"\x66"
    regs = [forms.value(rng) & 0xFFFFFFFF for _ in range(8)]
    regs[4] = WINDOW + 0x100
    regs[3] = regs[7] = WINDOW + 0x40  # BX, EDI: [bx] and [edi] are ModRM 7
    data = bytearray(rng.randbytes(forms.WINDOW_SIZE))
    stack = b""
    if kind == "s":
        regs[0] = rng.choice(SELECTORS) | rng.choice([0, 0, 3, e.ring, 1]) | rng.getrandbits(16) << 16
    elif kind == "k":
        word = rng.choice(SELECTORS) | rng.choice([0, 3]) if "Sreg" in name else rng.getrandbits(32) & ~0x100
        stack = struct.pack("<I", word)
    elif kind == "p":
        data[0x40:0x48] = _far_pointer(rng, bits).ljust(8, b"\0")
    elif kind == "i":
        stack = _iret_stack(rng, e, bits)
        if name == "RET far":
            word = bits // 8
            stack = stack[: 2 * word] + b"\0" * (4 if opcode != "cb" else 0) + stack[3 * word :]
    elif kind == "t":
        data[0x40:0x48] = struct.pack("<HI", rng.getrandbits(16), rng.getrandbits(32)).ljust(8, b"\0")
    elif kind == "m":
        regs[0] = rng.randrange(16) | rng.getrandbits(12) << 4 | (0 if e.real else 1)
        if e.real:
            regs[0] &= ~1
    elif kind == "c":
        regs[0] = rng.getrandbits(20) << 12
    elif kind == "r":
        regs[1] = rng.choice([0x174, 0x12345, 0x277])
    code = prefix + bytes.fromhex(opcode) + (_far_pointer(rng, bits) if kind == "f" else b"")
    flags = 2 | rng.getrandbits(12) & ARITH | rng.choice([0, IF]) | (rng.choice([0, 0, 0, NT]) if name != "IRET" else 0)
    return Case(name, code, regs, flags, bytes(data), single=True, stack=stack)

