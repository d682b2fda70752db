# PvDomain: what the core keeps for a PV domain, as Python sees it; and how Python code enters the core on a vcpu's behalf.

PGT_NAMES = {0: "none", 1: "l1", 2: "l2", 3: "l3", 4: "l4", 5: "seg_desc", 7: "writable"}


cdef void enter_core(Cpu* c) noexcept nogil:
    """As run() does: from here on others wait for this vcpu's TLB flushes, and it uses no stale translation."""
    store_release(&c.in_run, 1)
    serve_memory_requests(c)

cdef void leave_core(Cpu* c) noexcept nogil:
    c.code_hit = 0
    serve_memory_requests(c)
    store_release(&c.in_run, 0)

cdef bint copy_kernel(Cpu* c, u64 lin, u64 n, u8* p, bint write) noexcept nogil:
    """Copy with the guest kernel's page tables, whichever mode the vcpu is in."""
    cdef u8 mode = c.pv.kernel_mode
    cdef u64 at = 0, k
    cdef int rc = 0
    if not access_ok(lin, n) or c.pv.cr3_kernel == 0:
        return False
    enter_core(c)
    c.pv.kernel_mode = 1
    c.tlb_index, c.tlb = 0, c.tlbs[0]
    while at < n and rc == 0:
        k = min(4096 - ((lin + at) & 4095), n - at)
        rc = pv_write(c, lin + at, k, p + at) if write else pv_read(c, lin + at, k, p + at)
        at += k
    c.pv.kernel_mode = mode
    c.tlb_index = not mode
    c.tlb = c.tlbs[c.tlb_index]
    leave_core(c)
    return rc == 0


cdef class PvDomain:
    """What the core keeps for a PV domain: its number, its options, its vcpus; and the page types of its frames.

    Methods that a guest's hypercall also has return 0 or -errno.
    """

    cdef PvDom d
    cdef readonly object memory

    def __cinit__(self, Memory memory, u32 domid):
        self.memory = memory
        self.d.mem = &memory.m
        self.d.domid = domid
        self.d.version = 4 << 16 | 17

    @property
    def domid(self):
        return self.d.domid

    @property
    def vm_assist(self):
        """Bit per VMASST_TYPE, as vm_assist() has set them."""
        return self.d.vm_assist

    @vm_assist.setter
    def vm_assist(self, u64 value):
        self.d.vm_assist = value & VM_ASSIST_VALID

    @property
    def version(self):
        """What xen_version(XENVER_version) answers: major << 16 | minor."""
        return self.d.version

    @version.setter
    def version(self, u32 value):
        self.d.version = value

    def pin(self, u64 mfn, int level=4):
        """Validate a page table, with all below it, and hold it as one of its level, as MMUEXT_PIN_Lx_TABLE does."""
        cdef int rc
        if not 1 <= level <= 4:
            raise ValueError(f"no page-table level {level}")
        with nogil:
            rc = pin_table(self.d.mem, NULL, mfn, self.d.domid, level)
        return rc

    def unpin(self, u64 mfn):
        """As MMUEXT_UNPIN_TABLE."""
        cdef int rc
        with nogil:
            rc = unpin_table(self.d.mem, NULL, mfn, self.d.domid)
        return rc

    def pin_l4(self, u64 mfn):
        """The domain builder: write the boot page tables through Memory.array(), then this validates them all in one go."""
        return self.pin(mfn, 4)

    def validate(self, u64 mfn, int level=4):
        """Would the table be accepted?  0 or -errno; holds nothing."""
        cdef int rc = self.pin(mfn, level)
        return rc if rc else self.unpin(mfn)

    def get_page_and_type(self, u64 mfn, int type):
        """A reference to a frame of the domain and a use of it as PGT_writable_page, a table, ...; 0 or -errno."""
        cdef int rc
        if not PGT_l1_page_table <= type <= PGT_writable_page or type == 6:
            raise ValueError(f"no page type {type}")
        with nogil:
            mem_lock(self.d.mem, NULL)
            rc = get_page_and_type(self.d.mem, NULL, mfn, self.d.domid, type)
            mem_unlock(self.d.mem)
        return rc

    def put_page_and_type(self, u64 mfn):
        """Give back what get_page_and_type() gave."""
        (<Memory>self.memory).check(mfn)
        with nogil:
            mem_lock(self.d.mem, NULL)
            put_page_and_type(self.d.mem, mfn)
            mem_unlock(self.d.mem)

    def flush_tlb(self):
        """Flush the TLBs of all vcpus; those that run have done so on return."""
        cdef int i
        with nogil:
            for i in range(PV_MAX_VCPUS):
                if self.d.vcpus[i] != NULL:
                    fetch_or(&self.d.vcpus[i].req, REQ_FLUSH)
            for i in range(PV_MAX_VCPUS):
                if self.d.vcpus[i] != NULL:
                    wait_flushed(NULL, self.d.vcpus[i])

    def release_page_tables(self):
        """The domain is dying and its vcpus are released: undo all pinning, so that its frames can be freed."""
        cdef u64 i
        cdef Mem* m = self.d.mem
        with nogil:
            for i in range(m.max_page):
                if m.frames[i].owner == self.d.domid and m.frames[i].flags & FRAME_PINNED:
                    unpin_table(m, NULL, i, self.d.domid)
