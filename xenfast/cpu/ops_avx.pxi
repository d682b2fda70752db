# AVX and AVX2 instructions that have no SSE counterpart: broadcasts, permutations, 128-bit insertion and extraction,
# VTESTPS, variable shifts, masked moves, VZEROALL.
#
# SDM Vol. 2, chapter 5 (V).  What is an SSE instruction with three operands is in ops_sse*.pxi and ops_packed_*.pxi, whose
# shapes serve both encodings (vec.pxi); gathers are in ops_gather.pxi.

# ---- VZEROUPPER, VZEROALL -------------------------------------------------------------------------------------------
cdef int VZEROUPPER(Cpu* c, Insn* o) noexcept nogil:
    """VZEROALL with VEX.L; outside 64-bit mode of the first eight registers only."""
    cdef int i
    for i in range(16 if c.mode & MODE_64 else 8):
        if o.vex & VEX_L:
            c.v[i].q[0] = c.v[i].q[1] = 0
        c.v[i].q[2] = c.v[i].q[3] = 0
    return ST_OK

# ---- broadcasts -----------------------------------------------------------------------------------------------------
cdef inline int broadcast(Cpu* c, Insn* o, u32 n) noexcept nogil:
    """The first n bytes of W all over the destination."""
    cdef Lane b[2]
    cdef u32 done = n
    cdef int st = read_W_part(c, o, n, b)
    if st != ST_OK:
        return st
    while done < 32:
        memcpy(b[0].b + done, b, done)
        done *= 2
    put_Vx(c, o, b)
    return ST_OK

cdef int VPBROADCASTB_Vx_Wb(Cpu* c, Insn* o) noexcept nogil: return broadcast(c, o, 1)
cdef int VPBROADCASTW_Vx_Ww(Cpu* c, Insn* o) noexcept nogil: return broadcast(c, o, 2)

cdef inline bint avx1_register(Cpu* c, Insn* o) noexcept nogil:
    """VBROADCASTSS and VBROADCASTSD from a register are AVX2's."""
    return not o.is_mem and not has_feature(c, FEAT_7B, 5)

cdef int VBROADCASTSS_Vx_Wd(Cpu* c, Insn* o) noexcept nogil:
    return fault(c, X_UD) if avx1_register(c, o) else broadcast(c, o, 4)

cdef int VBROADCASTSD_Vx_Wq(Cpu* c, Insn* o) noexcept nogil:
    return fault(c, X_UD) if avx1_register(c, o) else broadcast(c, o, 8)

cdef int VBROADCASTF128_Vqq_Mdq(Cpu* c, Insn* o) noexcept nogil: return broadcast(c, o, 16)

