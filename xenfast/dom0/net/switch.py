"""A switch that learns (IEEE 802.1D clause 7): domain 0's bridge, such as ``xenbr0``.

Frames go to the port where their destination was last seen, to all others if it is unknown or a group; never back to
the port they came from.  Addresses age; a port may teach only so many, so that no guest can fill the table, and an
address a port was made with belongs to it for good.  Frames to the reserved group addresses (01-80-C2-00-00-0x) end
here, as in every bridge; there is no spanning tree, so do not join two switches twice.

A switch belongs to domain 0's event loop, one call at a time.  Devices of HVM guests run elsewhere, with the
hypervisor's lock held: they have a ``DevicePort``, which queues.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from xenfast.dom0.net.frame import MAX_FRAME, MIN_FRAME, PLAIN, Offload, acceptable, finish, parse_mac
from xenfast.dom0.net.pcap import Pcap

log = logging.getLogger("xenfast")

AGEING_NS = 300 * 1_000_000_000
MAX_ADDRESSES = 256         # learnt from one port
MAX_STORM = 4096            # frames that one frame may lead to before others have their turn
MAX_QUEUE = 1024            # frames, and
MAX_QUEUE_BYTES = 4 << 20   # bytes, that wait between a device and the switch, each way
RESERVED_GROUP = b"\x01\x80\xc2\x00\x00"

# receiver(frame), or, where ``accepts`` is not 0, receiver(frame, offload); False: no room, the frame is lost
Receiver = Callable[..., Any]


class Statistics:
    """Counters of a port, seen by who holds it: ``sent`` is to the network."""

    __slots__ = ("dropped", "invalid", "received", "received_bytes", "sent", "sent_bytes")

    def __init__(self) -> None:
        self.sent = self.sent_bytes = self.received = self.received_bytes = self.dropped = self.invalid = 0

    def as_dict(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in self.__slots__}


class Port:
    """A socket of the switch, for parts of domain 0."""

    def __init__(self, switch: "Switch", name: str, mac: str | bytes | None = None) -> None:
        self.switch, self.name = switch, name
        self.mac = parse_mac(mac) if isinstance(mac, str) else mac
        self.receiver: Receiver | None = None
        self.accepts = 0                        # what the receiver takes unfinished: CAN_* of frame.py
        self.stats = Statistics()
        self.capture: Pcap | None = None
        self.learnt: dict[bytes, int] = {}      # address -> when it was seen, oldest first
        self.open = True

    def send(self, frame: bytes | bytearray | memoryview, offload: Offload = PLAIN) -> bool:
        """Give a frame to the network; False if it was lost because whom it is for has no room."""
        return self.open and self.switch.forward(self, frame, offload)

    def deliver(self, frame: Any, offload: Offload) -> bool:
        """The switch has a frame for the holder of this port."""
        if self.receiver is None:
            return True
        if self.capture is not None:
            self.capture.write(frame)
        stats = self.stats
        if self.accepts:
            if acceptable(offload, self.accepts, frame):
                return self._hand_over(self.receiver(frame, offload), len(frame))
            done = [self._hand_over(self.receiver(part, PLAIN), len(part)) for part in finish(frame, offload)]
        elif offload is PLAIN:
            return self._hand_over(self.receiver(frame), len(frame))
        else:
            done = [self._hand_over(self.receiver(part), len(part)) for part in finish(frame, offload)]
        if not done:
            stats.invalid += 1
        return all(done)

    def _hand_over(self, result: Any, size: int) -> bool:
        if result is False:
            self.stats.dropped += 1
            return False
        self.stats.received += 1
        self.stats.received_bytes += size
        return True

    def close(self) -> None:
        """Pull the plug; harmless a second time."""
        if self.open:
            self.open = False
            self.receiver = None
            self.switch.remove(self)


class DevicePort(Port):
    """A socket for a device that holds the hypervisor's lock: what it sends, and what it gets, goes through a queue.

    ``receiver`` is called with the lock held, from domain 0's event loop.
    """

    def __init__(self, switch: "Switch", name: str, mac: str | bytes | None = None) -> None:
        super().__init__(switch, name, mac)
        self.queue: deque[tuple[bytes, Offload]] = deque()
        self.queued = 0
        self.scheduled = False

    def send(self, frame: bytes | bytearray | memoryview, offload: Offload = PLAIN) -> bool:
        hypervisor = self.switch.hypervisor
        if hypervisor is None:
            return super().send(frame, offload)
        if not self.open or len(self.queue) >= MAX_QUEUE or self.queued >= MAX_QUEUE_BYTES:
            self.stats.dropped += 1
            return False
        self.queue.append((bytes(frame), offload))
        self.queued += len(frame)
        if not self.scheduled:
            self.scheduled = True
            hypervisor.loop.call_soon(self._drain)
        return True

    def _drain(self) -> None:
        """In domain 0's loop, without the lock."""
        self.scheduled = False
        for _ in range(len(self.queue)):
            frame, offload = self.queue.popleft()
            self.queued = max(0, self.queued - len(frame)) if self.queue else 0
            super().send(frame, offload)

    def close(self) -> None:
        """From anywhere: the switch hears of it in its turn."""
        self.receiver = None
        if self.switch.hypervisor is None:
            super().close()
        else:
            self.switch.hypervisor.loop.call_soon(super().close)

    def deliver(self, frame: Any, offload: Offload) -> bool:
        if self.switch.hypervisor is None:
            return super().deliver(frame, offload)
        with self.switch.hypervisor.lock:
            return super().deliver(frame, offload)


