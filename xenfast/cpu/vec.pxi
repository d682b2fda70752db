# Vector operands: MMX and XMM registers, their memory forms, and the shapes most vector instructions have.
#
# SDM Vol. 1, ch. 9 (MMX), 10 to 12 (SSE).  A kernel is a function of 128-bit lanes; an exec function names a kernel
# and a shape:
#   packed(c, o, k)       Vx,Wx or Pq,Qq     destination = k(destination, source); o.size tells MMX from XMM
#   packed_imm(c, o, k)   the same with an immediate byte
# MMX registers are the mantissas of the x87 registers (SDM Vol. 1, 9.2.1): any MMX instruction makes TOP 0 and all
# tags valid, and a write sets the exponent to all ones.  A kernel sees an MMX operand in the low half of a lane, the
# upper half zero.

cdef union Lane:         # 128 bits: an XMM register, half a YMM register, or an MMX register in the low half
    u8 b[16]
    i8 sb[16]
    u16 w[8]
    i16 sw[8]
    u32 d[4]
    i32 sd[4]
    u64 q[2]
    i64 sq[2]
    float f[4]
    double lf[2]

ctypedef Lane (*Unary)(Lane) noexcept nogil
ctypedef Lane (*Binary)(Lane, Lane) noexcept nogil
ctypedef Lane (*BinaryImm)(Lane, Lane, u32) noexcept nogil

cdef enum:
    FSW_ES = 0x80
    FSW_TOP = 0x3800

cdef inline Lane* xmm(Cpu* c, int n) noexcept nogil:
    # SAFETY: n is ModRM.reg, ModRM.rm or VEX.vvvv, extended by REX: 0 to 15, the length of Cpu.v.
    return <Lane*>&c.v[n & 15]

# ---------------------------------------------------------------------------------------------------------------------
# Memory operands

cdef int vec_read_slow(Cpu* c, Insn* o, u32 n, void* out, bint aligned) noexcept nogil:
    cdef u64 lin
    cdef int st = operand_lin(c, o, n, &lin)
    if st != ST_OK:
        return st
    if aligned and lin & (n - 1):
        return fault_err(c, X_GP, 0)
    return mem_read_n(c, lin, n, out)

cdef int vec_write_slow(Cpu* c, Insn* o, u32 n, const void* data, bint aligned) noexcept nogil:
    cdef u64 lin
    cdef int st = operand_lin(c, o, n, &lin)
    if st != ST_OK:
        return st
    if aligned and lin & (n - 1):
        return fault_err(c, X_GP, 0)
    return mem_write_n(c, lin, n, <void*>data)

cdef inline u64 flat_lin(Cpu* c, Insn* o) noexcept nogil:
    """Linear address of an operand with 64-bit addressing.  It may be non-canonical: no TLB entry matches it then."""
    return c.r[o.base] + (c.r[o.index] << o.scale) + <u64>o.disp + c.r[R_SEG + o.seg]

cdef inline int vec_read(Cpu* c, Insn* o, u32 n, void* out, bint aligned) noexcept nogil:
    """n bytes of the memory operand; #GP(0) unless aligned to n where the instruction asks for it."""
    cdef u64 lin
    cdef TlbEntry* e
    if likely(o.asize == 8):
        lin = flat_lin(c, o)
        e = tlb_slot(c.tlb, lin)
        if likely((lin ^ e.rtag) <= 4096 - n and not (aligned and lin & (n - 1))):
            # SAFETY: the tag matches, so lin .. lin + n - 1 lies in the page the entry maps.
            memcpy(out, <void*>(lin + <u64>e.add), n)
            return ST_OK
    return vec_read_slow(c, o, n, out, aligned)

cdef inline int vec_write(Cpu* c, Insn* o, u32 n, const void* data, bint aligned) noexcept nogil:
    cdef u64 lin
    cdef TlbEntry* e
    if likely(o.asize == 8):
        lin = flat_lin(c, o)
        e = tlb_slot(c.tlb, lin)
        if likely((lin ^ e.wtag) <= 4096 - n and not (aligned and lin & (n - 1))):
            # SAFETY: as in vec_read.
            memcpy(<void*>(lin + <u64>e.add), data, n)
            return ST_OK
    return vec_write_slow(c, o, n, data, aligned)

cdef inline int read_W(Cpu* c, Insn* o, Lane* out) noexcept nogil:
    """The W operand: an XMM register, or 16 bytes of memory, aligned (SDM Vol. 1, 10.4.1.1)."""
    if o.is_mem:
        return vec_read(c, o, 16, out, True)
    out[0] = xmm(c, o.rm)[0]
    return ST_OK

