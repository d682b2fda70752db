# The decoder: instruction bytes -> Insn.
#
# SDM Vol. 2, ch. 2 (instruction format), table-driven by opcodes.pxi.  decode() never touches guest memory: it is given the bytes.
# A result of DECODE_MORE says that the bytes end inside the instruction, DECODE_LONG that it has more than 15 bytes (#GP).

cdef enum:
    DECODE_MORE = 0
    DECODE_LONG = -1
    KEY_UD = MAP_0F | 0x0A   # an opcode that is undefined in every mode

cdef struct Bytes:       # a cursor over at most 15 instruction bytes
    const u8* p
    int at
    int avail
    bint short

cdef inline u8 next_byte(Bytes* b) noexcept nogil:
    if b.at >= b.avail:
        b.short = True
        b.at += 1
        return 0
    b.at += 1
    return b.p[b.at - 1]

cdef u64 next_bytes(Bytes* b, int n) noexcept nogil:
    cdef u64 v = 0
    cdef int i
    for i in range(n):
        v |= <u64>next_byte(b) << (8 * i)
    return v

cdef inline i64 sign_extend(u64 v, int n) noexcept nogil:
    return <i64>(v << (64 - 8 * n)) >> (64 - 8 * n)

# Legacy 16-bit addressing (SDM Vol. 2, table 2-1): base, index, default segment.
cdef u8* MODRM16_BASE = [RBX, RBX, RBP, RBP, RSI, RDI, RBP, RBX]
cdef u8* MODRM16_INDEX = [RSI, RDI, RSI, RDI, R_ZERO, R_ZERO, R_ZERO, R_ZERO]
cdef u8* MODRM16_SEG = [DS, DS, SS, SS, DS, DS, SS, DS]

cdef void decode_mem16(Insn* o, Bytes* b, u8 modrm, u8* seg) noexcept nogil:
    cdef int mod = modrm >> 6, rm = modrm & 7
    o.base = MODRM16_BASE[rm]
    o.index = MODRM16_INDEX[rm]
    seg[0] = MODRM16_SEG[rm]
    if mod == 0 and rm == 6:
        o.base = R_ZERO
        seg[0] = DS
        o.disp = next_bytes(b, 2)
    elif mod == 1:
        o.disp = sign_extend(next_byte(b), 1)
    elif mod == 2:
        o.disp = sign_extend(next_bytes(b, 2), 2)

cdef void decode_mem32(Insn* o, Bytes* b, u8 modrm, u8 rex, u32 mode, bint vsib, u8* seg) noexcept nogil:
    """32- and 64-bit addressing (SDM Vol. 2, tables 2-2 and 2-3); vsib: the index, a vector register, goes to o.imm."""
    cdef int mod = modrm >> 6, rm = modrm & 7
    cdef u8 sib
    seg[0] = DS
    if rm == 4:
        sib = next_byte(b)
        o.scale = sib >> 6
        o.index = ((sib >> 3) & 7) | ((rex & 2) << 2)
        if vsib:
            o.imm = o.index
            o.index = R_ZERO
        elif o.index == RSP:
            o.index = R_ZERO
            o.scale = 0
        o.base = (sib & 7) | ((rex & 1) << 3)
        if (sib & 7) == 5 and mod == 0:
            o.base = R_ZERO
            o.disp = sign_extend(next_bytes(b, 4), 4)
    elif rm == 5 and mod == 0:
        o.base = R_RIPBASE if mode & MODE_64 else R_ZERO
        o.disp = sign_extend(next_bytes(b, 4), 4)
    else:
        o.base = rm | ((rex & 1) << 3)
    if mod == 1:
        o.disp = sign_extend(next_byte(b), 1)
    elif mod == 2:
        o.disp = sign_extend(next_bytes(b, 4), 4)
    if o.base == RSP or o.base == RBP:
        seg[0] = SS

cdef int operand_size(Row* row, u32 mode, u8 rex, bint opsize, u8 vex) noexcept nogil:
    cdef int v
    if mode & MODE_64:
        if rex & 8 or row.attrs & A_F64:
            v = 8
        elif row.attrs & A_D64:
            v = 2 if opsize else 8
        else:
            v = 2 if opsize else 4
    else:
        v = 4 if (mode & MODE_CS32 != 0) != opsize else 2
    if row.size == S_V:
        return v
    if row.size == S_Z:
        return 2 if v == 2 else 4
    if row.size == S_Y:
        return 8 if v == 8 else 4
    if row.size == S_X:
        return 32 if vex & VEX_L else 16
    return row.size

