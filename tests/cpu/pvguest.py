"""A PV domain of a few frames with page tables, for tests of page typing and hypercalls; and the audit of its frame table."""

import struct

import numpy

from xenfast._core import MachineClock, Memory, PvDomain, PvVcpu

P, RW, US, A, D, PSE, G = 1, 2, 4, 32, 64, 128, 256
NX = 1 << 63
KERNEL = 1 << 52                # _PAGE_GUEST_KERNEL
BASE = 0xFFFF880000000000       # L4 slot 272, the first one behind Xen's
L1, L2, L3, L4, SEG, WRITABLE = 1, 2, 3, 4, 5, 7
VALIDATED, PINNED, ALLOCATED, SHARED = 1, 2, 4, 16
ADDR = 0x000FFFFFFFFFF000
EINVAL, EBUSY, EPERM, ESRCH, EFAULT, ENOSYS = -22, -16, -1, -3, -14, -38
SELF = 0x7FF0


class PvGuest:
    """``n`` frames mapped at BASE in order: all writable but the page tables.  Frame i of the guest is machine frame mfn[i]."""

    L4, L3, L2, L1, STACK, CODE, DATA = 0, 1, 2, 3, 4, 5, 6
    FREE = 16                   # from here on nothing is used

    def __init__(self, n=64, frames=128, vcpus=1, beside=None, domid=1, virtual=True):
        self.beside = [] if beside is None else beside.beside        # the domains of one memory
        self.beside.append(self)
        self.memory = beside.memory if beside else Memory(frames)
        self.clock = MachineClock(virtual)
        self.domain = PvDomain(self.memory, domid)
        self.domid = domid
        self.mfn = self.memory.alloc(domid, n).tolist()
        self.shared = int(self.memory.alloc(domid, 1, shared=True)[0])
        for pfn, mfn in enumerate(self.mfn):
            self.memory.m2p[mfn] = pfn
        m = self.mfn
        self.table(m[self.L4])[272] = m[self.L3] << 12 | P | RW | US | A
        self.table(m[self.L3])[0] = m[self.L2] << 12 | P | RW | US | A
        self.table(m[self.L2])[0] = m[self.L1] << 12 | P | RW | US | A
        l1 = self.table(m[self.L1])
        for i, mfn in enumerate(m):
            l1[i] = mfn << 12 | P | A | D | (0 if i <= self.L1 else RW)
        assert self.domain.pin_l4(m[self.L4]) == 0
        self.vcpus = []
        for i in range(vcpus):
            vcpu = PvVcpu(self.memory, clock=self.clock, domain=self.domain, vcpu_id=i)
            assert vcpu.set_cr3(m[self.L4]) == 0
            vcpu.set_vcpu_info(self.shared, 64 * i)
            vcpu.upcall_mask = True
            vcpu.start(self.va(self.CODE), 0, self.va(self.STACK) + 4096)
            self.vcpus.append(vcpu)
        self.vcpu = self.vcpus[0]

    def table(self, mfn):
        return self.memory.array(mfn)

    def va(self, i):
        return BASE + (i << 12)

    def pte(self, i, table=None):
        """Machine address of the L1 entry that maps the guest's frame i."""
        return (self.mfn[self.L1] if table is None else table) << 12 | i * 8

    def poke(self, address, fmt, *values):
        self.vcpu.copy_to_guest(address, struct.pack(fmt, *values))

    def peek(self, address, fmt="<Q"):
        return struct.unpack(fmt, self.vcpu.copy_from_guest(address, struct.calcsize(fmt)))

    def mmu_update(self, *requests, domid=SELF):
        """requests: (ptr, val) ...; the result and how many were done."""
        at = self.va(self.DATA)
        for i, (ptr, val) in enumerate(requests):
            self.poke(at + 16 * i, "<QQ", ptr, val & (1 << 64) - 1)
        self.poke(at + 4088, "<I", 0)
        rc = self.vcpu.hypercall(1, at, len(requests), at + 4088, domid)
        return rc, self.peek(at + 4088, "<I")[0]

    def mmuext(self, cmd, arg1=0, arg2=0):
        at = self.va(self.DATA)
        self.poke(at, "<IIQQ", cmd, 0, arg1, arg2)
        return self.vcpu.hypercall(26, at, 1, 0, SELF)

    def set_pte(self, i, value):
        """Change the L1 entry of the guest's frame i."""
        return self.mmu_update((self.pte(i), value))[0]

    def readonly(self, i):
        assert self.set_pte(i, self.mfn[i] << 12 | P | A) == 0
        return self.mfn[i]

    def make_table(self, i, entries, type):
        """Fill the guest's frame i, make it read-only and pin it as a table."""
        self.table(self.mfn[i])[:] = 0
        for index, value in entries.items():
            self.table(self.mfn[i])[index] = value & (1 << 64) - 1
        mfn = self.readonly(i)
        return self.mmuext(type - 1, mfn)

    def code(self, data, i=None):
        """Put machine code into the code page."""
        self.poke(self.va(self.CODE if i is None else i), f"{len(data)}s", data)


