# Threaded handlers of hot SSE instructions: the exec functions' kernels with the operands fetched on the spot.
#
# As in threaded.pxi: a handler does the ordinary case and calls the next instruction's; anything else (CR0.TS, a TLB
# miss, a page crossing, a misaligned operand, an unmasked exception) goes to T_SSE, which runs the exec function.
# R handlers have a register for the W operand, M handlers memory with 64-bit addressing.

cdef enum:
    VEC_MAX = 128

cdef struct VecSet:
    exec_t ex
    handler_t reg
    handler_t mem

cdef VecSet vec_sets[VEC_MAX]
cdef int n_vec = 1
cdef u8 row_vec[ROW_MAX]             # row -> its VecSet, 0 for none

cdef inline bint sse_off(Cpu* c) noexcept nogil:
    return unlikely(c.cr0 & (CR0_EM | CR0_TS) or not c.cr4 & CR4_OSFXSR)

cdef inline u8* vec_host(Cpu* c, Insn* o, u32 n, bint write, bint aligned) noexcept nogil:
    """Host address of the memory operand of n bytes, or NULL when it takes more than a TLB hit."""
    cdef u64 lin = flat_lin(c, o)
    cdef TlbEntry* e = tlb_slot(c.tlb, lin)
    if unlikely((lin ^ (e.wtag if write else e.rtag)) > 4096 - n or (aligned and lin & (n - 1))):
        return NULL
    # SAFETY: the tag matches, so lin .. lin + n - 1 lies in the page the entry maps.
    return <u8*>(lin + <u64>e.add)

# ---- shapes ---------------------------------------------------------------------------------------------------------
cdef inline void r_packed(Cpu* c, Insn* o, Binary k) noexcept nogil:
    cdef Lane* d
    if sse_off(c):
        T_SSE(c, o)
        return
    d = xmm(c, o.reg)
    d[0] = k(d[0], xmm(c, o.rm)[0])
    (o + 1).fn(c, o + 1)

cdef inline void m_packed(Cpu* c, Insn* o, Binary k) noexcept nogil:
    cdef Lane* d
    cdef u8* p = vec_host(c, o, 16, False, True)
    if sse_off(c) or p == NULL:
        T_SSE(c, o)
        return
    d = xmm(c, o.reg)
    d[0] = k(d[0], (<Lane*>p)[0])
    (o + 1).fn(c, o + 1)

cdef inline void r_float(Cpu* c, Insn* o, Binary k) noexcept nogil:
    if fp_unmasked(c):
        T_SSE(c, o)
        return
    r_packed(c, o, k)

cdef inline void m_float(Cpu* c, Insn* o, Binary k) noexcept nogil:
    if fp_unmasked(c):
        T_SSE(c, o)
        return
    m_packed(c, o, k)

cdef inline void r_scalar32(Cpu* c, Insn* o, Float2 k) noexcept nogil:
    if sse_off(c) or fp_unmasked(c):
        T_SSE(c, o)
        return
    xmm(c, o.reg).f[0] = k(xmm(c, o.reg).f[0], xmm(c, o.rm).f[0])
    (o + 1).fn(c, o + 1)

cdef inline void m_scalar32(Cpu* c, Insn* o, Float2 k) noexcept nogil:
    cdef u8* p = vec_host(c, o, 4, False, False)
    if sse_off(c) or fp_unmasked(c) or p == NULL:
        T_SSE(c, o)
        return
    xmm(c, o.reg).f[0] = k(xmm(c, o.reg).f[0], (<float*>p)[0])
    (o + 1).fn(c, o + 1)

cdef inline void r_scalar64(Cpu* c, Insn* o, Double2 k) noexcept nogil:
    if sse_off(c) or fp_unmasked(c):
        T_SSE(c, o)
        return
    xmm(c, o.reg).lf[0] = k(xmm(c, o.reg).lf[0], xmm(c, o.rm).lf[0])
    (o + 1).fn(c, o + 1)

cdef inline void m_scalar64(Cpu* c, Insn* o, Double2 k) noexcept nogil:
    cdef u8* p = vec_host(c, o, 8, False, False)
    if sse_off(c) or fp_unmasked(c) or p == NULL:
        T_SSE(c, o)
        return
    xmm(c, o.reg).lf[0] = k(xmm(c, o.reg).lf[0], (<double*>p)[0])
    (o + 1).fn(c, o + 1)

