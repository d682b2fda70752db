# The code every block shares: the way in, the way out, and calls of exec functions.
#
# Written once for each vcpu at the start of its code memory.  The C side is jit_enter (into translated code) and the jit_exec_* functions
# (out of it, for one instruction).  Registers: see jit_emit.pxi.  Callee-saved: SysV ABI, x86-64.

cdef void spill(Emit* e, i32 at) noexcept nogil:
    """All pinned guest registers to Cpu.r, the Cpu being at RSP + at."""
    cdef int n
    for n in range(16):
        if HREG[n] != H_NONE:
            store(e, addr(H_ENV, 8 * n + at), HREG[n])
    store(e, addr(H_ENV, env(e, &e.c.budget).disp + at), H_BUDGET)

cdef void fill(Emit* e, i32 at) noexcept nogil:
    cdef int n
    load(e, H_BUDGET, addr(H_ENV, env(e, &e.c.budget).disp + at))
    for n in range(16):
        if HREG[n] != H_NONE:
            load(e, HREG[n], addr(H_ENV, 8 * n + at))

cdef void move_xmm(Emit* e, u8 opc, i32 at, int level) noexcept nogil:
    """All sixteen, XMM (level 1) or YMM (2): 10 loads, 11 stores.  While only XMM is used the upper halves are 0: nothing to merge."""
    cdef VexOp v
    cdef int n
    v.map_, v.pp, v.w, v.l, v.opc = 1, 0, 0, 1, opc
    for n in range(16):
        if level == 2:
            put_vex_rm(e, &v, n, 0, addr(H_ENV, env(e, &e.c.v[n]).disp + at))
        else:
            put_rm(e, 4, 1, 0, opc, n, addr(H_ENV, env(e, &e.c.v[n]).disp + at), 0)
    if level == 2 and opc == 0x11:
        b1(e, 0xC5)                                             # vzeroupper, also for the host's own SSE code
        b1(e, 0xF8)
        b1(e, 0x77)

cdef void if_xmm_in(Emit* e, i32 at, u8 opc) noexcept nogil:
    """When the guest's vector registers are in the host's: move them."""
    cdef u32* none
    cdef u32* done
    cdef u32* whole
    put_mi1(e, 4, 0x80, 7, addr(H_ENV, env(e, &e.c.xmm_in).disp + at), 1)         # cmp byte [xmm_in], 1
    none = jump_if(e, 2)
    whole = jump_if(e, 7)
    move_xmm(e, opc, at, 1)
    done = jump(e)
    patch(whole, e.p)
    if e.j.host & HOST_AVX:
        move_xmm(e, opc, at, 2)
    patch(done, e.p)
    patch(none, e.p)

cdef void if_fx_in(Emit* e, i32 at, int ext) noexcept nogil:
    """When the guest's x87 state is in the host's FPU: FNSAVE (6) or FRSTOR (4)."""
    cdef u32* skip
    put_mi1(e, 4, 0x80, 7, addr(H_ENV, env(e, &e.c.fx_in).disp + at), 0)
    skip = jump_if(e, 4)
    put_rm(e, 4, 0, 0, 0xDD, ext, addr(H_ENV, env(e, <void*>e.c.fx_image).disp + at), 0)
    patch(skip, e.p)

cdef void leave_host(Emit* e) noexcept nogil:
    """RSP = the host's stack: pop what jit_enter pushed and return to it."""
    cdef int* order = [15, 14, 13, 12, 5, 3]
    cdef int i
    put_ri1(e, 8, 0x83, 0, 4, 8)                   # add rsp, 8
    for i in range(6):
        opcode(e, 4, 0, 0, 0x58 | (order[i] & 7), 0, 0, order[i], False)
    b1(e, 0xC3)

