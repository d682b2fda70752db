# The XSAVE family: XSAVE XSAVEOPT XSAVEC XSAVES, XRSTOR XRSTORS, XGETBV, XSETBV, and leaf Dh of CPUID.
#
# SDM Vol. 1, ch. 13.  State components here: x87 (0), SSE (1), AVX (2), and PKRU (9) for those who have protection keys; none of
# them is supervisor state, so IA32_XSS is 0.  XINUSE follows the values: a component is in its initial configuration when
# its registers hold what INIT gives them (13.6 lets a processor track it less closely).  The modified optimisation of XSAVEOPT
# and XSAVES (13.9) is one a processor may make; it is not made.

cdef enum:               # state components, as bits of XCR0
    XS_X87 = 1
    XS_SSE = 2
    XS_AVX = 4
    XS_PKRU = 0x200
    XS_LEGACY = 512      # offset of the header: XSTATE_BV, XCOMP_BV, 48 bytes reserved
    XS_EXTENDED = 576    # the components behind it

cdef enum:               # which instruction
    XS_SAVE = 0
    XS_OPT = 1
    XS_COMPACT = 2

cdef extern from *:
    """
    #define XF_COMPACTED 0x8000000000000000ull
    """
    u64 XS_COMPACTED "XF_COMPACTED"      # bit 63 of XCOMP_BV

cdef struct Component:   # bit of XCR0, size, offset in the standard format
    u32 bit
    u32 size
    u32 offset

cdef Component* COMPONENTS = [
    Component(2, 256, XS_EXTENDED),
    Component(9, 8, XS_EXTENDED + 256),
]

cdef enum:
    N_COMPONENTS = 2

# ---- what is supported, where it goes, what is in use ---------------------------------------------------------------
cdef u64 xcr0_supported(Cpu* c) noexcept nogil:
    return (XS_X87 | XS_SSE | (XS_AVX if has_feature(c, FEAT_1C, 28) else 0)
            | (XS_PKRU if has_feature(c, FEAT_7C, 3) else 0))

cdef bint xcr0_legal(Cpu* c, u64 v) noexcept nogil:
    """x87 always; AVX not without SSE (SDM Vol. 1, 13.3)."""
    return v & XS_X87 and not v & ~xcr0_supported(c) and v & (XS_SSE | XS_AVX) != XS_AVX

cdef u32 component_offset(u64 mask, int bit, bint compact) noexcept nogil:
    """Where a component is; in the compacted format those of the mask follow each other."""
    cdef u32 at = XS_EXTENDED
    cdef int i
    for i in range(N_COMPONENTS):
        if COMPONENTS[i].bit == <u32>bit:
            return at if compact else COMPONENTS[i].offset
        if (mask >> COMPONENTS[i].bit) & 1:
            at += COMPONENTS[i].size
    return at

cdef u32 area_size(u64 mask, bint compact) noexcept nogil:
    """Bytes of an area with these components."""
    cdef u32 end = XS_EXTENDED
    cdef int i
    for i in range(N_COMPONENTS):
        if (mask >> COMPONENTS[i].bit) & 1:
            end = component_offset(mask, COMPONENTS[i].bit, compact) + COMPONENTS[i].size
    return end

cdef u64 xinuse(Cpu* c) noexcept nogil:
    """Components that are not in their initial configuration; MXCSR does not count as SSE's here (13.6)."""
    cdef u64 used = 0, any_ = 0
    cdef int i
    if c.fcw != 0x37F or c.fsw or c.ftw or c.fop or c.fip or c.fdp or c.fcs or c.fds:
        used |= XS_X87
    for i in range(8):
        if c.st[i].man or c.st[i].se:
            used |= XS_X87
    for i in range(16):
        any_ |= c.v[i].q[0] | c.v[i].q[1]
    if any_:
        used |= XS_SSE
    any_ = 0
    for i in range(16):
        any_ |= c.v[i].q[2] | c.v[i].q[3]
    if any_:
        used |= XS_AVX
    return used | (XS_PKRU if c.pkru else 0)

