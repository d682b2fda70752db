"""qcow2 images, versions 2 and 3 (QEMU's docs/interop/qcow2.txt): read and written, by code of our own.

Backing chains of any format, compressed clusters (zlib, zstd), zero clusters, internal snapshots (qcow2_snapshot.py),
external data files, images with lazy refcounts that were not closed.  Refused: encryption, extended L2 entries.
Bitmaps are dropped, as their autoclear bit wants it, when the disk is written.

**What is on the disk when.** Data goes to the file at once; tables change in memory, and ``flush`` brings them there:
first the counts of new clusters (and the data), then L2 tables, then the L1 table, each synced before the next, and only
then are clusters free that are not needed any more.  So wherever the machine stops, the image is as at the last
flush or later, and at worst some clusters are counted and not used.
"""

import errno
import logging
import os
import zlib
from collections import OrderedDict
from typing import Any

from xenfast import _core
from xenfast.dom0.block import qcow2_format as abi
from xenfast.dom0.block.qcow2_file import File
from xenfast.dom0.block.qcow2_format import COMPRESSED, COPIED, OFFSET_MASK, ZERO
from xenfast.dom0.block.qcow2_refcount import Refcounts, big_endian, to_bytes
from xenfast.dom0.block.raw import SECTOR_SIZE, skip
from xenfast.errors import XenfastError

log = logging.getLogger("xenfast")

L2_CACHE = 8 << 20              # bytes of L2 tables kept: 64 GiB of disk with clusters of 64 KiB
MAX_COMPRESSED_CACHE = 16       # clusters
UNALLOCATED = 0
L2_TABLE = "an L2 table"


class L2:
    """A table in memory."""

    __slots__ = ("cluster", "dirty", "entries")

    def __init__(self, cluster: int, entries: Any) -> None:
        self.cluster, self.entries, self.dirty = cluster, entries, False


