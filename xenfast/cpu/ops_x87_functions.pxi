# x87: transcendental functions F2XM1 FYL2X FYL2XP1 FPATAN FSIN FCOS FSINCOS FPTAN.
#
# SDM Vol. 1, 8.3.7 to 8.3.11.  Computed in the host's long double: its 64-bit mantissa on x86 hosts, 113 bits on
# arm64, and no better than double where long double is that.  Results can differ from a real processor's in the last
# places, as those of different processors do; C1 is 0 after them.  Special operands give what the tables say.

cdef extern from *:
    """
    static inline long double xf_to_ld(int sign, int e, unsigned long long m) {
        long double v = ldexpl((long double)m, e - 16383 - 63); return sign ? -v : v; }
    static inline unsigned long long xf_from_ld(long double v, int *e) {       /* v > 0, finite */
        long double f = frexpl(v, e); *e += 16382; return (unsigned long long)ldexpl(f, 64); }
    #define XF_LN2 0.693147180559945309417232121458176568L
    #define XF_LOG2E 1.442695040888963407359924681001892137L
    static inline long double xf_f2xm1(long double x) { return expm1l(x * XF_LN2); }
    static inline long double xf_yl2x(long double y, long double x) { return y * log2l(x); }
    static inline long double xf_yl2xp1(long double y, long double x) { return y * (log1pl(x) * XF_LOG2E); }
    """
    ctypedef double longdouble "long double"
    longdouble to_ld "xf_to_ld"(int, int, u64) noexcept nogil
    u64 from_ld "xf_from_ld"(longdouble, int*) noexcept nogil
    longdouble ld_f2xm1 "xf_f2xm1"(longdouble) noexcept nogil
    longdouble ld_yl2x "xf_yl2x"(longdouble, longdouble) noexcept nogil
    longdouble ld_yl2xp1 "xf_yl2xp1"(longdouble, longdouble) noexcept nogil
    longdouble sinl(longdouble) noexcept nogil
    longdouble cosl(longdouble) noexcept nogil
    longdouble tanl(longdouble) noexcept nogil
    longdouble atan2l(longdouble, longdouble) noexcept nogil

cdef longdouble f80_to_ld(Fx* x, F80 a) noexcept nogil:
    """A finite number."""
    cdef i32 e
    if a.man == 0:
        return to_ld(f80_sign(a), 0, 0)
    e = f80_unpack(x, &a)
    return to_ld(f80_sign(a), e, a.man)

cdef F80 ld_to_f80(Fx* x, longdouble v) noexcept nogil:
    """An inexact result, rounded again only if it is tiny or huge."""
    cdef bint sign = v < 0
    cdef int e = 0
    cdef u64 m
    cdef F80 r
    x.ex |= FP_PE
    if v == 0:
        x.ex |= FP_UE
        return f80_zero(0)
    if sign:
        v = -v
    if v > 0 and v == v * 2:                  # infinity: beyond the host's range
        r = f80_round(x, sign, F80_EMAX, INT_BIT, 0, 64)
    else:
        m = from_ld(v, &e)
        r = f80_round(x, sign, e, m, 1 if e <= 0 else 0, 64)
    x.c1 = 0
    return r

cdef F80 f80_2xm1(Fx* x, F80 a) noexcept nogil:
    """2**a - 1 for -1 <= a <= 1; outside that the result is undefined (here: a)."""
    cdef int k = f80_class(a)
    cdef i32 e = a.se & 0x7FFF
    if is_nan(k):
        return f80_nan(x, a, a)
    if k == IS_ZERO:
        return a
    if k == IS_INF:
        return f80(1, F80_BIAS, INT_BIT) if f80_sign(a) else a
    if e >= F80_BIAS:
        if e == F80_BIAS and a.man == INT_BIT and f80_sign(a):
            return f80(1, F80_BIAS - 1, INT_BIT)
        return a
    return ld_to_f80(x, ld_f2xm1(f80_to_ld(x, a)))

