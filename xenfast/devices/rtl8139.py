"""The Realtek RTL8139C fast Ethernet card, which every system of the last decades knows.

Realtek RTL8139C data sheet (1.4): registers 6, the ring of received packets 6.5 and 7, transmission 6.2.  Packets leave and come at
once.  Left out: the descriptors of the 8139C+ ("C+ mode"), wake-up, flow control, early interrupts, the CIS of CardBus, writing the EEPROM.
"""

from collections import deque
from typing import Any

from xenfast.devices.microwire import Microwire
from xenfast.devices.pci import PIN_A, PciDevice
from xenfast.xen.hvm.bus import Region
from xenfast.xen.hvm.physmem import PhysMem

# Registers (table 6)
IDR, MAR, TSD, TSAD, RBSTART, CR, CAPR, CBR, IMR, ISR = 0x00, 0x08, 0x10, 0x20, 0x30, 0x37, 0x38, 0x3A, 0x3C, 0x3E
TCR, RCR, TCTR, MPC, CR9346, CONFIG0, CONFIG1, TIMERINT, MSR = 0x40, 0x44, 0x48, 0x4C, 0x50, 0x51, 0x52, 0x54, 0x58
CONFIG3, CONFIG4, RERID, TSADS = 0x59, 0x5A, 0x5E, 0x60
BMCR, BMSR, ANAR, ANLPAR, ANER, CSCR = 0x62, 0x64, 0x66, 0x68, 0x6A, 0x74
SIZE = 0x100

CR_BUFE, CR_TE, CR_RE, CR_RST = 0x01, 0x04, 0x08, 0x10
TSD_SIZE, TSD_OWN, TSD_TOK, TSD_TABT = 0x1FFF, 1 << 13, 1 << 15, 1 << 30
ISR_ROK, ISR_TOK, ISR_TER, ISR_RXOVW, ISR_LINK = 0x0001, 0x0004, 0x0008, 0x0010, 0x0020
RCR_AAP, RCR_APM, RCR_AM, RCR_AB, RCR_WRAP = 0x01, 0x02, 0x04, 0x08, 0x80
TCR_LOOPBACK = 3 << 17
VERSION = 0x74000000                    # TCR 30:26 and 23:22: RTL8139C
RX_ROK, RX_BROADCAST, RX_PHYSICAL, RX_MULTICAST = 0x0001, 0x2000, 0x4000, 0x8000
MSR_LINK_DOWN = 0x04
EECS, EESK, EEDI, EEDO, EEM = 0x08, 0x04, 0x02, 0x01, 0xC0

# Registers that keep what is written: offset, size, value after reset, bits that can be written
KEPT = (
    (CONFIG0, 1, 0x00, 0x00), (CONFIG1, 1, 0x0D, 0xFF), (0x53, 1, 0, 0xFF), (CONFIG3, 1, 0x00, 0xFF), (CONFIG4, 1, 0x00, 0xFF),
    (0x5C, 2, 0, 0xFFFF), (RERID, 1, 0x10, 0), (BMCR, 2, 0x3100, 0x7FC0), (ANAR, 2, 0x05E1, 0xFFFF), (ANER, 2, 0x0001, 0),
    (0x70, 2, 0, 0xFFFF), (0x78, 4, 0, 0xFFFFFFFF), (0x7C, 4, 0, 0xFFFFFFFF), (TIMERINT, 4, 0, 0xFFFFFFFF), (CSCR, 2, 0x04C0, 0xFFFF),
)  # fmt: skip

WAITING = 256                           # frames that wait for room in the ring
MIN_FRAME, MAX_FRAME = 60, 4096
EEPROM = {0: 0x8129, 1: 0x10EC, 2: 0x8139, 3: 0x10EC, 4: 0x8139, 5: 0x4020, 6: 0xE112}      # and the address from word 7 on


