"""Image formats: what is behind a virtual disk.

An image has ``size_sectors`` (of 512 bytes), ``readonly``, ``readv(offset, buffers)``, ``writev(offset, buffers)``,
``flush()``, ``discard(offset, length)`` and ``close()``.  Offsets are bytes.  The buffers are pages of the guest, so
data goes between them and the host's page cache without a copy in between.  I/O errors are OSError; ``discard``
raises Unsupported where there is no such thing.
"""

import errno
from typing import Protocol

from xenfast.dom0.block.qcow2 import Qcow2Image
from xenfast.dom0.block.raw import RawImage, Unsupported
from xenfast.dom0.block.vhd import VhdImage
from xenfast.errors import XenfastError


class Image(Protocol):
    path: str
    size_sectors: int
    readonly: bool

    def readv(self, offset: int, buffers: list[memoryview]) -> None: ...

    def writev(self, offset: int, buffers: list[memoryview]) -> None: ...

    def flush(self) -> None: ...

    def discard(self, offset: int, length: int) -> None: ...

    def close(self) -> None: ...


FORMATS = {"raw": RawImage, "qcow2": Qcow2Image, "vhd": VhdImage}
KNOWN = ("qcow", "qed", "vhdx", "vmdk", "vdi")  # of which a user may think that they work


class NoMedium:
    """A drive with nothing in it (the format ``empty``)."""

    path, size_sectors, readonly = "", 0, True

    def readv(self, offset: int, buffers: list[memoryview]) -> None:
        raise OSError(errno.ENOMEDIUM, "there is no medium in the drive")

    def writev(self, offset: int, buffers: list[memoryview]) -> None:
        raise OSError(errno.ENOMEDIUM, "there is no medium in the drive")

    def flush(self) -> None:
        pass

    def discard(self, offset: int, length: int) -> None:
        raise Unsupported("there is no medium in the drive")

    def close(self) -> None:
        pass


def open_image(path: str, image_format: str = "raw", readonly: bool = False, direct: bool = False) -> Image:
    """Open the image of a disk; XenfastError says in one sentence why it cannot be.  ``direct``: past the host's page
    cache, where the format can (raw)."""
    if image_format == "empty":
        return NoMedium()
    image = FORMATS.get(image_format or "raw")
    if image is None:
        known = "is not supported (qemu-img convert -O qcow2 makes it one that is)" if image_format in KNOWN else "does not exist"
        raise XenfastError(f"disk {path!r}: the image format {image_format!r} {known}; there are {', '.join(FORMATS)}")
    if image is RawImage:
        return RawImage(path, readonly, direct)
    return image(path, readonly)
