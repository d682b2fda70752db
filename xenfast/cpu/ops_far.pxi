# Far control transfer: JMP, CALL and RET between segments and privilege levels, IRET, LDS LES LSS LFS LGS.
#
# SDM Vol. 2 (the instructions' pseudo code), Vol. 3, 5.8.  Task switches are task.pxi's, the way to
# virtual-8086 mode is vm86.pxi's. A PV guest's own IRET and far transfers run here as ring 3 code, with descriptors from pv_read_desc.

cdef struct Far:         # where a far transfer goes
    u64 ip
    u64 desc             # code descriptor
    u16 sel              # with the new CPL as RPL
    int cpl
    int params           # call gate: stack words to copy
    bint task            # it is a task switch instead: desc is that of the TSS or task gate
    int width            # call gate: operand size of the pushes; 0 without a gate

cdef inline int check_target(Cpu* c, u64 desc, u64* ip) noexcept nogil:
    """The new RIP against the new code segment."""
    if in_long_mode(c) and desc_attr(desc) & ATTR_L:
        return ST_OK if is_canonical(c, ip[0]) else fault_err(c, X_GP, 0)
    ip[0] = <u32>ip[0]
    return ST_OK if ip[0] <= desc_limit(desc) else fault_err(c, X_GP, 0)

cdef inline void far_real(Cpu* c, u16 sel, u64 ip) noexcept nogil:
    """Real mode keeps the limit; the segment is 16-bit and writable from here on."""
    c.seg[CS].sel = sel
    c.seg[CS].base = <u64>sel << 4
    c.seg[CS].attr = 0x93
    if c.mode & MODE_VM:
        c.seg[CS].limit = 0xFFFF
        c.seg[CS].attr = 0xF3
    c.rip = ip
    update_mode(c)

cdef inline void far_commit(Cpu* c, Far* f) noexcept nogil:
    set_code_segment(c, f.sel, f.desc)
    c.cpl = f.cpl
    c.rip = f.ip
    update_mode(c)

cdef int check_code(Cpu* c, u16 sel, u64 desc, bint to_inner) noexcept nogil:
    """A code segment reached by JMP or CALL; through a CALL gate it may be of an inner ring."""
    cdef int dpl = desc_dpl(desc)
    cdef u16 attr = desc_attr(desc)
    if not is_code(desc) or dpl > c.cpl or (dpl < c.cpl and not to_inner and not is_conforming(desc)):
        return fault_err(c, X_GP, sel & 0xFFFC)
    if in_long_mode(c) and attr & ATTR_L and attr & ATTR_DB:
        return fault_err(c, X_GP, sel & 0xFFFC)
    if not attr & ATTR_P:
        return fault_err(c, X_NP, sel & 0xFFFC)
    return ST_OK

cdef int far_target(Cpu* c, u16 sel, u64 ip, bint call, Far* f) noexcept nogil:
    """Resolve sel:ip for JMP and CALL: a code segment of this ring, or a call gate."""
    cdef u64 desc
    cdef int st
    f.task = 0
    if sel & 0xFFFC == 0:
        return fault_err(c, X_GP, 0)
    st = read_descriptor(c, sel, &desc)
    if st != ST_OK:
        return st
    if not desc_attr(desc) & ATTR_S:
        return gate_target(c, sel, desc, call, f)
    if is_code(desc) and not is_conforming(desc) and sel & 3 > c.cpl:
        return fault_err(c, X_GP, sel & 0xFFFC)
    st = check_code(c, sel, desc, False)
    if st == ST_OK:
        st = check_target(c, desc, &ip)
    if st == ST_OK:
        st = mark_descriptor(c, sel, desc, ATTR_A)
    f.ip, f.desc, f.sel, f.cpl = ip, desc, (sel & 0xFFFC) | c.cpl, c.cpl
    f.params = f.width = 0
    return st

