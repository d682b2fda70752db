# Delivery of exceptions and interrupts through the IDT of a bare machine: real mode, protected mode, IA-32e mode.
#
# SDM Vol. 3, ch. 6 and Vol. 2 (INT n).  Benign and contributory faults combine into #DF, a fault in its delivery is a shutdown
# (Vol. 3, 6.15).  A machine without an IDT (the tools API) gets EXIT_EXCEPTION instead.  Task gates lead to
# task.pxi.  What a PV guest gets instead is in pv_traps.pxi.

cdef enum:               # what is delivered
    BY_EXCEPTION = 0
    BY_SOFTWARE = 1      # INT n, INT3, INTO
    BY_HARDWARE = 2      # NMI, external interrupts

cdef int deliver(Cpu* c) noexcept nogil:
    """Deliver the exception in Cpu.exc_* with c.rip as the return address.  ST_BRANCH or ST_EXIT."""
    cdef int how = BY_SOFTWARE if c.soft_int else BY_EXCEPTION
    c.soft_int = 0
    if c.is_pv:
        return pv_deliver(c)
    return deliver_by(c, c.exc_vector, c.exc_has_error, c.exc_error, how)

cdef int deliver_by(Cpu* c, int vector, bint has_error, u32 error, int how) noexcept nogil:
    """Faults on the way are delivered in its stead, or combine with it; the depth of that is bounded by the table below."""
    cdef int st
    if c.idtr.limit == 0:
        c.exit.reason = EXIT_EXCEPTION
        c.exit.nr = vector
        c.exit.code = error
        c.exit.address = c.cr2
        return ST_EXIT
    c.exc_vector = X_GP                         # should delivery fail without saying why
    st = interrupt(c, vector, has_error, error, how == BY_SOFTWARE)
    if st != ST_FAULT:
        c.bp_fault = 0
        c.delivery_depth = 0
        if vector == X_DB and how == BY_EXCEPTION:
            c.dr[7] &= ~<u64>DR7_GD             # SDM Vol. 3, 17.2.4
        return st
    c.status = ST_FAULT
    c.bp_fault = 0
    if how == BY_SOFTWARE:                      # a fault of the INT instruction, whatever its number
        c.rip = c.int_rip
    elif how == BY_EXCEPTION and combines(vector, c.exc_vector):
        if vector == X_DF:
            c.exit.reason = EXIT_SHUTDOWN
            c.exit.nr = vector
            return ST_EXIT
        fault_err(c, X_DF, 0)
    c.delivery_depth += 1
    if c.delivery_depth > 8:
        # #AC whose frame is misaligned raises #AC: a processor hangs in that (CVE-2015-5307).  Back to the instruction, which
        # faults again: as endless, but run() looks at its budget and at requests.
        c.delivery_depth = 0
        return ST_BRANCH
    return deliver(c)

cdef inline bint contributory(int v) noexcept nogil:
    return v == X_DE or (v >= X_TS and v <= X_GP)

cdef bint combines(int first, int second) noexcept nogil:
    """Does the pair make a double fault, or, with #DF first, a shutdown (SDM Vol. 3, table 6-5)?"""
    if first == X_PF or first == X_DF:
        return second == X_PF or contributory(second)
    return contributory(first) and contributory(second)

# ---- events from outside --------------------------------------------------------------------------------------------
cdef bint event_ready(Cpu* c) noexcept nogil:
    """Would an event be taken before the next instruction?"""
    if c.events & EVENT_NMI and not c.nmi_blocked and not c.inhibit & INHIBIT_SS:
        return True
    if not c.eflags & FL_IF or c.inhibit:
        return False
    return (upcall_ready(c) or c.events & EVENT_INTR or c.events & EVENT_EXTINT and takes_extint(c)
            or lapic_deliverable(c) >= 0)

