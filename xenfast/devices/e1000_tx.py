"""What an 82540EM sends: legacy and extended descriptors, checksums, TCP segmentation.

SDM 317453, 3.3 (descriptors) and 3.5 (segmentation), 3.6 (checksum insertion).  A packet that is to be segmented goes to the network as
it is, with a note of the size of its segments (dom0/net/frame.py), where it is TCP behind IP as usual; so a guest on the same host gets it
whole.  Length fields of such a packet are filled in here.
"""

from collections.abc import Callable
from typing import Any

from xenfast.dom0.net.frame import GSO_TCPV4, GSO_TCPV6, MIN_GSO_SIZE, PLAIN, Offload, checksum, sum16
from xenfast.xen.hvm.physmem import PhysMem

# Legacy CMD, and DCMD and TUCMD of the others (bits 31:24 of the second dword)
EOP, IC, TSE, RS, DEXT = 0x01, 0x04, 0x04, 0x08, 0x20
TUCMD_TCP, TUCMD_IP = 0x01, 0x02
CONTEXT, DATA = 0, 1            # DTYP
IXSM, TXSM = 0x01, 0x02         # POPTS
DD = 0x01

MAX_PACKET = 65536 + 256        # bytes gathered for one packet; what is beyond is dropped


class Transmitter:
    """``send(frame, offload)`` gets every packet."""

    FIELDS = ("ipcss", "ipcso", "ipcse", "tucss", "tucso", "tucse", "paylen", "hdrlen", "mss", "tucmd", "popts", "tse", "size")

    def __init__(self, physmem: PhysMem, send: Callable[[bytes, Offload], Any]) -> None:
        self.physmem, self.send = physmem, send
        self.reset()

    def reset(self) -> None:
        for name in self.FIELDS:
            setattr(self, name, 0)
        self.pieces: list[bytes] = []

    def descriptor(self, at: int) -> bool:
        """One descriptor of the ring; returns whether its status has been written back."""
        raw = self.physmem.read(at, 16)
        low, high = int.from_bytes(raw[8:12], "little"), int.from_bytes(raw[12:], "little")
        command = low >> 24
        if not command & DEXT:
            self._legacy(raw, low, high, command)
        elif low >> 20 & 15 == CONTEXT:
            self._context(raw, low, high, command)
        elif low >> 20 & 15 == DATA:
            self._data(raw, low, high, command)
        if command & RS:
            self.physmem.write(at + 12, bytes((raw[12] | DD,)))
        return bool(command & RS)

    def _gather(self, address: int, length: int) -> None:
        length = min(length, MAX_PACKET - self.size)
        if length > 0:
            self.pieces.append(self.physmem.read(address, length))
            self.size += length

    def _packet(self) -> bytearray:
        data = bytearray(b"".join(self.pieces))
        self.pieces, self.size = [], 0
        return data

    def _legacy(self, raw: bytes, low: int, high: int, command: int) -> None:
        self._gather(int.from_bytes(raw[:8], "little"), low & 0xFFFF)
        if command & EOP:
            data = self._packet()
            if command & IC:
                insert(data, high >> 8 & 0xFF, low >> 16 & 0xFF, 0)         # CSS, CSO
            self._finish(data, PLAIN)

    def _context(self, raw: bytes, low: int, high: int, command: int) -> None:
        self.ipcss, self.ipcso, self.ipcse = raw[0], raw[1], int.from_bytes(raw[2:4], "little")
        self.tucss, self.tucso, self.tucse = raw[4], raw[5], int.from_bytes(raw[6:8], "little")
        self.paylen, self.tucmd = low & 0xFFFFF, command
        self.hdrlen, self.mss = high >> 8 & 0xFF, high >> 16

    def _data(self, raw: bytes, low: int, high: int, command: int) -> None:
        if not self.pieces:                         # options are those of the first descriptor (3.3.7.2)
            self.popts, self.tse = high >> 8 & 0xFF, command & TSE
        self._gather(int.from_bytes(raw[:8], "little"), low & 0xFFFFF)
        if not command & EOP:
            return
        data = self._packet()
        if self.tse and self.tucmd & TUCMD_TCP and self.mss >= MIN_GSO_SIZE and len(data) > self.hdrlen:
            self._segmented(data)
            return
        if self.popts & TXSM:
            insert(data, self.tucss, self.tucso, self.tucse)
        if self.popts & IXSM:
            insert(data, self.ipcss, self.ipcso, self.ipcse)
        self._finish(data, PLAIN)

    def _segmented(self, data: bytearray) -> None:
        """TCP of any length: lengths of the whole packet, the sum of its pseudo header, and off it goes."""
        ip, tcp, total = self.ipcss, self.tucss, len(data) - self.ipcss
        if total < 40 or tcp + 20 > len(data):
            return
        if self.tucmd & TUCMD_IP:
            data[ip + 2:ip + 4] = (total & 0xFFFF).to_bytes(2, "big")
            data[ip + 10:ip + 12] = b"\0\0"
            data[ip + 10:ip + 12] = checksum(bytes(data[ip:tcp])).to_bytes(2, "big")
        else:
            data[ip + 4:ip + 6] = (total - 40 & 0xFFFF).to_bytes(2, "big")
        length = len(data) - tcp
        at = self.tucso
        if at + 2 <= len(data):
            pseudo = (int.from_bytes(data[at:at + 2], "big") + length) % 0xFFFF
            data[at:at + 2] = pseudo.to_bytes(2, "big")
        kind = GSO_TCPV4 if self.tucmd & TUCMD_IP else GSO_TCPV6
        if len(data) - self.hdrlen > self.mss:
            self._finish(data, Offload(blank=True, gso_size=self.mss, gso_type=kind))
        else:
            self._finish(data, Offload(blank=True))

    def _finish(self, data: bytearray, offload: Offload) -> None:
        if len(data) >= 14:
            self.send(bytes(data), offload)

    def save(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.FIELDS} | {"pieces": list(self.pieces)}

    def load(self, state: dict[str, Any]) -> None:
        for name in self.FIELDS:
            setattr(self, name, state[name])
        self.pieces = list(state["pieces"])


def insert(data: bytearray, start: int, at: int, end: int) -> None:
    """The sum of ``start`` to ``end`` (inclusive, 0: all) goes to ``at``, on top of what is there; harmless beyond the packet."""
    stop = end + 1 if end else len(data)
    if start < stop <= len(data) and at + 2 <= len(data):
        data[at:at + 2] = (~sum16(bytes(data[start:stop])) & 0xFFFF or 0xFFFF).to_bytes(2, "big")
