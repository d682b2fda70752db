# Page typing: what keeps a PV guest's page tables safe, although the guest writes them and they hold machine addresses.
#
# After xen/arch/x86/mm.c.  A frame has one type at a time, counted by its uses: writable, page table of level 1 to 4, or descriptor
# table.  The first use as a page table (or descriptor table) validates the contents: every entry takes a reference to the frame it
# names, and a use of it as the type that entry needs; the last use gives them back.  So no frame is mapped writable while the MMU walks
# it, and every frame a walk can reach belongs to the domain or was granted to it.
#
# Everything here is called with Mem.lock held.  `c` is the calling vcpu, or NULL for the host.  Left out against Xen: linear page
# tables other than a table that maps itself (what Xen does with pv-linear-pt=false), 32-bit guests, superpages.

cdef extern from *:
    """
    #define XF_GUEST_KERNEL (1ull << 52)
    #define XF_L1_DISALLOW ((1ull << 3) | (1ull << 4) | (1ull << 7) | (1ull << 62))
    #define XF_LX_DISALLOW ((1ull << 3) | (1ull << 4) | (1ull << 7) | (1ull << 8))
    #define XF_FASTPATH ((0xfffull << 52) | (7ull << 9) | (1ull << 8) | (1ull << 6) | (1ull << 5) | (1ull << 2))
    """
    u64 GUEST_KERNEL "XF_GUEST_KERNEL"      # Xen's mark for kernel mappings, since all of a guest's are user mappings
    u64 L1_DISALLOW "XF_L1_DISALLOW"        # PWT, PCD, PAT and Xen's grant bit
    u64 LX_DISALLOW "XF_LX_DISALLOW"        # PWT, PCD, PSE, G above level 1
    u64 FASTPATH "XF_FASTPATH"              # bits that may change without new references: NX, available, G, D, A, US

cdef enum:
    L4_XEN_FIRST = 256   # ROOT_PAGETABLE_FIRST_XEN_SLOT
    L4_XEN_LAST = 271

# Errors of hypercalls (xen/include/public/errno.h).
cdef enum:
    EPERM = 1
    ENOENT = 2
    ESRCH = 3
    EAGAIN = 11
    ENOMEM = 12
    EFAULT = 14
    EBUSY = 16
    ENODEV = 19
    EINVAL = 22
    ENOSYS = 38


cdef inline void mem_lock(Mem* m, Cpu* c) noexcept nogil:
    """Take Mem.lock from a hypercall.  Its holder may be waiting for this vcpu to flush its TLB, so do that meanwhile."""
    while not cas32(&m.lock, 0, 1):
        if c != NULL:
            serve_memory_requests(c)
        cpu_pause()

cdef inline void mem_unlock(Mem* m) noexcept nogil:
    spin_unlock(&m.lock)


# --- stale translations ----------------------------------------------------------------------------------------------
cdef inline bint flushed_since(Cpu* v, u64 stamp) noexcept nogil:
    return v.flush_time[0] > stamp and v.flush_time[1] > stamp

cdef void flush_stale(Mem* m, Cpu* c, u64 mfn) noexcept nogil:
    """The frame changes its type: no vcpu of its owner may still write it through an old translation, or be walking it.

    Xen's rule (_get_page_type): a vcpu that has flushed since the last use as the old type ended holds nothing of that use.
    """
    cdef Frame* f = &m.frames[mfn]
    cdef u32 owner = f.owner, i
    cdef Cpu* v
    for i in range(m.vcpu_top):
        v = m.vcpus[i]
        if v == NULL or v.pv == NULL or v.pv.domid != owner or flushed_since(v, f.stamp):
            continue
        if v == c:
            if f.type == PGT_writable_page:
                tlb_protect_frame(c, mfn)
        else:
            fetch_or(&v.req, REQ_FLUSH_PV)
    for i in range(m.vcpu_top):
        v = m.vcpus[i]
        if v != NULL and v != c and v.pv != NULL and v.pv.domid == owner:
            wait_flushed(c, v)

