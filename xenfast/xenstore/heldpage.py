"""A page of a guest that a part of domain 0 uses for as long as it serves the guest: a ring that is named by frame,
not by grant."""

from errno import EINVAL
from typing import Any

from xenfast.errors import XenError

PGT_WRITABLE = 7  # Frame.type of cpu/state.pxd


class HeldPage:
    """Keeps the frame from being given to anybody else, and from becoming a page table that we would write into."""

    def __init__(self, memory: Any, mfn: int, domid: int) -> None:
        if not memory.get_page(mfn, domid):
            raise XenError(EINVAL, f"frame {mfn:#x} is not domain {domid}'s")
        if not memory.get_page_type(mfn, PGT_WRITABLE):
            memory.put_page(mfn)
            raise XenError(EINVAL, f"frame {mfn:#x} of domain {domid} may not be written")
        self.memory, self.mfn = memory, mfn
        self.view: memoryview = memory.view(mfn)

    def words(self, offset: int, count: int) -> memoryview:
        """A part of the page as an array of uint32_t."""
        return self.view[offset : offset + 4 * count].cast("I")

    def release(self) -> None:
        """Give the page back; harmless a second time."""
        memory, self.memory = self.memory, None
        if memory is not None:
            memory.put_page_type(self.mfn)
            memory.put_page(self.mfn)
