# SSE conversions: CVT* between single, double, 32- and 64-bit integers, in XMM, MMX and general registers.
#
# SDM Vol. 1, 10.4.2, 11.4.1.6 and 4.8.4 (rounding); a value that does not fit gives the integer indefinite and raises
# IE.

cdef int convert(Cpu* c, Insn* o, u32 n, Unary k, int tiny) noexcept nogil:
    """Vx,Wx, the source being n bytes for each half of the destination; 16 of them must be aligned without VEX."""
    cdef Lane b[2]
    cdef int st = read_Wx(c, o, b) if n == 16 else read_W_halves(c, o, n, b)
    if st != ST_OK:
        return st
    st = convert_lanes(c, o, b, k, tiny)
    if st == ST_OK:
        put_Vx(c, o, b)
    return st

cdef inline int convert_lanes(Cpu* c, Insn* o, Lane* b, Unary k, int tiny) noexcept nogil:
    if fp_unmasked(c):
        fp_begin(c)
    b[0] = k(b[0])
    if o.size == 32:
        b[1] = k(b[1])
    return fp_check_lanes(c, b, o.size >> 4, tiny) if fp_unmasked(c) else ST_OK

cdef int convert_narrow(Cpu* c, Insn* o, Unary k, int tiny) noexcept nogil:
    """Vdq,Wx, the result of each half of the source being 8 bytes."""
    cdef Lane b[2]
    cdef Lane* d = xmm(c, o.reg)
    cdef int st = read_Wx(c, o, b)
    if st != ST_OK:
        return st
    st = convert_lanes(c, o, b, k, tiny)
    if st == ST_OK:
        d.q[0] = b[0].q[0]
        d.q[1] = b[1].q[0] if o.size == 32 else 0
        clear_upper(o, d)
    return st

# ---- packed kernels -------------------------------------------------------------------------------------------------

