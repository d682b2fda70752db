# Translating the pseudo instructions of hooks that only count or cover (hooks.pxi).  The others are called.

cdef bint gen_hook(Emit* e, Insn* o, u32 live_in) noexcept nogil:
    """What HOOK_ON, HOOK_COUNT, HOOK_BYTE and HOOK_EDGE do; out of line when Cpu.hook_skip is not 0."""
    cdef Stub* s
    if o.ex == HOOK_SITE:
        return False
    if o.ex == HOOK_ON:
        put_mi1(e, 4, 0xC6, 0, env(e, &e.c.hook_skip), SKIP_BLOCK)
        load(e, H_T0, env(e, &e.c.jit_page))
        lea(e, H_T0, addr(H_T0, <i32>(e.start + o.off)))
        store(e, env(e, &e.c.hook_at), H_T0)
        return True
    flags_about_to_go(e, live_in)
    put_mi1(e, 4, 0x80, 7, env(e, &e.c.hook_skip), 0)
    s = stub(e, STUB_EXEC, o, jump_if(e, 5))
    if o.ex == HOOK_EDGE:
        gen_edge(e, <HookRule*>o.disp, <u32>o.imm)
    elif o.ex == HOOK_BYTE:
        gen_cover_byte(e, H_T0, <u64>o.disp)
        gen_increment(e, <u64>o.imm)
    else:
        gen_increment(e, <u64>o.disp)
    slow_done(e, s, 0)
    return True

cdef void gen_increment(Emit* e, u64 counter) noexcept nogil:
    move_imm(e, H_T0, counter)
    put_rm(e, 8, 0, 0, 0xFF, 0, addr(H_T0, 0), 0)                   # inc qword [T0]

cdef void gen_cover_byte(Emit* e, int reg, u64 at) noexcept nogil:
    """add byte, 1; adc byte, 0: from 255 on to 1.  The address is in reg, or is given."""
    if at:
        move_imm(e, reg, at)
    put_mi1(e, 4, 0x80, 0, addr(reg, 0), 1)
    put_mi1(e, 4, 0x80, 2, addr(reg, 0), 0)

cdef void gen_edge(Emit* e, HookRule* h, u32 place) noexcept nogil:
    """cover() for COVER_EDGE.  Maps are at most 2 GiB here, places and marks 32 bits."""
    move_imm(e, H_T0, <u64>h)
    load(e, H_T1, addr(H_T0, <i32>(<u8*>&h.prev - <u8*>h)))
    put_ri4(e, 4, 0x81, 6, H_T1, place)                             # xor T1, place
    put_ri4(e, 4, 0x81, 4, H_T1, <u32>h.map_mask)                   # and T1, mask
    put_rm(e, 8, 0, 0, 0x03, H_T1, addr(H_T0, <i32>(<u8*>&h.map - <u8*>h)), 0)
    gen_cover_byte(e, H_T1, 0)
    put_mi4(e, 8, 0xC7, 0, addr(H_T0, <i32>(<u8*>&h.prev - <u8*>h)), place >> 1)
    put_rm(e, 8, 0, 0, 0xFF, 0, addr(H_T0, <i32>(<u8*>&h.hits - <u8*>h)), 0)
