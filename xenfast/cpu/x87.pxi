# The x87 register stack: TOP, tags, the status word, and how an instruction begins and ends.
#
# SDM Vol. 1, 8.1 (environment), 8.5 (exceptions).  An instruction is
#   x87_begin        #MF if an earlier one left an unmasked exception pending; a fresh Fx
#   operate          on copies of the operands
#   x87_end          merge what was raised into FSW; True when the result may be stored
# An unmasked invalid, denormal or zero-divide leaves everything as it was; other unmasked exceptions store the
# wrapped result (in a register; not in memory) and show at the next waiting instruction.  CR0.NE is taken to be set:
# #MF, never FERR#. FOP is that of the last instruction that raised an unmasked exception, as on processors without
# fopcode compatibility mode (SDM Vol. 1, 8.1.9.1).

cdef enum:
    FCW_DEFAULT = 0x37F
    FTW_EMPTY = 0
    FSW_EXCEPTIONS = 0x3F

cdef inline int x87_top(Cpu* c) noexcept nogil:
    return (c.fsw >> 11) & 7

cdef inline void x87_set_top(Cpu* c, int top) noexcept nogil:
    c.fsw = (c.fsw & ~FSW_TOP) | ((top & 7) << 11)

cdef inline F80* st_ptr(Cpu* c, int i) noexcept nogil:
    # SAFETY: the index is masked to the eight registers.
    return &c.st[(x87_top(c) + i) & 7]

cdef inline bint st_empty(Cpu* c, int i) noexcept nogil:
    return not (c.ftw >> ((x87_top(c) + i) & 7)) & 1

cdef inline void st_set(Cpu* c, int i, F80 v) noexcept nogil:
    cdef int n = (x87_top(c) + i) & 7
    c.st[n] = v
    c.ftw |= 1 << n

cdef inline void st_free(Cpu* c, int i) noexcept nogil:
    c.ftw &= ~(1 << ((x87_top(c) + i) & 7))

cdef inline void st_push(Cpu* c, F80 v) noexcept nogil:
    x87_set_top(c, x87_top(c) - 1)
    st_set(c, 0, v)

cdef inline void st_pop(Cpu* c) noexcept nogil:
    st_free(c, 0)
    x87_set_top(c, x87_top(c) + 1)

cdef inline void x87_update_es(Cpu* c) noexcept nogil:
    """ES and B follow from the flags and the masks."""
    if c.fsw & ~c.fcw & FSW_EXCEPTIONS:
        c.fsw |= FSW_ES | FSW_B
    else:
        c.fsw &= ~(FSW_ES | FSW_B)

cdef inline int x87_begin(Cpu* c, Fx* x) noexcept nogil:
    if unlikely(c.fsw & FSW_ES):
        return fault(c, X_MF)
    x.cw = c.fcw
    x.ex = 0
    x.c1 = 0
    return ST_OK

cdef void x87_pointers(Cpu* c, Insn* o) noexcept nogil:
    """Last instruction and data pointers (SDM Vol. 1, 8.1.8)."""
    c.fip = insn_rip(c, o)
    c.fcs = c.seg[CS].sel
    if o.is_mem:
        c.fdp = operand_off(c, o)
        c.fds = c.seg[o.seg].sel

cdef bint x87_end(Cpu* c, Insn* o, Fx* x) noexcept nogil:
    """Merge flags and C1; True unless an unmasked pre-computation exception forbids any result."""
    cdef u32 unmasked = x.ex & ~x.cw
    x87_pointers(c, o)
    if unmasked & (FP_IE | FP_DE | FP_ZE):
        x.ex &= FP_IE | FP_DE | FP_ZE | FSW_SF
        if not x.ex & FSW_SF:
            x.c1 = 0
    c.fsw = (c.fsw & ~FSW_C1) | x.ex | x.c1
    x87_update_es(c)
    if unlikely(unmasked & FSW_EXCEPTIONS):
        c.fop = <u16>((o.cc & 7) << 8 | o.imm)          # decode() leaves the ModRM byte of x87 instructions there
    return not unmasked & (FP_IE | FP_DE | FP_ZE)

cdef inline bint x87_end_store(Cpu* c, Insn* o, Fx* x) noexcept nogil:
    """As x87_end for a result that goes to memory: unmasked overflow and underflow forbid it too."""
    cdef bint ok = not x.ex & ~x.cw & (FP_OE | FP_UE)
    return x87_end(c, o, x) and ok

cdef inline void x87_underflow(Fx* x) noexcept nogil:
    """Stack underflow: a register that was to be read is empty.  C1 = 0."""
    x.ex = FP_IE | FSW_SF
    x.c1 = 0

cdef inline F80 st_read(Cpu* c, int i, Fx* x, bint* empty) noexcept nogil:
    if st_empty(c, i):
        empty[0] = True
        x87_underflow(x)
        return f80_indefinite()
    return st_ptr(c, i)[0]

cdef int x87_push(Cpu* c, Insn* o, Fx* x, F80 v) noexcept nogil:
    """End of a load: push v, or the indefinite on stack overflow (C1 = 1)."""
    if not st_empty(c, -1):
        x.ex = FP_IE | FSW_SF
        x.c1 = FSW_C1
        v = f80_indefinite()
    if x87_end(c, o, x):
        st_push(c, v)
    return ST_OK
