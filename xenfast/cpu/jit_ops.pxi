# Translating single instructions: registers one for one, memory through an in-line probe of the TLB.
#
# A probe that misses (another page, a page crossing, a page of code, no permission) goes out of line to the instruction's exec
# function, which commits nothing before it can no longer fault; nothing of an instruction is committed in line before its
# last probe either.  So every instruction can be begun again, and guest registers are exact between instructions.

# ---- flags ----------------------------------------------------------------------------------------------------------
cdef inline void flags_about_to_go(Emit* e, u32 live) noexcept nogil:
    """The host's flags are about to be overwritten by glue: keep the guest's when somebody may read them."""
    if live and e.host_valid and not e.mem_valid:
        save_flags(e)
    e.host_valid = False

cdef inline void flags_in_memory(Emit* e, u32 live) noexcept nogil:
    if live and e.host_valid and not e.mem_valid:
        save_flags(e)

# ---- out of line ----------------------------------------------------------------------------------------------------
cdef inline u32 info_of(Emit* e, Insn* o) noexcept nogil:
    cdef u32 attrs = rows[o.op].attrs
    cdef u32 check = CHECK_NONE
    if attrs & A_PRIV:
        check = CHECK_PRIV
    elif attrs & A_SSE:
        check = CHECK_SSE
    elif attrs & A_AVX:
        check = CHECK_AVX
    elif attrs & A_FPU:
        check = CHECK_MMX if attrs & A_MMX else CHECK_FPU
    return e.start | e.counted << INFO_COUNTED | check << INFO_CHECK

cdef Stub* stub(Emit* e, int kind, Insn* o, u32* from_) noexcept nogil:
    cdef Stub* s = &e.stubs[e.n_stubs]
    if e.n_stubs >= MAX_STUBS - 1:
        e.failed = True
        return s
    e.n_stubs += 1
    s.kind, s.o, s.from_, s.from2, s.resume, s.info, s.restore, s.site, s.reach = kind, o, from_, NULL, NULL, info_of(e, o), 0, -1, 0
    return s

cdef inline void call_exec(Emit* e, Insn* o, u32 info) noexcept nogil:
    move_imm(e, H_T0, <u64>o)
    move_imm(e, H_T1, info)
    call_to(e, e.j.exec_)

cdef void gen_exec(Emit* e, Insn* o, u32 live_in) noexcept nogil:
    """The exec function does it."""
    groups_close(e, REGS_ALL)
    flags_in_memory(e, live_in)
    call_exec(e, o, info_of(e, o))
    e.host_valid = False
    e.mem_valid = True

cdef inline void slow_done(Emit* e, Stub* s, u32 live_after) noexcept nogil:
    """The instruction is written: its slow path, if it has one, comes back here."""
    if s == NULL:
        return
    s.resume = e.p
    s.restore = e.host_valid and live_after != 0

# ---- addresses ------------------------------------------------------------------------------------------------------
cdef bint linear_address(Emit* e, Insn* o, Addr* ea, bint* plain) noexcept nogil:
    """T0 = linear address.  ea says it again in host registers when plain.  False: cannot be said here."""
    cdef int base = o.base, index = o.index, seg = -1
    cdef i64 disp = o.disp
    e.retry = e.p
    if index >= R_SEG:
        seg, index = index, R_ZERO
    elif o.seg >= FS:
        seg = R_SEG + o.seg
    plain[0] = False
    ea.index, ea.scale = H_NONE, o.scale
    if base == R_RIPBASE:
        disp += e.start
        if index != R_ZERO or disp != <i32>disp:
            return False
        load(e, H_T0, env(e, &e.c.jit_page))
        lea(e, H_T0, addr(H_T0, <i32>disp))
    else:
        if disp != <i32>disp or o.asize == 2:
            return False
        ea.disp = <i32>disp
        plain[0] = base < 16 and HREG[base] != H_NONE and seg < 0 and o.asize == 8
        if base == R_ZERO:
            ea.base = H_NONE
        elif HREG[base] != H_NONE:
            ea.base = HREG[base]
        else:
            load(e, H_T0, guest_reg(base))
            ea.base = H_T0
        if index != R_ZERO:
            ea.index = HREG[index]
            if HREG[index] == H_NONE:
                load(e, H_T1, guest_reg(index))
                ea.index = H_T1
                plain[0] = False
        lea_any(e, o.asize, H_T0, ea)
    if seg >= 0:
        put_rm(e, 8, 0, 0, 0x03, H_T0, guest_reg(seg), 0)          # add T0, segment base
    return True

