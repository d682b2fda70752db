# Hardware task switching: far JMP and CALL to a TSS or task gate, task gates in the IDT, IRET with NT.
#
# SDM Vol. 3, ch. 7.  Legacy and compatibility-free: in IA-32e mode there are no tasks to switch to.  The old task is saved and
# the new TSS read before anything changes; a fault after that (a bad segment in the new TSS) is the new task's, with its EIP.

cdef enum:
    TASK_JMP = 0
    TASK_CALL = 1        # also interrupts and exceptions through a task gate
    TASK_IRET = 2

cdef enum:               # TSS fields (SDM Vol. 3, figures 7-2 and 7-10)
    TSS32_CR3 = 0x1C
    TSS32_SIZE = 0x68
    TSS16_SIZE = 0x2C
    TSS_BUSY = 2         # bit of the descriptor's type

cdef u16* TSS_SEGMENT_ORDER = [ES, CS, SS, DS, FS, GS]

cdef inline int task_fault(Cpu* c, int vector, u32 error) noexcept nogil:
    """A fault of the new task, with c.rip as it has been set."""
    fault_err(c, vector, error)
    return ST_TRAP

cdef int task_descriptor(Cpu* c, u16 sel, bint busy, int bad, u32 ext, u64* desc) noexcept nogil:
    """The TSS a selector names, available or busy as it must be; `bad` is the exception for one that is not."""
    cdef u64 lin
    cdef int kind
    if sel & 4 or sel & 0xFFFC == 0 or not desc_address(c, sel, &lin):
        return fault_err(c, bad, (sel & 0xFFFC) | ext)
    if mem_read_sys(c, lin, 8, desc) != ST_OK:
        return ST_FAULT
    kind = desc_attr(desc[0]) & 0x1F
    if kind & ~TSS_BUSY != SYS_TSS16 and kind & ~TSS_BUSY != SYS_TSS or ((kind & TSS_BUSY) != 0) != busy:
        return fault_err(c, bad, (sel & 0xFFFC) | ext)
    if not desc_attr(desc[0]) & ATTR_P:
        return fault_err(c, X_NP, (sel & 0xFFFC) | ext)
    if desc_limit(desc[0]) < <u32>((TSS32_SIZE if kind & 8 else TSS16_SIZE) - 1):
        return fault_err(c, X_TS, (sel & 0xFFFC) | ext)
    return ST_OK

cdef int sys_copy(Cpu* c, u64 lin, void* data, u64 n, bint write) noexcept nogil:
    """Bytes of a TSS, with the rights of the processor itself."""
    cdef TlbEntry* tlb = c.tlb
    cdef u8 index = c.tlb_index
    cdef int st
    c.tlb = c.tlbs[0]
    c.tlb_index = 0
    c.implicit = 1
    st = mem_write_n(c, lin, n, data) if write else mem_read_n(c, lin, n, data)
    c.implicit = 0
    c.tlb = tlb
    c.tlb_index = index
    return st

cdef int set_busy(Cpu* c, u16 sel, bint busy) noexcept nogil:
    cdef u64 lin, v
    if not desc_address(c, sel, &lin) or mem_read_sys(c, lin + 5, 1, &v) != ST_OK:
        return ST_FAULT
    return mem_write_sys(c, lin + 5, 1, v | TSS_BUSY if busy else v & ~<u64>TSS_BUSY)

cdef int save_task(Cpu* c, u64 ip, u32 flags) noexcept nogil:
    """The registers into the TSS of the task that is left (SDM Vol. 3, 7.3, step 8)."""
    cdef u8 image[64]
    cdef bint wide = (c.seg[TR].attr & 8) != 0
    cdef u64 at = c.seg[TR].base + (0x20 if wide else 0x0E)
    cdef int width = 4 if wide else 2
    cdef u64 n = 64 if wide else 0x1C
    cdef int k
    if sys_copy(c, at, image, n, False) != ST_OK:
        return ST_FAULT
    host_store(image, width, ip)
    host_store(image + width, width, flags)
    for k in range(8):
        host_store(image + (2 + k) * width, width, c.r[k])
    for k in range(6 if wide else 4):                   # the upper half of a selector's slot stays
        host_store(image + (10 + k) * width, 2, c.seg[k].sel)
    return sys_copy(c, at, image, n, True)

