# Shifts and rotates: SHL SHR SAR, ROL ROR RCL RCR, SHLD SHRD.
#
# SDM Vol. 2.  The count is masked to 5 bits (6 with 64-bit operands); a masked count of 0 changes no flag at all.
# Where OF is undefined (counts above 1) we take the formula of the one-bit case on the result, AF of shifts is 0, and
# SHLD/SHRD of 16 bits by more than 16 (all undefined) shift the register's bits in again.

cdef enum:               # ModRM.reg of group 2; 6 is an alias of SHL
    SH_ROL = 0
    SH_ROR = 1
    SH_RCL = 2
    SH_RCR = 3
    SH_SHL = 4
    SH_SHR = 5
    SH_SAR = 7

cdef struct Shifted:     # what a shift yields, before it is committed
    u64 r
    bint cf
    bint of

cdef inline bint bit_of(u64 v, u32 n) noexcept nogil:
    return (v >> n) & 1

cdef void rotate(Shifted* s, int op, u64 a, u32 n, u32 bits) noexcept nogil:
    """ROL and ROR of a by n: the flags are set even where n is a multiple of the width."""
    n &= bits - 1
    if op == SH_ROL:
        s.r = (a << n) | (a >> ((bits - n) & (bits - 1))) if n else a
        s.cf = s.r & 1
        s.of = bit_of(s.r, bits - 1) ^ s.cf
    else:
        s.r = (a >> n) | (a << ((bits - n) & (bits - 1))) if n else a
        s.cf = bit_of(s.r, bits - 1)
        s.of = s.cf ^ bit_of(s.r, bits - 2)

cdef void rotate_carry(Shifted* s, int op, u64 a, u32 n, u32 bits, bint cf) noexcept nogil:
    """RCL and RCR: the operand and CF as one number of bits + 1 bits, rotated by n <= bits."""
    cdef u64 carry = cf
    if n == 0:                                          # a whole turn
        s.r, s.cf = a, cf
        s.of = bit_of(a, bits - 1) ^ (cf if op == SH_RCL else bit_of(a, bits - 2))
    elif op == SH_RCL:
        s.cf = bit_of(a, bits - n)
        s.r = (carry << (n - 1)) | (a << n if n < 64 else 0)
        if n > 1:
            s.r |= a >> (bits + 1 - n)
        s.of = bit_of(s.r, bits - 1) ^ s.cf
    else:
        s.cf = bit_of(a, n - 1)
        s.r = (carry << (bits - n)) | (a >> n if n < 64 else 0)
        if n > 1:
            s.r |= a << (bits + 1 - n)
        s.of = bit_of(s.r, bits - 1) ^ bit_of(s.r, bits - 2)

cdef void shift(Shifted* s, int op, u64 a, u32 n, u32 bits) noexcept nogil:
    """SHL, SHR, SAR by 0 < n < 64; 8- and 16-bit operands may be shifted by more than their width."""
    cdef i64 wide
    if op == SH_SHL:
        s.r = a << n
        s.cf = bit_of(a, bits - n) if n <= bits else 0
        s.of = bit_of(s.r, bits - 1) ^ s.cf
    elif op == SH_SHR:
        s.r = a >> n
        s.cf = bit_of(a, n - 1)
        s.of = bit_of(s.r, bits - 1) ^ bit_of(s.r, bits - 2)
    else:
        wide = <i64>(a << (64 - bits)) >> (64 - bits)
        s.r = <u64>(wide >> n)
        s.cf = (wide >> (n - 1)) & 1
        s.of = 0

cdef inline int shift_E(Cpu* c, Insn* o, int op, u32 count) noexcept nogil:
    """E shifted by count: store, then flags."""
    cdef Rmw m
    cdef Shifted s
    cdef u64 a
    cdef u32 bits = 8 * o.size
    cdef u32 n = count & (63 if o.size == 8 else 31)
    cdef int st
    if n == 0:
        return touch_E(c, o)
    if (op == SH_RCL or op == SH_RCR) and bits < 32:
        n %= bits + 1
    while True:
        st = rmw_begin(c, o, &m, &a)
        if st != ST_OK:
            return st
        if op <= SH_ROR:
            rotate(&s, op, a, n, bits)
        elif op <= SH_RCR:
            rotate_carry(&s, op, a, n, bits, get_cf(c))
        else:
            shift(&s, op, a, n, bits)
        st = rmw_end(c, o, &m, s.r)
        if st != RMW_AGAIN:
            break
    if st != ST_OK:
        return st
    if op <= SH_RCR:
        set_cf_of(c, s.cf, s.of)
    else:
        flags_shift(c, o.size, s.r, s.cf, s.of)
    return ST_OK

cdef int touch_E(Cpu* c, Insn* o) noexcept nogil:
    """A count of 0 stores the operand back: memory faults as ever, a 32-bit register is zero-extended."""
    cdef Rmw m
    cdef u64 a
    cdef int st = rmw_begin(c, o, &m, &a)
    if st == ST_OK and not o.is_mem:
        st = rmw_end(c, o, &m, a)
    return st

# ---------------------------------------------------------------------------------------------------------------------
# Group 2: E by 1, by imm8, by CL.
cdef int ROL_E_1(Cpu* c, Insn* o) noexcept nogil:
    return shift_E(c, o, SH_ROL, 1)