# ---- permutations within 128 bits -----------------------------------------------------------------------------------
cdef Lane permilps(Lane a, Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(4):
        r.d[i] = a.d[b.d[i] & 3]
    return r

cdef Lane permilpd(Lane a, Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(2):
        r.q[i] = a.q[(b.q[i] >> 1) & 1]
    return r

cdef Lane permilpd_by(Lane a, Lane b, u32 k) noexcept nogil:
    a.q[0] = b.q[k & 1]
    a.q[1] = b.q[(k >> 1) & 1]
    return a

cdef int VPERMILPS_Vx_Hx_Wx(Cpu* c, Insn* o) noexcept nogil: return packed_vex(c, o, permilps)
cdef int VPERMILPD_Vx_Hx_Wx(Cpu* c, Insn* o) noexcept nogil: return packed_vex(c, o, permilpd)
cdef int VPERMILPD_Vx_Wx_Ib(Cpu* c, Insn* o) noexcept nogil: return packed_imm_vex(c, o, permilpd_by, 2)

# ---- permutations across 256 bits -----------------------------------------------------------------------------------
cdef inline int read_Wqq(Cpu* c, Insn* o, Vec* out) noexcept nogil:
    return read_Wx(c, o, <Lane*>out)

cdef int VPERMQ_Vqq_Wqq_Ib(Cpu* c, Insn* o) noexcept nogil:
    """VPERMPD too: each quadword is one of the four of the source."""
    cdef Vec b
    cdef int i, st = read_Wqq(c, o, &b)
    if st == ST_OK:
        for i in range(4):
            c.v[o.reg].q[i] = b.q[(o.imm >> (2 * i)) & 3]
    return st

cdef int VPERMD_Vqq_Hqq_Wqq(Cpu* c, Insn* o) noexcept nogil:
    """VPERMPS too: the first source says which of the eight doublewords of the second."""
    cdef Vec b, at = c.v[o.vvvv]
    cdef int i, st = read_Wqq(c, o, &b)
    if st == ST_OK:
        for i in range(8):
            c.v[o.reg].d[i] = b.d[at.d[i] & 7]
    return st

cdef int VPERM2F128_Vqq_Hqq_Wqq_Ib(Cpu* c, Insn* o) noexcept nogil:
    """VPERM2I128 too: bits 0-1 and 4-5 choose a half of the first or second source, bits 3 and 7 zero."""
    cdef Lane s[4]
    cdef Lane* d = xmm(c, o.reg)
    cdef int i, k, st = read_Wx(c, o, s + 2)
    if st != ST_OK:
        return st
    memcpy(s, xmm(c, o.vvvv), 32)
    for i in range(2):
        k = <int>(o.imm >> (4 * i))
        d[i] = s[k & 3]
        if k & 8:
            d[i].q[0] = d[i].q[1] = 0
    return ST_OK

cdef int VINSERTF128_Vqq_Hqq_Wdq_Ib(Cpu* c, Insn* o) noexcept nogil:
    cdef Lane b
    cdef int st = read_W(c, o, &b)
    if st == ST_OK:
        c.v[o.reg] = c.v[o.vvvv]
        xmm(c, o.reg)[o.imm & 1] = b
    return st

cdef int VEXTRACTF128_Wdq_Vqq_Ib(Cpu* c, Insn* o) noexcept nogil:
    cdef Lane b = xmm(c, o.reg)[o.imm & 1]
    if o.is_mem:
        return vec_write(c, o, 16, &b, False)
    xmm(c, o.rm)[0] = b
    clear_upper(o, xmm(c, o.rm))
    return ST_OK

# ---- VTESTPS, VTESTPD: PTEST of the sign bits -----------------------------------------------------------------------
cdef inline int test_signs(Cpu* c, Insn* o, u64 signs) noexcept nogil:
    cdef Lane b[2]
    cdef Lane* a = xmm(c, o.reg)
    cdef u64 both = 0, only_b = 0
    cdef int i, st = read_Wx(c, o, b)
    if st == ST_OK:
        for i in range(o.size >> 4):
            both |= a[i].q[0] & b[i].q[0] | a[i].q[1] & b[i].q[1]
            only_b |= ~a[i].q[0] & b[i].q[0] | ~a[i].q[1] & b[i].q[1]
        set_arith(c, (FL_ZF if both & signs == 0 else 0) | (FL_CF if only_b & signs == 0 else 0))
    return st

cdef int VTESTPS_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return test_signs(c, o, <u64>0x8000000080000000)
cdef int VTESTPD_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return test_signs(c, o, <u64>0x8000000000000000)

# ---- shifts with a count for each element ---------------------------------------------------------------------------
cdef Lane psllvd(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(4):
        a.d[i] = <u32>(a.d[i] << b.d[i]) if b.d[i] < 32 else 0
    return a

cdef Lane psrlvd(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(4):
        a.d[i] = a.d[i] >> b.d[i] if b.d[i] < 32 else 0
    return a

cdef Lane psravd(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(4):
        a.sd[i] = a.sd[i] >> (b.d[i] if b.d[i] < 32 else 31)
    return a

cdef Lane psllvq(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(2):
        a.q[i] = a.q[i] << b.q[i] if b.q[i] < 64 else 0
    return a

cdef Lane psrlvq(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(2):
        a.q[i] = a.q[i] >> b.q[i] if b.q[i] < 64 else 0
    return a

cdef int VPSLLV_Vx_Hx_Wx(Cpu* c, Insn* o) noexcept nogil:
    return packed_vex(c, o, psllvq) if o.vex & VEX_W else packed_vex(c, o, psllvd)

cdef int VPSRLV_Vx_Hx_Wx(Cpu* c, Insn* o) noexcept nogil:
    return packed_vex(c, o, psrlvq) if o.vex & VEX_W else packed_vex(c, o, psrlvd)

cdef int VPSRAVD_Vx_Hx_Wx(Cpu* c, Insn* o) noexcept nogil: return packed_vex(c, o, psravd)

# ---- masked moves: elements whose mask has its top bit clear are not accessed, so they cannot fault ------------------
cdef inline bint mask_bit(const Vec* mask, int i, int n) noexcept nogil:
    return mask.d[i] >> 31 if n == 4 else mask.q[i] >> 63

cdef int unaligned_read(Cpu* c, u64 lin, int n, u64* v) noexcept nogil:
    """An element of a masked move or a gather, which do no alignment checks."""
    cdef u8 watched = c.bp_on
    cdef int st
    c.bp_on &= <u8>~<u32>BP_ALIGN
    st = mem_read(c, lin, n, v)
    c.bp_on = watched
    return st

cdef int unaligned_write(Cpu* c, u64 lin, int n, u64 v) noexcept nogil:
    cdef u8 watched = c.bp_on
    cdef int st
    c.bp_on &= <u8>~<u32>BP_ALIGN
    st = mem_write(c, lin, n, v)
    c.bp_on = watched
    return st

cdef int masked_load(Cpu* c, Insn* o, int n) noexcept nogil:
    """Vx,Hx,Mx; the others become 0."""
    cdef Vec r
    cdef u64 off = operand_off(c, o), lin, v
    cdef int i, st
    memset(&r, 0, sizeof(r))
    for i in range(o.size // n):
        if not mask_bit(&c.v[o.vvvv], i, n):
            continue
        st = linear(c, o.seg, off + <u64>(n * i), n, False, &lin)
        if st == ST_OK:
            st = unaligned_read(c, lin, n, &v)
        if st != ST_OK:
            return st
        memcpy(r.b + n * i, &v, n)
    c.v[o.reg] = r
    return ST_OK

cdef int masked_store(Cpu* c, Insn* o, int n) noexcept nogil:
    """Mx,Hx,Vx; nothing is written if any element faults."""
    cdef u64 off = operand_off(c, o), lin, v = 0
    cdef u64 at[8]
    cdef int i, st
    for i in range(o.size // n):
        at[i] = 0
        if mask_bit(&c.v[o.vvvv], i, n):
            st = linear(c, o.seg, off + <u64>(n * i), n, True, &lin)
            if st == ST_OK:
                st = mem_check_write(c, lin, n)
            if st != ST_OK:
                return st
            at[i] = lin
    for i in range(o.size // n):
        if mask_bit(&c.v[o.vvvv], i, n):
            memcpy(&v, c.v[o.reg].b + n * i, n)
            st = unaligned_write(c, at[i], n, v)
            if st != ST_OK:
                return st
    return ST_OK

cdef int VMASKMOVPS_Vx_Hx_Mx(Cpu* c, Insn* o) noexcept nogil: return masked_load(c, o, 4)
cdef int VMASKMOVPD_Vx_Hx_Mx(Cpu* c, Insn* o) noexcept nogil: return masked_load(c, o, 8)
cdef int VMASKMOVPS_Mx_Hx_Vx(Cpu* c, Insn* o) noexcept nogil: return masked_store(c, o, 4)
cdef int VMASKMOVPD_Mx_Hx_Vx(Cpu* c, Insn* o) noexcept nogil: return masked_store(c, o, 8)
cdef int VPMASKMOV_Vx_Hx_Mx(Cpu* c, Insn* o) noexcept nogil: return masked_load(c, o, 8 if o.vex & VEX_W else 4)
cdef int VPMASKMOV_Mx_Hx_Vx(Cpu* c, Insn* o) noexcept nogil: return masked_store(c, o, 8 if o.vex & VEX_W else 4)
