"""bzImage: the container in which a Linux kernel is shipped.

Specified in Linux's Documentation/x86/boot.rst, "The Real-Mode Kernel Header".  From protocol 2.08 on the header says
where the compressed ELF image lies; a PV domain is built from that image, the way Xen's own builder does.  Booting by
the real-mode or protected mode entry points is what a firmware does, and not here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from xenfast.errors import XenfastError
from xenfast.libxl import decompress

# offsets of the setup header's fields
SETUP_SECTS = 0x1F1
BOOT_FLAG = 0x1FE           # 0xAA55
HEADER = 0x202              # "HdrS"
VERSION = 0x206             # 0xMMmm
PAYLOAD_OFFSET = 0x248      # from the start of the protected-mode code; protocol 2.08
PAYLOAD_LENGTH = 0x24C
HEADER_END = 0x250


@dataclass(frozen=True)
class BzImage:
    version: int
    payload: memoryview


def is_bzimage(image: bytes | memoryview) -> bool:
    return bytes(image[HEADER : HEADER + 4]) == b"HdrS" or bytes(image[BOOT_FLAG : BOOT_FLAG + 2]) == b"\x55\xaa"


def parse(image: bytes | memoryview) -> BzImage:
    """Find the compressed image inside a bzImage."""
    data = memoryview(image).cast("B")
    if len(data) < HEADER_END or bytes(data[HEADER : HEADER + 4]) != b"HdrS":
        raise XenfastError("the kernel is not a bzImage: it has a boot sector but no Linux setup header")
    (version,) = struct.unpack_from("<H", data, VERSION)
    if version < 0x0208:
        raise XenfastError(
            f"the kernel's boot protocol {version >> 8}.{version & 0xFF:02} is older than 2.08"
            " and does not say where its image is"
        )
    offset, length = struct.unpack_from("<II", data, PAYLOAD_OFFSET)
    start = (data[SETUP_SECTS] or 4) * 512 + 512 + offset
    if not length or start + length > len(data):
        raise XenfastError(
            f"the kernel is truncated: its image ends at byte {start + length}, the file at byte {len(data)}"
        )
    return BzImage(version, data[start : start + length])


def unpack(image: bytes | memoryview) -> bytes | memoryview:
    """The ELF image inside a bzImage, decompressed; anything else is returned as it is (gunzipped if need be)."""
    if bytes(image[:4]) == b"\x7fELF":
        return image
    if is_bzimage(image):
        return decompress.decompress(parse(image).payload)
    if decompress.identify(image):
        return decompress.decompress(image)
    raise XenfastError("the kernel is neither an ELF image nor a bzImage")
