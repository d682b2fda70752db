"""The pages a guest has granted to one of our back ends, mapped for a request or for as long as the ring lives.

With ``feature-persistent`` on both sides a front end uses the same grants again and again, and copies data into and
out of them; the back end keeps them mapped (io/blkif.h).  It may drop one at any time, so the number is bounded:
least recently used go first.
"""

from collections import OrderedDict
from typing import Any

from xenfast.errors import XenError

# as many as Linux keeps: all segments of all requests of a ring of one page, (11 + 22 for indirect ones) * 32
MAX_PERSISTENT_GRANTS = 1056


class Grants:
    def __init__(self, gnttab: Any, persistent: bool, limit: int = MAX_PERSISTENT_GRANTS) -> None:
        self.gnttab, self.persistent, self.limit = gnttab, persistent, limit
        self.kept: OrderedDict[int, Any] = OrderedDict()
        self.lent: list[Any] = []  # mapped for the current request only

    def get(self, ref: int, readonly: bool) -> Any:
        """The mapping of a grant, valid until done(); XenError if the guest has not granted it so."""
        kept = self.kept
        mapping = kept.get(ref)
        if mapping is not None:
            kept.move_to_end(ref)
            return mapping
        if self.persistent:
            try:
                mapping = kept[ref] = self.gnttab.map(ref, False)
                return mapping
            except XenError:
                if not readonly:
                    raise
        mapping = self.gnttab.map(ref, readonly)
        self.lent.append(mapping)
        return mapping

    def done(self) -> None:
        """The end of a request: no view of its pages is used any more."""
        if self.lent:
            for mapping in self.lent:
                mapping.unmap()
            self.lent.clear()
        while len(self.kept) > self.limit:
            self.kept.popitem(last=False)[1].unmap()

    def close(self) -> None:
        self.done()
        for mapping in self.kept.values():
            mapping.unmap()
        self.kept.clear()
