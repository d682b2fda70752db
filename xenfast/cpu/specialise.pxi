# Choosing a threaded handler for every instruction of a block.
#
# threaded.pxi (generated) enters its handlers by exec function, width, operand form and address shape; opcode rows
# are bound to those entries once, when the module is imported.  Flags are dead when a later instruction of the block
# sets them all and nothing in between reads them or can fault: the flags of a fault's frame are always exact.

cdef enum:
    FAST_MAX = 128
    KILLS_FLAGS = 1      # sets all six flags, whatever the operands
    PURE = 2             # touches no flag, cannot fault (register form)

cdef struct FastSet:     # the threaded handlers of one exec function
    exec_t ex
    int kind             # KILLS_FLAGS, PURE, of the register form
    handler_t reg[4][2]              # [log2 size][flags live]
    handler_t mem[4][2]              # [log2 size][index used]
    handler_t fused_reg[4][16][2]    # with a Jcc behind it: [log2 size][condition][flags live]
    handler_t fused_mem[4][2][16][2]

cdef FastSet fast_sets[FAST_MAX]
cdef int n_fast = 1                  # 0: no handlers
cdef u8 row_fast[ROW_MAX]
cdef handler_t jcc_handlers[16]
cdef handler_t set_handlers[16]
cdef handler_t cmov_handlers[16][2]

cdef inline int log2_size(int size) noexcept nogil:
    return 3 if size == 8 else 2 if size == 4 else 1 if size == 2 else 0

cdef FastSet* fast_set(exec_t ex) noexcept:
    global n_fast
    cdef int i
    for i in range(1, n_fast):
        if fast_sets[i].ex == ex:
            return &fast_sets[i]
    fast_sets[n_fast].ex = ex
    n_fast += 1
    return &fast_sets[n_fast - 1]

cdef void fast(exec_t ex, int size, bint mem, int index, bint live, handler_t h) noexcept:
    """Enter a handler; one for live flags serves dead ones too until another is entered."""
    cdef FastSet* s = fast_set(ex)
    cdef int k = log2_size(size)
    if mem:
        s.mem[k][index] = h
        return
    s.reg[k][live] = h
    if live and s.reg[k][0] == NULL:
        s.reg[k][0] = h

cdef void fast_fused(exec_t ex, int size, bint mem, int index, int cc, bint live, handler_t h) noexcept:
    if mem:
        fast_set(ex).fused_mem[log2_size(size)][index][cc][live] = h
    else:
        fast_set(ex).fused_reg[log2_size(size)][cc][live] = h

cdef void fast_cc(int cc, handler_t jcc, handler_t setcc, handler_t cmov4, handler_t cmov8) noexcept:
    jcc_handlers[cc] = jcc
    set_handlers[cc] = setcc
    cmov_handlers[cc][0] = cmov4
    cmov_handlers[cc][1] = cmov8

cdef void init_specialise() noexcept:
    cdef exec_t* kills = [
        ADD_E_G, ADD_G_E, ADD_A_I, ADD_E_I, OR_E_G, OR_G_E, OR_A_I, OR_E_I, AND_E_G, AND_G_E, AND_A_I, AND_E_I,
        SUB_E_G, SUB_G_E, SUB_A_I, SUB_E_I, XOR_E_G, XOR_G_E, XOR_A_I, XOR_E_I, CMP_E_G, CMP_G_E, CMP_A_I, CMP_E_I,
        TEST_E_G, TEST_A_I, TEST_E_I, NEG_E, SHL_E_1, SHR_E_1, SAR_E_1, IMUL_G_E, IMUL_G_E_I, NULL]
    cdef exec_t* pure = [
        MOV_E_G, MOV_G_E, MOV_E_I, MOV_Z_I, MOVZX_G_Eb, MOVZX_G_Ew, MOVSX_G_Eb, MOVSX_G_Ew, OPCODE_63, XCHG_E_G, CBW, CWD, NOT_E, NOP,
        NULL]
    cdef int i
    init_threaded()
    init_vec_handlers()
    i = 0
    while kills[i] != NULL:
        fast_set(kills[i]).kind = KILLS_FLAGS
        i += 1
    i = 0
    while pure[i] != NULL:
        fast_set(pure[i]).kind = PURE
        i += 1
    for i in range(n_rows):
        row_fast[i] = fast_index(rows[i].ex)

cdef u8 fast_index(exec_t ex) noexcept:
    cdef int i
    for i in range(1, n_fast):
        if fast_sets[i].ex == ex:
            return i
    return 0

cdef inline bint is_accumulator(exec_t ex) noexcept nogil:
    """Forms whose register is AL, AX, EAX, RAX by opcode."""
    return (ex == ADD_A_I or ex == OR_A_I or ex == ADC_A_I or ex == SBB_A_I or ex == AND_A_I or ex == SUB_A_I or ex == XOR_A_I
            or ex == CMP_A_I or ex == TEST_A_I)

cdef inline bint high_byte(Insn* o) noexcept nogil:
    """May a byte operand be AH, CH, DH or BH?"""
    if o.prefix & PFX_REX:
        return False
    if o.size == 1 and ((rows[o.op].form & F_HAS_G and <u8>(o.reg - 4) < 4) or (not o.is_mem and <u8>(o.rm - 4) < 4)):
        return True
    return (o.ex == MOVZX_G_Eb or o.ex == MOVSX_G_Eb) and not o.is_mem and <u8>(o.rm - 4) < 4