cdef F80 f80_yl2x(Fx* x, F80 a, F80 y) noexcept nogil:
    """y * log2(a)."""
    cdef int ka = f80_class(a), ky = f80_class(y)
    cdef bint sa = f80_sign(a), sy = f80_sign(y)
    cdef bint below
    if is_nan(ka) or is_nan(ky):
        return f80_nan(x, a, y)
    if ka == IS_ZERO:
        if ky == IS_ZERO:
            return f80_invalid(x)
        if ky != IS_INF:
            x.ex |= FP_ZE
        return f80_inf(not sy)
    if sa:
        return f80_invalid(x)
    below = (a.se & 0x7FFF) < F80_BIAS
    if ka == IS_INF:
        if ky == IS_ZERO:
            return f80_invalid(x)
        if ky == IS_DENORMAL:
            x.ex |= FP_DE
        return f80_inf(sy)
    if a.se == F80_BIAS and a.man == INT_BIT:
        if ky == IS_INF:
            return f80_invalid(x)
        if ky == IS_DENORMAL:
            x.ex |= FP_DE
        return f80_zero(sy)
    if ky == IS_INF or ky == IS_ZERO:
        if ka == IS_DENORMAL:
            x.ex |= FP_DE
        return f80_inf(sy ^ below) if ky == IS_INF else f80_zero(sy ^ below)
    if a.man == INT_BIT and ka == IS_NORMAL:  # a power of two: a product of exact numbers
        return f80_mul64(x, i64_to_f80((a.se & 0x7FFF) - F80_BIAS), y)
    return ld_to_f80(x, ld_yl2x(f80_to_ld(x, y), f80_to_ld(x, a)))

cdef F80 f80_mul64(Fx* x, F80 a, F80 b) noexcept nogil:
    """a * b at full precision."""
    cdef u32 cw = x.cw
    cdef F80 r
    x.cw |= 0x300
    r = f80_mul(x, a, b)
    x.cw = cw
    return r

cdef F80 f80_yl2xp1(Fx* x, F80 a, F80 y) noexcept nogil:
    """y * log2(a + 1), for |a| < 1 - sqrt(1/2)."""
    cdef int ka = f80_class(a), ky = f80_class(y)
    cdef bint sa = f80_sign(a), sy = f80_sign(y)
    if is_nan(ka) or is_nan(ky):
        return f80_nan(x, a, y)
    if ka == IS_ZERO or ky == IS_ZERO:
        if ka == IS_INF or ky == IS_INF:
            return f80_invalid(x)
        if ka == IS_DENORMAL or ky == IS_DENORMAL:
            x.ex |= FP_DE
        return f80_zero(sa ^ sy)
    if (ka == IS_INF and sa) or (sa and (a.se & 0x7FFF) >= F80_BIAS):
        return f80_invalid(x)
    if ka == IS_INF or ky == IS_INF:
        if ka == IS_DENORMAL or ky == IS_DENORMAL:
            x.ex |= FP_DE
        return f80_inf(sa ^ sy)
    return ld_to_f80(x, ld_yl2xp1(f80_to_ld(x, y), f80_to_ld(x, a)))

cdef F80 f80_patan(Fx* x, F80 a, F80 y) noexcept nogil:
    """atan2(y, a)."""
    cdef int ka = f80_class(a), ky = f80_class(y)
    cdef longdouble la, ly
    if is_nan(ka) or is_nan(ky):
        return f80_nan(x, a, y)
    if ky == IS_ZERO and not f80_sign(a):
        if ka == IS_DENORMAL:
            x.ex |= FP_DE
        return y
    # Infinities and zeros give multiples of pi/4, for which their signs and an order of magnitude are enough.
    la = to_ld(f80_sign(a), F80_BIAS + (8000 if ky != IS_INF else 0), INT_BIT) if ka == IS_INF else f80_to_ld(x, a)
    ly = to_ld(f80_sign(y), F80_BIAS + (8000 if ka != IS_INF else 0), INT_BIT) if ky == IS_INF else f80_to_ld(x, y)
    if ka == IS_INF and ky != IS_INF:
        if not f80_sign(a):
            return f80_zero(f80_sign(y))
        ly = to_ld(f80_sign(y), 0, 0)
    elif ky == IS_INF and ka != IS_INF:
        la = to_ld(0, 0, 0)
    return ld_to_f80(x, atan2l(ly, la))

cdef int binary_pop(Cpu* c, Insn* o, Fx2 k) noexcept nogil:
    """ST(1) = k(ST(0), ST(1)), then pop."""
    cdef Fx x
    cdef bint empty = False
    cdef F80 a, b
    cdef int st = x87_begin(c, &x)
    if st != ST_OK:
        return st
    a = st_read(c, 0, &x, &empty)
    b = st_read(c, 1, &x, &empty)
    a = f80_indefinite() if empty else k(&x, a, b)
    if x87_end(c, o, &x):
        st_set(c, 1, a)
        st_pop(c)
    return ST_OK

cdef int F2XM1(Cpu* c, Insn* o) noexcept nogil: return unary(c, o, f80_2xm1)
cdef int FYL2X(Cpu* c, Insn* o) noexcept nogil: return binary_pop(c, o, f80_yl2x)
cdef int FYL2XP1(Cpu* c, Insn* o) noexcept nogil: return binary_pop(c, o, f80_yl2xp1)
cdef int FPATAN(Cpu* c, Insn* o) noexcept nogil: return binary_pop(c, o, f80_patan)

cdef enum:
    TRIG_SIN = 1
    TRIG_COS = 2
    TRIG_TAN = 4

