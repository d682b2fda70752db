# Integer arithmetic and logic: group 1 (ADD OR ADC SBB AND SUB XOR CMP), TEST, INC, DEC, NEG, NOT, XADD, CMPXCHG*.
#
# SDM Vol. 2, the instructions' own pages; opcode bits 5-3 (or ModRM.reg of group 1) choose among the eight of group
# 1. Every read-modify-write computes first, stores, and sets flags only when the store has not faulted and, with
# LOCK, has won. A function serves all operand widths: ADD_E_G is ADD Eb,Gb and ADD Ev,Gv.

cdef enum:
    ALU_ADD = 0
    ALU_OR = 1
    ALU_ADC = 2
    ALU_SBB = 3
    ALU_AND = 4
    ALU_SUB = 5
    ALU_XOR = 6
    ALU_CMP = 7

# CMPXCHG16B: one access for the vcpu threads beside us.  ISO C has no such operation that gcc inlines, x86-64 has the
# instruction.
cdef extern from *:
    """
    static inline int xf_cas128(void* p, uint64_t* lo, uint64_t* hi, uint64_t nlo, uint64_t nhi) {
    #if defined(__x86_64__)
        unsigned char ok;
        __asm__ __volatile__("lock cmpxchg16b %1" : "=@ccz"(ok), "+m"(*(volatile __int128*)p), "+a"(*lo), "+d"(*hi)
                             : "b"(nlo), "c"(nhi) : "memory");
        return ok;
    #else
        unsigned __int128 e = ((unsigned __int128)*hi << 64) | *lo, d = ((unsigned __int128)nhi << 64) | nlo;
        int ok = __atomic_compare_exchange((unsigned __int128*)p, &e, &d, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
        *lo = (uint64_t)e; *hi = (uint64_t)(e >> 64);
        return ok;
    #endif
    }
    """
    bint xf_cas128(void* p, u64* lo, u64* hi, u64 nlo, u64 nhi) noexcept nogil

# ---------------------------------------------------------------------------------------------------------------------
cdef inline u64 alu_result(Cpu* c, int op, u64 a, u64 b) noexcept nogil:
    if op == ALU_ADD:
        return a + b
    if op == ALU_OR:
        return a | b
    if op == ALU_ADC:
        return a + b + get_cf(c)
    if op == ALU_SBB:
        return a - b - get_cf(c)
    if op == ALU_AND:
        return a & b
    if op == ALU_XOR:
        return a ^ b
    return a - b

cdef inline void alu_flags(Cpu* c, int op, int size, u64 a, u64 b, u64 r) noexcept nogil:
    if op == ALU_ADD or op == ALU_ADC:
        flags_add(c, size, a, b, r)
    elif op == ALU_OR or op == ALU_AND or op == ALU_XOR:
        flags_logic(c, size, r)
    else:
        flags_sub(c, size, a, b, r)

cdef inline int alu_E(Cpu* c, Insn* o, int op, u64 b) noexcept nogil:
    """E = E op b; CMP writes nothing."""
    cdef Rmw m
    cdef u64 a, r
    cdef int st
    if op == ALU_CMP:
        st = read_rm(c, o, &a)
        if st == ST_OK:
            flags_sub(c, o.size, a, b, a - b)
        return st
    while True:
        st = rmw_begin(c, o, &m, &a)
        if st != ST_OK:
            return st
        r = alu_result(c, op, a, b)
        st = rmw_end(c, o, &m, r)
        if st != RMW_AGAIN:
            break
    if st == ST_OK:
        alu_flags(c, op, o.size, a, b, r)
    return st

cdef inline int alu_G_E(Cpu* c, Insn* o, int op) noexcept nogil:
    cdef u64 a, b, r
    cdef int st = read_rm(c, o, &b)
    if st != ST_OK:
        return st
    a = get_reg(c, o, o.reg, o.size)
    r = alu_result(c, op, a, b)
    alu_flags(c, op, o.size, a, b, r)
    if op != ALU_CMP:
        set_reg(c, o, o.reg, o.size, r)
    return ST_OK

cdef inline int alu_A_I(Cpu* c, Insn* o, int op) noexcept nogil:
    cdef u64 a = get_reg(c, o, RAX, o.size)
    cdef u64 r = alu_result(c, op, a, <u64>o.imm)
    alu_flags(c, op, o.size, a, <u64>o.imm, r)
    if op != ALU_CMP:
        set_reg(c, o, RAX, o.size, r)
    return ST_OK