cdef inline void m_load(Cpu* c, Insn* o, u32 n, bint aligned) noexcept nogil:
    """Load n bytes, the rest of the register cleared."""
    cdef Lane* d
    cdef u8* p = vec_host(c, o, n, False, aligned)
    if sse_off(c) or p == NULL:
        T_SSE(c, o)
        return
    d = xmm(c, o.reg)
    if n == 16:
        d[0] = (<Lane*>p)[0]
    else:
        d.q[0] = (<u64*>p)[0] if n == 8 else (<u32*>p)[0]
        d.q[1] = 0
    (o + 1).fn(c, o + 1)

cdef inline void m_store(Cpu* c, Insn* o, u32 n, bint aligned) noexcept nogil:
    cdef u8* p = vec_host(c, o, n, True, aligned)
    if sse_off(c) or p == NULL:
        T_SSE(c, o)
        return
    memcpy(p, xmm(c, o.reg), n)
    (o + 1).fn(c, o + 1)

# ---- moves ----------------------------------------------------------------------------------------------------------
cdef void R_MOV_V_W(Cpu* c, Insn* o) noexcept nogil:
    if sse_off(c):
        T_SSE(c, o)
        return
    xmm(c, o.reg)[0] = xmm(c, o.rm)[0]
    (o + 1).fn(c, o + 1)

cdef void R_MOVSD(Cpu* c, Insn* o) noexcept nogil:
    if sse_off(c):
        T_SSE(c, o)
        return
    xmm(c, o.reg).q[0] = xmm(c, o.rm).q[0]
    (o + 1).fn(c, o + 1)

cdef void R_MOVQ(Cpu* c, Insn* o) noexcept nogil:
    if sse_off(c):
        T_SSE(c, o)
        return
    xmm(c, o.reg).q[0] = xmm(c, o.rm).q[0]
    xmm(c, o.reg).q[1] = 0
    (o + 1).fn(c, o + 1)

cdef void R_MOVD_V_E(Cpu* c, Insn* o) noexcept nogil:
    if sse_off(c):
        T_SSE(c, o)
        return
    xmm(c, o.reg).q[0] = c.r[o.rm] if o.size == 8 else <u32>c.r[o.rm]
    xmm(c, o.reg).q[1] = 0
    (o + 1).fn(c, o + 1)

cdef void R_MOVD_E_V(Cpu* c, Insn* o) noexcept nogil:
    if sse_off(c):
        T_SSE(c, o)
        return
    c.r[o.rm] = xmm(c, o.reg).q[0] if o.size == 8 else xmm(c, o.reg).d[0]
    (o + 1).fn(c, o + 1)

cdef void R_PMOVMSKB(Cpu* c, Insn* o) noexcept nogil:
    if sse_off(c):
        T_SSE(c, o)
        return
    c.r[o.reg] = sign_bits(xmm(c, o.rm).q[0]) | (sign_bits(xmm(c, o.rm).q[1]) << 8)
    (o + 1).fn(c, o + 1)

cdef void R_PSHUFD(Cpu* c, Insn* o) noexcept nogil:
    if sse_off(c):
        T_SSE(c, o)
        return
    xmm(c, o.reg)[0] = pshufd(xmm(c, o.reg)[0], xmm(c, o.rm)[0], <u32>o.imm & 0xFF)
    (o + 1).fn(c, o + 1)

cdef void M_MOVU_load(Cpu* c, Insn* o) noexcept nogil: m_load(c, o, 16, False)
cdef void M_MOVA_load(Cpu* c, Insn* o) noexcept nogil: m_load(c, o, 16, True)
cdef void M_MOVSD_load(Cpu* c, Insn* o) noexcept nogil: m_load(c, o, 8, False)
cdef void M_MOVSS_load(Cpu* c, Insn* o) noexcept nogil: m_load(c, o, 4, False)
cdef void M_MOVU_store(Cpu* c, Insn* o) noexcept nogil: m_store(c, o, 16, False)
cdef void M_MOVA_store(Cpu* c, Insn* o) noexcept nogil: m_store(c, o, 16, True)
cdef void M_MOVSD_store(Cpu* c, Insn* o) noexcept nogil: m_store(c, o, 8, False)
cdef void M_MOVSS_store(Cpu* c, Insn* o) noexcept nogil: m_store(c, o, 4, False)