cdef int gate_target(Cpu* c, u16 sel, u64 gate, bint call, Far* f) noexcept nogil:
    """SDM Vol. 3, 5.8.3 and 5.8.4."""
    cdef u64 high = 0, lin, desc
    cdef int kind = desc_attr(gate) & 0x1F
    cdef u16 target = <u16>(gate >> 16)
    cdef int st
    if (kind == SYS_TASK_GATE or kind == SYS_TSS or kind == SYS_TSS16) and not in_long_mode(c) and not c.is_pv:
        f.task = 1
        f.desc = gate
        return ST_OK
    if kind != SYS_CALL and (kind != SYS_CALL16 or in_long_mode(c)):
        return fault_err(c, X_GP, sel & 0xFFFC)
    if desc_dpl(gate) < c.cpl or desc_dpl(gate) < sel & 3:
        return fault_err(c, X_GP, sel & 0xFFFC)
    if not desc_attr(gate) & ATTR_P:
        return fault_err(c, X_NP, sel & 0xFFFC)
    if in_long_mode(c) and not c.is_pv:
        if not desc_address(c, sel + 8, &lin):
            return fault_err(c, X_GP, sel & 0xFFFC)
        st = mem_read_sys(c, lin, 8, &high)
        if st != ST_OK:
            return st
        if (high >> 40) & 0x1F:
            return fault_err(c, X_GP, sel & 0xFFFC)
    if target & 0xFFFC == 0:
        return fault_err(c, X_GP, 0)
    st = read_descriptor(c, target, &desc)
    if st == ST_OK:
        st = check_code(c, target, desc, call)
    if st != ST_OK:
        return st
    if in_long_mode(c) and desc_attr(desc) & (ATTR_L | ATTR_DB) != ATTR_L:
        return fault_err(c, X_GP, target & 0xFFFC)
    f.ip = (gate & 0xFFFF) | ((gate >> 32) & <u64>0xFFFF0000) | (high << 32)
    if kind == SYS_CALL16:
        f.ip &= 0xFFFF
    f.desc = desc
    f.cpl = c.cpl if is_conforming(desc) else desc_dpl(desc)
    f.sel = (target & 0xFFFC) | f.cpl
    f.width = 8 if in_long_mode(c) else 4 if kind == SYS_CALL else 2
    f.params = 0 if in_long_mode(c) else (gate >> 32) & 31
    st = check_target(c, desc, &f.ip)
    return mark_descriptor(c, target, desc, ATTR_A) if st == ST_OK else st

# ---- JMP and CALL ---------------------------------------------------------------------------------------------------
cdef int jmp_far(Cpu* c, Insn* o, u16 sel, u64 ip) noexcept nogil:
    cdef Far f
    cdef int st
    if not c.mode & MODE_PE or c.mode & MODE_VM:
        if ip > c.seg[CS].limit:
            return fault_err(c, X_GP, 0)
        far_real(c, sel, ip)
        return ST_BRANCH
    st = far_target(c, sel, ip, False, &f)
    if st != ST_OK:
        return st
    if f.task:
        return task_transfer(c, o, sel, f.desc, False)
    far_commit(c, &f)
    return ST_BRANCH

cdef int call_far(Cpu* c, Insn* o, int size, u16 sel, u64 ip) noexcept nogil:
    cdef Far f
    cdef u64 sp = get_sp(c)
    cdef bint real = not c.mode & MODE_PE or c.mode & MODE_VM
    cdef int st
    if real:
        if ip > c.seg[CS].limit:
            return fault_err(c, X_GP, 0)
    else:
        st = far_target(c, sel, ip, True, &f)
        if st != ST_OK:
            return st
        if f.task:
            return task_transfer(c, o, sel, f.desc, True)
        if f.width:
            size = f.width
        if f.cpl < c.cpl:
            return call_inner(c, o, &f)
    st = stack_push(c, &sp, size, c.seg[CS].sel)
    if st == ST_OK:
        st = stack_push(c, &sp, size, next_rip(c, o))
    if st != ST_OK:
        return st
    set_sp(c, sp)
    if real:
        far_real(c, sel, ip)
    else:
        far_commit(c, &f)
    return ST_BRANCH

