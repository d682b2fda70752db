# x87 control: FNINIT FNCLEX FLDCW FNSTCW FNSTSW FWAIT, FLDENV FNSTENV FNSAVE FRSTOR, FXSAVE FXRSTOR.
#
# SDM Vol. 1, 8.1.9 and 8.1.10 (the images of the environment), 10.5 (the FXSAVE area).  The FN... instructions do not
# wait: they see no pending exception.  Writes of an image are all or nothing, reads check before anything is loaded.

cdef enum:
    FCW_WRITABLE = 0x1F3F
    FCW_ALWAYS = 0x40

cdef inline void set_fcw(Cpu* c, u32 v) noexcept nogil:
    c.fcw = (v & FCW_WRITABLE) | FCW_ALWAYS
    x87_update_es(c)

cdef void x87_init(Cpu* c) noexcept nogil:
    c.fcw = FCW_DEFAULT
    c.fsw = 0
    c.ftw = FTW_EMPTY
    c.fop = c.fcs = c.fds = 0
    c.fip = c.fdp = 0

cdef int FNINIT(Cpu* c, Insn* o) noexcept nogil:
    x87_init(c)
    return ST_OK

cdef int FNCLEX(Cpu* c, Insn* o) noexcept nogil:
    c.fsw &= ~(FSW_B | FSW_ES | FSW_SF | FSW_EXCEPTIONS)
    return ST_OK

cdef int FWAIT(Cpu* c, Insn* o) noexcept nogil:
    """#NM only when MP is set along with TS (SDM Vol. 3, table 9-3)."""
    cdef Fx x
    if (c.cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS):
        return fault(c, X_NM)
    return x87_begin(c, &x)

cdef int FLDCW_Mw(Cpu* c, Insn* o) noexcept nogil:
    cdef Fx x
    cdef u16 v
    cdef int st = x87_begin(c, &x)
    if st == ST_OK:
        st = vec_read(c, o, 2, &v, False)
    if st == ST_OK:
        set_fcw(c, v)
    return st

cdef int FNSTCW_Mw(Cpu* c, Insn* o) noexcept nogil:
    return vec_write(c, o, 2, &c.fcw, False)

cdef int FNSTSW_Mw(Cpu* c, Insn* o) noexcept nogil:
    return vec_write(c, o, 2, &c.fsw, False)

cdef int FNSTSW_AX(Cpu* c, Insn* o) noexcept nogil:
    c.r[RAX] = (c.r[RAX] & ~<u64>0xFFFF) | c.fsw
    return ST_OK

# ---- tags -----------------------------------------------------------------------------------------------------------
cdef u32 full_tags(Cpu* c) noexcept nogil:
    """The tag word: for each physical register valid 0, zero 1, special 2, empty 3 (SDM Vol. 1, 8.1.7)."""
    cdef u32 r = 0, t
    cdef int i, k
    for i in range(8):
        k = f80_class(c.st[i])
        t = 3 if not (c.ftw >> i) & 1 else 0 if k == IS_NORMAL else 1 if k == IS_ZERO else 2
        r |= t << (2 * i)
    return r

cdef u8 valid_bits(u32 tags) noexcept nogil:
    cdef u8 r = 0
    cdef int i
    for i in range(8):
        if ((tags >> (2 * i)) & 3) != 3:
            r |= 1 << i
    return r

# ---- FNSTENV and FLDENV: o.size is 2 or 4, seven fields of that size -------------------------------------------------
cdef inline bint real_format(Cpu* c) noexcept nogil:
    """Real and virtual-8086 mode keep 20- or 32-bit linear pointers."""
    return not c.mode & MODE_PE or c.mode & MODE_VM

cdef u32 store_env(Cpu* c, int size, u8* out) noexcept nogil:
    """The environment as FNSTENV writes it; returns its length, 14 or 28."""
    cdef u32 f[7]
    cdef u32 ip, dp
    cdef int i
    f[0], f[1], f[2] = c.fcw, c.fsw, full_tags(c)
    if real_format(c):
        ip = <u32>c.fip + (<u32>c.fcs << 4)
        dp = <u32>c.fdp + (<u32>c.fds << 4)
        f[3], f[4] = ip & 0xFFFF, (ip >> 16 << 12) | c.fop
        f[5], f[6] = dp & 0xFFFF, dp >> 16 << 12
    else:
        f[3], f[4] = <u32>c.fip, c.fcs
        f[5], f[6] = <u32>c.fdp, c.fds
        if size != 2:
            f[4] |= <u32>c.fop << 16
    for i in range(7):
        if size == 2:
            out[2 * i], out[2 * i + 1] = <u8>f[i], <u8>(f[i] >> 8)
            continue
        if i < 3 or i == 6 and not real_format(c):
            f[i] |= <u32>0xFFFF0000              # reserved halves read as ones
        memcpy(out + 4 * i, &f[i], 4)
    return 14 if size == 2 else 28

