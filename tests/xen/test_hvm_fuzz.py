"""Hostile guests with a p2m: random code that talks to ports, device memory, local APICs, MSRs and Xen leaves the host alive.

XENFAST_FUZZ_GUESTS sets how many guests (the default is what CI runs); XENFAST_FUZZ_SEED where to begin.
"""

import logging
import os
import random
import struct

import pytest

from tests.xen.hvmguest import FIRST, HvmGuest
from xenfast.abi.hvm import hvm_vcpu
from xenfast.xen.hvm.bus import Region
from xenfast.xen.hypervisor import Hypervisor
from xenfast.xen.time import VirtualClock

GUESTS = int(os.environ.get("XENFAST_FUZZ_GUESTS", "30"))
SEED = int(os.environ.get("XENFAST_FUZZ_SEED", "1"))
APIC = 0xFEE00000
APIC_REGISTERS = (0x20, 0x80, 0xB0, 0xD0, 0xE0, 0xF0, 0x280, 0x300, 0x310, 0x320, 0x350, 0x360, 0x380, 0x3E0)
MSRS = (0x10, 0x1B, 0x3B, 0x6E0, 0x808, 0x80B, 0x80F, 0x830, 0x832, 0x838, 0x83F, 0x40000000, 0x40000001, 0xC0000080, 0x277, 0x2FF)


class Code:
    """Random 32-bit code (which is also code in 64-bit mode, of a sort)."""

    def __init__(self, rng):
        self.rng = rng

    def word(self):
        r = self.rng
        return r.choice((0, 1, r.getrandbits(8), r.getrandbits(16), r.getrandbits(32), self.address(), 0xFFFFFFFF, 0x7FF0))

    def address(self):
        r = self.rng
        page = r.choice((FIRST + r.randrange(48) << 12, 0xA0000, 0xF0000000, APIC, 0xFFFFF000, r.getrandbits(32)))
        return page + r.choice((0, 1, 4094, 8))

    def load(self, register):
        return bytes([0xB8 + register]) + struct.pack("<I", self.word() & 0xFFFFFFFF)

    def apic(self):
        value = self.rng.choice((self.word(), 0xC4500, 0x4500, 0x4600 | self.rng.randrange(256), 0xC0040, 0x20040, 0x1FF)) & 0xFFFFFFFF
        return b"\xc7\x04\x25" + struct.pack("<II", APIC + self.rng.choice(APIC_REGISTERS), value)      # mov dword [disp32], imm

    def msr(self):
        number = b"\xb9" + struct.pack("<I", self.rng.choice(MSRS))
        return number + self.load(0) + self.load(2) + self.rng.choice((b"\x0f\x30", b"\x0f\x32"))

    def memory(self):
        kind = self.rng.choice((b"\xa5", b"\xf3\xa4", b"\xf3\xab", b"\xf2\xae", b"\x8b\x07", b"\x89\x07", b"\xf0\x01\x07", b"\x87\x07",
                                b"\x0f\x10\x07", b"\x0f\x11\x07", b"\xdb\x2f", b"\xff\x37", b"\x0f\xae\x07"))
        return self.load(6) + self.load(7) + b"\xb9" + struct.pack("<I", self.rng.randrange(300)) + kind

    def port(self):
        kind = self.rng.choice((b"\xec", b"\xed", b"\xee", b"\xef", b"\x66\xed", b"\xf3\x6c", b"\xf3\x6d", b"\xf3\x66\x6d", b"\xf3\x6e",
                                b"\xf3\x6f", b"\x6c", b"\x6f", b"\xfd\xf3\x6d"))
        return self.memory()[:-1] + b"\x90" + self.load(2) + kind

    def call(self):
        return b"".join(self.load(n) for n in (0, 1, 2, 3, 6, 7)) + b"\xb8" + struct.pack("<I", self.rng.randrange(60)) + b"\x0f\x01\xc1"

    def other(self):
        return self.rng.choice((b"\xfb", b"\xfa", b"\xf4", b"\x0f\xa2", b"\x0f\x31", b"\xcd" + self.rng.randbytes(1), b"\xcc", b"\x0f\x0b",
                                b"\x0f\x20\xc0", b"\x0f\x22\xc0", b"\x0f\x22\xd8", b"\x0f\x22\xe0", b"\x0f\x01\x1c\x25\0\0\x10\0", b"\x9d",
                                b"\x0f\x01\xd9", b"\xf3\x90", self.rng.randbytes(4)))

    def program(self):
        parts = (self.apic, self.msr, self.memory, self.port, self.call, self.other)
        body = b"".join(self.rng.choice(parts)() for _ in range(40))
        return body + b"\xe9" + struct.pack("<i", -len(body) - 5)


