# Debug registers: breakpoints on instructions, data and ports; single step; alignment checks.
#
# SDM Vol. 3, ch. 17.2 and 17.3.  Off, they cost nothing: the run loop looks at Cpu.bp_on where it decides whether to step.  On, every
# instruction is stepped, and the pages of data breakpoints stay out of the TLB, so that accesses to them come through the slow
# path, which calls watch().  Alignment checks (CR0.AM, EFLAGS.AC, ring 3) do the same with every page.
#
# A debug exception that must wait (behind MOV SS, behind an exit for a port) is kept in Cpu.db_pending.  One that waits behind MOV SS
# is lost when the next instruction faults.  Left out: DEBUGCTL (branch trace, BTF, RTM).

cdef enum:
    BP_EXEC = 1          # Cpu.bp_on
    BP_DATA = 2
    BP_HOOK = 4          # memory hooks (hooks.pxi): their pages stay out of the TLB too, but nothing is stepped
    BP_LOOK = 6          # accesses that come through the slow path are looked at
    BP_IO = 8
    BP_ALIGN = 16        # with BP_DATA
    BP_DEBUG = 27        # all but the hooks: every instruction is stepped
    CR0_AM = 1 << 18
    DR6_BD = 1 << 13
    DR6_BS = 1 << 14
    DR6_BT = 1 << 15
    DR7_GD = 1 << 13

cdef inline bint bp_enabled(Cpu* c, int i) noexcept nogil:
    return (c.dr[7] >> (2 * i)) & 3 != 0

cdef inline int bp_kind(Cpu* c, int i) noexcept nogil:
    """R/W: 0 execution, 1 writes, 2 ports, 3 reads and writes."""
    return (c.dr[7] >> (16 + 4 * i)) & 3

cdef inline u64 bp_length(Cpu* c, int i) noexcept nogil:
    cdef int code = (c.dr[7] >> (18 + 4 * i)) & 3
    return 8 if code == 2 else code + 1

cdef void debug_changed(Cpu* c) noexcept nogil:
    """After a change of a debug register or of CR4.DE, without which there are no breakpoints on ports."""
    cdef int i, kind
    c.bp_on &= BP_HOOK
    for i in range(4):
        kind = bp_kind(c, i)
        if bp_enabled(c, i) and (kind != 2 or c.cr4 & CR4_DE):
            c.bp_on |= BP_EXEC if kind == 0 else BP_IO if kind == 2 else BP_DATA
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
    if c.bp_on & BP_ALIGN:
        return True
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

cdef inline void io_watch(Cpu* c, u32 port, u32 size) noexcept nogil:
    """A port is accessed: as watch(), for breakpoints on ports."""
    cdef u64 first, length
    cdef int i
    if likely(not c.bp_on & BP_IO):
        return
    for i in range(4):
        if bp_enabled(c, i) and bp_kind(c, i) == 2:
            length = bp_length(c, i)
            first = c.dr[i] & ~(length - 1)
            if first < port + size and port < first + length:
                c.bp_hit |= 1 << i

# ---- alignment checks -----------------------------------------------------------------------------------------------
cdef inline bint align_wanted(Cpu* c) noexcept nogil:
    return c.eflags & FL_AC and c.cpl == 3 and c.cr0 & CR0_AM and not c.is_pv

cdef void align_changed(Cpu* c, bint on) noexcept nogil:
    """Checking begins or ends: with it on no access may hit the TLB."""
    debug_changed(c)
    if on:
        c.bp_on |= BP_ALIGN | BP_DATA

# ---- one instruction with everything around it ----------------------------------------------------------------------
cdef bint run_alone(Cpu* c) noexcept nogil:
    """Must the next instruction be run by itself?  Asked when RFLAGS.TF or AC or anything of the kind is set."""
    cdef bint align = align_wanted(c)
    if align != ((c.bp_on & BP_ALIGN) != 0):
        align_changed(c, align)
    return c.eflags & FL_TF or c.trace or c.inhibit or c.bp_on & BP_DEBUG or c.budget < 0 or c.db_pending

cdef void debug_trap(Cpu* c) noexcept nogil:
    c.dr[6] |= c.db_pending
    c.db_pending = 0
    fault(c, X_DB)
    c.status = ST_TRAP

cdef void step_alone(Cpu* c) noexcept nogil:
    """One instruction, with #DB before it or behind it (SDM Vol. 3, 17.3.1), which a load of SS holds off (6.8.3)."""
    cdef bint shadow = (c.inhibit & INHIBIT_SS) != 0
    cdef bint traced = (c.eflags & FL_TF) != 0
    cdef bint resumed = (c.eflags & FL_RF) != 0
    cdef exec_t ex
    c.inhibit = 0
    if not shadow and c.db_pending:
        debug_trap(c)
        return
    if not shadow and c.bp_on & BP_EXEC and not resumed and at_breakpoint(c):
        c.bp_fault = 1
        fault(c, X_DB)
        c.status = ST_FAULT
        return
    c.bp_hit = 0
    c.rep_rip = ~<u64>0
    c.stepping = traced or c.mmio_n != 0 or c.bp_on & (BP_EXEC | BP_DATA | BP_IO) != 0
    if resumed:
        c.eflags &= ~<u32>FL_RF
    step(c)
    c.stepping = 0
    if c.status == ST_FAULT or c.status == ST_TRAP:
        if c.status == ST_FAULT:
            c.db_pending = 0
        return
    if c.status == ST_EXIT and c.exit.reason != EXIT_PIO and c.exit.reason != EXIT_HLT:
        if resumed and c.exit.reason == EXIT_MMIO:
            c.eflags |= FL_RF                         # it will be restarted
        return
    if c.bp_on & BP_EXEC and c.rep_rip == c.rip:
        c.eflags |= FL_RF                             # the rest of the iterations: no breakpoint before them
    ex = c.cache.scratch[0].ex
    if ex == SYSCALL or ex == SYSRET:
        traced = (c.eflags & FL_TF) != 0
    c.db_pending |= c.bp_hit
    if c.inhibit & INHIBIT_SS:
        if not shadow:
            return                                    # a single step is lost, a breakpoint waits
        c.inhibit = 0                                 # the second load in a row holds nothing off
    if traced:
        c.db_pending |= DR6_BS
    if c.db_pending and not (c.status == ST_EXIT and c.exit.reason == EXIT_PIO):
        debug_trap(c)

cdef void step_restarted(Cpu* c) noexcept nogil:
    """An instruction that has left for device memory goes on with the answer; nothing comes in between, lest an access is made twice."""
    c.mmio_next = 0
    step_alone(c)
    if c.status != ST_EXIT or (c.exit.reason != EXIT_MMIO and c.exit.reason != EXIT_HOOK):
        c.mmio_n = c.mmio_next = 0
