# SSE4.2 string comparison: PCMPESTRI PCMPESTRM PCMPISTRI PCMPISTRM.
#
# SDM Vol. 2, 4.1 ("Imm8 control byte operation").  Two strings of 16 bytes or 8 words are compared: in the first operand
# a set of characters, ranges, or a string to look for; in the second the text.  The immediate says how:
#   0     words (else bytes)            1     signed
#   2-3   equal any, ranges, equal each, equal ordered
#   4     negate the answer             5     ... only where the text has characters
#   6     the last match instead of the first (..I), a mask of elements instead of bits (..M)

cdef enum:
    STR_ANY = 0
    STR_RANGES = 1
    STR_EACH = 2
    STR_ORDERED = 3

cdef inline i32 str_element(Lane* v, int i, u32 k) noexcept nogil:
    if k & 1:
        return <i32>v.sw[i] if k & 2 else <i32>v.w[i]
    return <i32>v.sb[i] if k & 2 else <i32>v.b[i]

cdef int str_implicit(Lane* v, u32 k) noexcept nogil:
    """Length up to the first null."""
    cdef int i = 0, n = 8 if k & 1 else 16
    while i < n and (v.w[i] if k & 1 else v.b[i]):
        i += 1
    return i

cdef int str_explicit(Insn* o, u64 r, u32 k) noexcept nogil:
    """Length from EAX or EDX (RAX, RDX with REX.W): its absolute value, at most the number of elements."""
    cdef i64 v = <i64>r if o.size == 8 else <i32>r
    cdef int n = 8 if k & 1 else 16
    return n if v > n or v < -n else <int>(-v if v < 0 else v)

cdef u32 str_compare(Lane* a, int na, Lane* b, int nb, u32 k) noexcept nogil:
    """IntRes1, a bit for each element of b; na and nb are the lengths."""
    cdef int n = 8 if k & 1 else 16
    cdef int how = (k >> 2) & 3
    cdef u32 r = 0
    cdef int i, j
    cdef i32 x
    cdef bint hit
    for j in range(n):
        hit = how == STR_ORDERED
        if how == STR_EACH:
            # Beyond the end of both strings elements count as equal.
            hit = str_element(a, j, k) == str_element(b, j, k) if j < na and j < nb else j >= na and j >= nb
        elif how == STR_ORDERED:
            i = 0
            while i < na and i + j < n:
                if i + j >= nb or str_element(a, i, k) != str_element(b, i + j, k):
                    hit = False
                    break
                i += 1
        elif j < nb:
            x = str_element(b, j, k)
            if how == STR_ANY:
                for i in range(na):
                    if str_element(a, i, k) == x:
                        hit = True
                        break
            else:
                for i in range(0, na - 1, 2):
                    if x >= str_element(a, i, k) and x <= str_element(a, i + 1, k):
                        hit = True
                        break
        r |= <u32>hit << j
    return r

cdef u32 str_result(Cpu* c, Lane* a, int na, Lane* b, int nb, u32 k) noexcept nogil:
    """IntRes2, and the flags."""
    cdef int n = 8 if k & 1 else 16
    cdef u32 r = str_compare(a, na, b, nb, k)
    if k & 16:
        r ^= (<u32>1 << nb) - 1 if k & 32 else (<u32>1 << n) - 1
    set_arith(c, (FL_CF if r else 0) | (FL_ZF if nb < n else 0) | (FL_SF if na < n else 0) | (FL_OF if r & 1 else 0))
    return r

cdef void str_index(Cpu* c, u32 r, u32 k) noexcept nogil:
    """ECX: the first or last match, or the number of elements."""
    cdef int i = 0
    if r == 0:
        c.r[RCX] = 8 if k & 1 else 16
    elif k & 64:
        c.r[RCX] = 63 - clz64(r)
    else:
        while not (r >> i) & 1:
            i += 1
        c.r[RCX] = i

cdef void str_mask(Cpu* c, Insn* o, u32 r, u32 k) noexcept nogil:
    """XMM0."""
    cdef Lane* d = xmm(c, 0)
    cdef int i
    d.q[0] = r
    d.q[1] = 0
    if k & 64:
        for i in range(16):
            d.b[i] = 0xFF if (r >> (i >> (k & 1))) & 1 else 0
    clear_upper(o, d)

cdef inline int str_op(Cpu* c, Insn* o, bint explicit, bint index) noexcept nogil:
    cdef Lane b
    cdef Lane* a = xmm(c, o.reg)
    cdef u32 r, k = <u32>o.imm & 0x7F
    cdef int st = ST_OK
    if o.is_mem:
        st = vec_read(c, o, 16, &b, False)
    else:
        b = xmm(c, o.rm)[0]
    if st != ST_OK:
        return st
    if explicit:
        r = str_result(c, a, str_explicit(o, c.r[RAX], k), &b, str_explicit(o, c.r[RDX], k), k)
    else:
        r = str_result(c, a, str_implicit(a, k), &b, str_implicit(&b, k), k)
    if index:
        str_index(c, r, k)
    else:
        str_mask(c, o, r, k)
    return ST_OK

cdef int PCMPESTRM_Vdq_Wdq_Ib(Cpu* c, Insn* o) noexcept nogil: return str_op(c, o, True, False)
cdef int PCMPESTRI_Vdq_Wdq_Ib(Cpu* c, Insn* o) noexcept nogil: return str_op(c, o, True, True)
cdef int PCMPISTRM_Vdq_Wdq_Ib(Cpu* c, Insn* o) noexcept nogil: return str_op(c, o, False, False)
cdef int PCMPISTRI_Vdq_Wdq_Ib(Cpu* c, Insn* o) noexcept nogil: return str_op(c, o, False, True)
