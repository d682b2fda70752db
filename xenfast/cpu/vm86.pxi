# Virtual-8086 mode: entering it, leaving it by interrupts, and the virtual interrupt flag (VME, PVI).
#
# SDM Vol. 3, ch. 20.  In this mode CPL is 3, segments work as in real mode with a limit of 64 KiB, and CLI STI PUSHF POPF INT n
# IRET need IOPL 3, unless CR4.VME gives them VIF and VIP to work on.

cdef enum:
    CR4_VME = 1 << 0
    CR4_PVI = 1 << 1

cdef void enter_vm(Cpu* c, const u16* sels) noexcept nogil:
    """The segments of virtual-8086 mode; EFLAGS.VM is set."""
    cdef int k
    for k in range(6):
        c.seg[k].sel = sels[k]
        c.seg[k].base = <u64>sels[k] << 4
        c.seg[k].limit = 0xFFFF
        c.seg[k].attr = 0xF3
    c.cpl = 3
    update_mode(c)

cdef int iret_to_vm(Cpu* c, u64 sp, u64 ip, u64 cs, u32 flags) noexcept nogil:
    """IRET of ring 0 to a frame with VM set: ESP SS ES DS FS GS follow EFLAGS (SDM Vol. 2, IRET, RETURN-TO-VIRTUAL-8086-MODE)."""
    cdef u64 v[6]
    cdef u16 sels[6]
    cdef int k, st
    for k in range(6):
        st = stack_pop(c, &sp, 4, &v[k])
        if st != ST_OK:
            return st
    if <u16>ip != ip:
        return fault_err(c, X_GP, 0)
    sels[ES], sels[CS], sels[SS] = <u16>v[2], <u16>cs, <u16>v[1]
    sels[DS], sels[FS], sels[GS] = <u16>v[3], <u16>v[4], <u16>v[5]
    set_eflags(c, flags & 0x3F7FD7)
    c.r[RSP] = <u32>v[0]
    c.rip = ip
    enter_vm(c, sels)
    return ST_BRANCH

# ---- the virtual interrupt flag -------------------------------------------------------------------------------------
cdef inline bint virtual_if(Cpu* c) noexcept nogil:
    """Do CLI and STI mean VIF here (SDM Vol. 3, 20.3 and 20.4)?  Asked when IOPL does not allow them to mean IF."""
    return c.cpl == 3 and (c.cr4 & CR4_VME if c.mode & MODE_VM else c.mode & MODE_PE and c.cr4 & CR4_PVI)

cdef int virtual_cli(Cpu* c, Insn* o) noexcept nogil:
    c.eflags &= ~<u32>FL_VIF
    return branch_next(c, o)

cdef int virtual_sti(Cpu* c, Insn* o) noexcept nogil:
    if c.eflags & FL_VIP:
        return fault_err(c, X_GP, 0)
    c.eflags |= FL_VIF
    return branch_next(c, o)

cdef inline u32 virtual_flags(Cpu* c) noexcept nogil:
    """What PUSHF and INT push with VME: IOPL 3, and VIF in the place of IF."""
    cdef u32 fl = (get_eflags(c) & ~<u32>FL_IF) | FL_IOPL
    return fl | FL_IF if c.eflags & FL_VIF else fl

cdef bint virtual_flags_ok(Cpu* c, u32 fl) noexcept nogil:
    """May POPF or IRET load these with VME?  Not TF, nor IF while an interrupt is pending: #GP."""
    return not fl & FL_TF and not (fl & FL_IF and c.eflags & FL_VIP)

cdef void load_virtual_flags(Cpu* c, u32 fl) noexcept nogil:
    """16-bit POPF and IRET with VME and IOPL below 3: IF goes to VIF, IOPL and IF stay."""
    cdef u32 may = FL_ARITH | FL_DF | FL_NT
    set_eflags(c, (get_eflags(c) & ~(may | FL_VIF | FL_RF | FL_TF)) | (fl & may) | (<u32>FL_VIF if fl & FL_IF else 0))

cdef bint vme_redirected(Cpu* c, int vector, bint* fault_) noexcept nogil:
    """Is the bit of INT n clear in the TSS's redirection map: to the virtual-8086 program's own handler?"""
    cdef u64 iomap, v
    cdef u32 at
    fault_[0] = False
    if mem_read_sys(c, c.seg[TR].base + 0x66, 2, &iomap) != ST_OK:
        fault_[0] = True
        return False
    at = <u32>iomap - 32 + (vector >> 3)
    if at > c.seg[TR].limit:
        return False
    if mem_read_sys(c, c.seg[TR].base + at, 1, &v) != ST_OK:
        fault_[0] = True
        return False
    return not (v >> (vector & 7)) & 1

cdef int vm_int(Cpu* c, Insn* o, int vector) noexcept nogil:
    """INT n in virtual-8086 mode (SDM Vol. 3, table 20-2); ST_OK: through the IDT as always."""
    cdef bint bad = False
    cdef u64 entry, sp
    cdef u32 fl
    cdef int st
    if not c.cr4 & CR4_VME or not vme_redirected(c, vector, &bad):
        if bad:
            return ST_FAULT
        return ST_OK if iopl(c) == 3 else fault_err(c, X_GP, 0)
    st = mem_read(c, vector * 4, 4, &entry)
    if st != ST_OK:
        return st
    fl = get_eflags(c) if iopl(c) == 3 else virtual_flags(c)
    sp = get_sp(c)
    st = stack_push(c, &sp, 2, fl & 0xFFFF)
    if st == ST_OK:
        st = stack_push(c, &sp, 2, c.seg[CS].sel)
    if st == ST_OK:
        st = stack_push(c, &sp, 2, <u16>next_rip(c, o))
    if st != ST_OK:
        return st
    set_sp(c, sp)
    c.eflags &= ~<u32>(FL_TF | FL_RF | FL_NT | (FL_IF if iopl(c) == 3 else FL_VIF))
    far_real(c, <u16>(entry >> 16), entry & 0xFFFF)
    return ST_BRANCH
