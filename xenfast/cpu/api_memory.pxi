# Memory: the machine memory as Python sees it.


cdef class HostArray:
    """A buffer over memory that another object owns (numpy.frombuffer takes it); keeps that object alive."""

    cdef object owner
    cdef u8* base
    cdef Py_ssize_t nbytes

    @staticmethod
    cdef HostArray make(object owner, void* base, Py_ssize_t nbytes):
        cdef HostArray a = HostArray.__new__(HostArray)
        a.owner = owner
        a.base = <u8*>base
        a.nbytes = nbytes
        return a

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.base, self.nbytes, 0, flags)


# One Frame as numpy sees it, for tools and tests.
FRAME_FIELDS = [("stamp", "u8"), ("count", "u4"), ("type_count", "u4"), ("type", "u1"), ("flags", "u1"), ("owner", "u2"),
                ("code", "u4"), ("linear", "u8")]


cdef class Memory:
    """Machine memory: ``frames`` frames of 4 KiB, each with an owner, a type and reference counts, and the M2P table.

    Host memory is used only for what somebody has written.  All methods may be called while vcpus run in other threads.
    """

    cdef Mem m
    cdef object __weakref__

    def __cinit__(self, frames):
        if not 0 < frames <= 1 << 28:
            raise ValueError(f"a memory of {frames} frames is not possible")
        if sizeof(Frame) != 32:
            raise SystemError("FRAME_FIELDS does not match struct Frame")
        if mem_create(&self.m, frames) < 0:
            raise MemoryError(f"the host cannot map {frames} frames")

    def __dealloc__(self):
        mem_destroy(&self.m)

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.m.host, self.m.max_page << PAGE_SHIFT, 0, flags)

    def __repr__(self):
        return f"Memory({self.m.max_page} frames, {self.m.free_pages} free)"

    cdef u64 check(self, mfn, count=1) except? 0xFFFFFFFFFFFFFFFF:
        """mfn as a number, when mfn .. mfn + count - 1 all exist."""
        if mfn < 0 or count < 0 or mfn + count > self.m.max_page:
            raise ValueError(f"frames {mfn:#x}..{mfn + count - 1:#x} do not exist")
        return mfn

    @property
    def frames(self):
        """Number of frames; they are numbered from 0."""
        return self.m.max_page

    @property
    def free_pages(self):
        """Number of frames without an owner."""
        return self.m.free_pages

    @property
    def m2p(self):
        """The machine-to-physical table as a numpy array: frame -> the owner's pseudo-physical frame, or ~0."""
        return numpy.frombuffer(HostArray.make(self, self.m.m2p, self.m.max_page * 8), dtype=numpy.uint64)

    @property
    def m2p_start(self):
        """Where a PV guest is told to read the table (XENMEM_machphys_mapping); it is at MACH2PHYS_VIRT_START, too."""
        return M2P_BESIDE

    @property
    def frame_table(self):
        """The frame table as a numpy record array (FRAME_FIELDS), live.  For reading."""
        table = numpy.frombuffer(HostArray.make(self, self.m.frames, self.m.max_page * sizeof(Frame)),
                                 dtype=FRAME_FIELDS)
        table.flags.writeable = False
        return table

    def view(self, mfn, count=1, readonly=False):
        """``count`` frames from ``mfn`` on as a memoryview of bytes, writable unless ``readonly``.  Call wrote() after writing.

        With a snapshot in use the frames count as written when a writable view is made, so do not keep one over a snapshot.
        """
        cdef u64 i, first = self.check(mfn, count), n = count
        if readonly:
            return memoryview(self)[mfn << PAGE_SHIFT:(mfn + count) << PAGE_SHIFT].toreadonly()
        if self.m.snap != NULL:
            for i in range(first, first + n):
                about_to_write(&self.m, i)
        return memoryview(self)[mfn << PAGE_SHIFT:(mfn + count) << PAGE_SHIFT]

    def array(self, mfn, count=1, dtype="u8"):
        """The same as a numpy array."""
        return numpy.frombuffer(self.view(mfn, count), dtype=dtype)

    def wrote(self, mfn, count=1):
        """Host code has written these frames: drop code decoded from them."""
        cdef u64 i, first = self.check(mfn, count), end = first + count
        with nogil:
            for i in range(first, end):
                if load_acquire(&self.m.frames[i].code):
                    frame_written(&self.m, i)

    def alloc(self, domid, n, contiguous=False, shared=False):
        """Give ``n`` zeroed frames to a domain; a numpy uint64 array of frame numbers.  MemoryError when there are not enough.

        ``shared`` is for Xen's own pages that a guest may map but never turn into page tables: shared info, grant table.
        """
        cdef u64 count = n
        cdef u32 dom = domid
        cdef int rc
        cdef u8 flags = FRAME_SHARED if shared else 0
        cdef bint run = contiguous
        mfns = numpy.empty(n, dtype=numpy.uint64)
        cdef u64[::1] out = mfns
        with nogil:
            rc = mem_alloc(&self.m, dom, count, &out[0] if count else NULL, run, flags)
        if rc:
            what = f"{n} adjacent frames" if contiguous else f"{n} frames"
            raise MemoryError(f"{what} wanted, {self.m.free_pages} are free")
        return mfns

    def free(self, mfns):
        """Give up the allocation of these frames.  A frame that is still mapped or granted is freed by the last user.

        Returns how many were freed at once.
        """
        cdef u64[::1] all = numpy.ascontiguousarray(mfns, dtype=numpy.uint64)
        cdef Py_ssize_t i
        cdef u64 before = self.m.free_pages, after
        cdef bint bad = False
        with nogil:
            spin_lock(&self.m.lock)
            before = self.m.free_pages
            for i in range(all.shape[0]):
                if not mem_free_frame(&self.m, all[i]):
                    bad = True
            after = self.m.free_pages
            spin_unlock(&self.m.lock)
        if bad:
            raise ValueError("a frame was not allocated")
        return after - before

    def get_page(self, mfn, domid):
        """One more reference to a frame that must be this domain's; False when it is not."""
        cdef bint ok
        cdef u64 number = mfn
        spin_lock(&self.m.lock)
        ok = get_page(&self.m, number, domid)
        spin_unlock(&self.m.lock)
        return ok

    def put_page(self, mfn):
        """Drop a reference given by get_page()."""
        cdef u64 number = self.check(mfn)
        cdef bint ok
        spin_lock(&self.m.lock)
        ok = self.m.frames[number].count > 0
        if ok:
            put_page(&self.m, number)
        spin_unlock(&self.m.lock)
        if not ok:
            raise ValueError(f"frame {mfn:#x} has no reference to drop")

    def get_page_type(self, mfn, int type):
        """One more use of a frame as PGT_writable_page (or another type); False when it is in use as something else."""
        cdef u64 number = self.check(mfn)
        cdef int rc
        with nogil:
            mem_lock(&self.m, NULL)
            rc = get_page_type(&self.m, NULL, number, type)
            mem_unlock(&self.m)
        return rc == 0

    def put_page_type(self, mfn):
        """End a use given by get_page_type()."""
        cdef u64 number = self.check(mfn)
        cdef bint ok
        with nogil:
            mem_lock(&self.m, NULL)
            ok = self.m.frames[number].type_count > 0
            if ok:
                put_page_type(&self.m, number)
            mem_unlock(&self.m)
        if not ok:
            raise ValueError(f"frame {mfn:#x} has no use to end")

    def free_domain(self, u32 domid):
        """A domain is gone and its vcpus are released: undo all its pinning, and give up all its frames."""
        cdef u64 i
        with nogil:
            for i in range(self.m.max_page):
                if self.m.frames[i].owner == domid and self.m.frames[i].flags & FRAME_PINNED:
                    unpin_table(&self.m, NULL, i, domid)
            spin_lock(&self.m.lock)
            for i in range(self.m.max_page):
                if self.m.frames[i].owner == domid and self.m.frames[i].flags & FRAME_ALLOCATED:
                    mem_free_frame(&self.m, i)
            spin_unlock(&self.m.lock)

    def owner(self, mfn):
        """The domid that owns the frame, or None when it is free."""
        owner = self.m.frames[self.check(mfn)].owner
        return None if owner == DOMID_INVALID else owner

    def type(self, mfn):
        """(PGT_* type, number of uses as that type)."""
        cdef Frame* f = &self.m.frames[self.check(mfn)]
        return f.type, f.type_count

    def count(self, mfn):
        """Number of references to the frame."""
        return self.m.frames[self.check(mfn)].count
