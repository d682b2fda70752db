# Packed integers, shifts: PSLL PSRL PSRA by a register, memory or an immediate; PSLLDQ PSRLDQ PALIGNR.
#
# SDM Vol. 2, chapter 4.  The count is the low 64 bits of the source; counts beyond the element give 0 (PSRA: the sign).

cdef inline Lane psllw_by(Lane a, u64 n) noexcept nogil:
    cdef int i
    if n >= 16:
        a.q[0] = a.q[1] = 0
        return a
    for i in range(8):
        a.w[i] = <u16>(a.w[i] << n)
    return a

cdef inline Lane psrlw_by(Lane a, u64 n) noexcept nogil:
    cdef int i
    if n >= 16:
        a.q[0] = a.q[1] = 0
        return a
    for i in range(8):
        a.w[i] = <u16>(a.w[i] >> n)
    return a

cdef inline Lane pslld_by(Lane a, u64 n) noexcept nogil:
    cdef int i
    if n >= 32:
        a.q[0] = a.q[1] = 0
        return a
    for i in range(4):
        a.d[i] = <u32>(a.d[i] << n)
    return a

cdef inline Lane psrld_by(Lane a, u64 n) noexcept nogil:
    cdef int i
    if n >= 32:
        a.q[0] = a.q[1] = 0
        return a
    for i in range(4):
        a.d[i] = <u32>(a.d[i] >> n)
    return a

cdef inline Lane psllq_by(Lane a, u64 n) noexcept nogil:
    cdef int i
    if n >= 64:
        a.q[0] = a.q[1] = 0
        return a
    for i in range(2):
        a.q[i] = <u64>(a.q[i] << n)
    return a

cdef inline Lane psrlq_by(Lane a, u64 n) noexcept nogil:
    cdef int i
    if n >= 64:
        a.q[0] = a.q[1] = 0
        return a
    for i in range(2):
        a.q[i] = <u64>(a.q[i] >> n)
    return a

cdef inline Lane psraw_by(Lane a, u64 n) noexcept nogil:
    cdef int i
    cdef int k = 15 if n >= 16 else <int>n
    for i in range(8):
        a.sw[i] = <i16>(a.sw[i] >> k)
    return a

cdef inline Lane psrad_by(Lane a, u64 n) noexcept nogil:
    cdef int i
    cdef int k = 31 if n >= 32 else <int>n
    for i in range(4):
        a.sd[i] = <i32>(a.sd[i] >> k)
    return a

# Vx,Wx and Pq,Qq: the count is the low quadword of the source.
cdef inline Lane psllw(Lane a, Lane b) noexcept nogil: return psllw_by(a, b.q[0])
cdef inline Lane psrlw(Lane a, Lane b) noexcept nogil: return psrlw_by(a, b.q[0])
cdef inline Lane pslld(Lane a, Lane b) noexcept nogil: return pslld_by(a, b.q[0])
cdef inline Lane psrld(Lane a, Lane b) noexcept nogil: return psrld_by(a, b.q[0])
cdef inline Lane psllq(Lane a, Lane b) noexcept nogil: return psllq_by(a, b.q[0])
cdef inline Lane psrlq(Lane a, Lane b) noexcept nogil: return psrlq_by(a, b.q[0])
cdef inline Lane psraw(Lane a, Lane b) noexcept nogil: return psraw_by(a, b.q[0])
cdef inline Lane psrad(Lane a, Lane b) noexcept nogil: return psrad_by(a, b.q[0])

cdef inline int packed_shift_imm(Cpu* c, Insn* o, Lane (*k)(Lane, u64) noexcept nogil) noexcept nogil:
    """Ux,Ib and Nq,Ib: the register is in ModRM.rm; Hx,Ux,Ib: from there to VEX.vvvv."""
    cdef Lane a
    cdef Lane* d
    cdef int st
    if o.vex:
        d = xmm(c, o.vvvv)
        d[0] = k(xmm(c, o.rm)[0], <u64>o.imm & 0xFF)
        if o.size == 32:
            d[1] = k(xmm(c, o.rm)[1], <u64>o.imm & 0xFF)
        else:
            clear_upper(o, d)
        return ST_OK
    if o.size != 8:
        xmm(c, o.rm)[0] = k(xmm(c, o.rm)[0], <u64>o.imm & 0xFF)
        return ST_OK
    st = mmx_check(c)
    if st != ST_OK:
        return st
    a.q[0] = mmx_get(c, o.rm)
    a.q[1] = 0
    mmx_set(c, o.rm, k(a, <u64>o.imm & 0xFF).q[0])
    return ST_OK