# ---------------------------------------------------------------------------------------------------------------------
# The four forms of group 1: E,G  G,E  accumulator,I  E,I.
cdef int ADD_E_G(Cpu* c, Insn* o) noexcept nogil:
    return alu_E(c, o, ALU_ADD, get_reg(c, o, o.reg, o.size))

cdef int ADD_G_E(Cpu* c, Insn* o) noexcept nogil:
    return alu_G_E(c, o, ALU_ADD)

cdef int ADD_A_I(Cpu* c, Insn* o) noexcept nogil:
    return alu_A_I(c, o, ALU_ADD)

cdef int ADD_E_I(Cpu* c, Insn* o) noexcept nogil:
    return alu_E(c, o, ALU_ADD, <u64>o.imm)

cdef int OR_E_G(Cpu* c, Insn* o) noexcept nogil:
    return alu_E(c, o, ALU_OR, get_reg(c, o, o.reg, o.size))

cdef int OR_G_E(Cpu* c, Insn* o) noexcept nogil:
    return alu_G_E(c, o, ALU_OR)

cdef int OR_A_I(Cpu* c, Insn* o) noexcept nogil:
    return alu_A_I(c, o, ALU_OR)

cdef int OR_E_I(Cpu* c, Insn* o) noexcept nogil:
    return alu_E(c, o, ALU_OR, <u64>o.imm)

cdef int ADC_E_G(Cpu* c, Insn* o) noexcept nogil:
    return alu_E(c, o, ALU_ADC, get_reg(c, o, o.reg, o.size))

cdef int ADC_G_E(Cpu* c, Insn* o) noexcept nogil:
    return alu_G_E(c, o, ALU_ADC)

cdef int ADC_A_I(Cpu* c, Insn* o) noexcept nogil:
    return alu_A_I(c, o, ALU_ADC)

cdef int ADC_E_I(Cpu* c, Insn* o) noexcept nogil:
    return alu_E(c, o, ALU_ADC, <u64>o.imm)

cdef int SBB_E_G(Cpu* c, Insn* o) noexcept nogil:
    return alu_E(c, o, ALU_SBB, get_reg(c, o, o.reg, o.size))

cdef int SBB_G_E(Cpu* c, Insn* o) noexcept nogil:
    return alu_G_E(c, o, ALU_SBB)

cdef int SBB_A_I(Cpu* c, Insn* o) noexcept nogil:
    return alu_A_I(c, o, ALU_SBB)

cdef int SBB_E_I(Cpu* c, Insn* o) noexcept nogil:
    return alu_E(c, o, ALU_SBB, <u64>o.imm)

cdef int AND_E_G(Cpu* c, Insn* o) noexcept nogil:
    return alu_E(c, o, ALU_AND, get_reg(c, o, o.reg, o.size))

cdef int AND_G_E(Cpu* c, Insn* o) noexcept nogil:
    return alu_G_E(c, o, ALU_AND)

cdef int AND_A_I(Cpu* c, Insn* o) noexcept nogil:
    return alu_A_I(c, o, ALU_AND)

cdef int AND_E_I(Cpu* c, Insn* o) noexcept nogil:
    return alu_E(c, o, ALU_AND, <u64>o.imm)

cdef int SUB_E_G(Cpu* c, Insn* o) noexcept nogil:
    return alu_E(c, o, ALU_SUB, get_reg(c, o, o.reg, o.size))

cdef int SUB_G_E(Cpu* c, Insn* o) noexcept nogil:
    return alu_G_E(c, o, ALU_SUB)

cdef int SUB_A_I(Cpu* c, Insn* o) noexcept nogil:
    return alu_A_I(c, o, ALU_SUB)

cdef int SUB_E_I(Cpu* c, Insn* o) noexcept nogil:
    return alu_E(c, o, ALU_SUB, <u64>o.imm)

cdef int XOR_E_G(Cpu* c, Insn* o) noexcept nogil:
    return alu_E(c, o, ALU_XOR, get_reg(c, o, o.reg, o.size))

cdef int XOR_G_E(Cpu* c, Insn* o) noexcept nogil:
    return alu_G_E(c, o, ALU_XOR)

cdef int XOR_A_I(Cpu* c, Insn* o) noexcept nogil:
    return alu_A_I(c, o, ALU_XOR)

cdef int XOR_E_I(Cpu* c, Insn* o) noexcept nogil:
    return alu_E(c, o, ALU_XOR, <u64>o.imm)

