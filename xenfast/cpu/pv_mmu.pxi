# Page-table hypercalls of PV guests: mmu_update, update_va_mapping; writable page tables; Xen's own area; grant entries; CR3.
#
# xen/include/public/xen.h (HYPERVISOR_mmu_update and following) for the interface, xen/arch/x86/mm.c and pv/ro-page-fault.c for the
# behaviour.  Foreign domains (FOREIGNDOM) are refused: no PV guest of ours is privileged, domain 0 is not one.

cdef extern from *:
    """
    #define XF_RDWR_MPT_START 0xFFFF800000000000ull
    #define XF_M2P_BESIDE 0xFFFF8080002A0000ull
    #define XF_HC_AGAIN (-0x10001ll)
    #define XF_HC_PYTHON (-0x10002ll)
    #define XF_HC_DONE (-0x10003ll)
    #define XF_HC_EXIT (-0x10004ll)
    """
    u64 RO_MPT_VIRT_START "XF_RDWR_MPT_START"    # where a guest reads the M2P (MACH2PHYS_VIRT_START)
    u64 M2P_BESIDE "XF_M2P_BESIDE"   # and again here, in other slots of the TLB than the start of the guest's vmalloc area, its stacks
    # What a hypercall returns when it has no value for RAX:
    i64 HC_AGAIN "XF_HC_AGAIN"       # preempted: to be made again with PvState.again as arguments
    i64 HC_PYTHON "XF_HC_PYTHON"     # not the core's: EXIT_HYPERCALL
    i64 HC_DONE "XF_HC_DONE"         # has set all registers itself (iret)
    i64 HC_EXIT "XF_HC_EXIT"         # returns 0, and run() is left: Cpu.exit is filled

cdef enum:
    MMU_NORMAL_PT_UPDATE = 0
    MMU_MACHPHYS_UPDATE = 1
    MMU_PT_UPDATE_PRESERVE_AD = 2
    MMU_PT_UPDATE_NO_TRANSLATE = 3
    UVMF_FLUSHTYPE_MASK = 3
    UVMF_TLB_FLUSH = 1
    UVMF_INVLPG = 2
    UVMF_ALL = 4
    VMASST_WRITABLE_PAGETABLES = 2
    MMU_BATCH = 4096                 # requests served before the vcpu looks at its own requests again

cdef extern from *:
    """
    #define XF_MMU_PREEMPTED (1ull << 31)
    """
    u64 MMU_UPDATE_PREEMPTED "XF_MMU_PREEMPTED"


# --- guest memory as hypercall arguments -----------------------------------------------------------------------------
cdef inline bint access_ok(u64 lin, u64 n) noexcept nogil:
    """Xen copies to and from guest addresses outside its own area only."""
    cdef u64 last = lin + n - 1
    return (canonical(lin) and canonical(last) and last >= lin and not (lin < XEN_VIRT_END and last >= XEN_VIRT_START))

cdef inline int pv_read(Cpu* c, u64 lin, u64 n, void* out) noexcept nogil:
    """Up to 4096 bytes from the guest kernel; 0 or -EFAULT."""
    return 0 if access_ok(lin, n) and mem_read_n(c, lin, n, out) == ST_OK else -EFAULT

cdef inline int pv_write(Cpu* c, u64 lin, u64 n, const void* data) noexcept nogil:
    return 0 if access_ok(lin, n) and mem_write_n(c, lin, n, data) == ST_OK else -EFAULT


# --- mmu_update ------------------------------------------------------------------------------------------------------
cdef int foreign_ok(Cpu* c, u64 domid) noexcept nogil:
    """A guest's own DOMID_SELF only (xen: get_pg_owner)."""
    if domid == DOMID_SELF:
        return 0
    return -ESRCH if domid == c.pv.domid else -EPERM

cdef i64 pv_mmu_update(Cpu* c, u64* a) noexcept nogil:
    """mmu_update(reqs, count, pdone, foreigndom): struct mmu_update is {u64 ptr, val}."""
    cdef u64 reqs = a[0], count = <u32>a[1], pdone = a[2], i = 0, left
    cdef u64 req[2]
    cdef u32 done = 0
    cdef int rc = 0
    if count & MMU_UPDATE_PREEMPTED:
        count &= ~MMU_UPDATE_PREEMPTED
        if pdone:
            pv_read(c, pdone, 4, &done)
    if <u32>a[3] >> 16:
        return -EPERM
    rc = foreign_ok(c, a[3] & 0xFFFF)
    if rc:
        return rc
    while i < count:
        if i == MMU_BATCH or (i and c.req):
            break
        rc = pv_read(c, reqs, 16, req)
        if rc:
            break
        rc = mmu_update_one(c, req[0], req[1])
        if rc:
            break
        i += 1
        reqs += 16
    done += <u32>i
    if pdone:
        pv_write(c, pdone, 4, &done)
    left = count - i
    if rc == 0 and left:
        c.pv.again[0], c.pv.again[1] = reqs, left | MMU_UPDATE_PREEMPTED
        c.pv.again[2], c.pv.again[3] = pdone, a[3]
        return HC_AGAIN
    return rc