cdef inline int packed_shift(Cpu* c, Insn* o, Binary k) noexcept nogil:
    """Vx,Wx and Pq,Qq; Vx,Hx,Wdq: the count of both halves is in 16 bytes."""
    cdef Lane b
    cdef Lane* d = xmm(c, o.reg)
    cdef Lane* a = xmm(c, o.vvvv)
    cdef int st
    if not o.vex:
        return packed(c, o, k)
    st = read_W(c, o, &b)
    if st != ST_OK:
        return st
    d[0] = k(a[0], b)
    if o.size == 32:
        d[1] = k(a[1], b)
    else:
        clear_upper(o, d)
    return ST_OK

cdef inline Lane pslldq_by(Lane a, u64 n) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(16):
        r.b[i] = a.b[i - <int>n] if <u64>i >= n else 0
    return r

cdef inline Lane psrldq_by(Lane a, u64 n) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(16):
        r.b[i] = a.b[i + <int>n] if n < 16 and i + <int>n < 16 else 0
    return r

cdef inline Lane palignr(Lane a, Lane b, u32 n) noexcept nogil:
    """The 16 bytes from byte n on of a:b."""
    cdef Lane r
    cdef int i
    cdef u32 k
    for i in range(16):
        k = n + <u32>i
        r.b[i] = b.b[k] if k < 16 else a.b[k - 16] if k < 32 else 0
    return r

cdef Lane palignr_mmx(Lane a, Lane b, u32 n) noexcept nogil:
    b.q[1] = a.q[0]
    return psrldq_by(b, n)

# The instructions
cdef int PSLLW(Cpu* c, Insn* o) noexcept nogil: return packed_shift(c, o, psllw)
cdef int PSRLW(Cpu* c, Insn* o) noexcept nogil: return packed_shift(c, o, psrlw)
cdef int PSLLD(Cpu* c, Insn* o) noexcept nogil: return packed_shift(c, o, pslld)
cdef int PSRLD(Cpu* c, Insn* o) noexcept nogil: return packed_shift(c, o, psrld)
cdef int PSLLQ(Cpu* c, Insn* o) noexcept nogil: return packed_shift(c, o, psllq)
cdef int PSRLQ(Cpu* c, Insn* o) noexcept nogil: return packed_shift(c, o, psrlq)
cdef int PSRAW(Cpu* c, Insn* o) noexcept nogil: return packed_shift(c, o, psraw)
cdef int PSRAD(Cpu* c, Insn* o) noexcept nogil: return packed_shift(c, o, psrad)
cdef int PSLLW_Ib(Cpu* c, Insn* o) noexcept nogil: return packed_shift_imm(c, o, psllw_by)
cdef int PSRLW_Ib(Cpu* c, Insn* o) noexcept nogil: return packed_shift_imm(c, o, psrlw_by)
cdef int PSLLD_Ib(Cpu* c, Insn* o) noexcept nogil: return packed_shift_imm(c, o, pslld_by)
cdef int PSRLD_Ib(Cpu* c, Insn* o) noexcept nogil: return packed_shift_imm(c, o, psrld_by)
cdef int PSLLQ_Ib(Cpu* c, Insn* o) noexcept nogil: return packed_shift_imm(c, o, psllq_by)
cdef int PSRLQ_Ib(Cpu* c, Insn* o) noexcept nogil: return packed_shift_imm(c, o, psrlq_by)
cdef int PSRAW_Ib(Cpu* c, Insn* o) noexcept nogil: return packed_shift_imm(c, o, psraw_by)
cdef int PSRAD_Ib(Cpu* c, Insn* o) noexcept nogil: return packed_shift_imm(c, o, psrad_by)
cdef int PSLLDQ_Ib(Cpu* c, Insn* o) noexcept nogil: return packed_shift_imm(c, o, pslldq_by)
cdef int PSRLDQ_Ib(Cpu* c, Insn* o) noexcept nogil: return packed_shift_imm(c, o, psrldq_by)
cdef int PALIGNR_Pq_Qq_Ib(Cpu* c, Insn* o) noexcept nogil: return packed_imm(c, o, palignr_mmx)
cdef int PALIGNR_Vx_Wx_Ib(Cpu* c, Insn* o) noexcept nogil: return packed_imm(c, o, palignr)
