# Groups: accesses of a block through one base register that has not changed, checked once for all of them.
#
# The first access of a group checks the whole range that the group touches against its site; the others only load the distance to host
# memory.  A group is either of reads or of writes, so that nothing is marked dirty that is not written; reads may use a group of writes.
# Accesses by rSP count from its value where the first group begins, through pushes, pops and constant steps, and share their site with all
# other stack accesses: the range is checked at both ends, and the distance kept in a site of the group's own.
#
# Where no site can cover the range, the first access is done by its exec function, and translated code is left behind it.  Nothing may
# withdraw a translation in the middle of a group: what an exec function does to the sites is seen by Cpu.site_epoch, and code goes on
# elsewhere.

cdef enum:
    GROUP_SPAN = 240         # bytes; a site has eight bits for it
    GROUP_STACK = 1024
    GROUP_FAILS = 8          # one in so many failures ends a group for good
    REGS_ALL = 0xFFFF

cdef u32 regs_written(Insn* o) noexcept nogil:
    """Bit per general register that may change; REGS_ALL when that is not known, or when a callback may come."""
    cdef JitRule* r = &jit_rules[row_rule[o.op]]
    cdef int kind = r.kind
    cdef u32 m = 0
    if o.op == ROW_HOOK:
        return REGS_ALL
    if row_sse[o.op].ok and rows[o.op].attrs & (A_SSE | A_AVX):
        if row_sse[o.op].gpr == 1:
            return 1 << o.reg
        return 1 << o.rm if row_sse[o.op].gpr == 2 and row_sse[o.op].stores and not o.is_mem else 0
    if row_x87[o.op]:
        return 1 << RAX                                           # FNSTSW
    if kind == JK_MODRM:
        if high_byte(o):
            return REGS_ALL
        if r.e_acc & 2 and not o.is_mem:
            m |= 1 << (RAX if r.flags & JR_ACC else o.rm)
        if r.ext < 0 and r.g_acc & 2:
            m |= 1 << o.reg
        if o.ex == MUL_E or o.ex == IMUL_E or o.ex == CMPXCHG_E_G:
            m |= 1 << RAX | 1 << RDX
        return m
    if kind == JK_LEA:
        return 1 << o.reg
    if kind == JK_MOV_IMM or kind == JK_BSWAP:
        return 1 << o.rm if not high_byte(o) else REGS_ALL
    if kind == JK_XCHG_A:
        return 1 << RAX | 1 << o.rm
    if kind == JK_PLAIN or kind == JK_DIV or kind == JK_IDIV:
        return 1 << RAX | 1 << RDX
    if kind == JK_PUSH:
        return 1 << RSP
    if kind == JK_POP:
        return 1 << RSP | 1 << o.rm
    if kind == JK_LEAVE:
        return 1 << RSP | 1 << RBP
    return 0 if kind == JK_JCC or kind == JK_NOP else REGS_ALL

cdef i32 rsp_step(Insn* o) noexcept nogil:
    """What the instruction adds to rSP, if that is all it does to it; 0 otherwise."""
    cdef int kind = jit_rules[row_rule[o.op]].kind
    if o.size != 8:
        return 0
    if kind == JK_PUSH:
        return -8
    if kind == JK_POP:
        return 8 if o.rm != RSP else 0
    if (o.ex == ADD_E_I or o.ex == SUB_E_I) and o.rm == RSP and not o.is_mem and o.imm > -4096 and o.imm < 4096:
        return <i32>(o.imm if o.ex == ADD_E_I else -o.imm)
    if kind == JK_LEA and o.reg == RSP and o.base == RSP and o.index == R_ZERO and o.asize == 8 and o.disp > -4096 and o.disp < 4096:
        return <i32>o.disp
    return 0

cdef struct Touch:           # a memory operand that may be in a group
    int base
    i32 disp
    int size
    bint write

cdef bint touches(Insn* o, Touch* t) noexcept nogil:
    """The memory operand by a register and a constant, if the instruction has one and it is translated with a group in mind."""
    cdef JitRule* r = &jit_rules[row_rule[o.op]]
    cdef int kind = r.kind
    t.base, t.disp, t.size, t.write = RSP, 0, 8, False
    if kind == JK_PUSH or kind == JK_CALL or kind == JK_CALL_IND:
        t.disp, t.write = -8, True
        return o.size == 8
    if kind == JK_POP or kind == JK_RET:
        return o.size == 8
    if (not o.is_mem or o.base >= 16 or HREG[o.base] == H_NONE or o.index != R_ZERO or o.seg >= FS or o.asize != 8
            or o.disp != <i32>o.disp or o.prefix & PFX_PROBE):
        return False
    t.base, t.disp = o.base, <i32>o.disp
    if row_sse[o.op].ok and rows[o.op].attrs & (A_SSE | A_AVX):
        t.size, t.write = row_sse[o.op].mem_size, row_sse[o.op].stores
        if t.size == MEM_VECTOR:
            t.size = max(o.size, 16)
        if row_sse[o.op].gpr == 2:
            t.size = o.size
        return t.size != 0 and not row_sse[o.op].aligned
    if kind != JK_MODRM:
        return False
    t.size = r.esize if r.esize else 1 if r.flags & JR_CC and r.e_acc == 2 else o.size
    t.write = r.e_acc & 2 != 0
    return not high_byte(o) and not r.flags & JR_REG