cdef bint take_event(Cpu* c) noexcept nogil:
    """NMI first, then an external interrupt (SDM Vol. 3, table 6-2); a debug trap of the last instruction comes before both."""
    cdef int vector = c.intr_vector
    if unlikely(c.events & EVENT_UPCALL) and not upcall_ready(c):
        fetch_and(&c.events, ~<u32>EVENT_UPCALL)
        if upcall_ready(c):                     # since then
            fetch_or(&c.events, EVENT_UPCALL)
    if c.db_pending or c.is_pv or not event_ready(c):
        return False
    c.stat[STAT_EVENTS] += 1
    c.status = ST_BRANCH
    if c.events & EVENT_NMI and not c.nmi_blocked and not c.inhibit & INHIBIT_SS:
        fetch_and(&c.events, ~<u32>EVENT_NMI)
        c.nmi_blocked = 1
        vector = X_NMI
    elif upcall_ready(c):
        fetch_and(&c.events, ~<u32>EVENT_UPCALL)
        vector = c.hvm.callback_vector
    elif c.events & EVENT_INTR:
        fetch_and(&c.events, ~<u32>EVENT_INTR)
    elif c.events & EVENT_EXTINT and takes_extint(c):
        c.exit.reason = EXIT_INTACK
        c.status = ST_EXIT
        return True
    else:
        vector = lapic_take(c)
    c.inhibit = 0
    c.status = deliver_by(c, vector, False, 0, BY_HARDWARE)
    return True

cdef int interrupt(Cpu* c, int vector, bint has_error, u32 error, bint soft) noexcept nogil:
    cdef int st
    c.delivering = 1
    if not c.mode & MODE_PE:
        st = interrupt_real(c, vector)
    else:
        st = interrupt_protected(c, vector, has_error, error, soft)
    c.delivering = 0
    return st

cdef int interrupt_real(Cpu* c, int vector) noexcept nogil:
    """SDM Vol. 3, 20.1.4: the interrupt vector table."""
    cdef u64 entry = 0
    cdef u64 sp = get_sp(c)
    if <u32>(vector * 4 + 3) > c.idtr.limit:
        return fault_err(c, X_GP, 0)
    if mem_read_sys(c, c.idtr.base + vector * 4, 4, &entry) != ST_OK:
        return ST_FAULT
    if (stack_push(c, &sp, 2, <u16>get_eflags(c)) != ST_OK or stack_push(c, &sp, 2, c.seg[CS].sel) != ST_OK
            or stack_push(c, &sp, 2, <u16>c.rip) != ST_OK):
        return ST_FAULT
    set_sp(c, sp)
    c.eflags &= ~<u32>(FL_IF | FL_TF | FL_AC | FL_RF)
    far_real(c, <u16>(entry >> 16), entry & 0xFFFF)
    return ST_BRANCH