class Qcow2Image:
    format = "qcow2"

    def __init__(self, path: str, readonly: bool = False, *, snapshot: str = "", chain: Any = ()) -> None:
        """``snapshot`` opens what a snapshot holds, to be read only; ``chain`` is what this image is a backing file of."""
        self.path, self.readonly = path, readonly or bool(snapshot)
        self.backing: Any = None
        self.data: Any = None
        self.file = File(path, self.readonly)
        try:
            self._open(snapshot, chain)
        except BaseException:
            self._close_files()
            raise

    def _open(self, snapshot: str, chain: Any) -> None:
        header = self.header = abi.parse_header(self.path, self.file.read(0, 1 << 16))
        self.bits = header.cluster_bits
        self.cluster_size = header.cluster_size
        self.l2_bits = self.bits - 3
        self.mask = self.cluster_size - 1
        self.size = header.size
        self.csize_shift = 62 - (self.bits - 8)
        if header.incompatible & abi.CORRUPT and not self.readonly:
            raise XenfastError(f"disk {self.path!r} is marked as corrupt: it can be read only (xenfast img check -r all repairs it)")
        self.l1 = self._read_l1(header.l1_offset, header.l1_size)
        self.snapshots = self._read_snapshots()
        if snapshot:
            self._use_snapshot(snapshot)
        self.size_sectors = self.size // SECTOR_SIZE
        self.l1_dirty: set[int] = set()
        self.l2: OrderedDict[int, L2] = OrderedDict()
        self.l2_kept = max(4, L2_CACHE >> self.bits)
        self.dirty_l2: set[int] = set()
        self.unpacked: OrderedDict[int, bytes] = OrderedDict()
        self.packed_tail = (0, 0)               # where the next compressed cluster may go: offset, bytes left
        self.data = self._open_data_file()
        self.backing = self._open_backing(chain)
        self.file_clusters = (self.file.size() + self.mask) >> self.bits
        self.counts: Any = None
        if not self.readonly:
            self._prepare_to_write()

    def _prepare_to_write(self) -> None:
        header = self.header
        self.reserve_tables()
        if header.incompatible & abi.DIRTY:
            from xenfast.dom0.block.qcow2_check import check

            log.info("%s was not closed: its refcounts are made anew", self.path)
            check(self, repair=True)
        if header.autoclear & ~abi.RAW_DATA_FILE or header.incompatible & abi.DIRTY:
            header.autoclear &= abi.RAW_DATA_FILE
            header.incompatible &= ~abi.DIRTY
            self.write_header()
            self.file.sync()

    def reserve_tables(self) -> None:
        """Start with the refcounts as they are in the file, and note where tables are."""
        header = self.header
        self.counts = Refcounts(self.file, header)
        self.counts.reserve(0, 1, "the header")
        self.counts.reserve(header.l1_offset >> self.bits, self._clusters(header.l1_size * 8), "the L1 table")
        for entry in self.l1:
            if entry & OFFSET_MASK:
                self.counts.reserve(self._aligned(entry & OFFSET_MASK, "an L2 table") >> self.bits, 1, L2_TABLE)
        for snapshot in self.snapshots:
            self.counts.reserve(snapshot.l1_offset >> self.bits, self._clusters(snapshot.l1_size * 8), "the L1 table of a snapshot")

    def _read_l1(self, offset: int, size: int) -> Any:
        if offset + size * 8 > self.file.size() + self.mask:
            raise XenfastError(f"disk {self.path!r}: its L1 table is beyond the end of the file")
        return big_endian(self.file.read(offset, size * 8))

    def _read_snapshots(self) -> list[abi.Snapshot]:
        if not self.header.nb_snapshots:
            return []
        left = max(0, self.file.size() - self.header.snapshots_offset)
        data = self.file.read(self.header.snapshots_offset, min(left, abi.MAX_SNAPSHOT_TABLE))
        return abi.parse_snapshots(self.path, self.header, data)

    def find_snapshot(self, text: str) -> abi.Snapshot:
        """By ID or by name."""
        for found in self.snapshots:
            if text in (found.identity, found.name):
                return found
        raise XenfastError(f"disk {self.path!r} has no snapshot {text!r}")

    def _use_snapshot(self, text: str) -> None:
        found = self.find_snapshot(text)
        self.size = found.disk_size
        if found.l1_size << (self.bits + self.l2_bits) < self.size:
            raise XenfastError(f"disk {self.path!r}: the L1 table of its snapshot {text!r} is too short")
        self.l1 = self._read_l1(found.l1_offset, found.l1_size)

    def _beside(self, name: str) -> str:
        """A file that this one names, relative to its own directory."""
        return os.path.join(os.path.dirname(self.path), name)

    def _open_data_file(self) -> Any:
        if not self.header.incompatible & abi.DATA_FILE:
            return self.file
        return File(self._beside(self.header.data_file), self.readonly)

    def _open_backing(self, chain: Any) -> Any:
        from xenfast.dom0.block.chain import open_backing

        header = self.header
        return open_backing(self.path, header.backing, header.backing_format, chain) if header.backing else None

    def _clusters(self, size: int) -> int:
        return (size + self.mask) >> self.bits

    def _aligned(self, offset: int, what: str) -> int:
        if offset & self.mask or offset >> self.bits >= self.file_clusters:
            self.corrupt(f"{what} at {offset:#x}")
        return offset

    def corrupt(self, text: str) -> None:
        """The image contradicts itself: nothing is written to it any more."""
        if not self.readonly and self.counts is not None:
            self.readonly = True
            if self.header.version == 3:
                self.header.incompatible |= abi.CORRUPT
                self.write_header()
        raise OSError(errno.EIO, f"the image {self.path} is corrupt: {text}")

    # --- tables ------------------------------------------------------------------------------------------------------
    def table(self, index: int) -> L2 | None:
        """The L2 table of an L1 entry, None if there is none."""
        found = self.l2.get(index)
        if found is not None:
            return found
        offset = self.l1[index] & OFFSET_MASK
        if not offset:
            return None
        self._aligned(offset, "an L2 table")
        return self._keep(index, L2(offset >> self.bits, big_endian(self.file.read(offset, self.cluster_size))))

    def _keep(self, index: int, table: L2) -> L2:
        if len(self.l2) >= self.l2_kept:
            if len(self.dirty_l2) * 2 > self.l2_kept:
                self.commit()
            for each in [each for each in self.l2 if each not in self.dirty_l2][: len(self.l2) - self.l2_kept + 1]:
                del self.l2[each]
        self.l2[index] = table
        return table

    def own_table(self, index: int) -> L2:
        """The L2 table of an L1 entry, for writing: made if there is none, copied if a snapshot has it, too."""
        table = self.table(index)
        if table is None or not self.l1[index] & COPIED:
            first = self.counts.allocate(1)[0]
            if table is None:
                table = self._keep(index, L2(first, big_endian(bytes(self.cluster_size))))
            else:
                self.counts.freed.append(table.cluster)
                table.cluster = first
            self.counts.reserve(first, 1, L2_TABLE)
            self.file_clusters = max(self.file_clusters, first + 1)
            self.l1[index] = first << self.bits | COPIED
            self.l1_dirty.add(index)
        table.dirty = True
        self.dirty_l2.add(index)
        return table

    def entry(self, offset: int) -> int:
        """The L2 entry of a place on the disk."""
        cluster = offset >> self.bits
        table = self.l2.get(cluster >> self.l2_bits) or self.table(cluster >> self.l2_bits)
        return table.entries[cluster & (1 << self.l2_bits) - 1] if table is not None else UNALLOCATED

    def host(self, entry: int) -> int:
        """Where a plain cluster is in the file, checked."""
        offset = entry & OFFSET_MASK
        if offset & self.mask:
            self.corrupt(f"a data cluster at {offset:#x}")
        return offset

    # --- reading -----------------------------------------------------------------------------------------------------
    def readv(self, offset: int, buffers: list[memoryview]) -> None:
        length = sum(map(len, buffers))
        if (offset & self.mask) + length <= self.cluster_size:
            self._read_piece(self.entry(offset), offset, buffers)
            return
        for entry, at, size in self._pieces(offset, length):
            part, buffers = take(buffers, size)
            self._read_piece(entry, at, part)

    def _pieces(self, offset: int, length: int) -> list[tuple[int, int, int]]:
        """(entry of the first cluster, offset, length): clusters that lie one behind the other in the file, or all are
        nowhere, are one piece."""
        found: list[tuple[int, int, int]] = []
        follows = -1
        while length:
            entry = self.entry(offset)
            size = min(length, self.cluster_size - (offset & self.mask))
            if entry == follows:
                first, start, before = found[-1]
                found[-1] = first, start, before + size
            else:
                found.append((entry, offset, size))
            follows = -1 if entry & COMPRESSED else entry if entry in (UNALLOCATED, ZERO) else entry + self.cluster_size
            if entry & ZERO and entry != ZERO:
                follows = -1
            offset, length = offset + size, length - size
        return found

    def _read_piece(self, entry: int, offset: int, buffers: list[memoryview]) -> None:
        if entry & COMPRESSED:
            data = self._unpack(entry)
            at = offset & self.mask
            for buffer in buffers:
                buffer[:] = data[at : at + len(buffer)]
                at += len(buffer)
        elif entry & ZERO:
            zero(buffers)
        elif entry & OFFSET_MASK or (entry and self.data is not self.file):
            self.data.readv(self.host(entry) + (offset & self.mask), buffers)
        elif self.backing is not None:
            read_within(self.backing, offset, buffers)
        else:
            zero(buffers)

    def _unpack(self, entry: int) -> bytes:
        """The contents of a compressed cluster."""
        found = self.unpacked.get(entry)
        if found is not None:
            return found
        offset = entry & (1 << self.csize_shift) - 1
        sectors = (entry & COMPRESSED - 1) >> self.csize_shift
        raw = self.file.read(offset, (sectors + 1) * SECTOR_SIZE - (offset & SECTOR_SIZE - 1))
        try:
            data = (unzstd if self.header.compression == abi.ZSTD else inflate)(raw, self.cluster_size)
        except ValueError as error:
            raise OSError(errno.EIO, f"the image {self.path} is corrupt: a compressed cluster at {offset:#x}: {error}") from None
        while len(self.unpacked) >= MAX_COMPRESSED_CACHE:
            self.unpacked.popitem(last=False)
        self.unpacked[entry] = data
        return data

    def read(self, offset: int, length: int) -> bytes:
        """For ourselves: what is there, zeros behind the end."""
        data = bytearray(length)
        inside = min(length, self.size - offset)
        if inside > 0:
            with memoryview(data) as view:
                self.readv(offset, [view[:inside]])
        return bytes(data)

    # --- writing -----------------------------------------------------------------------------------------------------
    def writev(self, offset: int, buffers: list[memoryview]) -> None:
        length = sum(map(len, buffers))
        if self.readonly:
            raise OSError(errno.EROFS, f"the image {self.path} cannot be written")
        try:
            entry = self.entry(offset)
            if entry & (COPIED | ZERO) == COPIED and (offset & self.mask) + length <= self.cluster_size \
                    and self.l1[offset >> (self.bits + self.l2_bits)] & COPIED:
                self.data.writev(self._own(entry) + (offset & self.mask), buffers)
                return
            while length:
                size = self._write_some(offset, length, buffers)
                buffers = skip(buffers, size) if size < length else []
                offset, length = offset + size, length - size
        except XenfastError as error:
            raise OSError(errno.EIO, str(error)) from None

    def _own(self, entry: int) -> int:
        """Where data may be written in place: not where tables are."""
        offset = self.host(entry)
        if self.data is self.file and offset >> self.bits in self.counts.users:
            self.corrupt(f"{self.counts.users[offset >> self.bits]} is used for data")
        return offset

    def _write_some(self, offset: int, length: int, buffers: list[memoryview]) -> int:
        """Write as much as goes with one call; returns how much that was."""
        table = self.own_table(offset >> (self.bits + self.l2_bits))
        slot = offset >> self.bits & (1 << self.l2_bits) - 1
        inside = offset & self.mask
        wanted = min(self._clusters(inside + length), (1 << self.l2_bits) - slot)
        entries = table.entries
        entry = entries[slot]
        if entry & (COPIED | ZERO) == COPIED:
            count = 1
            while count < wanted and entries[slot + count] == entry + count * self.cluster_size:
                count += 1
            size = min(length, count * self.cluster_size - inside)
            self.data.writev(self._own(entry) + inside, take(buffers, size)[0])
            return size
        count = 1
        while count < wanted and entries[slot + count] & (COPIED | ZERO) != COPIED:
            count += 1
        host, count, fresh = self._allocate_data(offset >> self.bits, count)
        size = min(length, count * self.cluster_size - inside)
        self._write_new(host, offset, size, count, take(buffers, size)[0], fresh)
        for i in range(count):
            self._drop(entries[slot + i])
            entries[slot + i] = host + i * self.cluster_size | COPIED
        return size

    def _allocate_data(self, guest_cluster: int, count: int) -> tuple[int, int, bool]:
        """Room for clusters of data: offset, number, and whether it is beyond all that was ever used."""
        if self.data is not self.file:
            return guest_cluster << self.bits, count, False
        end = self.counts.end
        first, count = self.counts.allocate(count)
        fresh = first >= end
        self.file_clusters = max(self.file_clusters, first + count)
        return first << self.bits, count, fresh

    def _write_new(self, host: int, offset: int, size: int, count: int, buffers: list[memoryview], fresh: bool) -> None:
        """Data into new clusters, with what was around it before."""
        inside = offset & self.mask
        tail = count * self.cluster_size - inside - size
        old = self.backing is not None or self._has_data(offset) or self._has_data(offset + size - 1)
        if fresh and not old:                   # the host's file has zeros there already
            self.data.writev(host + inside, buffers)
            return
        begin = offset - inside
        head = [memoryview(self.read(begin, inside))] if inside else []
        rest = [memoryview(self.read(offset + size, tail))] if tail else []
        self.data.writev(host, [*head, *buffers, *rest])

    def _has_data(self, offset: int) -> bool:
        entry = self.entry(offset)
        return bool(entry & COMPRESSED or (entry & OFFSET_MASK and not entry & ZERO))

    def _drop(self, entry: int) -> None:
        """An L2 entry is overwritten: what it pointed to has one user less."""
        if entry & COMPRESSED:
            offset = entry & (1 << self.csize_shift) - 1
            sectors = (entry & COMPRESSED - 1) >> self.csize_shift
            last = (offset & ~(SECTOR_SIZE - 1)) + sectors * SECTOR_SIZE
            self.counts.freed.extend(range(offset >> self.bits, (last >> self.bits) + 1))
            self.unpacked.pop(entry, None)
        elif entry & OFFSET_MASK and self.data is self.file:
            self.counts.freed.append(self.host(entry) >> self.bits)

    def discard(self, offset: int, length: int) -> None:
        """Give whole clusters back; they read as zeros.  Parts of clusters are left as they are."""
        if self.readonly:
            raise OSError(errno.EROFS, f"the image {self.path} cannot be written")
        end = offset + length if offset + length >= self.size else (offset + length) & ~self.mask
        offset = (offset + self.mask) & ~self.mask
        if self.header.version == 2 and self.backing is not None:
            return                              # version 2 cannot say that there are zeros
        empty = ZERO if self.backing is not None else UNALLOCATED
        try:
            while offset < end:
                index = offset >> (self.bits + self.l2_bits)
                if empty == UNALLOCATED and self.table(index) is None:
                    offset = (index + 1) << (self.bits + self.l2_bits)
                    continue
                slot = offset >> self.bits & (1 << self.l2_bits) - 1
                if self.entry(offset) != empty:
                    table = self.own_table(index)
                    self._drop(table.entries[slot])
                    if self.data is not self.file:
                        self.data.punch(offset, self.cluster_size)
                    table.entries[slot] = empty
                offset += self.cluster_size
        except XenfastError as error:
            raise OSError(errno.EIO, str(error)) from None

    def write_compressed(self, offset: int, data: bytes) -> bool:
        """Write a whole cluster, compressed by zlib; False if that makes it no smaller.  For new images."""
        packed = deflate(data)
        if len(packed) >= self.cluster_size or self.header.compression != abi.ZLIB or self.data is not self.file:
            return False
        at, left = self.packed_tail
        if left < len(packed):
            first = self.counts.allocate(1)[0]
            self.file_clusters = max(self.file_clusters, first + 1)
            at, left = first << self.bits, self.cluster_size
        else:
            self.counts.add(at >> self.bits, 1)
        self.file.write(at, packed)
        sectors = ((at + len(packed) - 1) >> 9) - (at >> 9)
        self.packed_tail = at + len(packed), left - len(packed)
        table = self.own_table(offset >> (self.bits + self.l2_bits))
        slot = offset >> self.bits & (1 << self.l2_bits) - 1
        self._drop(table.entries[slot])
        table.entries[slot] = COMPRESSED | sectors << self.csize_shift | at
        return True

    # --- what lasts --------------------------------------------------------------------------------------------------
    def flush(self) -> None:
        """Everything written so far is on the disk when this returns."""
        if not self.readonly:
            if self.data is not self.file:
                self.data.sync()
            try:
                if not self.commit():
                    self.file.sync()
            except XenfastError as error:
                raise OSError(errno.EIO, str(error)) from None

    def commit(self) -> bool:
        """Bring the tables to the disk, in order; False if none has changed."""
        counts = self.counts
        if not (counts.dirty or counts.table_dirty or self.dirty_l2 or self.l1_dirty or counts.freed):
            return False
        if counts.dirty or counts.table_dirty:
            counts.write(self.write_header)
        self.file.sync()
        if self.dirty_l2:
            for index in sorted(self.dirty_l2):
                table = self.l2[index]
                self.file.write(table.cluster << self.bits, to_bytes(table.entries))
                table.dirty = False
            self.dirty_l2.clear()
            self.file.sync()
        if self.l1_dirty:
            for sector in sorted({index // 64 for index in self.l1_dirty}):
                part = self.l1[sector * 64 : sector * 64 + 64]
                self.file.write(self.header.l1_offset + sector * SECTOR_SIZE, to_bytes(part))
            self.l1_dirty.clear()
            self.file.sync()
        if counts.freed:
            for cluster in counts.freed:
                if counts.users.get(cluster) == L2_TABLE:
                    del counts.users[cluster]
            counts.settle()
        self.packed_tail = (0, 0)
        return True

    def write_header(self) -> None:
        self.file.write(0, abi.format_header(self.header))

    def close(self) -> None:
        """Write what is left and close the files; harmless a second time."""
        if self.file.fd >= 0 and not self.readonly:
            try:
                self.flush()
                self.commit()                   # the counts of what that has freed
            except OSError as error:
                log.error("%s: %s", self.path, error)
        self._close_files()

    def _close_files(self) -> None:
        for each in (self.file, self.data, self.backing):
            if each is not None:
                each.close()


def take(buffers: list[memoryview], size: int) -> tuple[list[memoryview], list[memoryview]]:
    """The first so many bytes of buffers, and the rest."""
    first: list[memoryview] = []
    for i, buffer in enumerate(buffers):
        if size >= len(buffer):
            first.append(buffer)
            size -= len(buffer)
            if not size:
                return first, buffers[i + 1 :]
        else:
            return [*first, buffer[:size]], [buffer[size:], *buffers[i + 1 :]]
    return first, []


def zero(buffers: list[memoryview]) -> None:
    for buffer in buffers:
        buffer[:] = bytes(len(buffer))


def read_within(image: Any, offset: int, buffers: list[memoryview]) -> None:
    """Read from a backing image, which may be shorter: zeros behind its end."""
    inside = max(0, min(sum(map(len, buffers)), image.size_sectors * SECTOR_SIZE - offset))
    first, rest = take(buffers, inside) if inside else ([], buffers)
    if first:
        image.readv(offset, first)
    zero(rest)


# --- compression -----------------------------------------------------------------------------------------------------
def inflate(raw: bytes, size: int) -> bytes:
    try:
        data = zlib.decompressobj(-15).decompress(raw, size)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if len(data) != size:
        raise ValueError(f"{len(data)} bytes of {size}")
    return data


def deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-12)
    return packer.compress(data) + packer.flush()


def unzstd(raw: bytes, size: int) -> bytes:
    data = bytearray(size)
    if _core.zstd_decompress(raw[: zstd_frame_size(raw)], data) != size:
        raise ValueError("it is shorter than a cluster")
    return bytes(data)


def zstd_frame_size(raw: bytes) -> int:
    """Where a frame ends (RFC 8878 3.1.1); what follows it in the last sector is something else's."""
    if len(raw) < 6 or raw[:4] != b"\x28\xb5\x2f\xfd":
        raise ValueError("not a zstd frame")
    flags = raw[4]
    single = flags >> 5 & 1
    at = 5 + (1 - single) + (0, 1, 2, 4)[flags & 3] + ((1 if single else 0), 2, 4, 8)[flags >> 6]
    while at + 3 <= len(raw):
        block = int.from_bytes(raw[at : at + 3], "little")
        at += 3 + (1 if block >> 1 & 3 == 1 else block >> 3)
        if block & 1:
            return at + (4 if flags & 4 else 0)
    raise ValueError("the frame is cut short")
