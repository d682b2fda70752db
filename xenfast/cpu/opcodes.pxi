# The opcode table: its shape, and the functions that write its rows.
#
# The rows themselves stand in opcodes_*.pxi in the order of SDM Vol. 2, appendix A.  A row says everything decoding needs to know in the
# notation of that appendix; what the letters mean is in docs/design.md, "The opcode table".

ctypedef int (*exec_t)(Cpu*, Insn*) noexcept nogil

cdef enum:               # opcode maps; key = map | opcode byte
    MAP_1 = 0
    MAP_0F = 0x100
    MAP_0F38 = 0x200
    MAP_0F3A = 0x300
    MAP_V0F = 0x400      # VEX.mmmmm = 1, 2, 3
    MAP_V0F38 = 0x500
    MAP_V0F3A = 0x600
    MAP_COUNT = 7

cdef enum:               # attributes
    A_LOCK = 1
    A_I64 = 2
    A_O64 = 4
    A_D64 = 8
    A_F64 = 0x10
    A_END = 0x20
    A_JCC = 0x40
    A_PRIV = 0x80
    A_MEM = 0x100
    A_REG = 0x200
    A_FPU = 0x400
    A_SSE = 0x800
    A_NP = 0x1000
    A_66 = 0x2000
    A_F3 = 0x4000
    A_F2 = 0x8000
    A_MMX = 0x10000      # with A_FPU: what CR0.EM means for MMX
    A_AVX = 0x20000      # VEX on vector registers: CR4.OSXSAVE, XCR0 and CR0.TS are checked before exec
    A_L0 = 0x40000       # #UD unless VEX.L is 0, 1; VEX.W is 0, 1
    A_L1 = 0x80000
    A_W0 = 0x100000
    A_W1 = 0x200000
    A_HREG = 0x400000    # H is an operand of the register form only: with memory VEX.vvvv must be 1111b
    A_PREFIXES = 0xF000

cdef enum:               # what the operand string says (Row.form)
    F_MODRM = 1
    F_IMM8 = 2           # Ib, sign-extended
    F_IMM16 = 4
    F_IMMZ = 8           # 16 or 32 bits
    F_IMMV = 0x10        # 16, 32 or 64 bits
    F_REL8 = 0x20
    F_RELZ = 0x40
    F_FAR = 0x80
    F_MOFFS = 0x100
    F_OPREG = 0x200      # register in the opcode byte
    F_STRING = 0x400
    F_IMM8_2 = 0x800     # a second immediate byte (ENTER)
    F_REG = 0x2000       # R: a register whatever ModRM.mod says (MOV to and from CR and DR)
    F_HAS_G = 0x1000     # ModRM.reg names a general register (and not a group's instruction)
    F_VVVV = 0x4000      # B, H: VEX.vvvv names a register; elsewhere it must be 1111b
    F_VSIB = 0x8000      # Mvm: memory addressed by a vector of indices (o.imm is the vector register)

cdef enum:               # Row.size: how o.size is found
    S_B = 1
    S_W = 2
    S_D = 4
    S_Q = 8
    S_V = 0x20
    S_Z = 0x21
    S_Y = 0x22
    S_X = 0x23           # vector: 16, or 32 with VEX.L
    S_10 = 10
    S_DQ = 16

cdef enum:               # flags a row reads or writes, for the dead-flag analysis
    F_NONE = 0
    F_CF = 1
    F_PF = 4
    F_AF = 16
    F_ZF = 64
    F_SF = 128
    F_OF = 0x800
    F_ALL = F_CF | F_PF | F_AF | F_ZF | F_SF | F_OF

cdef struct Row:
    exec_t ex
    const char* name
    const char* operands
    u32 attrs
    u32 form
    u16 size
    u16 fl_read
    u16 fl_write
    u16 feature          # feature_id() it needs, 0 for none (opcodes_features.pxi)
    u16 feature_256      # the same with VEX.L
    u16 instead          # the row it is without that feature; ROW_UD: #UD

