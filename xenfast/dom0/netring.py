"""What netback's rings need beyond dom0/ring.py: raw slots, and waiting for several requests."""

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