cdef void groups_close(Emit* e, u32 regs) noexcept nogil:
    cdef int i
    for i in range(16):
        if regs & (1 << i):
            e.groups[i][0].on = e.groups[i][1].on = 0

cdef void groups_after(Emit* e, Insn* o) noexcept nogil:
    """An instruction has been written in line: groups whose base has changed end."""
    cdef i32 step = rsp_step(o)
    cdef u32 regs = regs_written(o)
    if step:
        e.rsp += step
        regs &= ~<u32>(1 << RSP)
    groups_close(e, regs)

cdef int group_extent(Emit* e, Touch* t, i32* lo, i32* hi) noexcept nogil:
    """How many accesses from this instruction on a group could serve, and the range they touch (in e.rsp's count for rSP)."""
    cdef int k, n = 1, limit = GROUP_STACK if t.base == RSP else GROUP_SPAN
    cdef i32 rsp = e.rsp, at, step
    cdef u32 regs
    cdef Touch u
    for k in range(e.at, e.n):
        if k != e.at and touches(e.insns + k, &u) and u.base == t.base and u.write == t.write:
            at = u.disp + (rsp if u.base == RSP else 0)
            if max(hi[0], at + u.size) - min(lo[0], at) <= limit:
                lo[0] = min(lo[0], at)
                hi[0] = max(hi[0], at + u.size)
                n += 1
        regs = regs_written(e.insns + k)
        step = rsp_step(e.insns + k)
        if step:
            rsp += step
            regs &= ~<u32>(1 << RSP)
        if regs & (1 << t.base):
            break
    return n

cdef void group_check(Emit* e, Insn* o, Site* s, int number, Addr a, int reach) noexcept nogil:
    """The access at a is covered by the site, or the stub makes it so, or leaves."""
    cdef Stub* slow
    lea_any(e, 8, H_T0, &a)
    put_rm(e, 8, 0, 0, 0x2B, H_T0, env(e, &s.lo), 0)               # sub T0, [lo]
    put_rm(e, 8, 0, 0, 0x3B, H_T0, env(e, &s.len), 0)              # cmp T0, [len]
    slow = stub(e, STUB_EXEC, o, jump_if(e, 3))
    slow.site, slow.retry, slow.reach = number, e.retry, reach
    slow.info |= INFO_GROUP

cdef bint group_open(Emit* e, Insn* o, Touch* t, u32 live_in) noexcept nogil:
    """Check a new group that this access leads, if it is worth it."""
    cdef i32 base = e.rsp if t.base == RSP else 0, lo = t.disp + base, hi = lo + t.size
    cdef int n = group_extent(e, t, &lo, &hi), number = 0
    cdef bint stack = t.base == RSP
    cdef Group* g = &e.groups[t.base][t.write]
    cdef Site* s
    cdef Site* own
    if n < (3 if stack and hi - lo > 8 else 2) or o.prefix & PFX_PROBE:
        return False
    s = own = new_site(e, 8 if stack else hi - lo, t.write, False, &number)
    if own == NULL:
        return False
    if stack:
        s = new_site(e, 8, t.write, True, &number)
    flags_about_to_go(e, live_in)
    e.retry = e.p
    group_check(e, o, s, number, addr(HREG[t.base], lo - base), 0)
    if stack and hi - lo > 8:
        group_check(e, o, s, number, addr(HREG[RSP], hi - 8 - base), hi - 8 - lo)
    if stack:                                                     # another access by rSP may send the shared site elsewhere
        load(e, H_T1, env(e, &s.add))
        s = own
        store(e, env(e, &s.add), H_T1)
    g.on, g.lo, g.hi, g.add = 1, lo, hi, env(e, &s.add).disp
    return True

cdef bint grouped(Emit* e, Insn* o, Touch* t, u32 live_in, Addr* ea) noexcept nogil:
    """The operand is in a group, open or led by it: ea is where, with T1 in it and T0 free.  Flags stay unless it leads."""
    cdef i32 at = t.disp + (e.rsp if t.base == RSP else 0)
    cdef Group* g = &e.groups[t.base][1]
    if not e.grouping:
        return False
    if not (g.on and at >= g.lo and at + t.size <= g.hi):
        g = &e.groups[t.base][t.write]
        if not (g.on and at >= g.lo and at + t.size <= g.hi) and not group_open(e, o, t, live_in):
            return False
    load(e, H_T1, addr(H_ENV, g.add))
    ea[0] = addr(HREG[t.base], t.disp)
    ea.index = H_T1
    return True
