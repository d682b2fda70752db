"""The Intel 82540EM gigabit network card ("e1000").

Intel, PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual (317453): descriptors 3.2 to 3.5, EEPROM 5 and
13.4.3, PHY 8 and 13.4.6, registers 13.  The parts: registers here, the EEPROM and PHY in e1000_nvm.py, what is sent in e1000_tx.py.
Packets leave and come at once: delays and throttling of interrupts have no effect.  Left out: VLAN tags are left in the frames,
flow control, wake-up, statistics but for those of good packets and missed ones, packet split, the Flash.
"""

from collections import deque
from typing import Any

from xenfast.devices.e1000_nvm import Eeprom, Phy
from xenfast.devices.e1000_tx import Transmitter
from xenfast.devices.pci import PIN_A, PciDevice
from xenfast.xen.hvm.bus import Region
from xenfast.xen.hvm.physmem import PhysMem

# Registers (table 13-2)
CTRL, STATUS, EECD, EERD, CTRL_EXT, MDIC = 0x0000, 0x0008, 0x0010, 0x0014, 0x0018, 0x0020
ICR, ITR, ICS, IMS, IMC = 0x00C0, 0x00C4, 0x00C8, 0x00D0, 0x00D8
RCTL, TCTL, PBA = 0x0100, 0x0400, 0x1000
RDBAL, RDBAH, RDLEN, RDH, RDT = 0x2800, 0x2804, 0x2808, 0x2810, 0x2818
TDBAL, TDBAH, TDLEN, TDH, TDT = 0x3800, 0x3804, 0x3808, 0x3810, 0x3818
STATISTICS, STATISTICS_END = 0x4000, 0x4100
MPC, GPRC, BPRC, MPRC, GPTC = 0x4010, 0x4074, 0x4078, 0x407C, 0x4080
GORCL, GOTCL, TPR, TPT = 0x4088, 0x4090, 0x40D0, 0x40D4
MTA, RAL, VFTA = 0x5200, 0x5400, 0x5600

# Registers that keep what is written to them and do no more.
KEPT = frozenset((
    0x0028, 0x002C, 0x0030, 0x0038, 0x0170, CTRL_EXT, ITR, 0x0410, 0x0458, 0x0E00, PBA, 0x2160, 0x2168, 0x2820, 0x2828, 0x282C, 0x2C00,
    0x3000, 0x3820, 0x3828, 0x382C, 0x3830, 0x5000, 0x5800, 0x5808, 0x5838, RDBAL, RDBAH, TDBAL, TDBAH,
))  # fmt: skip
ARRAYS = ((MTA, 128), (RAL, 32), (VFTA, 128), (0x5840, 8), (0x5F00, 8), (0x9000, 512), (0x9800, 512))      # first register, count

CTRL_RST, CTRL_PHY_RST, CTRL_SLU = 1 << 26, 1 << 31, 1 << 6
STATUS_FD, STATUS_LU, STATUS_1000 = 1, 2, 2 << 6
ICR_TXDW, ICR_TXQE, ICR_LSC, ICR_RXDMT0, ICR_RXO, ICR_RXT0, ICR_MDAC = 1, 2, 4, 0x10, 0x40, 0x80, 0x200
ICR_BITS = 0x1FFFF
RCTL_EN, RCTL_SBP, RCTL_UPE, RCTL_MPE, RCTL_LPE, RCTL_BAM, RCTL_BSEX, RCTL_SECRC = 1 << 1, 4, 8, 16, 32, 1 << 15, 1 << 25, 1 << 26
TCTL_EN = 2
RA_AV = 1 << 31
RX_DD, RX_EOP, RX_IXSM, RX_PIF = 1, 2, 4, 0x80
SIZES = (2048, 1024, 512, 256)          # RCTL.BSIZE; with BSEX sixteen times as much, but for the first

MIN_FRAME, MAX_FRAME, MAX_LONG = 60, 1522, 16384
WAITING = 256                           # frames that wait for room in the ring
REGISTERS_SIZE, PORTS_SIZE = 0x20000, 64


