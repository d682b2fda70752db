"""The network back end: a guest's virtual interface (io/netif.h), plugged into a switch.

A device has one or more queues (``Queue``), each with a ring for what the guest sends and one of pages that it has
posted for what it gets, and one event channel or two.  Packets are copied: from the guest's pages into one bytes
object, which is what the switch passes on, and from there into the pages of the other guest.  Packets larger than the
MTU and blank checksums stay as they are between those who know about them (dom0/net/frame.py), so that two guests
exchange 64 KiB at a time.

Front ends served: xen-netfront of Linux and those of other systems that copy (``request-rx-copy``); multicast filters
(``request-multicast-control``, at any time).  Left out: page flipping, gso-prefix, the control ring (queues are chosen
by a hash of our own), headroom for XDP.
"""

import logging
import zlib
from collections import Counter, deque
from typing import Any

from xenfast.abi.io import netif
from xenfast.abi.io.ring import PAGE_SIZE
from xenfast.dom0.net.frame import (
    BROADCAST,
    CAN_CHECKSUM_V4,
    CAN_CHECKSUM_V6,
    CAN_TCPV4,
    CAN_TCPV6,
    GSO_TCPV4,
    GSO_TCPV6,
    MIN_FRAME,
    MIN_GSO_SIZE,
    PLAIN,
    VALIDATED,
    Offload,
    find_transport,
)
from xenfast.dom0.net.switch import Port
from xenfast.dom0.netring import ReceiveRing
from xenfast.dom0.ring import BackRing, RingError
from xenfast.dom0.xenbus import MAX_WARNINGS, Backend, ProtocolError
from xenfast.errors import XenError
from xenfast.xen.gnttab_copy import copy_from, copy_to

log = logging.getLogger("xenfast")

MAX_QUEUES = 8
MAX_SLOTS = 20                  # more in one packet is an attack: what Linux calls fatal
MAX_WAITING = 1024              # packets, and
MAX_WAITING_BYTES = 4 << 20     # bytes for a queue whose guest has posted no pages
MAX_MULTICAST = 64              # addresses a guest may ask for
ROUNDS_PER_EVENT = 4
MIN_BURST = 131072              # a packet of any size must fit into the credit of one interval

FEATURES = {
    "feature-sg": 1,
    "feature-gso-tcpv4": 1,
    "feature-gso-tcpv6": 1,
    "feature-ipv6-csum-offload": 1,
    "feature-rx-copy": 1,
    "feature-rx-flip": 0,
    "feature-multicast-control": 1,
    "feature-dynamic-multicast-control": 1,
    "feature-split-event-channels": 1,
    "multi-queue-max-queues": MAX_QUEUES,
}
GSO_NAMES = {GSO_TCPV4: "tcpv4", GSO_TCPV6: "tcpv6"}


class Fatal(Exception):
    """What no driver does: the interface is closed."""


