# SSE floating-point arithmetic: ADD SUB MUL DIV MIN MAX SQRT RCP RSQRT CMP UCOMIS COMIS, HADD HSUB ADDSUB (SSE3).
#
# SDM Vol. 1, ch. 10 to 12 and appendix E (what each does with NaNs).  The arithmetic is the host's (fp_host.pxi), the
# exceptions are those of mxcsr.pxi.  Shapes:
#   float_packed(c, o, k, tiny)    Vps,Wps  Vpd,Wpd      scalar32, scalar64    Vss,Wss  Vsd,Wsd

ctypedef float (*Float2)(float, float) noexcept nogil
ctypedef double (*Double2)(double, double) noexcept nogil

cdef inline int float_packed(Cpu* c, Insn* o, Binary k, int tiny) noexcept nogil:
    cdef Lane b, r
    cdef Lane* d = xmm(c, o.reg)
    cdef int st
    if o.vex:
        return float_packed_vex(c, o, k, tiny)
    st = read_W(c, o, &b)
    if st != ST_OK:
        return st
    if fp_unmasked(c):
        fp_begin(c)
        r = k(d[0], b)
        st = fp_check(c, &r, tiny)
        if st == ST_OK:
            d[0] = r
        return st
    d[0] = k(d[0], b)
    return ST_OK

cdef int float_packed_vex(Cpu* c, Insn* o, Binary k, int tiny) noexcept nogil:
    cdef Lane b[2]
    cdef Lane* a = xmm(c, o.vvvv)
    cdef int st = read_Wx(c, o, b)
    if st != ST_OK:
        return st
    if fp_unmasked(c):
        fp_begin(c)
    b[0] = k(a[0], b[0])
    if o.size == 32:
        b[1] = k(a[1], b[1])
    if fp_unmasked(c):
        st = fp_check_lanes(c, b, o.size >> 4, tiny)
    if st == ST_OK:
        put_Vx(c, o, b)
    return st

cdef inline int scalar32(Cpu* c, Insn* o, Float2 k, int tiny) noexcept nogil:
    cdef float b, r
    cdef int st
    if o.is_mem:
        st = vec_read(c, o, 4, &b, False)
        if st != ST_OK:
            return st
    else:
        b = xmm(c, o.rm).f[0]
    if fp_unmasked(c):
        fp_begin(c)
    r = k(xmm(c, o.vvvv).f[0], b)
    if fp_unmasked(c):
        st = fp_check(c, &r, tiny)
        if st != ST_OK:
            return st
    dest(c, o).f[0] = r
    return ST_OK

cdef inline int scalar64(Cpu* c, Insn* o, Double2 k, int tiny) noexcept nogil:
    cdef double b, r
    cdef int st
    if o.is_mem:
        st = vec_read(c, o, 8, &b, False)
        if st != ST_OK:
            return st
    else:
        b = xmm(c, o.rm).lf[0]
    if fp_unmasked(c):
        fp_begin(c)
    r = k(xmm(c, o.vvvv).lf[0], b)
    if fp_unmasked(c):
        st = fp_check(c, &r, tiny)
        if st != ST_OK:
            return st
    dest(c, o).lf[0] = r
    return ST_OK

# ---- kernels --------------------------------------------------------------------------------------------------------

cdef inline Lane addps(Lane a, Lane b) noexcept nogil:
    host_addps(&a, &a, &b)
    return a

cdef inline Lane addpd(Lane a, Lane b) noexcept nogil:
    host_addpd(&a, &a, &b)
    return a

cdef inline Lane subps(Lane a, Lane b) noexcept nogil:
    host_subps(&a, &a, &b)
    return a

cdef inline Lane subpd(Lane a, Lane b) noexcept nogil:
    host_subpd(&a, &a, &b)
    return a

cdef inline Lane mulps(Lane a, Lane b) noexcept nogil:
    host_mulps(&a, &a, &b)
    return a

cdef inline Lane mulpd(Lane a, Lane b) noexcept nogil:
    host_mulpd(&a, &a, &b)
    return a

cdef inline Lane divps(Lane a, Lane b) noexcept nogil:
    host_divps(&a, &a, &b)
    return a

cdef inline Lane divpd(Lane a, Lane b) noexcept nogil:
    host_divpd(&a, &a, &b)
    return a