cdef void emit_call(Emit* e, void* function) noexcept nogil:
    """u64 function(Cpu*, Insn* T0, u64 T1): 0 goes back to the block with T1 = 0, JIT_RETRY with T1 = 2; else out, or to other code."""
    cdef u32* zero
    cdef u32* out
    cdef u32* again
    spill(e, 8)
    if_xmm_in(e, 8, 0x11)
    if_fx_in(e, 8, 6)
    lea(e, 7, addr(4, 8))                                       # rdi = Cpu
    move(e, 6, H_T0)
    move(e, 2, H_T1)
    move(e, 3, 7)                                               # rbx = Cpu
    load(e, 4, addr(3, env(e, &e.c.jit_rsp).disp))
    move_imm(e, 0, <u64>function)
    put_rr(e, 4, 0, 0, 0xFF, 2, 0, 0)                            # call rax
    lea(e, 4, addr(3, -8))
    put_ri1(e, 8, 0x83, 7, 0, JIT_RETRY)
    again = jump_if(e, 4)
    put_rr(e, 8, 0, 0, 0x85, 0, 0, 0)                            # test rax, rax
    zero = jump_if(e, 4)
    put_ri1(e, 8, 0x83, 0, 4, 8)                                # add rsp, 8: no return to the block
    put_ri1(e, 8, 0x83, 7, 0, JIT_OUT)
    out = jump_if(e, 4)
    move(e, H_T0, 0)                                            # another block's code
    fill(e, 0)
    put_rr(e, 4, 0, 0, 0xFF, 4, H_T0, 0)
    patch(out, e.p)
    load(e, 4, env(e, &e.c.jit_rsp))
    leave_host(e)
    patch(again, e.p)
    patch(zero, e.p)
    put_rr(e, 4, 0, 0, 0x89, 0, H_T1, 0)
    fill(e, 8)
    if_xmm_in(e, 8, 0x10)
    if_fx_in(e, 8, 4)
    b1(e, 0xC3)

cdef void emit_load(Emit* e, int level, u8* exit_) noexcept nogil:
    """For blocks with SSE (1) or AVX (2): load the registers, or have the interpreter run the block whose head is T0."""
    cdef u32* bad[6]
    cdef u32* fresh
    cdef int n = 3, i
    put_mi4(e, 4, 0xF7, 0, addr(4, 8 + env(e, &e.c.cr0).disp), CR0_EM | CR0_TS)
    bad[0] = jump_if(e, 5)
    put_mi4(e, 4, 0xF7, 0, addr(4, 8 + env(e, &e.c.cr4).disp), CR4_OSFXSR)
    bad[1] = jump_if(e, 4)
    put_rm(e, 4, 0, 0, 0x8B, H_T1, addr(4, 8 + env(e, &e.c.mxcsr).disp), 0)
    put_rr(e, 4, 0, 0, 0xF7, 2, H_T1, 0)                         # not T1
    put_ri4(e, 4, 0xF7, 0, H_T1, 0x1F80)                         # test T1, masks: any clear?
    bad[2] = jump_if(e, 5)
    if level == 2:
        put_mi4(e, 4, 0xF7, 0, addr(4, 8 + env(e, &e.c.cr4).disp), CR4_OSXSAVE)
        bad[3] = jump_if(e, 4)
        load(e, H_T1, addr(4, 8 + env(e, &e.c.xcr0).disp))
        put_rr(e, 4, 0, 0, 0xF7, 2, H_T1, 0)
        put_ri4(e, 4, 0xF7, 0, H_T1, XS_SSE | XS_AVX)
        bad[4] = jump_if(e, 5)
        n = 5
    put_mi1(e, 4, 0x80, 7, addr(4, 8 + env(e, &e.c.xmm_in).disp), 0)
    fresh = jump_if(e, 4)
    if level == 2:
        move_xmm(e, 0x11, 8, 1)                                 # the upper halves are in memory: join them there
    patch(fresh, e.p)
    if level == 1 or e.j.host & HOST_AVX:
        move_xmm(e, 0x10, 8, level)
    put_mi1(e, 4, 0xC6, 0, addr(4, 8 + env(e, &e.c.xmm_in).disp), level)
    b1(e, 0xC3)
    for i in range(n):
        patch(bad[i], e.p)
    put_ri1(e, 8, 0x83, 0, 4, 8)
    store(e, env(e, &e.c.jit_bail), H_T0)
    jump_to(e, exit_)

