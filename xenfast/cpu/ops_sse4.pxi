# SSE4.1 and SSE4.2: PTEST, blends, PMOVSX and PMOVZX, rounding, dot products, PHMINPOSUW, MPSADBW, insertion and extraction.
#
# SDM Vol. 1, ch. 12; Vol. 2, chapter 4.  The string instructions of SSE4.2 are in
# ops_pcmpstr.pxi, CRC32 is in ops_bit.pxi.

# ---- tests and blends -----------------------------------------------------------------------------------------------
cdef int PTEST_Vx_Wx(Cpu* c, Insn* o) noexcept nogil:
    cdef Lane b[2]
    cdef Lane* a = xmm(c, o.reg)
    cdef u64 both = 0, only_b = 0
    cdef int i, st = read_Wx(c, o, b)
    if st == ST_OK:
        for i in range(o.size >> 4):
            both |= a[i].q[0] & b[i].q[0] | a[i].q[1] & b[i].q[1]
            only_b |= ~a[i].q[0] & b[i].q[0] | ~a[i].q[1] & b[i].q[1]
        set_arith(c, (FL_ZF if both == 0 else 0) | (FL_CF if only_b == 0 else 0))
    return st

cdef inline Lane pblendvb(Lane a, Lane b, Lane mask) noexcept nogil:
    cdef int i
    for i in range(16):
        a.b[i] = b.b[i] if mask.b[i] & 0x80 else a.b[i]
    return a

cdef inline Lane blendvps(Lane a, Lane b, Lane mask) noexcept nogil:
    cdef int i
    for i in range(4):
        a.d[i] = b.d[i] if mask.sd[i] < 0 else a.d[i]
    return a

cdef inline Lane blendvpd(Lane a, Lane b, Lane mask) noexcept nogil:
    cdef int i
    for i in range(2):
        a.q[i] = b.q[i] if mask.sq[i] < 0 else a.q[i]
    return a

cdef int with_xmm0(Cpu* c, Insn* o, Lane (*k)(Lane, Lane, Lane) noexcept nogil) noexcept nogil:
    """Vx,Wx and the implicit XMM0; Vx,Hx,Wx,Lx."""
    cdef Lane b[2]
    cdef Lane* a = xmm(c, o.vvvv)
    cdef Lane* mask = xmm(c, register_in_imm(c, o) if o.vex else 0)
    cdef int st = read_Wx(c, o, b)
    if st == ST_OK:
        b[0] = k(a[0], b[0], mask[0])
        if o.size == 32:
            b[1] = k(a[1], b[1], mask[1])
        put_Vx(c, o, b)
    return st

cdef inline int register_in_imm(Cpu* c, Insn* o) noexcept nogil:
    """The L operand: bits 4-7 of the immediate, the highest ignored outside 64-bit mode."""
    return <int>(o.imm >> 4) & (15 if c.mode & MODE_64 else 7)

cdef int PBLENDVB_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return with_xmm0(c, o, pblendvb)
cdef int BLENDVPS_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return with_xmm0(c, o, blendvps)
cdef int BLENDVPD_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return with_xmm0(c, o, blendvpd)

cdef Lane blendps(Lane a, Lane b, u32 k) noexcept nogil:
    cdef int i
    for i in range(4):
        if (k >> i) & 1:
            a.d[i] = b.d[i]
    return a

cdef Lane blendpd(Lane a, Lane b, u32 k) noexcept nogil:
    cdef int i
    for i in range(2):
        if (k >> i) & 1:
            a.q[i] = b.q[i]
    return a

cdef Lane pblendw(Lane a, Lane b, u32 k) noexcept nogil:
    cdef int i
    for i in range(8):
        if (k >> i) & 1:
            a.w[i] = b.w[i]
    return a

cdef int BLENDPS_Vx_Wx_Ib(Cpu* c, Insn* o) noexcept nogil:
    return packed_imm_vex(c, o, blendps, 4) if o.vex else packed_imm(c, o, blendps)

cdef int BLENDPD_Vx_Wx_Ib(Cpu* c, Insn* o) noexcept nogil:
    return packed_imm_vex(c, o, blendpd, 2) if o.vex else packed_imm(c, o, blendpd)

cdef int PBLENDW_Vx_Wx_Ib(Cpu* c, Insn* o) noexcept nogil: return packed_imm(c, o, pblendw)

