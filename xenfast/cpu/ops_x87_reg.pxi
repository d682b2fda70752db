# x87: register moves, sign, rounding, roots, remainders, transcendental functions.
#
# SDM Vol. 1, 8.3.  The transcendental functions are computed in the host's long double: its 64-bit mantissa on x86
# hosts, 113 bits on arm64, and no better than double where long double is that.  Results can differ from a real
# processor's in the last place, as those of different processors do; C1 is 0 after them.

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

ctypedef F80 (*Fx1)(Fx*, F80) noexcept nogil
ctypedef F80 (*Fx2)(Fx*, F80, F80) noexcept nogil

# ---- moves between registers ----------------------------------------------------------------------------------------
cdef int store_st(Cpu* c, Insn* o, bint pop) noexcept nogil:
    cdef Fx x
    cdef bint empty = False
    cdef F80 v
    cdef int st = x87_begin(c, &x)
    if st != ST_OK:
        return st
    v = st_read(c, 0, &x, &empty)
    if x87_end(c, o, &x):
        st_set(c, o.rm & 7, v)
        if pop:
            st_pop(c)
    return ST_OK

cdef int FST_STi(Cpu* c, Insn* o) noexcept nogil: return store_st(c, o, False)
cdef int FSTP_STi(Cpu* c, Insn* o) noexcept nogil: return store_st(c, o, True)

cdef int FXCH_STi(Cpu* c, Insn* o) noexcept nogil:
    cdef Fx x
    cdef bint empty = False
    cdef F80 a, b
    cdef int st = x87_begin(c, &x)
    if st != ST_OK:
        return st
    a = st_read(c, 0, &x, &empty)
    b = st_read(c, o.rm & 7, &x, &empty)
    if x87_end(c, o, &x):
        st_set(c, 0, b)
        st_set(c, o.rm & 7, a)
    return ST_OK

cdef int FCMOV_ST0_STi(Cpu* c, Insn* o) noexcept nogil:
    """DA: B E BE U, DB: the opposites.  o.cc is the low half of the opcode byte: A or B."""
    cdef Fx x
    cdef bint empty = False
    cdef F80 v
    cdef int k = o.reg & 3
    cdef bint take
    cdef int st = x87_begin(c, &x)
    if st != ST_OK:
        return st
    take = flag_cf(c) if k == 0 else flag_zf(c) if k == 1 else flag_cf(c) or flag_zf(c) if k == 2 else flag_pf(c)
    st_read(c, 0, &x, &empty)
    v = st_read(c, o.rm & 7, &x, &empty)
    if empty:
        v = f80_indefinite()
    if x87_end(c, o, &x) and (empty or take != (o.cc & 1)):
        st_set(c, 0, v)
    return ST_OK

cdef int FFREE_STi(Cpu* c, Insn* o) noexcept nogil:
    cdef Fx x
    cdef int st = x87_begin(c, &x)
    if st == ST_OK:
        x87_pointers(c, o)
        st_free(c, o.rm & 7)
    return st

cdef int FFREEP_STi(Cpu* c, Insn* o) noexcept nogil:
    """DF C0+i, undocumented: FFREE and a pop."""
    cdef int st = FFREE_STi(c, o)
    if st == ST_OK:
        x87_set_top(c, x87_top(c) + 1)
    return st

cdef int FINCSTP(Cpu* c, Insn* o) noexcept nogil:
    """D9 F7; F6 is FDECSTP."""
    cdef Fx x
    cdef int st = x87_begin(c, &x)
    if st == ST_OK:
        x87_pointers(c, o)
        c.fsw &= ~FSW_C1
        x87_set_top(c, x87_top(c) + (1 if o.rm & 1 else -1))
    return st

cdef int FNOP(Cpu* c, Insn* o) noexcept nogil:
    cdef Fx x
    return x87_begin(c, &x)