cdef void emit_thunks(Jit* j) noexcept nogil:
    cdef Emit emit
    cdef Emit* e = &emit
    cdef int* order = [3, 5, 12, 13, 14, 15]
    cdef int i
    cdef u8* exit_
    memset(e, 0, sizeof(Emit) - sizeof(e.stubs))
    e.j = j
    e.c = NULL                                                  # env() then gives offsets
    e.p = j.rw
    # -- enter(Cpu* rdi, code rsi) ------------------------------------------------------------------------------------
    j.enter = j.rx
    for i in range(6):
        opcode(e, 4, 0, 0, 0x50 | (order[i] & 7), 0, 0, order[i], False)
    put_ri1(e, 8, 0x83, 5, 4, 8)                   # sub rsp, 8
    store(e, addr(7, env(e, &e.c.jit_rsp).disp), 4)
    move(e, 4, 7)
    move(e, H_T0, 6)
    fill(e, 0)
    put_rr(e, 4, 0, 0, 0xFF, 4, H_T0, 0)                          # jmp T0
    # -- exit at T0 = rip ---------------------------------------------------------------------------------------------
    j.exit_rip = e.p
    store(e, env(e, &e.c.rip), H_T0)
    exit_ = e.p
    put_mi4(e, 4, 0xC7, 0, env(e, &e.c.status), ST_BRANCH)
    if_xmm_in(e, 0, 0x11)
    if_fx_in(e, 0, 6)
    put_mi1(e, 4, 0xC6, 0, env(e, &e.c.xmm_in), 0)
    spill(e, 0)
    load(e, 4, env(e, &e.c.jit_rsp))
    leave_host(e)
    # -- a direct branch not linked: T0 = offset of the target from the page, T1 = arena index of the branch -------------------
    j.exit_link = e.p
    put_rm(e, 4, 0, 0, 0x89, H_T1, env(e, &e.c.jit_want), 0)
    put_rm(e, 8, 0, 0, 0x03, H_T0, env(e, &e.c.jit_page), 0)      # add T0, [page]
    jump_to(e, j.exit_rip)
    # -- the jump cache leads to a block that is not translated: T0 = its page, T1 = the entry ------------------------------
    j.exit_look = e.p
    load(e, H_T0, addr(H_T1, 0))
    # -- the jump cache did not know T0 = rip ^ salt ------------------------------------------------------------------
    j.exit_miss = e.p
    put_rm(e, 8, 0, 0, 0x33, H_T0, env(e, &e.c.jc_salt), 0)       # xor T0, [salt]
    jump_to(e, j.exit_rip)
    # -- T0 = Insn*, T1 = info: its exec function; the flags are in Cpu.fl_nat before and after -------------------------
    j.exec_ = e.p
    emit_call(e, <void*>jit_exec)
    j.refill = e.p
    emit_call(e, <void*>jit_refill)
    j.load_xmm = e.p
    emit_load(e, 1, exit_)
    j.load_ymm = e.p
    emit_load(e, 2, exit_)
    j.load_x87 = e.p
    emit_call(e, <void*>jit_x87_in)
    j.used = j.first = <u32>(e.p - j.rw)

# ---- the C side -----------------------------------------------------------------------------------------------------
ctypedef void (*jit_enter_t)(Cpu*, void*) noexcept nogil

cdef enum:
    INFO_COUNTED = 12        # info: bits 0-11 the block's offset in its page, 12-19 instructions already counted, 20 on a check
    INFO_CHECK = 20
    INFO_GROUP = 1 << 23     # jit_refill(): the access leads a group, whose range begins so far below it as bits 48 on say
    CHECK_NONE = 0
    CHECK_PRIV = 1
    CHECK_SSE = 2
    CHECK_FPU = 3
    CHECK_MMX = 4
    CHECK_AVX = 5
    JIT_OUT = 1              # jit_exec(), jit_refill(): leave translated code
    JIT_RETRY = 2            # jit_refill(): the site covers the address now
    SITE_PAGES = 256         # how far a site is stretched at once
    SITE_MISSES = 300        # so often may a site miss before the instruction asks the TLB instead

