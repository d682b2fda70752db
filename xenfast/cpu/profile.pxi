# Where the time goes: a sample at the end of every slice of the run loop (20,000 instructions, or less when something ended it), and the
# time of hypercalls in the core.  Off (Cpu.profile is NULL), it costs a look at the pointer each.
#
# A slice's time is put down to the place where it ended, so single figures are as good as samples are; hypercalls that leave run() end
# a slice and count for the place of the call.  The time of hypercalls in the core is in the samples too.

cdef void profile_sample(Cpu* c) noexcept nogil:
    """A slice has ended at c.rip."""
    cdef Profile* p = c.profile
    cdef u64 now = monotonic_ns()
    cdef u64 i = (c.rip * <u64>0x9E3779B97F4A7C15) >> 49
    cdef int tries
    cdef ProfileSlot* s
    for tries in range(16):
        # SAFETY: the index is masked to the table.
        s = &p.slot[(i + <u64>tries) & (PROFILE_SLOTS - 1)]
        if s.count == 0 or s.rip == c.rip:
            s.rip = c.rip
            s.ns += now - p.began
            s.count += 1
            s.user = c.tlb_index
            s.translated = is_translated(c)
            p.began = now
            return
    p.lost_ns += now - p.began
    p.began = now

cdef bint is_translated(Cpu* c) noexcept nogil:
    """Is the code at c.rip, or the block around it, host code?  (As far as the jump cache knows.)"""
    cdef JumpEntry* e = c.jc + jc_index(c.rip)
    return e.tag == (c.rip ^ c.jc_salt) and e.first.fn == T_JIT

cdef void profile_call(Cpu* c, u64 nr, u64 began) noexcept nogil:
    """A hypercall has been answered in the core, or has been found not to be the core's."""
    nr = nr if nr < 64 else 63
    c.profile.call_ns[nr] += monotonic_ns() - began
    c.profile.call_n[nr] += 1
