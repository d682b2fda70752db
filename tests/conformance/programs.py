"""Random small programs for the comparison with the host: what decoded blocks add to single instructions.

Flags nobody reads, compares fused with branches, loops over linked blocks, pushes and pops, several memory operands
in a page. Only flags the SDM defines are ever read. RBX and RBP point into the data window, RSP to its end, RCX
counts the loop, RSI is a small index.
"""

from __future__ import annotations

import random
import struct

from tests.conformance.forms import AF, value
from tests.conformance.hostcpu import ARITH, WINDOW, WINDOW_SIZE, Case

FREE = [0, 2, 7, 8, 9, 10, 11, 12, 13, 14, 15]         # registers programs change
ALU = range(8)                                          # ADD OR ADC SBB AND SUB XOR CMP
NO_AF = (1, 4, 6)                                       # OR AND XOR: AF undefined


class Writer:
    def __init__(self, rng: random.Random, mode: int) -> None:
        self.rng = rng
        self.free = FREE if mode == 64 else [0, 2, 7]
        self.mode = mode
        self.undefined = 0                              # flags undefined at this point

    def reg(self, size: int = 4) -> int:
        """A register to change; of bytes in 32-bit mode AL and DL (7 would be BH, a part of the pointer in EBX)."""
        return self.rng.choice(self.free if size > 1 or self.mode == 64 else [0, 2])

    def size(self) -> int:
        return self.rng.choice([1, 4, 4, 4, 8, 8, 2] if self.mode == 64 else [1, 4, 4, 2])

    def prefix(self, size: int, reg: int, rm: int, force: bool = False) -> bytes:
        bits = (8 if size == 8 else 0) | (reg >> 3) << 2 | rm >> 3
        rex = bytes([0x40 | bits]) if self.mode == 64 and (bits or size == 1 or force) else b""
        return (b"\x66" if size == 2 else b"") + rex

    def memory(self, reg: int) -> bytes:
        """ModRM, SIB, displacement: [rbx + d], [rbp + d], [rsp + d] or [rbx + rsi * s + d]."""
        kind = self.rng.randrange(4)
        low = (reg & 7) << 3
        d = struct.pack("<b", self.rng.randrange(-64, 64))
        if kind == 0:
            return bytes([0x43 | low]) + d
        if kind == 1:
            return bytes([0x45 | low]) + d
        if kind == 2:
            return bytes([0x44 | low, 0x24]) + struct.pack("<b", self.rng.randrange(8, 64))
        return bytes([0x44 | low, self.rng.randrange(4) << 6 | 6 << 3 | 3]) + d

    def operand(self, opcode: bytes, reg: int, size: int) -> bytes:
        """Opcode with an E operand that is a register or memory."""
        if self.rng.random() < 0.5:
            rm = self.reg(size)
            return self.prefix(size, reg, rm) + opcode + bytes([0xC0 | (reg & 7) << 3 | rm & 7])
        return self.prefix(size, reg, 0) + opcode + self.memory(reg)

    # -- instructions -------------------------------------------------------------------------------------------------
    def alu(self) -> bytes:
        op, size = self.rng.choice(ALU), self.size()
        self.undefined = AF if op in NO_AF else 0
        kind = self.rng.randrange(4)
        wide = size != 1
        if kind == 0:
            return self.operand(bytes([8 * op + wide]), self.reg(size), size)
        if kind == 1:
            return self.operand(bytes([8 * op + 2 + wide]), self.reg(size), size)
        if kind == 2:
            return self.operand(b"\x83" if wide else b"\x80", op, size) + self.rng.randbytes(1)
        return self.operand(b"\x81" if wide else b"\x80", op, size) + self.rng.randbytes(min(size, 4))

    def test(self) -> bytes:
        self.undefined = AF
        size = self.size()
        return self.operand(bytes([0x84 + (size != 1)]), self.reg(size), size)

    def move(self) -> bytes:
        size = self.size()
        return self.operand(bytes([self.rng.choice([0x88, 0x8A]) + (size != 1)]), self.reg(size), size)

    def extend(self) -> bytes:
        size = 4 if self.mode == 32 else self.rng.choice([4, 8])
        reg, rm = self.reg(), self.reg()
        op = self.rng.choice([0xB6, 0xB7, 0xBE, 0xBF])
        if self.rng.random() < 0.5 and not (self.mode == 32 and rm > 3):
            return self.prefix(size, reg, rm, force=True) + bytes([0x0F, op, 0xC0 | (reg & 7) << 3 | rm & 7])
        return self.prefix(size, reg, 0) + bytes([0x0F, op]) + self.memory(reg)

    def lea(self) -> bytes:
        reg = self.reg()
        return self.prefix(4 if self.mode == 32 else 8, reg, 0) + b"\x8d" + self.memory(reg)

    def step(self) -> bytes:
        """INC and DEC keep CF."""
        self.undefined &= 1
        size = self.size()
        return self.operand(bytes([0xFE + (size != 1)]), self.rng.randrange(2), size)

    def unary(self) -> bytes:
        size = self.size()
        op = self.rng.choice([2, 3])
        if op == 3:
            self.undefined = 0
        return self.operand(bytes([0xF6 + (size != 1)]), op, size)

    def shift(self) -> bytes:
        """By 1: all but AF is defined; by more, a compare must follow before flags are read."""
        size = self.size()
        op = self.rng.choice([4, 5, 7])
        if self.rng.random() < 0.5:
            self.undefined = AF
            return self.operand(bytes([0xD0 + (size != 1)]), op, size)
        code = self.operand(bytes([0xC0 + (size != 1)]), op, size) + bytes([self.rng.randrange(2, 8)])
        return code + self.alu_defined()

    def alu_defined(self) -> bytes:
        reg, rm = self.reg(), self.reg()
        self.undefined = 0
        return self.prefix(4, reg, rm) + bytes([0x39, 0xC0 | (reg & 7) << 3 | rm & 7])

    def multiply(self) -> bytes:
        size = 4 if self.mode == 32 else self.rng.choice([4, 8])
        return self.operand(b"\x0f\xaf", self.reg(), size) + self.alu_defined()

    def setcc(self) -> bytes:
        return self.condition(0x90, 1)

    def cmov(self) -> bytes:
        return self.condition(0x40, 4 if self.mode == 32 else self.rng.choice([4, 8]))

    def condition(self, base: int, size: int) -> bytes:
        return self.operand(bytes([0x0F, base + self.rng.randrange(16)]), 0 if size == 1 else self.reg(), size)

    def stack(self) -> bytes:
        a, b = self.reg(), self.reg()
        one = lambda op, r: self.prefix(4, 0, r) + bytes([op | r & 7])
        return one(0x50, a) + self.alu() + one(0x58, b)

    def skip(self) -> bytes:
        """A branch over something, often right behind a compare or test (fused)."""
        before = self.rng.choice([bytes, self.alu, self.test, self.alu_defined])()
        undefined = self.undefined
        inner = self.rng.choice([self.alu, self.move, self.step])()
        self.undefined |= undefined
        cc = self.rng.randrange(16)
        if self.rng.random() < 0.5:
            return before + bytes([0x70 + cc, len(inner)]) + inner
        return before + bytes([0x0F, 0x80 + cc]) + struct.pack("<i", len(inner)) + inner

    def call(self) -> bytes:
        """CALL to a subroutine laid out behind a jump over it."""
        body = self.alu() + b"\xc3"
        return b"\xeb" + bytes([len(body)]) + body + b"\xe8" + struct.pack("<i", -5 - len(body))

    def body(self, n: int) -> bytes:
        kinds = [self.test, self.move, self.move, self.extend, self.lea, self.step, self.unary, self.shift, self.multiply]
        kinds += [self.alu] * 4 + [self.setcc, self.cmov, self.stack, self.skip, self.skip, self.call]
        return b"".join(self.rng.choice(kinds)() for _ in range(n))


def make(rng: random.Random, mode: int) -> Case:
    """A straight program, or a loop of it counted by rCX."""
    w = Writer(rng, mode)
    code = w.body(rng.randrange(2, 12))
    regs = [value(rng) for _ in range(16)]
    regs[3], regs[5], regs[4] = WINDOW + 160, WINDOW + 240, WINDOW + 340
    regs[6], regs[1] = rng.randrange(0, 8), rng.randrange(1, 6)
    if rng.random() < 0.5:
        back = rng.choice([b"\xff\xc9", b"\x83\xe9\x01"])                                 # dec ecx; sub ecx, 1
        if len(code) + len(back) + 2 <= 128 and rng.random() < 0.5:
            code += back + b"\x75" + struct.pack("<b", -len(code) - len(back) - 2)
        else:
            code += back + b"\x0f\x85" + struct.pack("<i", -len(code) - len(back) - 6)
        w.undefined = 0
    if mode == 32:
        regs = [r & 0xFFFFFFFF for r in regs]
    flags = 0x202 | rng.getrandbits(12) & ARITH
    return Case(code, regs, flags, rng.randbytes(WINDOW_SIZE), mode, w.undefined, f"program {code.hex()} mode {mode}")
