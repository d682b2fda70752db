# Vector operands: MMX and XMM registers, their memory forms, and the shapes most vector instructions have.
#
# SDM Vol. 1, ch. 9 (MMX), 10 to 12 (SSE).  A kernel is a function of 128-bit lanes; an exec function names a kernel
# and a shape:
#   packed(c, o, k)       Vx,Wx or Pq,Qq     destination = k(destination, source); o.size tells MMX from XMM
#   packed_imm(c, o, k)   the same with an immediate byte
# and serves the VEX forms Vx,Hx,Wx too, whose rows name the same exec functions.
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
    """The W operand: an XMM register, or 16 bytes of memory, aligned unless VEX encoded (SDM Vol. 1, 10.4.1.1, 14.9)."""
    if o.is_mem:
        return vec_read(c, o, 16, out, not o.vex)
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
# VEX (SDM Vol. 1, 14.1).  The first source is in VEX.vvvv (o.vvvv, a copy of o.reg without VEX), o.size is 16 or 32, a
# memory operand has any alignment, and what is written to 16 bytes clears the upper half of the YMM register.  A 256-bit
# operation is a 128-bit one on each half.

cdef inline void clear_upper(Insn* o, Lane* d) noexcept nogil:
    if o.vex:
        d[1].q[0] = d[1].q[1] = 0

cdef inline Lane* dest(Cpu* c, Insn* o) noexcept nogil:
    """The destination of an instruction that changes a part of the first source: it holds that source already."""
    cdef Lane* d = xmm(c, o.reg)
    if o.vex:
        d[0] = xmm(c, o.vvvv)[0]
        clear_upper(o, d)
    return d

cdef inline int read_Wx(Cpu* c, Insn* o, Lane* out) noexcept nogil:
    """The W operand of 16 or 32 bytes, into one or two lanes."""
    if o.size != 32:
        return read_W(c, o, out)
    if o.is_mem:
        return vec_read(c, o, 32, out, False)
    memcpy(out, xmm(c, o.rm), 32)
    return ST_OK

cdef inline void put_Vx(Cpu* c, Insn* o, const Lane* r) noexcept nogil:
    """The destination in ModRM.reg, one or two lanes."""
    cdef Lane* d = xmm(c, o.reg)
    d[0] = r[0]
    if o.size == 32:
        d[1] = r[1]
    else:
        clear_upper(o, d)

cdef inline int packed_vex(Cpu* c, Insn* o, Binary k) noexcept nogil:
    """Vx,Hx,Wx"""
    cdef Lane b[2]
    cdef Lane* d = xmm(c, o.reg)
    cdef Lane* a = xmm(c, o.vvvv)
    cdef int st = read_Wx(c, o, b)
    if st != ST_OK:
        return st
    d[0] = k(a[0], b[0])
    if o.size == 32:
        d[1] = k(a[1], b[1])
    else:
        clear_upper(o, d)
    return ST_OK

cdef inline int packed_imm_vex(Cpu* c, Insn* o, BinaryImm k, int step) noexcept nogil:
    """Vx,Hx,Wx,Ib; step: how many bits of the immediate belong to the lower half and not to the upper one."""
    cdef Lane b[2]
    cdef Lane* d = xmm(c, o.reg)
    cdef Lane* a = xmm(c, o.vvvv)
    cdef u32 imm = <u32>o.imm & 0xFF
    cdef int st = read_Wx(c, o, b)
    if st != ST_OK:
        return st
    d[0] = k(a[0], b[0], imm)
    if o.size == 32:
        d[1] = k(a[1], b[1], imm >> step)
    else:
        clear_upper(o, d)
    return ST_OK

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
    if o.vex:
        return packed_vex(c, o, k)
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
    if o.vex:
        return packed_imm_vex(c, o, k, 0)
    st = read_W(c, o, &b)
    if st != ST_OK:
        return st
    d = xmm(c, o.reg)
    d[0] = k(d[0], b, <u32>o.imm & 0xFF)
    return ST_OK

cdef int packed_unary(Cpu* c, Insn* o, Unary k) noexcept nogil:
    """Vx,Wx or Pq,Qq where the destination is only written."""
    cdef Lane b[2]
    cdef int st
    if o.size == 8:
        b[0].q[1] = 0
        st = read_Q(c, o, &b[0].q[0])
        if st == ST_OK:
            mmx_set(c, o.reg, k(b[0]).q[0])
        return st
    st = read_Wx(c, o, b)
    if st == ST_OK:
        b[0] = k(b[0])
        if o.size == 32:
            b[1] = k(b[1])
        put_Vx(c, o, b)
    return st

cdef int widen(Cpu* c, Insn* o, u32 n, Unary k) noexcept nogil:
    """Vx,Wx where the source is n bytes for each half of the destination, any alignment (PMOVSX, PMOVZX)."""
    cdef Lane b[2]
    cdef int st = read_W_halves(c, o, n, b)
    if st == ST_OK:
        b[0] = k(b[0])
        if o.size == 32:
            b[1] = k(b[1])
        put_Vx(c, o, b)
    return st

cdef inline int read_W_halves(Cpu* c, Insn* o, u32 n, Lane* out) noexcept nogil:
    """n bytes of W for each half of a destination of o.size bytes."""
    cdef int st
    if o.size != 32:
        return read_W_part(c, o, n, out)
    st = read_W_part(c, o, 2 * n, out)
    out[1].q[0] = out[1].q[1] = 0
    memcpy(&out[1], out[0].b + n, n)
    return st