cdef void M_MOVHPS_load(Cpu* c, Insn* o) noexcept nogil:
    cdef u8* p = vec_host(c, o, 8, False, False)
    if sse_off(c) or p == NULL:
        T_SSE(c, o)
        return
    xmm(c, o.reg).q[1] = (<u64*>p)[0]
    (o + 1).fn(c, o + 1)

# ---- packed integers, floats, scalars -------------------------------------------------------------------------------
cdef void R_PXOR(Cpu* c, Insn* o) noexcept nogil: r_packed(c, o, pxor)
cdef void M_PXOR(Cpu* c, Insn* o) noexcept nogil: m_packed(c, o, pxor)
cdef void R_POR(Cpu* c, Insn* o) noexcept nogil: r_packed(c, o, por)
cdef void M_POR(Cpu* c, Insn* o) noexcept nogil: m_packed(c, o, por)
cdef void R_PAND(Cpu* c, Insn* o) noexcept nogil: r_packed(c, o, pand)
cdef void M_PAND(Cpu* c, Insn* o) noexcept nogil: m_packed(c, o, pand)
cdef void R_PANDN(Cpu* c, Insn* o) noexcept nogil: r_packed(c, o, pandn)
cdef void M_PANDN(Cpu* c, Insn* o) noexcept nogil: m_packed(c, o, pandn)
cdef void R_PCMPEQB(Cpu* c, Insn* o) noexcept nogil: r_packed(c, o, pcmpeqb)
cdef void M_PCMPEQB(Cpu* c, Insn* o) noexcept nogil: m_packed(c, o, pcmpeqb)
cdef void R_PCMPEQW(Cpu* c, Insn* o) noexcept nogil: r_packed(c, o, pcmpeqw)
cdef void M_PCMPEQW(Cpu* c, Insn* o) noexcept nogil: m_packed(c, o, pcmpeqw)
cdef void R_PCMPEQD(Cpu* c, Insn* o) noexcept nogil: r_packed(c, o, pcmpeqd)
cdef void M_PCMPEQD(Cpu* c, Insn* o) noexcept nogil: m_packed(c, o, pcmpeqd)
cdef void R_PCMPGTB(Cpu* c, Insn* o) noexcept nogil: r_packed(c, o, pcmpgtb)
cdef void M_PCMPGTB(Cpu* c, Insn* o) noexcept nogil: m_packed(c, o, pcmpgtb)
cdef void R_PMINUB(Cpu* c, Insn* o) noexcept nogil: r_packed(c, o, pminub)
cdef void M_PMINUB(Cpu* c, Insn* o) noexcept nogil: m_packed(c, o, pminub)
cdef void R_PMAXUB(Cpu* c, Insn* o) noexcept nogil: r_packed(c, o, pmaxub)
cdef void M_PMAXUB(Cpu* c, Insn* o) noexcept nogil: m_packed(c, o, pmaxub)
cdef void R_PADDB(Cpu* c, Insn* o) noexcept nogil: r_packed(c, o, paddb)
cdef void M_PADDB(Cpu* c, Insn* o) noexcept nogil: m_packed(c, o, paddb)
cdef void R_PADDW(Cpu* c, Insn* o) noexcept nogil: r_packed(c, o, paddw)
cdef void M_PADDW(Cpu* c, Insn* o) noexcept nogil: m_packed(c, o, paddw)
cdef void R_PADDD(Cpu* c, Insn* o) noexcept nogil: r_packed(c, o, paddd)
cdef void M_PADDD(Cpu* c, Insn* o) noexcept nogil: m_packed(c, o, paddd)
cdef void R_PADDQ(Cpu* c, Insn* o) noexcept nogil: r_packed(c, o, paddq)
cdef void M_PADDQ(Cpu* c, Insn* o) noexcept nogil: m_packed(c, o, paddq)
cdef void R_PSUBB(Cpu* c, Insn* o) noexcept nogil: r_packed(c, o, psubb)
cdef void M_PSUBB(Cpu* c, Insn* o) noexcept nogil: m_packed(c, o, psubb)
cdef void R_PSUBW(Cpu* c, Insn* o) noexcept nogil: r_packed(c, o, psubw)
cdef void M_PSUBW(Cpu* c, Insn* o) noexcept nogil: m_packed(c, o, psubw)
cdef void R_PSUBD(Cpu* c, Insn* o) noexcept nogil: r_packed(c, o, psubd)
cdef void M_PSUBD(Cpu* c, Insn* o) noexcept nogil: m_packed(c, o, psubd)
cdef void R_PSUBQ(Cpu* c, Insn* o) noexcept nogil: r_packed(c, o, psubq)
cdef void M_PSUBQ(Cpu* c, Insn* o) noexcept nogil: m_packed(c, o, psubq)
cdef void R_PMULUDQ(Cpu* c, Insn* o) noexcept nogil: r_packed(c, o, pmuludq)
cdef void M_PMULUDQ(Cpu* c, Insn* o) noexcept nogil: m_packed(c, o, pmuludq)
cdef void R_PMULLW(Cpu* c, Insn* o) noexcept nogil: r_packed(c, o, pmullw)
cdef void M_PMULLW(Cpu* c, Insn* o) noexcept nogil: m_packed(c, o, pmullw)
cdef void R_PMADDWD(Cpu* c, Insn* o) noexcept nogil: r_packed(c, o, pmaddwd)
cdef void M_PMADDWD(Cpu* c, Insn* o) noexcept nogil: m_packed(c, o, pmaddwd)
cdef void R_PUNPCKLBW(Cpu* c, Insn* o) noexcept nogil: r_packed(c, o, punpcklbw)
cdef void M_PUNPCKLBW(Cpu* c, Insn* o) noexcept nogil: m_packed(c, o, punpcklbw)
cdef void R_PUNPCKLWD(Cpu* c, Insn* o) noexcept nogil: r_packed(c, o, punpcklwd)
cdef void M_PUNPCKLWD(Cpu* c, Insn* o) noexcept nogil: m_packed(c, o, punpcklwd)
cdef void R_PUNPCKLDQ(Cpu* c, Insn* o) noexcept nogil: r_packed(c, o, punpckldq)
cdef void M_PUNPCKLDQ(Cpu* c, Insn* o) noexcept nogil: m_packed(c, o, punpckldq)
cdef void R_PUNPCKLQDQ(Cpu* c, Insn* o) noexcept nogil: r_packed(c, o, punpcklqdq)
cdef void M_PUNPCKLQDQ(Cpu* c, Insn* o) noexcept nogil: m_packed(c, o, punpcklqdq)
cdef void R_PUNPCKHDQ(Cpu* c, Insn* o) noexcept nogil: r_packed(c, o, punpckhdq)
cdef void M_PUNPCKHDQ(Cpu* c, Insn* o) noexcept nogil: m_packed(c, o, punpckhdq)
cdef void R_PUNPCKHQDQ(Cpu* c, Insn* o) noexcept nogil: r_packed(c, o, punpckhqdq)
cdef void M_PUNPCKHQDQ(Cpu* c, Insn* o) noexcept nogil: m_packed(c, o, punpckhqdq)
cdef void R_PSHUFB(Cpu* c, Insn* o) noexcept nogil: r_packed(c, o, pshufb)
cdef void M_PSHUFB(Cpu* c, Insn* o) noexcept nogil: m_packed(c, o, pshufb)
cdef void R_ADDPS(Cpu* c, Insn* o) noexcept nogil: r_float(c, o, addps)
cdef void M_ADDPS(Cpu* c, Insn* o) noexcept nogil: m_float(c, o, addps)
cdef void R_ADDPD(Cpu* c, Insn* o) noexcept nogil: r_float(c, o, addpd)
cdef void M_ADDPD(Cpu* c, Insn* o) noexcept nogil: m_float(c, o, addpd)
cdef void R_SUBPS(Cpu* c, Insn* o) noexcept nogil: r_float(c, o, subps)
cdef void M_SUBPS(Cpu* c, Insn* o) noexcept nogil: m_float(c, o, subps)
cdef void R_SUBPD(Cpu* c, Insn* o) noexcept nogil: r_float(c, o, subpd)
cdef void M_SUBPD(Cpu* c, Insn* o) noexcept nogil: m_float(c, o, subpd)
cdef void R_MULPS(Cpu* c, Insn* o) noexcept nogil: r_float(c, o, mulps)
cdef void M_MULPS(Cpu* c, Insn* o) noexcept nogil: m_float(c, o, mulps)
cdef void R_MULPD(Cpu* c, Insn* o) noexcept nogil: r_float(c, o, mulpd)
cdef void M_MULPD(Cpu* c, Insn* o) noexcept nogil: m_float(c, o, mulpd)
cdef void R_DIVPS(Cpu* c, Insn* o) noexcept nogil: r_float(c, o, divps)
cdef void M_DIVPS(Cpu* c, Insn* o) noexcept nogil: m_float(c, o, divps)
cdef void R_DIVPD(Cpu* c, Insn* o) noexcept nogil: r_float(c, o, divpd)
cdef void M_DIVPD(Cpu* c, Insn* o) noexcept nogil: m_float(c, o, divpd)
cdef void R_ADDSS(Cpu* c, Insn* o) noexcept nogil: r_scalar32(c, o, add32)
cdef void M_ADDSS(Cpu* c, Insn* o) noexcept nogil: m_scalar32(c, o, add32)
cdef void R_SUBSS(Cpu* c, Insn* o) noexcept nogil: r_scalar32(c, o, sub32)
cdef void M_SUBSS(Cpu* c, Insn* o) noexcept nogil: m_scalar32(c, o, sub32)
cdef void R_MULSS(Cpu* c, Insn* o) noexcept nogil: r_scalar32(c, o, mul32)
cdef void M_MULSS(Cpu* c, Insn* o) noexcept nogil: m_scalar32(c, o, mul32)
cdef void R_DIVSS(Cpu* c, Insn* o) noexcept nogil: r_scalar32(c, o, div32)
cdef void M_DIVSS(Cpu* c, Insn* o) noexcept nogil: m_scalar32(c, o, div32)
cdef void R_ADDSD(Cpu* c, Insn* o) noexcept nogil: r_scalar64(c, o, add64)
cdef void M_ADDSD(Cpu* c, Insn* o) noexcept nogil: m_scalar64(c, o, add64)
cdef void R_SUBSD(Cpu* c, Insn* o) noexcept nogil: r_scalar64(c, o, sub64)
cdef void M_SUBSD(Cpu* c, Insn* o) noexcept nogil: m_scalar64(c, o, sub64)
cdef void R_MULSD(Cpu* c, Insn* o) noexcept nogil: r_scalar64(c, o, mul64)
cdef void M_MULSD(Cpu* c, Insn* o) noexcept nogil: m_scalar64(c, o, mul64)
cdef void R_DIVSD(Cpu* c, Insn* o) noexcept nogil: r_scalar64(c, o, div64)
cdef void M_DIVSD(Cpu* c, Insn* o) noexcept nogil: m_scalar64(c, o, div64)

