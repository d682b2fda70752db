"""The SATA controller of the ICH9: AHCI with up to six ports, native command queuing, ATAPI.

Serial ATA AHCI 1.3.1 (registers 3, memory structures 4, errors 6, interrupts 5.6 and 10.7), Serial ATA 2.6 (FIS types 10.3, NCQ 13.6),
Intel ICH9 data sheet (order 316972) 14.

A command is over before the write of PxCI returns.  Left out: port multipliers, command completion coalescing, staggered
spin-up, power management of the link, enclosure management, the legacy IDE mode.
"""

import struct
from collections.abc import Sequence
from typing import Any

from xenfast.devices.ata import (
    ABRT,
    DRDY,
    DSC,
    ERR,
    IDNF,
    PACKET,
    SRST,
    AtaDevice,
    AtaDisk,
    Transfer,
    host_error,
)
from xenfast.devices.dma import Scatter
from xenfast.devices.drive import SECTOR, Drive
from xenfast.devices.ide import attach
from xenfast.devices.pci import PIN_A, PciDevice
from xenfast.xen.hvm.bus import Region
from xenfast.xen.hvm.physmem import PhysMem

# Generic host control (3.1)
CAP, GHC, IS, PI, VS, CCC_CTL, CCC_PORTS, EM_LOC, EM_CTL, CAP2, BOHC = range(0, 0x2C, 4)
CAP_S64A, CAP_SNCQ, CAP_SCLO, CAP_GEN2, CAP_SAM, CAP_PMD, CAP_32_SLOTS = 1 << 31, 1 << 30, 1 << 24, 2 << 20, 1 << 18, 1 << 15, 31 << 8
GHC_HR, GHC_IE, GHC_AE = 1, 2, 1 << 31
VERSION = 0x00010301
PORTS, PORT_SIZE, ABAR_SIZE = 0x100, 0x80, 0x1000

# Port registers (3.3)
CLB, CLBU, FB, FBU, PXIS, PXIE, CMD, _, TFD, SIG, SSTS, SCTL, SERR, SACT, CI, SNTF, FBS, DEVSLP = range(0, 0x48, 4)
DHRS, PSS, SDBS, DPS, PCS, PRCS, OFS, HBFS, TFES = 1, 2, 8, 1 << 5, 1 << 6, 1 << 22, 1 << 24, 1 << 29, 1 << 30
IE_WRITABLE = 0xFDC000FF
CMD_ST, CMD_SUD, CMD_POD, CMD_CLO, CMD_FRE, CMD_FR, CMD_CR, CMD_ATAPI = 1, 2, 4, 8, 1 << 4, 1 << 14, 1 << 15, 1 << 24
CMD_WRITABLE = CMD_ST | CMD_FRE | CMD_ATAPI | 1 << 25 | 0xF << 28
SERR_N, SERR_X = 1 << 16, 1 << 26
SSTS_UP = 0x123                         # device present, generation 2, active
SIG_NONE = 0xFFFFFFFF
TFD_NONE = 0x7F

# Command header (4.2.2), received FISes (4.2.1)
HEADER_ATAPI, HEADER_WRITE, HEADER_RESET, HEADER_CLEAR = 1 << 5, 1 << 6, 1 << 8, 1 << 10
PRDT, PRD = 0x80, struct.Struct("<QII")
MAX_PRDS = 8192                         # a page each of the largest transfer
FIS_H2D, FIS_D2H, FIS_PIO_SETUP, FIS_SDB = 0x27, 0x34, 0x5F, 0xA1
PSFIS, RFIS, SDBFIS = 0x20, 0x40, 0x58

READ_FPDMA, WRITE_FPDMA = 0x60, 0x61


