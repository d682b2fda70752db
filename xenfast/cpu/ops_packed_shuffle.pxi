# Packed integers, rearranged: PACK PUNPCK PSHUF PSHUFB, PHADD PHSUB, PINSRW PEXTRW PMOVMSKB MASKMOV, and the shuffles
# of floats.
#
# SDM Vol. 2, chapters 3 and 4.  Where the MMX form is not the low half of the XMM form it has a kernel of its own:
# those that take elements of both operands in turn are the XMM kernel applied to a lane with the two operands side by
# side.

cdef inline Lane beside(Lane a, Lane b) noexcept nogil:
    """Two MMX operands in one lane, the destination first."""
    a.q[1] = b.q[0]
    return a

# ---------------------------------------------------------------------------------------------------------------------
# Pack with saturation

cdef inline Lane packsswb(Lane a, Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(8):
        r.sb[i] = <i8>clamp(a.sw[i], -128, 127)
        r.sb[i + 8] = <i8>clamp(b.sw[i], -128, 127)
    return r

cdef inline Lane packuswb(Lane a, Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(8):
        r.b[i] = <u8>clamp(a.sw[i], 0, 255)
        r.b[i + 8] = <u8>clamp(b.sw[i], 0, 255)
    return r

cdef inline Lane packssdw(Lane a, Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(4):
        r.sw[i] = <i16>clamp(a.sd[i], -32768, 32767)
        r.sw[i + 4] = <i16>clamp(b.sd[i], -32768, 32767)
    return r

cdef inline Lane packusdw(Lane a, Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(4):
        r.w[i] = <u16>clamp(a.sd[i], 0, 65535)
        r.w[i + 4] = <u16>clamp(b.sd[i], 0, 65535)
    return r

# ---------------------------------------------------------------------------------------------------------------------
# Unpack (interleave)

cdef inline Lane punpcklbw(Lane a, Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(8):
        r.b[2 * i] = a.b[i]
        r.b[2 * i + 1] = b.b[i]
    return r

cdef inline Lane punpckhbw(Lane a, Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(8):
        r.b[2 * i] = a.b[i + 8]
        r.b[2 * i + 1] = b.b[i + 8]
    return r

cdef inline Lane punpcklwd(Lane a, Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(4):
        r.w[2 * i] = a.w[i]
        r.w[2 * i + 1] = b.w[i]
    return r

cdef inline Lane punpckhwd(Lane a, Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(4):
        r.w[2 * i] = a.w[i + 4]
        r.w[2 * i + 1] = b.w[i + 4]
    return r

cdef inline Lane punpckldq(Lane a, Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(2):
        r.d[2 * i] = a.d[i]
        r.d[2 * i + 1] = b.d[i]
    return r

cdef inline Lane punpckhdq(Lane a, Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(2):
        r.d[2 * i] = a.d[i + 2]
        r.d[2 * i + 1] = b.d[i + 2]
    return r

cdef inline Lane punpcklqdq(Lane a, Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(1):
        r.q[2 * i] = a.q[i]
        r.q[2 * i + 1] = b.q[i]
    return r

cdef inline Lane punpckhqdq(Lane a, Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(1):
        r.q[2 * i] = a.q[i + 1]
        r.q[2 * i + 1] = b.q[i + 1]
    return r

cdef Lane punpckhbw_mmx(Lane a, Lane b) noexcept nogil:
    a = punpcklbw(a, b)
    a.q[0] = a.q[1]
    return a

cdef Lane punpckhwd_mmx(Lane a, Lane b) noexcept nogil:
    a = punpcklwd(a, b)
    a.q[0] = a.q[1]
    return a

cdef Lane punpckhdq_mmx(Lane a, Lane b) noexcept nogil:
    a = punpckldq(a, b)
    a.q[0] = a.q[1]
    return a

# ---------------------------------------------------------------------------------------------------------------------
# Horizontal addition and subtraction (SSSE3)

cdef inline Lane phaddw(Lane a, Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(4):
        r.w[i] = <u16>(a.w[2 * i] + a.w[2 * i + 1])
        r.w[i + 4] = <u16>(b.w[2 * i] + b.w[2 * i + 1])
    return r

cdef inline Lane phaddd(Lane a, Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(2):
        r.d[i] = a.d[2 * i] + a.d[2 * i + 1]
        r.d[i + 2] = b.d[2 * i] + b.d[2 * i + 1]
    return r

cdef inline Lane phaddsw(Lane a, Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(4):
        r.sw[i] = <i16>clamp(<i32>a.sw[2 * i] + <i32>a.sw[2 * i + 1], -32768, 32767)
        r.sw[i + 4] = <i16>clamp(<i32>b.sw[2 * i] + <i32>b.sw[2 * i + 1], -32768, 32767)
    return r

cdef inline Lane phsubw(Lane a, Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(4):
        r.w[i] = <u16>(a.w[2 * i] - a.w[2 * i + 1])
        r.w[i + 4] = <u16>(b.w[2 * i] - b.w[2 * i + 1])
    return r

cdef inline Lane phsubd(Lane a, Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(2):
        r.d[i] = a.d[2 * i] - a.d[2 * i + 1]
        r.d[i + 2] = b.d[2 * i] - b.d[2 * i + 1]
    return r

cdef inline Lane phsubsw(Lane a, Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(4):
        r.sw[i] = <i16>clamp(<i32>a.sw[2 * i] - <i32>a.sw[2 * i + 1], -32768, 32767)
        r.sw[i + 4] = <i16>clamp(<i32>b.sw[2 * i] - <i32>b.sw[2 * i + 1], -32768, 32767)
    return r

cdef Lane packsswb_mmx(Lane a, Lane b) noexcept nogil: return packsswb(beside(a, b), b)
cdef Lane packuswb_mmx(Lane a, Lane b) noexcept nogil: return packuswb(beside(a, b), b)
cdef Lane packssdw_mmx(Lane a, Lane b) noexcept nogil: return packssdw(beside(a, b), b)
cdef Lane phaddw_mmx(Lane a, Lane b) noexcept nogil: return phaddw(beside(a, b), b)
cdef Lane phaddd_mmx(Lane a, Lane b) noexcept nogil: return phaddd(beside(a, b), b)
cdef Lane phaddsw_mmx(Lane a, Lane b) noexcept nogil: return phaddsw(beside(a, b), b)
cdef Lane phsubw_mmx(Lane a, Lane b) noexcept nogil: return phsubw(beside(a, b), b)
cdef Lane phsubd_mmx(Lane a, Lane b) noexcept nogil: return phsubd(beside(a, b), b)
cdef Lane phsubsw_mmx(Lane a, Lane b) noexcept nogil: return phsubsw(beside(a, b), b)

# ---------------------------------------------------------------------------------------------------------------------
# Shuffles

cdef inline Lane pshufb(Lane a, Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(16):
        r.b[i] = 0 if b.b[i] & 0x80 else a.b[b.b[i] & 15]
    return r

cdef Lane pshufb_mmx(Lane a, Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    r.q[1] = 0
    for i in range(8):
        r.b[i] = 0 if b.b[i] & 0x80 else a.b[b.b[i] & 7]
    return r

cdef inline Lane pshufd(Lane a, Lane b, u32 k) noexcept nogil:
    cdef int i
    for i in range(4):
        a.d[i] = b.d[(k >> (2 * i)) & 3]
    return a

cdef inline Lane pshuflw(Lane a, Lane b, u32 k) noexcept nogil:
    cdef int i
    a = b
    for i in range(4):
        a.w[i] = b.w[(k >> (2 * i)) & 3]
    return a

cdef inline Lane pshufhw(Lane a, Lane b, u32 k) noexcept nogil:
    cdef int i
    a = b
    for i in range(4):
        a.w[i + 4] = b.w[4 + ((k >> (2 * i)) & 3)]
    return a

cdef inline Lane shufps(Lane a, Lane b, u32 k) noexcept nogil:
    cdef Lane r
    r.d[0] = a.d[k & 3]
    r.d[1] = a.d[(k >> 2) & 3]
    r.d[2] = b.d[(k >> 4) & 3]
    r.d[3] = b.d[(k >> 6) & 3]
    return r

cdef inline Lane shufpd(Lane a, Lane b, u32 k) noexcept nogil:
    cdef Lane r
    r.q[0] = a.q[k & 1]
    r.q[1] = b.q[(k >> 1) & 1]
    return r

# ---------------------------------------------------------------------------------------------------------------------
# Words and bytes against general registers

cdef inline u64 sign_bits(u64 v) noexcept nogil:
    """Bit 7 of each of the eight bytes: the multiplication gathers them in the top byte."""
    return (((v >> 7) & <u64>0x0101010101010101) * <u64>0x0102040810204080) >> 56

cdef int PMOVMSKB_Gd_Nq(Cpu* c, Insn* o) noexcept nogil:
    cdef int st = mmx_check(c)
    if st == ST_OK:
        mmx_enter(c)
        c.r[o.reg] = sign_bits(mmx_get(c, o.rm))
    return st

cdef int PMOVMSKB_Gd_Udq(Cpu* c, Insn* o) noexcept nogil:
    cdef Lane* s = xmm(c, o.rm)
    cdef u64 v = sign_bits(s.q[0]) | (sign_bits(s.q[1]) << 8)
    if o.vex & VEX_L:
        v |= sign_bits(s[1].q[0]) << 16 | sign_bits(s[1].q[1]) << 24
    c.r[o.reg] = v
    return ST_OK

cdef int MOVMSKPS_Gd_Ups(Cpu* c, Insn* o) noexcept nogil:
    cdef Lane* s = xmm(c, o.rm)
    cdef u64 v = 0
    cdef int i
    for i in range(8 if o.vex & VEX_L else 4):
        v |= (s[i >> 2].d[i & 3] >> 31) << i
    c.r[o.reg] = v
    return ST_OK

cdef int MOVMSKPD_Gd_Upd(Cpu* c, Insn* o) noexcept nogil:
    cdef Lane* s = xmm(c, o.rm)
    cdef u64 v = (s.q[0] >> 63) | ((s.q[1] >> 63) << 1)
    if o.vex & VEX_L:
        v |= (s[1].q[0] >> 63) << 2 | (s[1].q[1] >> 63) << 3
    c.r[o.reg] = v
    return ST_OK

cdef int word_source(Cpu* c, Insn* o, u16* w) noexcept nogil:
    """The second operand of PINSRW: the low word of a general register, or a word of memory."""
    if o.is_mem:
        return vec_read(c, o, 2, w, False)
    w[0] = <u16>c.r[o.rm]
    return ST_OK

cdef int PINSRW_Pq_Ed_Ib(Cpu* c, Insn* o) noexcept nogil:
    cdef u16 w
    cdef u64 v
    cdef int sh = <int>(o.imm & 3) * 16
    cdef int st = mmx_check(c)
    if st == ST_OK:
        st = word_source(c, o, &w)
    if st != ST_OK:
        return st
    v = mmx_get(c, o.reg)
    mmx_set(c, o.reg, (v & ~(<u64>0xFFFF << sh)) | (<u64>w << sh))
    return ST_OK

cdef int PINSRW_Vdq_Ed_Ib(Cpu* c, Insn* o) noexcept nogil:
    cdef u16 w
    cdef int st = word_source(c, o, &w)
    if st == ST_OK:
        dest(c, o).w[o.imm & 7] = w
    return st

cdef int PEXTRW_Gd_Nq_Ib(Cpu* c, Insn* o) noexcept nogil:
    cdef int st = mmx_check(c)
    if st == ST_OK:
        mmx_enter(c)
        c.r[o.reg] = (mmx_get(c, o.rm) >> (16 * (o.imm & 3))) & 0xFFFF
    return st

cdef int PEXTRW_Gd_Udq_Ib(Cpu* c, Insn* o) noexcept nogil:
    c.r[o.reg] = xmm(c, o.rm).w[o.imm & 7]
    return ST_OK

cdef int mask_store(Cpu* c, Insn* o, Lane data, Lane mask, u32 n) noexcept nogil:
    """Bytes of data whose mask byte has its top bit set, to DS:rDI.  Nothing is written if any of them faults."""
    cdef u64 base, b
    cdef u32 i
    cdef int st = string_lin(c, o, n, &base)
    if st != ST_OK:
        return st
    for i in range(n):
        if mask.b[i] & 0x80:
            st = mem_check_write(c, base + i, 1)
            if st != ST_OK:
                return st
    for i in range(n):
        if mask.b[i] & 0x80:
            b = data.b[i]
            st = mem_write(c, base + i, 1, b)
            if st != ST_OK:
                return st
    return ST_OK

cdef int string_lin(Cpu* c, Insn* o, u32 n, u64* lin) noexcept nogil:
    """seg:rDI as the address of an implicit operand."""
    cdef Insn x = o[0]
    x.base = RDI
    x.index = R_ZERO
    x.disp = 0
    x.is_mem = 1
    return operand_lin(c, &x, n, lin)

cdef int MASKMOVDQU_Vdq_Udq(Cpu* c, Insn* o) noexcept nogil:
    return mask_store(c, o, xmm(c, o.reg)[0], xmm(c, o.rm)[0], 16)

cdef int MASKMOVQ_Pq_Nq(Cpu* c, Insn* o) noexcept nogil:
    cdef Lane a, b
    cdef int st = mmx_check(c)
    if st != ST_OK:
        return st
    a.q[0] = mmx_get(c, o.reg)
    b.q[0] = mmx_get(c, o.rm)
    st = mask_store(c, o, a, b, 8)
    if st == ST_OK:
        mmx_enter(c)
    return st

# ---------------------------------------------------------------------------------------------------------------------
# The instructions.  Pq,Qd: the MMX forms of PUNPCKL read four bytes of memory.

cdef int unpack_low_mmx(Cpu* c, Insn* o, Binary k) noexcept nogil:
    cdef Lane a, b
    cdef int st
    a.q[1] = b.q[1] = 0
    st = read_Q_part(c, o, 4, &b.q[0])
    if st != ST_OK:
        return st
    a.q[0] = mmx_get(c, o.reg)
    mmx_set(c, o.reg, k(a, b).q[0])
    return ST_OK

cdef int PUNPCKLBW_Pq_Qd(Cpu* c, Insn* o) noexcept nogil: return unpack_low_mmx(c, o, punpcklbw)
cdef int PUNPCKLWD_Pq_Qd(Cpu* c, Insn* o) noexcept nogil: return unpack_low_mmx(c, o, punpcklwd)
cdef int PUNPCKLDQ_Pq_Qd(Cpu* c, Insn* o) noexcept nogil: return unpack_low_mmx(c, o, punpckldq)
cdef int PUNPCKHBW_Pq_Qq(Cpu* c, Insn* o) noexcept nogil: return packed_mmx(c, o, punpckhbw_mmx)
cdef int PUNPCKHWD_Pq_Qq(Cpu* c, Insn* o) noexcept nogil: return packed_mmx(c, o, punpckhwd_mmx)
cdef int PUNPCKHDQ_Pq_Qq(Cpu* c, Insn* o) noexcept nogil: return packed_mmx(c, o, punpckhdq_mmx)
cdef int PACKSSWB_Pq_Qq(Cpu* c, Insn* o) noexcept nogil: return packed_mmx(c, o, packsswb_mmx)
cdef int PACKUSWB_Pq_Qq(Cpu* c, Insn* o) noexcept nogil: return packed_mmx(c, o, packuswb_mmx)
cdef int PACKSSDW_Pq_Qq(Cpu* c, Insn* o) noexcept nogil: return packed_mmx(c, o, packssdw_mmx)
cdef int PHADDW_Pq_Qq(Cpu* c, Insn* o) noexcept nogil: return packed_mmx(c, o, phaddw_mmx)
cdef int PHADDD_Pq_Qq(Cpu* c, Insn* o) noexcept nogil: return packed_mmx(c, o, phaddd_mmx)
cdef int PHADDSW_Pq_Qq(Cpu* c, Insn* o) noexcept nogil: return packed_mmx(c, o, phaddsw_mmx)
cdef int PHSUBW_Pq_Qq(Cpu* c, Insn* o) noexcept nogil: return packed_mmx(c, o, phsubw_mmx)
cdef int PHSUBD_Pq_Qq(Cpu* c, Insn* o) noexcept nogil: return packed_mmx(c, o, phsubd_mmx)
cdef int PHSUBSW_Pq_Qq(Cpu* c, Insn* o) noexcept nogil: return packed_mmx(c, o, phsubsw_mmx)
cdef int PSHUFB_Pq_Qq(Cpu* c, Insn* o) noexcept nogil: return packed_mmx(c, o, pshufb_mmx)
cdef int PACKSSWB_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, packsswb)
cdef int PACKUSWB_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, packuswb)
cdef int PACKSSDW_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, packssdw)
cdef int PACKUSDW_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, packusdw)
cdef int PUNPCKLBW_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, punpcklbw)
cdef int PUNPCKHBW_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, punpckhbw)
cdef int PUNPCKLWD_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, punpcklwd)
cdef int PUNPCKHWD_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, punpckhwd)
cdef int PUNPCKLDQ_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, punpckldq)
cdef int PUNPCKHDQ_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, punpckhdq)
cdef int PUNPCKLQDQ_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, punpcklqdq)
cdef int PUNPCKHQDQ_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, punpckhqdq)
cdef int PHADDW_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, phaddw)
cdef int PHADDD_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, phaddd)
cdef int PHADDSW_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, phaddsw)
cdef int PHSUBW_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, phsubw)
cdef int PHSUBD_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, phsubd)
cdef int PHSUBSW_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, phsubsw)
cdef int PSHUFB_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, pshufb)
cdef int PSHUFW_Pq_Qq_Ib(Cpu* c, Insn* o) noexcept nogil: return packed_imm(c, o, pshuflw)
cdef int PSHUFD_Vx_Wx_Ib(Cpu* c, Insn* o) noexcept nogil: return packed_imm(c, o, pshufd)
cdef int PSHUFLW_Vx_Wx_Ib(Cpu* c, Insn* o) noexcept nogil: return packed_imm(c, o, pshuflw)
cdef int PSHUFHW_Vx_Wx_Ib(Cpu* c, Insn* o) noexcept nogil: return packed_imm(c, o, pshufhw)
cdef int SHUFPS_Vx_Wx_Ib(Cpu* c, Insn* o) noexcept nogil: return packed_imm(c, o, shufps)
cdef int SHUFPD_Vx_Wx_Ib(Cpu* c, Insn* o) noexcept nogil:
    return packed_imm_vex(c, o, shufpd, 2) if o.vex else packed_imm(c, o, shufpd)