cdef int interrupt_protected(Cpu* c, int vector, bint has_error, u32 error, bint soft) noexcept nogil:
    """SDM Vol. 3, 6.12 and 6.14: interrupt and trap gates, with a stack switch to an inner ring or by IST."""
    cdef bint lma = (c.efer & EFER_LMA) != 0
    cdef u64 low = 0, high = 0, target, desc = 0, sp, ss_desc = 0
    cdef u32 ext = 0 if soft else 1
    cdef u32 at = vector * (16 if lma else 8)
    cdef u16 sel, new_ss
    cdef int kind, dpl, cpl, ist, width, st
    cdef u32 flags = get_eflags(c) & ~<u32>FL_RF
    cdef bint vm = (c.mode & MODE_VM) != 0
    cdef u64 frame[10]
    cdef u8 packed[80]
    cdef int n = 0, i
    if c.status == ST_FAULT and not c.bp_fault or c.rep_rip == c.rip:
        flags |= FL_RF                          # SDM Vol. 3, 17.3.1.1
    if at + (15 if lma else 7) > c.idtr.limit:
        return fault_err(c, X_GP, vector * 8 + 2 + ext)
    if mem_read_sys(c, c.idtr.base + at, 8, &low) != ST_OK:
        return ST_FAULT
    if lma and mem_read_sys(c, c.idtr.base + at + 8, 8, &high) != ST_OK:
        return ST_FAULT
    kind = (low >> 40) & 31
    dpl = (low >> 45) & 3
    if not (kind == 14 or kind == 15 or (not lma and (kind == 6 or kind == 7 or kind == SYS_TASK_GATE))):
        return fault_err(c, X_GP, vector * 8 + 2 + ext)
    if soft and dpl < c.cpl:
        return fault_err(c, X_GP, vector * 8 + 2)
    if not (low >> 47) & 1:
        return fault_err(c, X_NP, vector * 8 + 2 + ext)
    if kind == SYS_TASK_GATE:
        return task_interrupt(c, low, has_error, error, ext)
    sel = <u16>(low >> 16)
    target = (low & 0xFFFF) | ((low >> 32) & <u64>0xFFFF0000)
    if kind < 8:
        target &= 0xFFFF
    if lma:
        target |= high << 32
    if sel & ~3 == 0:
        return fault_err(c, X_GP, ext)
    st = read_descriptor(c, sel, &desc)
    if st != ST_OK:
        return st
    if (desc >> 43) & 3 != 3:
        return fault_err(c, X_GP, (sel & 0xFFFC) | ext)
    if not (desc >> 47) & 1:
        return fault_err(c, X_NP, (sel & 0xFFFC) | ext)
    dpl = (desc >> 45) & 3
    cpl = c.cpl if (desc >> 42) & 1 else dpl              # conforming code keeps CPL
    if dpl > c.cpl or (vm and cpl != 0):
        return fault_err(c, X_GP, (sel & 0xFFFC) | ext)
    ist = high_ist(low) if lma else 0
    sp = c.r[RSP] if lma or c.mode & MODE_SS32 else <u16>c.r[RSP]
    new_ss = c.seg[SS].sel
    if ist or cpl < c.cpl:
        st = tss_stack(c, cpl, ist, &sp, &new_ss)
        if st != ST_OK:
            return st
    # -- the frame, last pushed first -------------------------------------------------------------------------------
    if has_error:
        frame[n] = error
        n += 1
    frame[n] = c.rip
    frame[n + 1] = c.seg[CS].sel
    frame[n + 2] = flags
    n += 3
    if lma or cpl < c.cpl:
        frame[n] = c.r[RSP]
        frame[n + 1] = c.seg[SS].sel
        n += 2
    if vm:                                                # SDM Vol. 3, figure 20-4
        frame[n], frame[n + 1], frame[n + 2], frame[n + 3] = c.seg[ES].sel, c.seg[DS].sel, c.seg[FS].sel, c.seg[GS].sel
        n += 4
    width = 8 if lma else 4 if kind >= 8 else 2
    if lma:
        sp &= ~<u64>15
    for i in range(n):
        host_store(packed + i * width, width, frame[i])
    if lma:
        sp -= n * width
        st = write_stack(c, sp, packed, n * width, cpl)
    else:
        st = legacy_frame(c, new_ss, cpl, ext, &sp, packed, n * width, &ss_desc)
    if st != ST_OK:
        return ST_FAULT
    # -- nothing below can fail -------------------------------------------------------------------------------------
    c.eflags &= ~<u32>(FL_TF | FL_NT | FL_RF | FL_VM)
    if not kind & 1:
        c.eflags &= ~<u32>FL_IF
    if cpl < c.cpl:
        if lma:
            set_null_ss(c, cpl)
        else:
            mark_descriptor(c, new_ss, ss_desc, ATTR_A)
            fill_seg(&c.seg[SS], new_ss, ss_desc)
    if vm:
        fill_null(&c.seg[ES], 0)
        fill_null(&c.seg[DS], 0)
        fill_null(&c.seg[FS], 0)
        fill_null(&c.seg[GS], 0)
    c.r[RSP] = sp if lma or c.seg[SS].attr & ATTR_DB else (c.r[RSP] & ~<u64>0xFFFF) | <u16>sp
    mark_descriptor(c, sel, desc, ATTR_A)
    set_code_segment(c, (sel & 0xFFFC) | cpl, desc)
    c.cpl = cpl
    c.rip = target
    update_mode(c)
    return ST_BRANCH

cdef inline int high_ist(u64 low) noexcept nogil:
    return (low >> 32) & 7