cdef int mmu_update_one(Cpu* c, u64 ptr, u64 val) noexcept nogil:
    cdef Mem* m = c.mem
    cdef int cmd = ptr & 3, rc = -EINVAL
    cdef u64 mfn = ptr >> PAGE_SHIFT
    mem_lock(m, c)
    if get_page(m, mfn, c.pv.domid):
        if cmd == MMU_MACHPHYS_UPDATE:
            m.m2p[mfn] = val
            rc = 0
        else:
            rc = update_pte(c, mfn, <u32>(ptr & 0xFFF) >> 3, val, cmd == MMU_PT_UPDATE_PRESERVE_AD)
        put_page(m, mfn)
    mem_unlock(m)
    return rc

cdef int update_pte(Cpu* c, u64 mfn, u32 index, u64 val, bint keep_ad) noexcept nogil:
    """An entry of a page table; or, as Xen allows, a word of a frame that is used for nothing or as plain memory."""
    cdef Mem* m = c.mem
    cdef Frame* f = &m.frames[mfn]
    cdef int rc
    if f.type_count and f.type >= PGT_l1_page_table and f.type <= PGT_l4_page_table:
        return mod_entry(m, c, mfn, index, f.type, val, keep_ad)
    rc = get_page_type(m, c, mfn, PGT_writable_page)
    if rc:
        return rc
    # SAFETY: index is (12 bits) >> 3.
    (<u64*>frame_host(m, mfn))[index & 511] = val
    if f.code:
        frame_written(m, mfn)
    put_page_type(m, mfn)
    return 0


# --- update_va_mapping -----------------------------------------------------------------------------------------------
cdef u64* guest_l1e(Cpu* c, u64 va, u64* table) noexcept nogil:
    """The level-1 entry that maps va in the guest kernel's page tables, or NULL; *table is its frame.  Mem.lock held.

    The tables are valid, so every frame on the way exists.  By way of a table that maps itself the last one may be of any level.
    """
    cdef u64 mfn = c.pv.cr3_kernel >> PAGE_SHIFT, e
    cdef int shift = 39
    while shift > 12:
        # SAFETY: mfn is the L4 in use or was named by an entry of a valid table; the index is masked.
        e = (<u64*>frame_host(c.mem, mfn))[(va >> shift) & 511]
        if not e & PTE_P:
            return NULL
        mfn = (e & PTE_ADDR) >> PAGE_SHIFT
        shift -= 9
    table[0] = mfn
    return <u64*>frame_host(c.mem, mfn) + ((va >> 12) & 511)

cdef i64 pv_update_va_mapping(Cpu* c, u64* a) noexcept nogil:
    """update_va_mapping(va, val, flags)"""
    cdef u64 va = a[0], table = 0
    cdef int rc = -EINVAL
    cdef Mem* m = c.mem
    if not access_ok(va, 1):
        return -EINVAL
    mem_lock(m, c)
    if guest_l1e(c, va, &table) != NULL and m.frames[table].type == PGT_l1_page_table:
        rc = mod_entry(m, c, table, <u32>(va >> 12) & 511, 1, a[1], False)
    mem_unlock(m)
    return uvmf_flush(c, va, a[2], rc)

cdef i64 uvmf_flush(Cpu* c, u64 va, u64 flags, int rc) noexcept nogil:
    cdef u64 who = flags & ~<u64>UVMF_FLUSHTYPE_MASK, mask = ~<u64>0
    cdef int kind = flags & UVMF_FLUSHTYPE_MASK
    if kind != UVMF_TLB_FLUSH and kind != UVMF_INVLPG:
        return rc
    if who == 0:
        mask = 0
    elif who != UVMF_ALL:
        if pv_read(c, who, 8, &mask):
            return -EFAULT
    if who == 0 or mask & ((<u64>1 << (c.pv.vcpu_id & 63))):
        if kind == UVMF_TLB_FLUSH:
            tlb_flush_pv(c, True, True, True)
        else:
            tlb_flush_page(c, va)
    if who:
        flush_others(c, mask)
    return rc

cdef i64 pv_update_va_mapping_otherdomain(Cpu* c, u64* a) noexcept nogil:
    cdef int rc = foreign_ok(c, a[3] & 0xFFFF)
    return rc if rc else pv_update_va_mapping(c, a)

