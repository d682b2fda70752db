# The translator: decoded blocks that have run often become host code.
#
# Same-ISA translation keeps what x86 gives: guest arithmetic flags are the host's from the instruction that sets them to the
# last that may read them; between blocks, and around glue that would overwrite them, they are kept in Cpu.fl_nat if somebody
# may still read them.  Who may is found backwards over the block, and by a look at the first instructions of where it goes
# (live_at); behind indirect branches everybody may.  In a strict run (Vcpu.strict_flags) every instruction that can
# fault reads them too, so that a fault's frame shows them to the bit; otherwise flags that no code reads may be stale there.

cdef enum:
    JIT_HOT = 40             # times a block runs in the interpreter first
    POLL_BYTES = 14          # length of the look for requests in front of a block
    LOOK_AHEAD = 8

# ---- which flags an instruction reads and writes --------------------------------------------------------------------
cdef inline bint counted_by_cl(exec_t ex) noexcept nogil:
    return (ex == SHL_E_CL or ex == SHR_E_CL or ex == SAR_E_CL or ex == ROL_E_CL or ex == ROR_E_CL or ex == SHLD_E_G_CL
            or ex == SHRD_E_G_CL)

cdef inline void flag_use(Insn* o, u32* read, u32* write) noexcept nogil:
    """Flags surely written, and flags read, by the host's instruction."""
    cdef JitRule* r = &jit_rules[row_rule[o.op]]
    read[0], write[0] = rows[o.op].fl_read, rows[o.op].fl_write
    if r.flags & JR_BITS_COUNT:
        read[0], write[0] = 0, F_ALL
        if o.imm & (63 if o.size == 8 else 31) == 0:
            write[0] = 0
        elif r.flags & JR_ROTATE:
            write[0] = F_CF | F_OF
            if r.flags & JR_ROTATE_CF:
                read[0] = F_CF
    elif o.ex == SHLD_E_G_I or o.ex == SHRD_E_G_I:
        if o.imm & (63 if o.size == 8 else 31):
            read[0] = 0
    elif counted_by_cl(o.ex):
        read[0] = write[0] = 0
    elif row_x87[o.op]:
        write[0] = 0                 # FCOMI leaves them alone when the comparison is invalid and that is not masked
    elif o.ex == HOOK_SITE or row_rule[o.op] == 0 and o.op != ROW_HOOK and not rows[o.op].attrs & (A_SSE | A_AVX | A_FPU):
        read[0] = F_ALL              # it may leave run(), and a tool may look

cdef inline bint may_fault(Insn* o) noexcept nogil:
    return o.is_mem and o.ex != LEA_G_M or row_rule[o.op] == 0 or jit_rules[row_rule[o.op]].kind >= JK_PUSH

cdef u32 live_at(Cpu* c, Block* b, const u8* host, i64 off, bint strict) noexcept nogil:
    """Flags that the code at this offset of the block's page may read before it writes them.

    The bytes looked at count as decoded, so a write to them drops this block too.
    """
    cdef Insn o
    cdef i64 start = <i64>(b.maddr & 4095)
    cdef int i, length
    cdef u32 read, write, unknown = F_ALL, live = 0
    if strict or b.mfn2 != NO_FRAME:
        return F_ALL
    for i in range(LOOK_AHEAD):
        if start + off < 0 or start + off >= 4096 or (unlikely(c.hook_on & HOOK_ALL_CODE) and flags_seen_at(c, b.rip + <u64>off)):
            break
        o.off = <i16>off
        length = decode_for(c, host + off, 4096 - <int>(start + off), &o)
        if length <= 0:
            break
        mark_code(c, b.maddr >> 12, start + off, start + off + length - 1)
        flag_use(&o, &read, &write)
        live |= read & unknown
        unknown &= ~write
        if unknown == 0:
            return live
        if o.ex == JMP_J and o.size == 8:
            off = o.imm
            continue
        if rows[o.op].attrs & (A_END | A_JCC):
            break
        off += length
    return live | unknown

