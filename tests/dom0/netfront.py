"""A network front end in Python: what xen-netfront does in a guest, over real rings, grants and event channels."""

from collections import deque
from types import SimpleNamespace

from tests.dom0.frontend import FrontRing, Page
from xenfast.abi.io import netif
from xenfast.abi.io import ring as ring_abi
from xenfast.abi.io.xenbus import XenbusState, parse_state
from xenfast.dom0.net import Switch
from xenfast.dom0.net.frame import PLAIN, Offload
from xenfast.dom0.netback import Netback

TX = SimpleNamespace(slot_size=netif.TX_SLOT_SIZE, response=netif.TX_RESPONSE)
RX = SimpleNamespace(slot_size=netif.RX_SLOT_SIZE, response=netif.RX_RESPONSE)
ALL_FEATURES = ("request-rx-copy", "feature-rx-notify", "feature-sg", "feature-gso-tcpv4", "feature-gso-tcpv6",
                "feature-ipv6-csum-offload")  # fmt: skip


def plug(machine, guest=None, handle=0, mac="00:16:3e:00:00:01", switch=None, **nodes):
    """A device and its back end on a switch, as the toolstack makes them."""
    guest = guest or machine.guest
    if not hasattr(machine, "switch"):
        machine.switch = switch or Switch("xenbr0", machine.hypervisor)
    back = f"/local/domain/0/backend/vif/{guest.domid}/{handle}"
    front = f"/local/domain/{guest.domid}/device/vif/{handle}"
    machine.client.write_tree(back, {"frontend": front, "online": 1, "state": 1, "mac": mac, **nodes})
    machine.client.write_tree(front, {"backend": back, "state": 1, "handle": handle, "mac": mac})
    port = machine.switch.port(f"vif{guest.domid}.{handle}", mac)
    backend = Netback(machine.hypervisor, machine.store, guest, handle, port)
    backend.start()
    return backend


class Half:
    """``machine`` as FrontRing and Page want it, for one of several guests."""

    def __init__(self, machine, guest):
        self.hypervisor, self.guest = machine.hypervisor, guest


class NetQueue:
    def __init__(self, half, split, posted):
        self.half = half
        self.tx = FrontRing(half, 0, TX)
        self.rx = FrontRing(half, 0, RX) if split else FrontRing.__new__(FrontRing)
        if not split:
            self.rx.__dict__.update(FrontRing(half, 0, RX).__dict__)
            half.guest.evtchn.close(self.rx.port)
            self.rx.port = self.tx.port
        self.posted = {}
        self.order = deque()
        self.post(posted)

    def post(self, count):
        for _ in range(count):
            page = Page(self.half)
            identity = self.rx.req_prod & 0xFFFF
            self.posted[identity] = page
            self.order.append(identity)
            self.rx.put(netif.RX_REQUEST.pack(identity, page.ref))
        self.rx.push()

    def received(self):
        """All frames that have arrived: (bytes, flags, extra or None)."""
        rx, found = self.rx, []
        while rx.rsp_cons != rx.words[ring_abi.SRING_RSP_PROD]:
            data, flags, extra = b"", None, None
            while True:
                identity, offset, flag, status = netif.RX_RESPONSE.unpack(self._slot())
                assert identity == self.order.popleft() and status >= 0
                data += bytes(self.posted.pop(identity).view[offset : offset + status])
                if flags is None:
                    flags = flag
                    if flag & netif.NETRXF_extra_info:
                        extra = self._slot()
                        self.posted.pop(self.order.popleft())
                if not flag & netif.NETRXF_more_data:
                    break
            found.append((data, flags & ~netif.NETRXF_more_data, extra))
        rx.words[ring_abi.SRING_RSP_EVENT] = (rx.rsp_cons + 1) & 0xFFFFFFFF
        return found

    def _slot(self):
        offset = 64 + (self.rx.rsp_cons % self.rx.slots) * netif.RX_SLOT_SIZE
        self.rx.rsp_cons = (self.rx.rsp_cons + 1) & 0xFFFFFFFF
        return self.rx.bytes_at(offset, netif.RX_SLOT_SIZE)


class NetFront:
    """A connected interface."""

    def __init__(self, machine, backend, guest=None, queues=1, split=True, posted=64, features=ALL_FEATURES):
        self.machine, self.backend, self.client = machine, backend, machine.client
        self.guest = guest or machine.guest
        self.half = Half(machine, self.guest)
        self.path, self.back = backend.front, backend.path
        self.queues = [NetQueue(self.half, split, posted) for _ in range(queues)]
        self.queue = self.queues[0]
        self.next_id = 0
        for i, queue in enumerate(self.queues):
            where = f"{self.path}/queue-{i}" if queues > 1 else self.path
            nodes = {"tx-ring-ref": queue.tx.pages[0].ref, "rx-ring-ref": queue.rx.pages[0].ref}
            if split:
                nodes |= {"event-channel-tx": queue.tx.port, "event-channel-rx": queue.rx.port}
            else:
                nodes["event-channel"] = queue.tx.port
            self.client.write_tree(where, nodes)
        if queues > 1:
            self.client.write(f"{self.path}/multi-queue-num-queues", queues)
        self.client.write_tree(self.path, dict.fromkeys(features, 1))
        self.set_state(XenbusState.Connected)

    def set_state(self, state):
        self.client.write(f"{self.path}/state", int(state))
        self.machine.run()

    @property
    def back_state(self):
        return parse_state(self.client.read(f"{self.back}/state", ""))

    def submit(self, frame, offload: Offload = PLAIN, cuts=(), queue=None, extras=()):
        """Put a frame into the ring, in pieces that end at ``cuts`` and at page ends; the ids of its slots."""
        tx = (queue or self.queue).tx
        ends = sorted({*cuts, *range(4096, len(frame), 4096), len(frame)})
        flags = netif.NETTXF_csum_blank | netif.NETTXF_data_validated if offload.blank else 0
        extras = list(extras)
        if offload.gso_type:
            extras.append(netif.EXTRA.pack(1, 0, netif.EXTRA_GSO.pack(offload.gso_size, offload.gso_type, 0)))
        ids, begin = [], 0
        for end in ends:
            page = Page(self.half, readonly=True)
            page.view[: end - begin] = frame[begin:end]
            self.next_id = (self.next_id + 1) & 0xFFFF
            more = netif.NETTXF_more_data if end != len(frame) else 0
            first = not begin
            extra = netif.NETTXF_extra_info if first and extras else 0
            size = len(frame) if first else end - begin
            tx.put(netif.TX_REQUEST.pack(page.ref, 0, (flags if first else 0) | more | extra, self.next_id, size))
            ids.append(self.next_id)
            if first:
                for raw in extras:
                    tx.put(raw + bytes(4))
                    ids.append(None)
            begin = end
        return ids

    def raw(self, *requests):
        """Slots as they are: (gref, offset, flags, id, size), or bytes."""
        for request in requests:
            self.queue.tx.put(request if isinstance(request, bytes) else netif.TX_REQUEST.pack(*request))

    def finish(self, queue=None):
        """Let domain 0 run; (id, status) of all answers, the id of extra slots as None."""
        tx = (queue or self.queue).tx
        tx.push()
        self.machine.run()
        return [(None if status == netif.NETIF_RSP_NULL else identity, status) for identity, status in tx.responses()]

    def received(self):
        self.machine.run()
        return [frame for queue in self.queues for frame in queue.received()]