cdef enum:
    ROW_MAX = 4096
    GROUP_MAX = 256
    ROW_UD = 0
    ROW_HOOK = 1         # what hooks.pxi plants into blocks: no instruction at all
    GROUP_BIT = 0x8000

cdef Row rows[ROW_MAX]
cdef int n_rows = 2
cdef u16 opcode_map[MAP_COUNT * 4 * 256]     # [map][prefix: none 66 F3 F2][byte] -> row, or group | GROUP_BIT
cdef u16 groups[GROUP_MAX][72]               # [group][reg * 9 + (0: memory, 1 + rm: register)] -> row
cdef int n_groups = 0

cdef u16 parse_size(const char* s) noexcept:
    """Size code after an operand letter -> S_*."""
    if s[0] == b'b':
        return S_B
    if s[0] == b'w':
        return S_W
    if s[0] == b'd':
        return S_DQ if s[1] == b'q' else S_D
    if s[0] == b'q':
        return S_X if s[1] == b'q' else S_Q
    if s[0] == b'v':
        return S_V
    if s[0] == b'z':
        return S_Z
    if s[0] == b'y':
        return S_Y
    if s[0] == b't':
        return S_10
    if s[0] == b's' and s[1] == b's':
        return S_D
    if s[0] == b's' and s[1] == b'd':
        return S_Q
    if s[0] == b'p' and s[1] == b'i':
        return S_Q
    if s[0] == b'x' or s[0] == b'p' and (s[1] == b's' or s[1] == b'd'):
        return S_X
    return S_V

cdef void parse_operands(Row* row) noexcept:
    cdef const char* s = row.operands
    cdef bint first = True
    cdef char k
    cdef u16 size
    row.form = 0
    row.size = S_V
    while s[0]:
        k = s[0]
        size = parse_size(s + 1)
        if k in b"EGMRSCDPQNVWUHB" and not is_register_name(s):
            row.form |= F_MODRM | (F_HAS_G if k == b'G' else F_REG if k == b'R' else 0)
            if k == b'H' or k == b'B':
                row.form |= F_VVVV
            if k == b'M' and s[1] == b'v' and s[2] == b'm':
                row.form |= F_VSIB
        elif k == b'Z':
            row.form |= F_OPREG
        elif k == b'I' and not is_register_name(s):
            if row.form & F_IMM16 and size == S_B:
                row.form |= F_IMM8_2
            else:
                row.form |= {S_B: F_IMM8, S_W: F_IMM16, S_Z: F_IMMZ, S_V: F_IMMV}.get(size, F_IMMZ)
        elif k == b'L':
            row.form |= F_IMM8
        elif k == b'J':
            row.form |= F_REL8 if size == S_B else F_RELZ
        elif k == b'A' and s[1] == b'p':
            row.form |= F_FAR
        elif k == b'O':
            row.form |= F_MOFFS
        elif (k == b'X' or k == b'Y'):
            row.form |= F_STRING
        else:
            size = register_size(s)
        if first and not row_is_immediate(k, s):
            row.size = size
            first = False
        while s[0] and s[0] != b',':
            s += 1
        if s[0]:
            s += 1

cdef bint row_is_immediate(char k, const char* s) noexcept:
    """Immediates, relative targets and the port in DX do not say the operand size (if there is nothing else, it is v)."""
    return (k == b'I' or k == b'J') and not is_register_name(s) or k == b'D' and s[1] == b'X'

cdef bint is_register_name(const char* s) noexcept:
    """Upper-case names (DX, CS, ES, SS, DS...) as against operand codes, whose second letter is lower case."""
    return b'A' <= s[1] <= b'Z' and s[1] != 0

cdef u16 register_size(const char* s) noexcept:
    if s[0] == b'r':
        return S_V
    if s[0] == b'e':
        return S_Z
    if s[1] == b'L' or s[1] == b'H':
        return S_B
    if s[0] == b'1' or s[0] == 0 or s[1] == b'S':          # PUSH and POP of a segment register: operand size
        return S_V
    return S_W