cdef void flush_others(Cpu* c, u64 mask) noexcept nogil:
    """Flush the TLBs of other vcpus of the domain: bit n for vcpu n; those from 64 on always."""
    cdef PvDom* d = c.pv.domain
    cdef int i
    for i in range(PV_MAX_VCPUS):
        if d.vcpus[i] != NULL and d.vcpus[i] != c and (i >= 64 or mask & (<u64>1 << (i & 63))):
            fetch_or(&d.vcpus[i].req, REQ_FLUSH_PV)
    for i in range(PV_MAX_VCPUS):
        if d.vcpus[i] != NULL and d.vcpus[i] != c:
            wait_flushed(c, d.vcpus[i])


# --- CR3 -------------------------------------------------------------------------------------------------------------
cdef int set_cr3(Mem* m, Cpu* c, PvState* pv, u64 mfn, bint user) noexcept nogil:
    """Load the L4 of one mode (xen: new_guest_cr3).  Mem.lock held.  mfn 0 in user mode: none."""
    cdef u64* cr3 = &pv.cr3_user if user else &pv.cr3_kernel
    cdef u64 old = cr3[0] >> PAGE_SHIFT
    cdef int rc
    if mfn == 0 and not user:
        return -EINVAL                                # frame 0 is no CR3
    if mfn:
        rc = get_page_and_type(m, c, mfn, pv.domid, PGT_l4_page_table)
        if rc:
            return rc
    cr3[0] = mfn << PAGE_SHIFT
    if old:
        put_page_and_type(m, old)
    return 0


# --- writable page tables --------------------------------------------------------------------------------------------
cdef bint pv_may_fixup(Cpu* c, u64 lin) noexcept nogil:
    """Is lin a guest kernel's read-only view of one of its L1 tables, with VMASST_TYPE_writable_pagetables on?"""
    cdef u64 table = 0
    cdef bint ok
    if not c.pv.kernel_mode or not c.pv.domain.vm_assist & (1 << VMASST_WRITABLE_PAGETABLES) or not access_ok(lin, 1):
        return False
    mem_lock(c.mem, c)
    ok = ptwr_target(c, lin, &table)
    mem_unlock(c.mem)
    return ok

cdef bint ptwr_target(Cpu* c, u64 lin, u64* mfn) noexcept nogil:
    """The L1 table that lin maps read-only.  Mem.lock held."""
    cdef u64 table = 0
    cdef u64* p = guest_l1e(c, lin, &table)
    cdef Frame* f
    if p == NULL or p[0] & (PTE_P | PTE_RW) != PTE_P:
        return False
    mfn[0] = (p[0] & PTE_ADDR) >> PAGE_SHIFT
    f = &c.mem.frames[mfn[0]]
    return f.owner == c.pv.domid and f.type == PGT_l1_page_table and f.type_count > 0

cdef int pv_fixup_write(Cpu* c, u64 lin, int size, u64 v) noexcept nogil:
    """A write of the guest kernel faulted (in Cpu.exc_*).  If it is one to an L1 table, do it as mmu_update would (ptwr)."""
    return ptwr_write(c, lin, size, v, NULL)

cdef int pv_fixup_rmw(Cpu* c, u64 lin, int size, u64 was, u64 v) noexcept nogil:
    """The same for a read-modify-write: RMW_AGAIN when the entry is no longer what was read (a walk has set A or D)."""
    return ptwr_write(c, lin, size, v, &was)

cdef int ptwr_write(Cpu* c, u64 lin, int size, u64 v, const u64* was) noexcept nogil:
    cdef u64 mfn = 0, old, keep
    cdef int shift = 8 * (lin & 7), rc = -EINVAL
    if c.exc_vector != X_PF or not c.exc_error & PF_P or not c.pv.kernel_mode or (lin & 7) + size > 8:
        return ST_FAULT
    if not c.pv.domain.vm_assist & (1 << VMASST_WRITABLE_PAGETABLES) or not access_ok(lin, size):
        return ST_FAULT
    mem_lock(c.mem, c)
    if ptwr_target(c, lin, &mfn):
        old = (<u64*>frame_host(c.mem, mfn))[(lin & 0xFFF) >> 3]
        keep = 0 if size == 8 else ~(((<u64>1 << (8 * size)) - 1) << shift)
        if was != NULL and (old ^ was[0] << shift) & ~keep:
            rc = -EAGAIN
        else:
            rc = mod_entry_if(c.mem, c, mfn, <u32>(lin & 0xFFF) >> 3, 1, (old & keep) | ((v << shift) & ~keep), False,
                              &old if was != NULL else NULL)
    mem_unlock(c.mem)
    if rc == -EAGAIN and was != NULL:
        return RMW_AGAIN
    return ST_OK if rc == 0 else ST_FAULT


