# Near control transfer: JMP, Jcc, CALL, RET, LOOP, JrCXZ; and software interrupts and the undefined instructions.
#
# SDM Vol. 2.  A target is checked before anything is pushed.  Far transfers are in ops_far.pxi.

cdef inline int branch_next(Cpu* c, Insn* o) noexcept nogil:
    """Done, but decoding may go on differently: through the dispatcher to the next instruction."""
    c.rip = next_rip(c, o)
    if not c.mode & MODE_64:
        c.rip = <u32>c.rip
    return ST_BRANCH

cdef inline u64 relative(Cpu* c, Insn* o) noexcept nogil:
    return c.r[R_RIPBASE] + <u64>o.imm

cdef int JMP_J(Cpu* c, Insn* o) noexcept nogil:
    return branch_to(c, o, relative(c, o))

cdef int JMP_E(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 v
    cdef int st = read_rm(c, o, &v)
    return branch_to(c, o, v) if st == ST_OK else st

cdef int JCC_J(Cpu* c, Insn* o) noexcept nogil:
    if cond(c, o.cc):
        return branch_to(c, o, relative(c, o))
    return branch_next(c, o)

cdef inline int call_near(Cpu* c, Insn* o, u64 target) noexcept nogil:
    cdef int st = branch_to(c, o, target)
    if st != ST_BRANCH:
        return st
    st = push(c, o.size, next_rip(c, o))
    return ST_BRANCH if st == ST_OK else st

cdef int CALL_J(Cpu* c, Insn* o) noexcept nogil:
    return call_near(c, o, relative(c, o))

cdef int CALL_E(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 v
    cdef int st = read_rm(c, o, &v)
    return call_near(c, o, v) if st == ST_OK else st

cdef inline int ret_near(Cpu* c, Insn* o, int size, u64 extra) noexcept nogil:
    cdef u64 v
    cdef u64 sp = get_sp(c)
    cdef int st = stack_pop(c, &sp, size, &v)
    if st == ST_OK:
        st = branch_to(c, o, v)
    if st == ST_BRANCH:
        set_sp(c, sp + extra)
    return st

cdef int RET(Cpu* c, Insn* o) noexcept nogil:
    return ret_near(c, o, o.size, 0)

cdef int RET_Iw(Cpu* c, Insn* o) noexcept nogil:
    return ret_near(c, o, o.size, <u64>(o.imm & 0xFFFF))

# ---- counting in rCX ------------------------------------------------------------------------------------------------
cdef inline u64 count_get(Cpu* c, Insn* o) noexcept nogil:
    """rCX of the address size."""
    if o.asize == 8:
        return c.r[RCX]
    return <u32>c.r[RCX] if o.asize == 4 else <u16>c.r[RCX]

cdef inline void count_set(Cpu* c, Insn* o, u64 v) noexcept nogil:
    if o.asize == 8:
        c.r[RCX] = v
    elif o.asize == 4:
        c.r[RCX] = <u32>v
    else:
        c.r[RCX] = (c.r[RCX] & ~<u64>0xFFFF) | <u16>v

cdef inline int loop_if(Cpu* c, Insn* o, bint also) noexcept nogil:
    cdef u64 n = count_get(c, o) - 1
    cdef bint taken
    cdef int st
    if o.asize == 4:
        n = <u32>n
    elif o.asize == 2:
        n = <u16>n
    taken = n != 0 and also
    st = branch_to(c, o, relative(c, o)) if taken else branch_next(c, o)
    if st == ST_BRANCH:
        count_set(c, o, n)
    return st

cdef int LOOP_J(Cpu* c, Insn* o) noexcept nogil:
    return loop_if(c, o, True)

cdef int LOOPE_J(Cpu* c, Insn* o) noexcept nogil:
    return loop_if(c, o, flag_zf(c))

cdef int LOOPNE_J(Cpu* c, Insn* o) noexcept nogil:
    return loop_if(c, o, not flag_zf(c))

cdef int JCXZ_J(Cpu* c, Insn* o) noexcept nogil:
    """JCXZ, JECXZ, JRCXZ by address size."""
    if count_get(c, o) == 0:
        return branch_to(c, o, relative(c, o))
    return branch_next(c, o)

# ---- software interrupts --------------------------------------------------------------------------------------------
cdef inline int software_interrupt(Cpu* c, Insn* o, int vector) noexcept nogil:
    """INT n, INT3, INTO: a trap; delivery checks the gate's DPL against CPL."""
    if c.is_pv:
        return pv_int(c, o, vector)
    c.int_rip = insn_rip(c, o)
    branch_next(c, o)
    c.soft_int = 1
    fault(c, vector)
    return ST_TRAP

cdef int INT3(Cpu* c, Insn* o) noexcept nogil:
    return software_interrupt(c, o, X_BP)

cdef int INT_I(Cpu* c, Insn* o) noexcept nogil:
    cdef int st
    if c.mode & MODE_VM:
        st = vm_int(c, o, <int>(o.imm & 0xFF))
        if st != ST_OK:
            return st
    return software_interrupt(c, o, <int>(o.imm & 0xFF))

cdef int INTO(Cpu* c, Insn* o) noexcept nogil:
    if not flag_of(c):
        return branch_next(c, o)
    return software_interrupt(c, o, X_OF)

cdef int INT1(Cpu* c, Insn* o) noexcept nogil:
    """#DB as a trap, whatever the gate's DPL; DR6 tells nothing of it."""
    branch_next(c, o)
    fault(c, X_DB)
    return ST_TRAP

cdef int UD2(Cpu* c, Insn* o) noexcept nogil:
    """A PV guest may ask for CPUID to be emulated: ud2a; "xen"; cpuid (XEN_EMULATE_PREFIX in xen/arch-x86/xen.h)."""
    cdef u8 code[5]
    cdef u64 lin = next_rip(c, o) + c.r[R_SEG + CS]
    if c.is_pv and mem_read_n(c, lin, 5, code) == ST_OK:
        if code[0] == 0x78 and code[1] == 0x65 and code[2] == 0x6E and code[3] == 0x0F and code[4] == 0xA2:
            cpuid_to_regs(c)
            c.rip = next_rip(c, o) + 5
            return ST_BRANCH
    return fault(c, X_UD)

cdef int UD1(Cpu* c, Insn* o) noexcept nogil:
    """UD0 and UD1: undefined for good."""
    return fault(c, X_UD)
