# 80-bit floating point: conversions to and from singles, doubles, integers and BCD; FRNDINT, FSCALE, FXTRACT, FPREM.
#
# SDM Vol. 1, 4.8.4, 4.9 and 8.2; Vol. 2 for each instruction.

# ---- single and double ----------------------------------------------------------------------------------------------
cdef F80 f64_to_f80(Fx* x, u64 v) noexcept nogil:
    """Exact.  A signalling NaN stays one (whoever uses it raises IE); a denormal raises DE."""
    cdef bint sign = v >> 63
    cdef i32 e = (v >> 52) & 0x7FF
    cdef u64 m = v << 12 >> 1
    cdef int n
    if e == 0x7FF:
        return f80(sign, F80_EMAX, m | INT_BIT)
    if e:
        return f80(sign, e + F80_BIAS - 1023, m | INT_BIT)
    if m == 0:
        return f80_zero(sign)
    x.ex |= FP_DE
    n = clz64(m)
    return f80(sign, F80_BIAS - 1022 - n, m << n)

cdef F80 f32_to_f80(Fx* x, u32 v) noexcept nogil:
    cdef bint sign = v >> 31
    cdef i32 e = (v >> 23) & 0xFF
    cdef u64 m = <u64>(v & 0x7FFFFF) << 40
    cdef int n
    if e == 0xFF:
        return f80(sign, F80_EMAX, m | INT_BIT)
    if e:
        return f80(sign, e + F80_BIAS - 127, m | INT_BIT)
    if m == 0:
        return f80_zero(sign)
    x.ex |= FP_DE
    n = clz64(m)
    return f80(sign, F80_BIAS - 126 - n, m << n)

cdef F80 f80_load(Fx* x, F80 a) noexcept nogil:
    """What FLD m32 and m64 do to a signalling NaN."""
    if f80_class(a) == IS_SNAN:
        x.ex |= FP_IE
        a.man |= QUIET_BIT
    return a

cdef u64 f80_narrow(Fx* x, F80 a, int p, i32 emax) noexcept nogil:
    """The bits of a as a single (p 24, emax 255) or double (p 53, emax 2047)."""
    cdef int k = f80_class(a)
    cdef u64 sign = <u64>f80_sign(a) << (31 if p == 24 else 63)
    cdef int frac = p - 1
    cdef i32 e
    cdef u64 m
    if k == IS_UNSUPPORTED:
        a = f80_invalid(x)
        sign = <u64>1 << (31 if p == 24 else 63)
        k = IS_QNAN
    if is_nan(k):
        if k == IS_SNAN:
            x.ex |= FP_IE
        return sign | (<u64>emax << frac) | ((a.man | QUIET_BIT) << 1 >> (64 - frac))
    if k == IS_INF:
        return sign | (<u64>emax << frac)
    if k == IS_ZERO:
        return sign
    # A denormal F80 is far below the range: storing it is an underflow, not a denormal operand.
    m = a.man
    e = a.se & 0x7FFF
    if e == 0:
        e = 1 - clz64(m)
        m <<= clz64(m)
    e -= F80_BIAS - (emax >> 1)
    fp_round(x, f80_sign(a), &e, &m, 0, p, emax)
    return sign | (<u64>e << frac) | (m << 1 >> (64 - frac))

cdef inline u32 f80_to_f32(Fx* x, F80 a) noexcept nogil: return <u32>f80_narrow(x, a, 24, 0xFF)
cdef inline u64 f80_to_f64(Fx* x, F80 a) noexcept nogil: return f80_narrow(x, a, 53, 0x7FF)

# ---- integers -------------------------------------------------------------------------------------------------------
cdef F80 i64_to_f80(i64 v) noexcept nogil:
    cdef bint sign = v < 0
    cdef u64 m = -<u64>v if sign else <u64>v
    cdef int n
    if m == 0:
        return f80_zero(0)
    n = clz64(m)
    return f80(sign, F80_BIAS + 63 - n, m << n)

