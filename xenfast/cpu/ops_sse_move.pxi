# MMX and SSE data movement: MOVUPS MOVAPS MOVDQU MOVDQA LDDQU MOVNT*, MOVSS MOVSD, MOVLPS MOVHPS, MOVD MOVQ,
# duplications.
#
# SDM Vol. 1, 10.4.1.1 and 11.4.1.1; Vol. 2, chapter 4.  What kind of numbers a register holds makes no difference to
# a move, so one exec function serves the ps, pd and dq opcodes; the rows give each its name.

# ---- 16 bytes -------------------------------------------------------------------------------------------------------
cdef int MOVU_Vx_Wx(Cpu* c, Insn* o) noexcept nogil:
    if o.is_mem:
        return vec_read(c, o, 16, xmm(c, o.reg), False)
    xmm(c, o.reg)[0] = xmm(c, o.rm)[0]
    return ST_OK

cdef int MOVU_Wx_Vx(Cpu* c, Insn* o) noexcept nogil:
    if o.is_mem:
        return vec_write(c, o, 16, xmm(c, o.reg), False)
    xmm(c, o.rm)[0] = xmm(c, o.reg)[0]
    return ST_OK

cdef int MOVA_Vx_Wx(Cpu* c, Insn* o) noexcept nogil:
    """MOVAPS, MOVAPD, MOVDQA, MOVNTDQA: memory aligned to 16 bytes, else #GP(0)."""
    if o.is_mem:
        return vec_read(c, o, 16, xmm(c, o.reg), True)
    xmm(c, o.reg)[0] = xmm(c, o.rm)[0]
    return ST_OK

cdef int MOVA_Wx_Vx(Cpu* c, Insn* o) noexcept nogil:
    """MOVAPS, MOVAPD, MOVDQA, MOVNTPS, MOVNTPD, MOVNTDQ."""
    if o.is_mem:
        return vec_write(c, o, 16, xmm(c, o.reg), True)
    xmm(c, o.rm)[0] = xmm(c, o.reg)[0]
    return ST_OK

# ---- scalars: a load from memory clears the rest of the register, a move between registers keeps it ------------------
cdef int MOVSS_Vx_Wss(Cpu* c, Insn* o) noexcept nogil:
    cdef Lane* d = xmm(c, o.reg)
    cdef u32 v
    cdef int st
    if not o.is_mem:
        d.d[0] = xmm(c, o.rm).d[0]
        return ST_OK
    st = vec_read(c, o, 4, &v, False)
    if st == ST_OK:
        d.q[0] = v
        d.q[1] = 0
    return st

cdef int MOVSD_Vx_Wsd(Cpu* c, Insn* o) noexcept nogil:
    cdef Lane* d = xmm(c, o.reg)
    cdef u64 v
    cdef int st
    if not o.is_mem:
        d.q[0] = xmm(c, o.rm).q[0]
        return ST_OK
    st = vec_read(c, o, 8, &v, False)
    if st == ST_OK:
        d.q[0] = v
        d.q[1] = 0
    return st

cdef int MOVSS_Wss_Vss(Cpu* c, Insn* o) noexcept nogil:
    if o.is_mem:
        return vec_write(c, o, 4, xmm(c, o.reg), False)
    xmm(c, o.rm).d[0] = xmm(c, o.reg).d[0]
    return ST_OK

cdef int MOVSD_Wsd_Vsd(Cpu* c, Insn* o) noexcept nogil:
    if o.is_mem:
        return vec_write(c, o, 8, xmm(c, o.reg), False)
    xmm(c, o.rm).q[0] = xmm(c, o.reg).q[0]
    return ST_OK

# ---- halves ---------------------------------------------------------------------------------------------------------
cdef int MOVLPS_Vq_Mq(Cpu* c, Insn* o) noexcept nogil:
    """Memory to the low half; with a register, MOVHLPS: its high half to the low half."""
    if o.is_mem:
        return vec_read(c, o, 8, &xmm(c, o.reg).q[0], False)
    xmm(c, o.reg).q[0] = xmm(c, o.rm).q[1]
    return ST_OK

cdef int MOVHPS_Vq_Mq(Cpu* c, Insn* o) noexcept nogil:
    """Memory to the high half; with a register, MOVLHPS: its low half to the high half."""
    if o.is_mem:
        return vec_read(c, o, 8, &xmm(c, o.reg).q[1], False)
    xmm(c, o.reg).q[1] = xmm(c, o.rm).q[0]
    return ST_OK

cdef int MOVLPS_Mq_Vq(Cpu* c, Insn* o) noexcept nogil:
    return vec_write(c, o, 8, &xmm(c, o.reg).q[0], False)

