"""Backing files: what an image that holds only changes was made from, in any format, itself with a backing file or not."""

import os
from typing import Any

from xenfast.errors import XenfastError

MAX_CHAIN = 64
MAGICS = {b"QFI\xfb": "qcow2", b"conectix": "vhd", b"vhdxfile": "vhdx", b"KDMV": "vmdk", b"QED\0": "qed"}


def probe(path: str) -> str:
    """The format of an image by its first bytes, as QEMU does it for a backing file that comes without one."""
    try:
        with open(path, "rb") as file:
            head = file.read(512)
            if head[:4] == b"QFI\xfb" and head[4:8] == b"\0\0\0\1":
                return "qcow"
            for magic, name in MAGICS.items():
                if head.startswith(magic):
                    return name
            if head[64:68] == b"\x7f\x10\xda\xbe":
                return "vdi"
            file.seek(0, os.SEEK_END)
            if file.tell() >= 512:
                file.seek(-512, os.SEEK_END)
                if file.read(8) == b"conectix":
                    return "vhd"
    except OSError as error:
        raise XenfastError(f"disk {path!r} cannot be opened: {error.strerror}") from None
    return "raw"


def open_backing(path: str, name: str, image_format: str, chain: Any) -> Any:
    """Open the backing file that ``path`` names, to be read; ``chain`` are the real paths of the images before."""
    from xenfast.dom0.block import FORMATS, open_image

    name = name.removeprefix("file:")
    if name.startswith(("json:", "nbd:", "http:", "https:", "ssh:", "rbd:", "iscsi:")):
        raise XenfastError(f"disk {path!r}: its backing file {name[:80]!r} is not a file of this host, which is not supported")
    where = os.path.join(os.path.dirname(path), name)
    chain = (*chain, os.path.realpath(path))
    if os.path.realpath(where) in chain:
        raise XenfastError(f"disk {path!r}: its backing file {where!r} leads back to itself")
    if len(chain) > MAX_CHAIN:
        raise XenfastError(f"disk {path!r}: the chain of backing files is longer than {MAX_CHAIN}")
    kind = {"vpc": "vhd", "": ""}.get(image_format, image_format) or probe(where)
    try:
        if kind in FORMATS and kind != "raw":
            return FORMATS[kind](where, True, chain=chain)
        return open_image(where, kind, True)
    except XenfastError as error:
        raise XenfastError(f"{error} (as the backing file of {path!r})") from None
