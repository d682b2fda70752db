# Translating x87: the guest's register stack is loaded into the host's FPU, and its instructions run there verbatim.
#
# Cpu.fx_in says that it is loaded.  It is when the first block with x87 code runs, provided that every exception is masked and none is
# pending (else the interpreter runs the block), and stored with FNSAVE around every call out of translated code.  FNSAVE leaves the host's
# own state as the ABI wants it.  FIP, FDP and FOP stay as the interpreter last left them.  The transcendental instructions, and those
# that load or store an environment, are called (SDM Vol. 1, ch. 8; the image: 8.1.10).

cdef enum:
    FCW_MASKS = 0x3F

cdef bint name_is(const char* name, const char* start) noexcept nogil:
    while start[0] and name[0] == start[0]:
        name += 1
        start += 1
    return start[0] == 0

cdef bint x87_in_line(int row) noexcept nogil:
    """Is the row translated?"""
    cdef Row* r = &rows[row]
    cdef exec_t* called = [FLDENV_M, FNSTENV_M, FRSTOR_M, FNSAVE_M, FXSAVE_M, FXRSTOR_M, F2XM1, FYL2X, FYL2XP1, FPATAN, FPTAN,
                           FSIN, FCOS, FSINCOS, NULL]
    cdef int k = 0
    if not r.attrs & A_FPU or r.attrs & A_MMX or not name_is(r.name, b"F"):
        return False
    while called[k] != NULL:
        if r.ex == called[k]:
            return False
        k += 1
    return True

cdef bint x87_stores(Row* r) noexcept nogil:
    return name_is(r.name, b"FST") or name_is(r.name, b"FIST") or name_is(r.name, b"FBSTP") or name_is(r.name, b"FNST")

cdef bint uses_x87(Insn* first, int n) noexcept nogil:
    cdef int i
    for i in range(n):
        if row_x87[first[i].op]:
            return True
    return False

cdef bint gen_x87(Emit* e, Insn* o, const u8* code, u32 live_in, u32 live_after, u32 fl_read, u32 fl_write) noexcept nogil:
    cdef Addr ea
    cdef bint plain = False
    cdef int temp = H_NONE
    cdef Stub* slow = NULL
    if e.b.mfn2 != NO_FRAME:
        return False
    while code[0] & 0xF8 != 0xD8:
        code += 1
    if not o.is_mem:
        if fl_read and not e.host_valid:
            restore_flags(e, H_T0)
        b1(e, code[0])
        b1(e, code[1])
    else:
        flags_about_to_go(e, live_in)
        if not linear_address(e, o, &ea, &plain):
            return False
        ea = probe(e, o, o.size, x87_stores(&rows[o.op]), 0, &ea, plain, o.ex == FLDCW_Mw, &temp, &slow)
        if o.ex == FLDCW_Mw:                                      # an exception unmasked: by the interpreter
            put_rm(e, 4, 1, 0, 0xB7, temp, ea, 0)                 # movzx temp, word
            put_rr(e, 4, 0, 0, 0xF7, 2, temp, 0)                  # not temp
            put_ri4(e, 4, 0xF7, 0, temp, FCW_MASKS)               # test temp, masks
            slow.from2 = jump_if(e, 5)
        put_rm(e, 4, 0, 0, code[0], o.reg & 7, ea, 0)
    if fl_write:
        e.host_valid, e.mem_valid = True, False
    slow_done(e, slow, live_after)
    return True

# ---- in and out -----------------------------------------------------------------------------------------------------
cdef void x87_pack(Cpu* c) noexcept nogil:
    """Cpu's x87 state -> the FRSTOR image."""
    cdef int i, top = x87_top(c)
    cdef F80* r
    store_env(c, 4, c.fx_image)
    for i in range(8):
        r = &c.st[(top + i) & 7]
        memcpy(c.fx_image + 28 + 10 * i, &r.man, 8)
        memcpy(c.fx_image + 36 + 10 * i, &r.se, 2)

cdef void x87_unpack(Cpu* c) noexcept nogil:
    """What FNSAVE has stored -> Cpu."""
    cdef int i, top
    cdef F80* r
    c.fcw = (<u16*>c.fx_image)[0]
    c.fsw = (<u16*>(c.fx_image + 4))[0]
    c.ftw = valid_bits((<u16*>(c.fx_image + 8))[0])
    top = x87_top(c)
    for i in range(8):
        r = &c.st[(top + i) & 7]
        memcpy(&r.man, c.fx_image + 28 + 10 * i, 8)
        memcpy(&r.se, c.fx_image + 36 + 10 * i, 2)

cdef u64 jit_x87_in(Cpu* c, Insn* head, u64 info) noexcept nogil:
    """Make the image for a block with x87 code, or have the interpreter run the block."""
    if c.cr0 & (CR0_EM | CR0_TS) or c.fcw & FCW_MASKS != FCW_MASKS or c.fsw & FSW_ES:
        c.jit_bail = head
        c.status = ST_BRANCH
        c.xmm_in = 0
        return JIT_OUT
    x87_pack(c)
    c.fx_in = 1
    return 0
