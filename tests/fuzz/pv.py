"""Random PV guests: kernel and user code with hypercalls in between, whose frame table must add up at the end."""

from __future__ import annotations

import random
import struct

from tests.cpu.pvguest import BASE, RW, US, A, P, PvGuest, audit
from tests.fuzz.cases import corpus
from xenfast._core import ExitReason, GuestFault

CALLS = (0, 1, 2, 3, 4, 5, 8, 9, 10, 13, 14, 15, 17, 21, 22, 23, 25, 26, 29, 30)
USER = 0x400000
SLICES = 8


class PvCase:
    def __init__(self, seed: int, number: int) -> None:
        self.rng = random.Random(seed << 41 | number << 1 | 1)
        self.guest = g = PvGuest(n=32, frames=48)
        l1, l2, l3, l4, self.user_code, self.user_data = range(20, 26)
        for i in (l1, l2, l3, l4):
            g.readonly(i)
        m = g.mfn
        g.table(m[l1])[:2] = [m[self.user_code] << 12 | P | US | RW, m[self.user_data] << 12 | P | US | RW]
        g.table(m[l2])[2], g.table(m[l3])[0], g.table(m[l4])[0] = m[l1] << 12 | 7, m[l2] << 12 | 7, m[l3] << 12 | 7
        assert g.mmuext(3, m[l4]) == 0 and g.mmuext(15, m[l4]) == 0
        g.vcpu.set_kernel_stack(0xE02B, g.va(g.STACK) + 4096)

    def value(self) -> int:
        r, g = self.rng, self.guest
        kind = r.random()
        if kind < 0.5:
            return g.va(r.randrange(32)) + r.choice((0, 8 * r.randrange(512), r.randrange(4096)))
        if kind < 0.6:
            return USER + r.randrange(0x2000)
        if kind < 0.75:
            return r.choice(g.mfn) << 12 | r.choice((P | RW | US | A, P, 8 * r.randrange(512), 0))
        if kind < 0.9:
            return r.randrange(40)
        return r.choice((0x7FF0, BASE, 0xFFFF800000000000, 0xFFFF82D080000000, 1 << 47, r.getrandbits(64), 0xFFFFFFFFFFFFFFF8))

    def program(self, n: int) -> bytes:
        r = self.rng
        out = b""
        for _ in range(n):
            kind = r.random()
            if kind < 0.25:
                out += b"\xb8" + struct.pack("<I", r.choice(CALLS) if r.random() < 0.9 else r.randrange(64)) + b"\x0f\x05"
            elif kind < 0.35:
                out += bytes([0x48, 0xB8 | r.choice((2, 6, 7))]) + struct.pack("<Q", self.value())
            elif kind < 0.45:
                out += r.randbytes(r.randrange(1, 16))
            else:
                out += r.choice(r.choice(corpus(64)))
        return out[:4096]

    def arguments(self) -> bytes:
        """A page of words that are requests, multicalls or nonsense, as the hypercall at hand takes them."""
        r = self.rng
        words = [self.value() for _ in range(64)]
        for i in range(0, 64, 8):
            if r.random() < 0.3:
                words[i] = r.choice(CALLS)
        return struct.pack("<64Q", *words) * 8

    def play(self) -> int:
        r, g, v = self.rng, self.guest, self.guest.vcpu
        pages = {g.CODE: self.program(40), self.user_code: self.program(40)}
        pages |= {i: self.arguments() for i in (g.DATA, g.DATA + 1, self.user_data)}
        for i, data in pages.items():
            g.poke(g.va(i), f"{len(data)}s", data)
        for vector in range(32):
            v.set_trap(vector, g.va(g.CODE) + r.randrange(256) if r.random() < 0.95 else self.value(), r.choice((0, 3, 4, 7)))
        for kind in range(8):
            if r.random() < 0.8:
                v.set_callback(kind, g.va(g.CODE) + r.randrange(256), r.random() < 0.5)
        for _ in range(SLICES):
            v.exact = r.random() < 0.5
            if r.random() < 0.5:
                v.kernel_mode, v.rip, v.rsp = False, USER + r.randrange(128), USER + 0x2000 - 8 * r.randrange(8)
            else:
                v.kernel_mode = True
                v.load_segments()
                v.rip, v.rsp = g.va(g.CODE) + r.randrange(128), g.va(g.STACK) + 4096 - 8 * r.randrange(64)
            for name in ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11"):
                setattr(v, name, self.value())
            v.rcx = r.choice((v.rcx, r.randrange(20)))
            if r.random() < 0.2:
                v.set_upcall_pending()
            self.go(v)                # a crash is the end for a domain; here the next slice just begins elsewhere
        audit(g)
        ran = v.instructions
        v.release()
        return ran

    def go(self, v) -> None:
        for _ in range(6):
            reason = v.run(200)
            if reason == ExitReason.EXIT_HYPERCALL:
                v.hypercall_return(self.rng.choice((0, -22 & (1 << 64) - 1, self.value())))
            elif reason not in (ExitReason.EXIT_BUDGET, ExitReason.EXIT_HLT):
                return


def play(seed: int, number: int) -> int:
    """Returns the instructions run."""
    try:
        return PvCase(seed, number).play()
    except GuestFault:
        return 0                      # the guest has unmapped what the next slice wanted to write
