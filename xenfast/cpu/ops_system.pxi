# System instructions: control and debug registers, descriptor-table registers, SYSCALL and SYSENTER with their
# returns, HLT, SWAPGS, FS/GS base, cache control, fences and the many ways to do nothing.  What may be written to
# control registers is in control.pxi.
#
# SDM Vol. 2 and 3.  CPL 0 is checked before (A_PRIV in the table), except where IOPL or a CR4 bit decides.  A PV
# kernel's privileged instructions never come here: they are pv_emulate's.

cdef extern from *:
    """
    #define xf_fence() __atomic_thread_fence(__ATOMIC_SEQ_CST)
    """
    void xf_fence() noexcept nogil

# ---- control registers ----------------------------------------------------------------------------------------------
cdef inline int machine_word(Cpu* c) noexcept nogil:
    return 8 if c.mode & MODE_64 else 4

cdef int MOV_R_C(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 v
    if o.reg == 0:
        v = c.cr0
    elif o.reg == 2:
        v = c.cr2
    elif o.reg == 3:
        v = c.cr3
    elif o.reg == 4:
        v = c.cr4
    elif o.reg == 8:
        v = c.cr8 if c.lapic == NULL else c.lapic.tpr >> 4
    else:
        return fault(c, X_UD)
    set_reg(c, o, o.rm, machine_word(c), v)
    return ST_OK

cdef int MOV_C_R(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 v = get_reg(c, o, o.rm, machine_word(c))
    cdef bint ok = True
    if o.reg == 0:
        ok = write_cr0(c, v)
    elif o.reg == 2:
        c.cr2 = v
    elif o.reg == 3:
        ok = write_cr3(c, v)
    elif o.reg == 4:
        ok = write_cr4(c, v)
    elif o.reg == 8:
        ok = v < 16
        if ok:
            c.cr8 = v
            if c.lapic != NULL:
                lapic_set_tpr(c, <u32>v << 4)
    else:
        return fault(c, X_UD)
    return branch_next(c, o) if ok else fault_err(c, X_GP, 0)

cdef int CLTS(Cpu* c, Insn* o) noexcept nogil:
    c.cr0 &= ~<u64>CR0_TS
    return branch_next(c, o)

cdef int LMSW_E(Cpu* c, Insn* o) noexcept nogil:
    """Loads PE MP EM TS; PE can be set, not cleared."""
    cdef u64 v
    cdef int st = read_rm_n(c, o, 2, &v)
    if st != ST_OK:
        return st
    write_cr0(c, (c.cr0 & ~<u64>0xE) | (v & 0xF))
    return branch_next(c, o)

cdef inline bint umip(Cpu* c) noexcept nogil:
    """CR4.UMIP: SGDT, SIDT, SLDT, SMSW and STR are #GP(0) outside ring 0 (SDM Vol. 3, 2.5)."""
    return c.cr4 & CR4_UMIP and c.cpl != 0

cdef int SMSW_E(Cpu* c, Insn* o) noexcept nogil:
    if umip(c):
        return fault_err(c, X_GP, 0)
    return write_rm_n(c, o, 2 if o.is_mem else o.size, c.cr0)

# ---- debug registers ------------------------------------------------------------------------------------------------
cdef inline int debug_register(Cpu* c, Insn* o) noexcept nogil:
    """The number, DR4 and DR5 as aliases of DR6 and DR7; -1 for #UD."""
    if o.reg > 7 or (o.reg & 6 == 4 and c.cr4 & CR4_DE):
        return -1
    return o.reg | 2 if o.reg & 6 == 4 else o.reg

cdef int general_detect(Cpu* c) noexcept nogil:
    """DR7.GD: an access to a debug register is a #DB fault, once."""
    c.dr[6] |= DR6_BD
    c.dr[7] &= ~<u64>DR7_GD
    return fault(c, X_DB)

cdef int MOV_R_D(Cpu* c, Insn* o) noexcept nogil:
    cdef int n = debug_register(c, o)
    if n < 0:
        return fault(c, X_UD)
    if c.dr[7] & DR7_GD:
        return general_detect(c)
    set_reg(c, o, o.rm, machine_word(c), c.dr[n])
    return ST_OK

cdef int MOV_D_R(Cpu* c, Insn* o) noexcept nogil:
    """What breakpoints do is in debug.pxi."""
    cdef u64 v = get_reg(c, o, o.rm, machine_word(c))
    cdef int n = debug_register(c, o)
    if n < 0:
        return fault(c, X_UD)
    if c.dr[7] & DR7_GD:
        return general_detect(c)
    if n >= 6 and v >> 32:
        return fault_err(c, X_GP, 0)
    if n == 6:
        v = (v & 0xE00F) | <u64>0xFFFF0FF0
    elif n == 7:
        v = (v & <u64>0xFFFF27FF) | 0x400
    c.dr[n] = v
    debug_changed(c)
    return branch_next(c, o)

# ---- descriptor-table registers -------------------------------------------------------------------------------------
cdef int store_table(Cpu* c, Insn* o, DescTable* t) noexcept nogil:
    cdef u8 image[10]
    cdef u64 lin
    cdef int n = 2 + machine_word(c)
    cdef int st
    if umip(c):
        return fault_err(c, X_GP, 0)
    st = operand_lin_w(c, o, n, &lin)
    if st != ST_OK:
        return st
    host_store(image, 2, t.limit)
    host_store(image + 2, 8, t.base)
    return mem_write_n(c, lin, n, image)

cdef int load_table(Cpu* c, Insn* o, DescTable* t) noexcept nogil:
    cdef u64 lin, limit, base
    cdef int st = operand_lin(c, o, 2 + machine_word(c), &lin)
    if st == ST_OK:
        st = mem_read(c, lin, 2, &limit)
    if st == ST_OK:
        st = mem_read(c, lin + 2, machine_word(c), &base)
    if st != ST_OK:
        return st
    if c.mode & MODE_64:
        if not is_canonical_base(c, base):
            return fault_err(c, X_GP, 0)
    elif o.size == 2:
        base &= 0xFFFFFF
    t.limit = <u32>limit & 0xFFFF
    t.base = base
    return branch_next(c, o)

cdef int SGDT_M(Cpu* c, Insn* o) noexcept nogil:
    return store_table(c, o, &c.gdtr)

cdef int SIDT_M(Cpu* c, Insn* o) noexcept nogil:
    return store_table(c, o, &c.idtr)

cdef int LGDT_M(Cpu* c, Insn* o) noexcept nogil:
    return load_table(c, o, &c.gdtr)

cdef int LIDT_M(Cpu* c, Insn* o) noexcept nogil:
    return load_table(c, o, &c.idtr)

cdef inline int system_selector(Cpu* c, Insn* o, int seg) noexcept nogil:
    if not c.mode & MODE_PE or c.mode & MODE_VM:
        return fault(c, X_UD)
    if umip(c):
        return fault_err(c, X_GP, 0)
    return write_rm_n(c, o, 2 if o.is_mem else o.size, c.seg[seg].sel)

cdef int SLDT_E(Cpu* c, Insn* o) noexcept nogil:
    return system_selector(c, o, LDTR)

cdef int STR_E(Cpu* c, Insn* o) noexcept nogil:
    return system_selector(c, o, TR)

cdef inline int system_privilege(Cpu* c, Insn* o) noexcept nogil:
    """LLDT and LTR: #UD in real and virtual-8086 mode goes before #GP for the privilege level."""
    if not c.mode & MODE_PE or c.mode & MODE_VM:
        return fault(c, X_UD)
    if c.cpl == 0:
        return ST_OK
    return pv_emulate(c, o) if c.is_pv else fault_err(c, X_GP, 0)

cdef int LLDT_E(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 sel
    cdef int st = system_privilege(c, o)
    if st != ST_OK:
        return st
    st = read_rm_n(c, o, 2, &sel)
    return load_ldtr(c, <u16>sel) if st == ST_OK else st

cdef int LTR_E(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 sel
    cdef int st = system_privilege(c, o)
    if st != ST_OK:
        return st
    st = read_rm_n(c, o, 2, &sel)
    return load_tr(c, <u16>sel) if st == ST_OK else st

# ---- fast system calls ----------------------------------------------------------------------------------------------
cdef inline void flat_segment(Cpu* c, int seg, u16 sel, int dpl, u16 attr) noexcept nogil:
    """The fixed descriptors SYSCALL and its kin load: base 0, limit 4 GiB."""
    c.seg[seg].sel = sel
    c.seg[seg].base = 0
    c.seg[seg].limit = 0xFFFFFFFF
    c.seg[seg].attr = attr | ATTR_G | ATTR_P | ATTR_S | ATTR_A | (dpl << 5)

cdef inline void flat_ring(Cpu* c, u16 cs, u16 ss, int cpl, bint long_) noexcept nogil:
    flat_segment(c, CS, cs, cpl, ATTR_CODE | ATTR_RW | (ATTR_L if long_ else ATTR_DB))
    flat_segment(c, SS, ss, cpl, ATTR_RW | ATTR_DB)
    c.cpl = cpl
    update_mode(c)

cdef int SYSCALL(Cpu* c, Insn* o) noexcept nogil:
    """64-bit mode only, as on Intel processors (SDM Vol. 2, SYSCALL)."""
    cdef u16 cs = <u16>(c.star >> 32) & 0xFFFC
    if not c.mode & MODE_64:
        return fault(c, X_UD)
    if c.is_pv:
        return pv_syscall(c, o)
    if not c.efer & 1:
        return fault(c, X_UD)
    c.r[RCX] = next_rip(c, o)
    c.r[11] = get_eflags(c) & ~<u32>FL_RF
    c.rip = c.lstar
    set_eflags(c, get_eflags(c) & ~<u32>(c.fmask | FL_RF))
    flat_ring(c, cs, cs + 8, 0, True)
    trap_behind(c)
    return ST_BRANCH

cdef inline void trap_behind(Cpu* c) noexcept nogil:
    """SYSCALL and SYSRET are stepped by the TF they load, not by the one they began with."""
    if c.eflags & FL_TF:
        c.db_pending |= DR6_BS

cdef int SYSRET(Cpu* c, Insn* o) noexcept nogil:
    cdef u16 cs = <u16>(c.star >> 48)
    if not c.mode & MODE_64 or not c.efer & 1:
        return fault(c, X_UD)
    if o.size == 8 and not is_canonical(c, c.r[RCX]):
        return fault_err(c, X_GP, 0)
    c.rip = c.r[RCX] if o.size == 8 else <u32>c.r[RCX]
    set_eflags(c, <u32>c.r[11] & 0x3C7FD7)
    flat_ring(c, (cs + 16 if o.size == 8 else cs) | 3, (cs + 8) | 3, 3, o.size == 8)
    trap_behind(c)
    return ST_BRANCH

cdef int SYSENTER(Cpu* c, Insn* o) noexcept nogil:
    cdef u16 cs = <u16>c.sysenter_cs & 0xFFFC
    if c.is_pv:
        return pv_sysenter(c, o)
    if not c.mode & MODE_PE or cs == 0:
        return fault_err(c, X_GP, 0)
    c.eflags &= ~<u32>(FL_VM | FL_IF | FL_RF)
    c.r[RSP] = c.sysenter_esp if in_long_mode(c) else <u32>c.sysenter_esp
    c.rip = c.sysenter_eip if in_long_mode(c) else <u32>c.sysenter_eip
    flat_ring(c, cs, cs + 8, 0, in_long_mode(c))
    return ST_BRANCH

cdef int SYSEXIT(Cpu* c, Insn* o) noexcept nogil:
    cdef u16 cs = <u16>c.sysenter_cs & 0xFFFC
    cdef bint long_ = o.size == 8
    if not c.mode & MODE_PE or cs == 0:
        return fault_err(c, X_GP, 0)
    if long_ and (not is_canonical(c, c.r[RCX]) or not is_canonical(c, c.r[RDX])):
        return fault_err(c, X_GP, 0)
    c.rip = c.r[RDX] if long_ else <u32>c.r[RDX]
    c.r[RSP] = c.r[RCX] if long_ else <u32>c.r[RCX]
    cs += 32 if long_ else 16
    flat_ring(c, cs | 3, (cs + 8) | 3, 3, long_)
    return ST_BRANCH

cdef int SWAPGS(Cpu* c, Insn* o) noexcept nogil:
    c.kernel_gs_base, c.seg[GS].base = c.seg[GS].base, c.kernel_gs_base
    c.r[R_SEG + GS] = c.seg[GS].base
    return ST_OK

# ---- FS and GS base -------------------------------------------------------------------------------------------------
cdef inline bint fsgsbase(Cpu* c) noexcept nogil:
    return ((c.pv.ctrlreg4 if c.is_pv else c.cr4) & CR4_FSGSBASE) != 0

cdef inline int read_base(Cpu* c, Insn* o, int seg) noexcept nogil:
    if not fsgsbase(c):
        return fault(c, X_UD)
    set_reg(c, o, o.rm, o.size, c.seg[seg].base)
    return ST_OK

cdef inline int write_base(Cpu* c, Insn* o, int seg) noexcept nogil:
    cdef u64 v = get_reg(c, o, o.rm, o.size)
    if not fsgsbase(c):
        return fault(c, X_UD)
    if not is_canonical_base(c, v):
        return fault_err(c, X_GP, 0)
    c.seg[seg].base = c.r[R_SEG + seg] = v
    return ST_OK

cdef int RDFSBASE_R(Cpu* c, Insn* o) noexcept nogil:
    return read_base(c, o, FS)

cdef int RDGSBASE_R(Cpu* c, Insn* o) noexcept nogil:
    return read_base(c, o, GS)

cdef int WRFSBASE_R(Cpu* c, Insn* o) noexcept nogil:
    return write_base(c, o, FS)

cdef int WRGSBASE_R(Cpu* c, Insn* o) noexcept nogil:
    return write_base(c, o, GS)

# ---- the rest -------------------------------------------------------------------------------------------------------
cdef int HLT(Cpu* c, Insn* o) noexcept nogil:
    """Without a local APIC the caller decides what wakes the processor, and run() goes on."""
    branch_next(c, o)
    if event_ready(c):
        return ST_BRANCH
    c.exit.reason = EXIT_HLT
    c.halted = HALTED if c.lapic != NULL else 0
    return ST_EXIT

cdef int CLAC(Cpu* c, Insn* o) noexcept nogil:
    c.eflags &= ~<u32>FL_AC
    return ST_OK

cdef int STAC(Cpu* c, Insn* o) noexcept nogil:
    c.eflags |= FL_AC
    return ST_OK

cdef int NOP(Cpu* c, Insn* o) noexcept nogil:
    """NOP in all its lengths, PAUSE, ENDBR, prefetches, WBINVD and INVD (there is no cache), LFENCE and SFENCE."""
    return ST_OK

cdef int MFENCE(Cpu* c, Insn* o) noexcept nogil:
    xf_fence()
    return ST_OK

cdef int CLFLUSH_M(Cpu* c, Insn* o) noexcept nogil:
    """CLFLUSH, CLFLUSHOPT, CLWB: checked like a load of one byte, which device memory does not see."""
    cdef u64 lin = 0
    cdef u8* host = NULL
    cdef int st = operand_lin(c, o, 1, &lin)
    if st == ST_OK:
        st = translate_cached(c, lin, ACC_READ, &host)
    return ST_OK if st == ST_MMIO else st

cdef int RDPID_R(Cpu* c, Insn* o) noexcept nogil:
    set_reg(c, o, o.rm, machine_word(c), <u32>c.tsc_aux)
    return ST_OK

# ---- MONITOR and MWAIT (SDM Vol. 3, 9.10.5) -------------------------------------------------------------------------
cdef extern from *:
    """
    static inline void xf_nap(void) { struct timespec t = {0, 50000}; nanosleep(&t, 0); }
    """
    void xf_nap() noexcept nogil

cdef enum:
    MONITOR_LINE = 64    # CPUID leaf 5
    MWAIT_NAPS = 20      # of 50 us each

cdef u64 line_digest(Cpu* c, u64 lin) noexcept nogil:
    """What the monitored line holds, in a word; 0 when it cannot be read."""
    cdef u64 words[8]
    cdef u64 h = 1
    cdef int i
    cdef u8* host = NULL
    if translate_cached(c, lin & ~<u64>(MONITOR_LINE - 1), ACC_READ, &host) != ST_OK:
        return 0
    memcpy(words, host, MONITOR_LINE)          # SAFETY: a line of 64 bytes lies in one page
    for i in range(8):
        h = (h ^ words[i]) * <u64>0x9E3779B97F4A7C15
        h ^= h >> 29
    return h

cdef int MONITOR(Cpu* c, Insn* o) noexcept nogil:
    """Arms the line at DS:rAX; ECX holds extensions, of which there are none."""
    cdef u64 off = c.r[RAX] if o.asize == 8 else <u32>c.r[RAX] if o.asize == 4 else <u16>c.r[RAX]
    cdef u64 lin = 0
    cdef u8* host = NULL
    cdef int st
    if c.cpl != 0:
        return fault(c, X_UD)
    if <u32>c.r[RCX] != 0:
        return fault_err(c, X_GP, 0)
    st = linear(c, o.seg, off, 1, False, &lin)
    if st == ST_OK:
        st = translate_cached(c, lin, ACC_READ, &host)
    if st == ST_OK:
        c.monitor_at = lin
        c.monitor_digest = line_digest(c, lin)
        c.monitor_on = 1
    return ST_OK if st == ST_MMIO else st

cdef int MWAIT(Cpu* c, Insn* o) noexcept nogil:
    """Waits a millisecond at most, for a write to the line, an interrupt or a request; in virtual time not at all.

    MWAIT may end for reasons of the processor's own, and software looks again: so nothing ever hangs on a write that we do not see.
    """
    cdef int i
    if c.cpl != 0:
        return fault(c, X_UD)
    if <u32>c.r[RCX] & ~<u32>1:                # bit 0: an interrupt ends the wait also with IF clear
        return fault_err(c, X_GP, 0)
    if c.monitor_on and not c.clock.is_virtual:
        for i in range(MWAIT_NAPS):
            if c.req or c.events or line_digest(c, c.monitor_at) != c.monitor_digest:
                break
            xf_nap()
    c.monitor_on = 0
    return branch_next(c, o)
