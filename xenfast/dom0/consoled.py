"""The console daemon: the other end of a domain's console ring (io/console.h).

Output is handed on as it comes, and input waits here until the guest has room for it.  Small guests read their input
without telling us, so while some waits we look again by ourselves, ever more rarely.  The guest is hostile: an index out
of bounds ends its console, with a log line.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any

from xenfast.abi.io import console as abi
from xenfast.errors import XenError
from xenfast.xenstore.heldpage import HeldPage

log = logging.getLogger("xenfast")

MASK32 = 0xFFFFFFFF
FIRST_LOOK = 1_000_000  # ns until we look whether the guest has made room; doubled each time it has not
LAST_LOOK = 1_000_000_000  # after this only an event counts: a guest that never reads must not keep the machine busy


class ConsoleBackend:
    """A domain's console.  `received(data)` is called with each piece of output."""

    def __init__(self, hypervisor: Any, domain: Any, mfn: int, port: int, received: Callable[[bytes], Any]) -> None:
        self.domid = domain.domid
        self.loop = hypervisor.loop
        self.look: Any = None  # the timer of the next look
        self.received = received
        self.waiting = bytearray()
        self.open = True
        self.output = self.input = 0  # bytes so far
        self.barrier = threading.Lock()
        self.lock = threading.RLock()
        self.held = HeldPage(domain, mfn)
        self.page = self.held.view
        self.words = self.held.words(abi.INDEX_OFFSET, abi.INDEX_COUNT)
        self.evtchn = hypervisor.domain(0).evtchn
        try:
            self.port = self.evtchn.bind_interdomain(domain.domid, port)
        except XenError:
            self.held.release()
            raise
        self.evtchn.on_event(self.port, self.on_event)

    def on_event(self, port: int = 0) -> None:
        if self.drain() | self.feed():
            self.notify()
        self.look_later(FIRST_LOOK)

    def send(self, data: bytes) -> None:
        """Type something; the guest gets it as it makes room."""
        with self.lock:
            self.waiting += data
            fed = self.feed()
        if fed:
            self.notify()
        self.look_later(FIRST_LOOK)

    def look_later(self, delay: int) -> None:
        if self.waiting and self.open and self.look is None and delay <= LAST_LOOK:
            self.look = self.loop.call_later(delay, self.look_again, delay)

    def look_again(self, delay: int) -> None:
        self.look = None
        fed = self.feed()
        if fed:
            self.notify()
        self.look_later(FIRST_LOOK if fed else 2 * delay)

    def notify(self) -> None:
        if self.open:
            self.evtchn.send(self.port)

    def drain(self) -> bool:
        """Take what the guest has printed; also called once more when it has ended."""
        words = self.words
        if not self.open:
            return False
        cons, prod = words[abi.OUT_CONS], words[abi.OUT_PROD]
        length = (prod - cons) & MASK32
        if not length:
            return False
        if length > abi.OUT_SIZE:
            self.fail(f"output indices {cons} and {prod}")
            return False
        self.fence()  # the bytes are read after the index that says they are there
        start = cons % abi.OUT_SIZE
        first = min(length, abi.OUT_SIZE - start)
        base = abi.OUT_OFFSET
        data = bytes(self.page[base + start : base + start + first]) + bytes(self.page[base : base + length - first])
        self.fence()
        words[abi.OUT_CONS] = (cons + length) & MASK32
        self.output += length
        self.received(data)
        return True

    def feed(self) -> bool:
        """Put as much of the input into the ring as fits."""
        with self.lock:
            if not self.waiting or not self.open:
                return False
            words = self.words
            cons, prod = words[abi.IN_CONS], words[abi.IN_PROD]
            used = (prod - cons) & MASK32
            if used > abi.IN_SIZE:
                self.fail(f"input indices {cons} and {prod}")
                return False
            length = min(len(self.waiting), abi.IN_SIZE - used)
            if not length:
                return False
            start = prod % abi.IN_SIZE
            first = min(length, abi.IN_SIZE - start)
            self.page[start : start + first] = self.waiting[:first]
            self.page[: length - first] = self.waiting[first:length]
            self.fence()  # the guest sees the bytes before the index
            words[abi.IN_PROD] = (prod + length) & MASK32
            del self.waiting[:length]
            self.input += length
            return True

    def fence(self) -> None:
        """A full barrier between the guest's thread and this one."""
        with self.barrier:
            pass

    def fail(self, why: str) -> None:
        log.warning("console of domain %d: %s, it is not served any more", self.domid, why)
        self.open = False

    def close(self) -> None:
        """Take the last output, and let go of the page; harmless a second time."""
        if self.port:
            self.drain()
            self.open = False
            if self.look is not None:
                self.look.cancel()
            try:
                self.evtchn.close(self.port)
            except XenError as error:
                log.debug("console of domain %d: event channel: %s", self.domid, error)
            self.port = 0
            self.held.release()
