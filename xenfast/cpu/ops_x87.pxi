# x87: arithmetic, comparison, loads and stores, register moves, constants.
#
# SDM Vol. 1, 8.3; Vol. 2, chapter 3.  Forms of an operation with the same operands share an exec function: ModRM.reg
# says which operation.

cdef enum:               # o.reg of the arithmetic opcodes D8 DA DC DE
    ARITH_ADD = 0
    ARITH_MUL = 1
    ARITH_SUB = 4
    ARITH_SUBR = 5
    ARITH_DIV = 6
    ARITH_DIVR = 7

# ---- arithmetic -----------------------------------------------------------------------------------------------------
cdef F80 x87_operate(Fx* x, int k, F80 a, F80 b) noexcept nogil:
    """a is ST(0); subtraction and division come both ways round."""
    if k == ARITH_ADD:
        return f80_add(x, a, b, False)
    if k == ARITH_MUL:
        return f80_mul(x, a, b)
    if k == ARITH_SUB:
        return f80_add(x, a, b, True)
    if k == ARITH_SUBR:
        return f80_add(x, b, a, True)
    if k == ARITH_DIV:
        return f80_div(x, a, b)
    return f80_div(x, b, a)

cdef int arith_mem(Cpu* c, Insn* o, Fx* x, F80 b) noexcept nogil:
    cdef bint empty = False
    cdef F80 r = st_read(c, 0, x, &empty)
    if not empty:
        r = x87_operate(x, o.reg & 7, r, b)
    if x87_end(c, o, x):
        st_set(c, 0, r)
    return ST_OK

cdef int FARITH_Md(Cpu* c, Insn* o) noexcept nogil:
    cdef Fx x
    cdef u32 v
    cdef int st = x87_begin(c, &x)
    if st == ST_OK:
        st = vec_read(c, o, 4, &v, False)
    return arith_mem(c, o, &x, f32_to_f80(&x, v)) if st == ST_OK else st

cdef int FARITH_Mq(Cpu* c, Insn* o) noexcept nogil:
    cdef Fx x
    cdef u64 v
    cdef int st = x87_begin(c, &x)
    if st == ST_OK:
        st = vec_read(c, o, 8, &v, False)
    return arith_mem(c, o, &x, f64_to_f80(&x, v)) if st == ST_OK else st

cdef int FIARITH_Md(Cpu* c, Insn* o) noexcept nogil:
    cdef Fx x
    cdef i32 v
    cdef int st = x87_begin(c, &x)
    if st == ST_OK:
        st = vec_read(c, o, 4, &v, False)
    return arith_mem(c, o, &x, i64_to_f80(v)) if st == ST_OK else st

cdef int FIARITH_Mw(Cpu* c, Insn* o) noexcept nogil:
    cdef Fx x
    cdef i16 v
    cdef int st = x87_begin(c, &x)
    if st == ST_OK:
        st = vec_read(c, o, 2, &v, False)
    return arith_mem(c, o, &x, i64_to_f80(v)) if st == ST_OK else st

cdef int arith_st(Cpu* c, Insn* o, int dst, bint pop) noexcept nogil:
    cdef Fx x
    cdef F80 a, b, r
    cdef bint empty = False
    cdef int st = x87_begin(c, &x)
    if st != ST_OK:
        return st
    a = st_read(c, 0, &x, &empty)
    b = st_read(c, o.rm & 7, &x, &empty)
    r = f80_indefinite() if empty else x87_operate(&x, o.reg & 7, a, b)
    if x87_end(c, o, &x):
        st_set(c, dst, r)
        if pop:
            st_pop(c)
    return ST_OK

cdef int FARITH_ST0_STi(Cpu* c, Insn* o) noexcept nogil: return arith_st(c, o, 0, False)
cdef int FARITH_STi_ST0(Cpu* c, Insn* o) noexcept nogil: return arith_st(c, o, o.rm & 7, False)
cdef int FARITHP_STi_ST0(Cpu* c, Insn* o) noexcept nogil: return arith_st(c, o, o.rm & 7, True)

