"""The block back end: serves the requests of a virtual block device (io/blkif.h) from an image.

A device has one or more queues, each a ring with an event channel (``Queue``); a request's segments name granted
pages, and go between those pages and the image in one vectored call.  Requests are finished in order, before the next
one is begun: so FLUSH and barriers cover everything before them, and a flush is answered only when the image's
``flush`` has returned.  Where the host's disk is slow to say so, a thread waits for it: the queue stands still, and the
rest of domain 0 does not.

Front ends served: xen-blkfront of Linux (blk-mq, persistent grants, indirect segments), mini-os, and whatever keeps
to blkif.h with the x86-64 or the x86-32 layout.  The disk may grow, and a drive get another medium, while the guest uses
it.  Left out: the packet command.
"""

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from xenfast.abi.io import blkif
from xenfast.abi.io.blkif import (
    BLKIF_OP_DISCARD,
    BLKIF_OP_FLUSH_DISKCACHE,
    BLKIF_OP_INDIRECT,
    BLKIF_OP_READ,
    BLKIF_OP_WRITE,
    BLKIF_OP_WRITE_BARRIER,
    BLKIF_RSP_EOPNOTSUPP,
    BLKIF_RSP_ERROR,
    BLKIF_RSP_OKAY,
    SECTOR_SIZE,
)
from xenfast.dom0.block.raw import RawImage, Unsupported
from xenfast.dom0.grants import Grants
from xenfast.dom0.ring import BackRing, RingError
from xenfast.dom0.xenbus import MAX_WARNINGS, Backend, ProtocolError
from xenfast.errors import XenError

log = logging.getLogger("xenfast")

# What Linux's own back end offers: 256 segments are 1 MiB a request and need one indirect page.  (Its front end uses
# 32 of them.)
MAX_INDIRECT_SEGMENTS = 256
MAX_RING_PAGE_ORDER = 4
MAX_QUEUES = 4
SLOW_FLUSH = 0.002  # seconds: waking two threads of the host takes less than that
ROUNDS_PER_EVENT = 4  # rings' worth of requests served before others in domain 0 have their turn

FEATURES = {
    "feature-flush-cache": 1,
    "feature-barrier": 1,
    "feature-persistent": 1,
    "feature-max-indirect-segments": MAX_INDIRECT_SEGMENTS,
    "max-ring-page-order": MAX_RING_PAGE_ORDER,
    "multi-queue-max-queues": MAX_QUEUES,
}
# A hole needs a whole block of the host's file system; smaller discards are harmless.
DISCARD_FEATURES = {"feature-discard": 1, "discard-granularity": 4096, "discard-alignment": 0}


class BadRequest(Exception):
    """A request that breaks the protocol: answered with BLKIF_RSP_ERROR."""