cdef bint f80_integer(Fx* x, F80 a, bint chop, u64* out) noexcept nogil:
    """|a| rounded to an integer; False when that needs more than 64 bits or a is no number.  Raises PE, sets c1."""
    cdef int k = f80_class(a)
    cdef i32 n
    cdef u64 hi = a.man, lo = 0
    if k >= IS_INF:
        return False
    out[0] = 0
    if k == IS_ZERO:
        return True
    n = F80_BIAS + 63 - (a.se & 0x7FFF)
    if n < 0:
        return False
    if n:
        shift_right_jam(&hi, &lo, n)
    if lo:
        x.ex |= FP_PE
        if not chop and round_up(x, f80_sign(a), lo, hi & 1):
            x.c1 = FSW_C1
            hi += 1
            if hi == 0:
                return False
    out[0] = hi
    return True

cdef i64 f80_to_int(Fx* x, F80 a, int bits, bint chop) noexcept nogil:
    """FIST, FISTP, FISTTP: the integer indefinite and IE when it does not fit."""
    cdef u64 m
    cdef u64 limit = <u64>1 << (bits - 1)
    if not f80_integer(x, a, chop, &m) or m > limit or (m == limit and not f80_sign(a)):
        x.ex = (x.ex & ~<u32>FP_PE) | FP_IE
        x.c1 = 0
        return <i64>(-limit)
    return <i64>(-m if f80_sign(a) else m)

cdef F80 f80_rint(Fx* x, F80 a) noexcept nogil:
    """FRNDINT."""
    cdef int k = f80_class(a)
    cdef bint sign = f80_sign(a)
    cdef u64 m
    cdef int n
    if is_nan(k):
        return f80_nan(x, a, a)
    if k == IS_INF or k == IS_ZERO or (a.se & 0x7FFF) >= F80_BIAS + 63:
        return a
    if k == IS_DENORMAL:
        x.ex |= FP_DE
    f80_integer(x, a, False, &m)
    if m == 0:
        return f80_zero(sign)
    n = clz64(m)
    return f80(sign, F80_BIAS + 63 - n, m << n)

# ---- packed BCD: 18 digits, sign in the top bit (SDM Vol. 1, 4.7) ----------------------------------------------------
cdef F80 bcd_to_f80(const u8* p) noexcept nogil:
    cdef u64 v = 0
    cdef F80 r
    cdef int i
    for i in range(9):
        v = v * 100 + (p[8 - i] >> 4) * 10 + (p[8 - i] & 15)
    r = i64_to_f80(<i64>v)
    if p[9] & 0x80:
        r.se |= 0x8000
    return r