cdef inline bint ordinary(Insn* o, u32 mode) noexcept nogil:
    """Is the instruction of the kind threaded handlers are for?"""
    cdef u32 attrs = rows[o.op].attrs
    if attrs & (A_PRIV | A_FPU | A_SSE | A_AVX) or o.prefix & (PFX_LOCK | PFX_REP | PFX_REPNE) or o.size > 8:
        return False
    if o.is_mem or attrs & (A_END | A_D64 | A_F64) or o.size == 8:
        if not mode & MODE_64:
            return False
    if o.is_mem:
        if o.asize != 8:
            return False
        if o.seg >= FS and o.ex != LEA_G_M:
            if o.index != R_ZERO:
                return False
            o.index = R_SEG + o.seg          # the segment's base as index; operand_lin() then adds DS's, which is 0
            o.scale = 0
            o.seg = DS
    return not high_byte(o)

cdef inline handler_t pick(Insn* o, bint live, u32 mode) noexcept nogil:
    """The handler of one instruction."""
    cdef FastSet* s
    cdef handler_t h = NULL
    if unlikely(o.op == ROW_HOOK):
        return hook_handler(o)
    if rows[o.op].attrs & A_JCC:
        if mode & MODE_64:
            return jcc_handlers[o.cc]
        return generic_handler(o)
    if rows[o.op].attrs & A_SSE:
        return sse_handler(o, mode)
    if not ordinary(o, mode):
        return generic_handler(o)
    if o.ex == SET_E and not o.is_mem:
        return set_handlers[o.cc]
    if o.ex == CMOV_G_E and not o.is_mem and o.size >= 4:
        return cmov_handlers[o.cc][o.size == 8]
    if is_accumulator(o.ex):
        o.rm = RAX
    s = &fast_sets[row_fast[o.op]]
    if o.is_mem:
        h = s.mem[log2_size(o.size)][o.index != R_ZERO]
    else:
        h = s.reg[log2_size(o.size)][live]
    return h if h != NULL else generic_handler(o)

cdef inline handler_t pick_fused(Insn* o, bint live, u32 mode) noexcept nogil:
    """A handler for o and the Jcc behind it, or NULL."""
    cdef FastSet* s = &fast_sets[row_fast[o.op]]
    if not mode & MODE_64 or not rows[(o + 1).op].attrs & A_JCC or not ordinary(o, mode):
        return NULL
    if is_accumulator(o.ex):
        o.rm = RAX
    if o.is_mem:
        return s.fused_mem[log2_size(o.size)][o.index != R_ZERO][(o + 1).cc][live]
    return s.fused_reg[log2_size(o.size)][(o + 1).cc][live]

cdef inline int flag_kind(Insn* o, bint live) noexcept nogil:
    """What o does to flags that are (not) live behind it: KILLS_FLAGS, PURE, or 0 for a reader or what may fault."""
    cdef int kind = 0 if o.is_mem or o.prefix & PFX_LOCK else fast_sets[row_fast[o.op]].kind
    if o.ex == LEA_G_M or (o.op == ROW_HOOK and o.ex != HOOK_SITE):
        return PURE
    if o.ex == OPCODE_63 and o.asize != 8:
        return 0                             # ARPL: sets ZF, and is undefined in real mode
    if not live and not o.is_mem and (o.ex == INC_E or o.ex == DEC_E):
        return PURE                          # its flags are dead, CF and all
    if (o.ex == SHL_E_I or o.ex == SHR_E_I or o.ex == SAR_E_I) and not o.is_mem and o.size >= 4 and o.imm & 31:
        return KILLS_FLAGS
    return kind

cdef bint dead_at(Cpu* c, Block* b, const u8* host, i64 off) noexcept nogil:
    """Does the code at this offset of the block's page set all flags before anything can see them?

    The bytes looked at count as decoded: should they be written, this block goes too.  Never so in an exact run, which may stop, or be
    interrupted, at the branch and show the flags.
    """
    cdef Insn o
    cdef i64 start = <i64>(b.maddr & 4095)
    cdef int i, length
    if c.exact or c.hook_on & HOOK_ALL_CODE or b.mfn2 != NO_FRAME or start + off < 0 or start + off >= 4096:
        return False
    for i in range(4):
        o.off = 0
        length = decode_for(c, host + off, 4096 - <int>(start + off), &o)
        if length <= 0:
            return False
        mark_code(c, b.maddr >> 12, start + off, start + off + length - 1)
        if flag_kind(&o, True) == KILLS_FLAGS:
            return True
        if flag_kind(&o, True) != PURE:
            return False
        off += length
        if start + off >= 4096:
            return False
    return False

cdef void specialise(Cpu* c, Block* b, Insn* first, const u8* host, u32 n, i64 end) noexcept nogil:
    """Give each of the block's n instructions its handler, from the last to the first so that dead flags are known."""
    cdef int i = <int>n - 1, kind
    cdef bint live = True, live_behind_branch = True
    cdef Insn* o
    cdef handler_t h
    if n and rows[first[n - 1].op].attrs & A_JCC:
        live = not dead_at(c, b, host, end)             # the way on when the last branch is not taken
    while i >= 0:
        o = first + i
        h = NULL
        if row_fast[o.op] and i + 1 < <int>n:
            h = pick_fused(o, live_behind_branch, b.mode)
        o.fn = h if h != NULL else pick(o, live, b.mode)
        kind = flag_kind(o, live)
        if rows[o.op].attrs & A_JCC:
            live_behind_branch = live or not dead_at(c, b, host, o.imm)
        if kind == KILLS_FLAGS:
            live = False
        elif kind != PURE:
            live = True
        i -= 1