# ---- PMOVSX, PMOVZX -------------------------------------------------------------------------------------------------
cdef Lane pmovsxbw(Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(8):
        r.sw[i] = b.sb[i]
    return r

cdef Lane pmovsxbd(Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(4):
        r.sd[i] = b.sb[i]
    return r

cdef Lane pmovsxbq(Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(2):
        r.sq[i] = b.sb[i]
    return r

cdef Lane pmovsxwd(Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(4):
        r.sd[i] = b.sw[i]
    return r

cdef Lane pmovsxwq(Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(2):
        r.sq[i] = b.sw[i]
    return r

cdef Lane pmovsxdq(Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(2):
        r.sq[i] = b.sd[i]
    return r

cdef Lane pmovzxbw(Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(8):
        r.w[i] = b.b[i]
    return r

cdef Lane pmovzxbd(Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(4):
        r.d[i] = b.b[i]
    return r

cdef Lane pmovzxbq(Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(2):
        r.q[i] = b.b[i]
    return r

cdef Lane pmovzxwd(Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(4):
        r.d[i] = b.w[i]
    return r

cdef Lane pmovzxwq(Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(2):
        r.q[i] = b.w[i]
    return r

cdef Lane pmovzxdq(Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(2):
        r.q[i] = b.d[i]
    return r

cdef int PMOVSXBW_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return widen(c, o, 8, pmovsxbw)
cdef int PMOVSXBD_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return widen(c, o, 4, pmovsxbd)
cdef int PMOVSXBQ_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return widen(c, o, 2, pmovsxbq)
cdef int PMOVSXWD_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return widen(c, o, 8, pmovsxwd)
cdef int PMOVSXWQ_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return widen(c, o, 4, pmovsxwq)
cdef int PMOVSXDQ_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return widen(c, o, 8, pmovsxdq)
cdef int PMOVZXBW_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return widen(c, o, 8, pmovzxbw)
cdef int PMOVZXBD_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return widen(c, o, 4, pmovzxbd)
cdef int PMOVZXBQ_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return widen(c, o, 2, pmovzxbq)
cdef int PMOVZXWD_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return widen(c, o, 8, pmovzxwd)
cdef int PMOVZXWQ_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return widen(c, o, 4, pmovzxwq)
cdef int PMOVZXDQ_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return widen(c, o, 8, pmovzxdq)

# ---- sums and minima ------------------------------------------------------------------------------------------------
cdef Lane phminposuw(Lane b) noexcept nogil:
    """The smallest word and, behind it, its (lowest) index."""
    cdef Lane r
    cdef int i, at = 0
    for i in range(1, 8):
        if b.w[i] < b.w[at]:
            at = i
    r.q[0] = b.w[at] | (<u64>at << 16)
    r.q[1] = 0
    return r

cdef Lane mpsadbw(Lane a, Lane b, u32 k) noexcept nogil:
    """Eight sums of four absolute differences: of a sliding group of a and one fixed group of b."""
    cdef Lane r
    cdef int i, j, pa = 4 if k & 4 else 0, pb = <int>(k & 3) * 4
    cdef int d, total
    for i in range(8):
        total = 0
        for j in range(4):
            d = <int>a.b[pa + i + j] - <int>b.b[pb + j]
            total += -d if d < 0 else d
        r.w[i] = <u16>total
    return r

cdef int PHMINPOSUW_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return packed_unary(c, o, phminposuw)

cdef int MPSADBW_Vx_Wx_Ib(Cpu* c, Insn* o) noexcept nogil:
    return packed_imm_vex(c, o, mpsadbw, 3) if o.vex else packed_imm(c, o, mpsadbw)

# ---- ROUNDPS and its kin: to an integer in floating point (SDM Vol. 2, table 4-18) ---------------------------------------
cdef u64 round_bits(u64 x, int frac, int emax, u32 rc, bint daz, u32* ex) noexcept nogil:
    """x: a single (frac 23, emax 255) or double (52, 2047).  A denormal operand is not an exception here."""
    cdef u64 sign = x & (<u64>1 << (frac + (8 if frac == 23 else 11)))
    cdef int e = <int>(x >> frac) & emax
    cdef u64 m = x & ((<u64>1 << frac) - 1)
    cdef u64 rest, unit, quiet = <u64>1 << (frac - 1)
    cdef int bias = emax >> 1
    cdef Fx fx
    if e == emax:
        if m and not m & quiet:
            ex[0] |= FP_IE
            x |= quiet
        return x
    if e == 0 and (m == 0 or daz):
        return sign
    if e >= bias + frac:
        return x
    ex[0] |= FP_PE
    fx.cw = rc << 10
    if e < bias:                               # below one: 0 or 1
        rest = 1 if e < bias - 1 else INT_BIT | (m != 0)
        return sign | (<u64>bias << frac if round_up(&fx, sign != 0, rest, False) else 0)
    unit = <u64>1 << (frac - (e - bias))       # what one is worth in x's last places
    rest = x & (unit - 1)
    if rest == 0:
        ex[0] &= ~<u32>FP_PE
        return x
    # The low bit of the integer part is the implicit one when e == bias: odd.
    if round_up(&fx, sign != 0, rest << (64 - (frac - (e - bias))), e == bias or x & unit):
        x += unit
    return x & ~(unit - 1)

cdef inline u32 round_lane(Cpu* c, Lane* b, int lanes, bint double_, u32 rc) noexcept nogil:
    """Round the first elements of a lane in place; returns the exceptions."""
    cdef u32 ex, all_ex = 0
    cdef int i
    for i in range(lanes):
        ex = 0
        if double_:
            b.q[i] = round_bits(b.q[i], 52, 2047, rc, c.mxcsr & MXCSR_DAZ, &ex)
        else:
            b.d[i] = <u32>round_bits(b.d[i], 23, 255, rc, c.mxcsr & MXCSR_DAZ, &ex)
        all_ex |= ex
    return all_ex

cdef int round_with(Cpu* c, Insn* o, Lane* b, int elements, bint double_) noexcept nogil:
    """Imm: bits 0-1 the rounding, or MXCSR's with bit 2; bit 3: no precision exception."""
    cdef u32 k = <u32>o.imm
    cdef u32 rc = (c.mxcsr >> 13) & 3 if k & 4 else k & 3
    cdef u32 ex = round_lane(c, b, elements, double_, rc)
    if o.size == 32:
        ex |= round_lane(c, b + 1, elements, double_, rc)
    return fp_raise(c, ex & ~<u32>FP_PE if k & 8 else ex)

cdef inline int round_packed(Cpu* c, Insn* o, int elements, bint double_) noexcept nogil:
    cdef Lane b[2]
    cdef int st = read_Wx(c, o, b)
    if st == ST_OK:
        st = round_with(c, o, b, elements, double_)
    if st == ST_OK:
        put_Vx(c, o, b)
    return st

cdef int ROUNDPS_Vx_Wx_Ib(Cpu* c, Insn* o) noexcept nogil: return round_packed(c, o, 4, False)
cdef int ROUNDPD_Vx_Wx_Ib(Cpu* c, Insn* o) noexcept nogil: return round_packed(c, o, 2, True)

cdef int ROUNDSS_Vss_Wss_Ib(Cpu* c, Insn* o) noexcept nogil:
    cdef Lane b
    cdef int st = read_W_part(c, o, 4, &b)
    if st == ST_OK:
        st = round_with(c, o, &b, 1, False)
    if st == ST_OK:
        dest(c, o).d[0] = b.d[0]
    return st

cdef int ROUNDSD_Vsd_Wsd_Ib(Cpu* c, Insn* o) noexcept nogil:
    cdef Lane b
    cdef int st = read_W_part(c, o, 8, &b)
    if st == ST_OK:
        st = round_with(c, o, &b, 1, True)
    if st == ST_OK:
        dest(c, o).q[0] = b.q[0]
    return st

# ---- dot products: products and sums are operations one after another, each of which may trap -----------------------
cdef inline int dot_step(Cpu* c, Lane* r, int tiny) noexcept nogil:
    if not fp_unmasked(c):
        return ST_OK
    return fp_check(c, r, tiny)

cdef int dpps_products(Cpu* c, const Lane* a, Lane* b, u32 k) noexcept nogil:
    """b = the four products that the immediate asks for."""
    cdef int i
    for i in range(4):
        b.f[i] = mul32(a.f[i], b.f[i]) if (k >> (4 + i)) & 1 else 0.0
    return dot_step(c, b, TINY_PS)

cdef int dpps_sums(Cpu* c, Lane* t, u32 k) noexcept nogil:
    cdef int i, st
    t.f[0] = add32(t.f[0], t.f[1])
    t.f[1] = add32(t.f[2], t.f[3])
    t.q[1] = 0
    st = dot_step(c, t, TINY_PS)
    if st != ST_OK:
        return st
    t.f[0] = add32(t.f[0], t.f[1])
    st = dot_step(c, t, TINY_SS)
    for i in range(3, -1, -1):
        t.d[i] = t.d[0] if (k >> i) & 1 else 0
    return st

cdef int DPPS_Vx_Wx_Ib(Cpu* c, Insn* o) noexcept nogil:
    cdef Lane b[2]
    cdef Lane* a = xmm(c, o.vvvv)
    cdef u32 k = <u32>o.imm
    cdef int i, st = read_Wx(c, o, b)
    if st == ST_OK and fp_unmasked(c):
        fp_begin(c)
    for i in range(o.size >> 4):
        if st == ST_OK:
            st = dpps_products(c, &a[i], &b[i], k)
    for i in range(o.size >> 4):
        if st == ST_OK:
            st = dpps_sums(c, &b[i], k)
    if st == ST_OK:
        put_Vx(c, o, b)
    return st

cdef int DPPD_Vx_Wx_Ib(Cpu* c, Insn* o) noexcept nogil:
    cdef Lane b, t
    cdef Lane* a = xmm(c, o.vvvv)
    cdef u32 k = <u32>o.imm
    cdef int i, st = read_W(c, o, &b)
    if st != ST_OK:
        return st
    if fp_unmasked(c):
        fp_begin(c)
    for i in range(2):
        t.lf[i] = mul64(a.lf[i], b.lf[i]) if (k >> (4 + i)) & 1 else 0.0
    st = dot_step(c, &t, TINY_PD)
    if st != ST_OK:
        return st
    t.lf[0] = add64(t.lf[0], t.lf[1])
    st = dot_step(c, &t, TINY_SD)
    if st == ST_OK:
        t.q[1] = t.q[0] if k & 2 else 0
        t.q[0] = t.q[0] if k & 1 else 0
        put_Vx(c, o, &t)
    return st

# ---- insertion and extraction ---------------------------------------------------------------------------------------
cdef int PEXTRB_Eb_Vdq_Ib(Cpu* c, Insn* o) noexcept nogil:
    cdef u8 v = xmm(c, o.reg).b[o.imm & 15]
    if o.is_mem:
        return vec_write(c, o, 1, &v, False)
    c.r[o.rm] = v
    return ST_OK

cdef int PEXTRW_Ew_Vdq_Ib(Cpu* c, Insn* o) noexcept nogil:
    cdef u16 v = xmm(c, o.reg).w[o.imm & 7]
    if o.is_mem:
        return vec_write(c, o, 2, &v, False)
    c.r[o.rm] = v
    return ST_OK

cdef inline bint no_quadword(Insn* o) noexcept nogil:
    """VPEXTRQ and VPINSRQ (VEX.W) outside 64-bit mode."""
    return o.vex & VEX_W and o.size != 8

cdef int PEXTRD_Ey_Vdq_Ib(Cpu* c, Insn* o) noexcept nogil:
    if no_quadword(o):
        return fault(c, X_UD)
    return write_rm(c, o, xmm(c, o.reg).q[o.imm & 1] if o.size == 8 else xmm(c, o.reg).d[o.imm & 3])

cdef int EXTRACTPS_Ed_Vdq_Ib(Cpu* c, Insn* o) noexcept nogil:
    return write_rm_n(c, o, 4, xmm(c, o.reg).d[o.imm & 3])

cdef int PINSRB_Vdq_Eb_Ib(Cpu* c, Insn* o) noexcept nogil:
    cdef u8 v = 0
    cdef int st = ST_OK
    if o.is_mem:
        st = vec_read(c, o, 1, &v, False)
    else:
        v = <u8>c.r[o.rm]
    if st == ST_OK:
        dest(c, o).b[o.imm & 15] = v
    return st

cdef int PINSRD_Vdq_Ey_Ib(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 v = 0
    cdef int st
    if no_quadword(o):
        return fault(c, X_UD)
    st = read_rm(c, o, &v)
    if st != ST_OK:
        return st
    if o.size == 8:
        dest(c, o).q[o.imm & 1] = v
    else:
        dest(c, o).d[o.imm & 3] = <u32>v
    return ST_OK

cdef int INSERTPS_Vdq_Wd_Ib(Cpu* c, Insn* o) noexcept nogil:
    """Imm: source element 6-7 (of a register), destination element 4-5, elements to clear 0-3."""
    cdef u32 v = 0
    cdef Lane* d
    cdef int i, st = ST_OK
    if o.is_mem:
        st = vec_read(c, o, 4, &v, False)
    else:
        v = xmm(c, o.rm).d[(o.imm >> 6) & 3]
    if st != ST_OK:
        return st
    d = dest(c, o)
    d.d[(o.imm >> 4) & 3] = v
    for i in range(4):
        if (o.imm >> i) & 1:
            d.d[i] = 0
    return ST_OK