cdef void lea_any(Emit* e, int asize, int reg, Addr* ea) noexcept nogil:
    """LEA, also without a base, 32 bits wide for 32-bit addresses."""
    cdef int size = 4 if asize == 4 else 8
    if ea.base == H_NONE and ea.index == H_NONE:
        move_imm(e, reg, <u64><i64>ea.disp if size == 8 else <u32>ea.disp)
    elif ea.base == H_NONE:                                       # [index * scale + disp32]
        opcode(e, size, 0, 0, 0x8D, reg, ea.index, 5, False)
        b1(e, (reg & 7) << 3 | 4)
        b1(e, ea.scale << 6 | (ea.index & 7) << 3 | 5)
        b4(e, <u32>ea.disp)
    elif ea.index == H_NONE and ea.disp == 0:
        put_rr(e, size, 0, 0, 0x89, ea.base, reg, 0)
    else:
        put_rm(e, size, 0, 0, 0x8D, reg, ea[0], 0)

cdef enum:               # offsets in a TlbEntry
    TAG_READ = 0
    TAG_WRITE = 8
    TLB_ADD = 24

cdef Site* new_site(Emit* e, int size, bint write, bint stack, int* number) noexcept nogil:
    """A site for an access, or NULL when there are no more.  Accesses by rSP share two, for they all go to the same place."""
    cdef u32 n = SITE_STACK + (2 if e.b.mode & MODE_USER else 0) + write
    if not stack or size > 8:
        n = e.j.n_sites
        if n >= SITES:
            return NULL
        e.j.n_sites += 1
        e.c.sites[n].len = 0
        e.j.site_use[n] = <u32>size | (SITE_WRITE if write else 0)
    elif e.j.site_use[n] == 0:                                     # else it may be filled, and its bits say how
        e.j.site_use[n] = 8 | (SITE_WRITE if write else 0)
    number[0] = <int>n
    return e.c.sites + n

cdef Addr site_probe(Emit* e, Insn* o, Site* s, int number, int align, Addr* ea, bint plain, bint need_temp, int* temp,
                     Stub** slow) noexcept nogil:
    """T0 = linear address -> a host operand, by where this access went last: what it waits for does not depend on the address."""
    put_rm(e, 8, 0, 0, 0x2B, H_T0, env(e, &s.lo), 0)               # sub T0, [lo]
    put_rm(e, 8, 0, 0, 0x3B, H_T0, env(e, &s.len), 0)              # cmp T0, [len]
    slow[0] = stub(e, STUB_EXEC, o, jump_if(e, 3))
    slow[0].site = number
    slow[0].retry = e.retry
    if align:
        put_rr(e, 4, 0, 0, 0xF6, 0, H_T0, BYTE_RM)                 # test T0b, align - 1
        b1(e, align - 1)
        slow[0].from2 = jump_if(e, 5)
    if plain and (ea.index == H_NONE or not need_temp):
        load(e, H_T1, env(e, &s.add))
        temp[0] = H_T0
        if ea.index != H_NONE:
            lea(e, H_T0, ea[0])
            ea.base, ea.disp = H_T0, 0
            temp[0] = H_NONE
        ea.index, ea.scale = H_T1, 0
        return ea[0]
    put_rm(e, 8, 0, 0, 0x03, H_T0, env(e, &s.host), 0)             # add T0, [host]
    temp[0] = H_T1
    return addr(H_T0, 0)

