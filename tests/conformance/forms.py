"""Random cases for integer instructions: a table of operand forms, and an encoder that fills in what they leave open.

SDM Vol. 2. A row says opcode, operands and which flags the SDM leaves undefined. The encoder picks operand size, REX
bits, ModRM and SIB, and then sets the registers so that every memory operand falls into the data window of
``hostcpu.py``.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.conformance.hostcpu import ARITH, CODE, WINDOW, WINDOW_SIZE, Case

CF, PF, AF, ZF, SF, DF, OF = 1, 4, 16, 64, 128, 1024, 2048
INTERESTING = [0, 1, 2, 0x7F, 0x80, 0x81, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF,
               0x7FFFFFFFFFFFFFFF, 0x8000000000000000, 0xFFFFFFFFFFFFFFFF, 0x5555555555555555]
COUNTS = [0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 127, 128, 255]
MASK64 = (1 << 64) - 1


@dataclass
class Form:
    name: str
    opcode: str                      # hex
    modrm: str | int | None = None   # "r": E and G; a digit: group; None: no ModRM
    imm: str = ""                    # b w z v
    width: str = "v"                 # b, v, y (4 or 8), d, q, w: the operand size, by prefixes where it can vary
    undefined: int | Callable = 0    # flags, or function(size, count) -> flags
    reg: bool = True                 # E may be a register
    mem: bool = True                 # E may be memory
    prefix: str = ""                 # mandatory prefix
    lock: bool = False
    modes: tuple = (64, 32)
    setup: Callable | None = None    # adjusts the draft before addresses are made
    opreg: bool = False              # register in the opcode byte
    span: int = 8                    # bytes of the memory operand
    d64: bool = False                # 64 bits by default in 64-bit mode
    needs: str = ""                  # feature of the host, as in /proc/cpuinfo
    vex: str = ""                    # VEX: map and pp, as "38.f2"; the opcode is one byte
    vvvv: bool = True                # VEX.vvvv names a register


@dataclass
class Draft:
    """A case in the making."""

    rng: random.Random
    mode: int
    size: int
    regs: list[int]
    flags: int
    data: bytearray
    pinned: set = field(default_factory=set)      # registers that addresses must not use
    g: int = 0
    v: int = 0                                    # VEX.vvvv
    rm: int = 0
    is_mem: bool = False
    target: int = 0
    imm: int = 0
    rep: bytes = b""
    edge: bool = False                            # memory operands at the end of the mapped pages, or nowhere

    def pin(self, reg: int, value: int) -> None:
        self.regs[reg] = value & MASK64
        self.pinned.add(reg)


# -- undefined flags ---------------------------------------------------------------------------------------------------
def shift_flags(size: int, count: int) -> int:
    """SHL SHR: CF undefined from the operand's width on; OF but for 1; AF always."""
    if count == 0:
        return 0
    return AF | (OF if count != 1 else 0) | (CF if count > 8 * size or (count == 8 * size) else 0)


def sar_flags(size: int, count: int) -> int:
    return 0 if count == 0 else AF | (OF if count != 1 else 0)


def rotate_flags(size: int, count: int) -> int:
    return 0 if count <= 1 else OF


def rotate_carry_flags(size: int, count: int) -> int:
    return 0 if count <= 1 else OF


def double_flags(size: int, count: int) -> int:
    return 0 if count == 0 else AF | (OF if count != 1 else 0)


# -- set-ups ----------------------------------------------------------------------------------------------------------
def small_dividend(d: Draft) -> None:
    """Most divisions should not overflow: the high half small, or the sign of the low one."""
    kind = d.rng.random()
    if kind < 0.4:
        d.pin(2, 0)
        if d.size == 1:
            d.regs[0] &= ~0xFF00
    elif kind < 0.8:
        low = d.regs[0] >> (8 * d.size - 1) & 1
        d.pin(2, -low)


def equal_accumulator(d: Draft) -> None:
    if d.rng.random() < 0.5:
        at = d.target - WINDOW
        value = int.from_bytes(d.data[at:at + 8], "little") if d.is_mem else d.regs[d.rm]
        d.pin(0, value)


