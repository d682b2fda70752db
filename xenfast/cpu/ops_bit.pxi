# Bits: BT BTS BTR BTC, BSF BSR, TZCNT LZCNT POPCNT, CRC32.
#
# SDM Vol. 2.  BTx leave all flags but CF undefined: here they stay.  BSF and BSR of 0 leave the destination alone (as
# all processors do) and set ZF; their other flags are undefined: here those of a logical operation on the source.

cdef enum:               # ModRM.reg of group 8
    BIT_BT = 4
    BIT_BTS = 5
    BIT_BTR = 6
    BIT_BTC = 7

cdef extern from *:
    """
    #define xf_ctz64(v) __builtin_ctzll(v)
    #define xf_clz64(v) __builtin_clzll(v)
    #define xf_popcount64(v) __builtin_popcountll(v)
    """
    int xf_ctz64(u64 v) noexcept nogil
    int xf_clz64(u64 v) noexcept nogil
    int xf_popcount64(u64 v) noexcept nogil

cdef inline u64 bit_result(int op, u64 a, u64 mask) noexcept nogil:
    if op == BIT_BTS:
        return a | mask
    if op == BIT_BTR:
        return a & ~mask
    return a ^ mask

cdef int bit_E_I(Cpu* c, Insn* o, int op, u32 n) noexcept nogil:
    """The bit offset modulo the operand size: register operands, and every immediate."""
    cdef Rmw m
    cdef u64 a
    cdef int st
    n &= 8 * o.size - 1
    if op == BIT_BT:
        st = read_rm(c, o, &a)
        if st == ST_OK:
            set_cf(c, (a >> n) & 1)
        return st
    while True:
        st = rmw_begin(c, o, &m, &a)
        if st != ST_OK:
            return st
        st = rmw_end(c, o, &m, bit_result(op, a, <u64>1 << n))
        if st != RMW_AGAIN:
            break
    if st == ST_OK:
        set_cf(c, (a >> n) & 1)
    return st

cdef int bit_E_G(Cpu* c, Insn* o, int op) noexcept nogil:
    """With memory the register is a signed bit offset: it moves the address by whole operands (SDM Vol. 2, 3.1.1.9)."""
    cdef Rmw m
    cdef u64 a, lin, off
    cdef i64 n = sign_extend(c.r[o.reg], o.size)
    cdef u32 bit = <u32>(n & (8 * o.size - 1))
    cdef int st
    if not o.is_mem:
        return bit_E_I(c, o, op, bit)
    off = operand_off(c, o) + <u64>((n >> 3) & -<i64>o.size)
    if o.asize != 8:
        off = <u32>off if o.asize == 4 else <u16>off
    st = linear(c, o.seg, off, o.size, op != BIT_BT, &lin)
    if st != ST_OK:
        return st
    if op == BIT_BT:
        st = mem_read(c, lin, o.size, &a)
    else:
        while True:
            st = rmw_begin_lin(c, lin, o.size, &m, &a)
            if st != ST_OK:
                return st
            st = rmw_end(c, o, &m, bit_result(op, a, <u64>1 << bit))
            if st != RMW_AGAIN:
                break
    if st == ST_OK:
        set_cf(c, (a >> bit) & 1)
    return st

cdef int BT_E_G(Cpu* c, Insn* o) noexcept nogil:
    return bit_E_G(c, o, BIT_BT)

cdef int BT_E_I(Cpu* c, Insn* o) noexcept nogil:
    return bit_E_I(c, o, BIT_BT, <u32>o.imm)

cdef int BTS_E_G(Cpu* c, Insn* o) noexcept nogil:
    return bit_E_G(c, o, BIT_BTS)

cdef int BTS_E_I(Cpu* c, Insn* o) noexcept nogil:
    return bit_E_I(c, o, BIT_BTS, <u32>o.imm)

cdef int BTR_E_G(Cpu* c, Insn* o) noexcept nogil:
    return bit_E_G(c, o, BIT_BTR)

