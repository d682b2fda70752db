"""The IDE controller of the PIIX3: two channels of two drives, with bus master DMA.

Intel 82371SB data sheet (order 290550) 2.3 (configuration) and 2.7 (bus master registers), ATA/ATAPI-6 chapters 5 to 9, SFF-8038i.
A channel has the Command Block (8 ports), the Control Block (1 port), an interrupt line of the ISA bus (14, 15) and 8 ports
of the bus master.  devices/machine.py puts the blocks at 1F0h, 3F6h, 170h, 376h.

A command is over before the write of its register, or of the bus master's start bit, returns, and its interrupt is raised
then.  Timing registers are kept and have no effect; the blocks are decoded whatever IDETIM's enable bit says, as
firmware that was written for other emulators expects.
"""

import struct
from collections.abc import Callable, Sequence
from typing import Any

from xenfast.devices.ata import (
    BSY,
    DEV,
    DEVICE_RESET,
    DRQ,
    ERR,
    EXECUTE_DEVICE_DIAGNOSTIC,
    HOB,
    NIEN,
    PACKET,
    SRST,
    AtaDevice,
    AtaDisk,
    Transfer,
)
from xenfast.devices.atapi import AtapiDrive
from xenfast.devices.dma import Scatter
from xenfast.devices.drive import Drive
from xenfast.devices.pci import PciDevice
from xenfast.xen.hvm.bus import Region
from xenfast.xen.hvm.irq import Line
from xenfast.xen.hvm.physmem import PhysMem

# Command Block: offset of the register
DATA, ERROR_FEATURES, SECTOR_COUNT, LBA_LOW, LBA_MID, LBA_HIGH, DEVICE, STATUS_COMMAND = range(8)
FLOATING = 0x7F                 # what an empty channel reads as: DD7 is pulled down (ATA-6, table 5)
READ_AHEAD = 64 << 10           # bytes fetched at once for the data port

# Bus master registers of a channel, and their bits
BMICX, BMISX, BMIDTPX = 0, 2, 4
SSBM, RWCON = 0x01, 0x08                                        # BMICX: start, to memory
BMIDEA, BMI_ERROR, IDEINTS, DMA0CAP, DMA1CAP = 0x01, 0x02, 0x04, 0x20, 0x40      # BMISX
PRD_SIZE, PRD_EOT, PRD_TABLE = 8, 1 << 31, 1 << 16              # a table must not cross 64 KiB
PRD, PRD_BATCH = struct.Struct("<II"), 32

# Configuration registers: offset, size, default, bits that can be written
REGISTERS = (
    (0x40, 2, 0x8000, 0xFFFF),          # IDETIM, primary
    (0x42, 2, 0x8000, 0xFFFF),          # IDETIM, secondary
    (0x44, 1, 0x00, 0xFF),              # SIDETIM
)


