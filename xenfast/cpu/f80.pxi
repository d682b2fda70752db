# 80-bit floating point in integer arithmetic: rounding, addition, multiplication, division, square root, comparison.
#
# SDM Vol. 1, ch. 4.8, 4.9 (formats, NaNs, exceptions) and 8.1, 8.5 (x87).  The same on every host.  A value is sign
# and exponent (F80.se, bias 16383) and a mantissa with explicit integer bit: man * 2**(e - 16383 - 63).  Inside an
# operation a number is (sign, e, hi, lo): a mantissa of 128 bits with bit 63 of hi set, lo holding what is to be
# rounded off (its last bit standing for anything further). Fx is one operation's view of the control word, and what
# it raised.

cdef extern from *:
    """
    typedef unsigned __int128 xf_u128;
    """
    ctypedef unsigned long long u128 "xf_u128"        # wider than Cython thinks; never made a Python object
    int clz64 "__builtin_clzll"(u64) noexcept nogil

cdef enum:               # FSW (exceptions as in MXCSR: FP_IE...)
    FSW_SF = 0x40
    FSW_C0 = 0x100
    FSW_C1 = 0x200
    FSW_C2 = 0x400
    FSW_C3 = 0x4000
    FSW_CC = FSW_C0 | FSW_C1 | FSW_C2 | FSW_C3
    FSW_B = 0x8000

cdef enum:               # f80_class()
    IS_ZERO = 0
    IS_DENORMAL = 1      # and pseudo-denormals: exponent 0 with the integer bit set
    IS_NORMAL = 2
    IS_INF = 3
    IS_QNAN = 4
    IS_SNAN = 5
    IS_UNSUPPORTED = 6   # integer bit clear with an exponent other than 0 (8.2.2)

cdef enum:
    F80_BIAS = 16383
    F80_EMAX = 0x7FFF
    F80_WRAP = 24576     # exponent adjustment of an unmasked overflow or underflow (8.5.4)

cdef u64 INT_BIT = <u64>1 << 63
cdef u64 QUIET_BIT = <u64>1 << 62

cdef struct Fx:
    u32 cw               # FCW: masks 0-5, precision 8-9, rounding 10-11
    u32 ex               # raised: FP_* and FSW_SF
    u32 c1               # FSW_C1 when the result was rounded up

cdef inline F80 f80(bint sign, i32 e, u64 man) noexcept nogil:
    cdef F80 r
    r.man = man
    r.se = <u16>((<u32>sign << 15) | <u32>e)
    return r

cdef inline F80 f80_zero(bint sign) noexcept nogil: return f80(sign, 0, 0)
cdef inline F80 f80_inf(bint sign) noexcept nogil: return f80(sign, F80_EMAX, INT_BIT)
cdef inline F80 f80_indefinite() noexcept nogil: return f80(1, F80_EMAX, INT_BIT | QUIET_BIT)
cdef inline bint f80_sign(F80 a) noexcept nogil: return a.se >> 15

cdef inline F80 f80_invalid(Fx* x) noexcept nogil:
    x.ex = (x.ex & ~<u32>FP_DE) | FP_IE
    return f80_indefinite()

cdef int f80_class(F80 a) noexcept nogil:
    cdef u32 e = a.se & 0x7FFF
    if e == 0:
        return IS_ZERO if a.man == 0 else IS_DENORMAL
    if not a.man >> 63:
        return IS_UNSUPPORTED
    if e < F80_EMAX:
        return IS_NORMAL
    if a.man == INT_BIT:
        return IS_INF
    return IS_QNAN if a.man & QUIET_BIT else IS_SNAN

cdef inline bint is_nan(int k) noexcept nogil:
    return k >= IS_QNAN

cdef inline i32 f80_unpack(Fx* x, F80* a) noexcept nogil:
    """Exponent of a non-zero finite number, its mantissa normalised in place; raises DE."""
    cdef i32 e = a.se & 0x7FFF
    cdef int n
    if e == 0:
        x.ex |= FP_DE
        n = clz64(a.man)
        a.man <<= n
        e = 1 - n
    return e