cdef void flush_all_stale(Mem* m, u64 stamp) noexcept nogil:
    """Frames that were free since the stamp get a new owner: no vcpu at all may reach them any more.  Mem.lock held, no caller."""
    cdef u32 i
    cdef Cpu* v
    for i in range(m.vcpu_top):
        v = m.vcpus[i]
        if v != NULL and not flushed_since(v, stamp):
            fetch_or(&v.req, REQ_FLUSH)
    for i in range(m.vcpu_top):
        if m.vcpus[i] != NULL:
            wait_flushed(NULL, m.vcpus[i])

cdef inline void wait_flushed(Cpu* c, Cpu* v) noexcept nogil:
    """A vcpu outside run() flushes before its next instruction; a running one is waited for."""
    while load_acquire(&v.in_run) and load_acquire(&v.req) & (REQ_FLUSH | REQ_FLUSH_PV):
        if c != NULL:
            serve_memory_requests(c)
        cpu_pause()


# --- types -----------------------------------------------------------------------------------------------------------
cdef int get_page_type(Mem* m, Cpu* c, u64 mfn, int type) noexcept nogil:
    """One more use of a frame as this type.  The caller holds a reference.  0, -EINVAL (it is something else), or what an entry gave."""
    cdef Frame* f = &m.frames[mfn]
    cdef int rc
    if f.type_count == 0:
        if f.type != type:
            if f.type != PGT_none:
                flush_stale(m, c, mfn)
            f.type = <u8>type
    elif f.type != type:
        return -EINVAL
    elif f.type_count >= COUNT_MAX:
        return -EBUSY
    f.type_count += 1
    if f.type_count > 1:
        # A table that is being validated names itself one level down: not valid yet, so not usable as such.
        return 0 if type == PGT_writable_page or f.flags & FRAME_VALIDATED else put_unvalidated(f)
    if type == PGT_writable_page:
        return 0
    rc = validate_descriptors(m, mfn) if type == PGT_seg_desc_page else validate_table(m, c, mfn, type)
    if rc:
        f.type_count = 0
        f.stamp = m.flush_clock
        return rc
    f.flags |= FRAME_VALIDATED
    return 0

cdef inline int put_unvalidated(Frame* f) noexcept nogil:
    f.type_count -= 1
    return -EINVAL

cdef void put_page_type(Mem* m, u64 mfn) noexcept nogil:
    """Give back a use of a frame as its type; the last one gives back what the table's entries hold."""
    cdef Frame* f = &m.frames[mfn]
    f.type_count -= 1
    if f.type_count:
        return
    f.stamp = m.flush_clock
    if f.flags & FRAME_VALIDATED:
        f.flags &= ~<u8>FRAME_VALIDATED
        if f.type <= PGT_l4_page_table:
            devalidate_table(m, mfn, f.type, 512)

cdef int get_page_and_type(Mem* m, Cpu* c, u64 mfn, u32 domid, int type) noexcept nogil:
    cdef int rc
    if not get_page(m, mfn, domid):
        return -EINVAL
    rc = get_page_type(m, c, mfn, type)
    if rc:
        put_page(m, mfn)
    return rc

cdef inline void put_page_and_type(Mem* m, u64 mfn) noexcept nogil:
    put_page_type(m, mfn)
    put_page(m, mfn)


# --- entries ---------------------------------------------------------------------------------------------------------
cdef inline bint is_xen_slot(int level, u32 index) noexcept nogil:
    return level == 4 and index >= L4_XEN_FIRST and index <= L4_XEN_LAST

cdef inline u64 adjust_entry(int level, u64 e) noexcept nogil:
    """What Xen makes of a present entry: a user mapping, with a mark (and no G) for what the guest meant to be its kernel's."""
    if not e & PTE_P:
        return e
    if level > 1:
        return e | PTE_US
    if not e & PTE_US:
        e |= GUEST_KERNEL
    if not e & GUEST_KERNEL:
        e |= PTE_G
    return e | PTE_US

