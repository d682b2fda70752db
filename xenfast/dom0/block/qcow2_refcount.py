"""Who uses which cluster of a qcow2 file: the refcount table, its blocks, and where new clusters come from.

Nothing is written before ``write()``; what is freed is free after the next ``settle()`` only, when no table on the disk
names it any more.  So a file that is cut off anywhere has at worst clusters that are counted and not used.
"""

from __future__ import annotations

import sys
from array import array
from typing import TYPE_CHECKING, Any

import numpy as np

from xenfast.dom0.block.qcow2_format import MAX_REFCOUNT_TABLE, Header
from xenfast.errors import XenfastError

if TYPE_CHECKING:
    from xenfast.dom0.block.qcow2_file import File

TYPES = {3: ">u1", 4: ">u2", 5: ">u4", 6: ">u8"}


def big_endian(data: bytes) -> array[int]:
    """Words of 64 bits."""
    words = array("Q", data)
    if sys.byteorder == "little":
        words.byteswap()
    return words


def to_bytes(words: array[int]) -> bytes:
    if sys.byteorder == "big":
        return words.tobytes()
    swapped = words[:]
    swapped.byteswap()
    return swapped.tobytes()


class Refcounts:
    def __init__(self, file: File, header: Header) -> None:
        self.file, self.header = file, header
        self.bits = header.cluster_bits
        self.order = header.refcount_order
        self.per_block = (header.cluster_size * 8) >> self.order
        self.maximum = (1 << (1 << self.order)) - 1
        size = header.refcount_table_clusters << self.bits
        self.table = big_endian(file.read(header.refcount_table_offset, size))
        self.blocks: dict[int, np.ndarray] = {}     # index in the table -> counts, of 64 bits each
        self.dirty: set[int] = set()
        self.table_dirty = self.table_moved = False
        self.end = (file.size() + header.cluster_size - 1) >> self.bits     # clusters from here on are beyond the file
        self.cursor = 0
        self.freed: list[int] = []                  # clusters that have lost a user since settle()
        self.users: dict[int, str] = {}             # clusters of tables: data may never go there
        self.reserve(header.refcount_table_offset >> self.bits, header.refcount_table_clusters, "the refcount table")
        for offset in self.table:
            if offset:
                self.reserve(self._place(offset), 1, "a refcount block")

    def reserve(self, cluster: int, count: int, what: str) -> None:
        """These clusters hold a table."""
        for each in range(cluster, cluster + count):
            self.users[each] = what

    def _place(self, offset: int) -> int:
        if offset & self.header.cluster_size - 1 or offset >> self.bits >= self.end:
            raise XenfastError(f"disk {self.file.path!r} is corrupt: a refcount block at {offset:#x}")
        return offset >> self.bits

    # --- counts ------------------------------------------------------------------------------------------------------
    def block(self, index: int) -> np.ndarray | None:
        """The counts of a block; None if there is none, so all are 0."""
        found = self.blocks.get(index)
        if found is None and index < len(self.table) and self.table[index]:
            raw = self.file.read(self.table[index], self.header.cluster_size)
            found = self.blocks[index] = self._unpack(raw)
        return found

    def _unpack(self, raw: bytes) -> np.ndarray:
        if self.order >= 3:
            return np.frombuffer(raw, TYPES[self.order]).astype(np.uint64)
        width = 1 << self.order
        shifts = np.arange(0, 8, width, dtype=np.uint8)
        return (np.frombuffer(raw, np.uint8)[:, None] >> shifts & ((1 << width) - 1)).reshape(-1).astype(np.uint64)

    def _pack(self, counts: np.ndarray) -> bytes:
        if self.order >= 3:
            return counts.astype(TYPES[self.order]).tobytes()
        width = 1 << self.order
        shifts = np.arange(0, 8, width, dtype=np.uint8)
        return np.bitwise_or.reduce(counts.astype(np.uint8).reshape(-1, 8 // width) << shifts, axis=1).astype(np.uint8).tobytes()

    def get(self, cluster: int) -> int:
        block = self.block(cluster // self.per_block)
        return 0 if block is None else int(block[cluster % self.per_block])

    def add(self, cluster: int, delta: int) -> int:
        """Change a count and return it; at once, so only for what the next write() may show."""
        index, at = divmod(cluster, self.per_block)
        block = self.block(index)
        if block is None:
            block = self._new_block(index, cluster)
        count = int(block[at]) + delta
        if not 0 <= count <= self.maximum:
            raise XenfastError(f"disk {self.file.path!r}: cluster {cluster} cannot have {count} users")
        block[at] = count
        self.dirty.add(index)
        return count

    # --- new clusters ------------------------------------------------------------------------------------------------
    def allocate(self, wanted: int) -> tuple[int, int]:
        """Up to so many clusters in a row, at least one: (first, number)."""
        while True:
            index, at = divmod(self.cursor, self.per_block)
            block = self.block(index)
            if block is None:
                self._new_block(index, self.cursor)
                continue
            if block[at]:
                free = np.flatnonzero(block[at:] == 0)
                self.cursor = index * self.per_block + (at + int(free[0]) if len(free) else self.per_block)
                continue
            wanted = min(wanted, self.per_block - at)
            taken = np.flatnonzero(block[at : at + wanted])
            count = int(taken[0]) if len(taken) else wanted
            first, self.cursor = self.cursor, self.cursor + count
            return self._take(block, index, at, first, count)

    def allocate_contiguous(self, count: int) -> int:
        """So many clusters in a row, behind all others: for tables."""
        while True:
            first = self.end
            indices = range(first // self.per_block, (first + count - 1) // self.per_block + 1)
            missing = [index for index in indices if self.block(index) is None]
            if not missing:
                break
            self._new_block(missing[0], max(first, missing[0] * self.per_block))
        for each in range(first, first + count):
            self._check_free(each)
            self.add(each, 1)
        self.end = first + count
        return first

    def _take(self, block: np.ndarray, index: int, at: int, first: int, count: int) -> tuple[int, int]:
        for each in range(first, first + count):
            self._check_free(each)
        block[at : at + count] = 1
        self.dirty.add(index)
        self.end = max(self.end, first + count)
        return first, count

    def _check_free(self, cluster: int) -> None:
        if cluster in self.users:
            raise XenfastError(f"disk {self.file.path!r} is corrupt: {self.users[cluster]} is counted as free")

    def _new_block(self, index: int, near: int) -> np.ndarray:
        """A block for clusters that have none yet; it lies in the first of them that is not before ``near``."""
        cluster = max(near, index * self.per_block)
        while cluster in self.users:
            cluster += 1
        if cluster >= (index + 1) * self.per_block:
            raise XenfastError(f"disk {self.file.path!r} is corrupt: refcounts are missing")
        self._grow_table(index)
        block = self.blocks[index] = np.zeros(self.per_block, np.uint64)
        block[cluster % self.per_block] = 1
        self.table[index] = cluster << self.bits
        self.reserve(cluster, 1, "a refcount block")
        self.table_dirty = True
        self.dirty.add(index)
        self.end = max(self.end, cluster + 1)
        return block

    def _grow_table(self, index: int) -> None:
        if index < len(self.table):
            return
        old, clusters = self.header.refcount_table_offset >> self.bits, self.header.refcount_table_clusters
        per_cluster = self.header.cluster_size // 8
        wanted = max(index + 1, len(self.table) * 3 // 2) // per_cluster + 1
        if wanted << self.bits > MAX_REFCOUNT_TABLE:
            raise XenfastError(f"disk {self.file.path!r}: the image cannot grow any more")
        self.table.extend([0] * (wanted * per_cluster - len(self.table)))
        first = self.allocate_contiguous(wanted)
        self.reserve(first, wanted, "the refcount table")
        self.header.refcount_table_offset, self.header.refcount_table_clusters = first << self.bits, wanted
        self.table_moved = self.table_dirty = True
        for each in range(old, old + clusters):
            self.users.pop(each, None)
        self.freed.extend(range(old, old + clusters))

    # --- the disk ----------------------------------------------------------------------------------------------------
    def write(self, write_header: Any) -> None:
        """Bring all counts to the file, in an order that is right at any moment; without a last sync."""
        for index in sorted(self.dirty):
            self.file.write(self.table[index], self._pack(self.blocks[index]))
        self.dirty.clear()
        if not self.table_dirty:
            return
        self.file.sync()
        self.file.write(self.header.refcount_table_offset, to_bytes(self.table))
        if self.table_moved:
            self.file.sync()
            write_header()
        self.table_dirty = self.table_moved = False

    def settle(self) -> None:
        """The tables on the disk no longer name what was freed: it can be used again, and the host has its space."""
        freed, self.freed = self.freed, []
        gone = []
        for cluster in freed:
            if self.get(cluster) > 0 and self.add(cluster, -1) == 0:
                gone.append(cluster)
                self.cursor = min(self.cursor, cluster)
        gone.sort()
        start = 0
        for i in range(1, len(gone) + 1):
            if i == len(gone) or gone[i] != gone[i - 1] + 1:
                self.file.punch(gone[start] << self.bits, (i - start) << self.bits)
                start = i
