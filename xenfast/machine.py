"""A bare machine for tools: memory, one CPU, no Xen and no devices.

    >>> m = Machine()
    >>> m.map(0x1000, 0x1000)
    >>> m.write(0x1000, bytes.fromhex("b82a000000f4"))      # mov eax, 42; hlt
    >>> m.rip = 0x1000
    >>> m.run().reason.name, m.rax
    ('HLT', 42)

The CPU starts in 64-bit mode with 4 KiB pages and flat segments (``mode=32``: 32-bit protected mode with PAE paging;
``mode=16``: real mode, no paging).  There is no IDT until the program loads one: an exception ends ``run()`` with
``EXCEPTION``.

Hooks count and filter inside the core and call Python only on a match (docs/tools.md):

    >>> m.rip = 0x1000
    >>> with m.hook_code(lambda m, address, size: print(hex(address), size), 0x1000, 0x1FFF, when=[("rax", "==", 42)]) as hook:
    ...     m.run().reason.name, hook.hits
    0x1000 5
    0x1005 1
    ('HLT', 2)
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TextIO

from xenfast import _core, cpuid
from xenfast.trace import Tracer

PAGE = 4096
LAST = (1 << 64) - 1
PTE_P, PTE_RW, PTE_US, PTE_NX = 1, 2, 4, 1 << 63
IF, APIC_PAGE = 1 << 9, 0xFEE00000
CODE64, CODE32, DATA32, CODE16, DATA16 = 0xA09B, 0xC09B, 0xC093, 0x9B, 0x93


class Reason(enum.IntEnum):
    """Why ``run()`` came back (the core's ExitReason)."""

    BUDGET = _core.ExitReason.EXIT_BUDGET
    STOP = _core.ExitReason.EXIT_STOP
    HLT = _core.ExitReason.EXIT_HLT
    PIO = _core.ExitReason.EXIT_PIO
    MMIO = _core.ExitReason.EXIT_MMIO
    HYPERCALL = _core.ExitReason.EXIT_HYPERCALL
    UNTIL = _core.ExitReason.EXIT_UNTIL
    SHUTDOWN = _core.ExitReason.EXIT_SHUTDOWN
    CRASH = _core.ExitReason.EXIT_CRASH
    MSR = _core.ExitReason.EXIT_MSR
    EXCEPTION = _core.ExitReason.EXIT_EXCEPTION
    TIMER = _core.ExitReason.EXIT_TIMER
    INTACK = _core.ExitReason.EXIT_INTACK
    EOI = _core.ExitReason.EXIT_EOI
    WAKE = _core.ExitReason.EXIT_WAKE


@dataclass(frozen=True)
class Stop:
    """What ended a run; which fields mean something depends on the reason."""

    reason: Reason
    vector: int = 0
    error: int = 0
    address: int = 0
    port: int = 0
    size: int = 0
    is_write: bool = False
    value: int = 0


class Machine:
    """One CPU and sparse memory mapped page by page.

    Registers are attributes (``rax`` ... ``r15``, ``rip``, ``rflags``); everything else of the CPU is on ``cpu`` (a
    ``_core.Vcpu``).
    """

    def __init__(self, memory: int = 64 << 20, mode: int = 64, ring: int = 0, cpu: str = cpuid.DEFAULT, lapic: bool = False,
                 virtual: bool = False) -> None:
        """``cpu`` is a model and changes of it, as of ``xenfast run --cpu``: "x86-64-v2,+sha,-popcnt".

        ``lapic`` gives the CPU a local APIC, at its place in memory and as MSRs; HLT then waits for an interrupt.
        ``virtual``: time is instructions retired, and waiting takes none.
        """
        if mode not in (16, 32, 64):
            raise ValueError(f"mode is 16, 32 or 64, not {mode}")
        frames = -(-memory // PAGE) + 16
        self.memory = _core.Memory(frames)
        self.physmap = _core.GuestPhysMap(frames)
        self.physmap.set(0, range(frames))
        self.mode = mode
        self.clock = _core.MachineClock(virtual)
        self.cpu = _core.Vcpu(self.memory, self.physmap, self.clock)
        self.cpu.exact = True
        self.cpu.owner = self
        policy = cpuid.parse(cpu)
        policy.warn()
        policy.apply(self.cpu)
        self._next_frame = 0 if mode == 16 else 1
        self._pages: dict[int, int] = {}
        self._tables: dict[tuple[int, int], int] = {}
        self._root = 0
        self._start(ring)
        if lapic:
            self.apics = _core.ApicBus()
            self.cpu.attach_lapic(self.apics, 0)
            if mode != 16:
                page = APIC_PAGE // PAGE
                self._pte(self._table(1, page >> 9), page & 511, APIC_PAGE | PTE_P | PTE_RW)

    def _start(self, ring: int) -> None:
        cpu = self.cpu
        cpu.set_table("idtr", 0, 0)
        cpu.rip = 0
        if self.mode == 16:
            cpu.set_segment("cs", 0, 0, 0xFFFF, CODE16)
            return
        self._root = self._frame()
        dpl = ring << 5
        if self.mode == 32:
            for i in range(4):
                self._pte(self._root, i, self._table(2, i) * PAGE | PTE_P)
        cpu.cr4 = 0x620                                   # PAE, OSFXSR, OSXMMEXCPT
        cpu.efer = 0xD01 if self.mode == 64 else 0x800    # LMA LME NXE SCE, or NXE
        if "avx" in cpu.features():                       # as an operating system leaves it
            cpu.cr4, cpu.xcr0 = cpu.cr4 | 1 << 18, 7
        cpu.cr3 = self._root * PAGE
        cpu.cr0 = 0x80010033
        code = CODE64 if self.mode == 64 else CODE32
        cpu.set_segment("cs", 8 | ring, 0, 0xFFFFFFFF, code | dpl)
        for name in ("ss", "ds", "es", "fs", "gs"):
            cpu.set_segment(name, 16 | ring, 0, 0xFFFFFFFF, DATA32 | dpl)
        cpu.cpl = ring

    # -- memory -------------------------------------------------------------------------------------------------------
    def _frame(self) -> int:
        if self._next_frame >= self.memory.frames:
            raise MemoryError("the machine's memory is all mapped; make it with a larger memory=")
        self._next_frame += 1
        return self._next_frame - 1

    def _pte(self, table: int, index: int, value: int) -> None:
        view = self.memory.view(table)
        view[index * 8:index * 8 + 8] = value.to_bytes(8, "little")

    def _table(self, level: int, prefix: int) -> int:
        """Frame of the page table of this level that holds the addresses with this prefix, made when missing."""
        top = 4 if self.mode == 64 else 3
        key = (level, prefix)
        if level == top:
            return self._root
        if key not in self._tables:
            frame = self._tables[key] = self._frame()
            if self.mode == 64 or level < top - 1:
                self._pte(self._table(level + 1, prefix >> 9), prefix & 511, frame * PAGE | PTE_P | PTE_RW | PTE_US)
        return self._tables[key]

    def map(self, address: int, size: int, writable: bool = True, executable: bool = True) -> None:
        """Map fresh zeroed pages over address .. address + size; pages already mapped keep their contents, and get these rights."""
        if size <= 0 or address % PAGE or size % PAGE:
            raise ValueError("address and size must be multiples of 4096")
        for page in range(address // PAGE, (address + size) // PAGE):
            frame = self._pages.get(page)
            if self.mode == 16:
                if page >= self.memory.frames:
                    raise ValueError(f"{page * PAGE:#x} is beyond the machine's memory")
                self._pages[page] = page
                continue
            if frame is None:
                frame = self._pages[page] = self._frame()
            flags = PTE_P | PTE_US | (PTE_RW if writable else 0) | (0 if executable else PTE_NX)
            page &= (1 << 36) - 1
            if self.mode == 32 and page >= 1 << 20:
                raise ValueError(f"{page * PAGE:#x} is beyond 4 GiB")
            self._pte(self._table(1, page >> 9), page & 511, frame * PAGE | flags)
        self.cpu.flush()

    def _chunks(self, address: int, size: int) -> Any:
        while size:
            n = min(size, PAGE - address % PAGE)
            frame = self._pages.get(address // PAGE)
            if frame is None:
                raise ValueError(f"{address:#x} is not mapped")
            yield frame, address % PAGE, n
            address += n
            size -= n

    def read(self, address: int, size: int) -> bytes:
        """Bytes of mapped memory."""
        return b"".join(bytes(self.memory.view(f, readonly=True)[at:at + n]) for f, at, n in self._chunks(address, size))

    def write(self, address: int, data: bytes) -> None:
        """Write mapped memory, whatever its rights; decoded code there is dropped."""
        done = 0
        for frame, at, n in self._chunks(address, len(data)):
            self.memory.view(frame)[at:at + n] = data[done:done + n]
            self.memory.wrote(frame)
            done += n

    # -- running ------------------------------------------------------------------------------------------------------
    def run(self, count: int = 1 << 62, until: int | None = None) -> Stop:
        """Run ``count`` instructions, or until RIP is ``until``, or until something ends it; says what."""
        cpu = self.cpu
        cpu.until = until
        reason = Reason(cpu.run(count) if cpu.apic_bus is None else self._run_with_apic(count))
        return Stop(reason, vector=cpu.exit_nr if reason in (Reason.EXCEPTION, Reason.EOI) else 0,
                    error=cpu.exit_code if reason is Reason.EXCEPTION else 0, address=cpu.exit_address, port=cpu.exit_port,
                    size=cpu.exit_size, is_write=cpu.exit_is_write, value=cpu.exit_value)

    def _run_with_apic(self, count: int) -> int:
        """As Vcpu.run(); HLT waits for the timer of the local APIC where it may wake the CPU."""
        cpu, end = self.cpu, self.cpu.instructions + count
        while True:
            reason = cpu.run(end - cpu.instructions)
            if reason == Reason.HLT and cpu.lapic_deadline is not None and cpu.rflags & IF:
                wait = max(0, cpu.lapic_deadline - self.clock.now())
                if self.clock.virtual:
                    self.clock.skip(wait)
                else:
                    time.sleep(wait / 1e9)
            elif reason != Reason.WAKE:
                return reason

    def stop(self) -> None:
        """From a hook, or another thread: end ``run()`` with ``STOP`` before the next instruction."""
        self.cpu.kick()

    def trace(self, kinds: Iterable[str], stream: TextIO, start: int | None = None, count: int | None = None) -> Tracer:
        """Write what the CPU does to a stream ("exec", "int", "mmu"), from RIP ``start`` on, ``count`` lines; ``close()`` ends it."""
        tracer = Tracer(kinds, stream, start, count)
        tracer.attach(self.cpu)
        return tracer

    # -- snapshots ------------------------------------------------------------------------------------------------------
    def snapshot(self) -> _core.Snapshot:
        """Registers and memory as they are now, for ``restore()``.  Costs microseconds, whatever the size of the memory."""
        snapshot = _core.Snapshot(self.cpu)
        snapshot.layout = (self._next_frame, dict(self._pages), dict(self._tables))
        return snapshot

    def restore(self, snapshot: _core.Snapshot) -> int:
        """Back to a snapshot; returns how many pages had been written.  Snapshots taken after it are no more."""
        count = snapshot.restore()
        frame, pages, tables = snapshot.layout
        if frame != self._next_frame or len(pages) != len(self._pages):
            self._next_frame, self._pages, self._tables = frame, dict(pages), dict(tables)
        return count

    # -- hooks: filters, counters and maps work in the core; see _core.Hook for what the keywords mean ------------------
    def hook_block(self, callback: Callable[[Any, int, int], object] | None = None, first: int = 0, last: int = LAST,
                   **options: Any) -> _core.Hook:
        """``callback(machine, address, size)`` where a basic block begins (size: of what is decoded of it)."""
        return self.cpu.hook(_core.HookKind.HOOK_BLOCK, callback, first, last, **options)

    def hook_code(self, callback: Callable[[Any, int, int], object] | None = None, first: int = 0, last: int = LAST,
                  **options: Any) -> _core.Hook:
        """``callback(machine, address, size)`` before an instruction; if it returns True the instruction is left out.

        ``mnemonics=["CPUID", "SYSCALL"]`` restricts it to these instructions.
        """
        return self.cpu.hook(_core.HookKind.HOOK_CODE, callback, first, last, **options)

    def hook_memory(self, callback: Callable[[Any, int, int, bool, int], object] | None = None, first: int = 0, last: int = LAST,
                    read: bool = True, write: bool = True, **options: Any) -> _core.Hook:
        """``callback(machine, address, size, is_write, value)`` before the program reads or writes memory.

        Descriptor tables, page tables and interrupt frames are the processor's own accesses and are not told.
        """
        kind = (_core.HookKind.HOOK_READ if read else 0) | (_core.HookKind.HOOK_WRITE if write else 0)
        return self.cpu.hook(kind, callback, first, last, **options)

    def hook_interrupt(self, callback: Callable[[Any, int, int], object] | None = None, first: int = 0, last: int = 255,
                       **options: Any) -> _core.Hook:
        """``callback(machine, vector, error)`` before an exception or INT n is delivered; True: it is dealt with."""
        return self.cpu.hook(_core.HookKind.HOOK_INTERRUPT, callback, first, last, **options)

    def hook_port(self, callback: Callable[[Any, int, int, int | None], int | None] | None = None, first: int = 0, last: int = 0xFFFF,
                  **options: Any) -> _core.Hook:
        """``callback(machine, port, size, value)``; for a read the value is None and the answer is what is returned.

        Without a callback the core answers (``answer=``, all ones) and counts.
        """
        return self.cpu.hook(_core.HookKind.HOOK_PORT, callback, first, last, **options)

    def hook_hypercall(self, callback: Callable[[Any, int], int | None] | None = None, first: int = 0, last: int = LAST,
                       **options: Any) -> _core.Hook:
        """``callback(machine, number)`` for VMCALL and VMMCALL with the number in RAX; what it returns goes to RAX."""
        return self.cpu.hook(_core.HookKind.HOOK_HYPERCALL, callback, first, last, **options)

    def __getattr__(self, name: str) -> int:
        if name.startswith("_") or name == "cpu":
            raise AttributeError(name)
        return getattr(self.cpu, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _core.REGISTERS or name in ("rip", "rflags"):
            setattr(self.cpu, name, value)
        else:
            object.__setattr__(self, name, value)