cdef Addr probe(Emit* e, Insn* o, int size, bint write, int align, Addr* ea, bint plain, bint need_temp, int* temp,
                Stub** slow) noexcept nogil:
    """T0 = linear address -> a host operand, or out of line.  temp: a scratch register that is left free (need_temp asks for one)."""
    cdef int tag = TAG_WRITE if write else TAG_READ
    cdef int number = 0
    cdef Site* s
    if not o.prefix & PFX_PROBE:
        s = new_site(e, size, write, plain and ea.base == HREG[RSP], &number)
        if s != NULL:
            return site_probe(e, o, s, number, align, ea, plain, need_temp, temp, slow)
    move(e, H_T1, H_T0)
    put_ri1(e, 8, 0xC1, 5, H_T1, 7)                                # shr T1, 7
    put_ri4(e, 4, 0x81, 4, H_T1, (TLB_SIZE - 1) << 5)              # and T1d, slot mask * 32
    put_rm(e, 8, 0, 0, 0x03, H_T1, env(e, &e.c.tlb), 0)            # add T1, [tlb]
    put_rm(e, 8, 0, 0, 0x33, H_T0, addr(H_T1, tag), 0)             # xor T0, [tag]
    put_ri4(e, 8, 0x81, 7, H_T0, 4096 - size)                      # cmp T0, 4096 - size
    slow[0] = stub(e, STUB_EXEC, o, jump_if(e, 7))
    if align:
        put_rr(e, 4, 0, 0, 0xF6, 0, H_T0, BYTE_RM)                 # test T0b, align - 1
        b1(e, align - 1)
        slow[0].from2 = jump_if(e, 5)
    if plain and ea.index == H_NONE:
        load(e, H_T1, addr(H_T1, TLB_ADD))
        temp[0] = H_T0
        ea.index, ea.scale = H_T1, 0
        return ea[0]
    if plain and not need_temp:
        load(e, H_T1, addr(H_T1, TLB_ADD))
        lea(e, H_T0, ea[0])
        ea.base, ea.index, ea.scale, ea.disp = H_T0, H_T1, 0, 0
        temp[0] = H_NONE
        return ea[0]
    put_rm(e, 8, 0, 0, 0x33, H_T0, addr(H_T1, tag), 0)
    put_rm(e, 8, 0, 0, 0x03, H_T0, addr(H_T1, TLB_ADD), 0)
    temp[0] = H_T1
    return addr(H_T0, 0)

# ---- ModRM instructions ---------------------------------------------------------------------------------------------
cdef inline void rule_imm(Emit* e, JitRule* r, Insn* o, int size, bint short) noexcept nogil:
    if r.imm == JI_BYTE or r.imm == JI_FULL and (size == 1 or short):
        b1(e, <u8>o.imm)
    elif r.imm == JI_FULL:
        if size == 2:
            e.p[0] = <u8>o.imm
            e.p[1] = <u8>(o.imm >> 8)
            e.p += 2
        else:
            b4(e, <u32>o.imm)

cdef inline u8 rule_opcode(JitRule* r, Insn* o, bint short) noexcept nogil:
    if r.flags & JR_CC:
        return r.opc + o.cc
    if o.size == 1:
        return r.opc_byte
    return 0x83 if short else r.opc

cdef bint gen_high_byte(Emit* e, Insn* o, JitRule* r, bint short) noexcept nogil:
    """AH CH DH BH have the host's numbers as long as no REX prefix is needed."""
    cdef int g = r.ext if r.ext >= 0 else o.reg
    cdef int rm = RAX if r.flags & JR_ACC else o.rm
    if o.is_mem or o.size == 8 or rm > 7 or (r.ext < 0 and g > 7):
        return False
    if r.ext < 0 and o.size != 1:
        if HREG[g] > 7:
            return False
        g = HREG[g]
    put_rr(e, o.size, r.map_, r.pfx, rule_opcode(r, o, short), g, rm, 0)
    rule_imm(e, r, o, o.size, short)
    return True

