"""A bare processor with memory, ports and a clock: what the firmware needs of an HVM guest, without a hypervisor."""

from types import SimpleNamespace

from xenfast.devices.drive import Drive
from xenfast.firmware.asm import Assembler
from xenfast.firmware.bios import Bios, BiosConfig
from xenfast.firmware.bios_rom import checksummed
from xenfast.firmware.drives import CDROM, DISK, BiosDrive
from xenfast.firmware.traps import Call
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
        self.hvm.rom = self._rom
        self.hvm.alias = lambda *_: None
        self.on_halt = None         # called at HLT with interrupts on; returns False to stop there

    def _rom(self, address, data):
        self.mem.write(address, data)
        self.machine.physmap.set(address >> 12, range(address >> 12, address + len(data) >> 12), readonly=True)

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


class Cmos:
    """A clock that stands still, and 128 bytes behind ports 70h and 71h."""

    def __init__(self, hvm):
        self.index, self.data = 0, bytearray(128)
        self.data[0:14] = bytes((0x56, 0, 0x34, 0, 0x12, 0, 3, 0x24, 0x11, 0x26, 0x26, 0x02, 0, 0x80))
        self.data[0x32] = 0x20
        hvm.ports.add(0x70, bus.Region(2, self._read, self._write, width=1, name="cmos"))

    def _read(self, offset, _size):
        return self.data[self.index] if offset else 0xFF

    def _write(self, offset, _size, value):
        if offset:
            self.data[self.index] = value
        else:
            self.index = value & 0x7F


class Screen:
    """INT 10h that remembers what was written by teletype."""

    def __init__(self, pc):
        self.pc, self.text = pc, ""

    def post(self, mem):
        """As VgaBios.post: takes the vector."""
        mem.write_int(0x10 * 4, 4, 0xC000 << 16 | 4)

    def install(self, bios):
        asm = Assembler(0x1000)
        asm.code("db 0x55, 0xAA, 1\nretf\ntrap int10\niret")
        self.pc.hvm.rom(0xC0000, checksummed(asm.finish()[:512], 511).ljust(0x1000, b"\0"))
        bios.traps.bind(0xC0004, self._int10)

    def _int10(self, call):
        if call.ah == 0x0E:
            self.text += chr(call.al)


class Memory:
    """An image in memory, as those of dom0/block."""

    def __init__(self, data, readonly=False, path="memory"):
        self.data, self.readonly, self.path = bytearray(data), readonly, path

    @property
    def size_sectors(self):
        return len(self.data) // 512

    def readv(self, offset, buffers):
        for buffer in buffers:
            buffer[:] = self.data[offset:offset + len(buffer)]
            offset += len(buffer)

    def writev(self, offset, buffers):
        for buffer in buffers:
            self.data[offset:offset + len(buffer)] = buffer
            offset += len(buffer)

    def flush(self):
        pass

    def discard(self, offset, length):
        pass

    def close(self):
        pass


class BiosPc(Pc):
    """A Pc with our BIOS, a clock and a screen.  ``power_on()`` runs until the boot sector halts or the budget is used up."""

    def __init__(self, memory=4 << 20, **config):
        super().__init__(memory)
        self.cmos = Cmos(self.hvm)
        self.screen = Screen(self)
        config.setdefault("e820", lambda: [(0, 0x9FC00, 1), (0x100000, memory - 0x100000, 1)])
        self.bios = Bios(self.hvm, BiosConfig(video=self.screen.post, **config))
        self.screen.install(self.bios)
        self.on_halt = BiosPc.tick

    def tick(self):
        """55 ms pass, and the timer interrupts."""
        self.hvm.timers.advance(54_925_493)
        self.cpu.interrupt(8)
        return True

    def power_on(self, budget=1_000_000):
        return self.run(0xF000, 0xFFF0, budget)

    @classmethod
    def started(cls, **config):
        """One that has been through power-on and found nothing to boot."""
        pc = cls(boot="", **config)
        pc.power_on(budget=3000)
        assert "No bootable device" in pc.screen.text
        return pc

    def interrupt(self, number, *, stack=0x7000, budget=100_000, **registers):
        """INT n in real mode with these registers; what comes back, flags as cf and zf."""
        self.mem.write(0x7C00, bytes((0xCD, number, 0xFA, 0xF4)))
        cpu = self.cpu
        cpu.rsp = stack
        cpu.rflags = 0x202
        for name in ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp"):
            setattr(cpu, name, 0)
        for name in ("ds", "es", "ss"):
            cpu.set_segment(name, 0, 0, 0xFFFF, 0x93)
        call = Call(self.hvm, cpu)
        for name, value in registers.items():
            setattr(call, name, value)
        reason = self.run(0, 0x7C00, budget)
        assert not self.bios.traps.failures
        if reason != Reason.HLT or cpu.rip != 0x7C04:
            return None
        call = Call(self.hvm, cpu)
        names = ("ax", "bx", "cx", "dx", "si", "di", "al", "ah", "bl", "bh", "cl", "ch", "dl", "dh", "eax", "ebx", "ecx", "edx", "es")
        return SimpleNamespace(cf=bool(cpu.rflags & 1), zf=bool(cpu.rflags & 64), **{n: getattr(call, n) for n in names})


def disk(data, kind=DISK, **more):
    return BiosDrive(Drive(Memory(data), cdrom=kind == CDROM), kind, **more)
