# Translating control transfer: direct branches, the jump cache in line, calls and returns; and what stands out of line.
#
# Cpu.jit_page is the linear address of the page the running block is in, so code is position independent: RIP is jit_page
# plus a constant.  A branch within the page goes straight to its target's code once both are translated; one to another
# page, and an indirect one, looks its target up in the jump cache, which forgets with the TLB.

cdef inline void count(Emit* e, u32 pos) noexcept nogil:
    """The budget pays for the instructions up to pos; no flag changes."""
    if pos != e.counted:
        lea(e, H_BUDGET, addr(H_BUDGET, -<i32>(pos - e.counted)))
        e.counted = pos

cdef inline bint in_page(Emit* e, i64 target) noexcept nogil:
    return <u64>(<i64>e.start + target) < 4096

cdef void gen_lookup(Emit* e, u8* miss, Stub** slow, Insn* o) noexcept nogil:
    """T0 = RIP: T1 = its jump-cache entry.  A miss goes to the thunk, or out of line to the exec function."""
    cdef u32* away
    put_rr(e, 4, 0, 0, 0x89, H_T0, H_T1, 0)
    put_ri1(e, 4, 0xC1, 5, H_T1, 12)                               # shr T1d, 12
    put_rr(e, 4, 0, 0, 0x31, H_T0, H_T1, 0)                        # xor T1d, T0d
    put_ri4(e, 4, 0x81, 4, H_T1, JC_SIZE - 1)
    put_ri1(e, 4, 0xC1, 4, H_T1, 5)                                # * sizeof(JumpEntry)
    put_rm(e, 8, 0, 0, 0x03, H_T1, env(e, &e.c.jc), 0)
    put_rm(e, 8, 0, 0, 0x33, H_T0, env(e, &e.c.jc_salt), 0)
    put_rm(e, 8, 0, 0, 0x3B, H_T0, addr(H_T1, 0), 0)               # cmp T0, [tag]
    away = jump_if(e, 5)
    if miss != NULL:
        patch(away, miss)
    else:
        slow[0] = stub(e, STUB_EXEC, o, away)

cdef void gen_go(Emit* e) noexcept nogil:
    """T1 = jump-cache entry: to its code."""
    load(e, H_T0, addr(H_T1, 24))
    store(e, env(e, &e.c.jit_page), H_T0)
    put_rm(e, 4, 0, 0, 0xFF, 4, addr(H_T1, 16), 0)                 # jmp [T1 + 16]

cdef void gen_far(Emit* e, i64 target) noexcept nogil:
    """To another page: target is relative to the block."""
    load(e, H_T0, env(e, &e.c.jit_page))
    lea(e, H_T0, addr(H_T0, <i32>(<i64>e.start + target)))
    gen_lookup(e, e.j.exit_miss, NULL, NULL)
    gen_go(e)

cdef u8* linked_code(Emit* e, Insn* o) noexcept nogil:
    """Where o's target begins in translated code, or NULL."""
    if o.link == NULL or o.link.fn != T_JIT:
        return NULL
    return jit_target(e.j, o, o.link)

cdef inline u8* jit_target(Jit* j, Insn* o, Insn* head) noexcept nogil:
    """Entry of a translated block for branch o (in the writable mapping).

    Every loop must look for requests of others somewhere: its backward branch does, or what is behind a backward jump that was followed.
    """
    cdef u8* poll = j.rw + (<u8*>head.disp - j.rx)
    return poll if o.imm <= o.off or o.prefix & PFX_POLL else poll + POLL_BYTES

cdef void gen_direct(Emit* e, Insn* o, u32* at) noexcept nogil:
    """The jump at this rel32 goes to o's target, now or as soon as it is translated."""
    cdef u8* code
    if not in_page(e, o.imm):
        stub(e, STUB_FAR, o, at)
        return
    e.j.site[o - e.c.cache.arena] = <u32>(<u8*>at - e.j.rw)
    stub(e, STUB_LINK, o, at)
    code = linked_code(e, o)
    if code != NULL:
        e.stubs[e.n_stubs - 1].resume = code

cdef void gen_jcc(Emit* e, Insn* o, u32 live_taken) noexcept nogil:
    if not e.host_valid:
        restore_flags(e, H_T0)
    flags_in_memory(e, live_taken)
    count(e, o.pos)
    gen_direct(e, o, jump_if(e, o.cc))

cdef void gen_jump(Emit* e, Insn* o, u32 live) noexcept nogil:
    """JMP rel, and the end of a block that goes on behind it."""
    flags_in_memory(e, live)
    count(e, o.pos)
    if in_page(e, o.imm):
        gen_direct(e, o, jump(e))
    else:
        gen_far(e, o.imm)