cdef int decode(u32 mode, const u8* bytes, int avail, Insn* o) noexcept nogil:
    """Decode one instruction; returns its length, DECODE_MORE or DECODE_LONG.

    o.off must hold the offset from the block's first byte: relative targets and RIP-relative addresses are made relative to that.
    """
    cdef Bytes b
    cdef u8 byte, rex = 0, seg_override = SEG_NONE, seg = DS, rep = 0, modrm = 0
    cdef bint opsize = False, addrsize = False, lock = False, has_modrm = False
    cdef u32 key
    cdef int pfx, imm_size
    cdef u16 index
    cdef i16 off = o.off
    cdef Row* row
    memset(o, 0, sizeof(Insn))
    o.off = off
    o.base = o.index = R_ZERO
    o.next_in = NO_INSN
    b.p, b.at, b.avail, b.short = bytes, 0, avail if avail < 15 else 15, False
    # -- prefixes -----------------------------------------------------------------------------------------------------
    while True:
        byte = next_byte(&b)
        if b.short:
            return DECODE_LONG if b.avail == 15 else DECODE_MORE
        if byte == 0x66:
            opsize = True
        elif byte == 0x67:
            addrsize = True
        elif byte == 0xF0:
            lock = True
        elif byte == 0xF2 or byte == 0xF3:
            rep = byte
        elif byte == 0x26 or byte == 0x2E or byte == 0x36 or byte == 0x3E:
            if not mode & MODE_64:
                seg_override = (byte >> 3) & 3
        elif byte == 0x64 or byte == 0x65:
            seg_override = byte - 0x60
        elif mode & MODE_64 and (byte & 0xF0) == 0x40:
            rex = byte
            continue
        else:
            break
        rex = 0                       # a REX prefix counts only right before the opcode
    # -- opcode -------------------------------------------------------------------------------------------------------
    key = MAP_1 | byte
    if byte == 0x0F:
        byte = next_byte(&b)
        key = MAP_0F | byte
        if byte == 0x38:
            key = MAP_0F38 | next_byte(&b)
        elif byte == 0x3A:
            key = MAP_0F3A | next_byte(&b)
    elif (byte == 0xC4 or byte == 0xC5) and (mode & MODE_64 or (b.at < b.avail and b.p[b.at] >= 0xC0)):
        if lock or opsize or rep or rex or not mode & MODE_PE or mode & MODE_VM:
            key = KEY_UD              # VEX after one of these prefixes, or in real or virtual-8086 mode
        else:
            key = decode_vex(o, &b, mode, byte, &rex, &opsize, &rep)
    pfx = 2 if rep == 0xF3 else 3 if rep == 0xF2 else 1 if opsize else 0
    index = opcode_map[((key >> 8) * 4 + pfx) * 256 + (key & 0xFF)]
    if index & GROUP_BIT:
        modrm = next_byte(&b)
        has_modrm = True
        index = groups[index & 0x7FFF][((modrm >> 3) & 7) * 9 + (1 + (modrm & 7) if modrm >= 0xC0 else 0)]
    row = &rows[index]
    # -- sizes --------------------------------------------------------------------------------------------------------
    if mode & MODE_64:
        o.asize = 4 if addrsize else 8
    else:
        o.asize = 4 if (mode & MODE_CS32 != 0) != addrsize else 2
    o.size = operand_size(row, mode, rex, opsize, o.vex)
    o.cc = key & 15
    o.reg = o.rm = (key & 7) | ((rex & 1) << 3)
    # -- ModRM, SIB, displacement -------------------------------------------------------------------------------------
    if row.form & F_MODRM:
        if not has_modrm:
            modrm = next_byte(&b)
        o.reg = ((modrm >> 3) & 7) | ((rex & 4) << 1)
        if row.attrs & A_FPU:
            o.imm = modrm             # for FOP
        if modrm >= 0xC0 or row.form & F_REG:
            o.rm = (modrm & 7) | ((rex & 1) << 3)
        else:
            o.is_mem = 1
            if row.form & F_VSIB and (o.asize == 2 or modrm & 7 != 4):
                row = &rows[ROW_UD]
                index = ROW_UD
            if o.asize == 2:
                decode_mem16(o, &b, modrm, &seg)
            else:
                decode_mem32(o, &b, modrm, rex, mode, row.form & F_VSIB, &seg)
    # -- immediates ---------------------------------------------------------------------------------------------------
    imm_size = 2 if o.size == 2 or (row.form & (F_RELZ | F_FAR) and v_size(mode, rex, opsize, row) == 2) else 4
    if row.form & F_IMMV and o.size == 8:
        imm_size = 8
    if row.form & (F_IMM8 | F_REL8):
        o.imm = sign_extend(next_byte(&b), 1)
    elif row.form & F_IMM16:
        o.imm = next_bytes(&b, 2)
        if row.form & F_IMM8_2:
            o.disp = next_byte(&b)
    elif row.form & (F_IMMZ | F_IMMV | F_RELZ):
        o.imm = sign_extend(next_bytes(&b, imm_size), imm_size)
    elif row.form & F_FAR:
        o.imm = next_bytes(&b, imm_size)
        o.disp = next_bytes(&b, 2)
    elif row.form & F_MOFFS:
        o.disp = next_bytes(&b, o.asize)
        o.is_mem = 1
    if b.short:
        return DECODE_LONG if b.avail == 15 else DECODE_MORE
    # -- what follows from all of it ----------------------------------------------------------------------------------
    o.len = b.at
    o.seg = seg if seg_override == SEG_NONE else seg_override
    if mode & MODE_64 and o.seg < FS:
        o.seg = SS if seg == SS else DS
    if o.base == R_RIPBASE:
        o.disp += o.off + o.len
    if row.form & (F_REL8 | F_RELZ):
        o.imm += o.off + o.len
    o.prefix = ((PFX_LOCK if lock else 0) | (PFX_REP if rep == 0xF3 else PFX_REPNE if rep else 0)
                | (PFX_OPSIZE if opsize else 0) | (PFX_REX if rex else 0) | PFX_FLAGS_LIVE)
    o.op = index
    if not legal(row, mode, o, lock):
        row = &rows[ROW_UD]
        o.op = ROW_UD
    if not o.vex:
        o.vvvv = o.reg                # the first source of a vector instruction, whatever its encoding
    elif not mode & MODE_64:
        o.vvvv &= 7                   # its high bit is ignored where it names a register
    if o.op == ROW_UD:
        o.imm = 0
        memcpy(&o.imm, bytes, 8 if o.len >= 8 else o.len)
    o.ex = row.ex
    return o.len