class Blkback(Backend):
    """One virtual block device."""

    kind = "vbd"

    def __init__(self, hypervisor: Any, store: Any, domain: Any, handle: int, image: Any) -> None:
        super().__init__(hypervisor, store, domain, handle)
        self.image = image
        self.discard = self.secure = self.slow_disk = False
        self.queues: list[Queue] = []
        self.persistent = False
        self.counts: Counter[str] = Counter()
        self.complained: set[str] = set()

    def advertise(self) -> None:
        self.discard = self.store.read_int(f"{self.path}/discard-enable", 1) == 1 and not self.image.readonly
        self.secure = self.discard and hasattr(self.image, "wipe")
        discards = DISCARD_FEATURES | {"discard-secure": int(self.secure)} if self.discard else {}
        for name, value in (FEATURES | discards).items():
            self.store.write(f"{self.path}/{name}", value)

    def connect(self) -> None:
        protocol = self.store.read(f"{self.front}/protocol", blkif.ABI_X86_64.name)
        abi = blkif.ABIS.get(protocol)
        if abi is None:
            raise ProtocolError(f"protocol is {protocol[:20]!r}")
        # both ends must have said so: Linux's front end writes its node before it looks at ours
        self.persistent = all(self.store.read_int(f"{path}/feature-persistent") == 1 for path in (self.path, self.front))
        count = self.store.read_int(f"{self.front}/multi-queue-num-queues", 1)
        if not 1 <= count <= MAX_QUEUES:
            raise ProtocolError(f"multi-queue-num-queues is {count}")
        try:
            for i in range(count):
                self.queues.append(self.connect_queue(f"queue-{i}/" if count > 1 else "", abi))
        except BaseException:
            self.disconnect()
            raise
        self.write_properties()
        for queue in self.queues:
            queue.listen()

    def connect_queue(self, where: str, abi: blkif.Abi) -> "Queue":
        """The ring and the port that the front end's nodes name."""
        order = self.store.read(f"{self.front}/ring-page-order", "")
        if not order:
            refs = [self.read_front(f"{where}ring-ref")]
        else:
            pages = 1 << min(self.read_front("ring-page-order"), 31)
            if pages > 1 << MAX_RING_PAGE_ORDER:
                raise ProtocolError(f"ring-page-order is {order[:20]!r}")
            refs = [self.read_front(f"{where}ring-ref{i}") for i in range(pages)]
        return Queue(self, abi, refs, self.read_front(f"{where}event-channel"))

    def write_properties(self) -> None:
        """What the front end reads once the state is Connected."""
        image = self.image
        info = blkif.VDISK_READONLY if image.readonly else 0
        if self.store.read(f"{self.path}/device-type", "") == "cdrom":
            info |= blkif.VDISK_CDROM
        if self.store.read_int(f"{self.path}/removable") == 1:
            info |= blkif.VDISK_REMOVABLE
        properties = {"sectors": image.size_sectors, "info": info, "sector-size": 512, "physical-sector-size": 512}
        for name, value in properties.items():
            self.store.write(f"{self.path}/{name}", value)

    def change_image(self, image: Any) -> Any:
        """Serve another image from now on, such as another medium in a drive; returns the one before, not closed."""
        before, self.image = self.image, image
        for queue in self.queues:
            queue.image = image
        self.size_changed()
        return before

    def size_changed(self) -> None:
        """The image has another size: the front end looks again when it sees the state written (xen-blkfront does)."""
        for queue in self.queues:
            queue.end = self.image.size_sectors
        if self.connected:
            self.write_properties()
            self.store.write(f"{self.path}/state", int(self.state))

    def timed(self, seconds: float) -> None:
        """A flush took so long.  With virtual time nothing may depend on that."""
        self.slow_disk = seconds > SLOW_FLUSH and not self.hypervisor.clock.is_virtual

    def disconnect(self) -> None:
        queues, self.queues = self.queues, []
        for queue in queues:
            queue.close()

    def complain(self, text: str) -> None:
        """Log a thing once for each device, and not too many: texts hold numbers of the guest's."""
        if text not in self.complained and len(self.complained) < MAX_WARNINGS:
            self.complained.add(text)
            log.warning("%s: %s", self.name, text)

    def stats(self) -> dict[str, int]:
        """What has gone through the rings: requests by operation, bytes by direction, requests that failed."""
        return {name: self.counts[name] for name in COUNTERS}


COUNTERS = (
    "reads", "writes", "flushes", "barriers", "discards", "errors", "bytes_read", "bytes_written", "bytes_discarded",
)  # fmt: skip
COUNTER_OF = {
    BLKIF_OP_READ: "reads",
    BLKIF_OP_WRITE: "writes",
    BLKIF_OP_WRITE_BARRIER: "barriers",
    BLKIF_OP_FLUSH_DISKCACHE: "flushes",
    BLKIF_OP_DISCARD: "discards",
}


class Flush:
    """A flush under way in a thread of its own; ``done(error, seconds)`` is called in domain 0's loop."""

    def __init__(self, fd: int, loop: Any, done: Callable[[OSError | None, float], None]) -> None:
        self.fd, self.loop, self.done = os.dup(fd), loop, done
        threading.Thread(target=self.run, name="flush", daemon=True).start()

    def run(self) -> None:
        started, error = time.monotonic(), None
        try:
            os.fdatasync(self.fd)
        except OSError as failed:
            error = failed
        finally:
            os.close(self.fd)
        self.loop.call_soon(self.done, error, time.monotonic() - started)