# ---- comparison -----------------------------------------------------------------------------------------------------
cdef inline u32 rel_cc(int rel) noexcept nogil:
    """C3 C2 C0 (SDM Vol. 1, table 8-6): unordered 111, greater 000, less 001, equal 100."""
    return FSW_C3 | FSW_C2 | FSW_C0 if rel & 8 else FSW_C0 if rel & 1 else FSW_C3 if rel & 2 else 0

cdef int compare(Cpu* c, Insn* o, Fx* x, F80 b, bint quiet, int pops) noexcept nogil:
    """ST(0) against b; x.ex already holds a stack underflow of b."""
    cdef bint empty = x.ex & FSW_SF
    cdef F80 a = st_read(c, 0, x, &empty)
    cdef int rel = 8 if empty else f80_compare(x, a, b, quiet)
    cdef bint ok = x87_end(c, o, x)
    c.fsw = (c.fsw & ~<u32>FSW_CC) | rel_cc(rel)
    while ok and pops > 0:
        st_pop(c)
        pops -= 1
    return ST_OK

cdef inline int mem_compare_pops(Insn* o) noexcept nogil:
    return o.reg & 1                           # /2 FCOM, /3 FCOMP

cdef int FCOM_Md(Cpu* c, Insn* o) noexcept nogil:
    cdef Fx x
    cdef u32 v
    cdef int st = x87_begin(c, &x)
    if st == ST_OK:
        st = vec_read(c, o, 4, &v, False)
    return compare(c, o, &x, f32_to_f80(&x, v), False, mem_compare_pops(o)) if st == ST_OK else st

cdef int FCOM_Mq(Cpu* c, Insn* o) noexcept nogil:
    cdef Fx x
    cdef u64 v
    cdef int st = x87_begin(c, &x)
    if st == ST_OK:
        st = vec_read(c, o, 8, &v, False)
    return compare(c, o, &x, f64_to_f80(&x, v), False, mem_compare_pops(o)) if st == ST_OK else st

cdef int FICOM_Md(Cpu* c, Insn* o) noexcept nogil:
    cdef Fx x
    cdef i32 v
    cdef int st = x87_begin(c, &x)
    if st == ST_OK:
        st = vec_read(c, o, 4, &v, False)
    return compare(c, o, &x, i64_to_f80(v), False, mem_compare_pops(o)) if st == ST_OK else st

cdef int FICOM_Mw(Cpu* c, Insn* o) noexcept nogil:
    cdef Fx x
    cdef i16 v
    cdef int st = x87_begin(c, &x)
    if st == ST_OK:
        st = vec_read(c, o, 2, &v, False)
    return compare(c, o, &x, i64_to_f80(v), False, mem_compare_pops(o)) if st == ST_OK else st

cdef int compare_st(Cpu* c, Insn* o, int i, bint quiet, int pops) noexcept nogil:
    cdef Fx x
    cdef bint empty = False
    cdef int st = x87_begin(c, &x)
    if st != ST_OK:
        return st
    return compare(c, o, &x, st_read(c, i, &x, &empty), quiet, pops)

cdef int FCOM_STi(Cpu* c, Insn* o) noexcept nogil: return compare_st(c, o, o.rm & 7, False, 0)
cdef int FCOMP_STi(Cpu* c, Insn* o) noexcept nogil: return compare_st(c, o, o.rm & 7, False, 1)
cdef int FCOMPP(Cpu* c, Insn* o) noexcept nogil: return compare_st(c, o, 1, False, 2)
cdef int FUCOM_STi(Cpu* c, Insn* o) noexcept nogil: return compare_st(c, o, o.rm & 7, True, 0)
cdef int FUCOMP_STi(Cpu* c, Insn* o) noexcept nogil: return compare_st(c, o, o.rm & 7, True, 1)
cdef int FUCOMPP(Cpu* c, Insn* o) noexcept nogil: return compare_st(c, o, 1, True, 2)

