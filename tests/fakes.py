"""Stand-ins for parts of the core, with the same methods, for tests of the Python half alone."""

from collections import Counter

from xenfast._core import Memory
from xenfast.xen.guest import GuestFault
from xenfast.xen.hypervisor import Hypervisor
from xenfast.xen.vcpu import EXIT_BUDGET, EXIT_HLT, EXIT_HYPERCALL, EXIT_STOP, EXIT_TIMER


class FakeCore:
    """_core.PvVcpu's contract in Python.  The guest is a generator: it yields what it does, and gets the results of its
    hypercalls.

    ``("work", n)`` retires n instructions, ``(nr, *args)`` is a hypercall, ``("hlt",)`` is a block answered in the
    core, ``("exit", reason)`` any other exit.  Guest virtual addresses 0x1000 .. 0x1000 + len(ram) are memory."""

    BASE = 0x1000

    def __init__(self, vcpu, ram=0x8000):
        self.vcpu = vcpu
        self.ram = bytearray(ram)
        self.timer_deadline = None
        self.program = None
        self.kicks = 0
        self.exit_nr, self.exit_args, self.exit_code = 0, (0,) * 6, 0
        self.vm_assist = self.iopl = self.nmi_callback = 0
        self.counts = Counter()
        self.retired = 0
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
        return bytes(self.ram[at : at + n])

    def copy_to_guest(self, address, data):
        at = self._range(address, len(data))
        self.ram[at : at + len(data)] = data

    # running
    def run(self, budget):
        clock = self.vcpu.hypervisor.clock
        if self.program is None:  # ended: whatever is pending is taken and forgotten
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
                self.retired += n
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
                self.counts[step[0]] += 1
                self.exit_nr, self.exit_args = step[0], (*step[1:], 0, 0, 0, 0, 0, 0)[:6]
                return EXIT_HYPERCALL

    def hypercall_return(self, value):
        self._result = value - (1 << 64) if value >> 63 else value

    def kick(self, bits):
        self.kicks |= bits

    def registers(self):
        return {"rip": 0x1234, "rsp": 0x5678, "cs": 0xE033}

    def set_vcpu_info(self, mfn, offset):
        self.vcpu_info = mfn, offset

    def send_nmi(self):
        pass

    def release(self):
        self.program = None

    def unknown(self):
        return []

    def crash_text(self):
        return "it crashed"

    @property
    def instructions(self):
        return self.retired

    def hypercall_counts(self):
        return dict(self.counts)


class FakeHypervisor(Hypervisor):
    """A hypervisor whose vcpus are FakeCores."""

    def __init__(self, clock=None, frames=256):
        super().__init__(1, clock=clock, memory=Memory(frames))

    def make_core(self, vcpu):
        return FakeCore(vcpu)


def start(domain, program, vcpu_id=0):
    """Give a vcpu a program (a generator function called with the core) and bring it up."""
    vcpu = domain.vcpus[vcpu_id]
    vcpu.core.program = program(vcpu.core)
    vcpu.initialised = True
    vcpu.bring_up()
    return vcpu