cdef bint gen_modrm(Emit* e, Insn* o, JitRule* r, u32 live_in, u32 live_after, u32 fl_read, u32 fl_write) noexcept nogil:
    cdef int size = o.size, esize = r.esize if r.esize else 1 if r.flags & JR_CC and r.e_acc == 2 else size
    cdef bint short = r.flags & JR_ALU_IMM and size > 1 and o.imm == <i8>o.imm
    cdef bint prior = fl_read != 0 or (fl_write != 0 and live_after & ~fl_write)
    cdef int bytes_ = (BYTE_RM if esize == 1 else 0) | (BYTE_REG if size == 1 and r.ext < 0 else 0)
    cdef int g = r.ext, temp = H_NONE, rm
    cdef bint g_spilled = r.ext < 0 and HREG[o.reg] == H_NONE, plain = False
    cdef Addr ea
    cdef Touch touch
    cdef Stub* slow = NULL
    if high_byte(o) or o.size > 8:
        if o.is_mem:
            return False
        if prior and not e.host_valid:
            restore_flags(e, H_T0)
        if not gen_high_byte(e, o, r, short):
            return False
    elif o.is_mem:
        if r.flags & JR_REG:
            return False
        if touches(o, &touch) and grouped(e, o, &touch, live_in, &ea):
            temp = H_T0
        else:
            flags_about_to_go(e, live_in)
            if not linear_address(e, o, &ea, &plain):
                return False
            ea = probe(e, o, esize, r.e_acc & 2 != 0, 0, &ea, plain, g_spilled or prior, &temp, &slow)
        if prior and not e.host_valid:
            restore_flags(e, temp)
        if g_spilled:
            g = temp
            if r.g_acc & 1 or size < 4:
                load(e, g, guest_reg(o.reg))
        elif r.ext < 0:
            g = HREG[o.reg]
        if o.prefix & PFX_LOCK:
            b1(e, 0xF0)
        put_rm(e, size, r.map_, r.pfx, rule_opcode(r, o, short), g, ea, bytes_)
        rule_imm(e, r, o, size, short)
        if g_spilled and r.g_acc & 2:
            store(e, guest_reg(o.reg), g)
    else:
        if r.flags & JR_MEM:
            return False
        if prior and not e.host_valid:
            restore_flags(e, H_T0)
        rm = RAX if r.flags & JR_ACC else o.rm
        if g_spilled:
            g = H_T1
            if r.g_acc & 1 or size < 4:
                load(e, g, guest_reg(o.reg))
        elif r.ext < 0:
            g = HREG[o.reg]
        if HREG[rm] != H_NONE:
            put_rr(e, size, r.map_, r.pfx, rule_opcode(r, o, short), g, HREG[rm], bytes_)
            rule_imm(e, r, o, size, short)
        elif not r.flags & JR_TEMP and (size == 8 or not r.e_acc & 2) and not (r.flags & JR_CC and r.e_acc == 2):
            put_rm(e, size, r.map_, r.pfx, rule_opcode(r, o, short), g, guest_reg(rm), bytes_ & BYTE_REG)
            rule_imm(e, r, o, size, short)
        else:
            if r.e_acc & 1 or esize < 4:
                load(e, H_T0, guest_reg(rm))
            put_rr(e, size, r.map_, r.pfx, rule_opcode(r, o, short), g, H_T0, bytes_)
            rule_imm(e, r, o, size, short)
            if r.e_acc & 2:
                store(e, guest_reg(rm), H_T0)
        if g_spilled and r.g_acc & 2:
            store(e, guest_reg(o.reg), g)
    if fl_write:
        e.host_valid, e.mem_valid = True, False
    slow_done(e, slow, live_after)
    return True

# ---- the others -----------------------------------------------------------------------------------------------------
cdef inline int into(Emit* e, int n, int temp) noexcept nogil:
    """Host register that holds guest register n, loaded into temp if it is kept in memory."""
    if HREG[n] != H_NONE:
        return HREG[n]
    load(e, temp, guest_reg(n))
    return temp

cdef inline void settle(Emit* e, int n, int reg) noexcept nogil:
    """Guest register n has been computed in reg."""
    if HREG[n] == H_NONE:
        store(e, guest_reg(n), reg)

