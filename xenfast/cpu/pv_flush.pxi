# TLB flushes of PV guests, which keep what the guest's kernel has mapped and not changed.
#
# A PV guest flushes all the time: at every change of its address space, and for every page whose protection changes.  A real processor
# forgets the kernel's translations with the rest, as Xen does not make them global.  Here refilling costs more, and more hangs from
# them (the jump cache, the sites of translated code); but every change of a page table passes through us.  So kernel mappings
# are kept as global translations, and what is withdrawn from them is listed (KernelChanges): the next flush forgets that.
#
# A kernel mapping is one of the upper half, met in kernel mode.  The list wants its linear address, which a change of an entry does
# not tell: a walk that makes a global translation notes at the L1 table (Frame.linear) where the table was met.  What is in a
# table that no walk has met is in no TLB.
#
# SAFETY: a global translation is always one that a walk of the present tables from the present CR3 would make, or one whose change is
# listed after Cpu.kernel_seen.  CR3: kernel_half_same().  Tables that are taken out: entry_changed() for levels above 1.

cdef enum:
    LINEAR_KNOWN = 1         # Frame.linear: an address, with this bit
    LINEAR_MANY = 2          # met in several places

cdef u64 CHANGE_ALL = 1

cdef inline KernelChanges* changes_of(Mem* m, u32 domid) noexcept nogil:
    return &m.kernel[domid & (CHANGE_LISTS - 1)]

cdef bint kernel_table_met(Cpu* c, u64 mfn, u64 lin) noexcept nogil:
    """A walk has come to this L1 table, for lin.  False: that was not known yet, so read the entry again."""
    cdef Frame* f = &c.mem.frames[mfn]
    cdef u64 here = (lin & ~<u64>0x1FFFFF) | LINEAR_KNOWN, was = load_acquire64(&f.linear)
    if likely(was == here or was == LINEAR_MANY):
        return True
    cas64(&f.linear, was, here if was == 0 else LINEAR_MANY)
    return False

cdef void kernel_changed(Mem* m, u32 domid, u64 lin) noexcept nogil:
    """Mem.lock held."""
    cdef KernelChanges* k = changes_of(m, domid)
    store_release64(&k.lin[k.clock & (CHANGES - 1)], lin)
    store_release64(&k.clock, k.clock + 1)

cdef bint table_empty(Mem* m, u64 mfn) noexcept nogil:
    cdef u64* p = <u64*>frame_host(m, mfn)
    cdef u64 any_ = 0
    cdef int i
    for i in range(512):
        any_ |= p[i]
    return not any_ & PTE_P

cdef void entry_changed(Mem* m, u64 table, u32 index, int level, u64 old, u64 new) noexcept nogil:
    """An entry of a table in use has been replaced: what a TLB may not know any more is listed.  Mem.lock held."""
    cdef Frame* f = &m.frames[table]
    cdef u64 mfn = (old & PTE_ADDR) >> PAGE_SHIFT
    if not old & PTE_P:
        return
    if new & PTE_P and (old ^ new) & PTE_ADDR == 0 and not (old & ~new) & (PTE_RW | PTE_A | PTE_D) and not (new & ~old) & PTE_NX:
        return
    if level > 1:
        if mfn == table or not table_empty(m, mfn):
            kernel_changed(m, f.owner, CHANGE_ALL)
    elif f.linear:
        kernel_changed(m, f.owner, CHANGE_ALL if f.linear == LINEAR_MANY else (f.linear & ~<u64>0x1FFFFF) | <u64>index << 12)

cdef bint kernel_half_same(Mem* m, u64 a, u64 b) noexcept nogil:
    """Do two L4 tables name the same tables for the guest's kernel?"""
    cdef u64* p = <u64*>frame_host(m, a)
    cdef u64* q = <u64*>frame_host(m, b)
    cdef u64 differ = 0
    cdef int i
    for i in range(L4_XEN_FIRST, 512):
        differ |= p[i] ^ q[i]
    return differ & ~<u64>(PTE_A | PTE_D) == 0

cdef bint forget_changes(Cpu* c) noexcept nogil:
    """Forget the global translations of the kernel's TLB that have changed since the last flush; False: it takes a flush of all."""
    cdef KernelChanges* k = changes_of(c.mem, c.pv.domid)
    cdef u64 now = load_acquire64(&k.clock), i, lin
    cdef u64 seen = c.kernel_seen
    c.kernel_seen = now
    if now == seen:
        return True
    if now - seen > CHANGES // 4:
        return False
    for i in range(seen, now):
        lin = load_acquire64(&k.lin[i & (CHANGES - 1)])
        if lin == CHANGE_ALL:
            return False
        tlb_forget_page(c, c.tlbs[0], &c.notes[0], lin)
        sites_forget_page(c, lin)
    return load_acquire64(&k.clock) - seen <= CHANGES // 2     # others have not overwritten what was read

cdef void tlb_flush_pv(Cpu* c, bint kernel, bint user, bint same) noexcept nogil:
    """A flush the guest asked for, of one TLB or both.  same: the kernel's translations need not go as such."""
    mmu_flushed(c, MMU_FLUSH_ALL if kernel and user else MMU_FLUSH_USER if user else MMU_FLUSH_KERNEL, 0)
    c.stat[STAT_TLB_FLUSHES] += 1
    sites_forget_some(c, 0)
    if kernel:
        if forget_changes(c) and same:
            tlb_clear_local(c.tlbs[0], &c.notes[0])
            if c.notes[0].jc_local:
                jc_forget(c, &c.notes[0])
        else:
            sites_forget_some(c, 1)
            tlb_clear(c.tlbs[0], &c.notes[0])
            jc_forget(c, &c.notes[0])
        c.flush_time[0] = add_fetch64(&c.mem.flush_clock, 1)
    if user:
        tlb_clear(c.tlbs[1], &c.notes[1])
        jc_forget(c, &c.notes[1])
        c.flush_time[1] = add_fetch64(&c.mem.flush_clock, 1)
    jc_salt(c)