# ---- the table ------------------------------------------------------------------------------------------------------
cdef void vec_fast(exec_t ex, handler_t reg, handler_t mem) noexcept:
    global n_vec
    vec_sets[n_vec].ex = ex
    vec_sets[n_vec].reg = reg
    vec_sets[n_vec].mem = mem
    n_vec += 1

cdef handler_t sse_handler(Insn* o, u32 mode) noexcept nogil:
    cdef VecSet* s = &vec_sets[row_vec[o.op]]
    cdef handler_t h = s.reg
    if o.is_mem:
        h = s.mem if mode & MODE_64 and o.asize == 8 else NULL
    return h if h != NULL else T_SSE

cdef void init_vec_handlers() noexcept:
    cdef int i, k
    vec_fast(MOVU_Vx_Wx, R_MOV_V_W, M_MOVU_load)
    vec_fast(MOVA_Vx_Wx, R_MOV_V_W, M_MOVA_load)
    vec_fast(MOVU_Wx_Vx, NULL, M_MOVU_store)
    vec_fast(MOVA_Wx_Vx, NULL, M_MOVA_store)
    vec_fast(MOVSD_Vx_Wsd, R_MOVSD, M_MOVSD_load)
    vec_fast(MOVSS_Vx_Wss, NULL, M_MOVSS_load)
    vec_fast(MOVSD_Wsd_Vsd, NULL, M_MOVSD_store)
    vec_fast(MOVSS_Wss_Vss, NULL, M_MOVSS_store)
    vec_fast(MOVQ_Vx_Wq, R_MOVQ, M_MOVSD_load)
    vec_fast(MOVQ_Wq_Vq, NULL, M_MOVSD_store)
    vec_fast(MOVLPS_Mq_Vq, NULL, M_MOVSD_store)
    vec_fast(MOVHPS_Vq_Mq, NULL, M_MOVHPS_load)
    vec_fast(MOVD_Vy_Ey, R_MOVD_V_E, NULL)
    vec_fast(MOVD_Ey_Vy, R_MOVD_E_V, NULL)
    vec_fast(PMOVMSKB_Gd_Udq, R_PMOVMSKB, NULL)
    vec_fast(PSHUFD_Vx_Wx_Ib, R_PSHUFD, NULL)
    vec_fast(PXOR, R_PXOR, M_PXOR)
    vec_fast(POR, R_POR, M_POR)
    vec_fast(PAND, R_PAND, M_PAND)
    vec_fast(PANDN, R_PANDN, M_PANDN)
    vec_fast(PCMPEQB, R_PCMPEQB, M_PCMPEQB)
    vec_fast(PCMPEQW, R_PCMPEQW, M_PCMPEQW)
    vec_fast(PCMPEQD, R_PCMPEQD, M_PCMPEQD)
    vec_fast(PCMPGTB, R_PCMPGTB, M_PCMPGTB)
    vec_fast(PMINUB, R_PMINUB, M_PMINUB)
    vec_fast(PMAXUB, R_PMAXUB, M_PMAXUB)
    vec_fast(PADDB, R_PADDB, M_PADDB)
    vec_fast(PADDW, R_PADDW, M_PADDW)
    vec_fast(PADDD, R_PADDD, M_PADDD)
    vec_fast(PADDQ, R_PADDQ, M_PADDQ)
    vec_fast(PSUBB, R_PSUBB, M_PSUBB)
    vec_fast(PSUBW, R_PSUBW, M_PSUBW)
    vec_fast(PSUBD, R_PSUBD, M_PSUBD)
    vec_fast(PSUBQ, R_PSUBQ, M_PSUBQ)
    vec_fast(PMULUDQ, R_PMULUDQ, M_PMULUDQ)
    vec_fast(PMULLW, R_PMULLW, M_PMULLW)
    vec_fast(PMADDWD, R_PMADDWD, M_PMADDWD)
    vec_fast(PUNPCKLBW_Vx_Wx, R_PUNPCKLBW, M_PUNPCKLBW)
    vec_fast(PUNPCKLWD_Vx_Wx, R_PUNPCKLWD, M_PUNPCKLWD)
    vec_fast(PUNPCKLDQ_Vx_Wx, R_PUNPCKLDQ, M_PUNPCKLDQ)
    vec_fast(PUNPCKLQDQ_Vx_Wx, R_PUNPCKLQDQ, M_PUNPCKLQDQ)
    vec_fast(PUNPCKHDQ_Vx_Wx, R_PUNPCKHDQ, M_PUNPCKHDQ)
    vec_fast(PUNPCKHQDQ_Vx_Wx, R_PUNPCKHQDQ, M_PUNPCKHQDQ)
    vec_fast(PSHUFB_Vx_Wx, R_PSHUFB, M_PSHUFB)
    vec_fast(ADDPS_Vps_Wps, R_ADDPS, M_ADDPS)
    vec_fast(ADDPD_Vpd_Wpd, R_ADDPD, M_ADDPD)
    vec_fast(SUBPS_Vps_Wps, R_SUBPS, M_SUBPS)
    vec_fast(SUBPD_Vpd_Wpd, R_SUBPD, M_SUBPD)
    vec_fast(MULPS_Vps_Wps, R_MULPS, M_MULPS)
    vec_fast(MULPD_Vpd_Wpd, R_MULPD, M_MULPD)
    vec_fast(DIVPS_Vps_Wps, R_DIVPS, M_DIVPS)
    vec_fast(DIVPD_Vpd_Wpd, R_DIVPD, M_DIVPD)
    vec_fast(ADDSS_Vss_Wss, R_ADDSS, M_ADDSS)
    vec_fast(SUBSS_Vss_Wss, R_SUBSS, M_SUBSS)
    vec_fast(MULSS_Vss_Wss, R_MULSS, M_MULSS)
    vec_fast(DIVSS_Vss_Wss, R_DIVSS, M_DIVSS)
    vec_fast(ADDSD_Vsd_Wsd, R_ADDSD, M_ADDSD)
    vec_fast(SUBSD_Vsd_Wsd, R_SUBSD, M_SUBSD)
    vec_fast(MULSD_Vsd_Wsd, R_MULSD, M_MULSD)
    vec_fast(DIVSD_Vsd_Wsd, R_DIVSD, M_DIVSD)
    for i in range(n_rows):
        for k in range(1, n_vec):
            if rows[i].attrs & A_SSE and rows[i].ex == vec_sets[k].ex:
                row_vec[i] = k
