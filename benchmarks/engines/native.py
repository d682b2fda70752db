"""The host's own CPU: a child process that maps the image and calls it."""

from __future__ import annotations

from pathlib import Path

from benchmarks.blobs import BASE, MAPPED, Blob, Unavailable, compiler
from benchmarks.engines.base import ENGINES_DIR, LineSession, Session, compiled


def loader() -> Path:
    """The program that calls an image; static, so that it runs under qemu-x86_64 too, and linked high."""
    flags = ["-O2", "-Wall", "-Werror", "-static", "-Wl,-Ttext-segment=0x60000000"]
    return compiled("loader", [compiler(), *flags], [ENGINES_DIR / "loader.c"])


def arguments(blob: Blob) -> list[str]:
    return [str(blob.path), hex(BASE), hex(MAPPED), hex(blob.entry)]


def host_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith("flags")), "").split())


class Native:
    name = "native"

    def __init__(self) -> None:
        self.can = frozenset({"int", "sse2", "x87"} | ({"avx2"} if {"avx2", "fma"} <= host_flags() else set()))

    def missing(self) -> str | None:
        try:
            compiler()
        except Unavailable as error:
            return str(error)
        return None

    def version(self) -> str:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")

    def open(self, blob: Blob) -> Session:
        return LineSession([str(loader()), *arguments(blob)])