cdef void load_env(Cpu* c, int size, const u8* p) noexcept nogil:
    cdef u32 f[7]
    cdef int i
    for i in range(7):
        f[i] = p[2 * i] | (<u32>p[2 * i + 1] << 8)
        if size != 2:
            memcpy(&f[i], p + 4 * i, 4)
    c.fsw = <u16>f[1]
    c.ftw = valid_bits(f[2])
    if real_format(c):
        c.fip = (f[3] & 0xFFFF) | (f[4] >> 12 << 16)
        c.fdp = (f[5] & 0xFFFF) | (f[6] >> 12 << 16)
        c.fop = f[4] & 0x7FF
        c.fcs = c.fds = 0
    else:
        c.fip, c.fcs = f[3], <u16>f[4]
        c.fdp, c.fds = f[5], <u16>f[6]
        c.fop = (f[4] >> 16) & 0x7FF if size != 2 else 0
    set_fcw(c, f[0])

cdef int FNSTENV_M(Cpu* c, Insn* o) noexcept nogil:
    """Stores the environment, then masks all exceptions."""
    cdef u8 b[28]
    cdef u32 n = store_env(c, o.size, b)
    cdef int st = vec_write_slow(c, o, n, b, False)
    if st == ST_OK:
        set_fcw(c, c.fcw | FSW_EXCEPTIONS)
    return st

cdef int FLDENV_M(Cpu* c, Insn* o) noexcept nogil:
    cdef u8 b[28]
    cdef Fx x
    cdef int st = x87_begin(c, &x)
    if st == ST_OK:
        st = vec_read_slow(c, o, 14 if o.size == 2 else 28, b, False)
    if st == ST_OK:
        load_env(c, o.size, b)
    return st

cdef int FNSAVE_M(Cpu* c, Insn* o) noexcept nogil:
    """Environment and the eight registers from ST(0) on, 10 bytes each; then FNINIT."""
    cdef u8 b[108]
    cdef u32 n = store_env(c, o.size, b)
    cdef int i, st
    for i in range(8):
        memcpy(b + n + 10 * i, &st_ptr(c, i).man, 8)
        memcpy(b + n + 10 * i + 8, &st_ptr(c, i).se, 2)
    st = vec_write_slow(c, o, n + 80, b, False)
    if st == ST_OK:
        x87_init(c)
    return st

cdef int FRSTOR_M(Cpu* c, Insn* o) noexcept nogil:
    cdef u8 b[108]
    cdef u32 n = 14 if o.size == 2 else 28
    cdef Fx x
    cdef int i
    cdef int st = x87_begin(c, &x)
    if st == ST_OK:
        st = vec_read_slow(c, o, n + 80, b, False)
    if st != ST_OK:
        return st
    load_env(c, o.size, b)
    for i in range(8):
        memcpy(&st_ptr(c, i).man, b + n + 10 * i, 8)
        memcpy(&st_ptr(c, i).se, b + n + 10 * i + 8, 2)
    return ST_OK

# ---- FXSAVE and FXRSTOR (SDM Vol. 1, table 10-2) ---------------------------------------------------------------------
cdef enum:
    FX_FCW = 0
    FX_FSW = 2
    FX_FTW = 4               # one bit a physical register
    FX_FOP = 6
    FX_FIP = 8               # 64 bits with REX.W, else 32 and the selector behind them
    FX_FDP = 16
    FX_MXCSR = 24
    FX_MXCSR_MASK = 28
    FX_ST = 32               # 16 bytes each, from ST(0) on
    FX_XMM = 160             # eight, or sixteen in 64-bit mode
    FX_SIZE = 512