cdef int tss_stack(Cpu* c, int cpl, int ist, u64* sp, u16* ss) noexcept nogil:
    """The stack of a ring, or an IST entry, from the TSS (SDM Vol. 3, 7.2.1 and 7.7)."""
    cdef Seg* tr = &c.seg[7]
    cdef u64 v = 0
    cdef u32 at
    if c.efer & EFER_LMA:
        at = 28 + 8 * ist if ist else 4 + 8 * cpl
        ss[0] = cpl
        if at + 7 > tr.limit:
            return fault_err(c, X_TS, tr.sel & 0xFFFC)
        return mem_read_sys(c, tr.base + at, 8, sp)
    if not (tr.attr & 8):                                    # 16-bit TSS
        at = 2 + 4 * cpl
        if at + 3 > tr.limit:
            return fault_err(c, X_TS, tr.sel & 0xFFFC)
        if mem_read_sys(c, tr.base + at, 4, &v) != ST_OK:
            return ST_FAULT
        sp[0] = v & 0xFFFF
        ss[0] = <u16>(v >> 16)
        return ST_OK
    at = 4 + 8 * cpl
    if at + 7 > tr.limit:
        return fault_err(c, X_TS, tr.sel & 0xFFFC)
    if mem_read_sys(c, tr.base + at, 8, &v) != ST_OK:
        return ST_FAULT
    sp[0] = v & <u64>0xFFFFFFFF
    ss[0] = <u16>(v >> 32)
    return ST_OK

cdef int inner_stack(Cpu* c, u16 sel, int cpl, u32 ext, u64* desc) noexcept nogil:
    """The stack segment of an inner ring, named by the TSS: whatever is wrong with it is #TS (SDM Vol. 3, 6.12.1)."""
    cdef u64 lin
    if sel & 0xFFFC == 0 or not desc_address(c, sel, &lin):
        return fault_err(c, X_TS, (sel & 0xFFFC) | ext)
    if mem_read_sys(c, lin, 8, desc) != ST_OK:
        return ST_FAULT
    if sel & 3 != cpl or desc_dpl(desc[0]) != cpl or not is_writable_data(desc[0]):
        return fault_err(c, X_TS, (sel & 0xFFFC) | ext)
    if not desc_attr(desc[0]) & ATTR_P:
        return fault_err(c, X_SS, (sel & 0xFFFC) | ext)
    return ST_OK

cdef inline u64 stack_mask(u64 desc, u64 sp) noexcept nogil:
    return <u32>sp if desc_attr(desc) & ATTR_DB else <u16>sp

cdef bint stack_room(u64 desc, u64 sp, u64 n) noexcept nogil:
    """Are n bytes at sp inside a stack segment, expand-down or not?"""
    if desc_attr(desc) & ATTR_CE:
        return sp > desc_limit(desc) and sp + n - 1 <= (<u64>0xFFFFFFFF if desc_attr(desc) & ATTR_DB else <u64>0xFFFF)
    return sp + n - 1 <= desc_limit(desc)

cdef int legacy_frame(Cpu* c, u16 new_ss, int cpl, u32 ext, u64* sp, const u8* frame, u64 n, u64* ss_desc) noexcept nogil:
    """Push the frame of an interrupt outside IA-32e mode, on the stack of the inner ring where there is a switch."""
    cdef u64 lin = 0
    cdef int st
    if cpl < c.cpl:
        st = inner_stack(c, new_ss, cpl, ext, ss_desc)
        if st != ST_OK:
            return st
        sp[0] = stack_mask(ss_desc[0], sp[0] - n)
        if not stack_room(ss_desc[0], sp[0], n):
            return fault_err(c, X_SS, (new_ss & 0xFFFC) | ext)
        lin = <u32>(desc_base(ss_desc[0]) + sp[0])
    else:
        sp[0] = sp_trunc(c, sp[0] - n)
        st = linear(c, SS, sp[0], n, True, &lin)
        if st != ST_OK:
            return fault_err(c, X_SS, ext)
    return write_stack(c, lin, frame, n, cpl)

cdef int write_stack(Cpu* c, u64 lin, const u8* data, u64 n, int cpl) noexcept nogil:
    """Push a frame with the rights of the ring it goes to."""
    cdef TlbEntry* tlb = c.tlb
    cdef u8 index = c.tlb_index
    cdef int st
    if cpl < 3:
        c.tlb = c.tlbs[0]
        c.tlb_index = 0
    st = mem_write_n(c, lin, n, data)
    c.tlb = tlb
    c.tlb_index = index
    return st
