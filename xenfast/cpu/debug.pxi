# Debug registers: breakpoints on instructions and data.
#
# SDM Vol. 3, ch. 17.2 and 17.3.  Off, they cost nothing: the run loop looks at Cpu.bp_on where it decides whether to step.  On, every
# instruction is stepped, and the pages of data breakpoints stay out of the TLB, so that accesses to them come through the slow
# path, which calls watch().  Left out: I/O breakpoints (CR4.DE with R/W = 10).

cdef enum:
    BP_EXEC = 1          # Cpu.bp_on
    BP_DATA = 2
    BP_DEBUG = 3
    BP_HOOK = 4          # memory hooks (hooks.pxi): their pages stay out of the TLB too, but nothing is stepped
    BP_LOOK = 6          # accesses that come through the slow path are looked at
    DR6_BD = 1 << 13
    DR6_BS = 1 << 14
    DR7_GD = 1 << 13

cdef inline bint bp_enabled(Cpu* c, int i) noexcept nogil:
    return (c.dr[7] >> (2 * i)) & 3 != 0

cdef inline int bp_kind(Cpu* c, int i) noexcept nogil:
    """R/W: 0 execution, 1 writes, 3 reads and writes."""
    return (c.dr[7] >> (16 + 4 * i)) & 3

cdef inline u64 bp_length(Cpu* c, int i) noexcept nogil:
    cdef int code = (c.dr[7] >> (18 + 4 * i)) & 3
    return 8 if code == 2 else code + 1

cdef void debug_changed(Cpu* c) noexcept nogil:
    """After a change of a debug register."""
    cdef int i
    c.bp_on &= BP_HOOK
    for i in range(4):
        if bp_enabled(c, i) and bp_kind(c, i) != 2:
            c.bp_on |= BP_DATA if bp_kind(c, i) else BP_EXEC
    c.eflags &= ~<u32>FL_RF
    tlb_flush(c)

cdef bint at_breakpoint(Cpu* c) noexcept nogil:
    """Is there an instruction breakpoint at c.rip?  Notes it in DR6."""
    cdef u64 lin = code_lin(c, c.rip), bits = 0
    cdef int i
    for i in range(4):
        if bp_enabled(c, i) and bp_kind(c, i) == 0 and c.dr[i] == lin:
            bits |= <u64>1 << i
    c.dr[6] |= bits
    return bits != 0

cdef bint watched_page(Cpu* c, u64 page) noexcept nogil:
    cdef int i
    for i in range(4):
        if bp_enabled(c, i) and bp_kind(c, i) & 1 and c.dr[i] & ~<u64>4095 == page:
            return True
    return c.bp_on & BP_HOOK and hooked_page(c, page)

cdef int look(Cpu* c, u64 lin, u64 n, bint write, u64 value) noexcept nogil:
    """The program accesses n bytes at lin, which are there: ST_OK, or ST_MMIO when a hook is to be called first."""
    cdef int st = ST_OK
    if c.bp_on & BP_HOOK:
        st = hook_access(c, lin, n, write, value)
    if st == ST_OK and c.bp_on & BP_DATA:
        watch(c, lin, n, write)
    return st

cdef void watch(Cpu* c, u64 lin, u64 n, bint write) noexcept nogil:
    """n bytes at lin are accessed: remember the breakpoints that this hits."""
    cdef u64 first, length
    cdef int i
    for i in range(4):
        if not bp_enabled(c, i) or not bp_kind(c, i) & 1 or (bp_kind(c, i) == 1 and not write):
            continue
        length = bp_length(c, i)
        first = c.dr[i] & ~(length - 1)
        if first < lin + n and lin < first + length:
            c.bp_hit |= 1 << i

cdef void step_debug(Cpu* c) noexcept nogil:
    """One instruction with breakpoints on or RFLAGS.TF set: #DB before it, or behind it (SDM Vol. 3, 17.3.1)."""
    cdef bint traced = (c.eflags & FL_TF) != 0
    cdef bint resumed = (c.eflags & FL_RF) != 0
    if c.bp_on & BP_EXEC and not resumed and at_breakpoint(c):
        fault(c, X_DB)
        c.status = ST_FAULT
        return
    c.bp_hit = 0
    step(c)
    if c.status != ST_OK and c.status != ST_BRANCH:
        return
    if resumed:
        c.eflags &= ~<u32>FL_RF
    if traced or c.bp_hit:
        c.dr[6] |= c.bp_hit | (<u64>DR6_BS if traced else 0)
        fault(c, X_DB)
        c.status = ST_TRAP