class E1000(PciDevice):
    """``port`` is a network port (docs/design.md): ``send(frame, offload)``, ``receiver``, ``close()``."""

    def __init__(self, physmem: PhysMem, port: Any, mac: bytes) -> None:
        super().__init__("e1000", 0x8086, 0x100E, 0x020000, revision=3, pin=PIN_A, subsystem=(0x8086, 0x001E))
        self.physmem, self.port, self.mac = physmem, port, mac
        self.eeprom, self.phy = Eeprom(mac), Phy()
        self.transmitter = Transmitter(physmem, self._send)
        self.put(0x06, 2, 0x0230)
        self.bar_memory(0, Region(REGISTERS_SIZE, self._read_memory, self._write_memory, name="e1000"))
        self.bar_io(1, Region(PORTS_SIZE, self._read_port, self._write_port, name="e1000"))
        self.add_power_management(0xDC)
        self.waiting: deque[bytes] = deque()
        self._clear()
        port.receiver = self.receive

    def _clear(self) -> None:
        """Software reset: everything but the EEPROM and the PHY."""
        self.registers: dict[int, int] = {PBA: 0x00100030, CTRL: 0x00000A09 | CTRL_SLU}
        self.arrays = {first: [0] * count for first, count in ARRAYS}
        self.statistics: dict[int, int] = {}
        self.icr = self.ims = 0
        self.rctl = self.tctl = 0
        self.rdh = self.rdt = self.tdh = self.tdt = self.rdlen = self.tdlen = 0
        self.ioaddr = 0
        self.waiting.clear()
        self.transmitter.reset()
        self.arrays[RAL][0] = int.from_bytes(self.mac[:4], "little")
        self.arrays[RAL][1] = int.from_bytes(self.mac[4:], "little") | RA_AV
        self._interrupt()

    # --- interrupts --------------------------------------------------------------------------------------------------------
    def cause(self, bits: int) -> None:
        self.icr |= bits & ICR_BITS
        self._interrupt()

    def _interrupt(self) -> None:
        self.intx.set(self.icr & self.ims)

    # --- what comes -----------------------------------------------------------------------------------------------------------
    def receive(self, frame: bytes | memoryview) -> bool:
        """From the network, with the lock held; False: it is lost."""
        if not self.rctl & RCTL_EN or not self.phy.link or not self._wanted(frame):
            return True
        size = len(frame)
        if size > (MAX_LONG if self.rctl & RCTL_LPE else MAX_FRAME - 4):
            return True
        if self.waiting or not self._store(frame):
            if len(self.waiting) >= WAITING:
                self._count(MPC)
                self.cause(ICR_RXO)
                return False
            self.waiting.append(bytes(frame))
        return True

    def _wanted(self, frame: Any) -> bool:
        """The filters (10.1 and 13.4.22)."""
        destination = bytes(frame[:6])
        if destination == b"\xff" * 6:
            return bool(self.rctl & (RCTL_BAM | RCTL_MPE | RCTL_UPE))
        if destination[0] & 1:
            if self.rctl & RCTL_MPE:
                return True
        elif self.rctl & RCTL_UPE:
            return True
        table = self.arrays[RAL]
        low, high = int.from_bytes(destination[:4], "little"), int.from_bytes(destination[4:], "little")
        for n in range(0, 32, 2):
            if table[n] == low and table[n + 1] & 0x8000FFFF == high | RA_AV:
                return True
        if not destination[0] & 1:
            return False
        shift = (4, 3, 2, 0)[self.rctl >> 12 & 3]
        index = (destination[4] | destination[5] << 8) >> shift & 0xFFF
        return bool(self.arrays[MTA][index >> 5] >> (index & 31) & 1)

    def _store(self, frame: Any) -> bool:
        """Into the buffers of the ring; False when there are too few.  A padding and a sum make it what was on the wire."""
        count = self.rdlen // 16
        if not count or not self.bus_master:
            return False
        data = bytes(frame).ljust(MIN_FRAME, b"\0") + (b"" if self.rctl & RCTL_SECRC else bytes(4))
        size = SIZES[self.rctl >> 16 & 3] * (16 if self.rctl & RCTL_BSEX and self.rctl >> 16 & 3 else 1)
        needed = -(-len(data) // size)
        free = (self.rdt - self.rdh) % count
        if needed > free:
            return False
        base = self._ring(RDBAL)
        for start in range(0, len(data), size):
            piece = data[start:start + size]
            at = base + 16 * self.rdh
            self.physmem.write(self.physmem.read_int(at, 8), piece)
            status = RX_DD | RX_IXSM | (RX_EOP if start + size >= len(data) else 0)
            self.physmem.write(at + 8, len(piece).to_bytes(2, "little") + bytes(2) + bytes((status, 0)) + bytes(2))
            self.rdh = (self.rdh + 1) % count
        self._count(GPRC)
        self._count(TPR)
        self._count(GORCL, len(data))
        if data[0] & 1:
            self._count(BPRC if data[:6] == b"\xff" * 6 else MPRC)
        low = (self.rdt - self.rdh) % count <= count >> 1 + (self.rctl >> 8 & 3)
        self.cause(ICR_RXT0 | (ICR_RXDMT0 if low else 0))
        return True

    def _room(self) -> None:
        """The guest has given buffers: what waits goes in."""
        while self.waiting and self._store(self.waiting[0]):
            self.waiting.popleft()

    # --- what goes -------------------------------------------------------------------------------------------------------------
    def _send(self, frame: bytes, offload: Any) -> None:
        self._count(GPTC)
        self._count(TPT)
        self._count(GOTCL, len(frame) + 4)
        if self.phy.loopback:
            self.receive(frame)
        elif self.phy.link:
            self.port.send(frame, offload)

    def _transmit(self) -> None:
        count = self.tdlen // 16
        if not self.tctl & TCTL_EN or not count or not self.bus_master:
            return
        base, causes = self._ring(TDBAL), ICR_TXQE
        self.tdh %= count
        for _ in range(count):
            if self.tdh == self.tdt % count:
                break
            if self.transmitter.descriptor(base + 16 * self.tdh):
                causes |= ICR_TXDW
            self.tdh = (self.tdh + 1) % count
        self.cause(causes)

    def _ring(self, register: int) -> int:
        return self.registers.get(register + 4, 0) << 32 | self.registers.get(register, 0) & ~15

    def _count(self, register: int, by: int = 1) -> None:
        self.statistics[register] = self.statistics.get(register, 0) + by

    # --- registers ----------------------------------------------------------------------------------------------------------------
    def _read_memory(self, offset: int, size: int) -> int:
        return self.read_register(offset & ~3) >> 8 * (offset & 3)

    def _write_memory(self, offset: int, size: int, value: int) -> None:
        if size == 4 and not offset & 3:                # smaller ones are not allowed (13.1)
            self.write_register(offset, value & 0xFFFFFFFF)

    def _read_port(self, offset: int, size: int) -> int:
        """IOADDR and IODATA (13.2)."""
        if offset & ~3 == 4:
            return self.read_register(self.ioaddr & ~3) >> 8 * (offset & 3) if self.ioaddr < REGISTERS_SIZE else 0
        return self.ioaddr >> 8 * (offset & 3) if offset < 4 else 0

    def _write_port(self, offset: int, size: int, value: int) -> None:
        if offset == 0 and size == 4:
            self.ioaddr = value & 0xFFFFFFFF
        elif offset == 4 and size == 4 and self.ioaddr < REGISTERS_SIZE:
            self.write_register(self.ioaddr & ~3, value & 0xFFFFFFFF)

    def read_register(self, register: int) -> int:
        match register:
            case 0x0000 | 0x0004:
                return self.registers[CTRL]
            case 0x0008:
                return STATUS_FD | STATUS_1000 | (STATUS_LU if self.phy.link else 0)
            case 0x0010:
                return self.eeprom.read_eecd()
            case 0x0014:
                return self.eeprom.read_eerd()
            case 0x0020:
                return self.phy.mdic
            case 0x00C0:
                value, self.icr = self.icr, 0
                self._interrupt()
                return value | (1 << 31 if value & self.ims else 0)
            case 0x00C8 | 0x00D0:
                return self.ims if register == IMS else self.icr
            case 0x0100:
                return self.rctl
            case 0x0400:
                return self.tctl
        ring = self.RINGS.get(register)
        if ring is not None:
            return getattr(self, ring)
        if STATISTICS <= register < STATISTICS_END:
            return self._read_statistic(register)
        for first, words in self.arrays.items():
            if first <= register < first + 4 * len(words):
                return words[(register - first) // 4]
        return self.registers.get(register, 0)

    def _read_statistic(self, register: int) -> int:
        """They are cleared when they are read; of the 64-bit ones by the upper half."""
        if register in (GORCL + 4, GOTCL + 4):
            return self.statistics.pop(register - 4, 0) >> 32 & 0xFFFFFFFF
        if register in (GORCL, GOTCL):
            return self.statistics.get(register, 0) & 0xFFFFFFFF
        return min(self.statistics.pop(register, 0), 0xFFFFFFFF)

    RINGS = {RDLEN: "rdlen", RDH: "rdh", RDT: "rdt", TDLEN: "tdlen", TDH: "tdh", TDT: "tdt"}

    def write_register(self, register: int, value: int) -> None:
        match register:
            case 0x0000 | 0x0004:
                self._write_ctrl(value)
            case 0x0010:
                self.eeprom.write_eecd(value)
            case 0x0014:
                self.eeprom.write_eerd(value)
            case 0x0020:
                if self.phy.write_mdic(value):
                    self.cause(ICR_MDAC)
            case 0x00C0:
                self.icr &= ~value
                self._interrupt()
            case 0x00C8:
                self.cause(value)
            case 0x00D0:
                self.ims |= value & ICR_BITS
                self._interrupt()
            case 0x00D8:
                self.ims &= ~value
                self._interrupt()
            case 0x0100:
                self.rctl = value
                self._room()
            case 0x0400:
                self.tctl = value
                self._transmit()
            case _:
                self._write_other(register, value)

    def _write_ctrl(self, value: int) -> None:
        if value & CTRL_RST:
            self._clear()
            return
        if value & CTRL_PHY_RST:
            self.phy.reset()
        self.registers[CTRL] = value & ~CTRL_PHY_RST

    def _write_other(self, register: int, value: int) -> None:
        ring = self.RINGS.get(register)
        if ring is not None:
            setattr(self, ring, value & (0xFFF80 if register in (RDLEN, TDLEN) else 0xFFFF))
            if register == TDT:
                self._transmit()
            elif register == RDT:
                self._room()
        elif register in KEPT:
            self.registers[register] = value
        else:
            for first, words in self.arrays.items():
                if first <= register < first + 4 * len(words):
                    words[(register - first) // 4] = value

    # --- life ----------------------------------------------------------------------------------------------------------------------
    def reset(self) -> None:
        super().reset()
        self.phy.reset()
        self.eeprom.reset()
        self._clear()

    def set_link(self, up: bool) -> None:
        """The cable is plugged in, or pulled."""
        if up != self.phy.link:
            self.phy.link = up
            self.cause(ICR_LSC)

    def unplugged(self) -> None:
        """It vanishes, as on unplug by PV drivers: nothing is sent or received any more."""
        super().unplugged()
        self.port.close()

    FIELDS = ("icr", "ims", "rctl", "tctl", "rdh", "rdt", "tdh", "tdt", "rdlen", "tdlen", "ioaddr")

    def save(self) -> dict[str, Any]:
        return super().save() | {name: getattr(self, name) for name in self.FIELDS} | {
            "registers": dict(self.registers), "arrays": {first: list(words) for first, words in self.arrays.items()},
            "statistics": dict(self.statistics), "waiting": list(self.waiting), "eeprom": self.eeprom.save(), "phy": self.phy.save(),
            "transmitter": self.transmitter.save(),
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        for name in self.FIELDS:
            setattr(self, name, state[name])
        self.registers, self.statistics = dict(state["registers"]), dict(state["statistics"])
        self.arrays = {first: list(words) for first, words in state["arrays"].items()}
        self.waiting = deque(state["waiting"])
        self.eeprom.load(state["eeprom"])
        self.phy.load(state["phy"])
        self.transmitter.load(state["transmitter"])
        super().load(state)