class Netback(Backend):
    """One virtual interface."""

    kind = "vif"

    def __init__(self, hypervisor: Any, store: Any, domain: Any, handle: int, port: Port) -> None:
        super().__init__(hypervisor, store, domain, handle)
        self.port = port
        self.queues: list[Queue] = []
        self.counts: Counter[str] = Counter()
        self.complained: set[str] = set()
        self.multicast: set[bytes] | None = None        # the groups the guest wants; None: everything
        self.credit = Credit(hypervisor.loop, *parse_rate(self.store.read(f"{self.path}/rate", "")))

    def start(self) -> None:
        super().start()
        self.store.watch(f"{self.front}/request-multicast-control", "multicast", self.multicast_event)

    def advertise(self) -> None:
        for name, value in FEATURES.items():
            self.store.write(f"{self.path}/{name}", value)
        self.store.write(f"{self.path}/hotplug-status", "connected")

    def multicast_event(self, path: str, token: str) -> None:
        wanted = self.store.read_int(f"{self.front}/request-multicast-control") == 1
        if wanted != (self.multicast is not None):
            self.multicast = set() if wanted else None

    def connect(self) -> None:
        flag = lambda name: self.store.read_int(f"{self.front}/{name}") == 1
        if not flag("request-rx-copy"):
            raise ProtocolError("the front end does not copy (request-rx-copy), and pages are not flipped")
        count = self.store.read_int(f"{self.front}/multi-queue-num-queues", 1)
        if not 1 <= count <= MAX_QUEUES:
            raise ProtocolError(f"multi-queue-num-queues is {count}")
        accepts = 0 if flag("feature-no-csum-offload") else CAN_CHECKSUM_V4
        accepts |= CAN_CHECKSUM_V6 if flag("feature-ipv6-csum-offload") else 0
        self.sg = flag("feature-sg")
        if self.sg:
            accepts |= (CAN_TCPV4 if flag("feature-gso-tcpv4") else 0) | (CAN_TCPV6 if flag("feature-gso-tcpv6") else 0)
        try:
            for i in range(count):
                self.queues.append(self.connect_queue(f"queue-{i}/" if count > 1 else ""))
        except BaseException:
            self.disconnect()
            raise
        self.port.accepts = accepts
        self.port.receiver = self.receive
        for queue in self.queues:
            queue.listen()

    def connect_queue(self, where: str) -> "Queue":
        """The rings and ports that the front end's nodes name."""
        rings = self.read_front(f"{where}tx-ring-ref"), self.read_front(f"{where}rx-ring-ref")
        if self.store.read(f"{self.front}/{where}event-channel-tx", ""):
            ports = [self.read_front(f"{where}event-channel-tx"), self.read_front(f"{where}event-channel-rx")]
        else:
            ports = [self.read_front(f"{where}event-channel")]
        return Queue(self, *rings, ports)

    def disconnect(self) -> None:
        self.port.receiver = None
        self.credit.stop()
        queues, self.queues = self.queues, []
        for queue in queues:
            queue.close()

    def close(self) -> None:
        super().close()
        self.port.close()

    # --- from the network --------------------------------------------------------------------------------------------
    def receive(self, frame: Any, offload: Offload = PLAIN) -> bool:
        """The switch has a frame for the guest; False when there is no room."""
        if self.multicast is not None and frame[0] & 1:
            address = bytes(frame[:6])
            if address != BROADCAST and address not in self.multicast:
                return True
        queues = self.queues
        if len(queues) == 1:
            return queues[0].receive(frame, offload)
        return queues[flow(frame) % len(queues)].receive(frame, offload) if queues else False

    def complain(self, text: str) -> None:
        """Log a thing once for each device, and not too many: texts hold numbers of the guest's."""
        self.counts["errors"] += 1
        if text not in self.complained and len(self.complained) < MAX_WARNINGS:
            self.complained.add(text)
            log.warning("%s: %s", self.name, text)

    def stats(self) -> dict[str, int]:
        """Frames and bytes from the guest (``tx``) and to it (``rx``), frames lost, packets that were refused."""
        return {name: self.counts[name] for name in COUNTERS}


COUNTERS = ("tx_frames", "tx_bytes", "rx_frames", "rx_bytes", "rx_dropped", "errors")


