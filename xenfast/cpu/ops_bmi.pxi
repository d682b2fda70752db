# BMI1 and BMI2: bit fields, isolated bits, deposits and extracts, multiplication and shifts without flags.
#
# SDM Vol. 2, the instructions' own pages.  All but TZCNT (ops_bit.pxi) are VEX-encoded, on registers of 32 or 64 bits (o.size; W counts in
# 64-bit mode only); o.vvvv is the B operand.  Flags the SDM leaves undefined come out as of a logical operation.

cdef inline u64 b_operand(Cpu* c, Insn* o) noexcept nogil:
    return get_reg(c, o, o.vvvv, o.size)

cdef int ANDN_G_B_E(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 v, r
    cdef int st = read_rm(c, o, &v)
    if st != ST_OK:
        return st
    r = ~b_operand(c, o) & v
    flags_logic(c, o.size, r)
    set_reg(c, o, o.reg, o.size, r)
    return ST_OK

cdef int BEXTR_G_E_B(Cpu* c, Insn* o) noexcept nogil:
    """B holds the first bit in bits 7:0, the number of bits in 15:8."""
    cdef u64 v, r
    cdef u32 start = <u8>b_operand(c, o), n = <u8>(b_operand(c, o) >> 8)
    cdef int st = read_rm(c, o, &v)
    if st != ST_OK:
        return st
    r = v >> start if start < 64 else 0
    if n < 64:
        r &= (<u64>1 << n) - 1
    flags_logic(c, o.size, r)
    set_reg(c, o, o.reg, o.size, r)
    return ST_OK

cdef inline int lowest_bit(Cpu* c, Insn* o, int which) noexcept nogil:
    """Group 17: BLSR (1) clears the lowest bit that is set, BLSMSK (2) is the mask up to it, BLSI (3) that bit alone."""
    cdef u64 v, r
    cdef int st = read_rm(c, o, &v)
    if st != ST_OK:
        return st
    r = v & (v - 1) if which == 1 else v ^ (v - 1) if which == 2 else v & (0 - v)
    flags_shift(c, o.size, r, (v != 0) == (which == 3), False)
    set_reg(c, o, o.vvvv, o.size, r)
    return ST_OK

cdef int BLSR_B_E(Cpu* c, Insn* o) noexcept nogil:
    return lowest_bit(c, o, 1)

cdef int BLSMSK_B_E(Cpu* c, Insn* o) noexcept nogil:
    return lowest_bit(c, o, 2)

cdef int BLSI_B_E(Cpu* c, Insn* o) noexcept nogil:
    return lowest_bit(c, o, 3)

cdef int BZHI_G_E_B(Cpu* c, Insn* o) noexcept nogil:
    """CF: the index is beyond the operand."""
    cdef u64 v
    cdef u32 n = <u8>b_operand(c, o)
    cdef bint beyond = n >= 8 * <u32>o.size
    cdef int st = read_rm(c, o, &v)
    if st != ST_OK:
        return st
    if not beyond:
        v &= (<u64>1 << n) - 1
    flags_shift(c, o.size, v, beyond, False)
    set_reg(c, o, o.reg, o.size, v)
    return ST_OK

cdef int MULX_G_B_E(Cpu* c, Insn* o) noexcept nogil:
    """rDX times E: the high half to G, the low one to B; G wins when they are the same register."""
    cdef u64 v, a = get_reg(c, o, RDX, o.size), low, high
    cdef int st = read_rm(c, o, &v)
    if st != ST_OK:
        return st
    low = a * v
    high = low >> 32
    if o.size == 8:
        low = xf_umul(a, v, &high)
    set_reg(c, o, o.vvvv, o.size, low)
    set_reg(c, o, o.reg, o.size, high)
    return ST_OK

cdef int PDEP_G_B_E(Cpu* c, Insn* o) noexcept nogil:
    """The low bits of B go to the places that are set in E."""
    cdef u64 mask, r = 0, v = b_operand(c, o)
    cdef int st = read_rm(c, o, &mask)
    if st != ST_OK:
        return st
    while mask:
        if v & 1:
            r |= mask & (0 - mask)
        v >>= 1
        mask &= mask - 1
    set_reg(c, o, o.reg, o.size, r)
    return ST_OK

cdef int PEXT_G_B_E(Cpu* c, Insn* o) noexcept nogil:
    """The bits of B in the places that are set in E, side by side."""
    cdef u64 mask, r = 0, bit = 1, v = b_operand(c, o)
    cdef int st = read_rm(c, o, &mask)
    if st != ST_OK:
        return st
    while mask:
        if v & mask & (0 - mask):
            r |= bit
        bit <<= 1
        mask &= mask - 1
    set_reg(c, o, o.reg, o.size, r)
    return ST_OK

cdef int RORX_G_E_I(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 v
    cdef u32 bits = 8 * o.size, n = <u32>o.imm & (bits - 1)
    cdef int st = read_rm(c, o, &v)
    if st != ST_OK:
        return st
    if n:
        v = v >> n | v << (bits - n)
    set_reg(c, o, o.reg, o.size, v)
    return ST_OK

cdef int SHLX_G_E_B(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 v
    cdef int st = read_rm(c, o, &v)
    if st == ST_OK:
        set_reg(c, o, o.reg, o.size, v << (b_operand(c, o) & <u64>(8 * o.size - 1)))
    return st

cdef int SHRX_G_E_B(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 v
    cdef int st = read_rm(c, o, &v)
    if st == ST_OK:
        set_reg(c, o, o.reg, o.size, v >> (b_operand(c, o) & <u64>(8 * o.size - 1)))
    return st

cdef int SARX_G_E_B(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 v
    cdef int st = read_rm(c, o, &v)
    if st == ST_OK:
        set_reg(c, o, o.reg, o.size, <u64>(sign_extend(v, o.size) >> (b_operand(c, o) & <u64>(8 * o.size - 1))))
    return st