cdef int FTST(Cpu* c, Insn* o) noexcept nogil:
    cdef Fx x
    cdef int st = x87_begin(c, &x)
    return compare(c, o, &x, f80_zero(0), False, 0) if st == ST_OK else st

cdef int compare_flags(Cpu* c, Insn* o, bint quiet, bint pop) noexcept nogil:
    """FCOMI and its kin: the answer in ZF PF CF; OF SF AF are cleared."""
    cdef Fx x
    cdef F80 a, b
    cdef bint empty = False
    cdef int rel, st = x87_begin(c, &x)
    if st != ST_OK:
        return st
    a = st_read(c, 0, &x, &empty)
    b = st_read(c, o.rm & 7, &x, &empty)
    rel = 8 if empty else f80_compare(&x, a, b, quiet)
    if x87_end(c, o, &x):
        set_arith(c, rel_flags(rel))
        if pop:
            st_pop(c)
    return ST_OK

cdef int FCOMI_ST0_STi(Cpu* c, Insn* o) noexcept nogil: return compare_flags(c, o, False, False)
cdef int FCOMIP_ST0_STi(Cpu* c, Insn* o) noexcept nogil: return compare_flags(c, o, False, True)
cdef int FUCOMI_ST0_STi(Cpu* c, Insn* o) noexcept nogil: return compare_flags(c, o, True, False)
cdef int FUCOMIP_ST0_STi(Cpu* c, Insn* o) noexcept nogil: return compare_flags(c, o, True, True)

# Class -> C3 C2 C0 of FXAM, in the order of f80_class(): zero, denormal, normal, infinity, NaN, NaN, unsupported.
cdef u16* FXAM_CC = [FSW_C3, FSW_C3 | FSW_C2, FSW_C2, FSW_C2 | FSW_C0, FSW_C0, FSW_C0, 0]

cdef int FXAM(Cpu* c, Insn* o) noexcept nogil:
    cdef Fx x
    cdef u32 cc
    cdef F80 a = st_ptr(c, 0)[0]
    cdef int st = x87_begin(c, &x)
    if st != ST_OK:
        return st
    x87_pointers(c, o)
    cc = FSW_C3 | FSW_C0 if st_empty(c, 0) else FXAM_CC[f80_class(a)]
    c.fsw = (c.fsw & ~<u32>FSW_CC) | cc | (FSW_C1 if f80_sign(a) else 0)
    return ST_OK

# ---- loads ----------------------------------------------------------------------------------------------------------
cdef int load_float(Cpu* c, Insn* o, Fx* x, F80 v) noexcept nogil:
    """FLD of a single or double.  An unmasked denormal operand is loaded all the same."""
    if x.ex & FP_DE & ~x.cw and st_empty(c, -1):
        x87_end(c, o, x)
        st_push(c, v)
        return ST_OK
    return x87_push(c, o, x, f80_load(x, v))

cdef int FLD_Md(Cpu* c, Insn* o) noexcept nogil:
    cdef Fx x
    cdef u32 v
    cdef int st = x87_begin(c, &x)
    if st == ST_OK:
        st = vec_read(c, o, 4, &v, False)
    return load_float(c, o, &x, f32_to_f80(&x, v)) if st == ST_OK else st

cdef int FLD_Mq(Cpu* c, Insn* o) noexcept nogil:
    cdef Fx x
    cdef u64 v
    cdef int st = x87_begin(c, &x)
    if st == ST_OK:
        st = vec_read(c, o, 8, &v, False)
    return load_float(c, o, &x, f64_to_f80(&x, v)) if st == ST_OK else st

