"""Traces: instructions as text, exceptions and software interrupts, hypercalls of a PV kernel, what the MMU does, in the order they happen.

    exec       rip, the instruction as the disassembler prints it
    int        exceptions and INT n before they are delivered: vector, error code, CR2 of a page fault
    hypercall  of a PV kernel, before it is made: name or number, and its arguments; and its result, when the kernel gets it
    mmu        page walks that succeed (linear, physical, machine frame, rights: u user, w writable, x executable, g global; size of the
               page) and flushes, those of the emulator too; an access that the TLB answers is not there

It is made of hooks (docs/tools.md) and, for ``mmu``, of a ring in the core, read before each other line and whenever run() returns; what
the ring had no room for is counted.  It costs nothing when it is off.  The disassembler is capstone (the extra
``xenfast[trace]``); only ``exec`` needs it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any, TextIO

from xenfast import _core
from xenfast.errors import XenfastError

KINDS = ("exec", "int", "hypercall", "mmu")
LAST = (1 << 64) - 1
EXCEPTIONS = {0: "#DE", 1: "#DB", 3: "#BP", 4: "#OF", 5: "#BR", 6: "#UD", 7: "#NM", 8: "#DF", 10: "#TS", 11: "#NP", 12: "#SS", 13: "#GP",
              14: "#PF", 16: "#MF", 17: "#AC", 19: "#XM"}
SIZES = {12: "4K", 21: "2M", 22: "4M", 30: "1G"}


def parse_kinds(text: str) -> list[str]:
    """The kinds of "exec,int"; XenfastError for one that there is not."""
    kinds = [kind.strip() for kind in text.split(",")]
    for kind in kinds:
        if kind not in KINDS:
            raise XenfastError(f"there is no trace of {kind!r} ({', '.join(KINDS)})")
    return kinds


def disassembler() -> Any:
    """capstone, or one sentence about how to get it."""
    try:
        return importlib.import_module("capstone")
    except ImportError:
        raise XenfastError("a trace of instructions needs the disassembler capstone (pip install 'xenfast[trace]')") from None


class Tracer:
    """Writes what vcpus do to a stream: from the first time RIP is ``start`` on, at most ``count`` lines."""

    def __init__(self, kinds: Iterable[str], stream: TextIO, start: int | None = None, count: int | None = None,
                 hypercall_name: Callable[[int], str] = str, place: Callable[[int], str] | None = None) -> None:
        self.kinds, self.stream, self.start, self.left = list(kinds), stream, start, count
        self.started = start is None
        self.hypercall_name, self.place = hypercall_name, place
        self._engines: dict[int, Any] = {}
        self._capstone: Any = disassembler() if "exec" in self.kinds else None
        self._hooks: list[_core.Hook] = []
        self._mmu: dict[int, tuple[_core.Vcpu, str]] = {}                 # by id()
        self._returns: dict[tuple[int, int], dict[int, str]] = {}         # (vcpu, address behind a SYSCALL): RSP -> hypercall

    def attach(self, core: _core.Vcpu, label: str = "") -> None:
        """Trace this vcpu; ``label`` begins each of its lines."""
        if self.start is not None:
            self._hook(core, _core.HookKind.HOOK_CODE, lambda *_: self._begin(core), self.start, self.start)
        if "exec" in self.kinds:
            self._hook(core, _core.HookKind.HOOK_CODE, lambda _, address, size: self._exec(core, label, address, size))
        if "int" in self.kinds:
            self._hook(core, _core.HookKind.HOOK_INTERRUPT, lambda _, vector, error: self._int(core, label, vector, error), last=255)
        if "hypercall" in self.kinds:
            self._hook(core, _core.HookKind.HOOK_CODE, lambda *_: self._hypercall(core, label), mnemonics=["SYSCALL"])
        if "mmu" in self.kinds:
            if core.mmu_traced:
                raise XenfastError("a vcpu's MMU is traced once at a time")
            self._mmu[id(core)] = core, label
            core.trace_mmu(lambda: self._drain(core))

    def _hook(self, core: _core.Vcpu, kind: int, callback: Any, first: int = 0, last: int = LAST, **options: Any) -> None:
        self._hooks.append(core.hook(kind, callback, first, last, **options))

    def close(self) -> None:
        """Trace nothing any more."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._returns.clear()
        for core, _ in self._mmu.values():
            self._drain(core)
            core.trace_mmu(None)
        self._mmu.clear()

    def _begin(self, core: _core.Vcpu) -> None:
        if not self.started:
            self._drain(core)
            self.started = True

    def _drain(self, core: _core.Vcpu) -> None:
        """Write what the MMU has done meanwhile."""
        if id(core) not in self._mmu:
            return
        label = self._mmu[id(core)][1]
        events, lost = core.mmu_events()
        if lost:
            self._write(label, f"mmu {lost} events lost")
        for kind, linear, physical, frame, rights, shift in events:
            if kind in ("flush page", "read", "write", "fetch"):
                kind += f" {linear:016x}"
            elif kind.endswith("pcid"):
                kind += f" {linear:#x}"
            self._write(label, f"mmu {kind} -> {physical:016x} frame {frame:#x} {rights} {SIZES[shift]}" if shift else f"mmu {kind}")

    def _line(self, core: _core.Vcpu, label: str, text: str) -> None:
        self._drain(core)
        self._write(label, text)

    def _write(self, label: str, text: str) -> None:
        if not self.started or self.left == 0:
            return
        if self.left is not None:
            self.left -= 1
        self.stream.write(f"{label}{text}\n")

    def _exec(self, core: Any, label: str, address: int, size: int) -> None:
        self._result(core, label)
        if self.started and self.left != 0:
            self._line(core, label, f"{address:016x}{self._place(address)}: {self._text(core, address, size)}")

    def _place(self, address: int) -> str:
        place = self.place(address) if self.place is not None else ""
        return f" <{place}>" if place else ""

    def _text(self, core: Any, address: int, size: int) -> str:
        try:
            code = core.read(address, size or 15)
        except _core.GuestFault:
            return "?"
        for _, _, mnemonic, operands in self._engine(core).disasm_lite(code, address, 1):
            return f"{mnemonic} {operands}".rstrip()
        return ".byte " + code.hex(" ")

    def _engine(self, core: Any) -> Any:
        attributes = core.segment("cs")[3]
        bits = 64 if core.efer >> 10 & 1 and attributes >> 13 & 1 else 32 if attributes >> 14 & 1 else 16
        if bits not in self._engines:
            capstone = self._capstone
            mode = {64: capstone.CS_MODE_64, 32: capstone.CS_MODE_32, 16: capstone.CS_MODE_16}[bits]
            self._engines[bits] = capstone.Cs(capstone.CS_ARCH_X86, mode)
        return self._engines[bits]

    def _int(self, core: Any, label: str, vector: int, error: int) -> None:
        at = f" cr2 {core.cr2:#x}" if vector == 14 else ""
        name = EXCEPTIONS.get(vector, "")
        self._line(core, label, f"int {vector:#04x} {name:3} error {error or 0:#x}{at} at {core.rip:016x}{self._place(core.rip)}")

    def _hypercall(self, core: Any, label: str) -> None:
        if isinstance(core, _core.PvVcpu) and core.kernel_mode:
            arguments = ", ".join(f"{value:#x}" for value in (core.rdi, core.rsi, core.rdx, core.r10, core.r8))
            name = self.hypercall_name(core.rax)
            self._line(core, label, f"hypercall {name}({arguments})")
            behind = core.rip + 2
            if (id(core), behind) not in self._returns:
                self._returns[id(core), behind] = {}
                self._hook(core, _core.HookKind.HOOK_CODE, lambda *_: self._result(core, label), behind, behind)
            self._returns[id(core), behind][core.rsp] = name

    def _result(self, core: Any, label: str) -> None:
        """Behind a SYSCALL, with the stack it was made with: the hypercall has returned."""
        calls = self._returns.get((id(core), core.rip))
        if calls and core.kernel_mode and core.rsp in calls:
            name = calls.pop(core.rsp)
            self._line(core, label, f"hypercall {name} = {core.rax:#x}")
