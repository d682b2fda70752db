"""A block front end in Python: what xen-blkfront does in a guest, over real shared pages, grants and event channels.

``Machine`` is a hypervisor with a store and one guest whose kernel is Python; ``BlkFront`` is a device of that guest.
"""

import struct

from xenfast.abi.io import blkif
from xenfast.abi.io import ring as ring_abi
from xenfast.abi.io.blkif import ABI_X86_64
from xenfast.abi.io.xenbus import XenbusState, parse_state
from xenfast.dom0.blkback import Blkback
from xenfast.dom0.block import open_image
from xenfast.xen.hypervisor import Hypervisor
from xenfast.xenstore.xenstored import XenStored

MASK32 = 0xFFFFFFFF
NUMBER = 51712  # xvda


class Machine:
    """A host with one guest; ``disk`` makes an image file a device of it, as the toolstack does."""

    def __init__(self, mebibytes: int = 8) -> None:
        self.hypervisor = Hypervisor(mebibytes)
        self.store = XenStored(self.hypervisor)
        self.client = self.store.client("tests")
        self.guest = self.hypervisor.create_domain("guest", vcpus=0)

    def run(self) -> None:
        self.hypervisor.loop.run_ready()
        assert not self.hypervisor.loop.failures

    def disk(self, path, readonly: bool = False, number: int = NUMBER, **nodes) -> Blkback:
        back = f"/local/domain/0/backend/vbd/{self.guest.domid}/{number}"
        front = f"/local/domain/{self.guest.domid}/device/vbd/{number}"
        self.client.write_tree(back, {"frontend": front, "online": 1, "state": 1, **nodes})
        self.client.write_tree(front, {"backend": back, "state": 1, "virtual-device": number})
        backend = Blkback(
            self.hypervisor, self.store, self.guest, number, open_image(str(path), "raw", readonly)
        )
        backend.start()
        return backend

    def close(self) -> None:
        self.hypervisor.close()


class Page:
    """A page of the guest and its grant."""

    def __init__(self, machine: Machine, readonly: bool = False) -> None:
        self.mfn = int(machine.guest.alloc_pages(1)[0])
        self.view = machine.hypervisor.memory.view(self.mfn)
        self.ref = machine.guest.gnttab.grant(self.mfn, 0, readonly)


class FrontRing:
    """The front end's side of one ring of ``pages``."""

    def __init__(self, machine: Machine, order: int, abi: blkif.Abi, start: int = 0) -> None:
        self.machine, self.abi = machine, abi
        self.pages = [Page(machine) for _ in range(1 << order)]
        self.words = self.pages[0].view[:16].cast("I")
        self.slots = ring_abi.ring_slots(4096 << order, abi.slot_size)
        self.req_prod = self.rsp_cons = start
        self.words[ring_abi.SRING_REQ_PROD] = self.words[ring_abi.SRING_RSP_PROD] = start
        self.words[ring_abi.SRING_REQ_EVENT] = self.words[ring_abi.SRING_RSP_EVENT] = (start + 1) & MASK32
        self.events = 0
        self.sent = 0
        self.evtchn = machine.guest.evtchn
        self.port = self.evtchn.alloc_unbound(0)
        self.evtchn.on_event(self.port, self.on_event)

    def on_event(self, port: int) -> None:
        self.events += 1

    def bytes_at(self, offset: int, size: int) -> bytes:
        return bytes(self.pages[i >> 12].view[i & 4095] for i in range(offset, offset + size))

    def put(self, raw: bytes) -> None:
        """Fill the next slot; push() shows it."""
        offset = 64 + (self.req_prod % self.slots) * self.abi.slot_size
        for i, byte in enumerate(raw, offset):
            self.pages[i >> 12].view[i & 4095] = byte
        self.req_prod = (self.req_prod + 1) & MASK32

    def push(self) -> None:
        old = self.words[ring_abi.SRING_REQ_PROD]
        self.words[ring_abi.SRING_REQ_PROD] = self.req_prod
        if (self.req_prod - self.words[ring_abi.SRING_REQ_EVENT]) & MASK32 < (self.req_prod - old) & MASK32:
            self.sent += 1
            self.evtchn.send(self.port)

    def responses(self) -> list[tuple[int, int, int]]:
        """(id, operation, status) of all that have arrived."""
        found = []
        while self.rsp_cons != self.words[ring_abi.SRING_RSP_PROD]:
            offset = 64 + (self.rsp_cons % self.slots) * self.abi.slot_size
            found.append(self.abi.response.unpack(self.bytes_at(offset, self.abi.response.size)))
            self.rsp_cons = (self.rsp_cons + 1) & MASK32
        self.words[ring_abi.SRING_RSP_EVENT] = (self.rsp_cons + 1) & MASK32
        return found