cdef Lane cvtdq2ps(Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(4):
        r.f[i] = i32_to_f32(b.sd[i])
    return r

cdef Lane cvtps2dq(Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(4):
        r.sd[i] = f32_to_i32(b.f[i])
    return r

cdef Lane cvttps2dq(Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(4):
        r.sd[i] = f32_to_i32z(b.f[i])
    return r

cdef Lane cvtdq2pd(Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(2):
        r.lf[i] = i32_to_f64(b.sd[i])
    return r

cdef Lane cvtpd2dq(Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    r.q[1] = 0
    for i in range(2):
        r.sd[i] = f64_to_i32(b.lf[i])
    return r

cdef Lane cvttpd2dq(Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    r.q[1] = 0
    for i in range(2):
        r.sd[i] = f64_to_i32z(b.lf[i])
    return r

cdef Lane cvtps2pd(Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(2):
        r.lf[i] = f32_to_f64(b.f[i])
    return r

cdef Lane cvtpd2ps(Lane b) noexcept nogil:
    cdef Lane r
    cdef int i
    r.q[1] = 0
    for i in range(2):
        r.f[i] = f64_to_f32(b.lf[i])
    return r

cdef int CVTDQ2PS_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return convert(c, o, 16, cvtdq2ps, TINY_NO)
cdef int CVTPS2DQ_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return convert(c, o, 16, cvtps2dq, TINY_NO)
cdef int CVTTPS2DQ_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return convert(c, o, 16, cvttps2dq, TINY_NO)
cdef int CVTDQ2PD_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return convert(c, o, 8, cvtdq2pd, TINY_NO)
cdef int CVTPD2DQ_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return convert_narrow(c, o, cvtpd2dq, TINY_NO)
cdef int CVTTPD2DQ_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return convert_narrow(c, o, cvttpd2dq, TINY_NO)
cdef int CVTPS2PD_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return convert(c, o, 8, cvtps2pd, TINY_NO)
cdef int CVTPD2PS_Vx_Wx(Cpu* c, Insn* o) noexcept nogil: return convert_narrow(c, o, cvtpd2ps, TINY_PS)

# ---- scalars --------------------------------------------------------------------------------------------------------
cdef int CVTSS2SD_Vsd_Wss(Cpu* c, Insn* o) noexcept nogil:
    cdef Lane b
    cdef int st = read_W_part(c, o, 4, &b)
    if st != ST_OK:
        return st
    if fp_unmasked(c):
        fp_begin(c)
    b.lf[0] = f32_to_f64(b.f[0])
    if fp_unmasked(c):
        st = fp_check(c, &b, TINY_NO)
    if st == ST_OK:
        dest(c, o).q[0] = b.q[0]
    return st

cdef int CVTSD2SS_Vss_Wsd(Cpu* c, Insn* o) noexcept nogil:
    cdef Lane b
    cdef int st = read_W_part(c, o, 8, &b)
    if st != ST_OK:
        return st
    if fp_unmasked(c):
        fp_begin(c)
    b.f[0] = f64_to_f32(b.lf[0])
    if fp_unmasked(c):
        st = fp_check(c, &b, TINY_SS)
    if st == ST_OK:
        dest(c, o).d[0] = b.d[0]
    return st

# Vy,Ey: the size is that of the integer.
cdef int CVTSI2SS_Vss_Ey(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 v
    cdef float r
    cdef int st = read_rm(c, o, &v)
    if st != ST_OK:
        return st
    if fp_unmasked(c):
        fp_begin(c)
    r = i64_to_f32(<i64>v) if o.size == 8 else i32_to_f32(<i32>v)
    if fp_unmasked(c):
        st = fp_check(c, &r, TINY_NO)
    if st == ST_OK:
        dest(c, o).f[0] = r
    return st

cdef int CVTSI2SD_Vsd_Ey(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 v
    cdef double r
    cdef int st = read_rm(c, o, &v)
    if st != ST_OK:
        return st
    if fp_unmasked(c):
        fp_begin(c)
    r = i64_to_f64(<i64>v) if o.size == 8 else i32_to_f64(<i32>v)
    if fp_unmasked(c):
        st = fp_check(c, &r, TINY_NO)
    if st == ST_OK:
        dest(c, o).lf[0] = r
    return st

cdef int CVTSS2SI_Gy_Wss(Cpu* c, Insn* o) noexcept nogil:
    cdef Lane b
    cdef u64 r
    cdef int st = read_W_part(c, o, 4, &b)
    if st != ST_OK:
        return st
    if fp_unmasked(c):
        fp_begin(c)
    r = <u64>f32_to_i64(b.f[0]) if o.size == 8 else <u32>f32_to_i32(b.f[0])
    if fp_unmasked(c):
        st = fp_check(c, &b, TINY_NO)
    if st == ST_OK:
        c.r[o.reg] = r
    return st

cdef int CVTTSS2SI_Gy_Wss(Cpu* c, Insn* o) noexcept nogil:
    cdef Lane b
    cdef u64 r
    cdef int st = read_W_part(c, o, 4, &b)
    if st != ST_OK:
        return st
    if fp_unmasked(c):
        fp_begin(c)
    r = <u64>f32_to_i64z(b.f[0]) if o.size == 8 else <u32>f32_to_i32z(b.f[0])
    if fp_unmasked(c):
        st = fp_check(c, &b, TINY_NO)
    if st == ST_OK:
        c.r[o.reg] = r
    return st

cdef int CVTSD2SI_Gy_Wsd(Cpu* c, Insn* o) noexcept nogil:
    cdef Lane b
    cdef u64 r
    cdef int st = read_W_part(c, o, 8, &b)
    if st != ST_OK:
        return st
    if fp_unmasked(c):
        fp_begin(c)
    r = <u64>f64_to_i64(b.lf[0]) if o.size == 8 else <u32>f64_to_i32(b.lf[0])
    if fp_unmasked(c):
        st = fp_check(c, &b, TINY_NO)
    if st == ST_OK:
        c.r[o.reg] = r
    return st

cdef int CVTTSD2SI_Gy_Wsd(Cpu* c, Insn* o) noexcept nogil:
    cdef Lane b
    cdef u64 r
    cdef int st = read_W_part(c, o, 8, &b)
    if st != ST_OK:
        return st
    if fp_unmasked(c):
        fp_begin(c)
    r = <u64>f64_to_i64z(b.lf[0]) if o.size == 8 else <u32>f64_to_i32z(b.lf[0])
    if fp_unmasked(c):
        st = fp_check(c, &b, TINY_NO)
    if st == ST_OK:
        c.r[o.reg] = r
    return st

# ---- against MMX registers -------------------------------------------------------------------------------------------
cdef inline int read_Qpi(Cpu* c, Insn* o, u64* out) noexcept nogil:
    """With memory no MMX register is used, so there is no transition to MMX and no pending exception to see."""
    if o.is_mem:
        return vec_read(c, o, 8, out, False)
    return read_Q(c, o, out)

cdef int CVTPI2PS_Vps_Qpi(Cpu* c, Insn* o) noexcept nogil:
    cdef Lane b
    cdef int st = read_Qpi(c, o, &b.q[0])
    if st != ST_OK:
        return st
    if fp_unmasked(c):
        fp_begin(c)
    b.f[0] = i32_to_f32(b.sd[0])
    b.f[1] = i32_to_f32(b.sd[1])
    if fp_unmasked(c):
        st = fp_check(c, &b, TINY_NO)
    if st == ST_OK:
        if not o.is_mem:
            mmx_enter(c)
        xmm(c, o.reg).q[0] = b.q[0]
    return st

cdef int CVTPI2PD_Vpd_Qpi(Cpu* c, Insn* o) noexcept nogil:
    cdef Lane b
    cdef int st = read_Qpi(c, o, &b.q[0])
    if st != ST_OK:
        return st
    if not o.is_mem:
        mmx_enter(c)
    xmm(c, o.reg)[0] = cvtdq2pd(b)
    return ST_OK

cdef int convert_to_mmx(Cpu* c, Insn* o, u32 n, Unary k) noexcept nogil:
    cdef Lane b
    cdef int st = mmx_check(c)
    if st != ST_OK:
        return st
    st = read_W(c, o, &b) if n == 16 else read_W_part(c, o, n, &b)
    if st != ST_OK:
        return st
    if fp_unmasked(c):
        fp_begin(c)
    b = k(b)
    if fp_unmasked(c):
        st = fp_check(c, &b, TINY_NO)
    if st == ST_OK:
        mmx_set(c, o.reg, b.q[0])
    return st

cdef Lane cvtps2pi(Lane b) noexcept nogil:
    b.sd[0] = f32_to_i32(b.f[0])
    b.sd[1] = f32_to_i32(b.f[1])
    return b

cdef Lane cvttps2pi(Lane b) noexcept nogil:
    b.sd[0] = f32_to_i32z(b.f[0])
    b.sd[1] = f32_to_i32z(b.f[1])
    return b

cdef int CVTPS2PI_Ppi_Wq(Cpu* c, Insn* o) noexcept nogil: return convert_to_mmx(c, o, 8, cvtps2pi)
cdef int CVTTPS2PI_Ppi_Wq(Cpu* c, Insn* o) noexcept nogil: return convert_to_mmx(c, o, 8, cvttps2pi)
cdef int CVTPD2PI_Ppi_Wpd(Cpu* c, Insn* o) noexcept nogil: return convert_to_mmx(c, o, 16, cvtpd2dq)
cdef int CVTTPD2PI_Ppi_Wpd(Cpu* c, Insn* o) noexcept nogil: return convert_to_mmx(c, o, 16, cvttpd2dq)
