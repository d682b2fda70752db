"""What changes the shape of a qcow2 image: making one, resizing, internal snapshots.

Each step is synced before the next, and clusters lose users last: a crash leaves at worst clusters that are counted and
not used, and flags that say "shared" of what is not.
"""

from __future__ import annotations

import os
import time
from array import array
from typing import TYPE_CHECKING

import numpy as np

from xenfast.dom0.block import qcow2_format as abi
from xenfast.dom0.block.qcow2_check import copied_flags, references
from xenfast.dom0.block.qcow2_file import File
from xenfast.dom0.block.qcow2_format import COPIED, Header, Snapshot
from xenfast.dom0.block.qcow2_refcount import Refcounts, to_bytes
from xenfast.dom0.block.raw import SECTOR_SIZE
from xenfast.errors import XenfastError

if TYPE_CHECKING:
    from xenfast.dom0.block.qcow2 import Qcow2Image

MAX_SIZE = 1 << 60


def create(
    path: str, size: int, *, version: int = 3, cluster_size: int = 65536, refcount_bits: int = 16, backing: str = "",
    backing_format: str = "", lazy_refcounts: bool = False, compression: str = "zlib", data_file: str = "",
) -> None:  # fmt: skip
    """Make an empty image; a file that is there is overwritten."""
    bits, order = cluster_size.bit_length() - 1, refcount_bits.bit_length() - 1
    if cluster_size != 1 << bits or not abi.MIN_CLUSTER_BITS <= bits <= abi.MAX_CLUSTER_BITS:
        raise XenfastError(f"a cluster of {cluster_size} bytes cannot be: it is a power of two from 512 to 2097152")
    if refcount_bits != 1 << order or order > 6 or (version == 2 and order != 4):
        raise XenfastError(f"refcounts of {refcount_bits} bits cannot be in version {version}")
    if version not in (2, 3) or (version == 2 and (lazy_refcounts or compression != "zlib" or data_file)):
        raise XenfastError(f"qcow2 version {version} does not have that")
    if compression not in abi.COMPRESSIONS:
        raise XenfastError(f"the compression {compression!r} does not exist ({', '.join(abi.COMPRESSIONS)})")
    size = -(-size // SECTOR_SIZE) * SECTOR_SIZE
    if not 0 < size < MAX_SIZE:
        raise XenfastError(f"a disk cannot have {size} bytes")
    header = Header(version, bits, size, refcount_table_offset=cluster_size, refcount_table_clusters=1, refcount_order=order,
                    backing=backing, backing_format=backing_format, compression=abi.COMPRESSIONS[compression],
                    compatible=abi.LAZY_REFCOUNTS if lazy_refcounts else 0, data_file=data_file)  # fmt: skip
    header.incompatible = (abi.COMPRESSION if header.compression else 0) | (abi.DATA_FILE if data_file else 0)
    if header.l1_needed * 8 > abi.MAX_L1:
        raise XenfastError(f"a disk of {size} bytes takes larger clusters than {cluster_size} bytes")
    try:
        with open(path, "wb") as file:
            file.write(bytes(2 * cluster_size) + (2 * cluster_size).to_bytes(8, "big") + bytes(cluster_size - 8))
        if data_file:
            with open(os.path.join(os.path.dirname(path), data_file), "ab") as file:
                file.truncate(size)
    except OSError as error:
        raise XenfastError(f"disk {path!r} cannot be made: {error.strerror}") from None
    _lay_out(path, header)


def _lay_out(path: str, header: Header) -> None:
    """Header, refcounts and an empty L1 table; the refcount table is there, with the offset of its first block: the
    cluster behind the file's end, which holds zeros."""
    with open(path, "r+b") as raw:
        raw.seek(header.cluster_size)
        raw.write((2 * header.cluster_size).to_bytes(8, "big"))
        raw.seek(2 * header.cluster_size)
        raw.write(bytes(header.cluster_size))
    file = File(path)
    try:
        counts = Refcounts(file, header)
        for cluster in range(3):
            counts.add(cluster, 1)
        header.l1_size = header.l1_needed
        clusters = max(1, -(-header.l1_size * 8 // header.cluster_size))
        header.l1_offset = counts.allocate_contiguous(clusters) << header.cluster_bits
        file.write(header.l1_offset, bytes(clusters << header.cluster_bits))
        counts.write(lambda: None)
        counts.settle()
        counts.write(lambda: None)
        file.sync()
        file.write(0, abi.format_header(header))
        file.sync()
    finally:
        file.close()


# --- size ------------------------------------------------------------------------------------------------------------
def resize(image: Qcow2Image, size: int) -> None:
    """Make the disk larger or smaller; what is behind a smaller end is gone."""
    size = -(-size // SECTOR_SIZE) * SECTOR_SIZE
    if not 0 < size < MAX_SIZE:
        raise XenfastError(f"a disk cannot have {size} bytes")
    if size < image.size:
        if image.snapshots:
            raise XenfastError(f"disk {image.path!r} has snapshots, so it cannot become smaller")
        end = (size + image.mask) & ~image.mask
        if end < image.size:
            image.discard(end, image.size - end)
        image.flush()
    header = image.header
    before, header.size = header.size, size
    if header.l1_needed * 8 > abi.MAX_L1:
        header.size = before
        raise XenfastError(f"disk {image.path!r}: {size} bytes take larger clusters")
    grow_l1(image, header.l1_needed)
    if image.data is not image.file:
        os.ftruncate(image.data.fd, size)
    image.write_header()
    image.file.sync()
    image.size, image.size_sectors = size, size // SECTOR_SIZE


def grow_l1(image: Qcow2Image, entries: int) -> None:
    """Have an L1 table of at least so many entries."""
    header = image.header
    if entries <= header.l1_size:
        return
    image.commit()
    old = range(header.l1_offset >> image.bits, (header.l1_offset + header.l1_size * 8 + image.mask) >> image.bits)
    first = image.counts.allocate_contiguous(-(-entries * 8 // image.cluster_size))
    image.counts.write(image.write_header)
    image.l1.extend([0] * (entries - len(image.l1)))
    image.file.write(first << image.bits, to_bytes(image.l1) + bytes(-entries * 8 % image.cluster_size))
    image.file.sync()
    header.l1_offset, header.l1_size = first << image.bits, entries
    image.write_header()
    image.file.sync()
    image.counts.freed.extend(old)
    _settled(image)


def _settled(image: Qcow2Image) -> None:
    """After a change of tables: free what is free, note anew where tables are."""
    image.counts.settle()
    image.counts.write(image.write_header)
    image.file.sync()
    cursor = image.counts.cursor
    image.file_clusters = image.counts.end
    end = image.counts.end
    image.reserve_tables()
    image.counts.cursor, image.counts.end = cursor, max(end, image.counts.end)


# --- snapshots -------------------------------------------------------------------------------------------------------
def _load(image: Qcow2Image, snapshot: Snapshot) -> array[int]:
    return image._read_l1(snapshot.l1_offset, snapshot.l1_size)


def _clusters_of(image: Qcow2Image, l1: array[int]) -> np.ndarray:
    found = references(image, np.array(l1, np.uint64))
    return np.concatenate(found) if found else np.zeros(0, np.uint64)


def _share(image: Qcow2Image, l1: array[int]) -> None:
    """One user more for all that a table leads to."""
    clusters, times = np.unique(_clusters_of(image, l1), return_counts=True)
    for cluster, count in zip(clusters.tolist(), times.tolist()):
        if image.counts.get(cluster) + count > image.counts.maximum:
            raise XenfastError(f"disk {image.path!r}: refcounts of {1 << image.counts.order} bits are too small for a snapshot")
    for cluster, count in zip(clusters.tolist(), times.tolist()):
        image.counts.add(cluster, count)
    image.counts.write(image.write_header)
    image.file.sync()


def _writable(image: Qcow2Image) -> None:
    if image.readonly:
        raise XenfastError(f"disk {image.path!r} is open for reading only")
    if image.data is not image.file:
        raise XenfastError(f"disk {image.path!r} has a data file, which cannot have snapshots")
    image.flush()
    image.commit()


def create_snapshot(image: Qcow2Image, name: str) -> Snapshot:
    """Keep the disk as it is now under a name."""
    _writable(image)
    if not name or len(name.encode()) > 255:
        raise XenfastError(f"{name[:40]!r} cannot be the name of a snapshot")
    if any(each.name == name for each in image.snapshots):
        raise XenfastError(f"disk {image.path!r} has a snapshot {name!r} already")
    identity = 1 + max((int(each.identity) for each in image.snapshots if each.identity.isdigit()), default=0)
    size = len(image.l1) * 8
    first = image.counts.allocate_contiguous(max(1, -(-size // image.cluster_size)))
    _share(image, image.l1)
    shared = array("Q", [entry & ~COPIED for entry in image.l1])
    image.file.write(first << image.bits, to_bytes(shared) + bytes(-size % image.cluster_size))
    _set_flags(image)
    now = time.time_ns()
    snapshot = Snapshot(first << image.bits, len(image.l1), str(identity), name, now // 10**9 & 0xFFFFFFFF, now % 10**9,
                        disk_size=image.size)  # fmt: skip
    _write_table(image, [*image.snapshots, snapshot])
    return snapshot


def delete_snapshot(image: Qcow2Image, text: str) -> None:
    _writable(image)
    snapshot = image.find_snapshot(text)
    l1 = _load(image, snapshot)
    gone = _clusters_of(image, l1).tolist()
    gone += range(snapshot.l1_offset >> image.bits, (snapshot.l1_offset + max(1, snapshot.l1_size * 8) + image.mask) >> image.bits)
    _write_table(image, [each for each in image.snapshots if each is not snapshot], gone)
    _set_flags(image)


def apply_snapshot(image: Qcow2Image, text: str) -> None:
    """Make the disk what it was; the snapshot stays."""
    _writable(image)
    snapshot = image.find_snapshot(text)
    grow_l1(image, snapshot.l1_size)
    l1 = _load(image, snapshot)
    gone = _clusters_of(image, image.l1).tolist()
    _share(image, l1)
    l1.extend([0] * (len(image.l1) - len(l1)))
    image.l1[:] = array("Q", [entry & ~COPIED for entry in l1])
    image.l2.clear()
    image.unpacked.clear()
    image.file.write(image.header.l1_offset, to_bytes(image.l1))
    image.file.sync()
    if snapshot.disk_size != image.size:
        image.header.size = image.size = snapshot.disk_size
        image.size_sectors = image.size // SECTOR_SIZE
        image.write_header()
        image.file.sync()
    image.counts.freed.extend(gone)
    _settled(image)
    _set_flags(image)


def _write_table(image: Qcow2Image, snapshots: list[Snapshot], gone: list[int] | None = None) -> None:
    """A new snapshot table, then the header that names it, then the old one and ``gone`` are free."""
    header, counts = image.header, image.counts
    old = range(0)
    if image.snapshots:
        size = sum(len(each.pack()) for each in image.snapshots)
        old = range(header.snapshots_offset >> image.bits, (header.snapshots_offset + size + image.mask) >> image.bits)
    data = b"".join(each.pack() for each in snapshots)
    header.snapshots_offset = 0
    if data:
        first = counts.allocate_contiguous(-(-len(data) // image.cluster_size))
        counts.write(image.write_header)
        image.file.write(first << image.bits, data + bytes(-len(data) % image.cluster_size))
        header.snapshots_offset = first << image.bits
    image.file.sync()
    header.nb_snapshots = len(snapshots)
    image.write_header()
    image.file.sync()
    image.snapshots = snapshots
    counts.freed.extend([*old, *(gone or [])])
    _settled(image)


def _set_flags(image: Qcow2Image) -> None:
    """COPIED where there is one user, and nowhere else."""
    counts = image.counts
    stored = np.zeros(-(-counts.end // counts.per_block) * counts.per_block, np.int64)
    for index in range(len(stored) // counts.per_block):
        block = counts.block(index)
        if block is not None:
            stored[index * counts.per_block : (index + 1) * counts.per_block] = block
    copied_flags(image, stored, repair=True)
    image.l2.clear()
    image.file.sync()
