# Running decoded blocks: the generic threaded handlers, the dispatcher, requests from other threads.
#
# A threaded handler does its instruction's work and ends in a call of the next instruction's handler, which the compiler turns into a jump
# (docs/decisions/0002-threaded-dispatch.md).  A handler that cannot go on stores Cpu.rip and Cpu.status and returns, which gets back here.

cdef enum:
    CR0_MP = 2
    CR0_EM = 4
    CR0_TS = 8
    SLICE = 20000        # instructions between two looks at the clock (real time)

# ---- leaving a block ------------------------------------------------------------------------------------------------
cdef void leave(Cpu* c, Insn* o, int st) noexcept nogil:
    """Account for the instructions of the block up to o and leave rip and status for the dispatcher."""
    cdef int why = st
    if st == ST_FAULT or st == ST_MMIO:
        c.budget -= o.pos - 1
        c.rip = insn_rip(c, o)
        if st == ST_MMIO:
            st = ST_EXIT
    else:
        c.budget -= o.pos
        if st == ST_OK:
            c.rip = next_rip(c, o)
            st = ST_BRANCH
    if not c.mode & MODE_64:
        c.rip = <u32>c.rip
    if unlikely(c.hook_on & HOOK_ALL_CODE):
        hook_left(c, o, why)
    c.code_hit = 0
    c.status = st

cdef void T_GENERIC(Cpu* c, Insn* o) noexcept nogil:
    """Any instruction by its exec function."""
    cdef int st = o.ex(c, o)
    if likely(st == ST_OK and c.code_hit == 0):
        (o + 1).fn(c, o + 1)
        return
    leave(c, o, st)

cdef void T_FPU(Cpu* c, Insn* o) noexcept nogil:
    """x87: #NM when CR0.TS or CR0.EM is set (SDM Vol. 3, 2.5)."""
    if unlikely(c.cr0 & (CR0_EM | CR0_TS)):
        leave(c, o, fault(c, X_NM))
        return
    T_GENERIC(c, o)

cdef void T_MMX(Cpu* c, Insn* o) noexcept nogil:
    """MMX: #UD when CR0.EM is set, #NM when CR0.TS is set (SDM Vol. 3, 12.1)."""
    if unlikely(c.cr0 & (CR0_EM | CR0_TS)):
        leave(c, o, fault(c, X_UD if c.cr0 & CR0_EM else X_NM))
        return
    T_GENERIC(c, o)

cdef void T_SSE(Cpu* c, Insn* o) noexcept nogil:
    """SSE: #UD when CR0.EM is set or CR4.OSFXSR is clear, #NM when CR0.TS is set (SDM Vol. 3, 13.1)."""
    if unlikely(c.cr0 & (CR0_EM | CR0_TS) or not c.cr4 & CR4_OSFXSR):
        leave(c, o, fault(c, X_NM if c.cr4 & CR4_OSFXSR and not c.cr0 & CR0_EM else X_UD))
        return
    T_GENERIC(c, o)

cdef inline bint avx_enabled(Cpu* c) noexcept nogil:
    return c.cr4 & CR4_OSXSAVE and c.xcr0 & (XS_SSE | XS_AVX) == XS_SSE | XS_AVX

cdef inline bint avx_on(Cpu* c) noexcept nogil:
    return avx_enabled(c) and not c.cr0 & CR0_TS

cdef void T_AVX(Cpu* c, Insn* o) noexcept nogil:
    """VEX on vector registers: #UD unless CR4.OSXSAVE and XCR0's SSE and AVX are set, #NM when CR0.TS is (Vol. 1, 14.8)."""
    if unlikely(not avx_on(c)):
        leave(c, o, fault(c, X_NM if avx_enabled(c) else X_UD))
        return
    T_GENERIC(c, o)

cdef void T_PRIV(Cpu* c, Insn* o) noexcept nogil:
    """CPL 0 only; a PV kernel's is emulated by Xen."""
    if c.cpl == 0:
        T_GENERIC(c, o)
    elif c.is_pv:
        leave(c, o, pv_emulate(c, o))
    else:
        leave(c, o, fault_err(c, X_GP, 0))

cdef void T_NEXT(Cpu* c, Insn* o) noexcept nogil:
    """End of a block that just goes on behind it.  No instruction of its own."""
    go(c, o)

cdef void T_DEAD(Cpu* c, Insn* o) noexcept nogil:
    """First instruction of a dropped block: look the address up again."""
    c.rip = c.r[R_RIPBASE]
    c.status = ST_BRANCH

cdef void T_STOP(Cpu* c, Insn* o) noexcept nogil:
    """Behind a single instruction: back to the dispatcher."""
    c.budget -= o.pos
    c.rip = c.r[R_RIPBASE] + o.off
    if not c.mode & MODE_64:
        c.rip = <u32>c.rip
    if unlikely(c.hook_on & HOOK_ALL_CODE):
        hook_left(c, o - 1, ST_BRANCH)
    c.status = ST_BRANCH

