"""The grant table of a domain: its entries (versions 1 and 2), and who uses what they grant.

Specified in xen/include/public/grant_table.h; follows xen/common/grant_table.c.  The hypercall is in ``gnttab_op.py``.
A domain whose kernel is Python maps a grant by ``map()`` and gets a memoryview; transfers and transitive grants are
refused.

An entry lives in memory the granting guest may change at any time.  So a grant is pinned as Xen pins it: the flags word
is changed by compare-and-swap together with what was checked (version 1), or the status word is set and the entry
checked again (version 2).
"""

from typing import TYPE_CHECKING, Any

from xenfast._core import SharedWords
from xenfast.abi import grant_table as abi
from xenfast.errors import XenError

if TYPE_CHECKING:
    from xenfast.xen.domain import Domain

RETRIES = 5             # as often as Xen tries while the guest keeps changing the entry


def fail(status: int, text: str) -> XenError:
    """The exception of a grant operation: its number is a GNTST_* status."""
    return XenError(status, text)


class Active:
    """struct active_grant_entry: a grant in use."""

    __slots__ = ("domid", "mfn", "readers", "writers")

    def __init__(self, domid: int, mfn: int) -> None:
        self.domid, self.mfn, self.readers, self.writers = domid, mfn, 0, 0


class GrantMapping:
    """A granted frame mapped by a domain whose kernel is Python."""

    __slots__ = ("_memory", "mfn", "readonly", "ref", "table", "view")

    def __init__(self, table: "GrantTable", ref: int, mfn: int, readonly: bool) -> None:
        self.table, self.ref, self.mfn, self.readonly = table, ref, mfn, readonly
        self._memory = table.memory
        view = self._memory.view(mfn)
        self.view: memoryview = view.toreadonly() if readonly else view

    def wrote(self) -> None:
        """To be called after data has been written into the page: code decoded from it is dropped."""
        self._memory.wrote(self.mfn)

    def unmap(self) -> None:
        """Give the page back; calling it again does nothing."""
        table, self.table = self.table, None        # type: ignore[assignment]
        if table is not None:
            self.view.release()
            table.release(self.ref, self.readonly)


