# Flag instructions: CLC STC CMC, CLD STD, CLI STI, LAHF SAHF, SALC.
#
# SDM Vol. 2.  CLI and STI obey IOPL; a PV kernel has IOPL 0 in hardware and its virtual IOPL is pv_emulate's business.

cdef int CLC(Cpu* c, Insn* o) noexcept nogil:
    set_cf(c, 0)
    return ST_OK

cdef int STC(Cpu* c, Insn* o) noexcept nogil:
    set_cf(c, 1)
    return ST_OK

cdef int CMC(Cpu* c, Insn* o) noexcept nogil:
    set_cf(c, not get_cf(c))
    return ST_OK

cdef int CLD(Cpu* c, Insn* o) noexcept nogil:
    c.eflags &= ~<u32>FL_DF
    return ST_OK

cdef int STD(Cpu* c, Insn* o) noexcept nogil:
    c.eflags |= FL_DF
    return ST_OK

cdef int CLI(Cpu* c, Insn* o) noexcept nogil:
    if c.cpl > iopl(c):
        if not c.is_pv and virtual_if(c):
            return virtual_cli(c, o)
        return pv_emulate(c, o) if c.is_pv else fault_err(c, X_GP, 0)
    c.eflags &= ~<u32>FL_IF
    return branch_next(c, o)

cdef int STI(Cpu* c, Insn* o) noexcept nogil:
    """Interrupts stay off for one more instruction if they were off."""
    if c.cpl > iopl(c):
        if not c.is_pv and virtual_if(c):
            return virtual_sti(c, o)
        return pv_emulate(c, o) if c.is_pv else fault_err(c, X_GP, 0)
    if not c.eflags & FL_IF:
        c.eflags |= FL_IF
        c.inhibit = INHIBIT_STI
    return branch_next(c, o)

cdef int LAHF(Cpu* c, Insn* o) noexcept nogil:
    """AH = SF ZF 0 AF 0 PF 1 CF.  64-bit mode has it (and SAHF) as a feature."""
    if c.mode & MODE_64 and not has_feature(c, FEAT_E1C, 0):
        return fault(c, X_UD)
    c.r[RAX] = (c.r[RAX] & ~<u64>0xFF00) | (<u64>((get_arith(c) & 0xD5) | 2) << 8)
    return ST_OK

cdef int SAHF(Cpu* c, Insn* o) noexcept nogil:
    """SF ZF AF PF CF from AH; OF stays."""
    if c.mode & MODE_64 and not has_feature(c, FEAT_E1C, 0):
        return fault(c, X_UD)
    set_arith(c, <u32>((c.r[RAX] >> 8) & 0xD5) | (get_arith(c) & FL_OF))
    return ST_OK

cdef int SALC(Cpu* c, Insn* o) noexcept nogil:
    """AL = CF ? FFh : 0 (D6; every processor has it, recent SDMs name it)."""
    c.r[RAX] = (c.r[RAX] & ~<u64>0xFF) | (0xFF if get_cf(c) else 0)
    return ST_OK