# ---- a block --------------------------------------------------------------------------------------------------------
cdef void liveness(Cpu* c, Block* b, const u8* host, Insn* first, int n, bint strict, u32* before, u32* after,
                   u32* taken) noexcept nogil:
    """For each instruction the flags that may be read from just before, just after, and where its branch is taken."""
    cdef int i = n - 1
    cdef u32 read, write, live
    cdef Insn* o = first + n - 1
    if n and rows[o.op].attrs & A_END and not rows[o.op].attrs & A_JCC:
        live = live_at(c, b, host, o.imm, strict) if o.ex == JMP_J or o.ex == CALL_J else F_ALL
    else:
        live = live_at(c, b, host, first[n].imm, strict)
    while i >= 0:
        o = first + i
        after[i] = live
        if rows[o.op].attrs & A_JCC:
            taken[i] = live_at(c, b, host, o.imm, strict)
            live |= taken[i]
        flag_use(o, &read, &write)
        live = (live & ~write) | read
        if strict and may_fault(o):
            live = F_ALL
        before[i] = live
        i -= 1

cdef bint gen_insn(Emit* e, Insn* o, const u8* code, u32 before, u32 after, u32 taken) noexcept nogil:
    """One instruction in line; False: by its exec function."""
    cdef JitRule* r = &jit_rules[row_rule[o.op]]
    cdef u32 read, write
    cdef int kind = r.kind
    if unlikely(o.op == ROW_HOOK):
        return gen_hook(e, o, before)
    flag_use(o, &read, &write)
    if row_sse[o.op].ok and rows[o.op].attrs & (A_SSE | A_AVX):
        return gen_sse(e, o, code, before, after, write)
    if row_x87[o.op]:
        return gen_x87(e, o, code, before, after, read, rows[o.op].fl_write)
    if r.needs & ~e.j.host:
        return False
    if kind == JK_MODRM:
        if r.esize == 4 and o.size == 2:
            return False
        if counted_by_cl(o.ex):
            return gen_modrm(e, o, r, before, after, after, F_ALL)
        return gen_modrm(e, o, r, before, after, read, write)
    if kind == JK_LEA:
        return gen_lea(e, o)
    if kind == JK_MOV_IMM:
        return gen_mov_imm(e, o)
    if kind == JK_JCC:
        gen_jcc(e, o, taken)
        return True
    if kind == JK_PUSH:
        return gen_push(e, o, before, after)
    if kind == JK_POP:
        return gen_pop(e, o, before, after)
    if kind == JK_LEAVE:
        return gen_leave(e, o, before, after)
    if kind == JK_JMP and o.size == 8:
        gen_jump(e, o, after)
        return True
    if kind == JK_JMP_IND:
        return gen_jump_indirect(e, o, before)
    if kind == JK_CALL:
        return gen_call(e, o, before, after)
    if kind == JK_CALL_IND:
        return gen_call_indirect(e, o, before)
    if kind == JK_RET:
        return gen_ret(e, o, before)
    if kind == JK_NOP:
        return True
    if kind == JK_PLAIN:
        if read and not e.host_valid or (write and after & ~write and not e.host_valid):
            restore_flags(e, H_T0)
        opcode(e, o.size if r.opc < 0xF0 else 4, 0, 0, r.opc, 0, 0, 0, False)
        if write:
            e.host_valid, e.mem_valid = True, False
        return True
    if kind == JK_XCHG_A:
        return gen_xchg_a(e, o)
    if kind == JK_BSWAP:
        return gen_bswap(e, o)
    if kind == JK_DIV or kind == JK_IDIV:
        return gen_divide(e, o, kind == JK_IDIV, before, after)
    return False