class Rtl8139(PciDevice):
    """``port`` is a network port (docs/design.md)."""

    def __init__(self, physmem: PhysMem, port: Any, mac: bytes) -> None:
        super().__init__("rtl8139", 0x10EC, 0x8139, 0x020000, revision=0x10, pin=PIN_A)
        self.physmem, self.port, self.mac = physmem, port, mac
        self.link = True
        words = [EEPROM.get(n, 0) for n in range(64)]
        words[7:10] = [int.from_bytes(mac[n:n + 2], "little") for n in (0, 2, 4)]
        self.eeprom = Microwire(words)
        self.bar_io(0, Region(SIZE, self.read, self.write, name="rtl8139"))
        self.bar_memory(1, Region(SIZE, self.read, self.write, name="rtl8139"))
        self.add_power_management()
        self.waiting: deque[bytes] = deque()
        self._clear()
        port.receiver = self.receive

    def _clear(self) -> None:
        """CR.RST and power-on: everything but the address filters is as after a reset."""
        self.bytes = bytearray(SIZE)
        self.bytes[IDR:IDR + 6] = self.mac
        for offset, size, value, _ in KEPT:
            self.bytes[offset:offset + size] = value.to_bytes(size, "little")
        self.tsd = [TSD_OWN] * 4
        self.tsad = [0] * 4
        self.rbstart = self.cr = self.capr = self.cbr = self.imr = self.isr = self.tcr = self.rcr = self.missed = self.cr9346 = 0
        self.capr = 0xFFF0
        self.waiting.clear()
        self._interrupt()

    # --- interrupts -------------------------------------------------------------------------------------------------------
    def cause(self, bits: int) -> None:
        self.isr |= bits
        self._interrupt()

    def _interrupt(self) -> None:
        self.intx.set(self.isr & self.imr)

    # --- what comes -----------------------------------------------------------------------------------------------------------
    @property
    def size(self) -> int:
        """Of the ring, without the bytes behind it."""
        return 8192 << (self.rcr >> 11 & 3)

    @property
    def empty(self) -> bool:
        return self.cbr % self.size == (self.capr + 16) % self.size

    def receive(self, frame: bytes | memoryview) -> bool:
        """From the network, with the lock held; False: it is lost."""
        status = self._wanted(frame)
        if not self.cr & CR_RE or not self.link or not status or len(frame) > MAX_FRAME:
            return True
        data = status.to_bytes(2, "little") + bytes(frame)
        if self.waiting or not self._store(data):
            if len(self.waiting) >= WAITING:
                self.missed = min(self.missed + 1, 0xFFFFFF)
                self.cause(ISR_RXOVW)
                return False
            self.waiting.append(data)
            self.cause(ISR_ROK)                     # a reminder: the ring is full
        return True

    def _wanted(self, frame: Any) -> int:
        """The status it is received with; 0: it is not for us (RCR)."""
        to = bytes(frame[:6])
        if to == b"\xff" * 6:
            return RX_ROK | RX_BROADCAST if self.rcr & (RCR_AB | RCR_AAP) else 0
        if to[0] & 1:
            index = hash_of(to)
            hit = self.rcr & RCR_AM and self.bytes[MAR + (index >> 3)] >> (index & 7) & 1
            return RX_ROK | RX_MULTICAST if hit or self.rcr & RCR_AAP else 0
        if to == bytes(self.bytes[IDR:IDR + 6]) and self.rcr & (RCR_APM | RCR_AAP):
            return RX_ROK | RX_PHYSICAL
        return RX_ROK if self.rcr & RCR_AAP else 0

    def _store(self, packet: bytes) -> bool:
        """Into the ring, behind status and length; False when there is no room."""
        if not self.bus_master:
            return False
        data = packet[2:].ljust(MIN_FRAME, b"\0") + bytes(4)
        raw = packet[:2] + len(data).to_bytes(2, "little") + data
        total, size = len(raw) + 3 & ~3, self.size
        self.cbr %= size
        read = (self.capr + 16) % size
        free = (read - self.cbr) % size or size
        if total >= free:
            return False
        first = len(raw) if self.rcr & RCR_WRAP and size < 65536 else min(len(raw), size - self.cbr)
        self.physmem.write(self.rbstart + self.cbr, raw[:first])
        if first < len(raw):
            self.physmem.write(self.rbstart, raw[first:])
        self.cbr = (self.cbr + total) % size
        self.cause(ISR_ROK)
        return True

    def _room(self) -> None:
        while self.waiting and self._store(self.waiting[0]):
            self.waiting.popleft()

    # --- what goes -------------------------------------------------------------------------------------------------------------
    def _transmit(self, n: int) -> None:
        size = self.tsd[n] & TSD_SIZE
        if not self.cr & CR_TE or not self.bus_master:
            return
        if not 14 <= size <= 0x700:
            self.tsd[n] |= TSD_OWN | TSD_TABT
            self.cause(ISR_TER)
            return
        frame = self.physmem.read(self.tsad[n], size)
        if self.tcr & TCR_LOOPBACK == TCR_LOOPBACK:
            self.receive(frame)
        elif self.link:
            self.port.send(frame)
        self.tsd[n] |= TSD_OWN | TSD_TOK
        self.cause(ISR_TOK)

    # --- registers ----------------------------------------------------------------------------------------------------------------
    def read(self, offset: int, size: int) -> int:
        value = 0
        for n in range(0, size):
            value |= (self._get(offset + n & ~3) >> 8 * (offset + n & 3) & 0xFF) << 8 * n
        return value

    def _get(self, at: int) -> int:
        """The dword at a multiple of four."""
        if TSD <= at < TSD + 16:
            return self.tsd[at - TSD >> 2]
        if TSAD <= at < TSAD + 16:
            return self.tsad[at - TSAD >> 2]
        plain = int.from_bytes(self.bytes[at:at + 4], "little")
        match at:
            case 0x30:
                return self.rbstart
            case 0x34:
                return (self.cr | (CR_BUFE if self.empty else 0)) << 24
            case 0x38:
                return self.capr | self.cbr << 16
            case 0x3C:
                return self.imr | self.isr << 16
            case 0x40:
                return self.tcr & ~0x7CC00000 | VERSION
            case 0x44:
                return self.rcr
            case 0x4C:
                return self.missed
            case 0x50:
                return plain & ~0xFF | self.cr9346 & ~EEDO | (EEDO if self.eeprom.data else 0)
            case 0x58:
                return plain & ~0xFF | (0 if self.link else MSR_LINK_DOWN)
            case 0x60:
                return self._tsads() | plain & 0xFFFF0000
            case 0x64:
                return plain & 0xFFFF0000 | (0x782D if self.link else 0x7809)
            case 0x68:
                return plain & 0xFFFF0000 | (0x45E1 if self.link else 0)
        return plain

    def _tsads(self) -> int:
        """Transmit status of all descriptors: bits 3:0 OWN, 7:4 TABT, 11:8 TUN, 15:12 TOK."""
        return sum(((d >> 13 & 1) | (d >> 30 & 1) << 4 | (d >> 14 & 1) << 8 | (d >> 15 & 1) << 12) << n for n, d in enumerate(self.tsd))

    def write(self, offset: int, size: int, value: int) -> None:
        """Registers are written in their own size; a smaller write changes its bytes of what was there."""
        at = offset & ~3
        shift = 8 * (offset & 3)
        mask = (1 << 8 * size) - 1 << shift & 0xFFFFFFFF
        value = value << shift & mask
        if TSD <= at < TSD + 16:
            n = at - TSD >> 2
            self.tsd[n] = self.tsd[n] & ~mask & ~(TSD_TOK | TSD_TABT) | value
            if not self.tsd[n] & TSD_OWN:
                self._transmit(n)
        elif TSAD <= at < TSAD + 16:
            self.tsad[at - TSAD >> 2] = self.tsad[at - TSAD >> 2] & ~mask | value
        elif at == RBSTART:
            self.rbstart = self.rbstart & ~mask | value
            self.cbr = 0
        elif at < TSD:
            self._keep(at, mask, value, 0xFFFFFFFF)
        else:
            self._set(at, mask, value)

    def _keep(self, at: int, mask: int, value: int, writable: int) -> None:
        old = int.from_bytes(self.bytes[at:at + 4], "little")
        mask &= writable
        self.bytes[at:at + 4] = (old & ~mask | value & mask).to_bytes(4, "little")

    def _set(self, at: int, mask: int, value: int) -> None:
        match at:
            case 0x34:
                if mask >> 24:
                    self._command(value >> 24)
            case 0x38:
                if mask & 0xFFFF:
                    self.capr = self.capr & ~mask | value & 0xFFFF
                    self._room()
            case 0x3C:
                self.imr = self.imr & ~mask & 0xFFFF | value & 0xFFFF
                self.isr &= ~(value >> 16)
                if value & mask & ISR_ROK and not self.empty:
                    self.isr |= ISR_ROK             # for drivers that acknowledge, leave something, and wait for an interrupt
                self._interrupt()
            case 0x40:
                self.tcr = self.tcr & ~mask | value
            case 0x44:
                self.rcr = self.rcr & ~mask | value
                self._room()
            case 0x4C:
                self.missed = 0
            case 0x50:
                if mask & 0xFF:
                    self.cr9346 = value & 0xFF
                    self.eeprom.drive(value & EECS, value & EESK, value & EEDI)
                self._keep(at, mask & ~0xFF, value, writable_of(at))
            case _:
                self._keep(at, mask, value, writable_of(at))

    def _command(self, value: int) -> None:
        if value & CR_RST:
            multicast = self.bytes[MAR:MAR + 8]
            self._clear()
            self.bytes[MAR:MAR + 8] = multicast
            return
        if value & CR_RE and not self.cr & CR_RE:
            self.cbr = 0
        self.cr = value & (CR_RE | CR_TE)
        if value & CR_TE:
            for n in range(4):
                if not self.tsd[n] & TSD_OWN:
                    self._transmit(n)

    # --- life ----------------------------------------------------------------------------------------------------------------------
    def reset(self) -> None:
        super().reset()
        self.eeprom.reset()
        self._clear()

    def set_link(self, up: bool) -> None:
        """The cable is plugged in, or pulled."""
        if up != self.link:
            self.link = up
            self.cause(ISR_LINK)

    def unplugged(self) -> None:
        """It vanishes, as on unplug by PV drivers: nothing is sent or received any more."""
        super().unplugged()
        self.port.close()

    FIELDS = ("rbstart", "cr", "capr", "cbr", "imr", "isr", "tcr", "rcr", "missed", "cr9346", "link")

    def save(self) -> dict[str, Any]:
        return super().save() | {name: getattr(self, name) for name in self.FIELDS} | {
            "bytes": bytes(self.bytes), "tsd": list(self.tsd), "tsad": list(self.tsad), "waiting": list(self.waiting),
            "eeprom": self.eeprom.save(),
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        for name in self.FIELDS:
            setattr(self, name, state[name])
        self.bytes = bytearray(state["bytes"])
        self.tsd, self.tsad, self.waiting = list(state["tsd"]), list(state["tsad"]), deque(state["waiting"])
        self.eeprom.load(state["eeprom"])
        super().load(state)


def writable_of(at: int) -> int:
    """The bits of the dword at a multiple of four that keep what is written."""
    return sum(mask << 8 * (offset - at) for offset, _, _, mask in KEPT if at <= offset < at + 4)


def hash_of(address: bytes) -> int:
    """The upper six bits of the CRC of a multicast address, lowest bit of a byte first (IEEE 802.3, 3.2.9)."""
    crc = 0xFFFFFFFF
    for byte in address:
        for n in range(8):
            bit = crc >> 31 ^ byte >> n & 1
            crc = crc << 1 & 0xFFFFFFFF ^ (0x04C11DB7 if bit else 0)
    return crc >> 26
