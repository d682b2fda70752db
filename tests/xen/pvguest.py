"""A PV domain with real page tables whose kernel is the test: it makes hypercalls the way a guest does, without running
code.
"""

import struct

from xenfast.abi import vcpu as vcpu_abi
from xenfast.abi import xen
from xenfast.xen import hypercall
from xenfast.xen.guest import Continuation

P, RW, US, A, D = 1, 2, 4, 32, 64
BASE = 0xFFFF880000000000  # L4 slot 272, the first one behind Xen's
L4, L3, L2, L1, STACK, CODE, DATA = range(7)

NR = {
    name.removeprefix("__HYPERVISOR_"): value for name, value in vars(xen).items() if name.startswith("__HYPERVISOR_")
}


class PvGuest:
    """``n`` frames mapped at BASE in order, all writable but the four page tables; frame i is machine frame
    ``mfn[i]``.
    """

    FREE = DATA + 2  # from here on nothing is used; frames n - 2 .. n - 1 are left unmapped

    def __init__(self, hv, n=48, vcpus=1, **kwargs):
        self.hv, self.n = hv, n
        self.continued = 0
        self.domain = domain = hv.create_domain("pv", vcpus=vcpus, max_pages=kwargs.pop("max_pages", n + 16), **kwargs)
        self.mfn = m = [int(mfn) for mfn in domain.alloc_pages(n)]
        hv.memory.m2p[m] = range(n)
        for table, entry in ((L4, (272, L3)), (L3, (0, L2)), (L2, (0, L1))):
            hv.memory.array(m[table])[entry[0]] = m[entry[1]] << 12 | P | RW | US | A
        l1 = hv.memory.array(m[L1])
        for i in range(n - 2):
            l1[i] = m[i] << 12 | P | A | D | US | (RW if i > L1 else 0)
        domain.start_pv(m[L4], self.context(CODE))
        self.vcpu = domain.vcpus[0]
        self.core = self.vcpu.core

    def context(self, code):
        regs = vcpu_abi.cpu_user_regs.pack(
            rip=self.va(code), rsp=self.va(STACK) + 4096, rflags=0x200, cs=xen.FLAT_KERNEL_CS, ss=xen.FLAT_KERNEL_SS
        )
        return vcpu_abi.vcpu_guest_context.pack(
            fpu_ctxt=bytes(512),
            flags=vcpu_abi.VGCF_in_kernel,
            user_regs=regs,
            trap_ctxt=bytes(4096),
            ctrlreg=(0, 0, 0, self.mfn[L4] << 12, 0, 0, 0, 0),
        )

    def va(self, i, offset=0):
        return BASE + (i << 12) + offset

    def write(self, address, data):
        self.core.copy_to_guest(address, data)

    def read(self, address, fmt="<Q"):
        return struct.unpack(fmt, self.core.copy_from_guest(address, struct.calcsize(fmt)))

    def call(self, name, *args):
        """A hypercall: its result, as a signed number."""
        nr = NR.get(name, name)
        result = self.core.hypercall(nr, *args)
        if result is None:
            try:
                result = hypercall.call(self.domain, self.vcpu, self.core.exit_nr, self.core.exit_args)
            except Continuation as again:
                self.core.hypercall_return(0)
                self.continued += 1
                return self.call(name, *again.arguments, *args[len(again.arguments) :])
            if self.vcpu.core is not None:
                self.core.hypercall_return(result & (1 << 64) - 1)
        result &= (1 << 64) - 1
        return result - (1 << 64) if result >> 63 else result

    def op(self, name, cmd, layout, count=None, **fields):
        """A hypercall with a struct as its argument; (result, the struct afterwards)."""
        at = self.va(DATA)
        self.write(at, layout.pack(**fields))
        result = self.call(name, cmd, at, *(() if count is None else (count,)))
        return result, layout.unpack(self.core.copy_from_guest(at, layout.size))

    def code(self, data):
        """Machine code at the entry of vcpu 0."""
        self.hv.memory.view(self.mfn[CODE])[: len(data)] = data
        self.hv.memory.wrote(self.mfn[CODE])
