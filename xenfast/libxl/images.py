"""Disk images as files: making, looking at, checking, converting and resizing them; what ``xenfast img`` does.

    images.create("disk.qcow2", "qcow2", 20 << 30)
    images.convert("disk.qcow2", "disk.vhd", "vhd")
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from xenfast.dom0.block import FORMATS, open_image, qcow2_snapshot, vhd
from xenfast.dom0.block.chain import probe
from xenfast.dom0.block.qcow2 import Qcow2Image
from xenfast.dom0.block.qcow2_check import Report, check, clear_corrupt_mark
from xenfast.dom0.block.vhd import VhdImage
from xenfast.errors import XenfastError

UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
OPTIONS: dict[str, dict[str, Any]] = {          # of create: name -> how its value is read
    "raw": {},
    "qcow2": {"version": int, "cluster_size": "size", "refcount_bits": int, "lazy_refcounts": "flag", "compression": str, "data_file": str},
    "vhd": {"kind": str},
}
STEP = 1 << 20


def parse_size(text: str) -> int:
    """``512``, ``64k``, ``1.5G``: bytes."""
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)([kKmMgGtT]?)", text)
    if not match:
        raise XenfastError(f"{text!r} is not a size (such as 512M or 20G)")
    return int(float(match[1]) * UNITS[match[2].lower()]) if "." in match[1] else int(match[1]) * UNITS[match[2].lower()]


def create(
    path: str, image_format: str, size: int = 0, options: dict[str, str] | None = None, backing: str = "", backing_format: str = ""
) -> None:
    """Make an empty image, or one that holds the changes to ``backing``; an existing file is overwritten."""
    if image_format not in FORMATS:
        raise XenfastError(f"images of format {image_format!r} cannot be made, only {', '.join(FORMATS)}")
    given = {name: _value(image_format, name, value) for name, value in (options or {}).items()}
    if os.path.exists(path):
        open_image(path, "raw", False).close() if os.path.getsize(path) >= 512 else None      # in use? then not
    if backing:
        where = os.path.join(os.path.dirname(path), backing)
        backing_format = backing_format or probe(where)
        if not size:
            base = open_image(where, backing_format, True)
            size = base.size_sectors * 512
            base.close()
    if not size:
        raise XenfastError(f"disk {path!r}: how large is it to be?")
    if image_format == "qcow2":
        qcow2_snapshot.create(path, size, backing=backing, backing_format=backing_format, **given)
    elif image_format == "vhd":
        vhd.create(path, size, parent=backing, **given)
    elif backing:
        raise XenfastError("a raw image has no backing file")
    else:
        try:
            with open(path, "wb") as file:
                file.truncate(-(-size // 512) * 512)
        except (OSError, OverflowError) as error:
            raise XenfastError(f"disk {path!r} cannot be made: {getattr(error, 'strerror', None) or error}") from None


def _value(image_format: str, name: str, text: str) -> Any:
    name = name.replace("-", "_")
    reader = OPTIONS[image_format].get(name)
    if reader is None:
        known = ", ".join(OPTIONS[image_format]) or "there are none"
        raise XenfastError(f"{name!r} is not an option of {image_format} images ({known})")
    if reader == "size":
        return parse_size(text)
    if reader == "flag":
        if text not in ("on", "off"):
            raise XenfastError(f"{name} is on or off, not {text!r}")
        return text == "on"
    try:
        return reader(text)
    except ValueError:
        raise XenfastError(f"{name} is a number, not {text!r}") from None


def info(path: str, image_format: str = "") -> dict[str, Any]:
    """What there is to say about an image."""
    kind = image_format or probe(path)
    image = open_image(path, kind, True)
    try:
        found: dict[str, Any] = {
            "file": path,
            "format": kind,
            "size": image.size_sectors * 512,
            "disk_size": os.stat(path).st_blocks * 512,
        }
        if isinstance(image, Qcow2Image):
            header = image.header
            found |= {
                "version": header.version,
                "cluster_size": header.cluster_size,
                "refcount_bits": 1 << header.refcount_order,
                "compression": "zstd" if header.compression else "zlib",
                "corrupt": bool(header.incompatible & 2),
            }
            for name in ("backing", "backing_format", "data_file"):
                if getattr(header, name):
                    found[name] = getattr(header, name)
            if image.snapshots:
                found["snapshots"] = [_snapshot(each) for each in image.snapshots]
        elif isinstance(image, VhdImage):
            found["kind"] = next(name for name, number in vhd.KINDS.items() if number == image.kind)
            if image.parent is not None:
                found["backing"] = image.parent.path
        return found
    finally:
        image.close()


def _snapshot(each: Any) -> dict[str, Any]:
    when = datetime.fromtimestamp(each.seconds, UTC).isoformat()
    return {"id": each.identity, "name": each.name, "date": when, "vm_state_size": each.vm_state_size, "size": each.disk_size}


def check_image(path: str, repair: bool = False) -> Report:
    """Look for leaks and errors of a qcow2 image, and put them right."""
    image = _qcow2(path, not repair, corrupt=repair)
    try:
        report = check(image, repair)
        if repair and image.header.incompatible & 2:
            clear_corrupt_mark(image)
        return report
    finally:
        image.close()


def _qcow2(path: str, readonly: bool = False, corrupt: bool = False) -> Qcow2Image:
    kind = probe(path)
    if kind != "qcow2":
        raise XenfastError(f"disk {path!r} is a {kind} image; this is for qcow2 images")
    if corrupt:
        _forgive(path)
    return Qcow2Image(path, readonly)


def _forgive(path: str) -> None:
    """Take the mark "corrupt" away, so that the image can be opened for its repair."""
    with open(path, "r+b") as file:
        file.seek(79)
        bits = file.read(1)
        if bits and bits[0] & 2:
            file.seek(79)
            file.write(bytes([bits[0] & ~2]))


def convert(source: str, target: str, target_format: str, source_format: str = "", compress: bool = False,
            options: dict[str, str] | None = None) -> None:  # fmt: skip
    """Copy a disk into a new image; what is zeros takes no space there."""
    if compress and target_format != "qcow2":
        raise XenfastError("only qcow2 images can be compressed")
    image = open_image(source, source_format or probe(source), True)
    try:
        if os.path.exists(target) and os.path.samefile(source, target):
            raise XenfastError(f"disk {target!r} cannot be converted into itself")
        size = image.size_sectors * 512
        create(target, target_format, size, options)
        new: Any = open_image(target, target_format)
        try:
            step = new.cluster_size if compress else STEP
            for offset, data in _pieces(image, size, step):
                if compress and len(data) < step:
                    data += bytes(step - len(data))
                if not compress or not new.write_compressed(offset, bytes(data)):
                    new.writev(offset, [memoryview(data)[: size - offset]])
            new.flush()
        finally:
            new.close()
    finally:
        image.close()


def _pieces(image: Any, size: int, step: int) -> Iterator[tuple[int, bytearray]]:
    """(offset, data) of the parts of a disk that are not all zeros."""
    zeros = bytes(step)
    for offset in range(0, size, step):
        data = bytearray(min(step, size - offset))
        image.readv(offset, [memoryview(data)])
        if data != zeros[: len(data)]:
            yield offset, data


def resize(path: str, text: str) -> int:
    """Give a disk another size, ``+1G`` and ``-1G`` relative to the one it has; returns the new one."""
    kind = probe(path)
    image = open_image(path, kind)
    try:
        now = image.size_sectors * 512
        size = parse_size(text.lstrip("+-"))
        size = now + size if text.startswith("+") else now - size if text.startswith("-") else size
        size = -(-size // 512) * 512
        if size <= 0:
            raise XenfastError(f"disk {path!r} cannot have {size} bytes")
        if isinstance(image, Qcow2Image):
            qcow2_snapshot.resize(image, size)
        elif kind == "raw":
            os.truncate(path, size)
        else:
            raise XenfastError(f"{kind} images cannot be resized")
        return size
    finally:
        image.close()


def snapshot(path: str, action: str, name: str = "") -> list[dict[str, Any]]:
    """``list``, ``create``, ``apply`` or ``delete`` an internal snapshot of a qcow2 image; returns what there is then."""
    image = _qcow2(path, action == "list")
    try:
        if action != "list":
            {"create": qcow2_snapshot.create_snapshot, "apply": qcow2_snapshot.apply_snapshot,
             "delete": qcow2_snapshot.delete_snapshot}[action](image, name)  # fmt: skip
        return [_snapshot(each) for each in image.snapshots]
    finally:
        image.close()
