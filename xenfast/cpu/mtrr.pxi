# PAT and MTRRs: kept with their rules, without effect, for there is no cache to see.
#
# SDM Vol. 3, 11.11 and 11.12.  They start as firmware leaves them: everything write-back.

cdef enum:
    MTRR_VARIABLE = 8
    MTRR_CAP = 0x508     # IA32_MTRRCAP: 8 variable ranges, fixed ranges, WC

cdef inline bint mtrr_type(u64 v) noexcept nogil:
    """UC WC WT WP WB; 2, 3 and above are reserved."""
    return v < 7 and (0x73 >> v) & 1

cdef bint pat_ok(u64 v) noexcept nogil:
    """Eight bytes of type 0 1 4 5 6 7 (SDM Vol. 3, 11.12.2)."""
    cdef int i
    for i in range(8):
        if not (0xF3 >> ((v >> (8 * i)) & 7)) & 1 or (v >> (8 * i)) & 0xF8:
            return False
    return True

cdef bint mtrr_fixed_ok(u64 v) noexcept nogil:
    cdef int i
    for i in range(8):
        if not mtrr_type((v >> (8 * i)) & 0xFF):
            return False
    return True

cdef bint mtrr_ok(u32 nr, u64 v) noexcept nogil:
    """May the value be written to this MTRR (SDM Vol. 3, 11.11.2)?"""
    cdef u64 above = ~(((<u64>1 << PHYS_BITS) - 1))
    if nr == 0x2FF:                                       # IA32_MTRR_DEF_TYPE: type, FE, E
        return not v & ~<u64>0xCFF and mtrr_type(v & 0xFF)
    if nr >= 0x250:
        return mtrr_fixed_ok(v)
    if nr & 1:                                            # PHYSMASK: V
        return not v & (above | 0x7FF)
    return not v & (above | 0xF00) and mtrr_type(v & 0xFF)

cdef void mtrr_reset(Cpu* c) noexcept nogil:
    cdef int i
    c.pat = <u64>0x0007040600070406
    c.mtrr_def = 0xC06
    for i in range(11):
        c.mtrr_fixed[i] = <u64>0x0606060606060606
    memset(c.mtrr_var, 0, sizeof(c.mtrr_var))