cdef int reduce_angle(F80 a, longdouble* hi, longdouble* lo) noexcept nogil:
    """a modulo pi/2 as hi + lo, from -pi/4 to pi/4; returns the quotient's low bits.  |a| < 2**63, not zero.

    The processor's pi has 66 bits of mantissa (SDM Vol. 1, 8.3.8), which large arguments show.  It is P * 2**-66 here.
    """
    cdef u128 p = (<u128><u64>0xC90FDAA22168C234 << 4) | 0xC
    cdef i32 e = a.se & 0x7FFF
    cdef i32 n
    cdef u128 r = a.man
    cdef u64 top
    cdef int q = 0
    cdef bint sign = f80_sign(a)
    lo[0] = 0
    if e == 0 or e < F80_BIAS - 1 or (e == F80_BIAS - 1 and a.man <= <u64>0xC90FDAA22168C234):
        hi[0] = to_ld(sign, e if e else 1, a.man)            # |a| <= pi/4
        return 0
    n = e - F80_BIAS - 63 + 67                               # |a| = r * 2**n in units of 2**-67, pi/2 = p
    while n > 0:
        r = r << 1
        q <<= 1
        if r >= p:
            r = r - p
            q += 1
        q &= 3
        n -= 1
    if r > (p >> 1):
        r = p - r
        q += 1
        sign = not sign
    top = <u64>(r >> 5)
    hi[0] = to_ld(sign, F80_BIAS + 63 - 62, top)
    lo[0] = to_ld(sign, F80_BIAS + 63 - 67, <u64>r & 31)
    # A negative angle: the quotient counts the other way.
    return (-q if f80_sign(a) else q) & 3

cdef longdouble sine(longdouble hi, longdouble lo, int q) noexcept nogil:
    """sin(q * pi/2 + hi + lo)."""
    cdef longdouble v = cosl(hi) - sinl(hi) * lo if q & 1 else sinl(hi) + cosl(hi) * lo
    return -v if q & 2 else v

cdef longdouble tangent(longdouble hi, longdouble lo, int q) noexcept nogil:
    cdef longdouble t = tanl(hi)
    t = t + (1 + t * t) * lo
    return -1 / t if q & 1 else t

cdef int trig(Cpu* c, Insn* o, int what) noexcept nogil:
    """FSIN, FCOS, FSINCOS, FPTAN.  C2 is set, and nothing done, when |ST(0)| >= 2**63."""
    cdef Fx x
    cdef bint empty = False
    cdef bint push = what == TRIG_TAN or what == (TRIG_SIN | TRIG_COS)
    cdef F80 a, r, s
    cdef longdouble hi, lo
    cdef int k, q
    cdef int st = x87_begin(c, &x)
    if st != ST_OK:
        return st
    a = st_read(c, 0, &x, &empty)
    if not empty and push and not st_empty(c, -1):
        x.ex = FP_IE | FSW_SF
        x.c1 = FSW_C1
        empty = True
    k = f80_class(a)
    r = s = f80_indefinite()
    if not empty:
        if is_nan(k):
            r = s = f80_nan(&x, a, a)
        elif k == IS_INF:
            r = s = f80_invalid(&x)
        elif k == IS_ZERO:
            r = a if what & (TRIG_SIN | TRIG_TAN) else f80(0, F80_BIAS, INT_BIT)
            s = f80(0, F80_BIAS, INT_BIT)
        elif (a.se & 0x7FFF) >= F80_BIAS + 63:
            c.fsw = (c.fsw & ~FSW_C1) | FSW_C2
            x87_pointers(c, o)
            return ST_OK
        else:
            if k == IS_DENORMAL:
                x.ex |= FP_DE
            q = reduce_angle(a, &hi, &lo)
            r = ld_to_f80(&x, tangent(hi, lo, q) if what == TRIG_TAN else sine(hi, lo, q + 1 if what == TRIG_COS else q))
            if what == TRIG_TAN:
                s = f80(0, F80_BIAS, INT_BIT)
            elif push:
                s = ld_to_f80(&x, sine(hi, lo, q + 1))
    if x87_end(c, o, &x):
        c.fsw &= ~FSW_C2
        st_set(c, 0, r)
        if push:
            st_push(c, s)
    return ST_OK

cdef int FSIN(Cpu* c, Insn* o) noexcept nogil: return trig(c, o, TRIG_SIN)
cdef int FCOS(Cpu* c, Insn* o) noexcept nogil: return trig(c, o, TRIG_COS)
cdef int FSINCOS(Cpu* c, Insn* o) noexcept nogil: return trig(c, o, TRIG_SIN | TRIG_COS)
cdef int FPTAN(Cpu* c, Insn* o) noexcept nogil: return trig(c, o, TRIG_TAN)