cdef int task_switch(Cpu* c, u16 sel, u64 desc, int how, u64 ip) noexcept nogil:
    """To the task of a TSS descriptor that task_descriptor() has passed.  ip: where the old task goes on.  ST_BRANCH or not."""
    cdef u8 image[104]
    cdef bint wide = (desc_attr(desc) & 8) != 0
    cdef u64 base = desc_base(desc)
    cdef u16 old = c.seg[TR].sel
    cdef u32 flags = get_eflags(c)
    cdef u64 link = old
    memset(image, 0, sizeof(image))
    if how == TASK_IRET:
        flags &= ~<u32>FL_NT
    # SAFETY: image holds the larger of the two TSS sizes.
    if sys_copy(c, base, image, TSS32_SIZE if wide else TSS16_SIZE, False) != ST_OK:
        return ST_FAULT
    if save_task(c, ip, flags) != ST_OK:
        return ST_FAULT
    if how == TASK_CALL and sys_copy(c, base, &link, 2, True) != ST_OK:
        return ST_FAULT
    if how != TASK_CALL and set_busy(c, old, False) != ST_OK:
        return ST_FAULT
    if how != TASK_IRET and set_busy(c, sel, True) != ST_OK:
        return ST_FAULT
    c.cr0 |= CR0_TS
    if c.dr[7] & 0x155:                                  # breakpoints of the old task alone
        c.dr[7] &= ~<u64>0x155
        debug_changed(c)
    fill_seg(&c.seg[TR], sel, desc | (<u64>TSS_BUSY << 40))
    return load_task(c, image, wide, how == TASK_CALL)

cdef int load_task(Cpu* c, const u8* image, bint wide, bint nested) noexcept nogil:
    """The registers of the new task, then its segments with all their checks (SDM Vol. 3, table 7-1)."""
    cdef int width = 4 if wide else 2
    cdef const u8* p = image + (0x20 if wide else 0x0E)
    cdef u32 flags = <u32>host_load(p + width, width)
    cdef u16 ldt = <u16>host_load(image + (0x60 if wide else 0x2A), 2)
    cdef u16 sels[6]
    cdef int k, st
    c.rip = host_load(p, width)
    for k in range(8):
        c.r[k] = host_load(p + (2 + k) * width, width)
        if not wide:
            c.r[k] |= <u64>0xFFFF0000                        # as processors do; undefined in the SDM
    for k in range(6):
        sels[k] = <u16>host_load(p + (10 + k) * width, 2) if wide or k < 4 else 0
    if wide and c.cr0 & CR0_PG and not write_cr3(c, host_load(image + TSS32_CR3, 4)):
        return task_fault(c, X_GP, 0)
    set_eflags(c, flags & <u32>0x3F7FD7 | (<u32>FL_NT if nested else 0))
    for k in range(6):
        fill_null(&c.seg[k], sels[k])
    fill_null(&c.seg[LDTR], ldt)
    st = load_task_ldt(c, ldt)
    if st == ST_OK and c.eflags & FL_VM:
        enter_vm(c, sels)
    elif st == ST_OK:
        st = load_task_segments(c, sels)
    update_mode(c)
    if st != ST_OK:
        return st
    if c.rip > c.seg[CS].limit:
        return task_fault(c, X_GP, 0)
    if wide and image[0x64] & 1:                        # T: debug trap on entry
        c.db_pending |= DR6_BT
    return ST_BRANCH

cdef int load_task_ldt(Cpu* c, u16 sel) noexcept nogil:
    cdef u64 desc, lin
    if sel & 0xFFFC == 0:
        return ST_OK
    if sel & 4 or not desc_address(c, sel, &lin):
        return task_fault(c, X_TS, sel & 0xFFFC)
    if mem_read_sys(c, lin, 8, &desc) != ST_OK:
        return ST_TRAP
    if desc_attr(desc) & 0x1F != SYS_LDT or not desc_attr(desc) & ATTR_P:
        return task_fault(c, X_TS, sel & 0xFFFC)
    fill_seg(&c.seg[LDTR], sel, desc)
    return ST_OK

cdef int task_desc(Cpu* c, u16 sel, u64* desc) noexcept nogil:
    """A segment descriptor of the new task: what is no descriptor is #TS."""
    cdef u64 lin
    if not desc_address(c, sel, &lin):
        return task_fault(c, X_TS, sel & 0xFFFC)
    if mem_read_sys(c, lin, 8, desc) != ST_OK:
        return ST_TRAP
    return ST_OK