cdef bint gen_call(Emit* e, Insn* o, u32 live_in, u32 live) noexcept nogil:
    cdef Addr at
    cdef Stub* slow
    if o.size != 8:
        return False
    at = stack_probe(e, o, HREG[RSP], -8, True, live_in, &slow)
    load(e, H_T0, env(e, &e.c.jit_page))
    lea(e, H_T0, addr(H_T0, <i32>(e.start + o.off + o.len)))
    store(e, at, H_T0)
    lea(e, HREG[RSP], addr(HREG[RSP], -8))
    gen_jump(e, o, live)
    return True

cdef bint gen_target(Emit* e, Insn* o, Stub** slow) noexcept nogil:
    """T0 = where JMP E and CALL E go."""
    cdef Addr ea
    cdef bint plain = False
    cdef int temp
    if not o.is_mem:
        move(e, H_T0, into(e, o.rm, H_T0))
        return True
    if not linear_address(e, o, &ea, &plain):
        return False
    ea = probe(e, o, 8, False, 0, &ea, plain, False, &temp, slow)
    load(e, H_T0, ea)
    return True

cdef bint gen_jump_indirect(Emit* e, Insn* o, u32 live_in) noexcept nogil:
    cdef Stub* slow = NULL
    cdef Stub* miss = NULL
    flags_about_to_go(e, live_in)
    if o.size != 8 or not gen_target(e, o, &slow):
        return False
    gen_lookup(e, NULL, &miss, o)
    count(e, o.pos)
    gen_go(e)
    return True

cdef bint gen_call_indirect(Emit* e, Insn* o, u32 live_in) noexcept nogil:
    cdef Stub* slow = NULL
    cdef Stub* miss = NULL
    cdef Stub* full = NULL
    cdef Addr at
    flags_about_to_go(e, live_in)
    if o.size != 8 or not gen_target(e, o, &slow):
        return False
    gen_lookup(e, NULL, &miss, o)
    store(e, env(e, &e.c.jit_tmp), H_T1)
    at = stack_probe(e, o, HREG[RSP], -8, True, 0, &full)
    load(e, H_T0, env(e, &e.c.jit_page))
    lea(e, H_T0, addr(H_T0, <i32>(e.start + o.off + o.len)))
    store(e, at, H_T0)
    lea(e, HREG[RSP], addr(HREG[RSP], -8))
    load(e, H_T1, env(e, &e.c.jit_tmp))
    count(e, o.pos)
    gen_go(e)
    return True

cdef bint gen_ret(Emit* e, Insn* o, u32 live_in) noexcept nogil:
    cdef Addr at
    cdef Stub* slow
    cdef Stub* miss
    if o.size != 8:
        return False
    at = stack_probe(e, o, HREG[RSP], 0, False, live_in, &slow)
    flags_about_to_go(e, live_in)
    load(e, H_T0, at)
    gen_lookup(e, NULL, &miss, o)
    lea(e, HREG[RSP], addr(HREG[RSP], 8))
    count(e, o.pos)
    gen_go(e)
    return True

# ---- out of line ----------------------------------------------------------------------------------------------------
cdef void gen_resume(Emit* e, Stub* s) noexcept nogil:
    """The exec function has done the instruction."""
    if s.resume == NULL:
        b1(e, 0x0F)                                               # a branch never comes back: ud2
        b1(e, 0x0B)
        return
    if s.restore:
        restore_flags(e, H_T0)
    jump_to(e, s.resume)

cdef void gen_stub(Emit* e, Stub* s) noexcept nogil:
    cdef u8* here = e.p
    if s.kind == STUB_LINK:
        patch(s.from_, s.resume if s.resume != NULL else here)
        move_imm(e, H_T0, <u64>(<i64>e.start + s.o.imm))
        move_imm(e, H_T1, <u32>(s.o - e.c.cache.arena))
        jump_to(e, e.j.exit_link)
        return
    patch(s.from_, here)
    if s.site >= 0:
        put_rm(e, 8, 0, 0, 0x03, H_T0, env(e, &e.c.sites[s.site].lo), 0)
        store(e, env(e, &e.c.jit_lin), H_T0)
        move_imm(e, H_T0, <u64>s.o)
        move_imm(e, H_T1, <u64>s.reach << 48 | <u64>s.site << 32 | s.info)
        call_to(e, e.j.refill)
        put_rr(e, 4, 0, 0, 0x85, H_T1, H_T1, 0)                    # test T1d, T1d: try again?
        patch(jump_if(e, 5), s.retry)
        gen_resume(e, s)
        if s.from2 != NULL:
            patch(s.from2, e.p)
            call_exec(e, s.o, s.info)
            gen_resume(e, s)
        return
    if s.from2 != NULL:
        patch(s.from2, here)
    if s.kind == STUB_FAR:
        gen_far(e, s.o.imm)
        return
    call_exec(e, s.o, s.info)
    gen_resume(e, s)