class Queue:
    """The two rings of a queue and its event channels."""

    def __init__(self, vif: Netback, tx_ref: int, rx_ref: int, ports: list[int]) -> None:
        self.vif, self.counts = vif, vif.counts
        self.gnttab = vif.domain.gnttab
        self.evtchn = vif.hypervisor.domain(0).evtchn
        self.loop = vif.hypervisor.loop
        self.pages: list[Any] = []
        self.ports: list[int] = []
        self.waiting: deque[tuple[Any, Offload, int]] = deque()     # frame, offload, slots
        self.waiting_bytes = 0
        self.open = True
        try:
            for ref in (tx_ref, rx_ref):
                self.pages.append(self.gnttab.map(ref, False))
            self.tx = BackRing([self.pages[0].view], netif.TX_SLOT_SIZE, netif.TX_RESPONSE)
            self.rx = ReceiveRing([self.pages[1].view], netif.RX_SLOT_SIZE, netif.RX_RESPONSE)
            self.tx.pending()
            self.rx.pending()
            for port in ports:
                self.ports.append(self.evtchn.bind_interdomain(vif.domid, port))
        except RingError as error:
            self.close()
            raise ProtocolError(str(error)) from None
        except XenError:
            self.close()
            raise

    def listen(self) -> None:
        if len(self.ports) == 2:
            self.evtchn.on_event(self.ports[0], self.on_tx)
            self.evtchn.on_event(self.ports[1], self.on_rx)
        else:
            self.evtchn.on_event(self.ports[0], self.on_event)

    def close(self) -> None:
        """Unmap everything; harmless a second time."""
        self.open = False
        for port in self.ports:
            try:
                self.evtchn.close(port)
            except XenError as error:
                log.debug("%s: event channel: %s", self.vif.name, error)
        self.ports = []
        self.waiting.clear()
        pages, self.pages = self.pages, []
        for page in pages:
            page.unmap()

    def on_event(self, port: int = 0) -> None:
        self.on_rx()
        self.on_tx()

    # --- what the guest sends ----------------------------------------------------------------------------------------
    def on_tx(self, port: int = 0) -> None:
        """Serve the ring until it is empty, or come back later if the guest keeps filling it or has used up its rate."""
        ring, served = self.tx, 0
        try:
            while self.open:
                waiting = ring.pending()
                if not waiting:
                    if ring.rest():
                        return
                    continue
                if served >= ROUNDS_PER_EVENT * ring.slots:
                    self.loop.call_soon(self.on_tx)
                    return
                if self.vif.credit.used_up(self.on_tx):
                    return
                served += self.transmit(ring, waiting)
                if self.open and ring.push():
                    self.evtchn.send(self.ports[0])
        except (RingError, Fatal) as error:
            if self.open:
                self.vif.fatal(str(error))

    def transmit(self, ring: BackRing, waiting: int) -> int:
        """Take packets as long as there are whole ones and credit; the number of slots used."""
        taken = 0
        while taken < waiting and self.open and not self.vif.credit.exhausted:
            requests, extras, slots = self.take_packet(ring, waiting - taken)
            taken += slots
            status = self.packet(requests, extras)
            if not self.open:
                break
            ring.respond(requests[0][3], status)
            for _ in extras:
                ring.respond(0, netif.NETIF_RSP_NULL)
            for request in requests[1:]:
                ring.respond(request[3], status)
        return taken

    def take_packet(self, ring: BackRing, waiting: int) -> tuple[list[tuple[int, ...]], list[bytes], int]:
        """The slots of the next packet: its requests (gref, offset, flags, id, size) and its extra slots."""
        request = netif.TX_REQUEST.unpack(ring.take())
        if not request[2] & (netif.NETTXF_more_data | netif.NETTXF_extra_info):
            return [request], [], 1
        requests, extras, slots = [request], [], 1
        more = bool(request[2] & netif.NETTXF_extra_info)
        while more:
            if slots >= waiting or slots >= MAX_SLOTS:
                raise Fatal("an extra slot is missing")
            extra = ring.take()[:8]
            slots += 1
            extras.append(extra)
            if not 0 < extra[0] < netif.XEN_NETIF_EXTRA_TYPE_MAX:
                raise Fatal(f"an extra slot of type {extra[0]}")
            more = bool(extra[1] & netif.XEN_NETIF_EXTRA_FLAG_MORE)
        while request[2] & netif.NETTXF_more_data:
            if slots >= waiting or len(requests) >= MAX_SLOTS:
                raise Fatal(f"a packet of more than {len(requests)} slots")
            request = netif.TX_REQUEST.unpack(ring.take())
            slots += 1
            requests.append(request)
        return requests, extras, slots

    def packet(self, requests: list[tuple[int, ...]], extras: list[bytes]) -> int:
        """Copy a packet out of the guest and give it to the switch; the status of its answers."""
        first = requests[0]
        flags, size = first[2], first[4]
        offload = VALIDATED if flags & netif.NETTXF_data_validated else PLAIN
        if flags & netif.NETTXF_csum_blank:
            offload = BLANK
        for extra in extras:
            kind = extra[0]
            if kind == netif.XEN_NETIF_EXTRA_TYPE_GSO:
                offload = gso(extra)
            elif kind in (netif.XEN_NETIF_EXTRA_TYPE_MCAST_ADD, netif.XEN_NETIF_EXTRA_TYPE_MCAST_DEL):
                return self.change_multicast(kind, extra[2:8])
        self.vif.credit.spend(size)
        if size < MIN_FRAME or len(requests) > netif.XEN_NETIF_NR_SLOTS_MIN:
            self.vif.complain(f"a packet of {size} bytes in {len(requests)} slots")
            return netif.NETIF_RSP_ERROR
        rest = 0
        for request in requests[1:]:
            rest += request[4]
            if request[1] + request[4] > PAGE_SIZE:
                raise Fatal(f"a fragment leaves its page: offset {request[1]}, size {request[4]}")
        own = size - rest
        if own < 0:
            self.vif.complain(f"a packet of {size} bytes with {rest} in its fragments")
            return netif.NETIF_RSP_ERROR
        if first[1] + own > PAGE_SIZE:
            raise Fatal(f"a packet leaves its page: offset {first[1]}, size {own}")
        try:
            if len(requests) == 1:
                frame = copy_from(self.gnttab, first[0], first[1], own)
            else:
                parts = [copy_from(self.gnttab, first[0], first[1], own)]
                parts += [copy_from(self.gnttab, request[0], request[1], request[4]) for request in requests[1:]]
                frame = b"".join(parts)
        except XenError as error:
            self.vif.complain(f"a packet fails: {error}")
            return netif.NETIF_RSP_ERROR
        counts = self.counts
        counts["tx_frames"] += 1
        counts["tx_bytes"] += size
        self.vif.port.send(frame, offload)
        return netif.NETIF_RSP_OKAY

    def change_multicast(self, kind: int, address: bytes) -> int:
        """The guest asks for a group, or does so no longer."""
        groups = self.vif.multicast
        if groups is None:
            return netif.NETIF_RSP_ERROR
        if kind == netif.XEN_NETIF_EXTRA_TYPE_MCAST_DEL:
            groups.discard(address)
        elif len(groups) >= MAX_MULTICAST:
            return netif.NETIF_RSP_ERROR
        else:
            groups.add(address)
        return netif.NETIF_RSP_OKAY

    # --- what the guest gets -----------------------------------------------------------------------------------------
    def receive(self, frame: Any, offload: Offload) -> bool:
        """Put a frame into the guest's pages, or keep it until there are some; False: dropped."""
        slots = (len(frame) + PAGE_SIZE - 1) // PAGE_SIZE
        if slots > 1 and not self.vif.sg:
            self.counts["rx_dropped"] += 1
            return False
        if offload.gso_type:
            slots += 1
        try:
            if not self.waiting and self.rx.available(slots):
                self.fill(frame, offload)
                self.notify()
                return True
            if len(self.waiting) >= MAX_WAITING or self.waiting_bytes + len(frame) > MAX_WAITING_BYTES:
                self.counts["rx_dropped"] += 1
                return False
            self.waiting.append((bytes(frame), offload, slots))
            self.waiting_bytes += len(frame)
            if len(self.waiting) == 1:
                self.on_rx()
        except RingError as error:
            self.vif.fatal(str(error))
            return False
        return True

    def on_rx(self, port: int = 0) -> None:
        """The guest has posted pages: bring what waits for them."""
        waiting = self.waiting
        try:
            while waiting and self.open:
                frame, offload, slots = waiting[0]
                if not self.rx.available(slots):
                    if self.rx.rest_until(slots):
                        break
                    continue
                waiting.popleft()
                self.waiting_bytes -= len(frame)
                self.fill(frame, offload)
            if self.open:
                self.notify()
        except RingError as error:
            self.vif.fatal(str(error))

    def notify(self) -> None:
        if self.rx.push():
            self.evtchn.send(self.ports[-1])

    def fill(self, frame: Any, offload: Offload) -> None:
        """A frame into posted pages; there are enough."""
        ring, length = self.rx, len(frame)
        flags = FLAGS[offload.blank, offload.validated]
        view = memoryview(frame)
        answers = []
        failed = False
        for at in range(0, length, PAGE_SIZE):
            identity, ref = netif.RX_REQUEST.unpack(ring.take())
            size = min(PAGE_SIZE, length - at)
            try:
                copy_to(self.gnttab, ref, view[at : at + size])
            except XenError as error:
                self.vif.complain(f"a page for packets fails: {error}")
                failed = True
            answers.append((identity, size))
            if not at and offload.gso_type:
                ring.take()
        self.counts["rx_frames"] += 1
        self.counts["rx_bytes"] += length
        last = len(answers) - 1
        for i, (identity, size) in enumerate(answers):
            more = netif.NETRXF_more_data if i < last else 0
            status = netif.NETIF_RSP_ERROR if failed else size
            if i:
                ring.respond(identity, 0, more, status)
                continue
            extra = netif.NETRXF_extra_info if offload.gso_type else 0
            ring.respond(identity, 0, flags | more | extra, status)
            if extra:
                ring.put(netif.EXTRA.pack(1, 0, netif.EXTRA_GSO.pack(offload.gso_size, offload.gso_type, 0)))