cdef bint gen_lea(Emit* e, Insn* o) noexcept nogil:
    cdef Addr ea
    cdef int reg = HREG[o.reg] if HREG[o.reg] != H_NONE else H_T0
    cdef i64 disp = o.disp
    if o.size < 4 or o.asize == 2 or o.index >= R_SEG:
        return False
    ea.index, ea.scale = H_NONE, o.scale
    if o.base == R_RIPBASE:
        disp += e.start
        if disp != <i32>disp:
            return False
        load(e, H_T0, env(e, &e.c.jit_page))
        ea.base = H_T0
    elif o.base == R_ZERO:
        ea.base = H_NONE
    else:
        ea.base = into(e, o.base, H_T0)
    if disp != <i32>disp:
        return False
    ea.disp = <i32>disp
    if o.index != R_ZERO:
        ea.index = into(e, o.index, H_T1)
    lea_any(e, 4 if o.size == 4 or o.asize == 4 else 8, reg, &ea)
    settle(e, o.reg, reg)
    return True

cdef bint gen_mov_imm(Emit* e, Insn* o) noexcept nogil:
    cdef int reg
    if high_byte(o):
        return False
    if o.size >= 4:
        reg = HREG[o.rm] if HREG[o.rm] != H_NONE else H_T0
        move_imm(e, reg, <u64>o.imm if o.size == 8 else <u32>o.imm)
    else:
        reg = into(e, o.rm, H_T0)
        put_rr(e, o.size, 0, 0, 0xC6 if o.size == 1 else 0xC7, 0, reg, BYTE_RM if o.size == 1 else 0)
        b1(e, <u8>o.imm)
        if o.size == 2:
            b1(e, <u8>(o.imm >> 8))
    settle(e, o.rm, reg)
    return True

cdef Addr stack_probe(Emit* e, Insn* o, int base, i32 disp, bint write, u32 live_in, Stub** slow) noexcept nogil:
    """The 8 bytes at [base + disp]; T0 is free afterwards.  No stub: they are in a group."""
    cdef Addr ea = addr(base, disp)
    cdef int temp
    cdef Touch touch
    slow[0] = NULL
    if base == HREG[RSP]:
        touch.base, touch.disp, touch.size, touch.write = RSP, disp, 8, write
        if grouped(e, o, &touch, live_in, &ea):
            return ea
    flags_about_to_go(e, live_in)
    e.retry = e.p
    lea_any(e, 8, H_T0, &ea)
    return probe(e, o, 8, write, 0, &ea, True, True, &temp, slow)

cdef bint gen_push(Emit* e, Insn* o, u32 live_in, u32 live_after) noexcept nogil:
    cdef Addr at
    cdef Stub* slow
    if o.size != 8:
        return False
    at = stack_probe(e, o, HREG[RSP], -8, True, live_in, &slow)
    if o.ex == PUSH_I:
        put_mi4(e, 8, 0xC7, 0, at, <u32>o.imm)
    else:
        store(e, at, into(e, o.rm, H_T0))
    lea(e, HREG[RSP], addr(HREG[RSP], -8))
    slow_done(e, slow, live_after)
    return True

cdef bint gen_pop(Emit* e, Insn* o, u32 live_in, u32 live_after) noexcept nogil:
    cdef Addr at
    cdef Stub* slow
    cdef int reg = HREG[o.rm] if HREG[o.rm] != H_NONE else H_T0
    if o.size != 8:
        return False
    at = stack_probe(e, o, HREG[RSP], 0, False, live_in, &slow)
    load(e, H_T0 if o.rm == RSP else reg, at)
    lea(e, HREG[RSP], addr(HREG[RSP], 8))
    if o.rm == RSP:
        move(e, HREG[RSP], H_T0)
    settle(e, o.rm, reg)
    slow_done(e, slow, live_after)
    return True

cdef bint gen_leave(Emit* e, Insn* o, u32 live_in, u32 live_after) noexcept nogil:
    cdef Addr at
    cdef Stub* slow
    if o.size != 8:
        return False
    at = stack_probe(e, o, HREG[RBP], 0, False, live_in, &slow)
    load(e, H_T0, at)
    lea(e, HREG[RSP], addr(HREG[RBP], 8))
    move(e, HREG[RBP], H_T0)
    slow_done(e, slow, live_after)
    return True