cdef bint hooks_call(Cpu* c) noexcept nogil:
    """May a tool look at the flags in mid-code?"""
    cdef HookRule* h = c.hooks
    while h != NULL:
        if h.call and not h.kind & HOOK_ALL_CODE:         # (for those, live_at() knows where)
            return True
        h = h.next
    return False

cdef int uses_vectors(Jit* j, Insn* first, int n) noexcept nogil:
    """0, 1 for SSE, 2 for AVX in line."""
    cdef int i, most = 0
    for i in range(n):
        if row_sse[first[i].op].ok and rows[first[i].op].attrs & (A_SSE | A_AVX):
            if first[i].vex == 0:
                most = max(most, 1)
            elif j.host & HOST_AVX:
                most = 2
    return most

cdef int block_length(Cpu* c, Block* b) noexcept nogil:
    """Instructions of a block, without head and terminator."""
    cdef Insn* o = c.cache.arena + b.first + 1
    cdef int n = 0
    while o[n].fn != T_NEXT:
        n += 1
    return n

cdef bint translate_block(Cpu* c, Block* b) noexcept nogil:
    """Host code for a decoded block; False when it is not for translation, or the code memory is full."""
    cdef Insn* first = c.cache.arena + b.first + 1
    cdef int n = block_length(c, b)
    if not b.mode & MODE_64 or n == 0:
        return False
    mark_polls(first, n)
    if write_block(c, b, first, n):
        return True
    memset(c.jit.site + b.first + 1, 0, sizeof(u32) * (n + 1))    # what was begun is overwritten: no branch of it may be patched
    return False

cdef void mark_polls(Insn* first, int n) noexcept nogil:
    cdef int i
    cdef bint back = first.off < 0
    for i in range(n):
        back = back or i and first[i].off < first[i - 1].off
        if back:
            first[i].prefix |= PFX_POLL

cdef bint write_block(Cpu* c, Block* b, Insn* first, int n) noexcept nogil:
    """The code of translate_block()."""
    cdef Jit* j = c.jit
    cdef Emit emit
    cdef Emit* e = &emit
    cdef Insn* head = c.cache.arena + b.first
    cdef Insn* o
    cdef const u8* host = c.mem.host + b.maddr
    cdef u32 before[MAX_BLOCK + 1]
    cdef u32 after[MAX_BLOCK + 1]
    cdef u32 taken[MAX_BLOCK + 1]
    cdef int i, vectors
    cdef bint strict = c.strict or hooks_call(c), ended = False
    cdef u32* out1
    cdef u32* out2
    cdef u32* skip
    cdef u8* entry
    if j.used + JIT_ROOM > j.size:
        j.full = 1
        return False
    liveness(c, b, host, first, n, strict, before, after, taken)
    e.c, e.j, e.b = c, j, b
    e.p = entry = j.rw + ((j.used + 15) & ~<u32>15)
    e.limit = e.p + JIT_ROOM - 4096
    e.start = <u32>(b.maddr & 4095)
    e.counted = 0
    e.host_valid, e.mem_valid, e.failed = False, True, False
    e.insns, e.n, e.rsp, e.grouping = first, n, 0, c.hook_on == 0
    groups_close(e, REGS_ALL)
    e.n_stubs = 0
    put_mi1(e, 4, 0x83, 7, env(e, &c.req), 0)                      # cmp dword [req], 0
    out1 = jump_if(e, 5)
    if e.p - entry != POLL_BYTES:
        return False
    put_rr(e, 8, 0, 0, 0x85, H_BUDGET, H_BUDGET, 0)
    out2 = jump_if(e, 8)
    if uses_x87(first, n):
        put_mi1(e, 4, 0x80, 7, env(e, &c.fx_in), 0)
        skip = jump_if(e, 5)
        move_imm(e, H_T0, <u64>head)
        call_to(e, j.load_x87)
        patch(skip, e.p)
    vectors = uses_vectors(j, first, n)
    if vectors:
        put_mi1(e, 4, 0x80, 7, env(e, &c.xmm_in), vectors)
        skip = jump_if(e, 3)                                      # not below
        move_imm(e, H_T0, <u64>head)
        call_to(e, j.load_xmm if vectors == 1 else j.load_ymm)
        patch(skip, e.p)
    for i in range(n):
        o = first + i
        ended = rows[o.op].attrs & A_END and not rows[o.op].attrs & A_JCC
        e.at = i
        if gen_insn(e, o, host + o.off, before[i], after[i], taken[i]):
            groups_after(e, o)
        else:
            gen_exec(e, o, before[i])
            ended = False                                         # lest an exec function that ought not to does come back
        if e.p > e.limit or e.failed:
            return False
    if ended:
        b1(e, 0x0F)
        b1(e, 0x0B)
    else:
        gen_jump(e, first + n, after[n - 1])
    i = 0
    while i < e.n_stubs:
        gen_stub(e, &e.stubs[i])
        i += 1
        if e.p > e.limit or e.failed:
            return False
    patch(out1, e.p)
    patch(out2, e.p)
    head.link = <Insn*>e.p                                        # where a dropped block's entries are sent
    load(e, H_T0, env(e, &c.jit_page))
    lea(e, H_T0, addr(H_T0, <i32>e.start))
    jump_to(e, j.exit_rip)
    j.used = <u32>(e.p - j.rw)
    head.imm = e.start
    head.disp = <i64>(j.rx + (entry - j.rw))
    head.fn = T_JIT
    c.stat[STAT_TRANSLATED] += 1
    link_waiting(c, b, head)
    return True