# --- Xen's area ------------------------------------------------------------------------------------------------------
cdef int pv_xen_area(Cpu* c, u64 lin, int access, u8** host) noexcept nogil:
    """An address in Xen's 16 slots: the guest kernel may read the M2P, all else faults (as with VMASST m2p_strict)."""
    cdef u64 off = lin - (M2P_BESIDE if lin >= M2P_BESIDE else RO_MPT_VIRT_START)
    cdef TlbEntry* e
    if access != ACC_READ or off >= c.mem.m2p_bytes or not c.pv.kernel_mode:
        return page_fault(c, lin, (PF_W if access == ACC_WRITE else 0) | (PF_I if access == ACC_EXEC else 0) | PF_U
                          | (PF_P if off < c.mem.m2p_bytes else 0))
    # SAFETY: off < m2p_bytes, which is a whole number of pages, so the page the TLB entry maps is inside the table.  The entry need not
    # be noted for flushes: the table stays where it is.
    host[0] = <u8*>c.mem.m2p + off
    e = tlb_slot(c.tlb, lin)
    e.wtag = e.xtag = invalid_tag(lin)
    e.rtag = lin & ~<u64>0xFFF
    e.add = <i64>(<u64>host[0] - lin)
    return ST_OK


# --- grant mappings --------------------------------------------------------------------------------------------------
cdef int grant_slot(Cpu* c, u64 addr, bint contains_pte, u64* table) noexcept nogil:
    """Index of the L1 entry a grant operation names: by its machine address, or by the address it maps.  -1: none.  Lock held."""
    cdef Frame* f
    if contains_pte:
        if addr & 7 or addr >> PAGE_SHIFT >= c.mem.max_page:
            return -1
        table[0] = addr >> PAGE_SHIFT
    elif not access_ok(addr, 1) or guest_l1e(c, addr, table) == NULL:
        return -1
    f = &c.mem.frames[table[0]]
    if f.owner != c.pv.domid or f.type != PGT_l1_page_table or f.type_count == 0:
        return -1
    return (addr & 0xFFF) >> 3 if contains_pte else (addr >> 12) & 511

cdef int grant_map_pte(Cpu* c, u64 addr, bint contains_pte, u64 mfn, u64 flags) noexcept nogil:
    """Put a granted frame into an L1 entry of the guest (xen: create_grant_pv_mapping).  The entry takes its own references.

    The host has checked the grant and holds the frame.  0 or -errno.
    """
    cdef Mem* m = c.mem
    cdef u64 table = 0, old, e = (mfn << PAGE_SHIFT) | flags
    cdef u64* p
    cdef int index, rc = -EINVAL
    mem_lock(m, c)
    index = grant_slot(c, addr, contains_pte, &table)
    if index >= 0 and mfn < m.max_page and get_page(m, mfn, m.frames[mfn].owner):
        rc = get_page_type(m, c, mfn, PGT_writable_page) if e & PTE_RW else 0
        if rc:
            put_page(m, mfn)
        else:
            # SAFETY: table is a live L1 frame, index below 512.
            p = <u64*>frame_host(m, table) + index
            old = p[0]
            p[0] = adjust_entry(1, e)
            entry_changed(m, table, <u32>index, 1, old, p[0])
            put_entry(m, table, 1, old)
    mem_unlock(m)
    return rc

cdef int grant_unmap_pte(Cpu* c, u64 addr, bint contains_pte, u64 mfn, u64 new) noexcept nogil:
    """Take a granted frame out of an L1 entry (xen: replace_grant_pv_mapping), and flush.  -ENOENT: the entry maps something else.

    `new` is 0, or the address whose L1 entry is to be moved there (GNTTABOP_unmap_and_replace).
    """
    cdef Mem* m = c.mem
    cdef u64 table = 0, source = 0, old, put = 0
    cdef u64* p
    cdef u64* q
    cdef int index, rc = -EINVAL
    mem_lock(m, c)
    index = grant_slot(c, addr, contains_pte, &table)
    if index >= 0:
        p = <u64*>frame_host(m, table) + index
        old = p[0]
        rc = -ENOENT
        if old & PTE_P and (old & PTE_ADDR) >> PAGE_SHIFT == mfn:
            rc = 0
            if new:
                q = guest_l1e(c, new, &source) if access_ok(new, 1) else NULL
                if q == NULL or m.frames[source].type != PGT_l1_page_table or q == p:
                    rc = -EINVAL
                else:
                    put = q[0]
                    q[0] = 0
                    entry_changed(m, source, <u32>(new >> 12) & 511, 1, put, 0)
            if rc == 0:
                p[0] = put
                entry_changed(m, table, <u32>index, 1, old, put)
                put_entry(m, table, 1, old)
    mem_unlock(m)
    if rc == 0:
        tlb_flush_pv(c, True, True, True)
        flush_others(c, ~<u64>0)
    return rc