cdef int ROL_E_I(Cpu* c, Insn* o) noexcept nogil:
    return shift_E(c, o, SH_ROL, <u32>o.imm)

cdef int ROL_E_CL(Cpu* c, Insn* o) noexcept nogil:
    return shift_E(c, o, SH_ROL, <u32>c.r[RCX])

cdef int ROR_E_1(Cpu* c, Insn* o) noexcept nogil:
    return shift_E(c, o, SH_ROR, 1)

cdef int ROR_E_I(Cpu* c, Insn* o) noexcept nogil:
    return shift_E(c, o, SH_ROR, <u32>o.imm)

cdef int ROR_E_CL(Cpu* c, Insn* o) noexcept nogil:
    return shift_E(c, o, SH_ROR, <u32>c.r[RCX])

cdef int RCL_E_1(Cpu* c, Insn* o) noexcept nogil:
    return shift_E(c, o, SH_RCL, 1)

cdef int RCL_E_I(Cpu* c, Insn* o) noexcept nogil:
    return shift_E(c, o, SH_RCL, <u32>o.imm)

cdef int RCL_E_CL(Cpu* c, Insn* o) noexcept nogil:
    return shift_E(c, o, SH_RCL, <u32>c.r[RCX])

cdef int RCR_E_1(Cpu* c, Insn* o) noexcept nogil:
    return shift_E(c, o, SH_RCR, 1)

cdef int RCR_E_I(Cpu* c, Insn* o) noexcept nogil:
    return shift_E(c, o, SH_RCR, <u32>o.imm)

cdef int RCR_E_CL(Cpu* c, Insn* o) noexcept nogil:
    return shift_E(c, o, SH_RCR, <u32>c.r[RCX])

cdef int SHL_E_1(Cpu* c, Insn* o) noexcept nogil:
    return shift_E(c, o, SH_SHL, 1)

cdef int SHL_E_I(Cpu* c, Insn* o) noexcept nogil:
    return shift_E(c, o, SH_SHL, <u32>o.imm)

cdef int SHL_E_CL(Cpu* c, Insn* o) noexcept nogil:
    return shift_E(c, o, SH_SHL, <u32>c.r[RCX])

cdef int SHR_E_1(Cpu* c, Insn* o) noexcept nogil:
    return shift_E(c, o, SH_SHR, 1)

cdef int SHR_E_I(Cpu* c, Insn* o) noexcept nogil:
    return shift_E(c, o, SH_SHR, <u32>o.imm)

cdef int SHR_E_CL(Cpu* c, Insn* o) noexcept nogil:
    return shift_E(c, o, SH_SHR, <u32>c.r[RCX])

cdef int SAR_E_1(Cpu* c, Insn* o) noexcept nogil:
    return shift_E(c, o, SH_SAR, 1)

cdef int SAR_E_I(Cpu* c, Insn* o) noexcept nogil:
    return shift_E(c, o, SH_SAR, <u32>o.imm)

cdef int SAR_E_CL(Cpu* c, Insn* o) noexcept nogil:
    return shift_E(c, o, SH_SAR, <u32>c.r[RCX])

# ---------------------------------------------------------------------------------------------------------------------
cdef void shift_double(Shifted* s, bint left, u64 a, u64 b, u32 n, u32 bits) noexcept nogil:
    """a shifted by 0 < n < 64, with the bits of b coming in."""
    if n > bits:                                        # 16-bit operands only
        shift_double(s, left, b, a, n - bits, bits)
        return
    if left:
        s.cf = bit_of(a, bits - n)
        s.r = (a << n) | (b >> (bits - n))
        s.of = bit_of(s.r, bits - 1) ^ s.cf
    else:
        s.cf = bit_of(a, n - 1)
        s.r = (a >> n) | (b << (bits - n))
        s.of = bit_of(s.r, bits - 1) ^ bit_of(s.r, bits - 2)

cdef inline int shift_double_E(Cpu* c, Insn* o, bint left, u32 count) noexcept nogil:
    cdef Rmw m
    cdef Shifted s
    cdef u64 a
    cdef u64 b = get_reg(c, o, o.reg, o.size)
    cdef u32 n = count & (63 if o.size == 8 else 31)
    cdef int st
    if n == 0:
        return touch_E(c, o)
    while True:
        st = rmw_begin(c, o, &m, &a)
        if st != ST_OK:
            return st
        shift_double(&s, left, a, b, n, 8 * o.size)
        st = rmw_end(c, o, &m, s.r)
        if st != RMW_AGAIN:
            break
    if st == ST_OK:
        flags_shift(c, o.size, s.r, s.cf, s.of)
    return st

cdef int SHLD_E_G_I(Cpu* c, Insn* o) noexcept nogil:
    return shift_double_E(c, o, True, <u32>o.imm)

cdef int SHLD_E_G_CL(Cpu* c, Insn* o) noexcept nogil:
    return shift_double_E(c, o, True, <u32>c.r[RCX])

cdef int SHRD_E_G_I(Cpu* c, Insn* o) noexcept nogil:
    return shift_double_E(c, o, False, <u32>o.imm)

cdef int SHRD_E_G_CL(Cpu* c, Insn* o) noexcept nogil:
    return shift_double_E(c, o, False, <u32>c.r[RCX])