# ---- links ----------------------------------------------------------------------------------------------------------
cdef void link_waiting(Cpu* c, Block* b, Insn* head) noexcept nogil:
    """Branches that are already linked to this block go to its code from now on."""
    cdef u32 i = b.incoming
    while i != NO_INSN:
        link_code(c, c.cache.arena + i, head)
        i = c.cache.arena[i].next_in

cdef inline void link_code(Cpu* c, Insn* o, Insn* head) noexcept nogil:
    """Patch the translated branch o, if it is one, to the translated block, if it is one."""
    cdef u32 site = c.jit.site[o - c.cache.arena]
    if site and head.fn == T_JIT:
        patch(<u32*>(c.jit.rw + site), jit_target(c.jit, o, head))

cdef void unlink_code(Cpu* c, Insn* head) noexcept nogil:
    """A translated block is dropped: both its entries lead out, for whoever still comes."""
    cdef u8* entry = c.jit.rw + (<u8*>head.disp - c.jit.rx)
    entry[0] = entry[POLL_BYTES] = 0xE9
    patch(<u32*>(entry + 1), <u8*>head.link)
    patch(<u32*>(entry + POLL_BYTES + 1), <u8*>head.link)

# ---- heads of blocks ------------------------------------------------------------------------------------------------
cdef int HEAD(Cpu* c, Insn* o) noexcept nogil:
    """The head of a block is no instruction."""
    return ST_OK

cdef void T_COUNT(Cpu* c, Insn* o) noexcept nogil:
    """Head of a block that is not hot yet."""
    cdef Block* b
    o.disp -= 1
    if unlikely(o.disp <= 0):
        b = c.cache.blocks + insn_block(c, o)
        if b.dead == 0 and translate_block(c, b):
            T_JIT(c, o)
            return
        o.fn = T_PASS
    (o + 1).fn(c, o + 1)

cdef void T_PASS(Cpu* c, Insn* o) noexcept nogil:
    """Head of a block that stays with the interpreter."""
    (o + 1).fn(c, o + 1)

cdef void make_head(Cpu* c, Insn* head) noexcept nogil:
    memset(head, 0, sizeof(Insn))
    head.fn = T_COUNT
    head.ex = HEAD
    head.disp = c.jit.hot
    head.next_in = NO_INSN
    head.base = head.index = R_ZERO