cdef inline Lane minps(Lane a, Lane b) noexcept nogil:
    host_minps(&a, &a, &b)
    return a

cdef inline Lane minpd(Lane a, Lane b) noexcept nogil:
    host_minpd(&a, &a, &b)
    return a

cdef inline Lane maxps(Lane a, Lane b) noexcept nogil:
    host_maxps(&a, &a, &b)
    return a

cdef inline Lane maxpd(Lane a, Lane b) noexcept nogil:
    host_maxpd(&a, &a, &b)
    return a

cdef inline Lane sqrtps(Lane a, Lane b) noexcept nogil:
    host_sqrtps(&a, &b)
    return a

cdef inline Lane sqrtpd(Lane a, Lane b) noexcept nogil:
    host_sqrtpd(&a, &b)
    return a

cdef inline float sqrtss(float a, float b) noexcept nogil: return sqrt32(b)
cdef inline double sqrtsd(double a, double b) noexcept nogil: return sqrt64(b)

cdef Lane addsubps(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(4):
        a.f[i] = add32(a.f[i], b.f[i]) if i & 1 else sub32(a.f[i], b.f[i])
    return a

cdef Lane addsubpd(Lane a, Lane b) noexcept nogil:
    a.lf[0] = sub64(a.lf[0], b.lf[0])
    a.lf[1] = add64(a.lf[1], b.lf[1])
    return a

cdef Lane haddps(Lane a, Lane b) noexcept nogil:
    return addps(shufps(a, b, 0x88), shufps(a, b, 0xDD))

cdef Lane hsubps(Lane a, Lane b) noexcept nogil:
    return subps(shufps(a, b, 0x88), shufps(a, b, 0xDD))

cdef Lane haddpd(Lane a, Lane b) noexcept nogil:
    return addpd(shufpd(a, b, 0), shufpd(a, b, 3))

cdef Lane hsubpd(Lane a, Lane b) noexcept nogil:
    return subpd(shufpd(a, b, 0), shufpd(a, b, 3))

# ---- approximations: no exceptions, denormals are zeros (SDM Vol. 2, RCPPS, RSQRTPS) ---------------------------------
# The SDM allows a relative error of 1.5 * 2**-12 and processors differ; in integers here, so that every host gives
# the same.

cdef u32 rcp_bits(u32 x) noexcept nogil:
    cdef u32 sign = x & <u32>0x80000000
    cdef i32 e = (x >> 23) & 0xFF
    cdef u64 m = (x & 0x7FFFFF) | 0x800000
    cdef u64 q
    if e == 0xFF:
        return x | 0x400000 if x & 0x7FFFFF else sign
    if e == 0:
        return sign | 0x7F800000
    q = (<u64>1 << 48) // m                  # 2**24 < q <= 2**25: 1/1.f in units of 2**-25
    e = 253 - e
    if q >> 25:
        e += 1
        q = 1 << 24                          # a power of two
    if e <= 0:
        return sign                          # tiny results are zero
    return sign | (<u32>e << 23) | (<u32>(q >> 1) & 0x7FFFFF)

cdef u32 rsqrt_bits(u32 x) noexcept nogil:
    cdef i32 e = (x >> 23) & 0xFF
    cdef u64 m = (x & 0x7FFFFF) | 0x800000
    cdef u64 n, r = 0, bit = <u64>1 << 24
    if e == 0xFF and x & 0x7FFFFF:
        return x | 0x400000
    if e == 0:
        return (x & <u32>0x80000000) | 0x7F800000
    if x >> 31:
        return <u32>0xFFC00000
    if e == 0xFF:
        return 0
    if e & 1 == 0:                           # the exponent is odd (the bias is): 2 * 1.f, between 2 and 4
        m <<= 1
        e -= 1
    n = (<u64>1 << 62) // m << 9             # 1/1.f in units of 2**-48
    while bit:                               # r = floor(sqrt(n))
        if (r + bit) * (r + bit) <= n:
            r += bit
        bit >>= 1
    e = 127 - ((e - 127) >> 1)
    if r >> 24:
        return <u32>e << 23                  # a power of four
    return (<u32>(e - 1) << 23) | (<u32>r & 0x7FFFFF)

cdef Lane rcpps(Lane b) noexcept nogil:
    cdef int i
    for i in range(4):
        b.d[i] = rcp_bits(b.d[i])
    return b

cdef Lane rsqrtps(Lane b) noexcept nogil:
    cdef int i
    for i in range(4):
        b.d[i] = rsqrt_bits(b.d[i])
    return b

cdef int RCPPS_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return packed_unary(c, o, rcpps)
cdef int RSQRTPS_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return packed_unary(c, o, rsqrtps)

cdef int RCPSS_Vss_Wss(Cpu* c, Insn* o) noexcept nogil:
    cdef Lane b
    cdef int st = read_W_part(c, o, 4, &b)
    if st == ST_OK:
        dest(c, o).d[0] = rcp_bits(b.d[0])
    return st

cdef int RSQRTSS_Vss_Wss(Cpu* c, Insn* o) noexcept nogil:
    cdef Lane b
    cdef int st = read_W_part(c, o, 4, &b)
    if st == ST_OK:
        dest(c, o).d[0] = rsqrt_bits(b.d[0])
    return st

# ---- comparison -----------------------------------------------------------------------------------------------------
# Predicates of CMPPS and its kin (SDM Vol. 2, table 3-1): which of less 1, equal 2, greater 4, unordered 8 are true;
# 16: QNaNs signal.
# The first eight are SSE's, all 32 are AVX's.
cdef u8* CMP_PREDICATE = [
    2, 1 | 16, 3 | 16, 8, 13, 14 | 16, 12 | 16, 7,                  # EQ LT LE UNORD NEQ NLT NLE ORD
    10, 9 | 16, 11 | 16, 0, 5, 6 | 16, 4 | 16, 15,                  # EQ_UQ NGE NGT FALSE NEQ_OQ GE GT TRUE
    2 | 16, 1, 3, 8 | 16, 13 | 16, 14, 12, 7 | 16,                  # the same with the other signalling
    10 | 16, 9, 11, 0 | 16, 5 | 16, 6, 4, 15 | 16,
]

cdef inline bint cmp32(float a, float b, u32 p) noexcept nogil:
    return (rel32(a, b) if p & 16 else relq32(a, b)) & p & 15

cdef inline bint cmp64(double a, double b, u32 p) noexcept nogil:
    return (rel64(a, b) if p & 16 else relq64(a, b)) & p & 15

cdef Lane cmpps(Lane a, Lane b, u32 p) noexcept nogil:
    cdef int i
    for i in range(4):
        a.d[i] = <u32>0xFFFFFFFF if cmp32(a.f[i], b.f[i], p) else 0
    return a

cdef Lane cmppd(Lane a, Lane b, u32 p) noexcept nogil:
    cdef int i
    for i in range(2):
        a.q[i] = <u64>0xFFFFFFFFFFFFFFFF if cmp64(a.lf[i], b.lf[i], p) else 0
    return a

cdef inline u32 predicate(Insn* o) noexcept nogil:
    return CMP_PREDICATE[o.imm & (31 if o.vex else 7)]

cdef inline int compare_packed(Cpu* c, Insn* o, BinaryImm k) noexcept nogil:
    cdef Lane b[2]
    cdef Lane* a = xmm(c, o.vvvv)
    cdef int st = read_Wx(c, o, b)
    if st != ST_OK:
        return st
    if fp_unmasked(c):
        fp_begin(c)
    b[0] = k(a[0], b[0], predicate(o))
    if o.size == 32:
        b[1] = k(a[1], b[1], predicate(o))
    if fp_unmasked(c):
        st = fp_check(c, b, TINY_NO)
    if st == ST_OK:
        put_Vx(c, o, b)
    return st

cdef int CMPPS_Vps_Wps_Ib(Cpu* c, Insn* o) noexcept nogil: return compare_packed(c, o, cmpps)
cdef int CMPPD_Vpd_Wpd_Ib(Cpu* c, Insn* o) noexcept nogil: return compare_packed(c, o, cmppd)

cdef int CMPSS_Vss_Wss_Ib(Cpu* c, Insn* o) noexcept nogil:
    cdef Lane b
    cdef bint r
    cdef int st = read_W_part(c, o, 4, &b)
    if st != ST_OK:
        return st
    if fp_unmasked(c):
        fp_begin(c)
    r = cmp32(xmm(c, o.vvvv).f[0], b.f[0], predicate(o))
    if fp_unmasked(c):
        st = fp_check(c, &b, TINY_NO)
    if st == ST_OK:
        dest(c, o).d[0] = <u32>0xFFFFFFFF if r else 0
    return st

cdef int CMPSD_Vsd_Wsd_Ib(Cpu* c, Insn* o) noexcept nogil:
    cdef Lane b
    cdef bint r
    cdef int st = read_W_part(c, o, 8, &b)
    if st != ST_OK:
        return st
    if fp_unmasked(c):
        fp_begin(c)
    r = cmp64(xmm(c, o.vvvv).lf[0], b.lf[0], predicate(o))
    if fp_unmasked(c):
        st = fp_check(c, &b, TINY_NO)
    if st == ST_OK:
        dest(c, o).q[0] = <u64>0xFFFFFFFFFFFFFFFF if r else 0
    return st

cdef inline u32 rel_flags(int rel) noexcept nogil:
    """ZF PF CF of a comparison (SDM Vol. 1, table 8-7): unordered 111, greater 000, less 001, equal 100."""
    return FL_ZF | FL_PF | FL_CF if rel & 8 else FL_CF if rel & 1 else FL_ZF if rel & 2 else 0

cdef inline int comis32(Cpu* c, Insn* o, int (*k)(float, float) noexcept nogil) noexcept nogil:
    cdef Lane b
    cdef int rel
    cdef int st = read_W_part(c, o, 4, &b)
    if st != ST_OK:
        return st
    if fp_unmasked(c):
        fp_begin(c)
    rel = k(xmm(c, o.reg).f[0], b.f[0])
    if fp_unmasked(c):
        st = fp_check(c, &b, TINY_NO)
    if st == ST_OK:
        set_arith(c, rel_flags(rel))
    return st

cdef inline int comis64(Cpu* c, Insn* o, int (*k)(double, double) noexcept nogil) noexcept nogil:
    cdef Lane b
    cdef int rel
    cdef int st = read_W_part(c, o, 8, &b)
    if st != ST_OK:
        return st
    if fp_unmasked(c):
        fp_begin(c)
    rel = k(xmm(c, o.reg).lf[0], b.lf[0])
    if fp_unmasked(c):
        st = fp_check(c, &b, TINY_NO)
    if st == ST_OK:
        set_arith(c, rel_flags(rel))
    return st

cdef int UCOMISS_Vss_Wss(Cpu* c, Insn* o) noexcept nogil: return comis32(c, o, relq32)
cdef int COMISS_Vss_Wss(Cpu* c, Insn* o) noexcept nogil: return comis32(c, o, rel32)
cdef int UCOMISD_Vsd_Wsd(Cpu* c, Insn* o) noexcept nogil: return comis64(c, o, relq64)
cdef int COMISD_Vsd_Wsd(Cpu* c, Insn* o) noexcept nogil: return comis64(c, o, rel64)

# ---- the instructions -----------------------------------------------------------------------------------------------
cdef int ADDPS_Vps_Wps(Cpu* c, Insn* o) noexcept nogil: return float_packed(c, o, addps, TINY_PS)
cdef int ADDPD_Vpd_Wpd(Cpu* c, Insn* o) noexcept nogil: return float_packed(c, o, addpd, TINY_PD)
cdef int ADDSS_Vss_Wss(Cpu* c, Insn* o) noexcept nogil: return scalar32(c, o, add32, TINY_SS)
cdef int ADDSD_Vsd_Wsd(Cpu* c, Insn* o) noexcept nogil: return scalar64(c, o, add64, TINY_SD)
cdef int SUBPS_Vps_Wps(Cpu* c, Insn* o) noexcept nogil: return float_packed(c, o, subps, TINY_PS)
cdef int SUBPD_Vpd_Wpd(Cpu* c, Insn* o) noexcept nogil: return float_packed(c, o, subpd, TINY_PD)
cdef int SUBSS_Vss_Wss(Cpu* c, Insn* o) noexcept nogil: return scalar32(c, o, sub32, TINY_SS)
cdef int SUBSD_Vsd_Wsd(Cpu* c, Insn* o) noexcept nogil: return scalar64(c, o, sub64, TINY_SD)
cdef int MULPS_Vps_Wps(Cpu* c, Insn* o) noexcept nogil: return float_packed(c, o, mulps, TINY_PS)
cdef int MULPD_Vpd_Wpd(Cpu* c, Insn* o) noexcept nogil: return float_packed(c, o, mulpd, TINY_PD)
cdef int MULSS_Vss_Wss(Cpu* c, Insn* o) noexcept nogil: return scalar32(c, o, mul32, TINY_SS)
cdef int MULSD_Vsd_Wsd(Cpu* c, Insn* o) noexcept nogil: return scalar64(c, o, mul64, TINY_SD)
cdef int DIVPS_Vps_Wps(Cpu* c, Insn* o) noexcept nogil: return float_packed(c, o, divps, TINY_PS)
cdef int DIVPD_Vpd_Wpd(Cpu* c, Insn* o) noexcept nogil: return float_packed(c, o, divpd, TINY_PD)
cdef int DIVSS_Vss_Wss(Cpu* c, Insn* o) noexcept nogil: return scalar32(c, o, div32, TINY_SS)
cdef int DIVSD_Vsd_Wsd(Cpu* c, Insn* o) noexcept nogil: return scalar64(c, o, div64, TINY_SD)
cdef int MINPS_Vps_Wps(Cpu* c, Insn* o) noexcept nogil: return float_packed(c, o, minps, TINY_NO)
cdef int MINPD_Vpd_Wpd(Cpu* c, Insn* o) noexcept nogil: return float_packed(c, o, minpd, TINY_NO)
cdef int MINSS_Vss_Wss(Cpu* c, Insn* o) noexcept nogil: return scalar32(c, o, min32, TINY_NO)
cdef int MINSD_Vsd_Wsd(Cpu* c, Insn* o) noexcept nogil: return scalar64(c, o, min64, TINY_NO)
cdef int MAXPS_Vps_Wps(Cpu* c, Insn* o) noexcept nogil: return float_packed(c, o, maxps, TINY_NO)
cdef int MAXPD_Vpd_Wpd(Cpu* c, Insn* o) noexcept nogil: return float_packed(c, o, maxpd, TINY_NO)
cdef int MAXSS_Vss_Wss(Cpu* c, Insn* o) noexcept nogil: return scalar32(c, o, max32, TINY_NO)
cdef int MAXSD_Vsd_Wsd(Cpu* c, Insn* o) noexcept nogil: return scalar64(c, o, max64, TINY_NO)
cdef int SQRTPS_Vps_Wps(Cpu* c, Insn* o) noexcept nogil: return float_packed(c, o, sqrtps, TINY_NO)
cdef int SQRTPD_Vpd_Wpd(Cpu* c, Insn* o) noexcept nogil: return float_packed(c, o, sqrtpd, TINY_NO)
cdef int SQRTSS_Vss_Wss(Cpu* c, Insn* o) noexcept nogil: return scalar32(c, o, sqrtss, TINY_NO)
cdef int SQRTSD_Vsd_Wsd(Cpu* c, Insn* o) noexcept nogil: return scalar64(c, o, sqrtsd, TINY_NO)
cdef int ADDSUBPS_Vps_Wps(Cpu* c, Insn* o) noexcept nogil: return float_packed(c, o, addsubps, TINY_PS)
cdef int ADDSUBPD_Vpd_Wpd(Cpu* c, Insn* o) noexcept nogil: return float_packed(c, o, addsubpd, TINY_PD)
cdef int HADDPS_Vps_Wps(Cpu* c, Insn* o) noexcept nogil: return float_packed(c, o, haddps, TINY_PS)
cdef int HADDPD_Vpd_Wpd(Cpu* c, Insn* o) noexcept nogil: return float_packed(c, o, haddpd, TINY_PD)
cdef int HSUBPS_Vps_Wps(Cpu* c, Insn* o) noexcept nogil: return float_packed(c, o, hsubps, TINY_PS)
cdef int HSUBPD_Vpd_Wpd(Cpu* c, Insn* o) noexcept nogil: return float_packed(c, o, hsubpd, TINY_PD)