cdef int load_task_segments(Cpu* c, const u16* sels) noexcept nogil:
    cdef u64 desc
    cdef u16 cs = sels[CS], ss = sels[SS]
    cdef int k, st
    c.cpl = cs & 3
    if cs & 0xFFFC == 0:
        return task_fault(c, X_TS, 0)
    st = task_desc(c, cs, &desc)
    if st != ST_OK:
        return st
    if not is_code(desc) or (desc_dpl(desc) > (cs & 3) if is_conforming(desc) else desc_dpl(desc) != (cs & 3)):
        return task_fault(c, X_TS, cs & 0xFFFC)
    if not desc_attr(desc) & ATTR_P:
        return task_fault(c, X_NP, cs & 0xFFFC)
    mark_descriptor(c, cs, desc, ATTR_A)
    fill_seg(&c.seg[CS], cs, desc)
    if ss & 0xFFFC == 0:
        return task_fault(c, X_TS, 0)
    st = task_desc(c, ss, &desc)
    if st != ST_OK:
        return st
    if ss & 3 != c.cpl or not is_writable_data(desc) or desc_dpl(desc) != c.cpl:
        return task_fault(c, X_TS, ss & 0xFFFC)
    if not desc_attr(desc) & ATTR_P:
        return task_fault(c, X_SS, ss & 0xFFFC)
    mark_descriptor(c, ss, desc, ATTR_A)
    fill_seg(&c.seg[SS], ss, desc)
    for k in range(6):
        if k == CS or k == SS or sels[k] & 0xFFFC == 0:
            continue
        st = task_desc(c, sels[k], &desc)
        if st == ST_OK and check_data_desc(c, sels[k], desc) != ST_OK:
            st = task_fault(c, X_NP if c.exc_vector == X_NP else X_TS, sels[k] & 0xFFFC)
        if st != ST_OK:
            return st
        mark_descriptor(c, sels[k], desc, ATTR_A)
        fill_seg(&c.seg[k], sels[k], desc)
    return ST_OK

# ---- the ways to a task ---------------------------------------------------------------------------------------------
cdef int task_transfer(Cpu* c, Insn* o, u16 sel, u64 desc, bint call) noexcept nogil:
    """Far JMP or CALL to a TSS or a task gate (SDM Vol. 2, CALL, task-gate and task-state-segment)."""
    cdef u16 tss = sel
    cdef int st
    if desc_dpl(desc) < c.cpl or desc_dpl(desc) < sel & 3:
        return fault_err(c, X_GP, sel & 0xFFFC)
    if desc_attr(desc) & 0x1F == SYS_TASK_GATE:
        if not desc_attr(desc) & ATTR_P:
            return fault_err(c, X_NP, sel & 0xFFFC)
        tss = <u16>(desc >> 16)
    st = task_descriptor(c, tss, False, X_GP, 0, &desc)
    return task_switch(c, tss, desc, TASK_CALL if call else TASK_JMP, next_rip(c, o)) if st == ST_OK else st

cdef int task_return(Cpu* c, Insn* o) noexcept nogil:
    """IRET with NT: back to the task that the link field names."""
    cdef u64 link, desc
    cdef int st = mem_read_sys(c, c.seg[TR].base, 2, &link)
    if st == ST_OK:
        st = task_descriptor(c, <u16>link, True, X_TS, 0, &desc)
    return task_switch(c, <u16>link, desc, TASK_IRET, next_rip(c, o)) if st == ST_OK else st

cdef int task_interrupt(Cpu* c, u64 gate, bint has_error, u32 error, u32 ext) noexcept nogil:
    """An interrupt or exception through a task gate; the error code goes on the new task's stack."""
    cdef u64 desc, sp
    cdef u16 sel = <u16>(gate >> 16)
    cdef int width, st
    st = task_descriptor(c, sel, False, X_GP, ext, &desc)
    if st == ST_OK:
        st = task_switch(c, sel, desc, TASK_CALL, c.rip)
    if st == ST_TRAP:
        c.int_rip = c.rip                               # what is wrong is found in the new task, at its EIP
        return ST_FAULT
    if st == ST_BRANCH and has_error:
        width = 4 if desc_attr(desc) & 8 else 2
        sp = get_sp(c)
        if stack_push(c, &sp, width, error) != ST_OK:
            return ST_FAULT
        set_sp(c, sp)
    return st
