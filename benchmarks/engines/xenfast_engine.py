"""xenfast's own core through the tools API: a bare machine in 64-bit mode with 4 KiB pages."""

from __future__ import annotations

import importlib.util
import time

from benchmarks.blobs import BASE, MAPPED, RETURN, STACK_TOP, Blob
from benchmarks.engines.base import EngineFailed, Result, Session

HLT = b"\xf4"


class XenfastSession(Session):
    def __init__(self, blob: Blob) -> None:
        from xenfast.machine import Machine

        self.machine = Machine(memory=2 * MAPPED, mode=64)
        self.machine.map(BASE, MAPPED)
        self.machine.write(BASE, blob.image)
        self.machine.write(RETURN, HLT)
        self.machine.cpu.cr4 |= 1 << 18                         # OSXSAVE, and AVX in XCR0, as a system would set them
        self.machine.cpu.xcr0 = 7
        self.machine.cpu.set_x87(0x37F, 0, 0, [(0, 0)] * 8)     # as FNINIT leaves it; a reset leaves 0x40
        self.entry = blob.entry

    def run(self, n: int) -> Result:
        machine = self.machine
        machine.write(STACK_TOP - 8, RETURN.to_bytes(8, "little"))
        machine.rip, machine.rsp, machine.rdi = self.entry, STACK_TOP - 8, n
        before = machine.cpu.instructions
        start = time.thread_time_ns()
        stop = machine.run()
        end = time.thread_time_ns()
        if stop.reason.name != "HLT":
            code = self._bytes(machine.rip)
            unknown = machine.cpu.unknown()
            raise EngineFailed(f"xenfast stopped at {machine.rip:#x} ({code}): {stop}; unknown: {unknown}")
        return Result(machine.rax, (end - start) / 1e9, machine.cpu.instructions - before)

    def _bytes(self, rip: int) -> str:
        try:
            return self.machine.read(rip, 15).hex(" ")
        except ValueError:
            return "not mapped"


class XenfastInterpreter:
    name = "xenfast"
    can = frozenset({"int", "sse2", "x87", "avx2", "ring0"})

    def missing(self) -> str | None:
        if importlib.util.find_spec("xenfast._core") is None:
            return "xenfast._core is not built"
        return None

    def version(self) -> str:
        import xenfast

        return f"xenfast {xenfast.__version__} (translator)"

    def open(self, blob: Blob) -> Session:
        return XenfastSession(blob)
