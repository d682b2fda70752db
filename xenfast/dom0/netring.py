"""What netback's rings need beyond dom0/ring.py: raw slots, waiting for several requests, and copies by grant.

A network's grants live for one packet, so there is nothing to keep mapped: data is copied under the hypervisor's lock,
as GNTTABOP_copy does, and the grant is pinned while it lasts.
"""

from typing import Any

from xenfast.abi.io import ring as abi
from xenfast.abi.io.ring import INDEX_MASK
from xenfast.dom0.ring import BackRing


class ReceiveRing(BackRing):
    """A ring of posted pages, of which a packet takes several at once."""

    def available(self, slots: int) -> bool:
        """Are there so many requests?"""
        return self.pending() >= slots

    def rest_until(self, slots: int) -> bool:
        """Ask for an event when so many requests are there; false if they came meanwhile."""
        self.words[abi.SRING_REQ_EVENT] = (self.req_cons + slots) & INDEX_MASK
        self.fence()
        return not self.available(slots)

    def put(self, raw: bytes) -> None:
        """Fill the next answer's slot with an extra slot."""
        self.places[self.rsp_prod & self.mask][0][: len(raw)] = raw
        self.rsp_prod = (self.rsp_prod + 1) & INDEX_MASK


def copy_from(gnttab: Any, ref: int, offset: int, size: int) -> bytes:
    """Bytes of a granted page; XenError if it is not granted.  ``offset + size`` is within the page."""
    memory = gnttab.memory
    with gnttab.lock:
        mfn = gnttab.acquire(ref, 0, True)
        try:
            return bytes(memory.view(mfn)[offset : offset + size])
        finally:
            gnttab.release(ref, True)


def copy_to(gnttab: Any, ref: int, data: memoryview) -> None:
    """Bytes to the beginning of a granted page."""
    memory = gnttab.memory
    with gnttab.lock:
        mfn = gnttab.acquire(ref, 0, False)
        try:
            memory.view(mfn)[: len(data)] = data
            memory.wrote(mfn)
        finally:
            gnttab.release(ref, False)