cdef inline u64 xinuse_mxcsr(Cpu* c) noexcept nogil:
    """The same for those to whom SSE includes MXCSR: XSAVEC, XSAVES, XGETBV."""
    return xinuse(c) | (XS_SSE if c.mxcsr != MXCSR_DEFAULT else 0)

cdef inline u8* component_state(Cpu* c, int i, u8* buffer) noexcept nogil:
    """The bytes of an extended component; YMM's upper halves are gathered in the buffer of 256 bytes."""
    cdef int k
    if COMPONENTS[i].bit == 9:
        memset(buffer, 0, 8)
        memcpy(buffer, &c.pkru, 4)
    else:
        for k in range(16):
            memcpy(buffer + 16 * k, &c.v[k].q[2], 16)
    return buffer

cdef inline u32 component_bytes(Cpu* c, int i) noexcept nogil:
    """How many of them are accessed: outside 64-bit mode there are eight YMM registers."""
    return 128 if COMPONENTS[i].bit == 2 and not c.mode & MODE_64 else COMPONENTS[i].size

# ---- what all of them check -----------------------------------------------------------------------------------------
cdef int xsave_check(Cpu* c, Insn* o) noexcept nogil:
    if not c.cr4 & CR4_OSXSAVE:
        return fault(c, X_UD)
    if c.cr0 & CR0_TS:
        return fault(c, X_NM)
    return ST_OK

cdef inline u64 edx_eax(Cpu* c) noexcept nogil:
    return c.r[RDX] << 32 | <u32>c.r[RAX]

# ---- saving ---------------------------------------------------------------------------------------------------------
cdef int xsave(Cpu* c, Insn* o, int kind) noexcept nogil:
    cdef u64 rfbm = c.xcr0 & edx_eax(c)
    cdef bint compact = kind == XS_COMPACT
    cdef u32 size = area_size(rfbm, compact)
    cdef u64 lin, used
    cdef u64 header[2]
    cdef int st = xsave_check(c, o)
    if st == ST_OK:
        st = operand_lin_w(c, o, size, &lin)
    if st != ST_OK:
        return st
    if lin & 63:
        return fault_err(c, X_GP, 0)
    st = mem_check_write(c, lin, size)
    if st == ST_OK:
        st = mem_read_n(c, lin + XS_LEGACY, 8, header)
    if st != ST_OK:
        return st
    fp_sync(c)
    used = (xinuse_mxcsr(c) if compact else xinuse(c)) & rfbm
    if compact:
        header[0], header[1] = used, rfbm | XS_COMPACTED
    else:
        header[0] = header[0] & ~rfbm | used
    st = xsave_legacy(c, o, lin, rfbm if kind == XS_SAVE else used, rfbm, compact)
    if st == ST_OK:
        st = xsave_extended(c, lin, rfbm if kind == XS_SAVE else used, rfbm, compact)
    return mem_write_n(c, lin + XS_LEGACY, 16 if compact else 8, header) if st == ST_OK else st

cdef int xsave_legacy(Cpu* c, Insn* o, u64 lin, u64 save, u64 rfbm, bint compact) noexcept nogil:
    """x87, MXCSR, XMM.  MXCSR is SSE's in the compacted format, and else anybody's of SSE and AVX."""
    cdef u8 b[FX_SIZE]
    cdef u32 mask = MXCSR_VALID
    cdef int i, n = 16 if c.mode & MODE_64 else 8, st = ST_OK
    if save & XS_X87:
        fxsave_x87(c, b, o.size == 8)
        st = mem_write_n(c, lin, FX_MXCSR, b)
        if st == ST_OK:
            st = mem_write_n(c, lin + FX_ST, 128, b + FX_ST)
    if st == ST_OK and (save & XS_SSE if compact else rfbm & (XS_SSE | XS_AVX)):
        memcpy(b, &c.mxcsr, 4)
        memcpy(b + 4, &mask, 4)
        st = mem_write_n(c, lin + FX_MXCSR, 8, b)
    if st == ST_OK and save & XS_SSE:
        for i in range(n):
            memcpy(b + 16 * i, xmm(c, i), 16)
        st = mem_write_n(c, lin + FX_XMM, 16 * n, b)
    return st

