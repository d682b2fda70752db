"""What an engine is to the benchmarks."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

from benchmarks.blobs import CACHE, Blob

ENGINES_DIR = Path(__file__).resolve().parent


class EngineFailed(Exception):
    """The engine could not run the kernel; the text says why."""


@dataclass(frozen=True)
class Result:
    checksum: int
    seconds: float
    instructions: int | None = None     # exactly, where the engine counts them


class Session:
    """An engine with an image loaded."""

    def run(self, n: int) -> Result:
        raise NotImplementedError

    def close(self) -> None:
        pass

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class Engine(Protocol):
    name: str
    can: frozenset[str]     # of Kernel.needs

    def missing(self) -> str | None:
        """One sentence when the engine cannot be had here."""

    def version(self) -> str: ...

    def open(self, blob: Blob) -> Session: ...


def process_cpu_seconds(pid: int) -> float:
    """CPU time of all threads of another process; the clock's number is made of the pid (clock_getcpuclockid(3))."""
    return time.clock_gettime_ns((~pid << 3) | 2) / 1e9


def compiled(name: str, command: list[str], sources: list[Path]) -> Path:
    """A helper program of an engine, compiled when it is older than its sources."""
    out = CACHE / name
    if not out.exists() or any(path.stat().st_mtime > out.stat().st_mtime for path in sources):
        CACHE.mkdir(parents=True, exist_ok=True)
        subprocess.run([*command, "-o", str(out), *map(str, sources)], check=True, stdin=subprocess.DEVNULL)
    return out


def first_line(command: list[str]) -> str:
    """The first line a program prints."""
    text = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout
    return text.splitlines()[0] if text else ""


class LineSession(Session):
    """A child process that is told "n" and answers "checksum nanoseconds", a line each."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, n: int) -> Result:
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin and stdout
        try:
            stdin.write(f"{n}\n")
            stdin.flush()
            answer = stdout.readline().split()
        except BrokenPipeError:
            answer = []
        if len(answer) != 2:
            raise EngineFailed(f"the child process ended with status {self.process.wait()}")
        return Result(int(answer[0], 16), int(answer[1]) / 1e9)

    def close(self) -> None:
        if self.process.stdin:
            self.process.stdin.close()
        if self.process.stdout:
            self.process.stdout.close()
        self.process.wait()