cdef bint gen_bswap(Emit* e, Insn* o) noexcept nogil:
    cdef int reg
    if o.size < 4:
        return False
    reg = into(e, o.rm, H_T0)
    opcode(e, o.size, 1, 0, 0xC8 | (reg & 7), 0, 0, reg, False)
    settle(e, o.rm, reg)
    return True

cdef bint gen_xchg_a(Emit* e, Insn* o) noexcept nogil:
    cdef int reg
    if o.rm == RAX:
        return True                                               # NOP, PAUSE
    if o.size < 4:
        return False
    reg = into(e, o.rm, H_T0)
    put_rr(e, o.size, 0, 0, 0x87, 0, reg, 0)
    settle(e, o.rm, reg)
    return True

cdef bint gen_divide(Emit* e, Insn* o, bint signed, u32 live_in, u32 live_after) noexcept nogil:
    """A quotient that may not fit is the exec function's business; the flags stay (the SDM leaves them undefined)."""
    cdef Addr ea
    cdef bint plain = False
    cdef int temp = H_NONE
    cdef Stub* slow = NULL
    cdef u32* odd
    if o.size < 4:
        return False
    flags_about_to_go(e, live_in)
    if o.is_mem:
        if not linear_address(e, o, &ea, &plain):
            return False
        ea = probe(e, o, o.size, False, 0, &ea, plain, False, &temp, &slow)
        put_rm(e, o.size, 0, 0, 0x8B, H_T0, ea, 0)
    elif HREG[o.rm] != H_NONE:
        put_rr(e, o.size, 0, 0, 0x89, HREG[o.rm], H_T0, 0)
    else:
        put_rm(e, o.size, 0, 0, 0x8B, H_T0, guest_reg(o.rm), 0)
    if signed:
        # Safe when rDX is the sign of rAX and the divisor is neither 0 nor -1.
        put_rm(e, o.size, 0, 0, 0x8D, H_T1, addr(H_T0, 1), 0)      # lea T1, [T0 + 1]
        put_ri1(e, o.size, 0x83, 7, H_T1, 1)                       # cmp T1, 1: below or equal for -1 and 0
        odd = jump_if(e, 6)
        put_rr(e, o.size, 0, 0, 0x89, RAX, H_T1, 0)
        put_ri1(e, o.size, 0xC1, 7, H_T1, 8 * o.size - 1)          # sar T1, 31 or 63
        put_rr(e, o.size, 0, 0, 0x39, H_T1, RDX, 0)                # cmp rDX, T1
        if slow == NULL:
            slow = stub(e, STUB_EXEC, o, odd)
            slow.from2 = jump_if(e, 5)
        else:
            slow.from2 = odd
            stub(e, STUB_EXEC, o, jump_if(e, 5)).resume = NULL
            e.stubs[e.n_stubs - 1].restore = 2                    # settled below
    else:
        put_rr(e, o.size, 0, 0, 0x39, H_T0, RDX, 0)                # cmp rDX, divisor
        odd = jump_if(e, 3)
        if slow == NULL:
            slow = stub(e, STUB_EXEC, o, odd)
        else:
            slow.from2 = odd
    put_rr(e, o.size, 0, 0, 0xF7, 7 if signed else 6, H_T0, 0)
    slow_done(e, slow, live_after)
    if e.stubs[e.n_stubs - 1].restore == 2:
        slow_done(e, &e.stubs[e.n_stubs - 1], live_after)
    return True

# ---- SSE ------------------------------------------------------------------------------------------------------------
cdef struct SseCode:     # where the opcode is, as the guest wrote it
    int map_
    int size             # 8: REX.W
    u32 pfx
    u8 opc
    bint vex
    VexOp v

