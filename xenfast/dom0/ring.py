"""The back end's side of a shared ring (xen/include/public/io/ring.h): indices, slots, and when to notify.

The other side is a guest and runs at the same time.  So a request is copied before it is looked at, no index of the
guest's is used without a bound, and our own indices are kept here, never read back from the page.
"""

import struct
import threading

from xenfast.abi.io import ring as abi
from xenfast.abi.io.ring import INDEX_MASK, PAGE_SIZE, SRING_HEADER_SIZE, ring_slots


class RingError(Exception):
    """The guest's indices cannot be: the ring is not served any more."""


class BackRing:
    """RING_IDX arithmetic over the mapped pages of a ring, whose slots may straddle two of them."""

    def __init__(self, pages: list[memoryview], slot_size: int, response: struct.Struct) -> None:
        self.words = pages[0][:16].cast("I")
        self.slots = ring_slots(len(pages) * PAGE_SIZE, slot_size)
        self.mask = self.slots - 1
        self.response = response
        self.places = [place(pages, SRING_HEADER_SIZE + i * slot_size, slot_size) for i in range(self.slots)]
        self.barrier = threading.Lock()
        # BACK_RING_ATTACH: a ring that was in use goes on where the last response was
        self.rsp_prod = self.req_cons = self.words[abi.SRING_RSP_PROD]
        self.pushed = self.rsp_prod

    def pending(self) -> int:
        """How many requests wait; RingError if more than the ring can hold are claimed (RING_REQUEST_PROD_OVERFLOW)."""
        produced = self.words[abi.SRING_REQ_PROD]
        if (produced - self.rsp_prod) & INDEX_MASK > self.slots:
            raise RingError(f"req_prod {produced} with rsp_prod {self.rsp_prod} in a ring of {self.slots}")
        waiting = (produced - self.req_cons) & INDEX_MASK
        if waiting:
            self.fence()  # the requests are read after the index that says they are there
        return waiting

    def take(self) -> bytes:
        """A copy of the next request."""
        place = self.places[self.req_cons & self.mask]
        self.req_cons = (self.req_cons + 1) & INDEX_MASK
        return bytes(place[0]) if len(place) == 1 else bytes(place[0]) + bytes(place[1])

    def respond(self, *fields: int) -> None:
        """Put a response into the next slot; the guest sees it after push()."""
        place = self.places[self.rsp_prod & self.mask]
        if len(place[0]) >= self.response.size:
            self.response.pack_into(place[0], 0, *fields)
        else:
            packed = self.response.pack(*fields)
            cut = len(place[0])
            place[0][:] = packed[:cut]
            place[1][: len(packed) - cut] = packed[cut:]
        self.rsp_prod = (self.rsp_prod + 1) & INDEX_MASK

    def push(self) -> bool:
        """Show the responses; true if the guest asked for an event (RING_PUSH_RESPONSES_AND_CHECK_NOTIFY)."""
        old, new = self.pushed, self.rsp_prod
        if old == new:
            return False
        self.fence()  # the guest sees the responses before the index
        self.words[abi.SRING_RSP_PROD] = new
        self.pushed = new
        self.fence()  # and we look at its wish after that
        return (new - self.words[abi.SRING_RSP_EVENT]) & INDEX_MASK < (new - old) & INDEX_MASK

    def rest(self) -> bool:
        """Ask for an event at the next request; false if one came meanwhile (RING_FINAL_CHECK_FOR_REQUESTS)."""
        self.words[abi.SRING_REQ_EVENT] = (self.req_cons + 1) & INDEX_MASK
        self.fence()
        return self.words[abi.SRING_REQ_PROD] == self.req_cons

    def fence(self) -> None:
        """A full barrier between the guest's thread and this one: taking a lock is one, and Python offers no other."""
        with self.barrier:
            pass


def place(pages: list[memoryview], offset: int, size: int) -> tuple[memoryview, ...]:
    """Where a slot is: one piece, or two at the end of a page."""
    page, start = divmod(offset, PAGE_SIZE)
    first = pages[page][start : start + size]
    if len(first) == size:
        return (first,)
    return first, pages[page + 1][: size - len(first)]
