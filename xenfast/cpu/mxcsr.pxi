# MXCSR: entering and leaving guest floating point, sticky flags, and SIMD floating-point exceptions.
#
# SDM Vol. 1, 10.2.3 and 11.5.  With all exceptions masked (the usual case) an operation is just done, and its flags
# stay in the host's status register until somebody reads MXCSR.  With one unmasked, the flags are looked at after
# each operation, before its result is stored: fp_begin(c); the operation; fp_check(c, &result, kind).  The two halves of
# a 256-bit operation are one operation: fp_check_lanes().

cdef enum:
    MXCSR_FLAGS = 0x3F
    MXCSR_DAZ = 0x40
    MXCSR_MASKS = 0x1F80
    MXCSR_FTZ = 0x8000
    MXCSR_VALID = 0xFFFF     # MXCSR_MASK as FXSAVE reports it
    MXCSR_DEFAULT = 0x1F80
    CR4_OSFXSR = 1 << 9
    CR4_OSXMMEXCPT = 1 << 10
    FP_IE = 1
    FP_DE = 2
    FP_ZE = 4
    FP_OE = 8
    FP_UE = 16
    FP_PE = 32

cdef enum:               # what fp_check() is told of a result: where to look for tiny numbers
    TINY_NO = 0          # the operation cannot underflow
    TINY_SS = 1
    TINY_SD = 2
    TINY_PS = 4
    TINY_PD = 8

cdef void fp_enter(Cpu* c) noexcept nogil:
    """The thread starts to run this vcpu: give the host's status register the guest's mode."""
    c.host_mxcsr = host_fp_get()
    host_fp_mode(c.mxcsr)

cdef void fp_leave(Cpu* c) noexcept nogil:
    fp_sync(c)
    host_fp_set(c.host_mxcsr)

cdef inline void fp_sync(Cpu* c) noexcept nogil:
    """Merge the flags raised since the last time into Cpu.mxcsr."""
    c.mxcsr |= host_fp_flags()

cdef void set_mxcsr(Cpu* c, u32 value) noexcept nogil:
    c.mxcsr = value
    host_fp_mode(value)

cdef inline bint fp_unmasked(Cpu* c) noexcept nogil:
    return unlikely((c.mxcsr & MXCSR_MASKS) != MXCSR_MASKS)

cdef void fp_begin(Cpu* c) noexcept nogil:
    """Before an operation that may trap: start with no flags raised."""
    fp_sync(c)
    host_fp_mode(c.mxcsr)

cdef bint has_tiny(const Lane* r, int kind) noexcept nogil:
    """Is there a denormal among the results?"""
    cdef int i
    for i in range(4):
        if kind & (TINY_SS | TINY_PS) and (i == 0 or kind == TINY_PS):
            if r.d[i] & 0x7F800000 == 0 and r.d[i] & 0x7FFFFF:
                return True
        if kind & (TINY_SD | TINY_PD) and (i == 0 or kind == TINY_PD and i == 1):
            if (r.q[i] >> 52) & 0x7FF == 0 and r.q[i] << 12:
                return True
    return False

cdef int fp_check(Cpu* c, const void* result, int kind) noexcept nogil:
    return fp_check_lanes(c, <const Lane*>result, 1, kind)

cdef int fp_check_lanes(Cpu* c, const Lane* result, int lanes, int kind) noexcept nogil:
    """After an operation, before its result is stored: merge its flags; #XM if one is unmasked (Vol. 1, 11.5.2).

    An unmasked invalid, denormal or divide-by-zero precedes the operation, so that nothing is known of overflow,
    underflow and precision.
    Unmasked underflow is raised for an exact tiny result too, where the masked one is not (4.9.1.5).  PE beside an
    unmasked overflow or underflow is that of the masked response, which may be inexact where the unmasked one is not.
    """
    cdef u32 raised = host_fp_flags()
    cdef u32 unmasked = ~(c.mxcsr >> 7) & MXCSR_FLAGS
    if unmasked & FP_UE and kind != TINY_NO and (has_tiny(result, kind) or lanes == 2 and has_tiny(result + 1, kind)):
        raised |= FP_UE
    if raised & unmasked & (FP_IE | FP_DE | FP_ZE):
        raised &= FP_IE | FP_DE | FP_ZE
    c.mxcsr |= raised
    host_fp_mode(c.mxcsr)
    if not raised & unmasked:
        return ST_OK
    return fault(c, X_XM if c.cr4 & CR4_OSXMMEXCPT else X_UD)

cdef int fp_raise(Cpu* c, u32 raised) noexcept nogil:
    """Flags worked out by ourselves: the same rules as in fp_check()."""
    cdef u32 unmasked = ~(c.mxcsr >> 7) & MXCSR_FLAGS
    if raised & unmasked & (FP_IE | FP_DE | FP_ZE):
        raised &= FP_IE | FP_DE | FP_ZE
    c.mxcsr |= raised
    if likely(not raised & unmasked):
        return ST_OK
    return fault(c, X_XM if c.cr4 & CR4_OSXMMEXCPT else X_UD)

cdef int LDMXCSR_Md(Cpu* c, Insn* o) noexcept nogil:
    cdef u32 v
    cdef int st = vec_read(c, o, 4, &v, False)
    if st != ST_OK:
        return st
    if v & ~<u32>MXCSR_VALID:
        return fault_err(c, X_GP, 0)
    set_mxcsr(c, v)
    return ST_OK

cdef int STMXCSR_Md(Cpu* c, Insn* o) noexcept nogil:
    fp_sync(c)
    return vec_write(c, o, 4, &c.mxcsr, False)
