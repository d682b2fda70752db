"""Kernel images: ELF, Xen's notes, bzImage, decompression, and what is wrong with a wrong one."""

import bz2
import gzip
import lzma
import random
import shutil
import struct
import subprocess

import pytest

from tests.libxl.elfmaker import PV_NOTES, make
from xenfast.abi import elfnote
from xenfast.errors import XenfastError
from xenfast.libxl import bzimage, decompress, elf, kernel


def lz4_legacy(data: bytes) -> bytes:
    """A legacy LZ4 frame of literals only, with the size behind it that Linux appends."""
    def length(n: int) -> bytes:
        return b"" if n < 15 else b"\xff" * ((n - 15) // 255) + bytes([(n - 15) % 255])

    block = bytes([min(len(data), 15) << 4]) + length(len(data)) + data
    return struct.pack("<II", 0x184C2102, len(block)) + block + struct.pack("<I", len(data))


def make_bzimage(payload: bytes, version: int = 0x020F) -> bytes:
    setup = bytearray(5 * 512)
    setup[0x1F1] = 4
    setup[0x1FE:0x200] = b"\x55\xaa"
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, version)
    struct.pack_into("<II", setup, 0x248, 16, len(payload))
    return bytes(setup) + bytes(16) + payload + bytes(32)


IMAGE = make(PV_NOTES)
COMPRESSORS = {
    "none": lambda data: data,
    "gzip": gzip.compress,
    "bzip2": lambda data: bz2.compress(data) + b"size",
    "xz": lambda data: lzma.compress(data, lzma.FORMAT_XZ, check=lzma.CHECK_CRC32) + b"size",
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE) + b"size",
    "lz4": lz4_legacy,
}


def tool(*command: str, data: bytes) -> bytes:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    return subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout


def samples() -> list[bytes]:
    """Data of every kind a compressor treats differently."""
    rng = random.Random(7)
    skewed = bytes(rng.choices(range(256), weights=[1 / (i + 1) for i in range(256)], k=200_000))
    words = b" ".join(rng.choices([b"page", b"frame", b"grant", b"ring", b"port", b"vcpu"], k=40_000))
    return [b"", b"a", b"a" * 1000, bytes(1 << 20), rng.randbytes(300_000), skewed, words, IMAGE * 50]


@pytest.mark.parametrize("name", COMPRESSORS)
def test_bzimage_payloads(name):
    """A bzImage's payload is found and unpacked, whatever it is compressed with; what Linux appends is ignored."""
    if name == "lz4":
        pytest.importorskip("xenfast._core")
    assert bytes(bzimage.unpack(make_bzimage(COMPRESSORS[name](IMAGE)))) == IMAGE


