"""QEMU's TCG: a whole machine (what xenfast is measured against) and one user program (which has no MMU to emulate).

The machine runs qemu_stub.S, which does what it is told over the serial line, so that one QEMU serves every round.  It
sends a byte when the kernel starts and one when it is back; QEMU's CPU time between the two is the result.  What the
two bytes cost by themselves is measured with an empty kernel, the least of several tries, and taken off.  Between
rounds QEMU is stopped (SIGSTOP): the guest waits for its next order in a loop.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import time

from benchmarks.blobs import BASE, EMPTY, MAPPED, STACK_TOP, Blob, Unavailable, build, compiler
from benchmarks.engines.base import (
    ENGINES_DIR,
    EngineFailed,
    LineSession,
    Result,
    Session,
    compiled,
    first_line,
    process_cpu_seconds,
)
from benchmarks.engines.native import arguments, loader

PROGRAM = os.environ.get("QEMU_SYSTEM", "qemu-system-x86_64")
USER_PROGRAM = os.environ.get("QEMU_USER", "qemu-x86_64")
PATIENCE = 300.0
STUB_DEFINES = [f"-DBASE={BASE:#x}", f"-DSTACK_TOP={STACK_TOP:#x}", f"-DTABLES={(MAPPED + 0x1FFFFF) >> 21}"]
STUB_FLAGS = "-m64 -nostdlib -static -no-pie -Wl,--build-id=none -Wl,-z,noexecstack -Wl,-Ttext=0x100000 -Wl,-e,start32".split()


class QemuSession(Session):
    def __init__(self, blob: Blob) -> None:
        stub = compiled("qemu-stub.elf", [compiler(), *STUB_FLAGS, *STUB_DEFINES], [ENGINES_DIR / "qemu_stub.S"])
        self.entry = blob.entry
        self.overhead = 0.0
        command = [
            PROGRAM, "-accel", "tcg", "-cpu", "max", "-m", "512", "-nodefaults", "-no-user-config", "-no-reboot",
            "-display", "none", "-monitor", "none", "-serial", "stdio",
            "-device", "isa-debug-exit,iobase=0xf4,iosize=4",
            "-kernel", str(stub), "-device", f"loader,file={blob.path},addr={BASE:#x},force-raw=on",
        ]  # fmt: skip
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0)
        if blob.kernel is EMPTY:
            self.overhead = min(self.run(1).seconds for _ in range(15))

    def _byte(self) -> bytes:
        out = self.process.stdout
        assert out
        got = os.read(out.fileno(), 1) if select.select([out], [], [], PATIENCE)[0] else b""
        if not got:
            self.process.kill()
            said = self.process.stderr.read().decode(errors="replace").strip() if self.process.stderr else ""
            raise EngineFailed(f"QEMU did not answer: {said.splitlines()[0] if said else 'no message'}")
        return got

    def _expect(self, byte: bytes) -> None:
        while self._byte() != byte:     # firmware may have written something before
            pass

    def run(self, n: int) -> Result:
        assert self.process.stdin
        pid = self.process.pid
        os.kill(pid, signal.SIGCONT)
        self.process.stdin.write(f"{self.entry:x} {n:x}\n".encode())
        self._expect(b"S")
        start = process_cpu_seconds(pid)
        self._expect(b"E")
        end = process_cpu_seconds(pid)
        checksum = b""
        while (byte := self._byte()) != b"\n":
            checksum += byte
        os.kill(pid, signal.SIGSTOP)
        return Result(int(checksum, 16), max(end - start - self.overhead, 1e-9))

    def close(self) -> None:
        process = self.process
        if process.poll() is None and process.stdin:
            os.kill(process.pid, signal.SIGCONT)
            try:
                process.stdin.write(b"q")
                process.wait(5)
            except (OSError, subprocess.TimeoutExpired):
                process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                stream.close()


class QemuSystem:
    name = "qemu-system"
    can = frozenset({"int", "sse2", "x87", "avx2", "ring0"})

    def __init__(self) -> None:
        self._overhead: float | None = None

    def missing(self) -> str | None:
        if not shutil.which(PROGRAM):
            return f"{PROGRAM} is not installed (sudo apt-get install qemu-system-x86)"
        if not hasattr(time, "clock_gettime_ns"):
            return "the CPU time of another process cannot be read on this system"
        try:
            compiler()
        except Unavailable as error:
            return str(error)
        return None

    def version(self) -> str:
        return first_line([PROGRAM, "--version"])

    def open(self, blob: Blob) -> QemuSession:
        if self._overhead is None:
            with QemuSession(build(EMPTY)) as empty:
                assert isinstance(empty, QemuSession)
                self._overhead = empty.overhead
        session = QemuSession(blob)
        session.overhead = self._overhead
        return session


class QemuUser:
    name = "qemu-user"
    can = frozenset({"int", "sse2", "x87", "avx2"})

    def missing(self) -> str | None:
        if not shutil.which(USER_PROGRAM):
            return f"{USER_PROGRAM} is not installed (sudo apt-get install qemu-user)"
        try:
            compiler()
        except Unavailable as error:
            return str(error)
        return None

    def version(self) -> str:
        return first_line([USER_PROGRAM, "--version"])

    def open(self, blob: Blob) -> Session:
        return LineSession([USER_PROGRAM, "-cpu", "max", str(loader()), *arguments(blob)])
