# Which instructions are translated one for one, and how: the table of rules.
#
# A rule says how the host's instruction is written for an exec function: the same opcode, with ModRM made anew because guest registers
# and memory live elsewhere.  Opcodes: SDM Vol. 2, appendix A.  What has no rule is left to its exec function.

cdef enum:               # JitRule.kind
    JK_NONE = 0          # call the exec function
    JK_MODRM = 1         # a ModRM instruction by the fields below
    JK_SSE = 2           # an SSE instruction, verbatim
    JK_LEA = 3
    JK_MOV_IMM = 4
    JK_PUSH = 5
    JK_POP = 6
    JK_LEAVE = 7
    JK_JMP = 8
    JK_JMP_IND = 9
    JK_JCC = 10
    JK_CALL = 11
    JK_CALL_IND = 12
    JK_RET = 13
    JK_NOP = 14
    JK_PLAIN = 15        # no operands: opcode alone (size 8: REX.W, 2: 66)
    JK_XCHG_A = 16
    JK_BSWAP = 17
    JK_DIV = 18
    JK_IDIV = 19

cdef enum:               # JitRule.flags
    JR_ACC = 1           # the E operand is the accumulator
    JR_REG = 2           # register form only: memory goes to the exec function
    JR_MEM = 4           # memory form only
    JR_TEMP = 8          # a guest register kept in memory must pass through a host register
    JR_CC = 16           # add the condition to the opcode
    JR_ALU_IMM = 32      # 80, 81 or 83 by the immediate
    JR_BITS_COUNT = 64   # a shift by an immediate: a count of 0 changes nothing
    JR_ROTATE = 128      # as JR_BITS_COUNT, and only CF and OF are written
    JR_ROTATE_CF = 256   # RCL, RCR

cdef enum:               # JitRule.imm
    JI_NONE = 0
    JI_BYTE = 1
    JI_FULL = 2

cdef struct JitRule:
    exec_t ex
    u8 kind
    u8 map_
    u8 pfx
    u8 opc               # for operands of 2, 4, 8 bytes
    u8 opc_byte          # for bytes
    i8 ext               # opcode extension in ModRM.reg, or -1: a G operand
    u8 e_acc             # 1 read, 2 written
    u8 g_acc
    u8 imm
    u8 esize             # size of E where it is not o.size
    u16 flags
    u8 needs             # HOST_* features

cdef struct SseShape:
    u8 ok
    u8 mem_size          # bytes of the memory operand; MEM_VECTOR: 16, or 32 with VEX.L, or less
    u8 aligned
    u8 stores            # the first operand is memory or W
    u8 gpr               # 1: ModRM.reg is a general register, 2: ModRM.rm is

cdef enum:
    RULE_MAX = 160
    MEM_VECTOR = 255

cdef JitRule jit_rules[RULE_MAX]
cdef int n_jit_rules = 1
cdef u8 row_rule[ROW_MAX]
cdef SseShape row_sse[ROW_MAX]
cdef u8 row_x87[ROW_MAX]

cdef JitRule* rule(exec_t ex, int kind) noexcept:
    global n_jit_rules
    cdef JitRule* r = &jit_rules[n_jit_rules]
    memset(r, 0, sizeof(JitRule))
    r.ex, r.kind, r.ext = ex, kind, -1
    n_jit_rules += 1
    return r

cdef JitRule* modrm(exec_t ex, int map_, int opc, int opc_byte, int ext, int e_acc, int g_acc, int imm, int flags) noexcept:
    cdef JitRule* r = rule(ex, JK_MODRM)
    r.map_, r.opc, r.opc_byte, r.ext, r.e_acc, r.g_acc, r.imm, r.flags = map_, opc, opc_byte, ext, e_acc, g_acc, imm, flags
    return r