def equal_pair(d: Draft) -> None:
    at = d.target - WINDOW
    if d.size == 8:
        at &= ~15
        d.target = WINDOW + at
    if d.rng.random() < 0.5:
        d.pin(0, int.from_bytes(d.data[at:at + d.size], "little"))
        d.pin(2, int.from_bytes(d.data[at + d.size:at + 2 * d.size], "little"))


def near_bit(d: Draft) -> None:
    if d.is_mem:
        d.pin(d.g, d.rng.randrange(-400, 400))


def stack(d: Draft) -> None:
    d.pin(4, d.target if d.edge else WINDOW + 256 + d.rng.randrange(-64, 64))


def frame(d: Draft) -> None:
    stack(d)
    d.pin(5, WINDOW + 200 + d.rng.randrange(0, 64))


def enter(d: Draft) -> None:
    frame(d)
    d.imm = d.rng.randrange(0, 64) | d.rng.randrange(0, 4) << 16


def loop_count(d: Draft) -> None:
    d.pin(1, d.rng.choice([0, 1, 2, 1 << 32, 1 << 16]))


def table(d: Draft) -> None:
    d.pin(3, WINDOW + d.rng.randrange(0, 256))


def string(d: Draft) -> None:
    d.pin(6, WINDOW + d.rng.randrange(170, 330))
    d.pin(7, WINDOW + d.rng.randrange(170, 330))
    if d.rng.random() < 0.3:                             # overlapping
        d.pin(7, d.regs[6] + d.rng.randrange(-16, 17))
    if d.edge:
        d.pin(d.rng.choice([6, 7]), d.target - d.rng.choice([0, 0, 16]))
    if d.rng.random() < 0.7:
        d.rep = d.rng.choice([b"\xf3", b"\xf2"])
        d.pin(1, d.rng.randrange(0, 160 // d.size))
    if d.rng.random() < 0.5:
        d.flags |= DF
    if d.rng.random() < 0.3:                             # long equal stretches for CMPS and SCAS
        d.data[:] = bytes([d.rng.choice([0, 1])]) * WINDOW_SIZE
        d.regs[0] = 0 if d.rng.random() < 0.5 else 0x0101010101010101


def narrow_count(d: Draft) -> None:
    """SHLD and SHRD of 16 bits by more than 16 are undefined, result and all."""
    if d.size == 2:
        d.imm = d.rng.randrange(1, 17)
        d.pin(1, d.rng.randrange(0, 17) | d.rng.getrandbits(3) << 5)


def bswap_wide(d: Draft) -> None:
    """BSWAP of 16 bits is undefined."""
    if d.size == 2:
        d.size = 4


def field_of_b(d: Draft) -> None:
    """BEXTR and BZHI: a start and a length that often lie inside the operand."""
    if d.rng.random() < 0.7:
        d.pin(d.v, d.rng.randrange(0, 70) | d.rng.randrange(0, 70) << 8 | d.rng.getrandbits(8) << 16)


def division_immediate(d: Draft) -> None:
    d.imm = d.rng.choice([0, 1, 7, 10, 10, 10, 16, 255])


# -- THE TABLE --------------------------------------------------------------------------------------------------------
def _alu() -> list[Form]:
    rows = []
    for i, name in enumerate("ADD OR ADC SBB AND SUB XOR CMP".split()):
        undefined = AF if name in ("OR", "AND", "XOR") else 0
        lock = name != "CMP"
        for k, width in enumerate("bv"):
            rows.append(Form(name, f"{8 * i + k:02x}", "r", width=width, undefined=undefined, lock=lock))
            rows.append(Form(name, f"{8 * i + 2 + k:02x}", "r", width=width, undefined=undefined))
            rows.append(Form(name, f"{8 * i + 4 + k:02x}", imm="bz"[k], width=width, undefined=undefined))
            rows.append(Form(name, f"{0x80 + k:02x}", i, "bz"[k], width, undefined, lock=lock))
        rows.append(Form(name, "83", i, "b", "v", undefined, lock=lock))
        rows.append(Form(name, "82", i, "b", "b", undefined, modes=(32,)))
    return rows


def _shifts() -> list[Form]:
    rows = []
    for i, (name, undefined) in enumerate((("ROL", rotate_flags), ("ROR", rotate_flags), ("RCL", rotate_carry_flags),
                                           ("RCR", rotate_carry_flags), ("SHL", shift_flags), ("SHR", shift_flags),
                                           ("SAL", shift_flags), ("SAR", sar_flags))):
        for k, width in enumerate("bv"):
            rows.append(Form(name, f"{0xC0 + k:02x}", i, "b", width, undefined))
            rows.append(Form(name, f"{0xD0 + k:02x}", i, "", width, undefined))
            rows.append(Form(name, f"{0xD2 + k:02x}", i, "", width, undefined))
    for name, opcode in (("SHLD", 0xA4), ("SHRD", 0xAC)):
        rows.append(Form(name, f"0f{opcode:02x}", "r", "b", undefined=double_flags, setup=narrow_count))
        rows.append(Form(name, f"0f{opcode + 1:02x}", "r", undefined=double_flags, setup=narrow_count))
    return rows


def _unary() -> list[Form]:
    rows = []
    for k, width in enumerate("bv"):
        op = f"{0xF6 + k:02x}"
        rows += [
            Form("TEST", op, 0, "bz"[k], width, AF), Form("TEST", op, 1, "bz"[k], width, AF),
            Form("TEST", f"{0x84 + k:02x}", "r", "", width, AF),
            Form("TEST", f"{0xA8 + k:02x}", None, "bz"[k], width, AF),
            Form("NOT", op, 2, "", width, lock=True), Form("NEG", op, 3, "", width, lock=True),
            Form("MUL", op, 4, "", width, SF | ZF | AF | PF), Form("IMUL", op, 5, "", width, SF | ZF | AF | PF),
            Form("DIV", op, 6, "", width, ARITH, setup=small_dividend),
            Form("IDIV", op, 7, "", width, ARITH, setup=small_dividend),
            Form("INC", f"{0xFE + k:02x}", 0, "", width, lock=True),
            Form("DEC", f"{0xFE + k:02x}", 1, "", width, lock=True),
            Form("XCHG", f"{0x86 + k:02x}", "r", "", width, lock=True), Form("MOV", f"{0x88 + k:02x}", "r", "", width),
            Form("MOV", f"{0x8A + k:02x}", "r", "", width), Form("MOV", f"{0xC6 + k:02x}", 0, "bz"[k], width),
            Form("XADD", f"0f{0xC0 + k:02x}", "r", "", width, lock=True),
            Form("CMPXCHG", f"0f{0xB0 + k:02x}", "r", "", width, lock=True, setup=equal_accumulator),
            Form("MOVS", f"{0xA4 + k:02x}", width=width, setup=string),
            Form("CMPS", f"{0xA6 + k:02x}", width=width, setup=string),
            Form("STOS", f"{0xAA + k:02x}", width=width, setup=string),
            Form("LODS", f"{0xAC + k:02x}", width=width, setup=string),
            Form("SCAS", f"{0xAE + k:02x}", width=width, setup=string),
        ]
    return rows


def _bits() -> list[Form]:
    rest = OF | SF | AF | PF
    rows = []
    for i, name in enumerate(("BT", "BTS", "BTR", "BTC")):
        rows.append(Form(name, f"0f{0xA3 + 8 * i:02x}", "r", undefined=rest, setup=near_bit, lock=name != "BT"))
        rows.append(Form(name, "0fba", 4 + i, "b", undefined=rest, lock=name != "BT"))
    count = OF | SF | AF | PF
    rows += [
        Form("BSF", "0fbc", "r", undefined=ARITH & ~ZF), Form("BSR", "0fbd", "r", undefined=ARITH & ~ZF),
        Form("TZCNT", "0fbc", "r", prefix="f3", undefined=count),
        Form("LZCNT", "0fbd", "r", prefix="f3", undefined=count),
        Form("POPCNT", "0fb8", "r", prefix="f3"), Form("CRC32", "0f38f0", "r", width="b", prefix="f2", modes=(64, 32)),
        Form("CRC32", "0f38f1", "r", prefix="f2"), Form("BSWAP", "0fc8", opreg=True, width="y", setup=bswap_wide),
        Form("ADCX", "0f38f6", "r", width="y", prefix="66", needs="adx"),
        Form("ADOX", "0f38f6", "r", width="y", prefix="f3", needs="adx"),
        Form("MOVBE", "0f38f0", "r", reg=False), Form("MOVBE", "0f38f1", "r", reg=False),
        Form("CMPXCHG8B", "0fc7", 1, width="y", reg=False, lock=True, setup=equal_pair, span=16),
    ]
    return rows


def _conditional() -> list[Form]:
    rows = []
    for cc in range(16):
        rows.append(Form("SETcc", f"0f{0x90 + cc:02x}", 0, width="b"))
        rows.append(Form("CMOVcc", f"0f{0x40 + cc:02x}", "r"))
        rows.append(Form("Jcc", f"{0x70 + cc:02x}02ffc3", width="n"))             # over inc ebx
        rows.append(Form("Jcc", f"0f{0x80 + cc:02x}02000000ffc3", width="n"))
    for op in (0xE0, 0xE1, 0xE2, 0xE3):
        rows.append(Form("LOOP", f"{op:02x}02ffc3", width="n", setup=loop_count))
    rows.append(Form("JMP", "eb02ffc3", width="n"))
    rows.append(Form("CALL", "e800000000", width="n", setup=stack))
    return rows


def _moves() -> list[Form]:
    return [
        Form("MOVZX", "0fb6", "r", width="v"), Form("MOVZX", "0fb7", "r", width="y"),
        Form("MOVSX", "0fbe", "r", width="v"),
        Form("MOVSX", "0fbf", "r", width="y"), Form("MOVSXD", "63", "r", width="y", modes=(64,)),
        Form("LEA", "8d", "r", reg=False),
        Form("MOV", "b0", None, "b", "b", opreg=True), Form("MOV", "b8", None, "v", "v", opreg=True),
        Form("XCHG", "90", opreg=True), Form("CBW", "98"), Form("CWD", "99"),
        Form("IMUL", "0faf", "r", undefined=SF | ZF | AF | PF),
        Form("IMUL", "69", "r", "z", undefined=SF | ZF | AF | PF),
        Form("IMUL", "6b", "r", "b", undefined=SF | ZF | AF | PF),
        Form("XLAT", "d7", width="n", setup=table), Form("LAHF", "9f", width="n"), Form("SAHF", "9e", width="n"),
        Form("CLC", "f8", width="n"), Form("STC", "f9", width="n"), Form("CMC", "f5", width="n"),
        Form("CLD", "fc", width="n"),
        Form("STD", "fd", width="n"), Form("NOP", "0f1f", 0), Form("ENDBR64", "f30f1efa", width="n"),
        Form("PAUSE", "f390", width="n"),
    ]


def _stack() -> list[Form]:
    return [
        Form("PUSH", "50", opreg=True, d64=True, setup=stack), Form("POP", "58", opreg=True, d64=True, setup=stack),
        Form("PUSH", "68", None, "z", d64=True, setup=stack), Form("PUSH", "6a", None, "b", d64=True, setup=stack),
        Form("PUSH", "ff", 6, d64=True, setup=stack), Form("POP", "8f", 0, d64=True, setup=stack),
        Form("PUSHF", "9c", d64=True, setup=stack), Form("LEAVE", "c9", d64=True, setup=frame),
        Form("ENTER", "c8", None, "e", d64=True, setup=enter),
        Form("PUSHA", "60", modes=(32,), setup=stack), Form("POPA", "61", modes=(32,), setup=stack),
    ]


def _legacy() -> list[Form]:
    """What only exists outside 64-bit mode."""
    m = (32,)
    return [
        Form("INC", "40", opreg=True, modes=m), Form("DEC", "48", opreg=True, modes=m),
        Form("DAA", "27", width="n", modes=m, undefined=OF), Form("DAS", "2f", width="n", modes=m, undefined=OF),
        Form("AAA", "37", width="n", modes=m, undefined=OF | SF | ZF | PF),
        Form("AAS", "3f", width="n", modes=m, undefined=OF | SF | ZF | PF),
        Form("AAM", "d4", None, "b", "n", modes=m, undefined=OF | AF | CF, setup=division_immediate),
        Form("AAD", "d5", None, "b", "n", modes=m, undefined=OF | AF | CF), Form("SALC", "d6", width="n", modes=m),
        Form("ARPL", "63", "r", width="w", modes=m), Form("BOUND", "62", "r", reg=False, modes=m, span=8),
    ]


def _bmi() -> list[Form]:
    def row(name, vex, opcode, modrm="r", undefined=0, needs="bmi2", **more):
        return Form(name, opcode, modrm, width="y", vex=vex, undefined=undefined, needs=needs, **more)

    return [
        row("ANDN", "38.", "f2", "r", AF | PF, "bmi1"), row("BLSR", "38.", "f3", 1, AF | PF, "bmi1"),
        row("BLSMSK", "38.", "f3", 2, AF | PF, "bmi1"), row("BLSI", "38.", "f3", 3, AF | PF, "bmi1"),
        row("BEXTR", "38.", "f7", "r", AF | SF | PF, "bmi1", setup=field_of_b), row("BZHI", "38.", "f5", "r", AF | PF, setup=field_of_b),
        row("PEXT", "38.f3", "f5"), row("PDEP", "38.f2", "f5"), row("MULX", "38.f2", "f6"), row("SHLX", "38.66", "f7"),
        row("SARX", "38.f3", "f7"), row("SHRX", "38.f2", "f7"), row("RORX", "3a.f2", "f0", imm="b", vvvv=False),
    ]


FORMS = _alu() + _shifts() + _unary() + _bits() + _conditional() + _moves() + _stack() + _legacy() + _bmi()


# -- encoding ---------------------------------------------------------------------------------------------------------
def value(rng: random.Random) -> int:
    kind = rng.random()
    if kind < 0.3:
        return rng.choice(INTERESTING)
    if kind < 0.5:
        return rng.randrange(-64, 64) & MASK64
    return rng.getrandbits(64) >> rng.choice([0, 0, 0, 16, 32, 48])


def draw_size(rng: random.Random, form: Form, mode: int) -> int:
    sizes = {"b": [1], "w": [2], "n": [0], "v": [2, 4, 8], "y": [4, 8]}[form.width]
    if form.d64 and mode == 64:
        sizes = [2, 8]
    if mode == 32:
        sizes = [s for s in sizes if s != 8]
    return rng.choice(sizes)


def address(d: Draft, short: bool) -> tuple[int, bytes, int, int]:
    """ModRM without reg, SIB and displacement, and REX.X and REX.B, for an operand at d.target; sets base and index."""
    rng = d.rng
    top = 16 if d.mode == 64 else 8
    free = [r for r in range(top) if r not in d.pinned]
    kind = rng.random()
    if (kind < 0.1 or not free) and d.target < 1 << 32:                           # disp32 alone: SIB without base in 64-bit mode
        if d.mode == 64:
            return 0x04, b"\x25" + struct.pack("<I", d.target), 0, 0
        return 0x05, struct.pack("<I", d.target), 0, 0
    base = rng.choice(free)
    index = rng.choice(free + [4])
    use_sib = base & 7 == 4 or (rng.random() < 0.6 and index != base)
    disp_size = rng.choice([0, 1, 4])
    if base & 7 == 5 and disp_size == 0:
        disp_size = 1
    disp = 0 if disp_size == 0 else rng.randrange(-128, 128) if disp_size == 1 else rng.randrange(-(1 << 20), 1 << 20)
    scale = rng.randrange(4)
    rest = d.target - disp
    has_index = use_sib and index != 4 and index != base
    if has_index:
        d.regs[index] = rng.randrange(-8, 16) & MASK64
        rest -= d.regs[index] << scale
    d.regs[base] = rest & MASK64
    if short:
        d.regs[base] = d.regs[base] & 0xFFFFFFFF | rng.getrandbits(32) << 32
    mod = {0: 0, 1: 0x40, 4: 0x80}[disp_size]
    tail = b"" if disp_size == 0 else struct.pack("<b" if disp_size == 1 else "<i", disp)
    if not use_sib:
        return mod | (base & 7), tail, 0, base >> 3
    field_ = index if has_index else 4
    return mod | 4, bytes([scale << 6 | (field_ & 7) << 3 | (base & 7)]) + tail, field_ >> 3, base >> 3


def immediate(d: Draft, form: Form) -> bytes:
    rng = d.rng
    if form.imm == "b":
        v = d.imm if d.imm else rng.choice([*COUNTS, rng.getrandbits(8)])
        d.imm = v
        return bytes([v & 0xFF])
    if form.imm == "e":
        return struct.pack("<HB", d.imm & 0xFFFF, d.imm >> 16)
    if form.imm == "w":
        return struct.pack("<H", rng.getrandbits(16))
    size = d.size if form.imm == "v" else min(d.size, 4)
    return (value(rng) & ((1 << 8 * size) - 1)).to_bytes(size, "little")


def vex(form: Form, rex_bits: int, vvvv: int) -> bytes:
    """The three-byte prefix: R X B inverted and the map, W, vvvv inverted, pp."""
    map_, pp = form.vex.split(".")
    second = (~rex_bits & 7) << 5 | {"0f": 1, "38": 2, "3a": 3}[map_]
    return bytes([0xC4, second, (rex_bits & 8) << 4 | (~vvvv & 15) << 3 | ["", "66", "f3", "f2"].index(pp)])


def make(rng: random.Random, form: Form, mode: int) -> Case:
    """A random case of a form."""
    flags = 0x202 | rng.getrandbits(12) & ARITH
    d = Draft(rng, mode, draw_size(rng, form, mode), [value(rng) for _ in range(16)], flags,
              bytearray(rng.randbytes(WINDOW_SIZE)))
    top = 16 if mode == 64 else 8
    use_rex = mode == 64 and rng.random() < 0.6
    d.g, d.rm = rng.randrange(top if use_rex else 8), rng.randrange(top if use_rex else 8)
    d.v = rng.randrange(top) if form.vvvv else 0
    d.is_mem = form.modrm is not None and form.mem and (not form.reg or rng.random() < 0.5)
    d.target = WINDOW + rng.randrange(96, 400 - form.span)
    d.edge = rng.random() < 0.1
    if d.edge:
        d.target = WINDOW + WINDOW_SIZE + rng.randrange(-10, 4)
        if mode == 64 and rng.random() < 0.2:
            d.target ^= 1 << 63                         # not canonical
    if form.setup:
        form.setup(d)
    short = mode == 64 and d.is_mem and rng.random() < 0.1
    if form.setup is string:
        short = False
    opcode = bytes.fromhex(form.opcode)
    rex_w = d.size == 8 and not form.d64
    x = b = 0
    modrm = b""
    if form.modrm is not None:
        reg = d.g if form.modrm == "r" else form.modrm
        if d.is_mem:
            if d.mode == 64 and d.target < 1 << 32 and rng.random() < 0.1:
                modrm = b"rip"
            else:
                first, tail, x, b = address(d, short)
                modrm = bytes([first | (reg & 7) << 3]) + tail
        else:
            b = d.rm >> 3
            modrm = bytes([0xC0 | (reg & 7) << 3 | (d.rm & 7)])
    else:
        reg = 0
        if form.opreg:
            opcode = opcode[:-1] + bytes([opcode[-1] | (d.rm & 7)])
            b = d.rm >> 3
    lock = b"\xf0" if form.lock and d.is_mem and rng.random() < 0.2 else b""
    sixteen = b"\x66" if d.size == 2 else b""
    rex_bits = (8 if rex_w else 0) | (reg >> 3) << 2 | x << 1 | b
    rex = bytes([0x40 | rex_bits]) if mode == 64 and (rex_bits or use_rex) and form.width != "n" else b""
    head = lock + sixteen + (b"\x67" if short else b"") + d.rep + bytes.fromhex(form.prefix) + rex + opcode
    if form.vex:
        head = (b"\x67" if short else b"") + vex(form, rex_bits, d.v) + opcode
    imm = immediate(d, form) if form.imm else b""
    if modrm == b"rip":
        relative = d.target - (CODE + len(head) + 5 + len(imm))
        modrm = bytes([0x05 | (reg & 7) << 3]) + struct.pack("<i", relative)
    if mode == 32:
        d.regs = [r & 0xFFFFFFFF for r in d.regs]
    code = head + modrm + imm
    undefined = form.undefined
    if callable(undefined):
        count = d.imm if form.imm else 1 if opcode[0] in (0xD0, 0xD1) else d.regs[1]
        undefined = undefined(d.size, count & (63 if d.size == 8 else 31))
    text = f"{form.name} {code.hex()} mode {mode} size {d.size}"
    return Case(code, d.regs, d.flags, bytes(d.data), mode, undefined, text)
