# What the MMU does, for --trace mmu: page walks that succeed and flushes, the last MMU_EVENTS of them, until they are read.
#
# Off (Cpu.mmu_trace is NULL) it costs a look at the pointer where a page table has been walked or a TLB was cleared; an access that
# hits the TLB has no part in it.  Accesses of tools from outside of run() are left out.

cdef void mmu_event(Cpu* c, u32 kind, u64 lin, u64 pa, u64 mfn, u32 rights, u32 shift) noexcept nogil:
    """One more; the oldest is lost when nobody has read them."""
    cdef MmuTrace* t = c.mmu_trace
    # SAFETY: the index is masked to the ring.
    cdef MmuEvent* e = &t.event[t.n & (MMU_EVENTS - 1)]
    e.kind, e.lin, e.pa, e.mfn, e.rights, e.shift = kind, lin, pa, mfn, rights, shift
    t.n += 1

cdef inline void mmu_flushed(Cpu* c, u32 kind, u64 what) noexcept nogil:
    """A flush: MMU_FLUSH_*, of a page or PCID."""
    if unlikely(c.mmu_trace != NULL):
        mmu_event(c, kind, what, 0, 0, 0, 0)