cdef F80 f80_nan(Fx* x, F80 a, F80 b) noexcept nogil:
    """The result of an operation on two operands, at least one a NaN (SDM Vol. 1, table 4-7, x87 column)."""
    cdef int ka = f80_class(a), kb = f80_class(b)
    if ka == IS_UNSUPPORTED or kb == IS_UNSUPPORTED:
        return f80_invalid(x)
    x.ex &= ~<u32>FP_DE
    if ka == IS_SNAN or kb == IS_SNAN:
        x.ex |= FP_IE
    if not is_nan(kb) or (ka == IS_QNAN and kb == IS_SNAN):
        b = a
    elif is_nan(ka) and not (ka == IS_SNAN and kb == IS_QNAN):
        if a.man > b.man or (a.man == b.man and not f80_sign(a)):
            b = a
    b.man |= QUIET_BIT
    return b

# ---- rounding -------------------------------------------------------------------------------------------------------
cdef inline int fx_precision(Fx* x) noexcept nogil:
    """Bits of significand that FADD FSUB FMUL FDIV FSQRT round to (8.1.5.2)."""
    cdef u32 pc = (x.cw >> 8) & 3
    return 24 if pc == 0 else 53 if pc == 2 else 64

cdef inline bint round_up(Fx* x, bint sign, u64 rest, bint odd) noexcept nogil:
    """Whether to add one in the last place: rest is what is cut off, its top bit worth half of that place (4.8.4)."""
    cdef u32 rc = (x.cw >> 10) & 3
    if rc == 0:
        return rest > INT_BIT or (rest == INT_BIT and odd)
    if rc == 1:
        return sign and rest != 0
    return rc == 2 and not sign and rest != 0

cdef inline void shift_right_jam(u64* hi, u64* lo, i32 n) noexcept nogil:
    """hi:lo >> n, the last bit collecting all that drops out.  n > 0."""
    cdef u64 lost
    if n >= 128:
        lost = hi[0] | lo[0]
        hi[0] = 0
        lo[0] = lost != 0
    elif n >= 64:
        n -= 64
        lost = lo[0] | (hi[0] << (64 - n) if n else 0)
        lo[0] = (hi[0] >> n) | (lost != 0)
        hi[0] = 0
    else:
        lost = lo[0] << (64 - n)
        lo[0] = (hi[0] << (64 - n)) | (lo[0] >> n) | (lost != 0)
        hi[0] >>= n

cdef bint fp_round(Fx* x, bint sign, i32* exp, u64* man, u64 lo, int p, i32 emax) noexcept nogil:
    """Round to p bits and an exponent from 1 to emax - 1, in place; denormals have exponent 0, infinity emax.

    Raises OE, UE, PE and sets c1.  False for an unmasked overflow or underflow: *exp is then out of range, the
    mantissa rounded.
    """
    cdef int drop = 64 - p
    cdef u64 ulp = <u64>1 << drop
    cdef u64 hi = man[0], rest
    cdef i32 e = exp[0]
    cdef bint tiny = False, up, normal = True
    if e <= 0:
        # Tiny is what would be below the smallest normal number after rounding with an unbounded exponent (4.9.1.5).
        rest = (hi << p) | (lo != 0) if drop else lo
        tiny = e < 0 or not (round_up(x, sign, rest, (hi & ulp) != 0) and (hi | (ulp - 1)) == ~<u64>0)
        if not tiny or x.cw & FP_UE:
            shift_right_jam(&hi, &lo, 1 - e)
            e = 0
            normal = False
    if drop:
        rest = (hi << p) | (lo != 0)
        hi = hi >> drop << drop
    else:
        rest = lo
    up = round_up(x, sign, rest, (hi & ulp) != 0)
    x.c1 = FSW_C1 if up else 0
    if up:
        hi += ulp
        if hi == 0:
            hi = INT_BIT
            e += 1
    if rest:
        x.ex |= FP_PE
    if not normal:
        if hi >> 63:
            e = 1
        if tiny and rest:
            x.ex |= FP_UE
    elif tiny:
        x.ex |= FP_UE
        exp[0], man[0] = e, hi
        return False
    if e >= emax:
        x.ex |= FP_OE
        if not x.cw & FP_OE:
            exp[0], man[0] = e, hi
            return False
        x.ex |= FP_PE
        if round_up(x, sign, INT_BIT + 1, True):
            e = emax
            hi = INT_BIT
            x.c1 = FSW_C1
        else:
            e = emax - 1
            hi = ~<u64>0 >> drop << drop
            x.c1 = 0
    exp[0], man[0] = e, hi
    return True

