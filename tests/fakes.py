"""Stand-ins for parts of the core, with the same methods, for tests of the Python half alone."""

import numpy

from xenfast.xen.guest import GuestFault
from xenfast.xen.hypervisor import Hypervisor
from xenfast.xen.vcpu import EXIT_BUDGET, EXIT_HLT, EXIT_HYPERCALL, EXIT_STOP, EXIT_TIMER

PGT_WRITABLE = 7


class FakeMemory:
    """_core.Memory's contract in Python: frames with owner, count and type."""

    def __init__(self, frames: int) -> None:
        self.frames = frames
        self._data = bytearray(frames * 4096)
        self._owner: list[int | None] = [None] * frames
        self._count = [0] * frames
        self._allocated = [False] * frames
        self._type = [(0, 0)] * frames
        self.m2p = numpy.full(frames, (1 << 64) - 1, dtype=numpy.uint64)
        self.written: list[int] = []

    @property
    def free_pages(self) -> int:
        return self._owner.count(None)

    def view(self, mfn, count=1):
        if mfn < 0 or mfn + count > self.frames:
            raise ValueError(f"frame {mfn:#x} does not exist")
        return memoryview(self._data)[mfn * 4096:(mfn + count) * 4096]

    def wrote(self, mfn, count=1):
        self.written.extend(range(mfn, mfn + count))

    def alloc(self, domid, n, contiguous=False, shared=False):
        found = [mfn for mfn in range(self.frames) if self._owner[mfn] is None][:n]
        if len(found) < n:
            raise MemoryError(f"{n} frames wanted, {len(found)} are free")
        for mfn in found:
            self._owner[mfn], self._count[mfn], self._allocated[mfn] = domid, 1, True
            self._type[mfn] = (PGT_WRITABLE, 1) if shared else (0, 0)
        return numpy.array(found, dtype=numpy.uint64)

    def free(self, mfns):
        for mfn in mfns:
            mfn = int(mfn)
            if not self._allocated[mfn]:
                raise ValueError("a frame was not allocated")
            self._allocated[mfn] = False
            self.put_page(mfn)

    def free_domain(self, domid):
        self.free([mfn for mfn in range(self.frames) if self._owner[mfn] == domid and self._allocated[mfn]])

    def get_page(self, mfn, domid):
        if not 0 <= mfn < self.frames or self._owner[mfn] != domid or not self._count[mfn]:
            return False
        self._count[mfn] += 1
        return True

    def put_page(self, mfn):
        self._count[mfn] -= 1
        if not self._count[mfn]:
            self._owner[mfn] = None
            self._data[mfn * 4096:(mfn + 1) * 4096] = bytes(4096)
            self.m2p[mfn] = (1 << 64) - 1

    def get_page_type(self, mfn, wanted):
        now, uses = self._type[mfn]
        if uses and now != wanted:
            return False
        self._type[mfn] = (wanted, uses + 1)
        return True

    def put_page_type(self, mfn):
        now, uses = self._type[mfn]
        self._type[mfn] = (now, uses - 1)

    def owner(self, mfn):
        return self._owner[mfn]

    def type(self, mfn):
        return self._type[mfn]

    def count(self, mfn):
        return self._count[mfn]


class FakeCore:
    """_core.PvVcpu's contract in Python.  The guest is a generator: it yields what it does, and gets the results of its hypercalls.

    ``("work", n)`` retires n instructions, ``(nr, *args)`` is a hypercall, ``("hlt",)`` is a block answered in the core,
    ``("exit", reason)`` any other exit.  Guest virtual addresses 0x1000 .. 0x1000 + len(ram) are memory.
    """

    BASE = 0x1000

    def __init__(self, vcpu, ram=0x8000):
        self.vcpu = vcpu
        self.ram = bytearray(ram)
        self.timer_deadline = None
        self.program = None
        self.kicks = 0
        self.exit_nr, self.exit_args, self.exit_code = 0, (0,) * 6, 0
        self.vm_assist = self.iopl = self.nmi_callback = 0
        self.context = None
        self.grants = []
        self._result = None
        self._work = 0

    # memory
    def _range(self, address, n):
        at = address - self.BASE
        if at < 0 or at + n > len(self.ram):
            raise GuestFault(f"{address:#x}")
        return at

    def copy_from_guest(self, address, n):
        at = self._range(address, n)
        return bytes(self.ram[at:at + n])

    def copy_to_guest(self, address, data):
        at = self._range(address, len(data))
        self.ram[at:at + len(data)] = data

    # running
    def run(self, budget):
        clock = self.vcpu.hypervisor.clock
        if self.program is None:        # ended: whatever is pending is taken and forgotten
            self.vcpu.info_view[0:16] = bytes(16)
            return EXIT_HLT
        while True:
            if self.kicks & 1:
                self.kicks &= ~1
                return EXIT_STOP
            now = clock.now()
            if self.timer_deadline is not None and self.timer_deadline <= now:
                return EXIT_TIMER
            if self._work:
                n = min(self._work, budget)
                if clock.is_virtual:
                    if self.timer_deadline is not None:
                        n = min(n, self.timer_deadline - now)
                    clock.core.skip(n)
                self._work -= n
                budget -= n
                if not budget:
                    return EXIT_BUDGET
                continue
            try:
                step = self.program.send(self._result)
            except StopIteration:
                self.program = None
                return EXIT_HLT
            self._result = None
            if step[0] == "work":
                self._work = step[1]
            elif step[0] == "hlt":
                return EXIT_HLT
            elif step[0] == "exit":
                return step[1]
            else:
                self.exit_nr, self.exit_args = step[0], (*step[1:], 0, 0, 0, 0, 0, 0)[:6]
                return EXIT_HYPERCALL

    def hypercall_return(self, value):
        self._result = value - (1 << 64) if value >> 63 else value

    def kick(self, bits):
        self.kicks |= bits

    def registers(self):
        return {"rip": 0x1234, "rsp": 0x5678, "cs": 0xE033}

    def set_context(self, context):
        self.context = context

    def set_vcpu_info(self, mfn, offset):
        self.vcpu_info = mfn, offset

    def send_nmi(self):
        pass

    def grant_map(self, address, contains_pte, mfn, flags):
        self.grants.append((address, mfn, flags))
        return 0

    def grant_unmap(self, address, contains_pte, mfn, new):
        return 0


class FakeHypervisor(Hypervisor):
    """A hypervisor whose vcpus are FakeCores and whose memory is a FakeMemory."""

    def __init__(self, clock=None, frames=256):
        super().__init__(1, clock=clock, memory=FakeMemory(frames))

    def make_core(self, vcpu):
        return FakeCore(vcpu)


def start(domain, program, vcpu_id=0):
    """Give a vcpu a program (a generator function called with the core) and bring it up."""
    vcpu = domain.vcpus[vcpu_id]
    vcpu.core.program = program(vcpu.core)
    vcpu.initialised = True
    vcpu.bring_up()
    return vcpu