class BlkFront:
    """A connected device: ``submit`` fills the ring, ``finish`` lets domain 0 run and gives the statuses by id."""

    def __init__(self, machine, backend, abi=ABI_X86_64, order=None, queues=1, persistent=False, start=0, connect=True):
        self.machine, self.backend, self.abi = machine, backend, abi
        self.path, self.back, self.client = backend.front, backend.path, machine.client
        self.rings = [FrontRing(machine, order or 0, abi, start) for _ in range(queues)]
        self.ring = self.rings[0]
        self.next_id = 0
        self.expected: dict[int, int] = {}  # id -> operation of the response: xen-blkfront disables a disk that errs
        for i, ring in enumerate(self.rings):
            where = f"{self.path}/queue-{i}" if queues > 1 else self.path
            if order is None:
                self.client.write(f"{where}/ring-ref", ring.pages[0].ref)
            else:
                for j, page in enumerate(ring.pages):
                    self.client.write(f"{where}/ring-ref{j}", page.ref)
            self.client.write(f"{where}/event-channel", ring.port)
        if order is not None:
            self.client.write(f"{self.path}/ring-page-order", order)
        if queues > 1:
            self.client.write(f"{self.path}/multi-queue-num-queues", queues)
        self.client.write(f"{self.path}/protocol", abi.name)
        self.client.write(f"{self.path}/feature-persistent", int(persistent))
        if connect:
            self.set_state(XenbusState.Initialised)
            if self.back_state == XenbusState.Connected:
                self.set_state(XenbusState.Connected)

    def set_state(self, state: int) -> None:
        self.client.write(f"{self.path}/state", int(state))
        self.machine.run()

    @property
    def back_state(self) -> XenbusState:
        return parse_state(self.client.read(f"{self.back}/state", ""))

    def page(self, readonly: bool = False) -> Page:
        return Page(self.machine, readonly)

    def new_id(self, operation: int) -> int:
        self.next_id += 1
        identity = self.next_id << 40 | self.next_id  # all 64 bits come back
        self.expected[identity] = operation
        return identity

    def submit(self, operation, sector, segments=(), ring=None) -> int:
        """A plain request; segments are (page or reference, first_sect, last_sect)."""
        identity = self.new_id(operation)
        raw = bytearray(self.abi.slot_size)
        self.abi.request.pack_into(raw, 0, operation, len(segments), 0, identity, sector)
        for i, (page, first, last) in enumerate(segments[:11]):
            blkif.SEGMENT.pack_into(raw, self.abi.segments + 8 * i, getattr(page, "ref", page), first, last)
        (ring or self.ring).put(bytes(raw))
        return identity

    def submit_indirect(self, operation, sector, segments, count=None) -> int:
        identity, lists = self.new_id(operation), []
        for i in range(0, len(segments), 512):
            page = self.page(readonly=True)
            for j, (data, first, last) in enumerate(segments[i : i + 512]):
                struct.pack_into("<IBBxx", page.view, 8 * j, data.ref, first, last)
            lists.append(page.ref)
        lists += [0] * (8 - len(lists))
        count = len(segments) if count is None else count
        self.ring.put(self.abi.indirect.pack(6, operation, count, identity, sector, 0, *lists))
        return identity

    def submit_discard(self, sector, count, flag=0) -> int:
        identity = self.new_id(blkif.BLKIF_OP_DISCARD)
        self.ring.put(self.abi.discard.pack(5, flag, identity, sector, count))
        return identity

    def finish(self) -> dict[int, int]:
        for ring in self.rings:
            ring.push()
        self.machine.run()
        found = [response for ring in self.rings for response in ring.responses()]
        assert all(self.expected.pop(identity) == operation for identity, operation, _ in found)
        return {identity: status for identity, _, status in found}

    def do(self, operation, sector, segments=()) -> int:
        """One plain request, to its status."""
        identity = self.submit(operation, sector, segments)
        (status,) = [status for each, status in self.finish().items() if each == identity]
        return status

    def close(self) -> None:
        """What the driver does at shutdown and module removal."""
        self.set_state(XenbusState.Closing)
        assert self.back_state == XenbusState.Closing
        self.set_state(XenbusState.Closed)
