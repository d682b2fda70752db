"""The virtio network device (VIRTIO 1.1, 5.1): one pair of queues, mergeable buffers, checksum and segmentation offload when sending.

Left out: the control queue (filters, several pairs, VLANs), offload when receiving, notifications coalesced.  It hears everything
that its port gives it, as the specification has it without a control queue (5.1.6.5).
"""

import struct
from collections import deque
from typing import Any

from xenfast.devices.virtio import VirtioDevice
from xenfast.devices.virtqueue import Chain
from xenfast.dom0.net.frame import GSO_TCPV4, GSO_TCPV6, MIN_GSO_SIZE, PLAIN, Offload
from xenfast.xen.hvm.physmem import PhysMem

F_CSUM, F_MAC, F_HOST_TSO4, F_HOST_TSO6, F_MRG_RXBUF, F_STATUS = 1, 1 << 5, 1 << 11, 1 << 12, 1 << 15, 1 << 16
HEADER = struct.Struct("<BBHHHH")           # flags, gso_type, hdr_len, gso_size, csum_start, csum_offset; then num_buffers
NEEDS_CSUM = 1
GSO_TYPES = {1: GSO_TCPV4, 4: GSO_TCPV6}
ECN = 0x80
RX, TX = 0, 1
QUEUE_SIZE = 256
MIN_FRAME, MAX_FRAME = 14, 65550
LINK_UP = 1
WAITING = 256                               # frames that wait for buffers


class VirtioNet(VirtioDevice):
    """``port`` is a network port (docs/design.md): ``send(frame, offload)``, ``receiver``, ``close()``."""

    def __init__(self, physmem: PhysMem, port: Any, mac: bytes) -> None:
        self.port, self.mac = port, mac
        self.link = True
        self.waiting: deque[bytes] = deque()
        super().__init__(physmem, "virtio-net", 0x1000, 1, 0x020000, [QUEUE_SIZE, QUEUE_SIZE], 12)
        self.features = self.features | F_CSUM | F_MAC | F_HOST_TSO4 | F_HOST_TSO6 | F_MRG_RXBUF | F_STATUS
        port.receiver = self.receive

    def device_config(self) -> bytes:
        return self.mac + struct.pack("<HHH", LINK_UP if self.link else 0, 1, 1500)

    @property
    def header_size(self) -> int:
        return 12 if self.has(F_MRG_RXBUF) or self.driver_features >> 32 & 1 else 10

    def notified(self, number: int) -> None:
        if number == TX:
            self._transmit()
        else:
            self._room()

    def stopped(self) -> None:
        self.waiting.clear()

    def set_link(self, up: bool) -> None:
        """The cable is plugged in, or pulled."""
        if up != self.link:
            self.link = up
            self.config_has_changed()

    # --- what goes -------------------------------------------------------------------------------------------------------
    def _transmit(self) -> None:
        queue = self.queues[TX]
        before = queue.used_index
        for _ in range(2 * QUEUE_SIZE):
            chain = queue.pop()
            if chain is None:
                break
            self._send(chain)
            queue.push(chain, 0)
        if queue.used_index != before:
            self.signal(queue)

    def _send(self, chain: Chain) -> None:
        size = chain.readable.size
        if not self.header_size + MIN_FRAME <= size <= MAX_FRAME or not self.link:
            return
        data = chain.readable.read()
        flags, kind, _, gso_size, _, _ = HEADER.unpack_from(data)
        frame = data[self.header_size:]
        offload = PLAIN
        if kind & ~ECN:
            gso_type = GSO_TYPES.get(kind & ~ECN)
            if gso_type is None or gso_size < MIN_GSO_SIZE or not flags & NEEDS_CSUM:
                return
            offload = Offload(blank=True, gso_size=gso_size, gso_type=gso_type)
        elif flags & NEEDS_CSUM:
            offload = Offload(blank=True)
        self.port.send(frame, offload)

    # --- what comes ------------------------------------------------------------------------------------------------------
    def receive(self, frame: bytes | memoryview) -> bool:
        """From the network, with the lock held; False: it is lost."""
        if not self.running or not self.link:
            return True
        if len(self.waiting) >= WAITING:
            return False
        self.waiting.append(bytes(frame))
        self.serve(RX)
        return True

    def _room(self) -> None:
        """What waits goes into the buffers there are."""
        queue, stored = self.queues[RX], False
        while self.waiting and self._store(self.waiting[0]):
            self.waiting.popleft()
            stored = True
        if stored:
            self.signal(queue)

    def _store(self, frame: bytes) -> bool:
        """One frame into one buffer or, with mergeable buffers, several; False when there are too few."""
        queue, header = self.queues[RX], self.header_size
        needed, room = header + len(frame), 0
        chains: list[Chain] = []
        while room < needed:
            chain = queue.pop()
            if chain is None or (chains and not self.has(F_MRG_RXBUF)):
                for _ in range(len(chains) + (chain is not None)):
                    queue.unpop()
                return bool(chains) and not self.has(F_MRG_RXBUF)       # too large for the driver's buffers: lost
            chains.append(chain)
            room += chain.writable.size
            if len(chains) > queue.size:
                return True
        data = (HEADER.pack(0, 0, 0, 0, 0, 0) + len(chains).to_bytes(2, "little"))[:header] + frame
        at = 0
        for chain in chains:
            written = chain.writable.write(data[at:at + chain.writable.size])
            queue.push(chain, written)
            at += written
        return True

    # --- life --------------------------------------------------------------------------------------------------------------
    def unplugged(self) -> None:
        super().unplugged()
        self.port.close()

    def save(self) -> dict[str, Any]:
        return super().save() | {"link": self.link, "waiting": list(self.waiting)}

    def load(self, state: dict[str, Any]) -> None:
        self.link, self.waiting = state["link"], deque(state["waiting"])
        super().load(state)