@pytest.mark.parametrize("name", [name for name in COMPRESSORS if name != "none"])
def test_damaged_payloads(name):
    """A payload that ends early or is damaged is refused in one sentence."""
    if name == "lz4":
        pytest.importorskip("xenfast._core")
    whole = COMPRESSORS[name](IMAGE * 20)
    for payload in (whole[: len(whole) // 2], whole[:20] + b"\xff" * 40, whole[:8]):
        with pytest.raises(XenfastError):
            elf.parse(bzimage.unpack(make_bzimage(payload)))


@pytest.mark.parametrize("level", ["--fast=5", "-1", "-3", "-9", "-17"])
def test_zstd(level):
    """The core's zstd decoder gives back what the zstd program has compressed, with its size behind it."""
    pytest.importorskip("xenfast._core")
    for data in samples():
        packed = tool("zstd", "-qc", level, data=data)
        assert bytes(decompress._zstd(memoryview(packed + struct.pack("<I", len(data))))) == data


@pytest.mark.parametrize("level", ["-1", "-9", "-12"])
def test_lz4(level):
    """The core's LZ4 decoder gives back what the lz4 program has compressed into a legacy frame."""
    pytest.importorskip("xenfast._core")
    for data in samples()[1:]:
        packed = tool("lz4", "-lqc", level, data=data)
        assert bytes(decompress._lz4(memoryview(packed + struct.pack("<I", len(data))))) == data


@pytest.mark.parametrize("name", ["lz4", "zstd"])
def test_garbled_streams_are_refused_or_decoded(name):
    """Whatever the bytes of a compressed stream are, the decoder ends with data or with ValueError."""
    pytest.importorskip("xenfast._core")
    data = samples()[6][:60_000]
    command, function = {
        "lz4": (("lz4", "-lqc"), decompress._lz4),
        "zstd": (("zstd", "-qc", "-19"), decompress._zstd),
    }[name]
    packed, rng = tool(*command, data=data), random.Random(3)
    for _ in range(1000):
        garbled = bytearray(packed)
        for _ in range(rng.randint(1, 4)):
            garbled[rng.randrange(rng.choice([40, len(garbled)]))] = rng.randrange(256)
        try:
            function(memoryview(garbled)[: rng.choice([len(garbled), rng.randrange(len(garbled))])])
        except ValueError:
            pass


def test_formats_are_told_by_their_magic():
    """identify() names the format; something unknown is None and cannot be unpacked."""
    assert decompress.identify(gzip.compress(b"")) == "gzip"
    assert decompress.identify(b"\x28\xb5\x2f\xfdrest") == "zstd"
    assert decompress.identify(b"something") is None
    with pytest.raises(XenfastError, match="unknown way"):
        decompress.decompress(b"something else")
    with pytest.raises(XenfastError, match="lzo, which is not supported"):
        decompress.decompress(b"\x89LZO\x00\x0d\x0a\x1a\x0a")


def test_notes_and_segments():
    """Notes are read as numbers or strings, segments with their addresses, and a kernel's range follows from them."""
    got = kernel.pv_kernel(elf.parse(make(PV_NOTES, memsz=0x5000)))
    assert (got.virt_start, got.virt_end) == (0xFFFFFFFF80100000, 0xFFFFFFFF80105000)
    assert got.entry == 0xFFFFFFFF80100000 and got.guest_os == "test"
    assert got.hypercall_page is None and got.init_p2m is None and not got.unmapped_initrd


@pytest.mark.parametrize(
    ("notes", "says"),
    [
        ({elfnote.XEN_ELFNOTE_PHYS32_ENTRY: 0x100000}, "no PV entry point; it has a PVH entry"),
        ({}, "no PV entry point; without Xen notes it could only run as an HVM guest"),
        ({elfnote.XEN_ELFNOTE_GUEST_OS: "x"}, "neither a PV nor a PVH entry"),
        (PV_NOTES | {elfnote.XEN_ELFNOTE_FEATURES: "!auto_translated_physmap"}, "requires the Xen feature"),
        (PV_NOTES | {elfnote.XEN_ELFNOTE_ENTRY: 0x1000}, "lies outside its image"),
        (PV_NOTES | {elfnote.XEN_ELFNOTE_HYPERCALL_PAGE: 0xFFFFFFFF80200000}, "hypercall page"),
        (PV_NOTES | {elfnote.XEN_ELFNOTE_VIRT_BASE: 0xFFFFFFFF80000123}, "not page-aligned"),
        (PV_NOTES | {elfnote.XEN_ELFNOTE_INIT_P2M: 0x8000000123}, "not page-aligned"),
        (PV_NOTES | {elfnote.XEN_ELFNOTE_PADDR_OFFSET: 1 << 40}, "outside its virtual address range"),
    ],
)
def test_kernels_that_cannot_run(notes, says):
    """A kernel whose notes ask for what is not there is refused, saying why and what it could run as."""
    with pytest.raises(XenfastError, match=says):
        kernel.pv_kernel(elf.parse(make(notes)))


def test_foreign_kernels():
    """A kernel for another machine, or of 32 bits, is refused by name."""
    with pytest.raises(XenfastError, match="AArch64"):
        elf.parse(make({}, machine=183))
    with pytest.raises(XenfastError, match="32-bit PV kernel"):
        kernel.pv_kernel(elf.parse(make(PV_NOTES, bits=32, machine=3)))
    with pytest.raises(XenfastError, match="neither an ELF image nor a bzImage"):
        bzimage.unpack(b"#!/bin/sh\n" * 100)
    with pytest.raises(XenfastError, match="older than 2.08"):
        bzimage.unpack(make_bzimage(b"x" * 64, version=0x0203))
    with pytest.raises(XenfastError, match="no Linux setup header"):
        bzimage.unpack(bytes(510) + b"\x55\xaa" + bytes(512))


def test_truncation_anywhere_is_one_sentence():
    """A kernel cut off at any byte, plain or in a bzImage, raises XenfastError and nothing else."""
    whole = make_bzimage(gzip.compress(IMAGE))
    for image in (IMAGE, whole):
        for size in range(0, len(image) - 33, 7):
            with pytest.raises(XenfastError):
                kernel.pv_kernel(elf.parse(bzimage.unpack(image[:size])))


def test_garbage_in_every_header_byte():
    """Any byte of the headers may be anything: the outcome is a kernel or XenfastError."""
    from xenfast.libxl import pvlayout

    end = 64 + 2 * 56
    for at in range(end):
        for value in (0, 1, 0x7F, 0x80, 0xFF):
            image = bytearray(IMAGE)
            image[at] = value
            try:
                pvlayout.plan(kernel.pv_kernel(elf.parse(image)), 16384)
            except XenfastError:
                pass
