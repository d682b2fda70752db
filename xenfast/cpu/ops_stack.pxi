# The stack: PUSH, POP, PUSHA, POPA, PUSHF, POPF, ENTER, LEAVE, and the helpers calls and returns are made of.
#
# SDM Vol. 1, ch. 6; Vol. 2.  Helpers work on a copy of the stack pointer that the instruction commits when nothing
# can fault any more; what they have written by then lies below the stack pointer.

cdef inline u64 sp_trunc(Cpu* c, u64 sp) noexcept nogil:
    if c.mode & MODE_64:
        return sp
    return <u32>sp if c.mode & MODE_SS32 else <u16>sp

cdef inline u64 get_sp(Cpu* c) noexcept nogil:
    return sp_trunc(c, c.r[RSP])

cdef inline void set_sp(Cpu* c, u64 sp) noexcept nogil:
    if c.mode & MODE_64:
        c.r[RSP] = sp
    elif c.mode & MODE_SS32:
        c.r[RSP] = <u32>sp
    else:
        c.r[RSP] = (c.r[RSP] & ~<u64>0xFFFF) | <u16>sp

cdef inline int stack_push(Cpu* c, u64* sp, int size, u64 v) noexcept nogil:
    cdef u64 lin = 0
    cdef u64 at = sp_trunc(c, sp[0] - <u64>size)
    cdef int st = linear(c, SS, at, size, True, &lin)
    if st == ST_OK:
        st = mem_write(c, lin, size, v)
    if st == ST_OK:
        sp[0] = at
    return st

cdef inline int stack_pop(Cpu* c, u64* sp, int size, u64* v) noexcept nogil:
    cdef u64 lin = 0
    cdef int st = linear(c, SS, sp[0], size, False, &lin)
    if st == ST_OK:
        st = mem_read(c, lin, size, v)
    if st == ST_OK:
        sp[0] = sp_trunc(c, sp[0] + <u64>size)
    return st

cdef inline int push(Cpu* c, int size, u64 v) noexcept nogil:
    """Push and commit."""
    cdef u64 sp = get_sp(c)
    cdef int st = stack_push(c, &sp, size, v)
    if st == ST_OK:
        set_sp(c, sp)
    return st

cdef inline int pop(Cpu* c, int size, u64* v) noexcept nogil:
    """Pop and commit."""
    cdef u64 sp = get_sp(c)
    cdef int st = stack_pop(c, &sp, size, v)
    if st == ST_OK:
        set_sp(c, sp)
    return st

# ---------------------------------------------------------------------------------------------------------------------
cdef int PUSH_Z(Cpu* c, Insn* o) noexcept nogil:
    """PUSH rSP pushes the old value."""
    return push(c, o.size, c.r[o.rm])

cdef int PUSH_I(Cpu* c, Insn* o) noexcept nogil:
    return push(c, o.size, <u64>o.imm)

