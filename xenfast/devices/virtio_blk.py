"""The virtio block device (VIRTIO 1.1, 5.2): read, write, flush, discard, write zeroes, identification.

The write cache is the driver's to choose (CONFIG_WCE); without FLUSH every write is on the host's disk when it is given back.
Left out: several queues, zones, lifetime, secure erase.
"""

import struct
from typing import Any

from xenfast.devices.drive import SECTOR, Drive
from xenfast.devices.virtio import VirtioDevice
from xenfast.devices.virtqueue import Chain
from xenfast.xen.hvm.physmem import PhysMem

F_SEG_MAX, F_GEOMETRY, F_RO, F_BLK_SIZE, F_FLUSH, F_CONFIG_WCE, F_DISCARD, F_WRITE_ZEROES = (
    1 << 2, 1 << 4, 1 << 5, 1 << 6, 1 << 9, 1 << 11, 1 << 13, 1 << 14)
T_IN, T_OUT, T_FLUSH, T_GET_ID, T_DISCARD, T_WRITE_ZEROES = 0, 1, 4, 8, 11, 13
OK, IOERR, UNSUPPORTED = 0, 1, 2
QUEUE_SIZE, SEG_MAX = 256, 254
MAX_ZEROES = 1 << 20            # bytes written at once
MAX_RANGE = 1 << 22             # sectors of a discard or of write zeroes
CONFIG_SIZE = 60
WCE_AT = 32


class VirtioBlk(VirtioDevice):
    def __init__(self, physmem: PhysMem, drive: Drive) -> None:
        self.drive = drive
        super().__init__(physmem, "virtio-blk", 0x1001, 2, 0x010000, [QUEUE_SIZE], CONFIG_SIZE)
        self.features = self.features | F_SEG_MAX | F_GEOMETRY | F_BLK_SIZE | F_FLUSH | F_CONFIG_WCE
        self.features |= F_RO if drive.readonly else F_DISCARD | F_WRITE_ZEROES

    def device_config(self) -> bytes:
        geometry = self.drive.geometry
        return struct.pack(
            "<QIIHBBI8xBxHIIIIIB3x", self.drive.size_sectors, 0, SEG_MAX, geometry.cylinders, geometry.heads, geometry.sectors, SECTOR,
            self.drive.write_cache, 1, MAX_RANGE, 1, 8, MAX_RANGE, 1, 1,
        )  # fmt: skip

    def write_config(self, offset: int, data: bytes) -> None:
        if offset <= WCE_AT < offset + len(data) and self.has(F_CONFIG_WCE):
            self.drive.write_cache = bool(data[WCE_AT - offset] & 1)

    def stopped(self) -> None:
        self.drive.write_cache = True

    def notified(self, number: int) -> None:
        queue = self.queues[0]
        if not self.has(F_FLUSH) and not self.has(F_CONFIG_WCE):
            self.drive.write_cache = False
        before = queue.used_index
        for _ in range(2 * QUEUE_SIZE):
            chain = queue.pop()
            if chain is None:
                break
            queue.push(chain, self._request(chain))
        if queue.used_index != before:
            self.signal(queue)

    def _request(self, chain: Chain) -> int:
        """Do one; how many bytes have been written, the last of which is the status."""
        room = chain.writable.size - 1
        if chain.readable.size < 16 or room < 0:
            return 0
        kind, _, sector = struct.unpack("<IIQ", chain.readable.read(16))
        try:
            status, written = self._do(kind, sector * SECTOR, chain, room)
        except OSError:
            status, written = IOERR, 0
        chain.writable.between(room, 1)[0][0] = status
        chain.writable.wrote()
        return written + 1

    def _do(self, kind: int, offset: int, chain: Chain, room: int) -> tuple[int, int]:
        payload = chain.readable.size - 16
        match kind:
            case 0:
                if room % SECTOR:
                    return IOERR, 0
                self.drive.readv(offset, chain.writable.between(0, room))
                return OK, room
            case 1:
                if payload % SECTOR:
                    return IOERR, 0
                self.drive.writev(offset, chain.readable.between(16, payload))
                return OK, 0
            case 4:
                self.drive.flush()
                return OK, 0
            case 8:
                name = self.drive.serial.encode()[:20].ljust(20, b"\0")[:room]
                for view, at in zip(chain.writable.between(0, len(name)), _starts(chain.writable.between(0, len(name)))):
                    view[:] = name[at:at + len(view)]
                return OK, len(name)
            case 11 | 13:
                return self._ranges(chain.readable.between(16, payload), payload, kind == T_WRITE_ZEROES), 0
        return UNSUPPORTED, 0

    def _ranges(self, views: list[memoryview], size: int, zeroes: bool) -> int:
        """DISCARD and WRITE ZEROES: one range each, as the configuration says."""
        if size != 16 or self.drive.readonly:
            return UNSUPPORTED if size != 16 else IOERR
        sector, count, flags = struct.unpack("<QII", b"".join(views))
        if flags & ~zeroes or count > MAX_RANGE:
            return UNSUPPORTED
        if not zeroes:
            self.drive.discard(sector * SECTOR, count * SECTOR)
            return OK
        end = (sector + count) * SECTOR
        if end > self.drive.size:
            return IOERR
        for at in range(sector * SECTOR, end, MAX_ZEROES):
            self.drive.write(at, bytes(min(MAX_ZEROES, end - at)))
        return OK

    def save(self) -> dict[str, Any]:
        return super().save() | {"drive": self.drive.save()}

    def load(self, state: dict[str, Any]) -> None:
        self.drive.load(state["drive"])
        super().load(state)

    def unplug(self, *, disks: bool = True, first: bool = True, cdroms: bool = False) -> None:
        """Leave the bus; a virtio disk is never the first one."""
        if disks and self.bus is not None:
            self.drive.flush()
            self.bus.detach(self)


def _starts(views: list[memoryview]) -> list[int]:
    """Where each view begins in all of them."""
    starts, at = [], 0
    for view in views:
        starts.append(at)
        at += len(view)
    return starts