cdef void sse_code(const u8* p, Insn* o, SseCode* k) noexcept nogil:
    k.map_, k.size, k.pfx, k.vex = 1, 4, 0, o.vex != 0
    if k.vex:
        while p[0] != 0xC4 and p[0] != 0xC5:
            p += 1
        k.v.map_, k.v.w = 1, 0
        if p[0] == 0xC4:
            k.v.map_ = p[1] & 31
            k.v.w = p[2] >> 7
            p += 1
        k.v.l, k.v.pp, k.v.opc = (p[1] >> 2) & 1, p[1] & 3, p[2]
        return
    while p[0] != 0x0F:
        if p[0] == 0xF2 or p[0] == 0xF3 or (p[0] == 0x66 and k.pfx == 0):
            k.pfx = p[0]
        k.size = 8 if (p[0] & 0xF8) == 0x48 else 4
        p += 1
    p += 1
    if p[0] == 0x38 or p[0] == 0x3A:
        k.map_ = 2 if p[0] == 0x38 else 3
        p += 1
    k.opc = p[0]

cdef bint sse_here(Emit* e, SseCode* k) noexcept nogil:
    """Does the host have the instruction?"""
    if k.vex:
        return e.j.host & (HOST_AVX | HOST_SSE4) == HOST_AVX | HOST_SSE4
    if k.map_ == 1:
        return True
    return e.j.host & HOST_SSE4 and not (k.map_ == 2 and (k.opc & 0xF8) == 0xC8) and not (k.map_ == 3 and k.opc == 0xCC)

cdef bint gen_sse(Emit* e, Insn* o, const u8* code, u32 live_in, u32 live_after, u32 fl_write) noexcept nogil:
    """Verbatim: prefixes, map and opcode as the guest wrote them; ModRM anew."""
    cdef SseShape* s = &row_sse[o.op]
    cdef SseCode k
    cdef int reg = o.reg, rm = o.rm, temp = H_NONE, esize = s.mem_size, align = 0
    cdef bint plain = False, spilled = False
    cdef Addr ea
    cdef Touch touch
    cdef Stub* slow = NULL
    if not s.ok or e.b.mfn2 != NO_FRAME:
        return False
    sse_code(code, o, &k)
    if not sse_here(e, &k):
        return False
    if not rows[o.op].form & F_MODRM:                             # VZEROUPPER, VZEROALL
        put_vex(e, &k.v, 0, 0, 0, 0)
        return k.vex
    if esize == MEM_VECTOR:
        esize = 32 if k.v.l else 16
    if s.aligned:
        align = 16 if esize != 32 else 32
    if s.gpr == 1:
        spilled = HREG[o.reg] == H_NONE
        reg = HREG[o.reg]
    elif s.gpr == 2:
        spilled = not o.is_mem and HREG[o.rm] == H_NONE
        rm = HREG[o.rm]
        esize = o.size
    if o.is_mem:
        if esize == 0:
            return False
        if align == 0 and touches(o, &touch) and grouped(e, o, &touch, live_in, &ea):
            temp = H_T0
        else:
            flags_about_to_go(e, live_in)
            if not linear_address(e, o, &ea, &plain):
                return False
            ea = probe(e, o, esize, s.stores, align, &ea, plain, spilled, &temp, &slow)
        if spilled:
            reg = temp
        if k.vex:
            put_vex_rm(e, &k.v, reg, o.vvvv, ea)
        else:
            put_rm(e, k.size, k.map_, k.pfx, k.opc, reg, ea, 0)
    else:
        if spilled and s.gpr == 2:
            rm = H_T0
            if not s.stores:
                load(e, rm, guest_reg(o.rm))
        elif spilled:
            reg = H_T0
        if k.vex:
            put_vex_rr(e, &k.v, reg, o.vvvv, rm)
        else:
            put_rr(e, k.size, k.map_, k.pfx, k.opc, reg, rm, 0)
    if rows[o.op].form & F_IMM8:
        b1(e, <u8>o.imm)
    if spilled and s.gpr == 1:
        store(e, guest_reg(o.reg), reg)
    elif spilled and s.stores:
        store(e, guest_reg(o.rm), rm)
    if fl_write:
        e.host_valid, e.mem_valid = True, False
    slow_done(e, slow, live_after)
    return True