class Unit:
    """A drive on a channel: what of it is on the data port now, and its interrupt request."""

    def __init__(self, device: AtaDevice) -> None:
        self.device = device
        self.intrq = False
        self.transfer: Transfer | None = None
        self.buffer = bytearray()       # what the host reads, or writes, from ``at`` on
        self.at = self.end = 0          # the data block on the port; at == end: none
        self.filled = 0                 # of the buffer, ahead of ``end``

    @property
    def status(self) -> int:
        return self.device.status | (DRQ if self.transfer is not None else 0)

    def reset(self, *, hard: bool) -> None:
        if hard:
            self.device.reset()
        else:
            self.device.set_signature()
        self.stop()
        self.intrq = False

    def stop(self) -> None:
        self.transfer, self.at, self.end, self.filled = None, 0, 0, 0

    def command(self, command: int) -> None:
        self.stop()
        self.intrq = False
        transfer = self.device.execute(command)
        self._begin(transfer, command != DEVICE_RESET or bool(self.device.status & ERR))

    def _begin(self, transfer: Transfer | None, interrupt: bool = True) -> None:
        self.transfer = transfer
        if transfer is None:
            self.intrq = self.intrq or interrupt
        elif not transfer.dma:
            self._next_block(transfer.first_irq)

    def _next_block(self, interrupt: bool) -> None:
        """Put the next data block of the transfer on the port, or finish."""
        transfer = self.transfer
        assert transfer is not None
        size = min(transfer.block, transfer.left)
        if not size:
            self.finish()
            return
        if transfer.to_host:
            if self.filled - self.end < size:
                try:
                    self._fetch(transfer, size)
                except OSError as error:
                    self.fail(error)
                    return
            self.at, self.end = self.end, self.end + size
        else:
            self.buffer = bytearray(size)
            self.at, self.end = 0, size
        self.device.begin_block(transfer, size)
        self.intrq = self.intrq or interrupt

    def _fetch(self, transfer: Transfer, size: int) -> None:
        """Fill the buffer: as much as there is up to READ_AHEAD, a block if that fails."""
        ahead = min(transfer.left, max(size, READ_AHEAD // transfer.block * transfer.block))
        try:
            self.buffer = bytearray(self.device.fetch(transfer, ahead))
        except OSError:
            if ahead == size:
                raise
            self.buffer = bytearray(self.device.fetch(transfer, size))
        self.at, self.end, self.filled = 0, 0, len(self.buffer)

    def block_done(self) -> None:
        """The host has moved all of the data block."""
        transfer = self.transfer
        assert transfer is not None
        size = min(transfer.block, transfer.left)
        if not transfer.to_host:
            try:
                self.device.store(transfer, self.buffer)
            except OSError as error:
                self.fail(error)
                return
        transfer.position += size
        # A read is over, without another interrupt, when its last block has been taken; that of a packet is not.
        if transfer.left or not transfer.to_host or self.device.command == PACKET:
            self._next_block(True)
        else:
            self.finish(interrupt=False)

    def finish(self, interrupt: bool = True) -> None:
        transfer = self.transfer
        assert transfer is not None
        self.stop()
        following = self.device.complete(transfer)
        self._begin(following, interrupt)

    def fail(self, error: OSError) -> None:
        transfer = self.transfer
        assert transfer is not None
        self.stop()
        self.device.failed(transfer, error)
        self.intrq = True

    # --- the data port ---------------------------------------------------------------------------------------------------
    def read(self, size: int) -> bytes:
        """So many bytes through the data port; ones where there are none."""
        pieces = []
        while size:
            transfer, here = self.transfer, self.end - self.at
            if not here or transfer is None or not transfer.to_host:
                pieces.append(b"\xff" * size)
                break
            here = min(here, size)
            pieces.append(bytes(self.buffer[self.at:self.at + here]))
            self.at += here
            size -= here
            if self.at == self.end:
                self.block_done()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        done = 0
        while done < len(data):
            transfer, here = self.transfer, self.end - self.at
            if not here or transfer is None or transfer.to_host:
                return
            here = min(here, len(data) - done)
            self.buffer[self.at:self.at + here] = data[done:done + here]
            self.at += here
            done += here
            if self.at == self.end:
                self.block_done()

    # --- state -----------------------------------------------------------------------------------------------------------
    def save(self) -> dict[str, Any]:
        return {
            "device": self.device.save(), "intrq": self.intrq, "transfer": self.transfer.save() if self.transfer is not None else None,
            "buffer": bytes(self.buffer) if self.transfer is not None else b"", "at": self.at, "end": self.end, "filled": self.filled,
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        self.device.load(state["device"])
        self.intrq, self.at, self.end, self.filled = state["intrq"], state["at"], state["end"], state["filled"]
        self.buffer = bytearray(state["buffer"])
        self.transfer = Transfer.loaded(state["transfer"]) if state["transfer"] is not None else None


class Channel:
    """Two drives on a cable: the Command Block is heard by both, the selected one answers."""

    def __init__(
        self, devices: Sequence[AtaDevice | None], irq: Line, physmem: PhysMem, allowed: Callable[[], bool] = lambda: True,
        number: int = 0,
    ) -> None:  # fmt: skip
        self.units: list[Unit | None] = [Unit(device) if device is not None else None for device in devices]
        self.irq = irq
        self.master = BusMaster(self, physmem, allowed)
        self.selected = self.control = 0
        name = ("primary", "secondary")[number]
        self.command_block = Region(
            8, self.read, self.write, width=4, name=f"IDE {name}", read_block=self.read_block, write_block=self.write_block,
        )  # fmt: skip
        self.control_block = Region(1, self.read_alternate, self.write_control, width=1, name=f"IDE {name} control")

    @property
    def unit(self) -> Unit | None:
        return self.units[self.selected]

    def update(self) -> None:
        """INTRQ of the selected drive, unless nIEN."""
        unit = self.units[self.selected]
        level = unit is not None and unit.intrq and not self.control & NIEN
        if level and not self.irq.level:
            self.master.status |= IDEINTS
        self.irq.set(level)

    # --- Command Block ---------------------------------------------------------------------------------------------------
    def read(self, offset: int, size: int) -> int:
        if offset == DATA:
            return int.from_bytes(self.read_block(0, size, 1), "little")
        value = self._read_register(offset)
        for i in range(1, size):                        # wider accesses are several of bytes
            value |= (self._read_register(offset + i) if offset + i < 8 else 0xFF) << 8 * i
        return value

    def _read_register(self, offset: int) -> int:
        unit = self.units[self.selected]
        if unit is None:
            other = self.units[self.selected ^ 1]
            if other is None:
                return FLOATING
            # Device 0 answers for a device 1 that is not there, with a status of 0 (ATA-6, 9.16)
            return 0 if self.selected == 0 or offset == STATUS_COMMAND else other.device.read_register(offset) if offset else 0
        if offset == STATUS_COMMAND:
            unit.intrq = False
            self.update()
            return self._status(unit)
        if self.control & SRST:
            return self._status(unit)
        return unit.device.read_register(offset, bool(self.control & HOB))

    def _status(self, unit: Unit) -> int:
        return BSY if self.control & SRST else unit.status

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == DATA:
            self.write_block(0, size, (value & (1 << 8 * size) - 1).to_bytes(size, "little"))
            return
        for i in range(size):
            if offset + i < 8:
                self._write_register(offset + i, value >> 8 * i & 0xFF)

    def _write_register(self, offset: int, value: int) -> None:
        self.control &= ~HOB
        if self.control & SRST:
            return
        if offset == STATUS_COMMAND:
            self._command(value)
            return
        for unit in self.units:
            if unit is not None:
                unit.device.write_register(offset, value)
        if offset == DEVICE:
            self.selected = 1 if value & DEV else 0
            self.update()

    def _command(self, command: int) -> None:
        if command == EXECUTE_DEVICE_DIAGNOSTIC:
            for unit in self.units:
                if unit is not None:
                    unit.command(command)
            self.selected = 0
        else:
            unit = self.units[self.selected]
            if unit is not None:
                unit.command(command)
                self.master.run()
        self.update()

    def read_block(self, offset: int, size: int, count: int) -> bytes:
        if offset != DATA:
            return b"".join([self.read(offset, size).to_bytes(size, "little") for _ in range(count)])
        unit = self.units[self.selected]
        if unit is None:
            return bytes([FLOATING, 0xFF] * (size * count))[:size * count]
        data = unit.read(size * count)
        self.update()
        return data

    def write_block(self, offset: int, size: int, data: bytes | bytearray | memoryview) -> None:
        if offset != DATA:
            for at in range(0, len(data), size):
                self.write(offset, size, int.from_bytes(data[at:at + size], "little"))
            return
        unit = self.units[self.selected]
        if unit is not None:
            unit.write(data)
            self.master.run()           # a packet whose data goes by DMA
            self.update()

    # --- Control Block ---------------------------------------------------------------------------------------------------
    def read_alternate(self, offset: int, size: int) -> int:
        """Alternate Status: does not acknowledge the interrupt."""
        unit = self.units[self.selected]
        if unit is None:
            return FLOATING if self.units[self.selected ^ 1] is None else 0
        return self._status(unit)

    def write_control(self, offset: int, size: int, value: int) -> None:
        before, self.control = self.control, value & (HOB | SRST | NIEN)
        if before & SRST and not value & SRST:
            for unit in self.units:
                if unit is not None:
                    unit.reset(hard=False)
            self.selected = 0
            self.master.stop()
        self.update()

    def reset(self) -> None:
        for unit in self.units:
            if unit is not None:
                unit.reset(hard=True)
        self.selected = self.control = 0
        self.master.reset()
        self.update()

    def unplug(self, which: int) -> None:
        """Take a drive off the cable, as the Xen platform device does."""
        self.units[which] = None
        self.update()

    def save(self) -> dict[str, Any]:
        return {
            "selected": self.selected, "control": self.control, "irq": self.irq.level, "master": self.master.save(),
            "units": [unit.save() if unit is not None else None for unit in self.units],
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        self.selected, self.control = state["selected"], state["control"]
        for i, saved in enumerate(state["units"]):
            unit = self.units[i]
            if saved is None:
                self.units[i] = None
            elif unit is not None:
                unit.load(saved)
        self.master.load(state["master"])
        self.irq.level = bool(state["irq"])


class BusMaster:
    """The bus master half of a channel: walks the descriptor table (PRD) when both it and the drive are ready."""

    def __init__(self, channel: Channel, physmem: PhysMem, allowed: Callable[[], bool]) -> None:
        self.channel, self.physmem, self.allowed = channel, physmem, allowed
        self.reset()

    def reset(self) -> None:
        self.command = self.status = self.table = 0
        self.stop()

    def stop(self) -> None:
        self.status &= ~BMIDEA
        self.next = 0               # descriptor, since the start bit was set
        self.used = 0               # bytes of it

    # --- registers -------------------------------------------------------------------------------------------------------
    def read(self, offset: int) -> int:
        if offset == BMICX:
            return self.command
        if offset == BMISX:
            return self.status
        return self.table >> 8 * (offset - BMIDTPX) & 0xFF if offset >= BMIDTPX else 0

    def write(self, offset: int, value: int) -> None:
        if offset == BMICX:
            started = value & SSBM and not self.command & SSBM
            self.command = value & (SSBM | RWCON)
            if started:
                self.stop()
                self.status |= BMIDEA
                self.run()
                self.channel.update()
            elif not value & SSBM:
                self.stop()
        elif offset == BMISX:
            kept = self.status & ~(DMA0CAP | DMA1CAP) & ~(value & (IDEINTS | BMI_ERROR))
            self.status = kept | value & (DMA0CAP | DMA1CAP)
        elif offset >= BMIDTPX:
            shift = 8 * (offset - BMIDTPX)
            self.table = (self.table & ~(0xFF << shift) | value << shift) & 0xFFFFFFFC

    # --- transfers -------------------------------------------------------------------------------------------------------
    def run(self) -> None:
        """Move what the selected drive has for DMA, as far as the table goes."""
        unit = self.channel.unit
        if not self.status & BMIDEA or unit is None or unit.transfer is None or not unit.transfer.dma or not self.allowed():
            return
        transfer = unit.transfer
        memory = self.gather(transfer.left)
        try:
            if memory.size:
                unit.device.move(transfer, memory)
        except OSError as error:
            self.stop()
            unit.fail(error)
            return
        transfer.position += memory.size
        if not transfer.left:
            unit.finish()

    def gather(self, size: int) -> Scatter:
        """The memory that the next descriptors name, at most so many bytes of it; BMIDEA goes with the last descriptor."""
        memory = Scatter(self.physmem)
        entries: list[tuple[int, int]] = []             # descriptors read ahead, the next one last
        while memory.size < size:
            if self.next >= PRD_TABLE // PRD_SIZE:
                self.status = self.status & ~BMIDEA | BMI_ERROR
                break
            if not entries:
                data = self.physmem.read(self.table + PRD_SIZE * self.next & 0xFFFFFFFF, PRD_SIZE * PRD_BATCH)
                entries = list(PRD.iter_unpack(data))[::-1]
            address, control = entries.pop()
            address &= ~1
            count = (control & 0xFFFE or 0x10000) - self.used
            piece = min(count, size - memory.size)
            memory.add(address + self.used, piece)
            if piece < count:
                self.used += piece
                break
            self.next, self.used = self.next + 1, 0
            if control & PRD_EOT:
                self.status &= ~BMIDEA
                break
        return memory

    def save(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in ("command", "status", "table", "next", "used")}

    def load(self, state: dict[str, int]) -> None:
        for name in ("command", "status", "table", "next", "used"):
            setattr(self, name, state[name])


def attach(drive: Drive | None, number: int, sata: bool = False) -> AtaDevice | None:
    """The device that a drive is to its controller."""
    if drive is None:
        return None
    return (AtapiDrive if drive.cdrom else AtaDisk)(drive, number=number, sata=sata)


class Piix3Ide(PciDevice):
    """Function 1 of the PIIX3.  ``drives`` are primary master, primary slave, secondary master, secondary slave."""

    def __init__(self, physmem: PhysMem, irqs: Sequence[Line], drives: Sequence[Drive | None]) -> None:
        super().__init__("PIIX3 IDE", 0x8086, 0x7010, 0x010180)
        self.put(0x06, 2, 0x0280)           # PCISTS: fast back-to-back, medium DEVSEL#
        for offset, size, default, writable in REGISTERS:
            self.put(offset, size, default, writable)
        places = [attach(drives[n] if n < len(drives) else None, n) for n in range(4)]
        self.channels = [
            Channel(places[2 * n:2 * n + 2], irqs[n], physmem, lambda: self.bus_master, n) for n in range(2)
        ]  # fmt: skip
        self.bar_io(4, Region(16, self._read, self._write, width=4, name="IDE bus master"))

    def _read(self, offset: int, size: int) -> int:
        master = self.channels[offset >> 3].master
        value = 0
        for i in range(size):
            value |= master.read((offset & 7) + i) << 8 * i
        return value

    def _write(self, offset: int, size: int, value: int) -> None:
        master = self.channels[offset >> 3].master
        for i in range(size):
            master.write((offset & 7) + i, value >> 8 * i & 0xFF)

    def config_changed(self, offset: int, size: int) -> None:
        super().config_changed(offset, size)
        for channel in self.channels:
            channel.master.run()
            channel.update()

    def reset(self) -> None:
        super().reset()
        for channel in self.channels:
            channel.reset()

    def unplug(self, *, disks: bool = True, first: bool = True, cdroms: bool = False) -> None:
        """Take drives away for good, as the Xen platform device is told to; ``first``: the primary master, too."""
        for number, channel in enumerate(self.channels):
            for which, unit in enumerate(channel.units):
                if unit is None or (not first and (number, which) == (0, 0)):
                    continue
                if cdroms if unit.device.drive.cdrom else disks:
                    unit.device.drive.flush()
                    channel.unplug(which)

    def save(self) -> dict[str, Any]:
        return super().save() | {"channels": [channel.save() for channel in self.channels]}

    def load(self, state: dict[str, Any]) -> None:
        for channel, saved in zip(self.channels, state["channels"], strict=True):
            channel.load(saved)
        super().load(state)