cdef int PUSH_E(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 v
    cdef int st = read_rm(c, o, &v)
    return push(c, o.size, v) if st == ST_OK else st

cdef int PUSH_S(Cpu* c, Insn* o) noexcept nogil:
    """The selector zero-extended (a 32-bit push may also leave the upper half of the slot alone: SDM Vol. 2, PUSH)."""
    return push(c, o.size, c.seg[seg_of_opcode(o)].sel)

cdef int POP_S(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 v
    cdef u64 sp = get_sp(c)
    cdef int seg = seg_of_opcode(o)
    cdef u32 old_mode = c.mode
    cdef int st = stack_pop(c, &sp, o.size, &v)
    if st == ST_OK:
        st = load_seg(c, seg, <u16>v)
    if st != ST_OK:
        return st
    if seg == SS:
        c.inhibit = INHIBIT_SS
        if old_mode & MODE_SS32 == 0 and not old_mode & MODE_64:
            sp = (c.r[RSP] & ~<u64>0xFFFF) | <u16>sp        # the pop itself used the old width
        c.r[RSP] = sp
    else:
        set_sp(c, sp)
    return branch_next(c, o)

cdef inline int seg_of_opcode(Insn* o) noexcept nogil:
    """PUSH and POP of a segment register: the row's operand names it."""
    cdef const char* name = rows[o.op].operands         # "ES" .. "GS"
    if name[0] == b'E':
        return ES
    if name[0] == b'C':
        return CS
    if name[0] == b'S':
        return SS
    if name[0] == b'D':
        return DS
    return FS if name[0] == b'F' else GS

cdef int POP_Z(Cpu* c, Insn* o) noexcept nogil:
    """POP rSP: the popped value wins over the increment."""
    cdef u64 v
    cdef int st = pop(c, o.size, &v)
    if st == ST_OK:
        set_reg(c, o, o.rm, o.size, v)
    return st

cdef int POP_E(Cpu* c, Insn* o) noexcept nogil:
    """The address of a memory destination is computed with rSP already incremented (SDM Vol. 2, POP)."""
    cdef u64 v
    cdef u64 old = c.r[RSP]
    cdef int st = pop(c, o.size, &v)
    if st != ST_OK:
        return st
    st = write_rm(c, o, v)
    if st != ST_OK:
        c.r[RSP] = old
    return st

cdef int PUSHA(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 sp = get_sp(c)
    cdef int k, st
    for k in range(8):
        st = stack_push(c, &sp, o.size, c.r[k])
        if st != ST_OK:
            return st
    set_sp(c, sp)
    return ST_OK

cdef int POPA(Cpu* c, Insn* o) noexcept nogil:
    """The image of rSP is skipped."""
    cdef u64 v[8]
    cdef u64 sp = get_sp(c)
    cdef int k, st
    for k in range(7, -1, -1):
        st = stack_pop(c, &sp, o.size, &v[k])
        if st != ST_OK:
            return st
    for k in range(8):
        if k != RSP:
            set_reg(c, o, k, o.size, v[k])
    set_sp(c, sp)
    return ST_OK

# ---------------------------------------------------------------------------------------------------------------------
cdef inline int iopl(Cpu* c) noexcept nogil:
    return (c.eflags & FL_IOPL) >> 12

cdef int PUSHF(Cpu* c, Insn* o) noexcept nogil:
    """VM and RF are pushed as 0."""
    if c.mode & MODE_VM and iopl(c) < 3:
        if o.size == 2 and c.cr4 & CR4_VME:
            return push(c, 2, virtual_flags(c))
        return fault_err(c, X_GP, 0)
    return push(c, o.size, get_eflags(c) & ~<u32>(FL_VM | FL_RF))

cdef void write_flags(Cpu* c, u32 v, int size) noexcept nogil:
    """POPF and the flags of IRET: what the privilege level may not change stays (SDM Vol. 2, POPF table)."""
    cdef u32 may = FL_ARITH | FL_TF | FL_DF | FL_NT
    if size >= 4:
        may |= FL_AC | FL_ID
    if c.cpl == 0:
        may |= FL_IOPL
    if c.cpl <= iopl(c):
        may |= FL_IF
    set_eflags(c, (get_eflags(c) & ~may & ~<u32>FL_RF) | (v & may))

cdef int POPF(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 v
    cdef u64 sp = get_sp(c)
    cdef bint virtual_ = c.mode & MODE_VM and iopl(c) < 3
    cdef int st
    if virtual_ and (o.size != 2 or not c.cr4 & CR4_VME):
        return fault_err(c, X_GP, 0)
    st = stack_pop(c, &sp, o.size, &v)
    if st == ST_OK and virtual_ and not virtual_flags_ok(c, <u32>v):
        st = fault_err(c, X_GP, 0)
    if st != ST_OK:
        return st
    set_sp(c, sp)
    if virtual_:
        load_virtual_flags(c, <u32>v)
    else:
        write_flags(c, <u32>v, o.size)
    return branch_next(c, o)

# ---------------------------------------------------------------------------------------------------------------------
cdef int ENTER(Cpu* c, Insn* o) noexcept nogil:
    """ENTER frame size, nesting level (SDM Vol. 2): o.imm and o.disp."""
    cdef u64 sp = get_sp(c)
    cdef u64 bp = sp_trunc(c, c.r[RBP])
    cdef u64 lin, frame, v
    cdef int level = <int>(o.disp & 31)
    cdef int size = o.size
    cdef int k
    cdef int st = stack_push(c, &sp, size, c.r[RBP])
    frame = sp
    for k in range(1, level):
        if st != ST_OK:
            return st
        bp = sp_trunc(c, bp - <u64>size)
        st = linear(c, SS, bp, size, False, &lin)
        if st == ST_OK:
            st = mem_read(c, lin, size, &v)
        if st == ST_OK:
            st = stack_push(c, &sp, size, v)
    if st == ST_OK and level > 0:
        st = stack_push(c, &sp, size, frame)
    if st != ST_OK:
        return st
    sp = sp_trunc(c, sp - <u64>(o.imm & 0xFFFF))
    st = linear(c, SS, sp, 1, True, &lin)
    if st == ST_OK:
        st = mem_check_write(c, lin, 1)                 # the new top of the stack must be writable
    if st != ST_OK:
        return st
    set_reg(c, o, RBP, size, frame)
    set_sp(c, sp)
    return ST_OK

cdef int LEAVE(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 v
    cdef u64 sp = sp_trunc(c, c.r[RBP])
    cdef int st = stack_pop(c, &sp, o.size, &v)
    if st != ST_OK:
        return st
    set_sp(c, sp)
    set_reg(c, o, RBP, o.size, v)
    return ST_OK