cdef void alu_rules(int k, exec_t e_g, exec_t g_e, exec_t a_i, exec_t e_i) noexcept:
    cdef int rw = 1 if k == 7 else 3
    modrm(e_g, 0, 8 * k + 1, 8 * k, -1, rw, 1, JI_NONE, 0)
    modrm(g_e, 0, 8 * k + 3, 8 * k + 2, -1, 1, rw, JI_NONE, 0)
    modrm(a_i, 0, 0x81, 0x80, k, rw, 0, JI_FULL, JR_ACC | JR_ALU_IMM)
    modrm(e_i, 0, 0x81, 0x80, k, rw, 0, JI_FULL, JR_ALU_IMM)

cdef void shift_rules(int k, exec_t by_1, exec_t by_i, exec_t by_cl, int flags) noexcept:
    modrm(by_1, 0, 0xD1, 0xD0, k, 3, 0, JI_NONE, 0)
    modrm(by_i, 0, 0xC1, 0xC0, k, 3, 0, JI_BYTE, flags)
    modrm(by_cl, 0, 0xD3, 0xD2, k, 3, 0, JI_NONE, 0)

cdef void bit_rules(int k, int opc, exec_t e_g, exec_t e_i) noexcept:
    cdef int rw = 1 if k == 4 else 3
    modrm(e_g, 1, opc, opc, -1, rw, 1, JI_NONE, JR_REG | JR_TEMP)
    modrm(e_i, 1, 0xBA, 0xBA, k, rw, 0, JI_BYTE, JR_TEMP)

cdef void count_rule(exec_t ex, int pfx, int opc, int needs) noexcept:
    cdef JitRule* r = modrm(ex, 1, opc, opc, -1, 1, 2, JI_NONE, 0)
    r.pfx, r.needs = pfx, needs

cdef void extend_rule(exec_t ex, int opc, int esize) noexcept:
    modrm(ex, 1, opc, opc, -1, 1, 2, JI_NONE, 0).esize = esize