cdef int xsave_extended(Cpu* c, u64 lin, u64 save, u64 rfbm, bint compact) noexcept nogil:
    cdef u8 b[256]
    cdef int i, st = ST_OK
    for i in range(N_COMPONENTS):
        if st == ST_OK and (save >> COMPONENTS[i].bit) & 1:
            st = mem_write_n(c, lin + component_offset(rfbm, COMPONENTS[i].bit, compact), component_bytes(c, i),
                             component_state(c, i, b))
    return st

cdef int XSAVE_M(Cpu* c, Insn* o) noexcept nogil: return xsave(c, o, XS_SAVE)
cdef int XSAVEOPT_M(Cpu* c, Insn* o) noexcept nogil: return xsave(c, o, XS_OPT)
cdef int XSAVEC_M(Cpu* c, Insn* o) noexcept nogil: return xsave(c, o, XS_COMPACT)
# XSAVES is the same: there is no supervisor state.

# ---- restoring ------------------------------------------------------------------------------------------------------
cdef bint xrstor_header(Cpu* c, const u64* header, bint supervisor) noexcept nogil:
    """The rules of 13.8.1, 13.8.2 and 13.12: False is #GP."""
    cdef int i
    if not header[1] & XS_COMPACTED:
        return not supervisor and not header[0] & ~c.xcr0 and header[1] == 0 and header[2] == 0
    if not has_feature(c, FEAT_DA1, 1) and not has_feature(c, FEAT_DA1, 3):
        return False
    for i in range(2, 8):
        if header[i]:
            return False
    return not header[1] & ~XS_COMPACTED & ~c.xcr0 and not header[0] & ~header[1]

cdef int xrstor(Cpu* c, Insn* o, bint supervisor) noexcept nogil:
    cdef u8 image[XS_EXTENDED + 256 + 8]
    cdef u64* header = <u64*>(image + XS_LEGACY)
    cdef u64 rfbm = c.xcr0 & edx_eax(c)
    cdef u64 lin, load
    cdef u32 mxcsr
    cdef bint compact
    cdef int st = xsave_check(c, o)
    if st == ST_OK:
        st = operand_lin(c, o, XS_EXTENDED, &lin)
    if st != ST_OK:
        return st
    if lin & 63:
        return fault_err(c, X_GP, 0)
    st = mem_read_n(c, lin, XS_EXTENDED, image)
    if st != ST_OK:
        return st
    if not xrstor_header(c, header, supervisor):
        return fault_err(c, X_GP, 0)
    compact = header[1] & XS_COMPACTED != 0
    load = rfbm & header[0]
    # SAFETY: an area is at most as long as the image.
    st = operand_lin(c, o, area_size(load if not compact else header[1], compact), &lin)
    if st == ST_OK:
        st = read_components(c, lin, load, header[1], compact, image)
    if st != ST_OK:
        return st
    memcpy(&mxcsr, image + FX_MXCSR, 4)
    if compact and not load & XS_SSE:
        mxcsr = MXCSR_DEFAULT if rfbm & XS_SSE else 0
    if rfbm & (XS_SSE | XS_AVX) and mxcsr & ~<u32>MXCSR_VALID:
        return fault_err(c, X_GP, 0)
    if rfbm & XS_SSE or (rfbm & XS_AVX and not compact):
        fp_sync(c)
        set_mxcsr(c, mxcsr)
    xrstor_state(c, o, rfbm, load, header[1], compact, image)
    return ST_OK

