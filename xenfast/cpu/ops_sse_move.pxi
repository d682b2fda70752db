# MMX and SSE data movement: MOVUPS MOVAPS MOVDQU MOVDQA LDDQU MOVNT*, MOVSS MOVSD, MOVLPS MOVHPS, MOVD MOVQ,
# duplications.
#
# SDM Vol. 1, 10.4.1.1 and 11.4.1.1; Vol. 2, chapter 4.  What kind of numbers a register holds makes no difference to
# a move, so one exec function serves the ps, pd and dq opcodes; the rows give each its name.

# ---- 16 bytes, or 32 with VEX ---------------------------------------------------------------------------------------
cdef inline int load_Vx(Cpu* c, Insn* o, bint aligned) noexcept nogil:
    cdef Lane* d = xmm(c, o.reg)
    cdef int st = ST_OK
    if o.size == 32:
        if o.is_mem:
            return vec_read(c, o, 32, d, aligned)
        memcpy(d, xmm(c, o.rm), 32)
        return ST_OK
    if o.is_mem:
        st = vec_read(c, o, 16, d, aligned)
    else:
        d[0] = xmm(c, o.rm)[0]
    if st == ST_OK:
        clear_upper(o, d)
    return st

cdef inline int store_Vx(Cpu* c, Insn* o, bint aligned) noexcept nogil:
    cdef Lane* s = xmm(c, o.reg)
    cdef Lane* d = xmm(c, o.rm)
    if o.is_mem:
        return vec_write(c, o, 32, s, aligned) if o.size == 32 else vec_write(c, o, 16, s, aligned)
    d[0] = s[0]
    if o.size == 32:
        d[1] = s[1]
    else:
        clear_upper(o, d)
    return ST_OK

# MOVUPS, MOVUPD, MOVDQU, LDDQU
cdef int MOVU_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return load_Vx(c, o, False)
cdef int MOVU_Wx_Vx(Cpu* c, Insn* o) noexcept nogil: return store_Vx(c, o, False)
# MOVAPS, MOVAPD, MOVDQA, MOVNTDQA, MOVNTPS, MOVNTPD, MOVNTDQ: memory aligned to the size of the operand, else #GP(0)
cdef int MOVA_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return load_Vx(c, o, True)
cdef int MOVA_Wx_Vx(Cpu* c, Insn* o) noexcept nogil: return store_Vx(c, o, True)

# ---- scalars: a load from memory clears the rest of the register, a move between registers keeps it (with VEX: takes
# ---- that of the first source) ---------------------------------------------------------------------------------------
cdef int MOVSS_Vx_Wss(Cpu* c, Insn* o) noexcept nogil:
    cdef u32 v
    cdef int st
    if not o.is_mem:
        v = xmm(c, o.rm).d[0]
        dest(c, o).d[0] = v
        return ST_OK
    st = vec_read(c, o, 4, &v, False)
    if st == ST_OK:
        set_low(c, o, o.reg, v)
    return st

cdef int MOVSD_Vx_Wsd(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 v
    cdef int st
    if not o.is_mem:
        v = xmm(c, o.rm).q[0]
        dest(c, o).q[0] = v
        return ST_OK
    st = vec_read(c, o, 8, &v, False)
    if st == ST_OK:
        set_low(c, o, o.reg, v)
    return st

cdef inline void set_low(Cpu* c, Insn* o, int n, u64 v) noexcept nogil:
    """The low quadword, the rest cleared."""
    cdef Lane* d = xmm(c, n)
    d.q[0] = v
    d.q[1] = 0
    clear_upper(o, d)

cdef int MOVSS_Wss_Vss(Cpu* c, Insn* o) noexcept nogil:
    if o.is_mem:
        return vec_write(c, o, 4, xmm(c, o.reg), False)
    return merge_to_W(c, o, 4)

cdef int MOVSD_Wsd_Vsd(Cpu* c, Insn* o) noexcept nogil:
    if o.is_mem:
        return vec_write(c, o, 8, xmm(c, o.reg), False)
    return merge_to_W(c, o, 8)

cdef int merge_to_W(Cpu* c, Insn* o, u32 n) noexcept nogil:
    """Wss,Vss: the low n bytes; Wss,Hss,Vss: the rest from the first source."""
    cdef Lane r = xmm(c, o.vvvv)[0] if o.vex else xmm(c, o.rm)[0]
    cdef Lane* d = xmm(c, o.rm)
    memcpy(&r, xmm(c, o.reg), n)
    d[0] = r
    clear_upper(o, d)
    return ST_OK

# ---- halves ---------------------------------------------------------------------------------------------------------
cdef int MOVLPS_Vq_Mq(Cpu* c, Insn* o) noexcept nogil:
    """Memory to the low half; with a register, MOVHLPS: its high half to the low half."""
    cdef u64 v = xmm(c, o.rm).q[1]
    cdef int st = vec_read(c, o, 8, &v, False) if o.is_mem else ST_OK
    if st == ST_OK:
        dest(c, o).q[0] = v
    return st

cdef int MOVHPS_Vq_Mq(Cpu* c, Insn* o) noexcept nogil:
    """Memory to the high half; with a register, MOVLHPS: its low half to the high half."""
    cdef u64 v = xmm(c, o.rm).q[0]
    cdef int st = vec_read(c, o, 8, &v, False) if o.is_mem else ST_OK
    if st == ST_OK:
        dest(c, o).q[1] = v
    return st

cdef int MOVLPS_Mq_Vq(Cpu* c, Insn* o) noexcept nogil:
    return vec_write(c, o, 8, &xmm(c, o.reg).q[0], False)

cdef int MOVHPS_Mq_Vq(Cpu* c, Insn* o) noexcept nogil:
    return vec_write(c, o, 8, &xmm(c, o.reg).q[1], False)

# ---- duplications (SSE3) --------------------------------------------------------------------------------------------
cdef int MOVDDUP_Vx_Wq(Cpu* c, Insn* o) noexcept nogil:
    """8 bytes, or all 32 with VEX.256."""
    cdef Lane b[2]
    cdef int st = read_Wx(c, o, b) if o.size == 32 else read_W_part(c, o, 8, b)
    if st == ST_OK:
        b[0].q[1] = b[0].q[0]
        if o.size == 32:
            b[1].q[1] = b[1].q[0]
        put_Vx(c, o, b)
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
    cdef int st = read_rm(c, o, &v)
    if st == ST_OK:
        set_low(c, o, o.reg, v)
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
    cdef u64 v = xmm(c, o.rm).q[0]
    cdef int st = vec_read(c, o, 8, &v, False) if o.is_mem else ST_OK
    if st == ST_OK:
        set_low(c, o, o.reg, v)
    return st

cdef int MOVQ_Wq_Vq(Cpu* c, Insn* o) noexcept nogil:
    """66 0F D6."""
    if o.is_mem:
        return vec_write(c, o, 8, xmm(c, o.reg), False)
    set_low(c, o, o.rm, xmm(c, o.reg).q[0])
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
