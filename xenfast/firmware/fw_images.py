"""Firmware that is not ours: which file a configuration means, how it lies in memory, and what it wants to be told.

=================== ====================================================================================================
``bios="seabios"``  Debian's package seabios.  It sees Xen's CPUID leaves and does as it does there: it takes the tables and
                    the memory map from the place named at 1000h (``struct xen_seabios_info``, src/fw/xen.c), finds PCI set
                    up, and asks fw_cfg for the VGA BIOS and CMOS for the boot order
``bios="ovmf"``     Debian's package ovmf, built for QEMU: it sets up PCI itself and gets memory map and tables by fw_cfg
``firmware_override`` an ELF image is started as hvmloader is, in protected mode with struct hvm_start_info in EBX; any
                    other file is a ROM that ends at 4 GiB
=================== ====================================================================================================

``bios_path_override`` is another file for the first two.  "rombios" needs an image that no package of Debian has.
"""

from dataclasses import dataclass
from pathlib import Path
from struct import error as StructError
from struct import pack, unpack_from
from typing import Any

from xenfast.errors import XenfastError
from xenfast.firmware import e820

SEABIOS = ("/usr/share/seabios/bios-256k.bin", "/usr/share/seabios/bios.bin")
SEABIOS_VGA = "/usr/share/seabios/vgabios-stdvga.bin"
OVMF = ("/usr/share/ovmf/OVMF.fd", "/usr/share/OVMF/OVMF.fd")
HVMLOADER = "/usr/lib/xen-4.17/boot/hvmloader"
PACKAGES = {"seabios": "seabios", "ovmf": "ovmf"}

SEABIOS_INFO = 0x1000
ONE_MIB, FOUR_GIB = 1 << 20, 1 << 32
MAX_ROM = 16 << 20
MAX_SHADOW = 256 << 10              # of a ROM below 1 MiB


@dataclass
class Start:
    """How vcpu 0 begins: at the reset vector, or in flat protected mode at ``entry`` with EBX."""

    entry: int | None = None
    ebx: int = 0