cdef int BTR_E_I(Cpu* c, Insn* o) noexcept nogil:
    return bit_E_I(c, o, BIT_BTR, <u32>o.imm)

cdef int BTC_E_G(Cpu* c, Insn* o) noexcept nogil:
    return bit_E_G(c, o, BIT_BTC)

cdef int BTC_E_I(Cpu* c, Insn* o) noexcept nogil:
    return bit_E_I(c, o, BIT_BTC, <u32>o.imm)

# ---------------------------------------------------------------------------------------------------------------------
cdef int BSF_G_E(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 v
    cdef int st = read_rm(c, o, &v)
    if st != ST_OK:
        return st
    flags_logic(c, o.size, v)
    if v != 0:
        set_reg(c, o, o.reg, o.size, <u64>xf_ctz64(v))
    return ST_OK

cdef int BSR_G_E(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 v
    cdef int st = read_rm(c, o, &v)
    if st != ST_OK:
        return st
    flags_logic(c, o.size, v)
    if v != 0:
        set_reg(c, o, o.reg, o.size, <u64>(63 - xf_clz64(v)))
    return ST_OK

cdef inline int count_G(Cpu* c, Insn* o, u64 v, u64 r) noexcept nogil:
    """TZCNT and LZCNT: CF says that the source was 0, ZF that the count is."""
    set_reg(c, o, o.reg, o.size, r)
    flags_shift(c, o.size, r, v == 0, 0)
    return ST_OK

cdef int TZCNT_G_E(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 v
    cdef int st = read_rm(c, o, &v)
    if st != ST_OK:
        return st
    return count_G(c, o, v, <u64>xf_ctz64(v) if v != 0 else 8 * o.size)

cdef int LZCNT_G_E(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 v
    cdef int st = read_rm(c, o, &v)
    if st != ST_OK:
        return st
    return count_G(c, o, v, <u64>(xf_clz64(v) - (64 - 8 * o.size)) if v != 0 else 8 * o.size)

cdef int POPCNT_G_E(Cpu* c, Insn* o) noexcept nogil:
    """All six flags are defined: ZF, and 0 for the others."""
    cdef u64 v
    cdef int st = read_rm(c, o, &v)
    if st != ST_OK:
        return st
    set_reg(c, o, o.reg, o.size, <u64>xf_popcount64(v))
    set_arith(c, FL_ZF if v == 0 else 0)
    return ST_OK

# ---------------------------------------------------------------------------------------------------------------------
cdef u32[256] CRC32C_TABLE         # CRC of a byte, polynomial 11EDC6F41h reflected; filled by crc32c_init

cdef void crc32c_init() noexcept:
    cdef u32 i, k, v
    for i in range(256):
        v = i
        for k in range(8):
            v = (v >> 1) ^ (0x82F63B78 if v & 1 else 0)
        CRC32C_TABLE[i] = v

cdef inline int crc32_G(Cpu* c, Insn* o, int size) noexcept nogil:
    """Accumulates size bytes of E into the 32 low bits of G; the upper half becomes 0."""
    cdef u64 v
    cdef u32 crc = <u32>c.r[o.reg]
    cdef int k
    cdef int st = read_rm_n(c, o, size, &v)
    if st != ST_OK:
        return st
    for k in range(size):
        crc = (crc >> 8) ^ CRC32C_TABLE[(crc ^ v) & 0xFF]
        v >>= 8
    c.r[o.reg] = crc
    return ST_OK

cdef int CRC32_G_Eb(Cpu* c, Insn* o) noexcept nogil:
    return crc32_G(c, o, 1)

cdef int CRC32_G_Ev(Cpu* c, Insn* o) noexcept nogil:
    return crc32_G(c, o, 8 if o.size == 8 else 2 if wants_16(c, o) else 4)

cdef inline bint wants_16(Cpu* c, Insn* o) noexcept nogil:
    """Operand size 16, where o.size is that of another operand."""
    return ((c.mode & (MODE_64 | MODE_CS32)) == 0) != ((o.prefix & PFX_OPSIZE) != 0)