cdef int FLD_Mt(Cpu* c, Insn* o) noexcept nogil:
    """80 bits as they are: not even a signalling NaN raises anything."""
    cdef Fx x
    cdef F80 v
    cdef u8 b[10]
    cdef int st = x87_begin(c, &x)
    if st == ST_OK:
        st = vec_read(c, o, 10, b, False)
    if st != ST_OK:
        return st
    memcpy(&v.man, b, 8)
    memcpy(&v.se, b + 8, 2)
    return x87_push(c, o, &x, v)

cdef int FILD_Mw(Cpu* c, Insn* o) noexcept nogil:
    cdef Fx x
    cdef i16 v
    cdef int st = x87_begin(c, &x)
    if st == ST_OK:
        st = vec_read(c, o, 2, &v, False)
    return x87_push(c, o, &x, i64_to_f80(v)) if st == ST_OK else st

cdef int FILD_Md(Cpu* c, Insn* o) noexcept nogil:
    cdef Fx x
    cdef i32 v
    cdef int st = x87_begin(c, &x)
    if st == ST_OK:
        st = vec_read(c, o, 4, &v, False)
    return x87_push(c, o, &x, i64_to_f80(v)) if st == ST_OK else st

cdef int FILD_Mq(Cpu* c, Insn* o) noexcept nogil:
    cdef Fx x
    cdef i64 v
    cdef int st = x87_begin(c, &x)
    if st == ST_OK:
        st = vec_read(c, o, 8, &v, False)
    return x87_push(c, o, &x, i64_to_f80(v)) if st == ST_OK else st

cdef int FBLD_Mt(Cpu* c, Insn* o) noexcept nogil:
    cdef Fx x
    cdef u8 b[10]
    cdef int st = x87_begin(c, &x)
    if st == ST_OK:
        st = vec_read(c, o, 10, b, False)
    return x87_push(c, o, &x, bcd_to_f80(b)) if st == ST_OK else st

cdef int FLD_STi(Cpu* c, Insn* o) noexcept nogil:
    cdef Fx x
    cdef F80 v
    cdef bint empty = False
    cdef int st = x87_begin(c, &x)
    if st != ST_OK:
        return st
    v = st_read(c, o.rm & 7, &x, &empty)
    if not empty:
        return x87_push(c, o, &x, v)
    if x87_end(c, o, &x):                      # an underflow comes before an overflow
        st_push(c, v)
    return ST_OK

# ---- constants, rounded as RC says (SDM Vol. 2, FLD1): mantissa below the exact value, and what comes next -----------
cdef struct Constant:
    u64 man
    u64 rest             # the next 64 bits
    u16 se

cdef Constant* CONSTANTS = [
    [0x8000000000000000, 0, 0x3FFF],                              # FLD1
    [0xD49A784BCD1B8AFE, 0x492BF6FF4DAFDB4C, 0x4000],             # FLDL2T  log2(10)
    [0xB8AA3B295C17F0BB, 0xBE87FED0691D3E88, 0x3FFF],             # FLDL2E  log2(e)
    [0xC90FDAA22168C234, 0xC4C6628B80DC1CD1, 0x4000],             # FLDPI
    [0x9A209A84FBCFF798, 0x8F8959AC0B7C9178, 0x3FFD],             # FLDLG2  log10(2)
    [0xB17217F7D1CF79AB, 0xC9E3B39803F2F6AF, 0x3FFE],             # FLDLN2  ln(2)
    [0, 0, 0],                                                    # FLDZ
]

cdef int FLDCONST(Cpu* c, Insn* o) noexcept nogil:
    """D9 E8 to EE.  No precision exception."""
    cdef Fx x
    cdef Constant* k = CONSTANTS + (o.rm & 7)                     # SAFETY: the table has rows for rm 0 to 6 only
    cdef F80 v
    cdef int st = x87_begin(c, &x)
    if st != ST_OK:
        return st
    v.se = k.se
    v.man = k.man + round_up(&x, 0, k.rest, k.man & 1)
    return x87_push(c, o, &x, v)