cdef int MOVHPS_Mq_Vq(Cpu* c, Insn* o) noexcept nogil:
    return vec_write(c, o, 8, &xmm(c, o.reg).q[1], False)

# ---- duplications (SSE3) --------------------------------------------------------------------------------------------
cdef int MOVDDUP_Vx_Wq(Cpu* c, Insn* o) noexcept nogil:
    cdef Lane b
    cdef int st = read_W_part(c, o, 8, &b)
    if st == ST_OK:
        b.q[1] = b.q[0]
        xmm(c, o.reg)[0] = b
    return st

cdef Lane movsldup(Lane b) noexcept nogil:
    b.d[1] = b.d[0]
    b.d[3] = b.d[2]
    return b

cdef Lane movshdup(Lane b) noexcept nogil:
    b.d[0] = b.d[1]
    b.d[2] = b.d[3]
    return b

cdef int MOVSLDUP_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return packed_unary(c, o, movsldup)
cdef int MOVSHDUP_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return packed_unary(c, o, movshdup)

# ---- against general registers and memory: MOVD, MOVQ (o.size is that of E: 4, or 8 with REX.W) ---------------------
cdef int MOVD_Vy_Ey(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 v
    cdef Lane* d = xmm(c, o.reg)
    cdef int st = read_rm(c, o, &v)
    if st == ST_OK:
        d.q[0] = v
        d.q[1] = 0
    return st

cdef int MOVD_Ey_Vy(Cpu* c, Insn* o) noexcept nogil:
    return write_rm(c, o, xmm(c, o.reg).q[0])

cdef int MOVD_Py_Ey(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 v
    cdef int st = mmx_check(c)
    if st == ST_OK:
        st = read_rm(c, o, &v)
    if st == ST_OK:
        mmx_set(c, o.reg, v)
    return st

cdef int MOVD_Ey_Py(Cpu* c, Insn* o) noexcept nogil:
    cdef int st = mmx_check(c)
    if st == ST_OK:
        st = write_rm(c, o, mmx_get(c, o.reg))
    if st == ST_OK:
        mmx_enter(c)
    return st

cdef int MOVQ_Vx_Wq(Cpu* c, Insn* o) noexcept nogil:
    """F3 0F 7E: the low half, the rest cleared."""
    cdef Lane* d = xmm(c, o.reg)
    cdef u64 v
    cdef int st = ST_OK
    if o.is_mem:
        st = vec_read(c, o, 8, &v, False)
    else:
        v = xmm(c, o.rm).q[0]
    if st == ST_OK:
        d.q[0] = v
        d.q[1] = 0
    return st

cdef int MOVQ_Wq_Vq(Cpu* c, Insn* o) noexcept nogil:
    """66 0F D6."""
    if o.is_mem:
        return vec_write(c, o, 8, xmm(c, o.reg), False)
    xmm(c, o.rm).q[0] = xmm(c, o.reg).q[0]
    xmm(c, o.rm).q[1] = 0
    return ST_OK

cdef int MOVQ_Pq_Qq(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 v
    cdef int st = read_Q(c, o, &v)
    if st == ST_OK:
        mmx_set(c, o.reg, v)
    return st

cdef int MOVQ_Qq_Pq(Cpu* c, Insn* o) noexcept nogil:
    """MOVQ and MOVNTQ."""
    cdef u64 v = mmx_get(c, o.reg)
    cdef int st = mmx_check(c)
    if st != ST_OK:
        return st
    if not o.is_mem:
        mmx_set(c, o.rm, v)
        return ST_OK
    st = vec_write(c, o, 8, &v, False)
    if st == ST_OK:
        mmx_enter(c)
    return st

cdef int MOVQ2DQ_Vdq_Nq(Cpu* c, Insn* o) noexcept nogil:
    cdef int st = mmx_check(c)
    if st == ST_OK:
        mmx_enter(c)
        xmm(c, o.reg).q[0] = mmx_get(c, o.rm)
        xmm(c, o.reg).q[1] = 0
    return st

cdef int MOVDQ2Q_Pq_Uq(Cpu* c, Insn* o) noexcept nogil:
    cdef int st = mmx_check(c)
    if st == ST_OK:
        mmx_set(c, o.reg, xmm(c, o.rm).q[0])
    return st

cdef int MOVNTI_My_Gy(Cpu* c, Insn* o) noexcept nogil:
    return write_rm(c, o, c.r[o.reg])

cdef int EMMS(Cpu* c, Insn* o) noexcept nogil:
    cdef int st = mmx_check(c)
    if st == ST_OK:
        mmx_enter(c)
        c.ftw = 0
    return st
