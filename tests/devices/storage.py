"""What tests of disk controllers share: images in memory, guest memory, and a driver of an IDE channel that a test can read."""

import errno
import heapq

from xenfast import _core
from xenfast.devices import ide
from xenfast.devices.drive import Drive
from xenfast.dom0.block.raw import Unsupported
from xenfast.xen.eventloop import Timer
from xenfast.xen.hvm.irq import Line
from xenfast.xen.hvm.physmem import PhysMem


class MemImage:
    """An image in memory that knows what has been flushed, and fails where it is told to."""

    def __init__(self, sectors=2048, data=b"", readonly=False):
        self.path, self.readonly = "memory", readonly
        self.data = bytearray(sectors * 512)
        self.data[:len(data)] = data
        self.size_sectors = sectors
        self.flushed = bytes(self.data)
        self.flushes, self.calls, self.discarded = 0, [], []
        self.bad = set()            # sectors that cannot be read or written
        self.no_discard = False

    def _check(self, offset, size):
        assert offset >= 0 and offset + size <= len(self.data)
        if any(offset // 512 <= sector < (offset + size + 511) // 512 for sector in self.bad):
            raise OSError(errno.EIO, "bad sector")

    def readv(self, offset, buffers):
        size = sum(map(len, buffers))
        self._check(offset, size)
        self.calls.append(("read", offset, size))
        for buffer in buffers:
            buffer[:] = self.data[offset:offset + len(buffer)]
            offset += len(buffer)

    def writev(self, offset, buffers):
        assert not self.readonly and len(buffers) <= 1024
        size = sum(map(len, buffers))
        self._check(offset, size)
        self.calls.append(("write", offset, size))
        for buffer in buffers:
            self.data[offset:offset + len(buffer)] = buffer
            offset += len(buffer)

    def flush(self):
        self.flushes += 1
        self.flushed = bytes(self.data)

    def discard(self, offset, length):
        if self.no_discard:
            raise Unsupported("no")
        self.discarded.append((offset, length))
        self.data[offset:offset + length] = bytes(length)

    def close(self):
        pass


def pattern(sectors, seed=1):
    """Data of which no two sectors are the same."""
    return b"".join(((n * 2654435761 + seed) & 0xFFFFFFFF).to_bytes(4, "little") * 128 for n in range(sectors))


def guest_memory(pages=512):
    """Guest-physical memory of so many pages from address 0 on, in scattered machine frames."""
    memory = _core.Memory(pages + 16)
    physmap = _core.GuestPhysMap(pages)
    for gfn in range(pages):
        physmap.set(gfn, [8 + (gfn ^ 1) if gfn ^ 1 < pages else 8 + gfn])
    mem = PhysMem(memory, physmap)
    mem.keep = memory
    return mem


class FakeTimers:
    """A clock that a test moves: ``run()`` makes all calls that are due within so many ns."""

    def __init__(self):
        self.time, self.calls, self.count = 0, [], 0

    def now(self):
        return self.time

    def call_at(self, deadline, callback, *args):
        self.count += 1
        timer = Timer(callback, args)
        heapq.heappush(self.calls, (deadline, self.count, timer))
        return timer

    def call_later(self, delay, callback, *args):
        return self.call_at(self.time + delay, callback, *args)

    def call_soon(self, callback, *args):
        self.call_at(self.time, callback, *args)

    def run(self, delay=1_000_000_000):
        end = self.time + delay
        while self.calls and self.calls[0][0] <= end:
            deadline, _, timer = heapq.heappop(self.calls)
            self.time = max(self.time, deadline)
            if timer.callback is not None:
                timer.callback(*timer.args)
        self.time = end


class Host:
    """A channel as a driver uses it: registers by name, one method a protocol."""

    def __init__(self, *drives, mem=None):
        self.mem = mem or guest_memory()
        self.irqs = []
        self.line = Line(lambda number, level: self.irqs.append(level))
        self.drives = [drive if isinstance(drive, Drive) or drive is None else Drive(drive) for drive in drives]
        devices = [ide.attach(drive, n) for n, drive in enumerate(self.drives)]
        self.channel = ide.Channel([*devices, None, None][:2], self.line, self.mem)

    @property
    def status(self):
        return self.channel.read(7, 1)

    @property
    def alternate(self):
        return self.channel.read_alternate(0, 1)

    @property
    def error(self):
        return self.channel.read(1, 1)

    def registers(self):
        """Sector Count, LBA Low, Mid, High, Device."""
        return tuple(self.channel.read(n, 1) for n in range(2, 7))

    def command(self, command, *, feature=0, count=0, lba=0, device=0x40):
        for register, value in ((6, device | lba >> 24 & 15 if lba < 1 << 28 else device), (1, feature), (2, count & 0xFF),
                                (3, lba & 0xFF), (4, lba >> 8 & 0xFF), (5, lba >> 16 & 0xFF)):
            self.channel.write(register, 1, value)
        self.channel.write(7, 1, command)

    def command48(self, command, *, feature=0, count=0, lba=0, device=0x40):
        self.channel.write(6, 1, device)
        for register, value in ((1, feature >> 8), (2, count >> 8), (3, lba >> 24 & 0xFF), (4, lba >> 32 & 0xFF), (5, lba >> 40 & 0xFF),
                                (1, feature & 0xFF), (2, count & 0xFF), (3, lba & 0xFF), (4, lba >> 8 & 0xFF), (5, lba >> 16 & 0xFF)):
            self.channel.write(register, 1, value)
        self.channel.write(7, 1, command)

    def chs(self, command, cylinder, head, sector, count=1, device=0):
        for register, value in ((6, device | head), (2, count), (3, sector), (4, cylinder & 0xFF), (5, cylinder >> 8)):
            self.channel.write(register, 1, value)
        self.channel.write(7, 1, command)

    def read_data(self, size):
        return self.channel.read_block(0, 2, size // 2)

    def write_data(self, data):
        self.channel.write_block(0, 2, data)

    def dma(self, to_memory, *pieces, table=0x1000):
        """Start the bus master on a table of (address, size); the bus master's status afterwards."""
        self.prepare(*pieces, table=table)
        self.channel.master.write(0, 0x09 if to_memory else 0x01)
        return self.channel.master.status

    def prepare(self, *pieces, table=0x1000):
        data = b"".join(
            address.to_bytes(4, "little") + (size & 0xFFFF | (1 << 31 if n == len(pieces) - 1 else 0)).to_bytes(4, "little")
            for n, (address, size) in enumerate(pieces)
        )
        self.mem.write(table, data)
        self.channel.master.write(0, 0)
        for n in range(4):
            self.channel.master.write(4 + n, table >> 8 * n & 0xFF)
        self.channel.master.write(2, 0x06)

    def packet(self, cdb, limit=0xFFFE, device=0, dma=False):
        """PACKET and its command: everything until data or the end."""
        self.command(0xA0, feature=1 if dma else 0, lba=limit << 8, device=device)
        assert self.alternate & 0x08 and self.channel.read(2, 1) & 3 == 1
        self.write_data(bytes(cdb).ljust(12, b"\0"))

    def packet_in(self, cdb, limit=0xFFFE, device=0):
        """The data of a packet command, or (sense key, code) when it failed."""
        self.packet(cdb, limit, device)
        data = b""
        while self.alternate & 0x08:
            reason, size = self.channel.read(2, 1), self.channel.read(4, 1) | self.channel.read(5, 1) << 8
            assert reason & 3 == 2 and 0 < size <= limit
            data += self.channel.read_block(0, 2, (size + 1) // 2)[:size]
        assert self.channel.read(2, 1) & 3 == 3
        if self.status & 1:
            return self.error >> 4, self.sense(device)
        return data

    def sense(self, device=0):
        data = self.packet_in(bytes([3, 0, 0, 0, 18]), device=device)
        return data[2], int.from_bytes(data[12:14], "big")
