"""A domain with a p2m whose kernel is the test: it makes hypercalls the way a guest in 64-bit mode does, without running code.

It has the methods of ``PvGuest``, so tests of hypercalls can use either.
"""

import struct

from tests.xen.pvguest import DATA, NR
from xenfast.abi.hvm import hvm_vcpu
from xenfast.xen import hypercall
from xenfast.xen.guest import Continuation

FIRST = 0x100           # the guest frame that is number 0 here; page tables are below
P, RW, PS = 1, 2, 128
TABLES = 0x10
CODE64 = 0xA09B
CODE32 = 0xC09B


class HvmGuest:
    """``n`` frames from 1 MiB on, mapped where they are; ``mfn`` has their guest frame numbers."""

    FREE = DATA + 2

    def __init__(self, hv, n=48, vcpus=1, kind="hvm", **kwargs):
        self.hv, self.n, self.continued = hv, n, 0
        self.domain = domain = hv.create_domain(kind, kind=kind, vcpus=vcpus, max_pages=kwargs.pop("max_pages", n + 24), **kwargs)
        hvm = domain.hvm
        hvm.populate(TABLES, 3)
        hvm.populate(FIRST, n)
        self.mfn = list(range(FIRST, FIRST + n))
        hvm.physmem.write_int(TABLES << 12, 8, TABLES + 1 << 12 | P | RW)
        hvm.physmem.write_int(TABLES + 1 << 12, 8, TABLES + 2 << 12 | P | RW)
        for i in range(8):
            hvm.physmem.write_int((TABLES + 2 << 12) + 8 * i, 8, i << 21 | P | RW | PS)
        self.vcpu = domain.vcpus[0]
        self.core = self.vcpu.core
        self.vcpu.set_context(self.context(5))
        domain.start_hvm()

    def context(self, code):
        regs = hvm_vcpu.vcpu_hvm_x86_64.pack(rip=self.va(code), rsp=self.va(4) + 4096, rflags=2, cr0=0x80000011,
                                             cr3=TABLES << 12, cr4=0x20, efer=0x500)
        return hvm_vcpu.vcpu_hvm_context.pack(mode=hvm_vcpu.VCPU_HVM_MODE_64B, cpu_regs=regs)

    def va(self, i, offset=0):
        return (FIRST + i << 12) + offset

    def write(self, address, data):
        self.core.copy_to_guest(address, data)

    def read(self, address, fmt="<Q"):
        return struct.unpack(fmt, self.core.copy_from_guest(address, struct.calcsize(fmt)))

    def call(self, name, *args):
        """A hypercall: its result, as a signed number."""
        nr, args = NR.get(name, name), (*args, 0, 0, 0, 0, 0, 0)[:6]
        while True:
            try:
                result = hypercall.call(self.domain, self.vcpu, nr, args) & (1 << 64) - 1
            except Continuation as again:
                self.continued += 1
                args = (*again.arguments, *args[len(again.arguments):])
                continue
            return result - (1 << 64) if result >> 63 else result

    def op(self, name, cmd, layout, count=None, **fields):
        """A hypercall with a struct as its argument; (result, the struct afterwards)."""
        at = self.va(DATA)
        self.write(at, layout.pack(**fields))
        result = self.call(name, cmd, at, *(() if count is None else (count,)))
        return result, layout.unpack(self.core.copy_from_guest(at, layout.size))
