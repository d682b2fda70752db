# Multiplication and division: MUL IMUL DIV IDIV, and the host's 128-bit arithmetic behind them.
#
# SDM Vol. 2.  After a multiplication SF ZF AF PF are undefined: here they describe the low half (AF 0).  A division
# leaves all flags undefined: here unchanged.  #DE for a zero divisor and for a quotient that does not fit.

cdef extern from *:
    """
    static inline uint64_t xf_umul(uint64_t a, uint64_t b, uint64_t* hi) {
        unsigned __int128 p = (unsigned __int128)a * b;
        *hi = (uint64_t)(p >> 64);
        return (uint64_t)p;
    }
    static inline uint64_t xf_smul(uint64_t a, uint64_t b, uint64_t* hi) {
        __int128 p = (__int128)(int64_t)a * (int64_t)b;
        *hi = (uint64_t)((unsigned __int128)p >> 64);
        return (uint64_t)p;
    }
    /* hi < d, so the quotient fits */
    static inline uint64_t xf_udiv(uint64_t hi, uint64_t lo, uint64_t d, uint64_t* rem) {
    #if defined(__x86_64__) && !defined(XF_PORTABLE)
        uint64_t q, r;
        __asm__("divq %4" : "=a"(q), "=d"(r) : "a"(lo), "d"(hi), "r"(d) : "cc");
        *rem = r;
        return q;
    #else
        unsigned __int128 n = ((unsigned __int128)hi << 64) | lo;
        *rem = (uint64_t)(n % d);
        return (uint64_t)(n / d);
    #endif
    }
    """
    u64 xf_umul(u64 a, u64 b, u64* hi) noexcept nogil
    u64 xf_smul(u64 a, u64 b, u64* hi) noexcept nogil
    u64 xf_udiv(u64 hi, u64 lo, u64 d, u64* rem) noexcept nogil

cdef inline void set_double(Cpu* c, Insn* o, u64 lo, u64 hi) noexcept nogil:
    """The double-width accumulator: AX for bytes, else rDX:rAX."""
    if o.size == 1:
        c.r[RAX] = (c.r[RAX] & ~<u64>0xFFFF) | (lo & 0xFF) | ((hi & 0xFF) << 8)
    else:
        set_reg(c, o, RAX, o.size, lo)
        set_reg(c, o, RDX, o.size, hi)

cdef inline void get_double(Cpu* c, Insn* o, u64* lo, u64* hi) noexcept nogil:
    if o.size == 1:
        lo[0] = c.r[RAX] & 0xFF
        hi[0] = (c.r[RAX] >> 8) & 0xFF
    else:
        lo[0] = get_reg(c, o, RAX, o.size)
        hi[0] = get_reg(c, o, RDX, o.size)

# ---------------------------------------------------------------------------------------------------------------------
cdef int MUL_E(Cpu* c, Insn* o) noexcept nogil:
    """CF = OF = the high half is not zero."""
    cdef u64 a, lo
    cdef u64 hi = 0
    cdef int st = read_rm(c, o, &a)
    if st != ST_OK:
        return st
    if o.size == 8:
        lo = xf_umul(a, c.r[RAX], &hi)
    else:
        lo = a * get_reg(c, o, RAX, o.size)
        hi = lo >> (8 * o.size)
    set_double(c, o, lo, hi)
    flags_shift(c, o.size, lo, hi != 0, hi != 0)
    return ST_OK

cdef inline bint signed_product(int size, u64 a, u64 b, u64* lo, u64* hi) noexcept nogil:
    """The double-width product; True when it does not fit in one width."""
    cdef i64 p
    if size == 8:
        lo[0] = xf_smul(a, b, hi)
        return hi[0] != <u64>(<i64>lo[0] >> 63)
    p = sign_extend(a, size) * sign_extend(b, size)
    lo[0] = <u64>p
    hi[0] = <u64>(p >> (8 * size))
    return p != sign_extend(<u64>p, size)

cdef int IMUL_E(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 a, lo, hi
    cdef bint over
    cdef int st = read_rm(c, o, &a)
    if st != ST_OK:
        return st
    over = signed_product(o.size, a, get_reg(c, o, RAX, o.size), &lo, &hi)
    set_double(c, o, lo, hi)
    flags_shift(c, o.size, lo, over, over)
    return ST_OK

cdef inline int imul_to_G(Cpu* c, Insn* o, u64 a, u64 b) noexcept nogil:
    cdef u64 lo, hi
    cdef bint over = signed_product(o.size, a, b, &lo, &hi)
    set_reg(c, o, o.reg, o.size, lo)
    flags_shift(c, o.size, lo, over, over)
    return ST_OK

cdef int IMUL_G_E(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 a
    cdef int st = read_rm(c, o, &a)
    return imul_to_G(c, o, a, get_reg(c, o, o.reg, o.size)) if st == ST_OK else st

cdef int IMUL_G_E_I(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 a
    cdef int st = read_rm(c, o, &a)
    return imul_to_G(c, o, a, <u64>o.imm) if st == ST_OK else st

# ---------------------------------------------------------------------------------------------------------------------
cdef int DIV_E(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 d, lo, hi, q, n
    cdef u64 rem = 0
    cdef int st = read_rm(c, o, &d)
    if st != ST_OK:
        return st
    get_double(c, o, &lo, &hi)
    if hi >= d:                                         # d == 0, or the quotient needs more than one width
        return fault(c, X_DE)
    if o.size == 8:
        q = xf_udiv(hi, lo, d, &rem)
    else:
        n = (hi << (8 * o.size)) | lo
        q, rem = n / d, n % d
    set_double(c, o, q, rem)
    return ST_OK

cdef int IDIV_E(Cpu* c, Insn* o) noexcept nogil:
    """Truncates toward zero: divide the magnitudes; the quotient may reach 2^(w-1) only if it is negative."""
    cdef u64 d, lo, hi, q, n
    cdef u64 rem = 0
    cdef u64 limit = <u64>1 << (8 * o.size - 1)
    cdef bint negative, negative_rem
    cdef int st = read_rm(c, o, &d)
    if st != ST_OK:
        return st
    get_double(c, o, &lo, &hi)
    negative_rem = (hi & limit) != 0
    negative = negative_rem ^ ((d & limit) != 0)
    if d & limit:
        d = <u64>-sign_extend(d, o.size)
    if o.size == 8:
        if negative_rem:
            lo = 0 - lo
            hi = ~hi + (lo == 0)
        if hi >= d:
            return fault(c, X_DE)
        q = xf_udiv(hi, lo, d, &rem)
    else:
        n = (hi << (8 * o.size)) | lo
        if negative_rem:
            n = <u64>-sign_extend(n, 2 * o.size)
        if d == 0:
            return fault(c, X_DE)
        q, rem = n / d, n % d
    if q >= limit and not (negative and q == limit):
        return fault(c, X_DE)
    set_double(c, o, 0 - q if negative else q, 0 - rem if negative_rem else rem)
    return ST_OK
