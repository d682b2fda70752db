"""The kernels of ``kernels/`` as flat images: a file of C each, linked at a fixed address, the same for every engine.

An image is called like a C function: RDI = n, RSP just below a return address, RAX = checksum.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "kernels"
CACHE = HERE.parent / ".cache" / "benchmarks"

BASE = 0x10000000                       # where every image is linked (kernels/kernel.lds)
IMAGE_BYTES = 24 << 20                  # room for the image with its zeroes
STACK_TOP = BASE + IMAGE_BYTES + 0x10000
RETURN = BASE + IMAGE_BYTES + 0x10000   # a page of its own behind the stack: HLT
MAPPED = IMAGE_BYTES + 0x11000          # bytes from BASE that an engine maps

CFLAGS = (
    "-std=gnu11 -O2 -Wall -Wextra -Werror -static -nostdlib -ffreestanding -fno-pic -fno-pie -no-pie"
    " -fno-stack-protector -fno-asynchronous-unwind-tables -fcf-protection=none -fno-tree-loop-distribute-patterns"
    " -Wl,--build-id=none -Wl,-z,noexecstack -Wl,--no-warn-rwx-segments"
).split()  # fmt: skip
INTEGER = ("-mgeneral-regs-only",)


@dataclass(frozen=True)
class Kernel:
    name: str
    n: int                  # rounds that are some 80 million instructions (floating point: 20 million)
    what: str
    needs: str = "int"      # what the engine must execute: int, sse2, x87, avx2, ring0
    flags: tuple[str, ...] = INTEGER


# fmt: off
KERNELS = (
    Kernel("fib",       1200,    "calls and returns"),
    Kernel("sieve",     20,     "byte stores with a stride"),
    Kernel("crc32",     145,     "dependent table look-ups"),
    Kernel("quicksort", 22,      "branches that cannot be foreseen"),
    Kernel("matmul",    100,     "regular loads, multiplications"),
    Kernel("chase",     2500,    "latency, TLB reach"),
    Kernel("switchvm",  250,     "indirect jumps"),
    Kernel("strhash",   800,    "bytes, strings, chains"),
    Kernel("copy",      400,    "REP MOVSQ, quadwords, bytes"),
    Kernel("lz",        200,     "compressor: a bit of everything"),
    Kernel("heapsort",  25,     "indirect calls"),
    Kernel("sha256",    250,     "rotations, 32-bit arithmetic"),
    Kernel("bignum",    5200,   "wide products, carries"),
    Kernel("queens",    700,    "bits, recursion, divisions"),
    Kernel("tree",      105,     "pointers, comparisons"),
    Kernel("fp_sse2",        200,   "scalar double", "sse2", ("-msse2", "-mfpmath=sse", "-fno-tree-vectorize")),
    Kernel("fp_sse2_packed", 2000, "packed bytes and floats", "sse2", ("-msse2",)),
    Kernel("fp_x87",         150,   "80-bit floats", "x87", ("-mno-sse", "-mfpmath=387")),
    Kernel("fp_avx2",        700, "FMA, gathers", "avx2", ("-mavx2", "-mfma")),
)
MMU_KERNELS = (
    Kernel("mmu_hit",   1000,   "4,096 loads from a page"),
    Kernel("mmu_miss",  500,    "a load from each of 4,096 pages"),
    Kernel("mmu_flush", 20000,  "CR3 loaded, then 16 pages read", "ring0"),
)
# fmt: on
EMPTY = Kernel("empty", 1, "nothing")
BY_NAME = {kernel.name: kernel for kernel in (*KERNELS, *MMU_KERNELS, EMPTY)}


class Unavailable(Exception):
    """Something a benchmark needs is not on this machine; the text says what in one sentence."""


@dataclass(frozen=True)
class Blob:
    kernel: Kernel
    image: bytes            # to be put at BASE, zeroes included
    entry: int
    path: Path              # the image as a file


def compiler() -> str:
    cc = shutil.which("gcc") or shutil.which("cc")
    if cc is None or platform.machine() not in ("x86_64", "AMD64"):
        raise Unavailable("the kernels cannot be compiled here: there is no gcc for x86-64")
    return cc


def build(kernel: Kernel) -> Blob:
    """Compile a kernel, or take it from the cache; raises Unavailable."""
    sources = [SOURCES / "kernel.h", SOURCES / "kernel.lds", SOURCES / f"{kernel.name}.c"]
    key = hashlib.sha256(b"".join(path.read_bytes() for path in sources) + repr((CFLAGS, kernel.flags)).encode())
    directory = CACHE / f"{kernel.name}-{key.hexdigest()[:12]}"
    elf, image = directory / "kernel.elf", directory / "kernel.bin"
    if not image.exists():
        directory.mkdir(parents=True, exist_ok=True)
        command = [compiler(), *CFLAGS, *kernel.flags, "-T", str(sources[1]), "-o", str(elf), str(sources[2])]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        partial = image.with_suffix(".partial")
        partial.write_bytes(flatten(elf.read_bytes()))
        partial.rename(image)
    (entry,) = struct.unpack_from("<Q", elf.read_bytes(), 0x18)
    return Blob(kernel, image.read_bytes(), entry, image)


def flatten(elf: bytes) -> bytes:
    """The loadable segments of a static ELF64 laid out from BASE (ELF specification, program header)."""
    (offset,) = struct.unpack_from("<Q", elf, 0x20)
    size, count = struct.unpack_from("<HH", elf, 0x36)
    out = bytearray()
    for i in range(count):
        kind, _, at, address, _, length, total = struct.unpack_from("<IIQQQQQ", elf, offset + i * size)
        if kind != 1:
            continue
        if address < BASE or address + total > BASE + IMAGE_BYTES:
            raise ValueError(f"segment {address:#x} + {total:#x} is outside the image")
        out.extend(bytes(max(0, address - BASE + total - len(out))))
        out[address - BASE : address - BASE + length] = elf[at : at + length]
    return bytes(out)