# ---- going on to another block --------------------------------------------------------------------------------------
cdef inline void go(Cpu* c, Insn* o) noexcept nogil:
    """Direct branch to o.imm (relative to the block): straight on when linked and nobody wants the vcpu."""
    cdef Insn* to = o.link
    c.budget -= o.pos
    c.r[R_RIPBASE] += <u64>o.imm
    if likely(to != NULL and c.budget >= 0 and c.req == 0):
        to.fn(c, to)
        return
    go_far(c, o)

cdef void go_far(Cpu* c, Insn* o) noexcept nogil:
    """A direct branch that is not linked: by the jump cache, else by the dispatcher, which may link it."""
    cdef u64 rip = c.r[R_RIPBASE]
    cdef JumpEntry* e
    cdef bint near = (rip ^ (rip - <u64>o.imm)) < 4096      # within the page: worth linking
    if not c.mode & MODE_64:
        rip = <u32>rip
    e = c.jc + jc_index(rip)
    if e.tag == (rip ^ c.jc_salt) and c.budget >= 0 and c.req == 0 and not near:
        c.r[R_RIPBASE] = rip
        e.first.fn(c, e.first)
        return
    c.rip = rip
    c.want_link = o
    c.status = ST_BRANCH

# ---- requests of others ---------------------------------------------------------------------------------------------
cdef void request(Cpu* target, u32 bits) noexcept nogil:
    fetch_or(&target.req, bits)

cdef void request_wait(Cpu* c, Cpu* target, u32 bits) noexcept nogil:
    """Have it served before going on, unless the target is not running: it serves its requests before its next instruction."""
    fetch_or(&target.req, bits)
    while target.in_run and load_acquire(&target.req) & bits:
        serve_memory_requests(c)
        cpu_pause()

cdef void serve_memory_requests(Cpu* c) noexcept nogil:
    """Those another vcpu may be waiting for."""
    cdef u32 asked = c.req & (REQ_FLUSH | REQ_FLUSH_PV)
    if asked:
        if asked & REQ_FLUSH:
            tlb_flush(c)
        else:
            tlb_flush_pv(c, True, True, True)
        fetch_and(&c.req, ~asked)

cdef u32 serve_requests(Cpu* c) noexcept nogil:
    """Returns an exit reason, or EXIT_NONE."""
    serve_memory_requests(c)
    if c.req & REQ_CODE:
        fetch_and(&c.req, ~<u32>REQ_CODE)
        serve_code_queue(c)
    if c.req & REQ_STOP:
        fetch_and(&c.req, ~<u32>REQ_STOP)
        return EXIT_STOP
    if c.req & REQ_SLICE:
        fetch_and(&c.req, ~<u32>REQ_SLICE)
        return EXIT_BUDGET
    if c.req & REQ_EVENT and not c.inhibit:
        fetch_and(&c.req, ~<u32>REQ_EVENT)
        if c.is_pv:
            c.status = pv_event(c)
            if c.status == ST_EXIT:
                return c.exit.reason
        elif c.lapic != NULL:
            return lapic_serve(c)
    return EXIT_NONE

# ---- the dispatcher -------------------------------------------------------------------------------------------------
cdef void step(Cpu* c) noexcept nogil:
    """Run exactly one instruction, decoded on the spot."""
    cdef u8 buf[32]
    cdef u8* host = NULL
    cdef u8* host2 = NULL
    cdef Insn* o = c.cache.scratch
    cdef u64 lin = code_lin(c, c.rip)
    cdef int avail = 4096 - <int>(lin & 4095), room = 15, length, st
    c.want_link = NULL
    if not c.mode & MODE_64 and c.rip > c.seg[CS].limit:
        c.status = fault_err(c, X_GP, 0)
        return
    if not c.mode & MODE_64 and c.seg[CS].limit - c.rip < 15:
        room = <int>(c.seg[CS].limit - c.rip) + 1
    st = translate_cached_x(c, lin, &host)
    if st != ST_OK:
        c.status = fetch_failed(c, st)
        return
    o.off = 0
    length = decode_for(c, host, avail if avail < room else room, o)
    if length == DECODE_MORE and avail < room:
        st = translate_cached_x(c, lin + avail, &host2)
        if st != ST_OK:
            c.status = fetch_failed(c, st)
            return
        memcpy(buf, host, avail)
        memcpy(buf + avail, host2, 15)
        length = decode_for(c, buf, room, o)
    if length <= 0:
        c.status = fault_err(c, X_GP, 0)
        return
    if unlikely(o.prefix & (PFX_REP | PFX_REPNE)):
        # As in a block: a string instruction that overwrites itself goes on with what it has written.
        mark_code(c, <u64>(host - c.mem.host) >> 12, lin & 4095, (lin & 4095) + (length if length < avail else avail) - 1)
        if host2 != NULL:
            mark_code(c, <u64>(host2 - c.mem.host) >> 12, 0, length - avail - 1 if length > avail else 0)
    o.pos = 1
    o.fn = generic_handler(o)
    memset(o + 1, 0, sizeof(Insn))
    (o + 1).fn = T_STOP
    (o + 1).pos = 1
    (o + 1).off = length
    c.r[R_RIPBASE] = c.rip
    if unlikely(c.hook_on & HOOK_ALL_CODE) and hook_step(c, o):
        return
    o.fn(c, o)