class Port:
    """One port and the device on its cable."""

    def __init__(self, hba: "Ahci", number: int, device: AtaDevice | None) -> None:
        self.hba, self.number, self.device = hba, number, device
        self.reset()

    def reset(self) -> None:
        self.clb = self.fb = self.interrupts = self.enabled = 0
        self.command = CMD_SUD | CMD_POD
        self.sctl = self.serr = self.sact = self.ci = 0
        self.halted = False             # by an error, until ST is cleared
        self.srst = False
        self.slot = 0                   # CCS
        self.link_up()

    def link_up(self) -> None:
        """COMRESET is over: the device tells who it is (SATA 9.1)."""
        self.tfd, self.signature = TFD_NONE, SIG_NONE
        self.pending_fis = False
        if self.device is None:
            self.ssts = 0
            return
        self.ssts = SSTS_UP
        self.serr |= SERR_X | SERR_N
        self.device.reset()
        self._first_fis()

    def _first_fis(self) -> None:
        """The register FIS with the signature, which waits until it can be received."""
        device = self.device
        assert device is not None
        self.pending_fis = True
        self.signature = device.lba_high << 24 | device.lba_mid << 16 | device.lba_low << 8 | device.count
        self.tfd = device.status | device.error << 8
        if self.command & CMD_FRE:
            self.pending_fis = False
            self.send_d2h(interrupt=False)

    # --- registers -------------------------------------------------------------------------------------------------------
    def read(self, offset: int) -> int:
        match offset:
            case 0x00 | 0x04:
                return self.clb >> 8 * offset & 0xFFFFFFFF
            case 0x08 | 0x0C:
                return self.fb >> 8 * (offset - FB) & 0xFFFFFFFF
            case 0x10:
                return self.pxis
            case 0x14:
                return self.enabled
            case 0x18:
                running = (CMD_FR if self.command & CMD_FRE else 0) | (CMD_CR if self.command & CMD_ST else 0)
                return self.command | self.slot << 8 | running
            case 0x20:
                return self.tfd
            case 0x24:
                return self.signature
            case 0x28:
                return self.ssts
            case 0x2C:
                return self.sctl
            case 0x30:
                return self.serr
            case 0x34:
                return self.sact
            case 0x38:
                return self.ci
        return 0

    @property
    def pxis(self) -> int:
        """PCS and PRCS follow SERR (3.3.5)."""
        return self.interrupts | (PCS if self.serr & SERR_X else 0) | (PRCS if self.serr & SERR_N else 0)

    def write(self, offset: int, value: int) -> None:
        match offset:
            case 0x00:
                self.clb = self.clb & ~0xFFFFFFFF | value & ~0x3FF
            case 0x04:
                self.clb = self.clb & 0xFFFFFFFF | value << 32
            case 0x08:
                self.fb = self.fb & ~0xFFFFFFFF | value & ~0xFF
            case 0x0C:
                self.fb = self.fb & 0xFFFFFFFF | value << 32
            case 0x10:
                self.interrupts &= ~value
            case 0x14:
                self.enabled = value & IE_WRITABLE
            case 0x18:
                self._write_command(value)
            case 0x2C:
                before, self.sctl = self.sctl, value & 0xFFF
                self._control(before & 15, value & 15)
            case 0x30:
                self.serr &= ~value
            case 0x34:
                if self.command & CMD_ST:
                    self.sact |= value
            case 0x38:
                if self.command & CMD_ST:
                    self.ci |= value
                    self.run()

    def _write_command(self, value: int) -> None:
        before = self.command
        self.command = value & CMD_WRITABLE & ~(0xF << 28) | CMD_SUD | CMD_POD
        if value & CMD_CLO and not before & CMD_ST:
            self.tfd &= ~0x88
        if before & CMD_ST and not value & CMD_ST:
            self.ci = self.sact = self.slot = 0
            self.halted = False
        if value & CMD_FRE and self.pending_fis:
            self.pending_fis = False
            self.send_d2h(interrupt=False)
        self.run()

    def _control(self, before: int, now: int) -> None:
        """SCTL.DET: 1 holds COMRESET, 4 takes the interface off (3.3.11)."""
        if now in (1, 4):
            self.ssts = 4 if now == 4 else 0
            self.tfd, self.ci, self.sact = TFD_NONE, 0, 0
        elif before in (1, 4):
            self.halted = False
            self.link_up()

    # --- FISes -----------------------------------------------------------------------------------------------------------
    def _post(self, at: int, fis: bytes) -> None:
        if self.command & CMD_FRE and self.hba.bus_master:
            self.hba.physmem.write(self.fb + at, fis)

    def _registers(self) -> bytes:
        """Bytes 2 to 13 of a register FIS."""
        d = self.device
        assert d is not None
        return bytes((
            d.status, d.error, d.lba_low, d.lba_mid, d.lba_high, d.device,
            d.hob_lba_low, d.hob_lba_mid, d.hob_lba_high, 0, d.count, d.hob_count,
        ))  # fmt: skip

    def send_d2h(self, interrupt: bool = True) -> None:
        """The register FIS, device to host."""
        assert self.device is not None
        self.tfd = self.device.status | self.device.error << 8
        self._post(RFIS, bytes((FIS_D2H, 0x40 if interrupt else 0)) + self._registers() + bytes(6))
        if interrupt:
            self.interrupts |= DHRS
        if self.tfd & ERR:
            self.interrupts |= TFES
            self.halted = True

    def send_pio_setup(self, size: int, to_host: bool, interrupt: bool) -> None:
        assert self.device is not None
        status = self.device.status
        head = bytes((FIS_PIO_SETUP, (0x20 if to_host else 0) | (0x40 if interrupt else 0))) + self._registers()
        self._post(PSFIS, head + bytes((0, status)) + struct.pack("<HH", size & 0xFFFF, 0))
        self.tfd = status | self.device.error << 8
        if interrupt:
            self.interrupts |= PSS

    def send_device_bits(self, done: int, status: int, error: int) -> None:
        """Set Device Bits: queued commands that are over."""
        self._post(SDBFIS, bytes((FIS_SDB, 0x40, status & 0x77, error)) + struct.pack("<I", done))
        self.sact &= ~done
        self.tfd = self.tfd & 0x88 | status & 0x77 | error << 8
        self.interrupts |= SDBS
        if status & ERR:
            self.interrupts |= TFES
            self.halted = True

    # --- commands --------------------------------------------------------------------------------------------------------
    def run(self) -> None:
        """Do what is in PxCI, from the lowest slot on."""
        while self.ci and self.command & CMD_ST and not self.halted and self.hba.bus_master:
            slot = (self.ci & -self.ci).bit_length() - 1
            self.slot = slot
            self._issue(slot)
            if not self.halted:
                self.ci &= ~(1 << slot)

    def _issue(self, slot: int) -> None:
        physmem = self.hba.physmem
        flags, _, table = struct.unpack("<IIQ", physmem.read(self.clb + 32 * slot, 16))
        table &= ~0x7F
        fis = physmem.read(table, 20)
        if fis[0] != FIS_H2D or self.device is None or self.ssts != SSTS_UP:
            if self.device is not None and self.ssts == SSTS_UP:
                self.interrupts |= HBFS
            self.halted = True
            return
        device = self.device
        if not fis[1] & 0x80:
            self._device_control(fis[15])
            return
        device.feature, device.lba_low, device.lba_mid, device.lba_high, device.device = fis[3], fis[4], fis[5], fis[6], fis[7]
        device.hob_lba_low, device.hob_lba_mid, device.hob_lba_high, device.hob_feature = fis[8], fis[9], fis[10], fis[11]
        device.count, device.hob_count = fis[12], fis[13]
        prds = table + PRDT, flags >> 16
        if fis[2] in (READ_FPDMA, WRITE_FPDMA) and isinstance(device, AtaDisk):
            self._queued(slot, fis[2] == READ_FPDMA, prds)
        else:
            self._command(slot, fis[2], table, prds)

    def _device_control(self, control: int) -> None:
        """A register FIS that updates Device Control: the software reset of the drive (SATA 9.3)."""
        assert self.device is not None
        if control & SRST:
            self.srst = True
        elif self.srst:
            self.srst = False
            self.device.set_signature()
            self.send_d2h(interrupt=False)

    def _command(self, slot: int, command: int, table: int, prds: tuple[int, int]) -> None:
        device = self.device
        assert device is not None
        transfer = device.execute(command)
        if transfer is not None and command == PACKET:
            assert transfer.data is not None
            transfer.data[:] = self.hba.physmem.read(table + 0x40, len(transfer.data))
            self.send_pio_setup(len(transfer.data), False, False)
            transfer = device.complete(transfer)
        moved = 0
        pio_in = False
        while transfer is not None:
            memory = self._gather(prds, transfer.size)
            pio_in = transfer.to_host and not transfer.dma and command != PACKET
            if memory.size < transfer.size:
                self.interrupts |= OFS
            try:
                if memory.size:
                    device.move(transfer, memory)
            except OSError as error:
                device.failed(transfer, error)
                break
            transfer.position = moved = memory.size
            if not transfer.dma and not transfer.to_host:
                self.send_pio_setup(transfer.size, False, False)
            size = transfer.size
            transfer = device.complete(transfer)
        self.hba.physmem.write_int(self.clb + 32 * slot + 4, 4, moved)
        if pio_in and not device.status & ERR:
            self.send_pio_setup(size, True, True)
        else:
            self.send_d2h()

    def _gather(self, prds: tuple[int, int], size: int) -> Scatter:
        """The memory that a descriptor table names, as far as it is needed."""
        memory = Scatter(self.hba.physmem)
        address, count = prds[0], min(prds[1], MAX_PRDS)
        done = 0
        while memory.size < size and done < count:
            batch = min(count - done, 256)
            for base, _, control in PRD.iter_unpack(self.hba.physmem.read(address + PRD.size * done, PRD.size * batch)):
                memory.add(base & ~1, min((control & 0x3FFFFF | 1) + 1, size - memory.size))
                if memory.size >= size:
                    break
            done += batch
        return memory

    def _queued(self, slot: int, to_host: bool, prds: tuple[int, int]) -> None:
        """READ and WRITE FPDMA QUEUED: the count is in Features, the tag in Sector Count."""
        device = self.device
        assert isinstance(device, AtaDisk)
        tag, count, lba = device.count >> 3, device.hob_feature << 8 | device.feature or 65536, device.lba48
        device.status, device.error = DRDY | DSC, 0
        error = 0
        if tag != slot or not self.sact >> tag & 1:
            error = ABRT
        elif lba + count > device.drive.size_sectors:
            error = IDNF
        elif not to_host and device.drive.readonly:
            error = ABRT
        if not error:
            transfer = Transfer(count * SECTOR, to_host=to_host, offset=lba * SECTOR, dma=True, fua=bool(device.device & 0x80))
            memory = self._gather(prds, transfer.size)
            if memory.size < transfer.size:
                self.interrupts |= OFS
            try:
                if memory.size:
                    device.move(transfer, memory)
            except OSError as failure:
                error = host_error(failure) if to_host else ABRT
        if error:
            self._queued_error(tag, lba, error)
            return
        self.tfd = device.status
        self.send_device_bits(1 << tag, device.status, 0)

    def _queued_error(self, tag: int, lba: int, error: int) -> None:
        """Nothing that is queued is over; log 10h tells which command it was (SATA 13.6.3)."""
        device = self.device
        assert isinstance(device, AtaDisk)
        status = DRDY | DSC | ERR
        entry = bytearray(SECTOR)
        low, high = lba & 0xFFFFFF, lba >> 24
        entry[0], entry[2], entry[3] = tag, status, error
        entry[4:7], entry[7], entry[8:11] = low.to_bytes(3, "little"), device.device, (high & 0xFFFFFF).to_bytes(3, "little")
        entry[12], entry[13] = device.count, device.hob_count
        entry[511] = -sum(entry) & 0xFF
        device.ncq_error = bytes(entry)
        device.status, device.error = status, error
        self.ci &= ~(1 << self.slot)
        self.send_device_bits(0, status, error)

    # --- state -----------------------------------------------------------------------------------------------------------
    SAVED = ("clb", "fb", "interrupts", "enabled", "command", "tfd", "signature", "ssts", "sctl", "serr", "sact", "ci", "halted", "srst",
             "slot", "pending_fis")

    def save(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.SAVED} | {"device": self.device.save() if self.device is not None else None}

    def load(self, state: dict[str, Any]) -> None:
        for name in self.SAVED:
            setattr(self, name, state[name])
        if state["device"] is None:
            self.device = None
        elif self.device is not None:
            self.device.load(state["device"])