cdef int CMP_E_G(Cpu* c, Insn* o) noexcept nogil:
    return alu_E(c, o, ALU_CMP, get_reg(c, o, o.reg, o.size))

cdef int CMP_G_E(Cpu* c, Insn* o) noexcept nogil:
    return alu_G_E(c, o, ALU_CMP)

cdef int CMP_A_I(Cpu* c, Insn* o) noexcept nogil:
    return alu_A_I(c, o, ALU_CMP)

cdef int CMP_E_I(Cpu* c, Insn* o) noexcept nogil:
    return alu_E(c, o, ALU_CMP, <u64>o.imm)

# ---------------------------------------------------------------------------------------------------------------------
cdef int TEST_E_G(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 a
    cdef int st = read_rm(c, o, &a)
    if st == ST_OK:
        flags_logic(c, o.size, a & get_reg(c, o, o.reg, o.size))
    return st

cdef int TEST_E_I(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 a
    cdef int st = read_rm(c, o, &a)
    if st == ST_OK:
        flags_logic(c, o.size, a & <u64>o.imm)
    return st

cdef int TEST_A_I(Cpu* c, Insn* o) noexcept nogil:
    flags_logic(c, o.size, get_reg(c, o, RAX, o.size) & <u64>o.imm)
    return ST_OK

cdef int INC_E(Cpu* c, Insn* o) noexcept nogil:
    cdef Rmw m
    cdef u64 a
    cdef int st
    while True:
        st = rmw_begin(c, o, &m, &a)
        if st != ST_OK:
            return st
        st = rmw_end(c, o, &m, a + 1)
        if st != RMW_AGAIN:
            break
    if st == ST_OK:
        flags_inc(c, o.size, a, a + 1)
    return st

cdef int DEC_E(Cpu* c, Insn* o) noexcept nogil:
    cdef Rmw m
    cdef u64 a
    cdef int st
    while True:
        st = rmw_begin(c, o, &m, &a)
        if st != ST_OK:
            return st
        st = rmw_end(c, o, &m, a - 1)
        if st != RMW_AGAIN:
            break
    if st == ST_OK:
        flags_dec(c, o.size, a, a - 1)
    return st

cdef int INC_Z(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 a = get_reg(c, o, o.rm, o.size)
    flags_inc(c, o.size, a, a + 1)
    set_reg(c, o, o.rm, o.size, a + 1)
    return ST_OK

cdef int DEC_Z(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 a = get_reg(c, o, o.rm, o.size)
    flags_dec(c, o.size, a, a - 1)
    set_reg(c, o, o.rm, o.size, a - 1)
    return ST_OK

cdef int NOT_E(Cpu* c, Insn* o) noexcept nogil:
    """Flags stay."""
    cdef Rmw m
    cdef u64 a
    cdef int st
    while True:
        st = rmw_begin(c, o, &m, &a)
        if st != ST_OK:
            return st
        st = rmw_end(c, o, &m, ~a)
        if st != RMW_AGAIN:
            return st

cdef int NEG_E(Cpu* c, Insn* o) noexcept nogil:
    """Flags of 0 - E, so CF = (E != 0)."""
    cdef Rmw m
    cdef u64 a
    cdef int st
    while True:
        st = rmw_begin(c, o, &m, &a)
        if st != ST_OK:
            return st
        st = rmw_end(c, o, &m, 0 - a)
        if st != RMW_AGAIN:
            break
    if st == ST_OK:
        flags_sub(c, o.size, 0, a, 0 - a)
    return st

# ---------------------------------------------------------------------------------------------------------------------
cdef int XADD_E_G(Cpu* c, Insn* o) noexcept nogil:
    """G gets the old E, then E the sum: with one register for both, the sum stays."""
    cdef Rmw m
    cdef u64 a
    cdef u64 b = get_reg(c, o, o.reg, o.size)
    cdef int st
    while True:
        st = rmw_begin(c, o, &m, &a)
        if st != ST_OK:
            return st
        if not o.is_mem:
            set_reg(c, o, o.reg, o.size, a)
        st = rmw_end(c, o, &m, a + b)
        if st != RMW_AGAIN:
            break
    if st != ST_OK:
        return st
    if o.is_mem:
        set_reg(c, o, o.reg, o.size, a)
    flags_add(c, o.size, a, b, a + b)
    return ST_OK

cdef int CMPXCHG_E_G(Cpu* c, Insn* o) noexcept nogil:
    """Memory is written in either case (the old value back); of registers only the one that changes is, which matters
    for the upper half of 32-bit ones."""
    cdef Rmw m
    cdef u64 a, acc, mask
    cdef int st
    mask = ~<u64>0 >> size_shift(o.size)
    acc = get_reg(c, o, RAX, o.size) & mask
    while True:
        st = rmw_begin(c, o, &m, &a)
        if st != ST_OK:
            return st
        if a & mask == acc:
            st = rmw_end(c, o, &m, get_reg(c, o, o.reg, o.size))
        elif o.is_mem:
            st = rmw_end(c, o, &m, a)
        if st != RMW_AGAIN:
            break
    if st != ST_OK:
        return st
    if a & mask != acc:
        set_reg(c, o, RAX, o.size, a)
    flags_sub(c, o.size, acc, a, acc - a)
    return ST_OK

cdef int ADCX_G_E(Cpu* c, Insn* o) noexcept nogil:
    """Two chains of additions side by side: ADCX carries through CF alone, ADOX through OF alone (SDM Vol. 2)."""
    cdef u64 a = get_reg(c, o, o.reg, o.size), b, r
    cdef bint carry = get_cf(c)
    cdef int st = read_rm(c, o, &b)
    if st != ST_OK:
        return st
    r = a + b + carry
    set_cf(c, carry_out(o.size, a, b, r))
    set_reg(c, o, o.reg, o.size, r)
    return ST_OK

cdef int ADOX_G_E(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 a = get_reg(c, o, o.reg, o.size), b, r
    cdef bint carry = flag_of(c)
    cdef int st = read_rm(c, o, &b)
    if st != ST_OK:
        return st
    r = a + b + carry
    set_cf_of(c, get_cf(c), carry_out(o.size, a, b, r))
    set_reg(c, o, o.reg, o.size, r)
    return ST_OK

cdef inline bint carry_out(int size, u64 a, u64 b, u64 r) noexcept nogil:
    """The carry out of the top bit of a + b (+ 1) = r."""
    return (((a & b) | ((a | b) & ~r)) >> (8 * size - 1)) & 1

cdef int CMPXCHG8B_M(Cpu* c, Insn* o) noexcept nogil:
    """m64 against EDX:EAX, new value ECX:EBX.  Only ZF changes; the operand is written in either case."""
    cdef Rmw m
    cdef u64 lin, old
    cdef u64 expect = (c.r[RDX] << 32) | <u32>c.r[RAX]
    cdef u64 new = (c.r[RCX] << 32) | <u32>c.r[RBX]
    cdef int st
    if o.size == 8:
        return cmpxchg16b(c, o)
    st = operand_lin_w(c, o, 8, &lin)
    if st != ST_OK:
        return st
    while True:
        st = rmw_begin_lin(c, lin, 8, &m, &old)
        if st != ST_OK:
            return st
        st = rmw_end_mem(c, &m, 8, o.prefix & PFX_LOCK, new if old == expect else old)
        if st != RMW_AGAIN:
            break
    if st != ST_OK:
        return st
    if old != expect:
        c.r[RAX] = <u32>old
        c.r[RDX] = old >> 32
    set_zf(c, old == expect)
    return ST_OK

cdef int cmpxchg16b(Cpu* c, Insn* o) noexcept nogil:
    """m128 against RDX:RAX, new value RCX:RBX; aligned to 16 bytes or #GP."""
    cdef u64 lin
    cdef u64 lo = c.r[RAX], hi = c.r[RDX]
    cdef u8* host = NULL
    cdef bint equal
    cdef int st
    if not has_feature(c, FEAT_1C, 13):
        return fault(c, X_UD)
    st = operand_lin_w(c, o, 16, &lin)
    if st != ST_OK:
        return st
    if lin & 15:
        return fault_err(c, X_GP, 0)
    st = translate_cached(c, lin, ACC_WRITE, &host)
    if st != ST_OK:
        return mmio_wide(c, st)
    if unlikely(c.bp_on & BP_LOOK):
        st = look(c, lin, 16, False, (<u64*>host)[0])
        if st == ST_OK:
            st = look(c, lin, 16, True, c.r[RBX] if lo == (<u64*>host)[0] and hi == (<u64*>host)[1] else (<u64*>host)[0])
        if st != ST_OK:
            return st
    equal = xf_cas128(host, &lo, &hi, c.r[RBX], c.r[RCX])     # SAFETY: aligned, so all 16 bytes are in the page of host
    code_written(c, host, 16)
    if not equal:
        c.r[RAX], c.r[RDX] = lo, hi
    set_zf(c, equal)
    return ST_OK