cdef inline int v_size(u32 mode, u8 rex, bint opsize, Row* row) noexcept nogil:
    """Operand size of a relative branch: 64-bit mode ignores 66 on near branches (as Intel does)."""
    if mode & MODE_64:
        return 4 if row.attrs & A_F64 else (2 if opsize and not rex & 8 else 4)
    return 4 if (mode & MODE_CS32 != 0) != opsize else 2

cdef inline bint legal(Row* row, u32 mode, Insn* o, bint lock) noexcept nogil:
    if mode & MODE_64:
        if row.attrs & A_I64:
            return False
    elif row.attrs & A_O64:
        return False
    if lock and not (row.attrs & A_LOCK and o.is_mem):
        return False
    if row.attrs & A_MEM and not o.is_mem:
        return False
    if o.vex and not legal_vex(row, o, 15 if mode & MODE_64 else 7):
        return False
    return not (row.attrs & A_REG and o.is_mem)

cdef inline bint legal_vex(Row* row, Insn* o, u8 registers) noexcept nogil:
    """VEX.vvvv, VEX.L and VEX.W where the row names a value for them (SDM Vol. 2, 2.3.5.6 and 2.4, class by class)."""
    if o.vvvv and (not row.form & F_VVVV or row.attrs & A_HREG and o.is_mem):
        return False
    if row.form & F_VSIB and (o.reg == o.vvvv & registers or o.reg == o.imm or o.vvvv & registers == o.imm):
        return False                  # destination, mask and indices are three registers (VGATHERDPS)
    if row.attrs & (A_L0 if o.vex & VEX_L else A_L1):
        return False
    return not row.attrs & (A_W0 if o.vex & VEX_W else A_W1)

cdef u32 decode_vex(Insn* o, Bytes* b, u32 mode, u8 byte, u8* rex, bint* opsize, u8* rep) noexcept nogil:
    """C4 and C5 (SDM Vol. 2, 2.3.5): the fields become REX bits and a mandatory prefix; returns the opcode's key."""
    cdef u8 v = next_byte(b)
    cdef u32 map_ = 1
    cdef u8 r = 0x40
    if not v & 0x80:
        r |= 4
    if byte == 0xC4:
        if not v & 0x40:
            r |= 2
        if not v & 0x20:
            r |= 1
        map_ = v & 31
        v = next_byte(b)
        if v & 0x80:
            r |= 8
            o.vex = VEX_W
    o.vvvv = (~v >> 3) & 15
    o.vex |= VEX_ENCODED | (VEX_L if v & 4 else 0)
    if not mode & MODE_64:
        r &= 0x48                     # eight registers: B is ignored
    opsize[0] = (v & 3) == 1
    rep[0] = 0xF3 if (v & 3) == 2 else 0xF2 if (v & 3) == 3 else 0
    rex[0] = r
    byte = next_byte(b)
    if map_ < 1 or map_ > 3:
        return KEY_UD
    return MAP_V0F + ((map_ - 1) << 8) | byte
