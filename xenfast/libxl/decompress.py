"""Decompression of kernel images: every format Linux's build offers except lzo.

Formats by their magic, as in Linux's lib/decompress.c.  gzip, bzip2, xz and lzma come from the standard library.  LZ4
is the legacy frame (lz4_Frame_format.md, "Legacy frame") around blocks that the core decodes; so does it decode zstd
(RFC 8878), which Python has from 3.14 on only.

Linux appends the size of the image to its payload (except for gzip, which ends with it anyway), so bytes after the
end of the stream are expected and ignored.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable

from xenfast.errors import XenfastError

LIMIT = 1 << 30                     # no kernel image is larger than 1 GiB
LZ4_LEGACY_BLOCK = 8 << 20          # each block of a legacy frame unpacks to at most this


def _gzip(data: memoryview) -> bytes:
    return zlib.decompressobj(wbits=31).decompress(data, LIMIT)


def _bzip2(data: memoryview) -> bytes:
    return bz2.BZ2Decompressor().decompress(data, LIMIT)


def _xz(data: memoryview) -> bytes:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(data, LIMIT)


def _lzma(data: memoryview) -> bytes:
    return lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress(data, LIMIT)


def _lz4(data: memoryview) -> memoryview:
    """A legacy frame: the magic, then (size, block) until the end or a size that cannot be one."""
    import numpy

    from xenfast import _core

    blocks, pos = [], 4
    while pos + 4 <= len(data):
        (size,) = struct.unpack_from("<I", data, pos)
        if pos + 4 + size > len(data):
            if pos + 4 == len(data):
                break                       # the size of the image, which Linux appends
            raise ValueError("a block is cut short")
        if not size:
            break
        blocks.append(data[pos + 4 : pos + 4 + size])
        pos += 4 + size
    if len(blocks) * LZ4_LEGACY_BLOCK > LIMIT:
        raise ValueError("it is larger than any kernel")
    out = numpy.empty(len(blocks) * LZ4_LEGACY_BLOCK, dtype=numpy.uint8).data
    done = 0
    for block in blocks:
        done += _core.lz4_decompress_block(block, out[done : done + LZ4_LEGACY_BLOCK])
    return out[:done]


def _zstd(data: memoryview) -> memoryview:
    import numpy

    from xenfast import _core

    bound = _core.zstd_bound(data)
    if bound > LIMIT:
        raise ValueError("it is larger than any kernel")
    out = numpy.empty(bound, dtype=numpy.uint8).data
    return out[: _core.zstd_decompress(data, out)]


# magic -> (name, function)
FORMATS: dict[bytes, tuple[str, Callable[[memoryview], bytes | memoryview] | None]] = {
    b"\x1f\x8b": ("gzip", _gzip),
    b"\x1f\x9e": ("gzip", _gzip),
    b"BZh": ("bzip2", _bzip2),
    b"\x5d\x00\x00": ("lzma", _lzma),
    b"\xfd7zXZ\x00": ("xz", _xz),
    b"\x02\x21\x4c\x18": ("lz4", _lz4),
    b"\x28\xb5\x2f\xfd": ("zstd", _zstd),
    b"\x89LZO": ("lzo", None),
}


def identify(data: bytes | memoryview) -> str | None:
    """Name of the format that compressed ``data``, or None."""
    head = bytes(data[:8])
    return next((name for magic, (name, _) in FORMATS.items() if head.startswith(magic)), None)


def decompress(data: bytes | memoryview) -> bytes | memoryview:
    """Unpack a kernel's payload; an ELF image that is not compressed comes back as it is."""
    view = memoryview(data).cast("B")
    head = bytes(view[:8])
    if head.startswith(b"\x7fELF"):
        return view
    for magic, (name, function) in FORMATS.items():
        if not head.startswith(magic):
            continue
        if function is None:
            raise XenfastError(f"the kernel is compressed with {name}, which is not supported")
        try:
            image = function(view)
        except (zlib.error, OSError, lzma.LZMAError, EOFError, ValueError) as error:
            raise XenfastError(f"the kernel's {name} payload is damaged: {error}") from None
        if not image:
            raise XenfastError(f"the kernel's {name} payload is truncated")
        return image
    raise XenfastError(f"the kernel's payload is compressed in an unknown way (it starts with {head.hex(' ')})")