def read(path: str, what: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise XenfastError(f"cannot read the {what} {path}: {error.strerror}") from None


def find(bios: str, override: str = "") -> bytes:
    """The image that ``bios=`` names."""
    if override:
        return read(override, "BIOS image")
    for path in {"seabios": SEABIOS, "ovmf": OVMF}.get(bios, ()):
        if Path(path).exists():
            return read(path, "BIOS image")
    if bios in PACKAGES:
        raise XenfastError(f"bios={bios!r} needs Debian's package {PACKAGES[bios]}, or bios_path_override=")
    raise XenfastError(f"bios={bios!r} needs an image: bios_path_override=")


def checked_rom(image: bytes, what: str) -> bytes:
    """A ROM is a multiple of 4 KiB that begins with real-mode code at its end."""
    if not image or len(image) % e820.PAGE or len(image) > MAX_ROM:
        raise XenfastError(f"{what}: {len(image)} bytes cannot be a ROM (a multiple of 4 KiB, up to 16 MiB)")
    return image


def is_elf(image: bytes) -> bool:
    return image[:4] == b"\x7fELF"


# --- SeaBIOS -----------------------------------------------------------------------------------------------------------------


def install_seabios(hvm: Any, image: bytes) -> None:
    """Its image is RAM that ends at 1 MiB, since it writes to its own variables; the last 64 KiB are seen below 4 GiB as well."""
    checked_rom(image, "the SeaBIOS image")
    if len(image) > MAX_SHADOW:
        raise XenfastError(f"the SeaBIOS image is {len(image)} bytes, more than the 256 KiB below 1 MiB")
    start = ONE_MIB - len(image)
    populate(hvm, start, len(image))
    hvm.physmem.write(start, image)
    hvm.alias(FOUR_GIB - 0x10000, ONE_MIB - 0x10000, 0x10000)


def seabios_info(pointers: int, count: int, memory_map: int, entries: int) -> bytes:
    """struct xen_seabios_info: where the list of tables and the E820 map are."""
    head = pack("<14sBBIIII", b"XenHVMSeaBIOS", 32, 0, pointers, count, memory_map, entries)
    return head[:15] + bytes([-sum(head) & 0xFF]) + head[16:]


# --- ROMs --------------------------------------------------------------------------------------------------------------------


def install_rom(hvm: Any, image: bytes, what: str) -> None:
    """A ROM that ends at 4 GiB; its last 128 KiB are seen below 1 MiB too, until the firmware has the i440FX put RAM there."""
    checked_rom(image, what)
    hvm.rom(FOUR_GIB - len(image), image)
    low = image[-(128 << 10):]
    hvm.rom(ONE_MIB - len(low), low)


def populate(hvm: Any, start: int, size: int) -> None:
    """RAM where there is none yet."""
    for gfn in range(start >> 12, start + size + e820.PAGE - 1 >> 12):
        if hvm.physmap.get(gfn) is None:
            hvm.populate(gfn, 1)


# --- hvmloader ---------------------------------------------------------------------------------------------------------------

START_MAGIC = 0x336EC578
PT_LOAD, EM_386 = 1, 3
INFO_TABLE, INFO_TABLE_SIZE = 0x9F800, 0x2C
MODULES = 8 << 20                   # where modules are put, in low RAM beyond the loader
MAX_VCPUS = 128


def load_elf(hvm: Any, image: bytes, what: str) -> tuple[int, int]:
    """Put the segments of an i386 ELF image into guest memory; its entry and its end."""
    low = hvm.low_pages << 12
    try:
        if image[4] != 1 or unpack_from("<H", image, 18)[0] != EM_386:
            raise XenfastError(f"{what} is an ELF image, but not for i386")
        entry, table = unpack_from("<II", image, 24)
        size, count = unpack_from("<HH", image, 42)
        segments = [unpack_from("<8I", image, table + n * size) for n in range(count)]
    except (IndexError, StructError):
        raise XenfastError(f"{what} is a broken ELF image") from None
    end = 0
    for kind, offset, _virtual, physical, file_size, memory_size, _flags, _align in segments:
        if kind != PT_LOAD:
            continue
        if file_size > memory_size or offset + file_size > len(image) or physical + memory_size > low:
            raise XenfastError(f"{what}: a segment of {memory_size} bytes at {physical:#x} does not fit in memory")
        hvm.physmem.write(physical, image[offset:offset + file_size])
        end = max(end, physical + memory_size)
    return entry, end


def info_table(vcpus: int, low_end: int, high_end: int, apic: bool, reserved: int, online: int) -> bytes:
    """struct hvm_info_table at 9F800h (xen/include/public/hvm/hvm_info_table.h): ends of RAM in frames, vcpus that are there."""
    bits = sum(1 << n for n in range(min(online, MAX_VCPUS)))
    body = pack("<B2xIIII", apic, vcpus, low_end >> 12, reserved >> 12, high_end >> 12 if high_end > FOUR_GIB else 0)
    body += bits.to_bytes(MAX_VCPUS // 8, "little")
    table = pack("<8sIB", b"HVM INFO", 13 + len(body), 0) + body
    return table[:12] + bytes([-sum(table) & 0xFF]) + table[13:]


def start_info(at: int, modules: list[tuple[str, int, int]], rsdp: int = 0) -> bytes:
    """struct hvm_start_info at ``at``, with (name, address, bytes) of modules (xen/include/public/arch-x86/hvm/start_info.h)."""
    head = 56
    texts = at + head + 32 * len(modules)
    entries, strings = b"", b""
    for name, address, size in modules:
        entries += pack("<QQQQ", address, size, texts + len(strings), 0)
        strings += name.encode() + b"\0"
    return pack("<IIIIQQQQII", START_MAGIC, 1, 0, len(modules), at + head, 0, rsdp, 0, 0, 0) + entries + strings