cdef inline void count_fault(Cpu* c) noexcept nogil:
    """A fault delivered with no instruction retired since the last one counts as one, lest a handler that faults at once never ends."""
    cdef u64 retired = c.icount + <u64>(c.slice - c.budget)
    if retired + 1 == c.fault_icount:
        c.budget -= 1
        retired += 1
    c.fault_icount = retired + 1

cdef inline void run_block(Cpu* c) noexcept nogil:
    cdef Insn* first = find_block(c)
    c.want_link = NULL
    if first != NULL:
        c.r[R_RIPBASE] = c.rip
        first.fn(c, first)

cdef u32 run_slice(Cpu* c, i64 budget, bint exact) noexcept nogil:
    """Run budget instructions, exactly or to the end of a block; returns an exit reason."""
    cdef u32 reason = EXIT_NONE
    c.bias = MAX_BLOCK if exact else 0
    c.slice = budget - c.bias
    c.budget = c.slice
    while reason == EXIT_NONE:
        if c.req:
            reason = serve_requests(c)
            if reason != EXIT_NONE:
                break
        if c.budget + c.bias <= 0:
            reason = EXIT_BUDGET
            break
        if unlikely(c.mmio_n):
            step_restarted(c)
        elif unlikely(c.until != ~<u64>0) and code_lin(c, c.rip) == c.until:
            reason = EXIT_UNTIL
            break
        elif unlikely(c.events) and take_event(c):
            reason = c.exit.reason if c.status == ST_EXIT else <u32>EXIT_NONE
            continue
        elif (unlikely(c.eflags & (FL_TF | FL_AC) or c.trace or c.inhibit or c.bp_on & BP_DEBUG or c.budget < 0 or c.db_pending)
                and run_alone(c)):
            step_alone(c)
        else:
            run_block(c)
        if c.status == ST_FAULT or c.status == ST_TRAP:
            c.stat[STAT_FAULTS] += 1
            c.status = deliver(c) if likely(c.hook_on == 0) else hook_deliver(c)
            if c.status != ST_EXIT:
                count_fault(c)
        if c.status == ST_EXIT:
            reason = c.exit.reason
        elif c.trace:
            reason = EXIT_BUDGET
    c.icount += <u64>(c.slice - c.budget)
    if c.clock.is_virtual:
        c.clock.now += <u64>(c.slice - c.budget)
    c.slice = c.budget = 0
    return reason

cdef u32 run(Cpu* c, i64 budget) noexcept nogil:
    """Run until something needs the caller, at most budget instructions."""
    cdef u32 reason = EXIT_BUDGET
    cdef i64 left = budget, n
    cdef u64 before, now, deadline
    c.exit.reason = EXIT_NONE
    store_release(&c.in_run, 1)
    fp_enter(c)
    if c.hvm != NULL and upcall_ready(c):
        fetch_or(&c.events, EVENT_UPCALL)
    if unlikely(c.profile != NULL):
        c.profile.began = monotonic_ns()
    while left > 0:
        now = now_ns(c)
        deadline = c.timer_deadline
        if now >= deadline:
            reason = EXIT_TIMER
            break
        if c.lapic != NULL:
            deadline = min(deadline, lapic_tick(c, now))
            if c.halted and not wakes(c):
                reason = EXIT_HLT
                break
        n = left
        if c.clock.is_virtual:
            if deadline - now < <u64>n:
                n = <i64>(deadline - now)
        elif n > SLICE:
            n = SLICE
        before = c.icount
        reason = run_slice(c, n, c.exact and (n == left or c.clock.is_virtual))
        left -= <i64>(c.icount - before)
        if unlikely(c.profile != NULL):
            profile_sample(c)
        if c.trace or not (reason == EXIT_BUDGET or reason == EXIT_HLT and c.lapic != NULL):
            break
    fp_leave(c)
    store_release(&c.in_run, 0)
    if reason == EXIT_HLT and c.lapic != NULL:
        fetch_or(&c.req, 0)                               # a fence: who sends an interrupt now sees in_run
        if wakes(c):
            reason = EXIT_WAKE
    c.exit.reason = reason
    return reason

# ---- choosing handlers ----------------------------------------------------------------------------------------------
cdef handler_t generic_handler(Insn* o) noexcept nogil:
    cdef u32 attrs = rows[o.op].attrs
    if attrs & A_PRIV:
        return T_PRIV
    if attrs & A_SSE:
        return T_SSE
    if attrs & A_AVX:
        return T_AVX
    if attrs & A_FPU:
        return T_MMX if attrs & A_MMX else T_FPU
    return T_GENERIC