# ---- one operand ----------------------------------------------------------------------------------------------------
cdef inline int unary(Cpu* c, Insn* o, Fx1 k) noexcept nogil:
    """ST(0) = k(ST(0))."""
    cdef Fx x
    cdef bint empty = False
    cdef F80 v
    cdef int st = x87_begin(c, &x)
    if st != ST_OK:
        return st
    v = st_read(c, 0, &x, &empty)
    if not empty:
        v = k(&x, v)
    if x87_end(c, o, &x):
        st_set(c, 0, v)
    return ST_OK

cdef F80 f80_chs(Fx* x, F80 a) noexcept nogil:
    a.se ^= 0x8000
    return a

cdef F80 f80_abs(Fx* x, F80 a) noexcept nogil:
    a.se &= 0x7FFF
    return a

cdef int FCHS(Cpu* c, Insn* o) noexcept nogil: return unary(c, o, f80_chs)
cdef int FABS(Cpu* c, Insn* o) noexcept nogil: return unary(c, o, f80_abs)
cdef int FSQRT(Cpu* c, Insn* o) noexcept nogil: return unary(c, o, f80_sqrt)
cdef int FRNDINT(Cpu* c, Insn* o) noexcept nogil: return unary(c, o, f80_rint)

# ---- two operands, ST(0) and ST(1) ----------------------------------------------------------------------------------
cdef int FSCALE(Cpu* c, Insn* o) noexcept nogil:
    cdef Fx x
    cdef bint empty = False
    cdef F80 a, b
    cdef int st = x87_begin(c, &x)
    if st != ST_OK:
        return st
    a = st_read(c, 0, &x, &empty)
    b = st_read(c, 1, &x, &empty)
    a = f80_indefinite() if empty else f80_scale(&x, a, b)
    if x87_end(c, o, &x):
        st_set(c, 0, a)
    return ST_OK

cdef int FPREM(Cpu* c, Insn* o) noexcept nogil:
    """D9 F8, and D9 F5 FPREM1 (o.rm is odd)."""
    cdef Fx x
    cdef bint empty = False
    cdef F80 a, b
    cdef u32 cc = 0
    cdef int st = x87_begin(c, &x)
    if st != ST_OK:
        return st
    a = st_read(c, 0, &x, &empty)
    b = st_read(c, 1, &x, &empty)
    a = f80_indefinite() if empty else f80_rem(&x, a, b, o.rm & 1, &cc)
    x.c1 = 0
    if x87_end(c, o, &x):
        st_set(c, 0, a)
        c.fsw = (c.fsw & ~<u32>FSW_CC) | cc
    return ST_OK

cdef int FXTRACT(Cpu* c, Insn* o) noexcept nogil:
    """The exponent replaces ST(0), then the significand is pushed."""
    cdef Fx x
    cdef bint empty = False
    cdef F80 a, e
    cdef int st = x87_begin(c, &x)
    if st != ST_OK:
        return st
    a = st_read(c, 0, &x, &empty)
    if not empty and not st_empty(c, -1):
        x.ex = FP_IE | FSW_SF
        x.c1 = FSW_C1
        empty = True
        a = f80_indefinite()
    e = a
    if not empty:
        a = f80_extract(&x, a, &e)
    if x87_end(c, o, &x):
        st_set(c, 0, e)
        st_push(c, a)
    return ST_OK

# ---- transcendental functions ---------------------------------------------------------------------------------------
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

cdef int trig(Cpu* c, Insn* o, int what) noexcept nogil:
    """FSIN, FCOS, FSINCOS, FPTAN.  C2 is set, and nothing done, when |ST(0)| >= 2**63."""
    cdef Fx x
    cdef bint empty = False
    cdef bint push = what == TRIG_TAN or what == (TRIG_SIN | TRIG_COS)
    cdef F80 a, r, s
    cdef longdouble v
    cdef int k
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
            v = f80_to_ld(&x, a)
            r = ld_to_f80(&x, tanl(v) if what == TRIG_TAN else sinl(v) if what & TRIG_SIN else cosl(v))
            if what == TRIG_TAN:
                s = f80(0, F80_BIAS, INT_BIT)
            elif push:
                s = ld_to_f80(&x, cosl(v))
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