cdef inline int read_W_part(Cpu* c, Insn* o, u32 n, Lane* out) noexcept nogil:
    """The W operand where only its low n bytes are read; memory need not be aligned.  The rest is zero."""
    out.q[0] = 0
    out.q[1] = 0
    if o.is_mem:
        return vec_read(c, o, n, out, False)
    memcpy(out, xmm(c, o.rm), n)
    return ST_OK

# ---------------------------------------------------------------------------------------------------------------------
# MMX registers

cdef inline int mmx_check(Cpu* c) noexcept nogil:
    """A pending x87 exception comes first (SDM Vol. 3, 12.5)."""
    if unlikely(c.fsw & FSW_ES):
        return fault(c, X_MF)
    return ST_OK

cdef inline void mmx_enter(Cpu* c) noexcept nogil:
    c.fsw &= ~FSW_TOP
    c.ftw = 0xFF

cdef inline u64 mmx_get(Cpu* c, int n) noexcept nogil:
    return c.st[n & 7].man

cdef inline void mmx_set(Cpu* c, int n, u64 value) noexcept nogil:
    mmx_enter(c)
    c.st[n & 7].man = value
    c.st[n & 7].se = 0xFFFF

cdef int read_Q_part(Cpu* c, Insn* o, u32 n, u64* out) noexcept nogil:
    """The Q operand: an MMX register or n bytes of memory, with the check for a pending exception."""
    cdef int st = mmx_check(c)
    if st != ST_OK:
        return st
    out[0] = 0
    if o.is_mem:
        return vec_read(c, o, n, out, False)
    out[0] = mmx_get(c, o.rm)
    return ST_OK

cdef int read_Q(Cpu* c, Insn* o, u64* out) noexcept nogil:
    return read_Q_part(c, o, 8, out)

# ---------------------------------------------------------------------------------------------------------------------
# Shapes

cdef int packed_mmx(Cpu* c, Insn* o, Binary k) noexcept nogil:
    cdef Lane a, b
    cdef int st
    a.q[1] = b.q[1] = 0
    st = read_Q(c, o, &b.q[0])
    if st != ST_OK:
        return st
    a.q[0] = mmx_get(c, o.reg)
    mmx_set(c, o.reg, k(a, b).q[0])
    return ST_OK

cdef inline int packed(Cpu* c, Insn* o, Binary k) noexcept nogil:
    cdef Lane b
    cdef Lane* d
    cdef int st
    if unlikely(o.size == 8):
        return packed_mmx(c, o, k)
    st = read_W(c, o, &b)
    if st != ST_OK:
        return st
    d = xmm(c, o.reg)
    d[0] = k(d[0], b)
    return ST_OK

cdef int packed_imm(Cpu* c, Insn* o, BinaryImm k) noexcept nogil:
    cdef Lane a, b
    cdef Lane* d
    cdef int st
    if o.size == 8:
        a.q[1] = b.q[1] = 0
        st = read_Q(c, o, &b.q[0])
        if st != ST_OK:
            return st
        a.q[0] = mmx_get(c, o.reg)
        mmx_set(c, o.reg, k(a, b, <u32>o.imm & 0xFF).q[0])
        return ST_OK
    st = read_W(c, o, &b)
    if st != ST_OK:
        return st
    d = xmm(c, o.reg)
    d[0] = k(d[0], b, <u32>o.imm & 0xFF)
    return ST_OK

cdef int packed_unary(Cpu* c, Insn* o, Unary k) noexcept nogil:
    """Vx,Wx or Pq,Qq where the destination is only written."""
    cdef Lane b
    cdef int st
    if o.size == 8:
        b.q[1] = 0
        st = read_Q(c, o, &b.q[0])
        if st == ST_OK:
            mmx_set(c, o.reg, k(b).q[0])
        return st
    st = read_W(c, o, &b)
    if st == ST_OK:
        xmm(c, o.reg)[0] = k(b)
    return st

cdef int widen(Cpu* c, Insn* o, u32 n, Unary k) noexcept nogil:
    """Vx,Wx where the source is n bytes, any alignment (PMOVSX, PMOVZX, CVTPS2PD...)."""
    cdef Lane b
    cdef int st = read_W_part(c, o, n, &b)
    if st == ST_OK:
        xmm(c, o.reg)[0] = k(b)
    return st
