"""Is a qcow2 image what it says?  All references are counted and compared with the refcounts; both can be put right.

A *leak* is a cluster that is counted and not used: it wastes space.  An *error* is anything else, and can lose data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from xenfast.dom0.block import qcow2_format as abi
from xenfast.dom0.block.qcow2_format import COMPRESSED, COPIED, OFFSET_MASK, ZERO
from xenfast.dom0.block.qcow2_refcount import Refcounts
from xenfast.dom0.block.raw import SECTOR_SIZE
from xenfast.errors import XenfastError

if TYPE_CHECKING:
    from xenfast.dom0.block.qcow2 import Qcow2Image

MAX_MESSAGES = 20


@dataclass
class Report:
    leaks: int = 0
    errors: int = 0
    repaired: int = 0
    clusters: int = 0               # of data, in the disk as it is now
    compressed: int = 0
    messages: list[str] = field(default_factory=list)

    def error(self, text: str) -> None:
        self.errors += 1
        if len(self.messages) < MAX_MESSAGES:
            self.messages.append(text)


def tables(image: Qcow2Image, l1: np.ndarray, report: Report | None = None) -> Iterator[tuple[int, int, np.ndarray]]:
    """(index in L1, cluster, entries) of each L2 table."""
    end = image.counts.end if image.counts is not None else image.file_clusters
    for index in np.flatnonzero(l1 & np.uint64(OFFSET_MASK)):
        offset = int(l1[index]) & OFFSET_MASK
        if offset & image.mask or offset >> image.bits >= end:
            if report is not None:
                report.error(f"L1 entry {index} leads to {offset:#x}")
                continue
            image.corrupt(f"an L2 table at {offset:#x}")
        raw = image.file.read(offset, image.cluster_size)
        yield int(index), offset >> image.bits, np.frombuffer(raw, ">u8").astype(np.uint64)


def data_clusters(image: Qcow2Image, entries: np.ndarray, report: Report | None = None) -> np.ndarray:
    """The clusters of the file that the entries of an L2 table use, as often as they do."""
    packed = (entries & np.uint64(COMPRESSED)) != 0
    plain = entries[~packed] & np.uint64(OFFSET_MASK)
    plain = plain[plain != 0]
    if report is not None:
        for offset in plain[plain & np.uint64(image.mask) != 0]:
            report.error(f"a data cluster at {int(offset):#x}")
        report.compressed += int(packed.sum())
        report.clusters += len(plain) + int(packed.sum())
    found = [] if image.data is not image.file else [plain >> np.uint64(image.bits)]
    for entry in map(int, entries[packed]):
        offset = entry & (1 << image.csize_shift) - 1
        sectors = (entry & COMPRESSED - 1) >> image.csize_shift
        last = (offset & ~(SECTOR_SIZE - 1)) + sectors * SECTOR_SIZE
        found.append(np.arange(offset >> image.bits, (last >> image.bits) + 1, dtype=np.uint64))
    return np.concatenate(found) if found else np.zeros(0, np.uint64)


def references(image: Qcow2Image, l1: np.ndarray, report: Report | None = None) -> list[np.ndarray]:
    """All clusters that an L1 table leads to."""
    found = []
    for _, cluster, entries in tables(image, l1, report):
        found += [np.array([cluster], np.uint64), data_clusters(image, entries, report)]
    return found


def expected_counts(image: Qcow2Image, counts: Refcounts, report: Report) -> np.ndarray:
    """How many users each cluster has."""
    header = image.header
    span = lambda offset, size: np.arange(offset >> image.bits, (offset + size + image.mask) >> image.bits, dtype=np.uint64)
    used = [span(0, 1), span(header.l1_offset, header.l1_size * 8)]
    used.append(span(header.refcount_table_offset, header.refcount_table_clusters << image.bits))
    used += [span(offset, 1) for offset in counts.table if offset]
    if image.snapshots:
        used.append(span(header.snapshots_offset, sum(len(each.pack()) for each in image.snapshots)))
    active = Report(messages=report.messages)
    used += references(image, np.array(image.l1, np.uint64), active)
    report.errors += active.errors
    report.clusters, report.compressed = active.clusters, active.compressed
    for snapshot in image.snapshots:
        used.append(span(snapshot.l1_offset, snapshot.l1_size * 8))
        l1 = np.frombuffer(image.file.read(snapshot.l1_offset, snapshot.l1_size * 8), ">u8").astype(np.uint64)
        used += references(image, l1, report)
    everything = np.concatenate(used)
    beyond = everything >= counts.end
    for cluster in everything[beyond][:MAX_MESSAGES]:
        report.error(f"cluster {int(cluster)} is beyond the end of the file")
    return np.bincount(everything[~beyond].astype(np.int64), minlength=counts.end)


def check(image: Qcow2Image, repair: bool = False) -> Report:
    """Compare, and with ``repair`` make refcounts and flags what they must be.  The image must not be in use."""
    report = Report()
    if image.counts is not None:
        image.commit()
    counts = image.counts if repair else Refcounts(image.file, image.header)
    expected = expected_counts(image, counts, report)
    wrong: list[int] = []
    for index in range(-(-max(len(expected), 1) // counts.per_block)):
        first = index * counts.per_block
        wanted = expected[first : first + counts.per_block].astype(np.uint64)
        block = counts.block(index)
        stored = np.zeros(len(wanted), np.uint64) if block is None else block[: len(wanted)]
        report.leaks += int((stored > wanted).sum())
        low = np.flatnonzero(stored < wanted)
        for each in low[:MAX_MESSAGES]:
            report.messages.append(f"cluster {first + int(each)} has {int(wanted[each])} users and is counted as {int(stored[each])}")
        report.errors += len(low)
        wrong += (np.flatnonzero(stored != wanted) + first).tolist()
    flags = copied_flags(image, expected, repair=False)
    report.errors += flags
    if flags:
        report.messages.append(f"{flags} entries have a wrong COPIED flag")
    if repair and (wrong or flags):
        _repair(image, counts, expected, wrong, report)
    del report.messages[MAX_MESSAGES:]
    return report


def _repair(image: Qcow2Image, counts: Refcounts, expected: np.ndarray, wrong: list[int], report: Report) -> None:
    for cluster in wrong:
        index, at = divmod(cluster, counts.per_block)
        block = counts.block(index)
        if block is None:
            free = np.flatnonzero(expected[index * counts.per_block : (index + 1) * counts.per_block] == 0)
            near = index * counts.per_block + int(free[0]) if len(free) else counts.end
            if near >= (index + 1) * counts.per_block:
                raise XenfastError(f"disk {image.path!r} cannot be repaired: there is no room for a refcount block")
            block = counts._new_block(index, near)
        if expected[cluster] > counts.maximum:
            raise XenfastError(f"disk {image.path!r} cannot be repaired: cluster {cluster} has too many users")
        block[at] = expected[cluster]
        counts.dirty.add(index)
        report.repaired += 1
    counts.write(image.write_header)
    image.file.sync()
    report.repaired += copied_flags(image, expected, repair=True)
    image.file.sync()


def copied_flags(image: Qcow2Image, counts: np.ndarray, repair: bool) -> int:
    """How many entries of the disk's tables have a COPIED flag that does not fit the counts; put right with ``repair``."""
    wrong = 0
    l1 = np.array(image.l1, np.uint64)
    flag = np.uint64(COPIED)
    one = counts == 1
    for index, cluster, entries in tables(image, l1, Report()):
        target = flag if one[cluster] else np.uint64(0)
        if l1[index] & flag != target:
            wrong += 1
            l1[index] = l1[index] & ~flag | target
        offsets = (entries & np.uint64(OFFSET_MASK)) >> np.uint64(image.bits)
        plain = ((entries & np.uint64(COMPRESSED)) == 0) & ((entries & ~flag & ~np.uint64(ZERO)) != 0) & (offsets < len(one))
        if image.data is image.file:
            have = (entries & flag) != 0
            want = np.zeros(len(entries), bool)
            want[plain] = one[offsets[plain].astype(np.int64)]
            bad = plain & (have != want)
            if bad.any():
                wrong += int(bad.sum())
                if repair:
                    entries = np.where(bad, entries ^ flag, entries)
                    image.file.write(cluster << image.bits, entries.astype(">u8").tobytes())
    if repair and wrong:
        image.file.write(image.header.l1_offset, l1.astype(">u8").tobytes())
        image.l1[:] = type(image.l1)("Q", l1.tolist())
        image.l2.clear()
    return wrong


def clear_corrupt_mark(image: Qcow2Image) -> None:
    """After a repair."""
    image.header.incompatible &= ~abi.CORRUPT
    image.write_header()
    image.file.sync()
