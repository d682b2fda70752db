"""Traces: each instruction as text, each exception or software interrupt, each hypercall of a PV kernel, in the order they happen.

    exec       rip, the instruction as the disassembler prints it
    int        exceptions and INT n before they are delivered: vector, error code, CR2 of a page fault
    hypercall  of a PV kernel, before it is made: name or number, and its arguments

It is made of hooks (docs/tools.md), so it costs nothing when it is off.  The disassembler is capstone (the extra
``xenfast[trace]``); only ``exec`` needs it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any, TextIO

from xenfast import _core
from xenfast.errors import XenfastError

KINDS = ("exec", "int", "hypercall")
LAST = (1 << 64) - 1
EXCEPTIONS = {0: "#DE", 1: "#DB", 3: "#BP", 4: "#OF", 5: "#BR", 6: "#UD", 7: "#NM", 8: "#DF", 10: "#TS", 11: "#NP", 12: "#SS", 13: "#GP",
              14: "#PF", 16: "#MF", 17: "#AC", 19: "#XM"}


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
                 hypercall_name: Callable[[int], str] = str) -> None:
        self.kinds, self.stream, self.start, self.left = list(kinds), stream, start, count
        self.started = start is None
        self.hypercall_name = hypercall_name
        self._engines: dict[int, Any] = {}
        self._capstone: Any = disassembler() if "exec" in self.kinds else None
        self._hooks: list[_core.Hook] = []

    def attach(self, core: _core.Vcpu, label: str = "") -> None:
        """Trace this vcpu; ``label`` begins each of its lines."""
        if self.start is not None:
            self._hook(core, _core.HookKind.HOOK_CODE, lambda *_: self._begin(), self.start, self.start)
        if "exec" in self.kinds:
            self._hook(core, _core.HookKind.HOOK_CODE, lambda _, address, size: self._exec(core, label, address, size))
        if "int" in self.kinds:
            self._hook(core, _core.HookKind.HOOK_INTERRUPT, lambda _, vector, error: self._int(core, label, vector, error), last=255)
        if "hypercall" in self.kinds:
            self._hook(core, _core.HookKind.HOOK_CODE, lambda *_: self._hypercall(core, label), mnemonics=["SYSCALL"])

    def _hook(self, core: _core.Vcpu, kind: int, callback: Any, first: int = 0, last: int = LAST, **options: Any) -> None:
        self._hooks.append(core.hook(kind, callback, first, last, **options))

    def close(self) -> None:
        """Trace nothing any more."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _begin(self) -> None:
        self.started = True

    def _line(self, label: str, text: str) -> None:
        if not self.started or self.left == 0:
            return
        if self.left is not None:
            self.left -= 1
        self.stream.write(f"{label}{text}\n")

    def _exec(self, core: Any, label: str, address: int, size: int) -> None:
        if self.started and self.left != 0:
            self._line(label, f"{address:016x}: {self._text(core, address, size)}")

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
        self._line(label, f"int {vector:#04x} {EXCEPTIONS.get(vector, ''):3} error {error or 0:#x}{at} at {core.rip:016x}")

    def _hypercall(self, core: Any, label: str) -> None:
        if isinstance(core, _core.PvVcpu) and core.kernel_mode:
            arguments = ", ".join(f"{value:#x}" for value in (core.rdi, core.rsi, core.rdx, core.r10, core.r8))
            self._line(label, f"hypercall {self.hypercall_name(core.rax)}({arguments})")