cdef u64 jit_refill(Cpu* c, Insn* o, u64 info) noexcept nogil:
    """A site does not cover Cpu.jit_lin: make it do so from the TLB, with the pages around that lie alike, else as jit_exec()."""
    cdef u32 n = <u32>(info >> 32) & 0xFFFF, use = c.jit.site_use[n]
    cdef Site* s = c.sites + n
    cdef bint write = use & SITE_WRITE, fixed
    cdef u64 size = use & 0xFF, first = c.jit_lin & ~<u64>4095, last = first
    cdef TlbEntry* e = tlb_slot(c.tlb, first)
    cdef u8* host = NULL
    cdef i64 add
    cdef u64 cr2 = c.cr2
    if (c.jit_lin & 4095) + size > 4096 and not info & INFO_GROUP:
        return jit_exec(c, o, info)
    if (e.wtag if write else e.rtag) != first:
        # What faults, or is not for the TLB, the exec function meets again; but where a group begins o itself may not go, so that must
        # neither show in CR2 nor make a page dirty.
        if (not is_canonical(c, first) or (write and info & INFO_GROUP and not group_in_page(c, size, info >> 48))
                or translate(c, c.jit_lin, ACC_WRITE if write else ACC_READ, &host) != ST_OK or (e.wtag if write else e.rtag) != first):
            c.cr2 = cr2
            return group_failed(c, o, info) if info & INFO_GROUP else jit_exec(c, o, info)
    add = e.add
    fixed = slot_fixed(&c.notes[c.tlb_index], first)
    while last - first < SITE_PAGES << 12 and site_page(c, last + 4096, write, add, fixed):
        last += 4096
    while last - first < SITE_PAGES << 12 and site_page(c, first - 4096, write, add, fixed):
        first -= 4096
    if info & INFO_GROUP and (c.jit_lin - (info >> 48) < first or c.jit_lin + size > last + 4096):
        return group_failed(c, o, info)
    if s.len != 0 and n >= SITE_FIRST:
        use += SITE_MISS
        if use >= SITE_MISSES * SITE_MISS and not o.prefix & PFX_PROBE:
            o.prefix |= PFX_PROBE
            translate_again(c, o)
    if s.len == 0 or fixed != (use & SITE_GLOBAL != 0):
        if c.site_n[fixed] < SITE_LOG:
            c.site_log[fixed][c.site_n[fixed]] = n
        c.site_n[fixed] += 1
    c.jit.site_use[n] = use & ~<u32>SITE_GLOBAL | (SITE_GLOBAL if fixed else 0)
    s.lo, s.len, s.add, s.host = first, last - first + 4097 - size, add, first + <u64>add
    return JIT_RETRY

cdef inline bint group_in_page(Cpu* c, u64 size, u64 reach) noexcept nogil:
    """Is all of a group surely in one page?"""
    return (c.jit_lin - reach) >> 12 == c.jit_lin >> 12 and (c.jit_lin & 4095) + (size if size > 8 else GROUP_STACK) <= 4096

cdef u64 group_failed(Cpu* c, Insn* o, u64 info) noexcept nogil:
    """No site can cover the range of the group that o leads: do o alone, leave, and sometimes have it lead no more."""
    cdef u64 next_
    c.group_fails += 1
    if c.group_fails % GROUP_FAILS == 0 and not o.prefix & PFX_PROBE:
        o.prefix |= PFX_PROBE
        translate_again(c, o)
    next_ = jit_exec(c, o, info)
    if next_ != 0:
        return next_
    if c.fx_in:
        x87_unpack(c)
        c.fx_in = 0
    set_arith(c, flags_from_native(c.fl_nat))
    c.fl_nat = 0
    c.xmm_in = 0
    c.budget += (info >> INFO_COUNTED) & 0xFF
    leave(c, o, ST_OK)
    return JIT_OUT

cdef inline bint site_page(Cpu* c, u64 page, bint write, i64 add, bint fixed) noexcept nogil:
    """Does the TLB map this page too, with the same distance to host memory, and globally or not as well?"""
    cdef TlbEntry* e = tlb_slot(c.tlb, page)
    return e.add == add and (e.wtag if write else e.rtag) == page and slot_fixed(&c.notes[c.tlb_index], page) == fixed

cdef void translate_again(Cpu* c, Insn* o) noexcept nogil:
    """The block of o is to be translated anew when it is next entered."""
    cdef Insn* head = c.cache.arena + c.cache.blocks[insn_block(c, o)].first
    if head.fn == T_JIT:
        unlink_code(c, head)
        head.fn = T_COUNT
        head.disp = 1