cdef void init_jit_rules() noexcept:
    alu_rules(0, ADD_E_G, ADD_G_E, ADD_A_I, ADD_E_I)
    alu_rules(1, OR_E_G, OR_G_E, OR_A_I, OR_E_I)
    alu_rules(2, ADC_E_G, ADC_G_E, ADC_A_I, ADC_E_I)
    alu_rules(3, SBB_E_G, SBB_G_E, SBB_A_I, SBB_E_I)
    alu_rules(4, AND_E_G, AND_G_E, AND_A_I, AND_E_I)
    alu_rules(5, SUB_E_G, SUB_G_E, SUB_A_I, SUB_E_I)
    alu_rules(6, XOR_E_G, XOR_G_E, XOR_A_I, XOR_E_I)
    alu_rules(7, CMP_E_G, CMP_G_E, CMP_A_I, CMP_E_I)
    modrm(TEST_E_G, 0, 0x85, 0x84, -1, 1, 1, JI_NONE, 0)
    modrm(TEST_E_I, 0, 0xF7, 0xF6, 0, 1, 0, JI_FULL, 0)
    modrm(TEST_A_I, 0, 0xF7, 0xF6, 0, 1, 0, JI_FULL, JR_ACC)
    modrm(MOV_E_G, 0, 0x89, 0x88, -1, 2, 1, JI_NONE, 0)
    modrm(MOV_G_E, 0, 0x8B, 0x8A, -1, 1, 2, JI_NONE, 0)
    modrm(MOV_E_I, 0, 0xC7, 0xC6, 0, 2, 0, JI_FULL, 0)
    rule(MOV_Z_I, JK_MOV_IMM)
    extend_rule(MOVZX_G_Eb, 0xB6, 1)
    extend_rule(MOVZX_G_Ew, 0xB7, 2)
    extend_rule(MOVSX_G_Eb, 0xBE, 1)
    extend_rule(MOVSX_G_Ew, 0xBF, 2)
    modrm(OPCODE_63, 0, 0x63, 0x63, -1, 1, 2, JI_NONE, 0).esize = 4
    rule(LEA_G_M, JK_LEA)
    modrm(INC_E, 0, 0xFF, 0xFE, 0, 3, 0, JI_NONE, 0)
    modrm(DEC_E, 0, 0xFF, 0xFE, 1, 3, 0, JI_NONE, 0)
    modrm(NOT_E, 0, 0xF7, 0xF6, 2, 3, 0, JI_NONE, 0)
    modrm(NEG_E, 0, 0xF7, 0xF6, 3, 3, 0, JI_NONE, 0)
    modrm(MUL_E, 0, 0xF7, 0xF6, 4, 1, 0, JI_NONE, 0)
    modrm(IMUL_E, 0, 0xF7, 0xF6, 5, 1, 0, JI_NONE, 0)
    modrm(IMUL_G_E, 1, 0xAF, 0xAF, -1, 1, 3, JI_NONE, 0)
    modrm(IMUL_G_E_I, 0, 0x69, 0x69, -1, 1, 2, JI_FULL, 0)
    rule(DIV_E, JK_DIV)
    rule(IDIV_E, JK_IDIV)
    shift_rules(0, ROL_E_1, ROL_E_I, ROL_E_CL, JR_BITS_COUNT | JR_ROTATE)
    shift_rules(1, ROR_E_1, ROR_E_I, ROR_E_CL, JR_BITS_COUNT | JR_ROTATE)
    shift_rules(2, RCL_E_1, RCL_E_I, RCL_E_CL, JR_BITS_COUNT | JR_ROTATE | JR_ROTATE_CF)
    shift_rules(3, RCR_E_1, RCR_E_I, RCR_E_CL, JR_BITS_COUNT | JR_ROTATE | JR_ROTATE_CF)
    shift_rules(4, SHL_E_1, SHL_E_I, SHL_E_CL, JR_BITS_COUNT)
    shift_rules(5, SHR_E_1, SHR_E_I, SHR_E_CL, JR_BITS_COUNT)
    shift_rules(7, SAR_E_1, SAR_E_I, SAR_E_CL, JR_BITS_COUNT)
    modrm(SHLD_E_G_I, 1, 0xA4, 0xA4, -1, 3, 1, JI_BYTE, 0)
    modrm(SHLD_E_G_CL, 1, 0xA5, 0xA5, -1, 3, 1, JI_NONE, 0)
    modrm(SHRD_E_G_I, 1, 0xAC, 0xAC, -1, 3, 1, JI_BYTE, 0)
    modrm(SHRD_E_G_CL, 1, 0xAD, 0xAD, -1, 3, 1, JI_NONE, 0)
    bit_rules(4, 0xA3, BT_E_G, BT_E_I)
    bit_rules(5, 0xAB, BTS_E_G, BTS_E_I)
    bit_rules(6, 0xB3, BTR_E_G, BTR_E_I)
    bit_rules(7, 0xBB, BTC_E_G, BTC_E_I)
    modrm(BSF_G_E, 1, 0xBC, 0xBC, -1, 1, 3, JI_NONE, 0)
    modrm(BSR_G_E, 1, 0xBD, 0xBD, -1, 1, 3, JI_NONE, 0)
    count_rule(TZCNT_G_E, 0xF3, 0xBC, HOST_BMI)
    count_rule(LZCNT_G_E, 0xF3, 0xBD, HOST_BMI)
    count_rule(POPCNT_G_E, 0xF3, 0xB8, HOST_BMI)
    modrm(XCHG_E_G, 0, 0x87, 0x86, -1, 3, 3, JI_NONE, JR_TEMP)
    modrm(CMPXCHG_E_G, 1, 0xB1, 0xB0, -1, 3, 1, JI_NONE, JR_MEM)
    modrm(XADD_E_G, 1, 0xC1, 0xC0, -1, 3, 3, JI_NONE, JR_MEM)
    modrm(SET_E, 1, 0x90, 0x90, 0, 2, 0, JI_NONE, JR_CC)
    modrm(CMOV_G_E, 1, 0x40, 0x40, -1, 1, 3, JI_NONE, JR_CC)
    rule(BSWAP_Z, JK_BSWAP)
    rule(XCHG_Z_A, JK_XCHG_A)
    rule(NOP, JK_NOP)
    rule(CBW, JK_PLAIN).opc = 0x98
    rule(CWD, JK_PLAIN).opc = 0x99
    rule(CLC, JK_PLAIN).opc = 0xF8
    rule(STC, JK_PLAIN).opc = 0xF9
    rule(CMC, JK_PLAIN).opc = 0xF5
    rule(PUSH_Z, JK_PUSH)
    rule(PUSH_I, JK_PUSH)
    rule(POP_Z, JK_POP)
    rule(LEAVE, JK_LEAVE)
    rule(JMP_J, JK_JMP)
    rule(JMP_E, JK_JMP_IND)
    rule(JCC_J, JK_JCC)
    rule(CALL_J, JK_CALL)
    rule(CALL_E, JK_CALL_IND)
    rule(RET, JK_RET)
    bind_rules()