class Ahci(PciDevice):
    """``drives`` by port; a controller of one to six ports."""

    def __init__(self, physmem: PhysMem, drives: Sequence[Drive | None], ports: int = 6) -> None:
        super().__init__("ICH9 AHCI", 0x8086, 0x2922, 0x010601, revision=2, pin=PIN_A)
        if not 1 <= ports <= 32 or len(drives) > ports:
            raise ValueError(f"{len(drives)} drives do not fit on {ports} ports")
        self.physmem = physmem
        self.put(0x90, 1, 0x40, 0xC0)               # MAP: AHCI mode
        self.add_msi(1, at=0x80)
        self.ghc = GHC_AE
        self.index = 0
        places = [attach(drives[n] if n < len(drives) else None, n, True) for n in range(ports)]
        self.ports = [Port(self, n, device) for n, device in enumerate(places)]
        self.status = 0                             # IS
        self.bar_io(4, Region(32, self._read_pair, self._write_pair, width=4, name="AHCI index and data"))
        self.bar_memory(5, Region(ABAR_SIZE, self._read, self._write, width=4, name="AHCI"))

    @property
    def cap(self) -> int:
        return CAP_S64A | CAP_SNCQ | CAP_SCLO | CAP_GEN2 | CAP_SAM | CAP_PMD | CAP_32_SLOTS | len(self.ports) - 1

    # --- registers -------------------------------------------------------------------------------------------------------
    def _read(self, offset: int, size: int) -> int:
        value = self._read_register(offset & ~3) >> 8 * (offset & 3)
        return value & (1 << 8 * size) - 1

    def _read_register(self, offset: int) -> int:
        if offset >= PORTS:
            number, register = divmod(offset - PORTS, PORT_SIZE)
            return self.ports[number].read(register) if number < len(self.ports) else 0
        match offset:
            case 0x00:
                return self.cap
            case 0x04:
                return self.ghc
            case 0x08:
                return self.status
            case 0x0C:
                return (1 << len(self.ports)) - 1
            case 0x10:
                return VERSION
        return 0

    def _write(self, offset: int, size: int, value: int) -> None:
        if size != 4 or offset & 3:                 # registers are written as dwords; others are merged with what is there
            shift, mask = 8 * (offset & 3), (1 << 8 * size) - 1
            offset &= ~3
            value = self._read_register(offset) & ~(mask << shift) | (value & mask) << shift if offset != IS else value << shift
            value &= 0xFFFFFFFF
        if offset >= PORTS:
            number, register = divmod(offset - PORTS, PORT_SIZE)
            if number < len(self.ports):
                self.ports[number].write(register, value)
        elif offset == GHC:
            if value & GHC_HR:
                self._host_reset()
            else:
                self.ghc = GHC_AE | value & GHC_IE
        elif offset == IS:
            self.status &= ~value
            if self.msi is not None and self.msi.enabled:       # what is left is told again (10.7.2.1)
                self.intx.set(False)
        self._update()

    def _read_pair(self, offset: int, size: int) -> int:
        if offset == 0x10 and size == 4:
            return self.index
        return self._read(self.index, size) if offset == 0x14 and size == 4 else 0

    def _write_pair(self, offset: int, size: int, value: int) -> None:
        if offset == 0x10 and size == 4:
            self.index = value & ABAR_SIZE - 4
        elif offset == 0x14 and size == 4:
            self._write(self.index, size, value)

    def _update(self) -> None:
        for port in self.ports:
            if port.pxis & port.enabled:
                self.status |= 1 << port.number
        self.intx.set(self.status and self.ghc & GHC_IE)

    def _host_reset(self) -> None:
        self.ghc, self.status = GHC_AE, 0
        for port in self.ports:
            port.reset()

    # --- life ------------------------------------------------------------------------------------------------------------
    def config_changed(self, offset: int, size: int) -> None:
        super().config_changed(offset, size)
        for port in self.ports:
            port.run()
        self._update()

    def reset(self) -> None:
        super().reset()
        self.index = 0
        self._host_reset()

    def unplug(self, *, disks: bool = True, first: bool = True, cdroms: bool = False) -> None:
        """Take drives away for good; ``first``: the one on port 0, too."""
        for port in self.ports:
            device = port.device
            if device is None or (not first and port.number == 0):
                continue
            if cdroms if device.drive.cdrom else disks:
                device.drive.flush()
                port.device = None
                port.link_up()
                port.serr |= SERR_N | SERR_X
        self._update()

    def save(self) -> dict[str, Any]:
        own = {"ghc": self.ghc, "status": self.status, "index": self.index}
        return super().save() | own | {"ports": [port.save() for port in self.ports]}

    def load(self, state: dict[str, Any]) -> None:
        self.ghc, self.status, self.index = state["ghc"], state["status"], state["index"]
        for port, saved in zip(self.ports, state["ports"], strict=True):
            port.load(saved)
        super().load(state)