cdef int call_inner(Cpu* c, Insn* o, Far* f) noexcept nogil:
    """CALL through a gate to an inner ring: its stack from the TSS gets SS:SP, parameters, CS:IP."""
    cdef u8 frame[40 * 8]
    cdef u64 sp, at, lin, v, ss_desc = 0, ss_base = 0
    cdef u16 new_ss
    cdef int k, n = 4 + f.params
    cdef int st = tss_stack(c, f.cpl, 0, &sp, &new_ss)
    if st == ST_OK and not in_long_mode(c):
        st = inner_stack(c, new_ss, f.cpl, 0, &ss_desc)
        if st == ST_OK:
            ss_base = desc_base(ss_desc)
            sp = stack_mask(ss_desc, sp - <u64>(n * f.width)) + <u64>(n * f.width)
            if not stack_room(ss_desc, sp - <u64>(n * f.width), n * f.width):
                st = fault_err(c, X_SS, new_ss & 0xFFFC)
    if st != ST_OK:
        return st
    host_store(frame, f.width, next_rip(c, o))
    host_store(frame + f.width, f.width, c.seg[CS].sel)
    for k in range(f.params):                           # SAFETY: at most 31, the frame holds 35 words of 8 bytes
        at = sp_trunc(c, get_sp(c) + <u64>(k * f.width))
        st = linear(c, SS, at, f.width, False, &lin)
        if st == ST_OK:
            st = mem_read(c, lin, f.width, &v)
        if st != ST_OK:
            return st
        host_store(frame + (2 + k) * f.width, f.width, v)
    host_store(frame + (n - 2) * f.width, f.width, c.r[RSP])
    host_store(frame + (n - 1) * f.width, f.width, c.seg[SS].sel)
    sp -= <u64>(n * f.width)
    lin = ss_base + sp
    st = write_stack(c, lin if in_long_mode(c) else <u32>lin, frame, n * f.width, f.cpl)
    if st != ST_OK:
        return st
    if in_long_mode(c):
        set_null_ss(c, f.cpl)
    else:
        fill_seg(&c.seg[SS], new_ss, ss_desc)
    far_commit(c, f)
    set_sp(c, sp)
    return ST_BRANCH

cdef int JMP_Ap(Cpu* c, Insn* o) noexcept nogil:
    return jmp_far(c, o, <u16>o.disp, <u64>o.imm)

cdef int CALL_Ap(Cpu* c, Insn* o) noexcept nogil:
    return call_far(c, o, o.size, <u16>o.disp, <u64>o.imm)

cdef int read_far(Cpu* c, Insn* o, int size, u64* off, u64* sel) noexcept nogil:
    """A far pointer in memory: offset, then selector."""
    cdef u64 lin
    cdef int st = operand_lin(c, o, size + 2, &lin)
    if st == ST_OK:
        st = mem_read(c, lin, size, off)
    if st == ST_OK:
        st = mem_read(c, lin + size, 2, sel)
    return st