BLANK = Offload(blank=True)
FLAGS = {
    (False, False): 0,
    (False, True): netif.NETRXF_data_validated,
    (True, False): netif.NETRXF_csum_blank | netif.NETRXF_data_validated,
    (True, True): netif.NETRXF_csum_blank | netif.NETRXF_data_validated,
}


def gso(extra: bytes) -> Offload:
    """The extra slot of a packet to be cut."""
    size, kind, _ = netif.EXTRA_GSO.unpack_from(extra, 2)
    if kind not in GSO_NAMES or size < MIN_GSO_SIZE:
        raise Fatal(f"a packet to be cut as type {kind} into pieces of {size} bytes")
    return Offload(True, size, kind)


def flow(frame: Any) -> int:
    """A number that packets of one TCP or UDP connection share."""
    found = find_transport(frame)
    if found is None:
        return 0
    addresses = 12 if found.version == 4 else 8
    ends = frame[found.network + addresses : found.network + 20 if found.version == 4 else found.network + 40]
    return zlib.crc32(bytes(ends) + bytes(frame[found.start : found.start + 4]))


# --- how much a guest may send ---------------------------------------------------------------------------------------
def parse_rate(text: str) -> tuple[int, int]:
    """The node ``rate``: bytes, and the interval in microseconds; (0, 0) for no limit, as Linux takes nonsense."""
    try:
        size, interval = (int(part) for part in text.split(","))
    except ValueError:
        return 0, 0
    return (size, interval) if size > 0 and interval > 0 else (0, 0)