cdef int get_entry(Mem* m, Cpu* c, u64 table, int level, u64 e) noexcept nogil:
    """Take the references of one entry of a table.  0 or -errno (xen: get_page_from_l1e .. get_page_from_l4e)."""
    cdef u64 mfn = (e & PTE_ADDR) >> PAGE_SHIFT
    cdef u32 domid = m.frames[table].owner
    cdef int rc
    if not e & PTE_P:
        return 0
    if level > 1:
        if e & LX_DISALLOW:
            return -EINVAL
        if mfn == table:
            return -EINVAL if e & PTE_RW else 0       # a table that maps itself, read-only: allowed, and not counted
        return get_page_and_type(m, c, mfn, domid, level - 1)
    if e & L1_DISALLOW or mfn >= m.max_page:
        return -EINVAL
    if not get_page(m, mfn, domid):
        return -EBUSY
    if e & PTE_RW and get_page_type(m, c, mfn, PGT_writable_page):
        put_page(m, mfn)
        return -EBUSY
    return 0

cdef void put_entry(Mem* m, u64 table, int level, u64 e) noexcept nogil:
    """Give back the references of one entry."""
    cdef u64 mfn = (e & PTE_ADDR) >> PAGE_SHIFT
    if not e & PTE_P or (level > 1 and mfn == table):
        return
    if level > 1 or e & PTE_RW:
        put_page_type(m, mfn)
    put_page(m, mfn)

cdef int validate_table(Mem* m, Cpu* c, u64 mfn, int level) noexcept nogil:
    """First use as a page table.  Recurses at most four levels deep: a table is validated once, however often it is named."""
    cdef u64* p = <u64*>frame_host(m, mfn)
    cdef u32 i
    cdef int rc
    cdef u64 e
    m.frames[mfn].linear = 0
    for i in range(512):
        e = p[i]
        if is_xen_slot(level, i):
            p[i] = 0
            continue
        if not e & PTE_P:
            continue
        rc = get_entry(m, c, mfn, level, e)
        if rc:
            devalidate_table(m, mfn, level, i)
            return rc
        p[i] = adjust_entry(level, e)
    if m.frames[mfn].code:
        frame_written(m, mfn)
    return 0

cdef void devalidate_table(Mem* m, u64 mfn, int level, u32 count) noexcept nogil:
    """Give back what the first `count` entries hold."""
    cdef u64* p = <u64*>frame_host(m, mfn)
    cdef u32 i
    for i in range(count):
        if p[i] & PTE_P:
            put_entry(m, mfn, level, p[i])

cdef int mod_entry(Mem* m, Cpu* c, u64 table, u32 index, int level, u64 new, bint keep_ad) noexcept nogil:
    """Change one entry of a valid table (xen: mod_l1_entry .. mod_l4_entry).  0 or -errno, the entry then unchanged."""
    return mod_entry_if(m, c, table, index, level, new, keep_ad, NULL)

cdef int mod_entry_if(Mem* m, Cpu* c, u64 table, u32 index, int level, u64 new, bint keep_ad,
                      const u64* expect) noexcept nogil:
    """The same, and -EAGAIN when the entry is not, or does not stay, what the caller expects."""
    # SAFETY: table is a frame of this type, so it exists; index comes from 12 bits of an address, divided by 8.
    cdef u64* p = <u64*>frame_host(m, table) + (index & 511)
    cdef u64 old = p[0], now
    cdef int rc
    if is_xen_slot(level, index):
        return -EINVAL
    if new & PTE_P:
        if new & (L1_DISALLOW if level == 1 else LX_DISALLOW):
            return -EINVAL
        if not (old & PTE_P and ((old ^ new) & ~FASTPATH) == 0):
            rc = get_entry(m, c, table, level, new)
            if rc:
                return rc
            rc = 1
        else:
            rc = 0
        new = adjust_entry(level, new)
    else:
        rc = 1
    while True:                                       # other vcpus' walks may set A and D at any time
        now = p[0]
        if expect != NULL and now != expect[0]:
            if rc and new & PTE_P:
                put_entry(m, table, level, new)
            return -EAGAIN
        if cas64(p, now, new | (now & (PTE_A | PTE_D)) if keep_ad else new):
            break
    entry_changed(m, table, index & 511, level, now, new | (now & (PTE_A | PTE_D)) if keep_ad else new)
    if m.frames[table].code:
        frame_written(m, table)
    if rc:
        put_entry(m, table, level, old)
    return 0