cdef int JMP_Mp(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 off, sel
    cdef int st = read_far(c, o, o.size, &off, &sel)
    return jmp_far(c, o, <u16>sel, off) if st == ST_OK else st

cdef int CALL_Mp(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 off, sel
    cdef int st = read_far(c, o, o.size, &off, &sel)
    return call_far(c, o, o.size, <u16>sel, off) if st == ST_OK else st

cdef int load_far(Cpu* c, Insn* o, int seg) noexcept nogil:
    cdef u64 off, sel
    cdef int st = read_far(c, o, o.size, &off, &sel)
    if st == ST_OK:
        st = load_seg(c, seg, <u16>sel)
    if st != ST_OK:
        return st
    set_reg(c, o, o.reg, o.size, off)
    return branch_next(c, o)

cdef int LES_G_M(Cpu* c, Insn* o) noexcept nogil:
    return load_far(c, o, ES)

cdef int LDS_G_M(Cpu* c, Insn* o) noexcept nogil:
    return load_far(c, o, DS)

cdef int LSS_G_M(Cpu* c, Insn* o) noexcept nogil:
    return load_far(c, o, SS)

cdef int LFS_G_M(Cpu* c, Insn* o) noexcept nogil:
    return load_far(c, o, FS)

cdef int LGS_G_M(Cpu* c, Insn* o) noexcept nogil:
    return load_far(c, o, GS)

# ---- RET and IRET ---------------------------------------------------------------------------------------------------
cdef int return_code(Cpu* c, u16 sel, u64* ip, u64* desc) noexcept nogil:
    """The code segment of a return: its RPL is the new CPL and may only go outward."""
    cdef int rpl = sel & 3
    cdef u16 attr
    cdef int st
    if sel & 0xFFFC == 0:
        return fault_err(c, X_GP, 0)
    st = read_descriptor(c, sel, desc)
    if st != ST_OK:
        return st
    attr = desc_attr(desc[0])
    if not is_code(desc[0]) or rpl < c.cpl or (in_long_mode(c) and attr & ATTR_L and attr & ATTR_DB):
        return fault_err(c, X_GP, sel & 0xFFFC)
    if desc_dpl(desc[0]) > rpl or (desc_dpl(desc[0]) != rpl and not is_conforming(desc[0])):
        return fault_err(c, X_GP, sel & 0xFFFC)
    if not attr & ATTR_P:
        return fault_err(c, X_NP, sel & 0xFFFC)
    return check_target(c, desc[0], ip)

cdef int return_stack(Cpu* c, u16 sel, int rpl, u64 code, u64* desc) noexcept nogil:
    """The stack segment of a return; null is allowed for 64-bit code above ring 3."""
    cdef int st
    desc[0] = 0
    if sel & 0xFFFC == 0:
        if in_long_mode(c) and desc_attr(code) & ATTR_L and rpl != 3 and sel == rpl:
            return ST_OK
        return fault_err(c, X_GP, 0)
    st = read_descriptor(c, sel, desc)
    if st == ST_OK:
        st = check_stack_desc(c, sel, desc[0], rpl)
    return mark_descriptor(c, sel, desc[0], ATTR_A) if st == ST_OK else st

cdef void return_commit(Cpu* c, u16 cs, u64 code, u64 ip, bint switch_stack, u16 ss, u64 ss_desc,
                        u64 sp) noexcept nogil:
    cdef int rpl = cs & 3
    cdef bint outward = rpl > c.cpl
    mark_descriptor(c, cs, code, ATTR_A)
    set_code_segment(c, cs, code)
    c.cpl = rpl
    if switch_stack:
        if ss_desc:
            fill_seg(&c.seg[SS], ss, ss_desc)
        else:
            set_null_ss(c, rpl)
    if outward:
        drop_inner_segs(c)
    c.rip = ip
    update_mode(c)
    set_sp(c, sp)

cdef int ret_far(Cpu* c, int size, u64 extra) noexcept nogil:
    cdef u64 ip, cs, code, ss_desc = 0, new_sp, ss = 0
    cdef u64 sp = get_sp(c)
    cdef int st = stack_pop(c, &sp, size, &ip)
    if st == ST_OK:
        st = stack_pop(c, &sp, size, &cs)
    if st != ST_OK:
        return st
    if not c.mode & MODE_PE or c.mode & MODE_VM:
        if ip > c.seg[CS].limit:
            return fault_err(c, X_GP, 0)
        set_sp(c, sp + extra)
        far_real(c, <u16>cs, ip)
        return ST_BRANCH
    st = return_code(c, <u16>cs, &ip, &code)
    if st != ST_OK:
        return st
    sp = sp_trunc(c, sp + extra)
    if cs & 3 == c.cpl:
        return_commit(c, <u16>cs, code, ip, False, 0, 0, sp)
        return ST_BRANCH
    st = stack_pop(c, &sp, size, &new_sp)
    if st == ST_OK:
        st = stack_pop(c, &sp, size, &ss)
    if st == ST_OK:
        st = return_stack(c, <u16>ss, cs & 3, code, &ss_desc)
    if st != ST_OK:
        return st
    return_commit(c, <u16>cs, code, ip, True, <u16>ss, ss_desc, new_sp + extra)
    return ST_BRANCH

cdef int RETF(Cpu* c, Insn* o) noexcept nogil:
    return ret_far(c, o.size, 0)

cdef int RETF_Iw(Cpu* c, Insn* o) noexcept nogil:
    return ret_far(c, o.size, <u64>(o.imm & 0xFFFF))

cdef int IRET(Cpu* c, Insn* o) noexcept nogil:
    """NMIs may come again behind it (SDM Vol. 3, 6.7.1)."""
    cdef int st = interrupt_return(c, o)
    if st != ST_FAULT:
        c.nmi_blocked = 0
    return st

cdef int interrupt_return(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 ip, cs, fl, code, ss_desc = 0, ss = 0
    cdef u64 sp = get_sp(c)
    cdef u64 new_sp
    cdef bint real = not c.mode & MODE_PE or c.mode & MODE_VM
    cdef bint switch_stack
    cdef int st
    cdef bint virtual_ = c.mode & MODE_VM and iopl(c) < 3
    if virtual_ and (o.size != 2 or not c.cr4 & CR4_VME):
        return fault_err(c, X_GP, 0)
    if not real and c.eflags & FL_NT:
        return fault_err(c, X_GP, 0) if in_long_mode(c) or c.is_pv else task_return(c, o)
    st = stack_pop(c, &sp, o.size, &ip)
    if st == ST_OK:
        st = stack_pop(c, &sp, o.size, &cs)
    if st == ST_OK:
        st = stack_pop(c, &sp, o.size, &fl)
    if st != ST_OK:
        return st
    if real:
        if ip > c.seg[CS].limit or (virtual_ and not virtual_flags_ok(c, <u32>fl)):
            return fault_err(c, X_GP, 0)
        set_sp(c, sp)
        if virtual_:
            load_virtual_flags(c, <u32>fl)
        else:
            write_flags(c, <u32>fl, o.size)
        far_real(c, <u16>cs, ip)
        return ST_BRANCH
    if fl & FL_VM and c.cpl == 0 and not in_long_mode(c) and o.size == 4:
        return iret_to_vm(c, sp, ip, cs, <u32>fl)
    st = return_code(c, <u16>cs, &ip, &code)
    if st != ST_OK:
        return st
    switch_stack = c.mode & MODE_64 or cs & 3 != c.cpl
    new_sp = sp
    if switch_stack:                                    # in 64-bit mode always (SDM Vol. 3, 6.14.3)
        st = stack_pop(c, &sp, o.size, &new_sp)
        if st == ST_OK:
            st = stack_pop(c, &sp, o.size, &ss)
        if st == ST_OK:
            st = return_stack(c, <u16>ss, cs & 3, code, &ss_desc)
        if st != ST_OK:
            return st
    write_flags(c, <u32>fl, o.size)
    if o.size >= 4:
        c.eflags = (c.eflags & ~<u32>FL_RF) | (<u32>fl & FL_RF)
        if c.cpl == 0:
            c.eflags = (c.eflags & ~<u32>(FL_VIF | FL_VIP)) | (<u32>fl & (FL_VIF | FL_VIP))
    return_commit(c, <u16>cs, code, ip, switch_stack, <u16>ss, ss_desc, new_sp)
    return ST_BRANCH