cdef u64 jit_exec(Cpu* c, Insn* o, u64 info) noexcept nogil:
    """One instruction by its exec function.  0: go on behind it; JIT_OUT; or the code of the block that is next."""
    cdef i64 counted = (info >> INFO_COUNTED) & 0xFF
    cdef u64 epoch = c.site_epoch
    cdef bint x87 = c.fx_in != 0
    cdef int st
    if x87:
        x87_unpack(c)
        c.fx_in = 0
    c.r[R_RIPBASE] = c.jit_page + (info & 0xFFF)
    set_arith(c, flags_from_native(c.fl_nat))
    c.budget += counted
    st = jit_check(c, o, (info >> INFO_CHECK) & 7)
    if st == ST_OK:
        st = o.ex(c, o)
    if (likely(st == ST_OK and c.code_hit == 0 and c.site_epoch == epoch)
            and not (c.xmm_in and (fp_unmasked(c) or c.xmm_in == 2 and not avx_on(c)))):
        if x87 and c.fcw & FCW_MASKS == FCW_MASKS and not c.fsw & FSW_ES and not c.cr0 & (CR0_EM | CR0_TS):
            x87_pack(c)
            c.fx_in = 1
            x87 = False
        if likely(not x87):
            c.budget -= counted
            c.fl_nat = flags_to_native(get_arith(c))
            return 0
    c.xmm_in = 0
    leave(c, o, st)
    if c.status == ST_BRANCH:
        return jit_next(c)
    c.fl_nat = 0
    return JIT_OUT

cdef inline int jit_check(Cpu* c, Insn* o, u32 check) noexcept nogil:
    """What T_PRIV, T_SSE, T_AVX, T_FPU and T_MMX look at before the exec function."""
    if check == CHECK_NONE:
        return ST_OK
    if check == CHECK_PRIV:
        if c.cpl == 0:
            return ST_OK
        return pv_emulate(c, o) if c.is_pv else fault_err(c, X_GP, 0)
    if check == CHECK_SSE:
        if likely(not c.cr0 & (CR0_EM | CR0_TS) and c.cr4 & CR4_OSFXSR):
            return ST_OK
        return fault(c, X_NM if c.cr4 & CR4_OSFXSR and not c.cr0 & CR0_EM else X_UD)
    if check == CHECK_AVX:
        return ST_OK if likely(avx_on(c)) else fault(c, X_NM if avx_enabled(c) else X_UD)
    if likely(not c.cr0 & (CR0_EM | CR0_TS)):
        return ST_OK
    return fault(c, X_UD if check == CHECK_MMX and c.cr0 & CR0_EM else X_NM)

cdef inline u64 jit_next(Cpu* c) noexcept nogil:
    """The code at c.rip, if the dispatcher would do nothing but go there."""
    cdef JumpEntry* e = c.jc + jc_index(c.rip)
    if (e.tag != (c.rip ^ c.jc_salt) or e.first.fn != T_JIT or c.budget < 0 or c.req or not c.mode & MODE_64 or c.events
            or c.eflags & (FL_TF | FL_AC) or c.trace or c.inhibit or c.bp_on & BP_DEBUG or c.db_pending or c.rip == c.until):
        c.fl_nat = 0
        return JIT_OUT
    c.fl_nat = flags_to_native(get_arith(c))
    c.jit_page = e.page
    return <u64>e.first.disp

cdef void T_JIT(Cpu* c, Insn* o) noexcept nogil:
    """Head of a translated block: into its code, and back when something needs the dispatcher."""
    cdef Insn* first
    c.jit_page = c.r[R_RIPBASE] & ~<u64>4095
    c.fl_nat = flags_to_native(get_arith(c))
    c.jit_want = NO_INSN
    c.jit_bail = NULL
    (<jit_enter_t>c.jit.enter)(c, <void*>o.disp)
    if c.fx_in:
        x87_unpack(c)
        c.fx_in = 0
    if c.fl_nat:
        set_arith(c, flags_from_native(c.fl_nat))
        c.fl_nat = 0
    if c.jit_want != NO_INSN:
        c.want_link = c.cache.arena + c.jit_want
    if unlikely(c.jit_bail != NULL):                    # SSE is off, or has exceptions unmasked: the block by its handlers
        first = c.jit_bail
        c.r[R_RIPBASE] = c.jit_page + <u64>first.imm
        (first + 1).fn(c, first + 1)
