# x87: register moves, sign, rounding, roots, remainders, scaling.
#
# SDM Vol. 1, 8.3; Vol. 2, chapter 3.

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

cdef int FSTPNCE_STi(Cpu* c, Insn* o) noexcept nogil:
    """D9 D8+i, undocumented: as FSTP, but an empty ST(0) is only popped."""
    cdef Fx x
    cdef int st = x87_begin(c, &x)
    if st != ST_OK:
        return st
    x87_end(c, o, &x)
    if not st_empty(c, 0):
        st_set(c, o.rm & 7, st_ptr(c, 0)[0])
    st_pop(c)
    return ST_OK

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
        c.fsw &= ~FSW_C1
        st_free(c, o.rm & 7)
    return st

cdef int FFREEP_STi(Cpu* c, Insn* o) noexcept nogil:
    """DF C0+i, undocumented: FFREE and a pop."""
    cdef int st = FFREE_STi(c, o)
    if st == ST_OK:
        st_pop(c)
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
    """Waits, and does nothing."""
    cdef Fx x
    return x87_begin(c, &x)

cdef int FNENI(Cpu* c, Insn* o) noexcept nogil:
    """Nothing at all: what had a meaning on an 8087 or 80287."""
    return ST_OK

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
    cdef bint ok
    cdef int st = x87_begin(c, &x)
    if st != ST_OK:
        return st
    a = st_read(c, 0, &x, &empty)
    b = st_read(c, 1, &x, &empty)
    a = f80_indefinite() if empty else f80_rem(&x, a, b, o.rm & 1, &cc)
    x.c1 = 0
    ok = x87_end(c, o, &x)
    if ok:
        st_set(c, 0, a)
    if ok and not empty and not is_nan(f80_class(a)):
        c.fsw = (c.fsw & ~<u32>FSW_CC) | cc
    else:
        c.fsw &= ~FSW_C2                       # no quotient: C0 and C3 are left alone
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