class Switch:
    def __init__(self, name: str = "xenbr0", hypervisor: Any = None, now: Callable[[], int] | None = None) -> None:
        """Without a hypervisor everything happens at once, on the caller's thread."""
        self.name, self.hypervisor = name, hypervisor
        self.now = now if now is not None else hypervisor.clock.now if hypervisor is not None else time.monotonic_ns
        self.ports: list[Port] = []
        self.table: dict[bytes, Port] = {}      # address -> where it was seen last
        self.capture: Pcap | None = None
        self.queue: deque[tuple[Port, Any, Offload]] = deque()
        self.busy = False
        self.lost = 0                           # frames of storms

    def port(self, name: str, mac: str | bytes | None = None) -> Port:
        """A new socket for a part of domain 0; ``mac`` is the address that is its own for good."""
        return self._add(Port(self, name, mac))

    def device_port(self, name: str, mac: str | bytes | None = None) -> DevicePort:
        """A new socket for a device of an HVM guest."""
        port = DevicePort(self, name, mac)
        self._add(port)
        return port

    def _add(self, port: Port) -> Port:
        self.ports.append(port)
        if port.mac is not None and not isinstance(self.table.get(port.mac), DevicePort):
            self.table[port.mac] = port         # an emulated card has it until it is unplugged
        return port

    def remove(self, port: Port) -> None:
        if port in self.ports:
            self.ports.remove(port)
        self.table = {mac: where for mac, where in self.table.items() if where is not port}
        for other in self.ports:
            if other.mac is not None:
                self.table.setdefault(other.mac, other)
        for other in self.ports:                # the PV device of the same address, now that the emulated one is gone
            if other.mac is not None:
                self.table.setdefault(other.mac, other)

    def close(self) -> None:
        for port in list(self.ports):
            port.close()
        if self.capture is not None:
            self.capture.close()

    # --- frames ------------------------------------------------------------------------------------------------------
    def forward(self, source: Port, frame: Any, offload: Offload) -> bool:
        """Bring a frame from a port to where it belongs."""
        stats = source.stats
        if not MIN_FRAME <= len(frame) <= MAX_FRAME or frame[6] & 1:
            stats.invalid += 1
            return True
        stats.sent += 1
        stats.sent_bytes += len(frame)
        if source.capture is not None:
            source.capture.write(frame)
        if self.capture is not None:
            self.capture.write(frame)
        if self.busy:                           # a receiver has answered at once: after what is under way
            if len(self.queue) >= MAX_STORM:
                self.lost += 1
                return False
            self.queue.append((source, bytes(frame), offload))
            return True
        self.busy = True
        try:
            taken = self._pass(source, frame, offload)
            left = MAX_STORM
            while self.queue and left:
                left -= 1
                self._pass(*self.queue.popleft())
            self.lost += len(self.queue)
            self.queue.clear()
            return taken
        finally:
            self.busy = False

    def _pass(self, source: Port, frame: Any, offload: Offload) -> bool:
        if not source.open:
            return True
        destination = bytes(frame[:6])
        self._learn(source, bytes(frame[6:12]))
        if not destination[0] & 1:
            port = self._find(destination)
            if port is not None:
                return port is source or port.deliver(frame, offload)
        elif destination[:5] == RESERVED_GROUP and destination[5] < 16:
            return True
        taken = True
        for port in tuple(self.ports):
            if port is not source and port.open:
                taken &= port.deliver(frame, offload)
        return taken

    # --- addresses ---------------------------------------------------------------------------------------------------
    def _learn(self, port: Port, mac: bytes) -> None:
        if mac == port.mac:
            if self.table.get(mac) is not port:
                self.table[mac] = port          # an emulated card and the PV device beside it share an address
            return
        known = self.table.get(mac)
        if known is not None and known is not port:
            if known.mac == mac:
                return                          # it belongs to another port for good
            known.learnt.pop(mac, None)
        learnt = port.learnt
        learnt.pop(mac, None)
        if len(learnt) >= MAX_ADDRESSES:
            self._forget(port, next(iter(learnt)))
        learnt[mac] = self.now()
        self.table[mac] = port

    def _find(self, mac: bytes) -> Port | None:
        port = self.table.get(mac)
        if port is None or mac == port.mac:
            return port
        if self.now() - port.learnt[mac] > AGEING_NS:
            self._forget(port, mac)
            return None
        return port

    def _forget(self, port: Port, mac: bytes) -> None:
        del port.learnt[mac]
        if self.table.get(mac) is port:
            del self.table[mac]

    def addresses(self) -> dict[bytes, str]:
        """Which address is at which port, as far as is known and not too old."""
        return {mac: port.name for mac in list(self.table) if (port := self._find(mac)) is not None}