cdef u16 add_row(exec_t ex, const char* name, const char* operands, u32 fr, u32 fw, u32 attrs) noexcept:
    global n_rows
    cdef Row* row = &rows[n_rows]
    row.ex = ex
    row.name = name
    row.operands = operands
    row.attrs = attrs
    row.fl_read = fr
    row.fl_write = fw
    parse_operands(row)
    n_rows += 1
    return n_rows - 1

cdef bint serves(u32 attrs, int prefix) noexcept:
    return attrs & A_PREFIXES == 0 or attrs & (A_NP << prefix)

cdef void op(u32 key, exec_t ex, const char* name, const char* operands, u32 fr, u32 fw, u32 attrs) noexcept:
    """A row for every ModRM byte."""
    cdef u16 row = add_row(ex, name, operands, fr, fw, attrs)
    cdef int p
    for p in range(4):
        if serves(attrs, p):
            opcode_map[((key >> 8) * 4 + p) * 256 + (key & 0xFF)] = row

cdef void op_slots(u32 key, int reg, int low, int high, exec_t ex, const char* name, const char* operands, u32 fr, u32 fw,
                   u32 attrs) noexcept:
    """A row for some slots (0 memory, 1 + rm register) of /reg; makes the opcode a group, one for each prefix."""
    global n_groups
    cdef u16 row = add_row(ex, name, operands, fr, fw, attrs)
    cdef int p, i
    cdef u16* slot
    rows[row].form |= F_MODRM
    for p in range(4):
        if not serves(attrs, p):
            continue
        slot = &opcode_map[((key >> 8) * 4 + p) * 256 + (key & 0xFF)]
        if not slot[0] & GROUP_BIT:
            for i in range(72):
                groups[n_groups][i] = slot[0]
            slot[0] = GROUP_BIT | n_groups
            n_groups += 1
        for i in range(low, high):
            groups[slot[0] & 0x7FFF][reg * 9 + i] = row

cdef void op_reg(u32 key, int reg, exec_t ex, const char* name, const char* operands, u32 fr, u32 fw, u32 attrs) noexcept:
    op_slots(key, reg, 0, 9, ex, name, operands, fr, fw, attrs)

cdef void op_mem(u32 key, int reg, exec_t ex, const char* name, const char* operands, u32 fr, u32 fw, u32 attrs) noexcept:
    op_slots(key, reg, 0, 1, ex, name, operands, fr, fw, attrs)

cdef void op_mod3(u32 key, int reg, exec_t ex, const char* name, const char* operands, u32 fr, u32 fw, u32 attrs) noexcept:
    op_slots(key, reg, 1, 9, ex, name, operands, fr, fw, attrs)

cdef void op_rm(u32 key, int reg, int rm, exec_t ex, const char* name, const char* operands, u32 fr, u32 fw,
                u32 attrs) noexcept:
    op_slots(key, reg, 1 + rm, 2 + rm, ex, name, operands, fr, fw, attrs)

cdef int UD(Cpu* c, Insn* o) noexcept nogil:
    """What is not in the table, not legal here, or not there yet: #UD, remembered with its bytes."""
    log_unknown(c, UNKNOWN_OPCODE, <u64>o.imm)
    return fault(c, X_UD)

cdef void init_opcodes() noexcept:
    if n_rows > 2:
        return
    rows[ROW_UD].ex = UD
    rows[ROW_UD].name = b"(bad)"
    rows[ROW_UD].operands = b""
    rows[ROW_UD].attrs = A_END
    rows[ROW_HOOK].ex = HOOK_SITE
    rows[ROW_HOOK].name = b"(hook)"
    rows[ROW_HOOK].operands = b""
    rows_1byte()
    rows_0f()
    rows_x87()
    rows_sse()
    rows_sse4()
    rows_bmi()
    rows_vex()