def context32(guest):
    flat = {f"{name}_limit": 0xFFFFFFFF for name in ("cs", "ds", "ss", "es")} | dict.fromkeys(("ds_ar", "ss_ar", "es_ar"), 0xC93)
    regs = hvm_vcpu.vcpu_hvm_x86_32.pack(
        eip=guest.va(5), esp=guest.va(4), eflags=2, cr0=0x11, cs_ar=0xC9B, tr_ar=0x8B, tr_limit=0x67, **flat)
    return hvm_vcpu.vcpu_hvm_context.pack(mode=hvm_vcpu.VCPU_HVM_MODE_32B, cpu_regs=regs)


def handlers(guest, wide):
    """An IDT whose every vector goes on with the program somewhere."""
    at = guest.va(7)
    data = b""
    for vector in range(256):
        to = guest.va(8, 16 * (vector % 8))
        low = to & 0xFFFF | 8 << 16 | 0x8E << 40 | (to >> 16 & 0xFFFF) << 48
        data += struct.pack("<QQ", low, 0) if wide else struct.pack("<Q", low)
    physmem = guest.domain.hvm.physmem
    physmem.write(at, data)
    physmem.write(guest.va(6, 0x800), struct.pack("<QQQ", 0, 0x00AF9B000000FFFF if wide else 0x00CF9B000000FFFF, 0x00CF93000000FFFF))
    for vcpu in guest.domain.vcpus:
        vcpu.core.set_table("gdtr", guest.va(6, 0x800), 23)
        vcpu.core.set_table("idtr", at, 0xFFF)


@pytest.mark.parametrize("number", range(3))
def test_random_code(number, caplog):
    """No traceback, no crash for a fault of the hypervisor's, and all memory comes back."""
    rng = random.Random(SEED + number)
    hv = Hypervisor(4, clock=VirtualClock(), seed=number)
    before = hv.memory.free_pages
    with caplog.at_level(logging.ERROR):
        for _ in range(GUESTS // 3):
            guest = HvmGuest(hv, vcpus=2, kind=rng.choice(("hvm", "pvh")), max_grant_frames=4)
            domain, wide = guest.domain, rng.random() < 0.5
            if not wide:
                guest.vcpu.set_context(context32(guest))
            hvm = domain.hvm
            hvm.params[31] = rng.choice((0, 1, 3))
            hvm.ports.add(0x70, Region(8, lambda offset, size: rng.getrandbits(8 * size), lambda offset, size, value: None))
            hvm.mmio.add(0xA0000, Region(0x20000, lambda offset, size: 0, lambda offset, size, value: None, width=8))
            hvm.physmem.write(guest.va(5), Code(rng).program()[:4096])
            hvm.physmem.write(guest.va(8), Code(rng).program()[:4096])
            handlers(guest, wide)
            hv.run(timeout=0.05)
            assert "hypervisor" not in (domain.crash_reason or ""), domain.crash_dump
            domain.destroy()
    assert [record.getMessage() for record in caplog.records] == []
    assert hv.loop.failures == 0
    assert hv.memory.free_pages == before
    hv.close()