cdef void f80_to_bcd(Fx* x, F80 a, u8* out) noexcept nogil:
    cdef u64 m
    cdef int i
    if not f80_integer(x, a, False, &m) or m >= <u64>1000000000000000000:
        x.ex = (x.ex & ~<u32>FP_PE) | FP_IE
        x.c1 = 0
        memset(out, 0, 7)
        out[7], out[8], out[9] = 0xC0, 0xFF, 0xFF        # the packed BCD indefinite
        return
    for i in range(9):
        out[i] = <u8>(m % 10 | (m // 10 % 10) << 4)
        m //= 100
    out[9] = 0x80 if f80_sign(a) else 0

# ---- FSCALE, FXTRACT ------------------------------------------------------------------------------------------------
cdef F80 f80_scale(Fx* x, F80 a, F80 b) noexcept nogil:
    """a * 2**trunc(b)."""
    cdef int ka = f80_class(a), kb = f80_class(b)
    cdef bint sign = f80_sign(a)
    cdef i32 e, n
    cdef u64 m
    if is_nan(ka) or is_nan(kb):
        return f80_nan(x, a, b)
    if kb == IS_INF:
        if (ka == IS_INF and f80_sign(b)) or (ka == IS_ZERO and not f80_sign(b)):
            return f80_invalid(x)
        if ka == IS_DENORMAL:
            x.ex |= FP_DE
        if ka == IS_INF or ka == IS_ZERO:
            return a
        return f80_zero(sign) if f80_sign(b) else f80_inf(sign)
    if ka == IS_INF or ka == IS_ZERO:
        if kb == IS_DENORMAL:
            x.ex |= FP_DE
        return a
    e = f80_unpack(x, &a)
    if kb == IS_DENORMAL:
        x.ex |= FP_DE
    n = (b.se & 0x7FFF) - F80_BIAS
    if kb == IS_ZERO or n < 0:
        m = 0
    elif n > 16:
        m = 1 << 17                           # certain overflow or underflow
    else:
        m = b.man >> (63 - n)
    return f80_round(x, sign, e - <i32>m if f80_sign(b) else e + <i32>m, a.man, 0, 64)

cdef F80 f80_extract(Fx* x, F80 a, F80* exponent) noexcept nogil:
    """FXTRACT: the significand, with exponent 0; *exponent is the unbiased exponent as a number."""
    cdef int k = f80_class(a)
    cdef i32 e
    if is_nan(k):
        exponent[0] = f80_nan(x, a, a)
        return exponent[0]
    if k == IS_INF:
        exponent[0] = f80_inf(0)
        return a
    if k == IS_ZERO:
        x.ex |= FP_ZE
        exponent[0] = f80_inf(1)
        return a
    e = f80_unpack(x, &a)
    exponent[0] = i64_to_f80(e - F80_BIAS)
    return f80(f80_sign(a), F80_BIAS, a.man)

# ---- FPREM, FPREM1 --------------------------------------------------------------------------------------------------
cdef F80 f80_rem(Fx* x, F80 a, F80 b, bint nearest, u32* cc) noexcept nogil:
    """Partial remainder.  cc: C2 when more is to be done, else the quotient's low bits in C0 C3 C1 (FPREM).

    When the exponents differ by 64 or more, the difference is reduced by 32 to 63 a step.
    """
    cdef int ka = f80_class(a), kb = f80_class(b)
    cdef bint sign = f80_sign(a)
    cdef i32 ea, eb, d, n
    cdef u64 q = 0, r
    cdef u128 v
    cc[0] = 0
    if is_nan(ka) or is_nan(kb):
        return f80_nan(x, a, b)
    if ka == IS_INF or kb == IS_ZERO:
        return f80_invalid(x)
    if ka == IS_ZERO or kb == IS_INF:
        if ka == IS_DENORMAL or kb == IS_DENORMAL:
            x.ex |= FP_DE
        if ka == IS_DENORMAL:
            ea = f80_unpack(x, &a)
            return f80_round(x, sign, ea, a.man, 0, 64)
        return a
    ea = f80_unpack(x, &a)
    eb = f80_unpack(x, &b)
    d = ea - eb
    r = a.man
    if d >= 64:
        n = (d & 31) | 32
        v = <u128>a.man << n
        # a.man may exceed b.man once, which makes the quotient one bit longer than n: it is not needed here.
        r = <u64>(v % b.man)
        cc[0] = FSW_C2
        eb += d - n
    elif d >= 0:
        v = <u128>a.man << d
        q = <u64>(v // b.man)
        r = <u64>(v % b.man)
    elif d < -1 or not nearest:
        eb = ea                                # |a| < |b|: unchanged
    else:
        # Exponent one less: a against b / 2, in units of half of b's last place.
        eb = ea
        if a.man > b.man:                      # |a| > |b| / 2: the nearest quotient is 1
            r = <u64>((<u128>b.man << 1) - a.man)
            sign = not sign
            q = 1
    if nearest and d >= 0 and not cc[0]:
        if r > b.man - r or (r == b.man - r and q & 1):
            r = b.man - r
            sign = not sign
            q += 1
    if not cc[0]:
        cc[0] = (FSW_C0 if q & 4 else 0) | (FSW_C3 if q & 2 else 0) | (FSW_C1 if q & 1 else 0)
    if r == 0:
        return f80_zero(f80_sign(a))
    n = clz64(r)
    return f80_round(x, sign, eb - n, r << n, 0, 64)