cdef void bind_rules() noexcept:
    cdef int i, k
    for i in range(n_rows):
        row_rule[i] = 0
        row_x87[i] = x87_in_line(i)
        if rows[i].attrs & (A_SSE | A_AVX):
            sse_shape(i)
            continue
        for k in range(1, n_jit_rules):
            if jit_rules[k].ex == rows[i].ex and not rows[i].attrs & (A_PRIV | A_FPU | A_AVX):
                row_rule[i] = k

# ---- SSE ------------------------------------------------------------------------------------------------------------
cdef int sse_operand_size(const char* s) noexcept:
    """Bytes of a memory operand after its letter."""
    if s[0] == b's':
        return 4 if s[1] == b's' else 8
    if s[0] == b'q':
        return 8
    if s[0] == b'd':
        return 16 if s[1] == b'q' else 4
    if s[0] == b'x' or s[0] == b'p':
        return 16
    return 0

cdef void sse_shape(int i) noexcept:
    """From the operand string: what the memory operand and the general register are, or that the row is not for us."""
    cdef exec_t* not_these = [
        LDMXCSR_Md, STMXCSR_Md, MASKMOVDQU_Vdq_Udq, RCPPS_Vx_Wx, RCPSS_Vss_Wss, RSQRTPS_Vx_Wx, RSQRTSS_Vss_Wss,
        PCMPESTRM_Vdq_Wdq_Ib, PCMPESTRI_Vdq_Wdq_Ib, PCMPISTRM_Vdq_Wdq_Ib, PCMPISTRI_Vdq_Wdq_Ib, NULL]
    cdef exec_t* general = [MOVD_Vy_Ey, MOVD_Ey_Vy, CVTSI2SS_Vss_Ey, CVTSI2SD_Vsd_Ey, NULL]
    cdef SseShape* s = &row_sse[i]
    cdef const char* p = rows[i].operands
    cdef bint avx = rows[i].attrs & A_AVX
    cdef int k = 0
    memset(s, 0, sizeof(SseShape))
    if rows[i].form & F_VSIB or (avx and p[0] == 0 and rows[i].name[0] != b'V'):
        return
    while not_these[k] != NULL:
        if rows[i].ex == not_these[k]:
            return
        k += 1
    if p[0] in b"WME":
        s.stores = 1
    while p[0]:
        if p[0] in b"PQN" or (p[0] in b"LHB" and not avx):
            return
        if p[0] in b"WM":
            s.mem_size = sse_operand_size(p + 1)
            if avx and (p[1] != b's' or s.mem_size == 0):
                s.mem_size = MEM_VECTOR           # a bound: what VEX.L doubles is not told apart
            if s.mem_size == 0:
                return
        elif p[0] == b'G':
            s.gpr = 1
        elif p[0] == b'E':
            k = 0
            while general[k] != NULL and general[k] != rows[i].ex:
                k += 1
            if general[k] == NULL:
                return
            s.gpr = 2
        while p[0] and p[0] != b',':
            p += 1
        if p[0]:
            p += 1
    s.aligned = s.mem_size == 16 and rows[i].ex != MOVU_Vx_Wx and rows[i].ex != MOVU_Wx_Vx
    if avx:
        s.aligned = rows[i].ex == MOVA_Vx_Wx or rows[i].ex == MOVA_Wx_Vx
    s.ok = 1
