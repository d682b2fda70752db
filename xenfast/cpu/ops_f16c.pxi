# F16C: VCVTPH2PS and VCVTPS2PH, half precision in memory and registers.
#
# SDM Vol. 1, 14.4 and 4.2.2 (the format: sign, 5 bits of exponent, 10 of fraction).  In integers, so that every host gives
# the same.  MXCSR.DAZ does not apply to halves, FTZ does not apply at all (14.4.1).

cdef u32 half_to_single(u32 h, u32* ex) noexcept nogil:
    cdef u32 sign = (h & 0x8000) << 16
    cdef u32 e = (h >> 10) & 31
    cdef u32 m = h & 0x3FF
    if e == 31:
        if m and not m & 0x200:
            ex[0] |= FP_IE
            m |= 0x200
        return sign | 0x7F800000 | m << 13
    if e == 0:
        if m == 0:
            return sign
        e = 1
        while not m & 0x400:                     # a denormal half is a normal single
            m <<= 1
            e -= 1
    return sign | (e + 112) << 23 | (m & 0x3FF) << 13

cdef inline u32 round_shift(u32 m, int shift, bint negative, u32 rc) noexcept nogil:
    """m / 2**shift in the rounding mode."""
    cdef u32 q = m >> shift
    cdef u32 rest = m & ((<u32>1 << shift) - 1)
    cdef u32 tie = <u32>1 << (shift - 1)
    if rc == 0:
        return q + 1 if rest > tie or (rest == tie and q & 1 != 0) else q
    return q + 1 if rest != 0 and rc == <u32>(1 if negative else 2) else q

cdef u32 single_to_half(u32 x, u32 rc, u32 mxcsr, u32* ex) noexcept nogil:
    cdef bint negative = x >> 31
    cdef u32 sign = 0x8000 if negative else 0
    cdef int e = <int>((x >> 23) & 0xFF) - 112       # in the half's bias
    cdef u32 m = x & 0x7FFFFF
    cdef u32 r
    cdef int shift = 13
    cdef bint tiny = False
    if e == 143:
        if m and not m & 0x400000:
            ex[0] |= FP_IE
        return sign | 0x7C00 | (0x200 | m >> 13 if m else 0)
    if e == -112:
        if m == 0 or mxcsr & MXCSR_DAZ:
            return sign
        ex[0] |= FP_DE
    else:
        m |= 0x800000
    if e < 1:
        shift = 14 - e if e > -16 else 30
        tiny = e < 0 or round_shift(m, 13, negative, rc) < 0x800      # not if it rounds to the smallest normal number
    r = round_shift(m, shift, negative, rc) + (<u32>(e - 1) << 10 if e >= 1 else 0)
    if m & ((<u32>1 << shift) - 1):
        ex[0] |= FP_PE
    if tiny and (ex[0] & FP_PE or not mxcsr & FP_UE << 7):
        ex[0] |= FP_UE
    if r >= 0x7C00:
        ex[0] |= FP_OE | FP_PE
        r = 0x7C00 if rc == 0 or rc == (1 if negative else 2) else 0x7BFF
    return sign | r

cdef int VCVTPH2PS_Vx_Wx(Cpu* c, Insn* o) noexcept nogil:
    """Vx,Wq: 8 or 16 bytes of halves."""
    cdef Lane b
    cdef Vec r
    cdef u32 ex = 0
    cdef int i, st = read_W_part(c, o, o.size >> 1, &b)
    if st != ST_OK:
        return st
    for i in range(o.size >> 2):
        r.d[i] = half_to_single(b.w[i], &ex)
    st = fp_raise(c, ex)
    if st == ST_OK:
        put_Vx(c, o, <Lane*>&r)
    return st

cdef int VCVTPS2PH_Wx_Vx_Ib(Cpu* c, Insn* o) noexcept nogil:
    """Wq,Vx: imm bits 0-1 the rounding, or MXCSR's with bit 2."""
    cdef Lane r
    cdef u32 ex = 0, one
    cdef u32 rc = (c.mxcsr >> 13) & 3 if o.imm & 4 else <u32>o.imm & 3
    cdef u64 lin
    cdef int i, st = ST_OK
    r.q[1] = 0
    for i in range(o.size >> 2):
        one = 0
        r.w[i] = <u16>single_to_half(c.v[o.reg].d[i], rc, c.mxcsr, &one)
        ex |= one
    if o.is_mem:                                  # a fault of the store comes first: nothing is known of the exceptions then
        st = operand_lin_w(c, o, o.size >> 1, &lin)
        if st == ST_OK:
            st = mem_check_write(c, lin, o.size >> 1)
    if st == ST_OK:
        st = fp_raise(c, ex)
    if st != ST_OK:
        return st
    if o.is_mem:
        return vec_write(c, o, o.size >> 1, &r, False)
    xmm(c, o.rm)[0] = r
    clear_upper(o, xmm(c, o.rm))
    return ST_OK