class GrantTable:
    """``domain.gnttab``."""

    def __init__(self, domain: "Domain", max_frames: int) -> None:
        self.domain = domain
        self.memory = domain.hypervisor.memory
        self.lock = domain.hypervisor.lock
        self.max_frames = max_frames
        self.version = 1
        self.frames: list[int] = []             # mfns of the table
        self.status_frames: list[int] = []      # version 2: mfns of the status words
        self._words: list[Any] = []             # SharedWords of each frame
        self._status_words: list[Any] = []
        self.active: dict[int, Active] = {}     # ref -> who uses it
        self._free_refs: list[int] = []
        self._next_ref = abi.GNTTAB_NR_RESERVED_ENTRIES
        self.grow(1)

    # --- the table's own pages ---------------------------------------------------------------------------------------
    @property
    def per_frame(self) -> int:
        return abi.V1_PER_PAGE if self.version == 1 else abi.V2_PER_PAGE

    @property
    def nr_entries(self) -> int:
        return len(self.frames) * self.per_frame

    def _page(self) -> tuple[int, Any]:
        mfn = self.domain.alloc_xen_page()
        return mfn, SharedWords(self.memory.view(mfn))

    def grow(self, nr_frames: int) -> None:
        """Have at least so many frames of entries (and the status frames that version 2 needs for them)."""
        while len(self.frames) < nr_frames:
            mfn, words = self._page()
            self.frames.append(mfn)
            self._words.append(words)
        if self.version == 2:
            while len(self.status_frames) * abi.STATUS_PER_PAGE < self.nr_entries:
                mfn, words = self._page()
                self.status_frames.append(mfn)
                self._status_words.append(words)

    def set_version(self, version: int) -> None:
        """GNTTABOP_set_version: the table starts afresh but for the reserved entries.  EBUSY while grants are in use is
        the caller's check."""
        if version == self.version:
            return
        keep = [self.entry(ref) for ref in range(abi.GNTTAB_NR_RESERVED_ENTRIES)]
        for mfn in self.frames:
            self.memory.view(mfn)[:] = bytes(4096)
        if version == 1:
            for mfn in self.status_frames:
                self.memory.view(mfn)[:] = bytes(4096)
        self.version = version
        self.grow(len(self.frames))
        for ref, (flags, domid, frame) in enumerate(keep):
            if flags & abi.GTF_type_mask == abi.GTF_permit_access and (version == 2 or frame >> 32 == 0):
                self._write(ref, flags & ~(abi.GTF_reading | abi.GTF_writing), domid, frame)

    # --- entries -----------------------------------------------------------------------------------------------------
    def entry(self, ref: int) -> tuple[int, int, int]:
        """(flags, domid, frame) of an entry, whatever the version."""
        frame, index = divmod(ref, self.per_frame)
        view = self.memory.view(self.frames[frame])
        if self.version == 1:
            return tuple(abi.entry_v1.unpack(view, index * 8))
        flags, domid, _, _, mfn = abi.entry_v2.unpack(view, index * 16)
        return flags, domid, mfn

    def _write(self, ref: int, flags: int, domid: int, mfn: int) -> None:
        """The frame first and the flags last, in one aligned word, as the ABI asks of a granter."""
        frame, index = divmod(ref, self.per_frame)
        words = self._words[frame]
        if self.version == 1:
            words.store32(index * 2 + 1, mfn)
            words.store32(index * 2, flags | domid << 16)
        else:
            words.store32(index * 4 + 2, mfn & 0xFFFFFFFF)
            words.store32(index * 4 + 3, mfn >> 32)
            words.store32(index * 4, flags | domid << 16)

    def swap(self, a: int, b: int) -> None:
        """GNTTABOP_swap_grant_ref: the two entries change places."""
        for ref in (a, b):
            if not ref < self.nr_entries:
                raise fail(abi.GNTST_bad_gntref, f"grant reference {ref}")
            if ref in self.active:
                raise fail(abi.GNTST_eagain, f"grant {ref} is in use")
        size = 4096 // self.per_frame
        places = []
        for ref in (a, b):
            frame, index = divmod(ref, self.per_frame)
            places.append(self.memory.view(self.frames[frame])[index * size:(index + 1) * size])
        first = bytes(places[0])
        places[0][:] = places[1]
        places[1][:] = first

    def seed(self, ref: int, mfn: int, to_domid: int) -> None:
        """Write a reserved entry (GNTTAB_RESERVED_CONSOLE, _XENSTORE) for the domain builder."""
        with self.lock:
            self._write(ref, abi.GTF_permit_access, to_domid, mfn)

    def grant(self, frame: int, to_domid: int, readonly: bool = False) -> int:
        """Grant one of this domain's frames to another domain, and return the reference.  For domains whose kernel is
        Python.
        """
        with self.lock:
            if self._free_refs:
                ref = self._free_refs.pop()
            else:
                ref = self._next_ref
                if ref >= self.max_frames * self.per_frame:
                    raise fail(abi.GNTST_no_space, "the grant table is full")
                self._next_ref = ref + 1
                self.grow(ref // self.per_frame + 1)
            self._write(ref, abi.GTF_permit_access | (abi.GTF_readonly if readonly else 0), to_domid, frame)
            return ref

    def end_access(self, ref: int) -> bool:
        """Take back what grant() gave; False while it is in use."""
        with self.lock:
            if ref in self.active:
                return False
            self._write(ref, 0, 0, 0)
            self._free_refs.append(ref)
            return True

    # --- use of a grant by another domain ----------------------------------------------------------------------------
    def map(self, ref: int, readonly: bool = False, mapper: "Domain | None" = None) -> GrantMapping:
        """Map a grant into a domain whose kernel is Python (domain 0 unless said otherwise)."""
        domid = mapper.domid if mapper is not None else 0
        mfn = self.acquire(ref, domid, readonly)
        return GrantMapping(self, ref, mfn, readonly)

    def acquire(self, ref: int, domid: int, readonly: bool) -> int:
        """Pin a grant for a domain and return its frame, referenced; release() is the reverse."""
        with self.lock:
            if not 0 <= ref < self.nr_entries:
                raise fail(abi.GNTST_bad_gntref, f"grant {ref} of domain {self.domain.domid} is beyond its table")
            active = self.active.get(ref)
            if active is not None and active.domid != domid:
                raise fail(abi.GNTST_general_error, f"grant {ref} is in use by domain {active.domid}")
            mfn = self.domain.frame(self._set_status(ref, domid, readonly))
            if active is not None:
                mfn = active.mfn            # further maps get the frame of the first one, as in Xen
            try:
                self._get_frame(mfn, readonly)
            except XenError:
                if active is None:
                    self._clear_status(ref, reading=True, writing=not readonly)
                elif not readonly and not active.writers:
                    self._clear_status(ref, reading=False, writing=True)
                raise
            if active is None:
                active = self.active[ref] = Active(domid, mfn)
            if readonly:
                active.readers += 1
            else:
                active.writers += 1
            return mfn

    def release(self, ref: int, readonly: bool) -> None:
        with self.lock:
            active = self.active[ref]
            if readonly:
                active.readers -= 1
                self.memory.put_page(active.mfn)
            else:
                active.writers -= 1
                self.domain.put_writable_page(active.mfn)
            last = not active.readers and not active.writers
            if last:
                del self.active[ref]
            if self.domain.is_alive:
                self._clear_status(ref, reading=last, writing=not readonly and not active.writers)

    def _get_frame(self, mfn: int, readonly: bool) -> None:
        domain = self.domain
        if not (self.memory.get_page(mfn, domain.domid) if readonly else domain.get_writable_page(mfn)):
            purpose = "" if readonly else " for writing"
            raise fail(abi.GNTST_general_error, f"frame {mfn:#x} is not domain {domain.domid}'s to grant{purpose}")

    def _check(self, ref: int, head: int, domid: int, readonly: bool) -> None:
        if head & abi.GTF_type_mask != abi.GTF_permit_access or head >> 16 != domid:
            text = f"grant {ref}: flags {head & 0xFFFF:#x} for domain {head >> 16}, not {domid}"
            raise fail(abi.GNTST_general_error, text)
        if not readonly and head & abi.GTF_readonly:
            raise fail(abi.GNTST_general_error, f"grant {ref} is read-only")

    def _set_status(self, ref: int, domid: int, readonly: bool) -> int:
        """Mark the entry as in use and return the frame it grants."""
        frame, index = divmod(ref, self.per_frame)
        words = self._words[frame]
        want = abi.GTF_reading if readonly else abi.GTF_reading | abi.GTF_writing
        if self.version == 2:
            return self._set_status_v2(ref, words, index, domid, readonly, want)
        for _ in range(RETRIES):
            head = words.load32(index * 2)
            self._check(ref, head, domid, readonly)
            if words.cas32(index * 2, head, head | want):
                return words.load32(index * 2 + 1)
        raise fail(abi.GNTST_general_error, f"grant {ref} keeps changing")

    def _set_status_v2(self, ref: int, words: Any, index: int, domid: int, readonly: bool, want: int) -> int:
        page, slot = divmod(ref, abi.STATUS_PER_PAGE)
        status = self._status_words[page]
        head = words.load32(index * 4)
        self._check(ref, head, domid, readonly)
        if head & abi.GTF_sub_page:
            raise fail(abi.GNTST_general_error, f"grant {ref} is of a part of a page")
        status.or16(slot, want)
        try:
            self._check(ref, words.load32(index * 4), domid, readonly)
        except XenError:
            if ref not in self.active:
                self._clear_status(ref, reading=True, writing=True)
            raise
        return words.load32(index * 4 + 2) | words.load32(index * 4 + 3) << 32

    def _clear_status(self, ref: int, reading: bool, writing: bool) -> None:
        bits = (abi.GTF_reading if reading else 0) | (abi.GTF_writing if writing else 0)
        if not bits:
            return
        if self.version == 2:
            page, slot = divmod(ref, abi.STATUS_PER_PAGE)
            words = self._status_words[page]
        else:
            frame, index = divmod(ref, self.per_frame)
            words, slot = self._words[frame], index * 4
        words.and16(slot, ~bits & 0xFFFF)
