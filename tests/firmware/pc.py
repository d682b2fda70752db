"""A bare processor with memory, ports and a clock: what the firmware needs of an HVM guest, without a hypervisor."""

from types import SimpleNamespace

from xenfast.machine import Machine, Reason
from xenfast.xen.hvm import bus
from xenfast.xen.hvm.physmem import PhysMem

IF = 1 << 9


class FakeTimers:
    """``Timers`` on a clock that only moves when told to."""

    def __init__(self):
        self.time = 0
        self.calls = []

    def now(self):
        return self.time

    def call_at(self, deadline, callback, *args):
        timer = SimpleNamespace(callback=callback, args=args, deadline=deadline, cancel=lambda: None)
        timer.cancel = lambda: setattr(timer, "callback", None)
        self.calls.append(timer)
        return timer

    def call_later(self, delay, callback, *args):
        return self.call_at(self.time + delay, callback, *args)

    def call_soon(self, callback, *args):
        self.call_at(self.time, callback, *args)

    def advance(self, ns):
        self.time += ns
        due = [t for t in self.calls if t.deadline <= self.time]
        self.calls = [t for t in self.calls if t.deadline > self.time]
        for timer in due:
            if timer.callback is not None:
                timer.callback(*timer.args)


class Pc:
    """``hvm`` is what a domain's ``hvm`` is; ``run()`` answers ports and halts until the code stops."""

    def __init__(self, memory=2 << 20):
        self.machine = Machine(memory, mode=16)
        self.machine.map(0, memory)
        self.cpu = self.machine.cpu
        self.cpu.set_table("idtr", 0, 0x3FF)
        for name in ("ss", "ds", "es", "fs", "gs"):
            self.cpu.set_segment(name, 0, 0, 0xFFFF, 0x93)
        self.hvm = SimpleNamespace(
            physmap=self.machine.physmap, physmem=PhysMem(self.machine.memory, self.machine.physmap), ports=bus.ports(),
            mmio=bus.memory(), timers=FakeTimers(), current=self.cpu,
        )
        self.on_halt = None         # called at HLT with interrupts on; returns False to stop there

    @property
    def mem(self):
        return self.hvm.physmem

    def run(self, cs=None, ip=None, budget=1_000_000):
        """Run from CS:IP until HLT (with interrupts off, or nobody to wake it), or the budget is used up."""
        cpu = self.cpu
        if cs is not None:
            cpu.set_segment("cs", cs, cs << 4, 0xFFFF, 0x9B)
            cpu.rip = ip
        end = cpu.instructions + budget
        while cpu.instructions < end:
            reason = Reason(cpu.run(end - cpu.instructions))
            if reason == Reason.PIO:
                if cpu.exit_is_write:
                    self.hvm.ports.write(cpu.exit_port, cpu.exit_size, cpu.exit_value)
                else:
                    cpu.pio_return(self.hvm.ports.read(cpu.exit_port, cpu.exit_size))
            elif reason == Reason.MMIO:
                address, size = cpu.exit_address, cpu.exit_size
                if cpu.exit_is_write:
                    self.hvm.mmio.write(address, size, cpu.exit_value)
                    cpu.mmio_return()
                else:
                    cpu.mmio_return(self.hvm.mmio.read(address, size))
            elif reason == Reason.HLT:
                if not cpu.rflags & IF or self.on_halt is None or not self.on_halt(self):
                    return reason
            elif reason != Reason.BUDGET:
                return reason
        return Reason.BUDGET
