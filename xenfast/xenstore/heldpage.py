"""A page of a guest that a part of domain 0 uses for as long as it serves the guest: a ring that is named by frame,
not by grant."""

from errno import EINVAL
from typing import Any

from xenfast.errors import XenError


class HeldPage:
    """Keeps the frame from being given to anybody else, and from becoming a page table that we would write into."""

    def __init__(self, domain: Any, mfn: int) -> None:
        if not domain.get_writable_page(mfn):
            raise XenError(EINVAL, f"frame {mfn:#x} is not domain {domain.domid}'s, or not plain memory")
        self.domain, self.mfn = domain, mfn
        self.view: memoryview = domain.hypervisor.memory.view(mfn)

    def words(self, offset: int, count: int) -> memoryview:
        """A part of the page as an array of uint32_t."""
        return self.view[offset : offset + 4 * count].cast("I")

    def release(self) -> None:
        """Give the page back; harmless a second time."""
        domain, self.domain = self.domain, None
        if domain is not None:
            domain.put_writable_page(self.mfn)