cdef F80 f80_round(Fx* x, bint sign, i32 e, u64 hi, u64 lo, int p) noexcept nogil:
    """The F80 nearest to (sign, e, hi, lo), hi normalised.  An unmasked overflow or underflow wraps the exponent."""
    if not fp_round(x, sign, &e, &hi, lo, p, F80_EMAX):
        e += F80_WRAP if e <= 0 else -F80_WRAP
        if e >= F80_EMAX or e <= 0:            # FSCALE can go that far
            x.ex |= FP_PE
            x.c1 = FSW_C1 if e > 0 else 0
            return f80_zero(sign) if e <= 0 else f80_inf(sign)
    return f80(sign, e, hi)

# ---- arithmetic -----------------------------------------------------------------------------------------------------
cdef F80 f80_add(Fx* x, F80 a, F80 b, bint negate) noexcept nogil:
    """a + b, or a - b."""
    cdef int ka = f80_class(a), kb = f80_class(b)
    cdef bint sa = f80_sign(a), sb = f80_sign(b)
    cdef i32 ea, eb, n
    cdef u128 va, vb
    cdef u64 hi, lo
    if is_nan(ka) or is_nan(kb):
        return f80_nan(x, a, b)
    sb ^= negate
    if ka == IS_INF or kb == IS_INF:
        if ka == kb and sa != sb:
            return f80_invalid(x)
        if ka == IS_DENORMAL or kb == IS_DENORMAL:
            x.ex |= FP_DE
        return f80_inf(sa if ka == IS_INF else sb)
    if ka == IS_ZERO and kb == IS_ZERO:
        return f80_zero(sa if sa == sb else ((x.cw >> 10) & 3) == 1)
    if ka == IS_ZERO:
        eb = f80_unpack(x, &b)
        return f80_round(x, sb, eb, b.man, 0, fx_precision(x))
    ea = f80_unpack(x, &a)
    if kb == IS_ZERO:
        return f80_round(x, sa, ea, a.man, 0, fx_precision(x))
    eb = f80_unpack(x, &b)
    if ea < eb or (ea == eb and a.man < b.man):
        a, b = b, a
        ea, eb = eb, ea
        sa, sb = sb, sa
    lo = 0
    hi = b.man
    if ea != eb:
        shift_right_jam(&hi, &lo, ea - eb)
    va = <u128>a.man << 63                    # one bit of headroom for the carry
    vb = (<u128>hi << 63) | (lo >> 1) | (lo & 1)
    if sa == sb:
        va = va + vb
    else:
        va = va - vb
        if va == 0:
            return f80_zero(((x.cw >> 10) & 3) == 1)
    hi = <u64>(va >> 64)
    lo = <u64>va
    if hi == 0:
        n = 64 + clz64(lo)
        hi = lo << (n - 64)
        lo = 0
    else:
        n = clz64(hi)
        if n:
            hi = (hi << n) | (lo >> (64 - n))
            lo <<= n
    return f80_round(x, sa, ea + 1 - n, hi, lo, fx_precision(x))

cdef F80 f80_mul(Fx* x, F80 a, F80 b) noexcept nogil:
    cdef int ka = f80_class(a), kb = f80_class(b)
    cdef bint sign = f80_sign(a) ^ f80_sign(b)
    cdef i32 e
    cdef u128 v
    cdef u64 hi, lo
    if is_nan(ka) or is_nan(kb):
        return f80_nan(x, a, b)
    if ka == IS_INF or kb == IS_INF:
        if ka == IS_ZERO or kb == IS_ZERO:
            return f80_invalid(x)
        if ka == IS_DENORMAL or kb == IS_DENORMAL:
            x.ex |= FP_DE
        return f80_inf(sign)
    if ka == IS_ZERO or kb == IS_ZERO:
        if ka == IS_DENORMAL or kb == IS_DENORMAL:
            x.ex |= FP_DE
        return f80_zero(sign)
    e = f80_unpack(x, &a)
    e += f80_unpack(x, &b) - F80_BIAS
    v = <u128>a.man * b.man
    hi = <u64>(v >> 64)
    lo = <u64>v
    if hi >> 63:
        e += 1
    else:
        hi = (hi << 1) | (lo >> 63)
        lo <<= 1
    return f80_round(x, sign, e, hi, lo, fx_precision(x))