cdef void fxsave_x87(Cpu* c, u8* p, bint wide) noexcept nogil:
    """The legacy part up to the XMM registers, but for MXCSR."""
    cdef u32 ip = <u32>c.fip, dp = <u32>c.fdp
    cdef int i
    memset(p, 0, FX_MXCSR)
    memcpy(p + FX_FCW, &c.fcw, 2)
    memcpy(p + FX_FSW, &c.fsw, 2)
    p[FX_FTW] = c.ftw
    memcpy(p + FX_FOP, &c.fop, 2)
    if wide:
        memcpy(p + FX_FIP, &c.fip, 8)
        memcpy(p + FX_FDP, &c.fdp, 8)
    else:
        memcpy(p + FX_FIP, &ip, 4)
        memcpy(p + FX_FIP + 4, &c.fcs, 2)
        memcpy(p + FX_FDP, &dp, 4)
        memcpy(p + FX_FDP + 4, &c.fds, 2)
    memset(p + FX_ST, 0, 128)
    for i in range(8):
        memcpy(p + FX_ST + 16 * i, &st_ptr(c, i).man, 8)
        memcpy(p + FX_ST + 16 * i + 8, &st_ptr(c, i).se, 2)

cdef void fxrstor_x87(Cpu* c, const u8* p, bint wide) noexcept nogil:
    cdef u16 v
    cdef int i
    memcpy(&c.fsw, p + FX_FSW, 2)
    c.ftw = p[FX_FTW]
    memcpy(&v, p + FX_FOP, 2)
    c.fop = v & 0x7FF
    c.fip = c.fdp = 0
    c.fcs = c.fds = 0
    if wide:
        memcpy(&c.fip, p + FX_FIP, 8)
        memcpy(&c.fdp, p + FX_FDP, 8)
    else:
        memcpy(&c.fip, p + FX_FIP, 4)
        memcpy(&c.fcs, p + FX_FIP + 4, 2)
        memcpy(&c.fdp, p + FX_FDP, 4)
        memcpy(&c.fds, p + FX_FDP + 4, 2)
    for i in range(8):
        memcpy(&st_ptr(c, i).man, p + FX_ST + 16 * i, 8)
        memcpy(&st_ptr(c, i).se, p + FX_ST + 16 * i + 8, 2)
    memcpy(&v, p + FX_FCW, 2)
    set_fcw(c, v)

cdef int FXSAVE_M(Cpu* c, Insn* o) noexcept nogil:
    """My: o.size 8 is the format with 64-bit pointers.  Writes nothing behind the XMM registers."""
    cdef u8 b[FX_SIZE]
    cdef u32 mask = MXCSR_VALID
    cdef int i, n = 16 if c.mode & MODE_64 else 8
    cdef u64 lin
    cdef int st = operand_lin_w(c, o, FX_SIZE, &lin)
    if st != ST_OK:
        return st
    if lin & 15:
        return fault_err(c, X_GP, 0)
    fp_sync(c)
    fxsave_x87(c, b, o.size == 8)
    memcpy(b + FX_MXCSR, &c.mxcsr, 4)
    memcpy(b + FX_MXCSR_MASK, &mask, 4)
    for i in range(n):
        memcpy(b + FX_XMM + 16 * i, xmm(c, i), 16)
    st = mem_check_write(c, lin, FX_SIZE)
    return mem_write_n(c, lin, FX_XMM + 16 * n, b) if st == ST_OK else st

cdef int FXRSTOR_M(Cpu* c, Insn* o) noexcept nogil:
    cdef u8 b[FX_SIZE]
    cdef u32 mxcsr
    cdef u64 lin
    cdef int i, n = 16 if c.mode & MODE_64 else 8
    cdef int st = operand_lin(c, o, FX_SIZE, &lin)
    if st != ST_OK:
        return st
    if lin & 15:
        return fault_err(c, X_GP, 0)
    st = mem_read_n(c, lin, FX_SIZE, b)
    if st != ST_OK:
        return st
    memcpy(&mxcsr, b + FX_MXCSR, 4)
    if mxcsr & ~<u32>MXCSR_VALID:
        return fault_err(c, X_GP, 0)
    fxrstor_x87(c, b, o.size == 8)
    set_mxcsr(c, mxcsr)
    for i in range(n):
        memcpy(xmm(c, i), b + FX_XMM + 16 * i, 16)
    return ST_OK
