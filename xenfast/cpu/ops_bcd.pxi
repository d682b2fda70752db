# Decimal arithmetic: DAA DAS AAA AAS AAM AAD, and BOUND.  None of it exists in 64-bit mode.
#
# SDM Vol. 2.  Flags the SDM leaves undefined: OF of DAA/DAS is 0; OF SF ZF PF of AAA/AAS describe AL (OF 0); CF OF AF
# of AAM/AAD are 0.

cdef inline void set_al(Cpu* c, u64 v) noexcept nogil:
    c.r[RAX] = (c.r[RAX] & ~<u64>0xFF) | (v & 0xFF)

cdef inline void set_ax(Cpu* c, u64 v) noexcept nogil:
    c.r[RAX] = (c.r[RAX] & ~<u64>0xFFFF) | (v & 0xFFFF)

cdef inline void flags_decimal(Cpu* c, bint cf, bint af) noexcept nogil:
    """SF ZF PF of AL, CF and AF as given, OF 0."""
    flags_logic(c, 1, c.r[RAX] & 0xFF)
    set_arith(c, (get_arith(c) & ~<u32>(FL_CF | FL_AF)) | (FL_CF if cf else 0) | (FL_AF if af else 0))

cdef int DAA(Cpu* c, Insn* o) noexcept nogil:
    cdef u32 al = <u32>(c.r[RAX] & 0xFF)
    cdef bint old_cf = get_cf(c)
    cdef bint cf = False
    cdef bint af = False
    cdef u32 v = al
    if (al & 15) > 9 or flag_af(c):
        v += 6
        cf = old_cf or v > 0xFF
        af = True
    if al > 0x99 or old_cf:
        v += 0x60
        cf = True
    else:
        cf = False
    set_al(c, v)
    flags_decimal(c, cf, af)
    return ST_OK

cdef int DAS(Cpu* c, Insn* o) noexcept nogil:
    cdef u32 al = <u32>(c.r[RAX] & 0xFF)
    cdef bint old_cf = get_cf(c)
    cdef bint cf = False
    cdef bint af = False
    cdef u32 v = al
    if (al & 15) > 9 or flag_af(c):
        cf = old_cf or al < 6
        v -= 6
        af = True
    if al > 0x99 or old_cf:
        v -= 0x60
        cf = True
    set_al(c, v)
    flags_decimal(c, cf, af)
    return ST_OK

cdef int AAA(Cpu* c, Insn* o) noexcept nogil:
    cdef bint adjust = (c.r[RAX] & 15) > 9 or flag_af(c)
    if adjust:
        set_ax(c, c.r[RAX] + 0x106)
    set_al(c, c.r[RAX] & 15)
    flags_decimal(c, adjust, adjust)
    return ST_OK

cdef int AAS(Cpu* c, Insn* o) noexcept nogil:
    cdef bint adjust = (c.r[RAX] & 15) > 9 or flag_af(c)
    if adjust:
        set_ax(c, (c.r[RAX] & 0xFFFF) - 0x106)
    set_al(c, c.r[RAX] & 15)
    flags_decimal(c, adjust, adjust)
    return ST_OK

cdef int AAM(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 base = <u64>(o.imm & 0xFF)
    cdef u64 al = c.r[RAX] & 0xFF
    if base == 0:
        return fault(c, X_DE)
    set_ax(c, ((al / base) << 8) | (al % base))
    flags_logic(c, 1, c.r[RAX] & 0xFF)
    return ST_OK

cdef int AAD(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 v = (c.r[RAX] & 0xFF) + ((c.r[RAX] >> 8) & 0xFF) * <u64>(o.imm & 0xFF)
    set_ax(c, v & 0xFF)
    flags_logic(c, 1, v & 0xFF)
    return ST_OK

cdef int BOUND_G_M(Cpu* c, Insn* o) noexcept nogil:
    """#BR unless lower <= G <= upper, all signed."""
    cdef u64 lin, lo, hi
    cdef i64 v = sign_extend(c.r[o.reg], o.size)
    cdef int st = operand_lin(c, o, 2 * o.size, &lin)
    if st == ST_OK:
        st = mem_read(c, lin, o.size, &lo)
    if st == ST_OK:
        st = mem_read(c, lin + o.size, o.size, &hi)
    if st != ST_OK:
        return st
    if v < sign_extend(lo, o.size) or v > sign_extend(hi, o.size):
        return fault(c, X_BR)
    return ST_OK
