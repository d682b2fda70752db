"""A domain's connection to xenstored: the page it shares (struct xenstore_domain_interface, io/xs_wire.h) and its
event channel.

Requests are read from one ring of 1024 bytes and replies written to the other, in whatever pieces fit.  The guest is
hostile: an index out of bounds or an impossible message ends the connection with a code in the page's ``error`` word,
and a guest that does not fetch its replies is not served until it does.
"""

import logging
import threading
from typing import TYPE_CHECKING, Any

from xenfast.abi.io import xs_wire as xs
from xenfast.errors import XenError
from xenfast.xenstore import wire
from xenfast.xenstore.heldpage import HeldPage

if TYPE_CHECKING:
    from xenfast.xenstore.xenstored import XenStored

log = logging.getLogger("xenfast")

MASK32 = 0xFFFFFFFF
BACKLOG_PAUSE = 16 * 1024  # bytes of replies not fetched, beyond which no request is read
BACKLOG_LIMIT = 1024 * 1024  # beyond which watch events are dropped


class RingPage:
    def __init__(self, store: "XenStored", domain: Any, mfn: int, port: int) -> None:
        self.store = store
        self.domid: int = domain.domid
        self.evtchn = store.hypervisor.domain(0).evtchn
        self.port = self.evtchn.bind_interdomain(domain.domid, port)
        try:
            self.held = HeldPage(domain, mfn)
        except XenError:
            self.evtchn.close(self.port)
            raise
        self.page = self.held.view
        self.words = self.held.words(xs.INDEX_OFFSET, xs.INDEX_COUNT)
        self.parser = wire.Parser()
        self.backlog = bytearray()
        self.queued_events: set[bytes] = set()
        self.open = True
        self.lost = 0  # watch events
        self.barrier = threading.Lock()
        self.words[xs.SERVER_FEATURES] = xs.XENSTORE_SERVER_FEATURE_ERROR
        self.words[xs.CONNECTION] = xs.XENSTORE_CONNECTED
        self.words[xs.RING_ERROR] = xs.XENSTORE_ERROR_NONE
        self.evtchn.on_event(self.port, self.on_event)

    def event(self, path: str, token: str) -> None:
        """Tell the domain of a change it watches; the same news is not queued twice (XSA-326)."""
        packed = wire.watch_event(path, token).pack()
        if not self.open or packed in self.queued_events:
            return
        if len(self.backlog) > BACKLOG_LIMIT or len(packed) > xs.HEADER.size + xs.XENSTORE_PAYLOAD_MAX:
            if not self.lost:
                log.warning("xenstore: domain %d loses watch events: too many, or too long", self.domid)
            self.lost += 1
            return
        self.backlog += packed
        self.queued_events.add(packed)
        if self.flush():
            self.evtchn.send(self.port)

    def on_event(self, port: int) -> None:
        """Serve what the ring held when the event came: whatever is added meanwhile comes with an event of its own."""
        with self.store.lock:
            if not self.open:
                return
            moved = self.flush()
            if len(self.backlog) <= BACKLOG_PAUSE and (data := self.take()):
                moved = True
                self.serve(data)
                self.flush()
            if moved:
                self.evtchn.send(self.port)

    def serve(self, data: bytes) -> None:
        try:
            requests = self.parser.feed(data)
        except wire.ProtocolError as error:
            self.fail(xs.XENSTORE_ERROR_PROTO, str(error))
            return
        for request in requests:
            self.backlog += self.store.operate(self, request).pack()
            self.store.drain()

    def take(self) -> bytes:
        """All bytes the guest has put into the request ring."""
        words = self.words
        cons, prod = words[xs.REQ_CONS], words[xs.REQ_PROD]
        length = (prod - cons) & MASK32
        if not length:
            return b""
        if length > xs.XENSTORE_RING_SIZE:
            self.fail(xs.XENSTORE_ERROR_RINGIDX, f"request indices {cons} and {prod}")
            return b""
        start = xs.REQ_OFFSET + cons % xs.XENSTORE_RING_SIZE
        first = min(length, xs.REQ_OFFSET + xs.XENSTORE_RING_SIZE - start)
        data = bytes(self.page[start : start + first])
        data += bytes(self.page[xs.REQ_OFFSET : xs.REQ_OFFSET + length - first])
        self.fence()  # the bytes are read before their space is given back
        words[xs.REQ_CONS] = (cons + length) & MASK32
        return data

    def flush(self) -> bool:
        """Move as much of the backlog as fits into the response ring."""
        if not self.backlog or not self.open:
            return False
        words = self.words
        cons, prod = words[xs.RSP_CONS], words[xs.RSP_PROD]
        used = (prod - cons) & MASK32
        if used > xs.XENSTORE_RING_SIZE:
            self.fail(xs.XENSTORE_ERROR_RINGIDX, f"response indices {cons} and {prod}")
            return False
        length = min(len(self.backlog), xs.XENSTORE_RING_SIZE - used)
        if not length:
            return False
        start = xs.RSP_OFFSET + prod % xs.XENSTORE_RING_SIZE
        first = min(length, xs.RSP_OFFSET + xs.XENSTORE_RING_SIZE - start)
        self.page[start : start + first] = self.backlog[:first]
        self.page[xs.RSP_OFFSET : xs.RSP_OFFSET + length - first] = self.backlog[first:length]
        self.fence()  # the bytes are there before the index says so
        words[xs.RSP_PROD] = (prod + length) & MASK32
        del self.backlog[:length]
        if not self.backlog:
            self.queued_events.clear()
        return True

    def fence(self) -> None:
        """A lock taken and given back is a full barrier between the guest's thread and ours."""
        with self.barrier:
            pass

    def fail(self, code: int, why: str) -> None:
        """End the connection: there is no way to go on."""
        log.warning("xenstore: domain %d: %s, its connection ends", self.domid, why)
        self.words[xs.RING_ERROR] = code
        self.store.disconnect(self)
        self.open = False
        self.backlog.clear()

    def close(self) -> None:
        """Unbind from a domain that goes away."""
        self.open = False
        try:
            self.evtchn.close(self.port)
        except XenError as error:
            log.debug("xenstore: domain %d: event channel: %s", self.domid, error)
        self.held.release()