def audit(guest, held=None):
    """Recount every reference from page tables, pins, CR3s, GDTs and allocations: the frame table must say the same.

    held: {mfn: (references, uses)} of what the test itself holds.
    """
    memory = guest.memory
    table = memory.frame_table
    count = numpy.zeros(memory.frames, dtype=numpy.int64)
    uses = numpy.zeros(memory.frames, dtype=numpy.int64)
    used_as: dict = {}

    def use(mfn, type):
        count[mfn] += 1
        uses[mfn] += 1
        used_as.setdefault(int(mfn), set()).add(type)

    count[(table["flags"] & ALLOCATED) != 0] += 1
    uses[(table["flags"] & SHARED) != 0] += 1
    for mfn in numpy.nonzero(table["flags"] & PINNED)[0]:
        use(mfn, int(table["type"][mfn]))
    for domain in guest.beside:
        for vcpu in domain.vcpus:
            for cr3 in (vcpu.cr3, vcpu.user_cr3):
                if cr3:
                    use(cr3 >> 12, L4)
            for mfn in vcpu.gdt_frames():
                use(mfn, SEG)
    for mfn, (references, types) in (held or {}).items():
        count[mfn] += references
        uses[mfn] += types
    valid = (table["flags"] & VALIDATED) != 0
    for mfn in numpy.nonzero(valid & (table["type"] >= 1) & (table["type"] <= 4))[0]:
        level = int(table["type"][mfn])
        entries = memory.array(int(mfn))
        if level == 4:
            assert not entries[256:272].any(), f"Xen's slots of {mfn:#x}"
        for e in entries[(entries & numpy.uint64(P)) != 0].tolist():
            target = (e & ADDR) >> 12
            assert target < memory.frames, f"an entry of {mfn:#x} leads nowhere"
            assert e & US, f"an entry of {mfn:#x} is not a user mapping"
            if level > 1:
                assert not e & PSE
                if target == mfn:
                    assert not e & RW
                else:
                    use(target, level - 1)
            elif e & RW:
                use(target, WRITABLE)
            else:
                count[target] += 1
    for mfn, types in used_as.items():
        assert types == {int(table["type"][mfn])}, f"frame {mfn:#x} of type {table['type'][mfn]} is used as {types}"
    free = table["owner"] == 0x7FF4
    assert not table["count"][free].any() and not table["type_count"][free].any()
    wrong = numpy.nonzero((table["count"] != count) | (table["type_count"] != uses))[0]
    assert not len(wrong), [(hex(m), int(table["count"][m]), int(count[m]), int(table["type_count"][m]), int(uses[m]),
                             int(table["type"][m])) for m in wrong[:5]]
    tables = (table["type_count"] > 0) & (table["type"] != WRITABLE)
    assert (valid == tables).all(), "a table in use is not validated, or the other way round"
    assert memory.free_pages == int(free.sum())
