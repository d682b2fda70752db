"""Assemble a few lines with the GNU assembler, for tests that read better as assembly than as bytes."""

import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest


@cache
def assemble(text: str, bits: int = 64, origin: int = 0) -> bytes:
    """Machine code of Intel-syntax assembly at an address; skips the test where there is no assembler."""
    if not shutil.which("as") or not shutil.which("ld"):
        pytest.skip("there is no assembler")
    with tempfile.TemporaryDirectory() as directory:
        source, thing, image = (Path(directory) / name for name in ("a.s", "a.o", "a.bin"))
        source.write_text(f".intel_syntax noprefix\n.code{bits}\n.text\n_start:\n{text}\n")
        subprocess.run(["as", "--64" if bits == 64 else "--32", "-o", thing, source], check=True)
        subprocess.run(["ld", "-m", "elf_x86_64" if bits == 64 else "elf_i386", "-Ttext", hex(origin), "--oformat", "binary", "-o", image,
                        thing], check=True)
        return image.read_bytes()