cdef F80 f80_div(Fx* x, F80 a, F80 b) noexcept nogil:
    cdef int ka = f80_class(a), kb = f80_class(b)
    cdef bint sign = f80_sign(a) ^ f80_sign(b)
    cdef i32 e
    cdef u128 n, r
    cdef u64 hi, lo
    if is_nan(ka) or is_nan(kb):
        return f80_nan(x, a, b)
    if ka == IS_INF or kb == IS_INF or ka == IS_ZERO:
        if ka == kb:
            return f80_invalid(x)
        if ka == IS_DENORMAL or kb == IS_DENORMAL:
            x.ex |= FP_DE
        return f80_inf(sign) if ka == IS_INF else f80_zero(sign)
    if kb == IS_ZERO:
        x.ex |= FP_ZE
        return f80_inf(sign)
    e = f80_unpack(x, &a)
    e -= f80_unpack(x, &b) - F80_BIAS
    n = <u128>a.man << 63
    if a.man < b.man:
        n = n << 1
        e -= 1
    hi = <u64>(n // b.man)
    r = (n % b.man) << 64
    lo = <u64>(r // b.man)
    if r % b.man != 0:
        lo |= 1
    return f80_round(x, sign, e, hi, lo, fx_precision(x))

cdef F80 f80_sqrt(Fx* x, F80 a) noexcept nogil:
    cdef int k = f80_class(a)
    cdef i32 e
    cdef u128 n, rem
    cdef u64 r = 0, bit = INT_BIT
    cdef u128 t
    if is_nan(k):
        return f80_nan(x, a, a)
    if k == IS_ZERO:
        return a
    if f80_sign(a):
        return f80_invalid(x)
    if k == IS_INF:
        return a
    e = f80_unpack(x, &a) - F80_BIAS
    n = <u128>a.man << 63
    if e & 1:
        n = n << 1
        e -= 1
    while bit:                                # r = floor(sqrt(n)), bit by bit
        t = <u128>(r | bit) * (r | bit)
        if t <= n:
            r |= bit
        bit >>= 1
    rem = n - <u128>r * r
    # The fraction is above a half when the remainder exceeds r, and is never exactly a half.
    return f80_round(x, 0, (e >> 1) + F80_BIAS, r, 0 if rem == 0 else INT_BIT + 1 if rem > r else 1, fx_precision(x))

cdef int f80_compare(Fx* x, F80 a, F80 b, bint quiet) noexcept nogil:
    """1 less, 2 equal, 4 greater, 8 unordered.  IE for a NaN; with quiet only for a signalling or unsupported one."""
    cdef int ka = f80_class(a), kb = f80_class(b)
    cdef bint sa = f80_sign(a), sb = f80_sign(b)
    cdef i32 ea, eb
    cdef bint less
    if is_nan(ka) or is_nan(kb):
        x.ex &= ~<u32>FP_DE
        if not quiet or ka > IS_QNAN or kb > IS_QNAN:
            x.ex |= FP_IE
        return 8
    if ka == IS_DENORMAL or kb == IS_DENORMAL:
        x.ex |= FP_DE
    if ka == IS_ZERO and kb == IS_ZERO:
        return 2
    if sa != sb:
        return 1 if sa else 4
    ea = a.se & 0x7FFF
    eb = b.se & 0x7FFF
    if ea == 0:
        ea = 1                                # denormals, pseudo or not, have the exponent of the smallest normal
    if eb == 0:
        eb = 1
    if ea == eb and a.man == b.man:
        return 2
    less = ea < eb or (ea == eb and a.man < b.man)
    if ka == IS_ZERO or kb == IS_ZERO:
        less = ka == IS_ZERO
    return 1 if less != sa else 4