cdef int read_components(Cpu* c, u64 lin, u64 load, u64 xcomp, bint compact, u8* image) noexcept nogil:
    cdef u32 at
    cdef int i, st = ST_OK
    for i in range(N_COMPONENTS):
        if st == ST_OK and (load >> COMPONENTS[i].bit) & 1:
            at = component_offset(xcomp, COMPONENTS[i].bit, compact)
            st = mem_read_n(c, lin + at, component_bytes(c, i), image + at)
    return st

cdef void xrstor_state(Cpu* c, Insn* o, u64 rfbm, u64 load, u64 xcomp, bint compact, const u8* image) noexcept nogil:
    """Each component asked for: from the image, or its initial configuration.  Nothing faults any more."""
    cdef u8 initial[FX_SIZE]
    cdef const u8* p
    cdef u32 pkru = 0
    cdef int i, n = 16 if c.mode & MODE_64 else 8
    memset(initial, 0, FX_SIZE)
    initial[0], initial[1] = 0x7F, 3                                # FCW as FNINIT leaves it
    if rfbm & XS_X87:
        fxrstor_x87(c, image if load & XS_X87 else initial, o.size == 8)
    for i in range(n):
        if rfbm & XS_SSE:
            p = image + FX_XMM + 16 * i
            memcpy(xmm(c, i), p if load & XS_SSE else initial + FX_XMM, 16)
        if rfbm & XS_AVX:
            p = image + component_offset(xcomp, 2, compact) + 16 * i
            memcpy(&c.v[i].q[2], p if load & XS_AVX else initial + FX_XMM, 16)
    if rfbm & XS_PKRU:
        if load & XS_PKRU:
            memcpy(&pkru, image + component_offset(xcomp, 9, compact), 4)
        set_pkru(c, pkru)

cdef int XRSTOR_M(Cpu* c, Insn* o) noexcept nogil: return xrstor(c, o, False)
cdef int XRSTORS_M(Cpu* c, Insn* o) noexcept nogil: return xrstor(c, o, True)

# ---- XCR0 -----------------------------------------------------------------------------------------------------------
cdef int XGETBV(Cpu* c, Insn* o) noexcept nogil:
    """ECX = 1: what of XCR0 is in use."""
    cdef u64 v = c.xcr0
    if not c.cr4 & CR4_OSXSAVE:
        return fault(c, X_UD)
    if <u32>c.r[RCX] == 1 and has_feature(c, FEAT_DA1, 2):
        fp_sync(c)
        v &= xinuse_mxcsr(c)
    elif <u32>c.r[RCX] != 0:
        return fault_err(c, X_GP, 0)
    c.r[RAX] = <u32>v
    c.r[RDX] = v >> 32
    return ST_OK

cdef int XSETBV(Cpu* c, Insn* o) noexcept nogil:
    """CPL 0 has been checked."""
    if not c.cr4 & CR4_OSXSAVE:
        return fault(c, X_UD)
    if <u32>c.r[RCX] != 0 or not xcr0_legal(c, edx_eax(c)):
        return fault_err(c, X_GP, 0)
    c.xcr0 = edx_eax(c)
    return branch_next(c, o)

# ---- CPUID leaf Dh (SDM Vol. 1, 13.2) -------------------------------------------------------------------------------
cdef void cpuid_xsave(Cpu* c, u32 sub, CpuidLeaf* r) noexcept nogil:
    cdef u64 supported = xcr0_supported(c)
    cdef int i
    if sub == 0:
        r.a = <u32>supported
        r.b = area_size(c.xcr0, False)
        r.c = area_size(supported, False)
    elif sub == 1:
        r.a = feature_word(c, FEAT_DA1)
        r.b = area_size(c.xcr0, True)
    else:
        for i in range(N_COMPONENTS):
            if COMPONENTS[i].bit == sub and (supported >> sub) & 1:
                r.a, r.b = COMPONENTS[i].size, COMPONENTS[i].offset