class Queue:
    """A ring of requests and its event channel."""

    def __init__(self, vbd: Blkback, abi: blkif.Abi, ring_refs: list[int], port: int) -> None:
        self.vbd, self.abi, self.image = vbd, abi, vbd.image
        self.end = vbd.image.size_sectors
        self.counts = vbd.counts
        gnttab = vbd.domain.gnttab
        self.evtchn = vbd.hypervisor.domain(0).evtchn
        self.loop = vbd.hypervisor.loop
        self.pages: list[Any] = []
        self.port = 0
        self.open = True
        self.flushing = False
        self.grants = Grants(gnttab, vbd.persistent)
        try:
            for ref in ring_refs:
                self.pages.append(gnttab.map(ref, False))
            self.ring = BackRing([page.view for page in self.pages], abi.slot_size, abi.response)
            self.ring.pending()
            self.port = self.evtchn.bind_interdomain(vbd.domid, port)
        except RingError as error:
            self.close()
            raise ProtocolError(str(error)) from None
        except XenError:
            self.close()
            raise

    def listen(self) -> None:
        self.evtchn.on_event(self.port, self.on_event)

    def close(self) -> None:
        """Unmap everything; harmless a second time."""
        self.open = False
        if self.port:
            try:
                self.evtchn.close(self.port)
            except XenError as error:
                log.debug("%s: event channel: %s", self.vbd.name, error)
            self.port = 0
        self.grants.close()
        pages, self.pages = self.pages, []
        for page in pages:
            page.unmap()

    # -- requests --

    def on_event(self, port: int = 0) -> None:
        """Serve the ring until it is empty, or come back later if the guest keeps filling it."""
        ring, served = self.ring, 0
        try:
            while self.open and not self.flushing:
                waiting = ring.pending()
                if not waiting:
                    if ring.rest():
                        return
                    continue
                if served >= ROUNDS_PER_EVENT * ring.slots:
                    self.loop.call_soon(self.on_event)
                    return
                served += waiting
                for _ in range(waiting):
                    raw = ring.take()
                    if raw[0] == BLKIF_OP_FLUSH_DISKCACHE and self.vbd.slow_disk and self.begin_flush(raw):
                        break
                    ring.respond(*self.serve(raw))
                if ring.push():
                    self.evtchn.send(self.port)
        except RingError as error:
            self.vbd.fatal(str(error))

    def serve(self, raw: bytes) -> tuple[int, int, int]:
        """Do one request; the id, operation and status of its response."""
        abi = self.abi
        operation, small, _, identity, sector = abi.request.unpack_from(raw)
        status = BLKIF_RSP_OKAY
        try:
            if operation <= BLKIF_OP_FLUSH_DISKCACHE:
                if small > blkif.BLKIF_MAX_SEGMENTS_PER_REQUEST:
                    raise BadRequest(f"a request of {small} segments")
                self.transfer(operation, sector, blkif.SEGMENTS[small].unpack_from(raw, abi.segments))
            elif operation == BLKIF_OP_INDIRECT:
                operation = small  # the response names what was done, and blkfront checks that
                self.transfer_indirect(raw)
            elif operation == BLKIF_OP_DISCARD:
                self.discard(raw)
            else:
                raise Unsupported(f"operation {operation}")
        except Unsupported as error:
            status = BLKIF_RSP_EOPNOTSUPP
            self.vbd.complain(str(error))
        except (BadRequest, XenError, OSError) as error:
            status = BLKIF_RSP_ERROR
            self.counts["errors"] += 1
            self.vbd.complain(f"a request fails: {error}")
        finally:
            self.grants.done()
        return identity, operation, status

    def transfer(self, operation: int, sector: int, fields: tuple[int, ...]) -> None:
        """READ, WRITE, WRITE_BARRIER and FLUSH_DISKCACHE; `fields` are (gref, first_sect, last_sect) of each
        segment."""
        reading = operation == BLKIF_OP_READ
        buffers: list[memoryview] = []
        mappings: list[Any] = []
        total = 0
        get = self.grants.get
        for i in range(0, len(fields), 3):
            first, last = fields[i + 1], fields[i + 2]
            if first > last or last >= blkif.SECTORS_PER_PAGE:
                raise BadRequest(f"a segment from sector {first} to {last} of a page")
            mapping = get(fields[i], not reading)
            mappings.append(mapping)
            view = mapping.view
            if last - first != 7:
                view = view[first * SECTOR_SIZE : (last + 1) * SECTOR_SIZE]
            buffers.append(view)
            total += last - first + 1
        if sector + total > self.end and total:
            raise BadRequest(f"sectors {sector} to {sector + total} of {self.end}")
        counts = self.counts
        counts[COUNTER_OF[operation]] += 1
        if reading:
            if not buffers:
                raise BadRequest("a read of nothing")
            self.image.readv(sector * SECTOR_SIZE, buffers)
            for mapping in mappings:
                mapping.wrote()
            counts["bytes_read"] += total * SECTOR_SIZE
            return
        if operation == BLKIF_OP_WRITE_BARRIER:
            self.flush()  # what came before is on the disk before any of this
        if buffers:
            if self.image.readonly:
                raise BadRequest("a write to a read-only disk")
            self.image.writev(sector * SECTOR_SIZE, buffers)
            counts["bytes_written"] += total * SECTOR_SIZE
        elif operation == BLKIF_OP_WRITE:
            raise BadRequest("a write of nothing")
        if operation != BLKIF_OP_WRITE:
            self.flush()

    def flush(self) -> None:
        if not self.image.readonly:
            started = time.monotonic()
            self.image.flush()
            self.vbd.timed(time.monotonic() - started)

    def begin_flush(self, raw: bytes) -> bool:
        """Have a thread wait for a slow disk; false where that cannot be, such as for formats with tables of their own."""
        if raw[1] or type(self.image) is not RawImage or self.image.readonly:
            return False
        identity = self.abi.request.unpack_from(raw)[3]
        self.flushing = True
        self.counts["flushes"] += 1

        def done(error: OSError | None, seconds: float) -> None:
            self.flushing = False
            self.vbd.timed(seconds)
            if not self.open:
                return
            if error is not None:
                self.counts["errors"] += 1
                self.vbd.complain(f"a request fails: {error}")
            self.ring.respond(identity, BLKIF_OP_FLUSH_DISKCACHE, BLKIF_RSP_OKAY if error is None else BLKIF_RSP_ERROR)
            if self.ring.push():
                self.evtchn.send(self.port)
            self.on_event()

        try:
            Flush(self.image.fd, self.loop, done)
        except (OSError, RuntimeError):         # no more descriptors or threads
            self.flushing = False
            self.counts["flushes"] -= 1
            return False
        return True

    def transfer_indirect(self, raw: bytes) -> None:
        """A read or write whose segments are listed in granted pages."""
        _, operation, count, _, sector, _, *refs = self.abi.indirect.unpack_from(raw)
        if operation not in (BLKIF_OP_READ, BLKIF_OP_WRITE):
            raise BadRequest(f"an indirect request for operation {operation}")
        if not 0 < count <= MAX_INDIRECT_SEGMENTS:
            raise BadRequest(f"an indirect request of {count} segments")
        fields: list[int] = []
        for i in range(0, count, blkif.SEGMENTS_PER_INDIRECT_PAGE):
            here = min(count - i, blkif.SEGMENTS_PER_INDIRECT_PAGE)
            page = self.grants.get(refs[i // blkif.SEGMENTS_PER_INDIRECT_PAGE], True)
            copy = bytes(page.view[: here * blkif.SEGMENT.size])  # the guest may change it while we check
            for segment in blkif.SEGMENT.iter_unpack(copy):
                fields += segment
        self.transfer(operation, sector, tuple(fields))

    def discard(self, raw: bytes) -> None:
        """Give sectors back to the host."""
        _, flag, _, sector, count = self.abi.discard.unpack_from(raw)
        secure = flag & blkif.BLKIF_DISCARD_SECURE
        if not self.vbd.discard or (secure and not self.vbd.secure):
            raise Unsupported("secure discard" if secure else "discard")
        if sector + count > self.end:
            raise BadRequest(f"discard of sectors {sector} to {sector + count} of {self.end}")
        self.counts["discards"] += 1
        if secure:
            self.image.wipe(sector * SECTOR_SIZE, count * SECTOR_SIZE)
        self.image.discard(sector * SECTOR_SIZE, count * SECTOR_SIZE)
        self.counts["bytes_discarded"] += count * SECTOR_SIZE
