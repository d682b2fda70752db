# Data movement: MOV, MOVZX, MOVSX, MOVSXD, MOVBE, XCHG, BSWAP, LEA, CMOVcc, SETcc, XLAT, and the CBW/CWD families.
#
# SDM Vol. 2.  MOV to and from control and debug registers is in ops_system.pxi, segment registers load through
# segment.pxi.

cdef extern from *:
    """
    static inline uint64_t xf_bswap(uint64_t v, int size) {
        return size == 8 ? __builtin_bswap64(v) : size == 4 ? __builtin_bswap32((uint32_t)v)
                                                            : __builtin_bswap16((uint16_t)v);
    }
    """
    u64 xf_bswap(u64 v, int size) noexcept nogil

# ---------------------------------------------------------------------------------------------------------------------
cdef int MOV_E_G(Cpu* c, Insn* o) noexcept nogil:
    return write_rm(c, o, get_reg(c, o, o.reg, o.size))

cdef int MOV_G_E(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 v
    cdef int st = read_rm(c, o, &v)
    if st == ST_OK:
        set_reg(c, o, o.reg, o.size, v)
    return st

cdef int MOV_E_I(Cpu* c, Insn* o) noexcept nogil:
    return write_rm(c, o, <u64>o.imm)

cdef int MOV_Z_I(Cpu* c, Insn* o) noexcept nogil:
    set_reg(c, o, o.rm, o.size, <u64>o.imm)
    return ST_OK

cdef int MOV_A_O(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 v
    cdef int st = read_rm_n(c, o, o.size, &v)
    if st == ST_OK:
        set_reg(c, o, RAX, o.size, v)
    return st

cdef int MOV_O_A(Cpu* c, Insn* o) noexcept nogil:
    return write_rm_n(c, o, o.size, get_reg(c, o, RAX, o.size))

cdef int MOV_E_S(Cpu* c, Insn* o) noexcept nogil:
    """A register gets the selector zero-extended to the operand size, memory 16 bits of it."""
    cdef int seg = o.reg & 7                            # REX.R is ignored
    if seg > GS:
        return fault(c, X_UD)
    return write_rm_n(c, o, 2 if o.is_mem else o.size, c.seg[seg].sel)

cdef int MOV_S_E(Cpu* c, Insn* o) noexcept nogil:
    """Interrupts are held off for one instruction after a load of SS (SDM Vol. 3, 6.8.3)."""
    cdef u64 v
    cdef int seg = o.reg & 7
    cdef int st
    if seg > GS or seg == CS:
        return fault(c, X_UD)
    st = read_rm_n(c, o, 2, &v)
    if st == ST_OK:
        st = load_seg(c, seg, <u16>v)
    if st != ST_OK:
        return st
    if seg == SS:
        c.inhibit = INHIBIT_SS
    return branch_next(c, o)

cdef int MOVZX_G_Eb(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 v
    cdef int st = read_rm_n(c, o, 1, &v)
    if st == ST_OK:
        set_reg(c, o, o.reg, o.size, v & 0xFF)
    return st

cdef int MOVZX_G_Ew(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 v
    cdef int st = read_rm_n(c, o, 2, &v)
    if st == ST_OK:
        set_reg(c, o, o.reg, o.size, v & 0xFFFF)
    return st

cdef int MOVSX_G_Eb(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 v
    cdef int st = read_rm_n(c, o, 1, &v)
    if st == ST_OK:
        set_reg(c, o, o.reg, o.size, <u64>sign_extend(v, 1))
    return st

cdef int MOVSX_G_Ew(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 v
    cdef int st = read_rm_n(c, o, 2, &v)
    if st == ST_OK:
        set_reg(c, o, o.reg, o.size, <u64>sign_extend(v, 2))
    return st

cdef int MOVSXD_G_E(Cpu* c, Insn* o) noexcept nogil:
    """r64, r/m32 with REX.W; r32, r/m32 and r16, r/m16 without (a plain MOV)."""
    cdef u64 v
    cdef int n = 2 if o.size == 2 else 4
    cdef int st = read_rm_n(c, o, n, &v)
    if st == ST_OK:
        set_reg(c, o, o.reg, o.size, <u64>sign_extend(v, n))
    return st

cdef int OPCODE_63(Cpu* c, Insn* o) noexcept nogil:
    """MOVSXD in 64-bit mode, ARPL Ew,Gw elsewhere."""
    if c.mode & MODE_64:
        return MOVSXD_G_E(c, o)
    o.size = 2
    return ARPL_E_G(c, o)

cdef int MOVBE_G_M(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 v
    cdef int st = read_rm(c, o, &v)
    if st == ST_OK:
        set_reg(c, o, o.reg, o.size, xf_bswap(v, o.size))
    return st

cdef int MOVBE_M_G(Cpu* c, Insn* o) noexcept nogil:
    return write_rm(c, o, xf_bswap(get_reg(c, o, o.reg, o.size), o.size))

cdef int BSWAP_Z(Cpu* c, Insn* o) noexcept nogil:
    """Of a 16-bit register the result is undefined; processors give 0."""
    cdef u64 v = get_reg(c, o, o.rm, o.size)
    set_reg(c, o, o.rm, o.size, 0 if o.size == 2 else xf_bswap(v, o.size))
    return ST_OK

cdef int LEA_G_M(Cpu* c, Insn* o) noexcept nogil:
    set_reg(c, o, o.reg, o.size, operand_off(c, o))
    return ST_OK

# ---------------------------------------------------------------------------------------------------------------------
cdef int XCHG_E_G(Cpu* c, Insn* o) noexcept nogil:
    """With memory always locked, LOCK or not (SDM Vol. 3, 8.1.2.1)."""
    cdef Rmw m
    cdef u64 a
    cdef u64 b = get_reg(c, o, o.reg, o.size)
    cdef int st
    if o.is_mem:
        o.prefix |= PFX_LOCK
    while True:
        st = rmw_begin(c, o, &m, &a)
        if st != ST_OK:
            return st
        st = rmw_end(c, o, &m, b)
        if st != RMW_AGAIN:
            break
    if st == ST_OK:
        set_reg(c, o, o.reg, o.size, a)
    return st

cdef int XCHG_Z_A(Cpu* c, Insn* o) noexcept nogil:
    """90 is NOP, or PAUSE, and leaves the upper half of RAX alone; with REX.B it exchanges with R8, F3 or not."""
    cdef u64 a
    if o.rm == RAX:
        return ST_OK
    a = get_reg(c, o, RAX, o.size)
    set_reg(c, o, RAX, o.size, get_reg(c, o, o.rm, o.size))
    set_reg(c, o, o.rm, o.size, a)
    return ST_OK

cdef int CMOV_G_E(Cpu* c, Insn* o) noexcept nogil:
    """The source is read, and a 32-bit destination zero-extended, whether or not the condition holds."""
    cdef u64 v
    cdef int st = read_rm(c, o, &v)
    if st != ST_OK:
        return st
    if not cond(c, o.cc):
        v = get_reg(c, o, o.reg, o.size)
    set_reg(c, o, o.reg, o.size, v)
    return ST_OK

cdef int SET_E(Cpu* c, Insn* o) noexcept nogil:
    return write_rm(c, o, cond(c, o.cc))

cdef int XLAT(Cpu* c, Insn* o) noexcept nogil:
    """AL = [rBX + AL]; the row calls it an X operand for the sake of the segment override."""
    cdef u64 off = c.r[RBX] + (c.r[RAX] & 0xFF)
    cdef u64 lin, v
    cdef int st
    if o.asize != 8:
        off = <u32>off if o.asize == 4 else <u16>off
    st = linear(c, o.seg, off, 1, False, &lin)
    if st == ST_OK:
        st = mem_read(c, lin, 1, &v)
    if st == ST_OK:
        c.r[RAX] = (c.r[RAX] & ~<u64>0xFF) | (v & 0xFF)
    return st

cdef int CBW(Cpu* c, Insn* o) noexcept nogil:
    """CBW, CWDE, CDQE: the lower half of the accumulator, sign-extended."""
    set_reg(c, o, RAX, o.size, <u64>sign_extend(c.r[RAX], o.size >> 1))
    return ST_OK

cdef int CWD(Cpu* c, Insn* o) noexcept nogil:
    """CWD, CDQ, CQO: rDX filled with the sign of rAX."""
    set_reg(c, o, RDX, o.size, <u64>(sign_extend(c.r[RAX], o.size) >> 63))
    return ST_OK