class Credit:
    """The limit of what a guest may send in an interval (``rate=`` of a vif)."""

    def __init__(self, loop: Any, size: int, interval: int) -> None:
        self.loop, self.size, self.interval = loop, size, interval * 1000
        self.left = size
        self.begun = loop.clock.now()
        self.timer: Any = None
        self.sleepers: list[Any] = []

    @property
    def exhausted(self) -> bool:
        return self.size > 0 and self.left <= 0

    def spend(self, size: int) -> None:
        if self.size:
            self.left -= size

    def used_up(self, again: Any) -> bool:
        """Is nothing left?  Then ``again`` is called in the next interval."""
        if not self.size:
            return False
        now = self.loop.clock.now()
        intervals = (now - self.begun) // self.interval
        if intervals > 0:
            self.begun += intervals * self.interval
            self.left = min(self.left + intervals * self.size, max(self.size, MIN_BURST))
        if self.left > 0:
            return False
        if again not in self.sleepers:
            self.sleepers.append(again)
        if self.timer is None:
            self.timer = self.loop.call_at(self.begun + self.interval, self._wake)
        return True

    def _wake(self) -> None:
        self.timer = None
        sleepers, self.sleepers = self.sleepers, []
        for again in sleepers:
            again()

    def stop(self) -> None:
        self.sleepers.clear()
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