# ---- stores ---------------------------------------------------------------------------------------------------------
cdef int x87_store(Cpu* c, Insn* o, Fx* x, u32 n, const void* data, bint pop) noexcept nogil:
    """End of a store to memory: any unmasked exception but precision leaves memory and stack alone."""
    cdef bint ok = not x.ex & ~x.cw & (FP_IE | FP_DE | FP_ZE | FP_OE | FP_UE)
    cdef int st
    if ok:
        st = vec_write(c, o, n, data, False)
        if st != ST_OK:
            return st
    elif x.ex & ~x.cw & (FP_OE | FP_UE):
        x.ex &= ~<u32>FP_PE                    # nothing was rounded
        x.c1 = 0
    x87_end(c, o, x)
    if ok and pop:
        st_pop(c)
    return ST_OK

cdef int FST_Md(Cpu* c, Insn* o) noexcept nogil:
    """D9 /2, /3 (FSTP)."""
    cdef Fx x
    cdef bint empty = False
    cdef u32 v
    cdef int st = x87_begin(c, &x)
    if st != ST_OK:
        return st
    v = f80_to_f32(&x, st_read(c, 0, &x, &empty))
    return x87_store(c, o, &x, 4, &v, o.reg & 1)

cdef int FST_Mq(Cpu* c, Insn* o) noexcept nogil:
    cdef Fx x
    cdef bint empty = False
    cdef u64 v
    cdef int st = x87_begin(c, &x)
    if st != ST_OK:
        return st
    v = f80_to_f64(&x, st_read(c, 0, &x, &empty))
    return x87_store(c, o, &x, 8, &v, o.reg & 1)

cdef int FSTP_Mt(Cpu* c, Insn* o) noexcept nogil:
    cdef Fx x
    cdef bint empty = False
    cdef F80 v
    cdef u8 b[10]
    cdef int st = x87_begin(c, &x)
    if st != ST_OK:
        return st
    v = st_read(c, 0, &x, &empty)
    memcpy(b, &v.man, 8)
    memcpy(b + 8, &v.se, 2)
    return x87_store(c, o, &x, 10, b, True)

cdef inline int store_int(Cpu* c, Insn* o, int size, bint chop, bint pop) noexcept nogil:
    cdef Fx x
    cdef bint empty = False
    cdef F80 a
    cdef i64 v
    cdef int st = x87_begin(c, &x)
    if st != ST_OK:
        return st
    a = st_read(c, 0, &x, &empty)
    v = f80_to_int(&x, a, 8 * size, chop)
    return x87_store(c, o, &x, size, &v, pop)

cdef int FIST_Mw(Cpu* c, Insn* o) noexcept nogil: return store_int(c, o, 2, False, o.reg & 1)
cdef int FIST_Md(Cpu* c, Insn* o) noexcept nogil: return store_int(c, o, 4, False, o.reg & 1)
cdef int FISTP_Mq(Cpu* c, Insn* o) noexcept nogil: return store_int(c, o, 8, False, True)
cdef int FISTTP_Mw(Cpu* c, Insn* o) noexcept nogil: return store_int(c, o, 2, True, True)
cdef int FISTTP_Md(Cpu* c, Insn* o) noexcept nogil: return store_int(c, o, 4, True, True)
cdef int FISTTP_Mq(Cpu* c, Insn* o) noexcept nogil: return store_int(c, o, 8, True, True)

cdef int FBSTP_Mt(Cpu* c, Insn* o) noexcept nogil:
    cdef Fx x
    cdef bint empty = False
    cdef u8 b[10]
    cdef int st = x87_begin(c, &x)
    if st != ST_OK:
        return st
    f80_to_bcd(&x, st_read(c, 0, &x, &empty), b)
    return x87_store(c, o, &x, 10, b, True)
