"""Unicorn: QEMU's TCG as a library (a fork of QEMU 5), through its Python package."""

from __future__ import annotations

import importlib.util
import time

from benchmarks.blobs import BASE, MAPPED, RETURN, STACK_TOP, Blob
from benchmarks.engines.base import EngineFailed, Result, Session


class UnicornSession(Session):
    def __init__(self, blob: Blob) -> None:
        import unicorn
        from unicorn import x86_const

        self.const = x86_const
        self.error = unicorn.UcError
        self.entry = blob.entry
        self.uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        self.uc.mem_map(BASE, MAPPED)
        self.uc.mem_write(BASE, blob.image)
        self.uc.reg_write(x86_const.UC_X86_REG_FPCW, 0x37F)     # as a process finds it, and as FNINIT leaves it

    def run(self, n: int) -> Result:
        uc, const = self.uc, self.const
        uc.mem_write(STACK_TOP - 8, RETURN.to_bytes(8, "little"))
        uc.reg_write(const.UC_X86_REG_RSP, STACK_TOP - 8)
        uc.reg_write(const.UC_X86_REG_RDI, n)
        start = time.thread_time_ns()
        try:
            uc.emu_start(self.entry, RETURN)
        except self.error as error:
            raise EngineFailed(f"Unicorn: {error}") from None
        end = time.thread_time_ns()
        return Result(uc.reg_read(const.UC_X86_REG_RAX), (end - start) / 1e9)


class Unicorn:
    name = "unicorn"
    can = frozenset({"int", "sse2", "x87"})

    def missing(self) -> str | None:
        if importlib.util.find_spec("unicorn") is None:
            return "unicorn is not installed (pip install unicorn)"
        return None

    def version(self) -> str:
        import unicorn

        return str(getattr(unicorn, "__version__", ""))

    def open(self, blob: Blob) -> Session:
        return UnicornSession(blob)
