# What a PV guest gets instead of the IDT: bounce frames, event upcalls, system calls, iret, software interrupts.
#
# xen/include/public/arch-x86/xen-x86_64.h (iret frame, segment selectors) and the behaviour of xen/arch/x86/x86_64/entry.S
# (create_bounce_frame), pv/traps.c and pv/iret.c.  Guest kernel and guest user both run in ring 3; they differ in their page tables, and
# in which of them Cpu.pv.kernel_mode names.  The guest's interrupt flag is the upcall mask in struct vcpu_info.

# Why a PV vcpu cannot go on (Cpu.exit.code of EXIT_CRASH).
cpdef enum PvCrash:
    CRASH_NO_HANDLER = 1         # nr: vector
    CRASH_NO_CALLBACK = 2        # nr: CALLBACKTYPE
    CRASH_BAD_STACK = 3          # address: where the frame should have gone
    CRASH_IRET_FRAME = 4         # address: where the frame should have been
    CRASH_NO_USER_TABLES = 5

cdef enum:                       # struct vcpu_info
    VI_PENDING = 0
    VI_MASK = 1
    VI_CR2 = 16

cdef enum:                       # CALLBACKTYPE_*
    CALLBACKTYPE_event = 0
    CALLBACKTYPE_failsafe = 1
    CALLBACKTYPE_syscall = 2
    CALLBACKTYPE_sysenter = 5
    CALLBACKTYPE_nmi = 4
    CALLBACKTYPE_syscall32 = 7

cdef enum:                       # flags of pv_bounce()
    TBF_ERROR = 1
    TBF_FAILSAFE = 2
    TBF_INTERRUPT = 4            # start with upcalls masked

cdef enum:
    TI_IF = 4                    # struct trap_info.flags: clear the "interrupt flag" on entry
    VGCF_in_syscall = 0x100
    VMASST_ARCH_IOPL = 4
    HYPERCALL_VECTOR = 0x82


cdef int pv_crash(Cpu* c, u32 code, u64 nr, u64 address) noexcept nogil:
    """The guest has left no way to go on: leave run() with the reason."""
    c.exit.reason = EXIT_CRASH
    c.exit.code = code
    c.exit.nr = nr
    c.exit.address = address
    return ST_EXIT

cdef void pv_toggle(Cpu* c) noexcept nogil:
    """Guest kernel <-> guest user: other page tables, other GS base (xen: toggle_guest_mode)."""
    cdef u64 base = c.seg[GS].base
    c.seg[GS].base = c.kernel_gs_base
    c.kernel_gs_base = base
    c.pv.kernel_mode ^= 1

cdef inline void pv_flat(Cpu* c) noexcept nogil:
    """CS and SS as Xen enters the guest kernel: 64-bit, flat, its own descriptors."""
    desc_to_seg(&c.seg[CS], FLAT_RING3_CS64, DESC_CS64)
    desc_to_seg(&c.seg[SS], FLAT_RING3_SS64, DESC_DATA)

cdef inline u64 pv_flags_image(Cpu* c, u8 mask) noexcept nogil:
    """RFLAGS as the guest kernel finds it in a frame: IF is the upcall mask, inverted."""
    cdef u64 fl = get_eflags(c) & ~<u32>FL_IF
    if c.pv.domain.vm_assist & (1 << VMASST_ARCH_IOPL):
        fl |= c.pv.iopl
    return fl if mask else fl | FL_IF

cdef int pv_bounce(Cpu* c, u64 handler, u32 flags, u32 error) noexcept nogil:
    """Enter the guest kernel at a handler, with a frame of what was interrupted.  c.rip is the address to return to.

    Going up: rcx r11 [ds es fs gs] [error] rip cs|saved mask rflags rsp ss.
    """
    cdef u64 frame[12]
    cdef u64 sp = c.r[RSP], cs = c.seg[CS].sel
    cdef u8* info = c.pv.vcpu_info
    cdef u8 mask = info[VI_MASK]
    cdef int n = 2
    frame[0] = c.r[RCX]
    frame[1] = c.r[11]
    if flags & TBF_FAILSAFE:
        frame[2], frame[3], frame[4], frame[5] = c.seg[DS].sel, c.seg[ES].sel, c.seg[FS].sel, c.seg[GS].sel
        n = 6
    if flags & TBF_ERROR:
        frame[n] = error
        n += 1
    if c.pv.kernel_mode:
        cs &= ~<u64>3                                 # tells the guest that its kernel was interrupted
    else:
        pv_toggle(c)
        update_mode(c)                                # the frame goes to the kernel's address space
        sp = c.pv.kernel_sp
    frame[n] = c.rip
    frame[n + 1] = cs | (<u64>mask << 32)
    frame[n + 2] = pv_flags_image(c, mask)
    frame[n + 3] = c.r[RSP]
    frame[n + 4] = c.seg[SS].sel
    n += 5
    sp = (sp & ~<u64>15) - 8 * n
    if handler == 0:
        return pv_crash(c, CRASH_NO_HANDLER, c.exc_vector, c.rip)
    # SAFETY: n is at most 12; mem_write_n checks the guest's mapping.
    if pv_write(c, sp, 8 * n, frame):
        return pv_crash(c, CRASH_BAD_STACK, c.exc_vector, sp)
    if flags & TBF_INTERRUPT:
        info[VI_MASK] = 1
    c.eflags &= ~<u32>(FL_AC | FL_VM | FL_RF | FL_NT | FL_TF)
    pv_flat(c)
    c.r[RSP] = sp
    c.rip = handler
    c.inhibit = 0
    update_mode(c)
    return ST_BRANCH


# --- events ----------------------------------------------------------------------------------------------------------
cdef int pv_event(Cpu* c) noexcept nogil:
    """Deliver the upcall if it is pending and not masked: on every way back to the guest, and when REQ_EVENT is set."""
    cdef u8* info = c.pv.vcpu_info
    cdef int st
    if c.pv.nmi_pending and not c.pv.nmi_masked:
        st = pv_nmi(c)
        if st != ST_BRANCH:
            return st
    if info[VI_MASK] or not info[VI_PENDING]:
        return ST_BRANCH
    c.stat[STAT_EVENTS] += 1
    c.halted = 0
    return pv_callback(c, c.pv.event_callback, CALLBACKTYPE_event)

cdef int pv_nmi(Cpu* c) noexcept nogil:
    """The guest's NMI: to its handler, once; further ones wait for the next iret.  Without a handler it is lost."""
    cdef TrapInfo* ti = &c.pv.traps[X_NMI]
    c.pv.nmi_pending = 0
    if ti.address == 0:
        return ST_BRANCH
    c.pv.nmi_masked = 1
    return pv_bounce(c, ti.address, TBF_INTERRUPT if ti.flags & TI_IF else 0, 0)

cdef inline int pv_resume(Cpu* c, int st) noexcept nogil:
    """End of every visit to Xen (xen: test_all_events)."""
    return pv_event(c) if st == ST_BRANCH else st


# --- exceptions ------------------------------------------------------------------------------------------------------
cdef int pv_deliver(Cpu* c) noexcept nogil:
    """The exception in Cpu.exc_*, to the handler the guest has registered with set_trap_table."""
    cdef u8 vector = c.exc_vector
    cdef u32 error = c.exc_error
    cdef TrapInfo* ti = &c.pv.traps[vector]
    cdef u32 flags = TBF_ERROR if c.exc_has_error else 0
    if vector == X_PF:
        # All of the guest runs in ring 3: to its kernel, U says whether its own user mode faulted.
        error = error & ~<u32>PF_U if c.pv.kernel_mode else error | PF_U
        (<u64*>(c.pv.vcpu_info + VI_CR2))[0] = c.cr2
    elif vector == X_NM:
        c.cr0 &= ~<u64>CR0_TS                         # the guest is told once: its handler need not clear TS
    if ti.address == 0:
        return pv_crash(c, CRASH_NO_HANDLER, vector, c.rip)
    if ti.flags & TI_IF:
        flags |= TBF_INTERRUPT
    return pv_resume(c, pv_bounce(c, ti.address, flags, error))

cdef int pv_int(Cpu* c, Insn* o, int vector) noexcept nogil:
    """INT n: as through the guest's own IDT, if the DPL it registered permits it, else #GP with the gate's number."""
    cdef TrapInfo* ti = &c.pv.traps[vector & 255]
    cdef u8 cpl = 3
    if vector == HYPERCALL_VECTOR and c.pv.kernel_mode:
        return pv_hypercall(c, insn_rip(c, o), next_rip(c, o))
    if c.pv.kernel_mode:
        cpl = 0 if c.pv.domain.vm_assist & (1 << VMASST_ARCH_IOPL) else 1
    if vector != X_BP and vector != X_OF and ((ti.flags & 3) < cpl or ti.address == 0):
        return fault_err(c, X_GP, (vector << 3) | 2)
    c.rip = next_rip(c, o)
    c.exc_vector = <u8>vector
    return pv_resume(c, pv_bounce(c, ti.address, TBF_INTERRUPT if ti.flags & TI_IF else 0, 0))


# --- system calls ----------------------------------------------------------------------------------------------------
cdef int pv_syscall(Cpu* c, Insn* o) noexcept nogil:
    """SYSCALL: a hypercall from the guest kernel, a system call to it from guest user mode."""
    cdef u64 handler = c.pv.syscall_callback
    cdef int kind = CALLBACKTYPE_syscall, st
    cdef bint compat = not c.mode & MODE_64
    c.rip = next_rip(c, o)
    if c.pv.kernel_mode:
        return pv_hypercall(c, insn_rip(c, o), c.rip)
    c.r[RCX] = c.rip
    c.r[11] = get_eflags(c) & ~<u32>FL_RF
    # What SYSCALL itself loads, and so what the frame shows: Xen's flat selectors, not the user's own.
    c.seg[CS].sel = FLAT_RING3_CS32 if compat else FLAT_RING3_CS64
    c.seg[SS].sel = FLAT_RING3_SS64
    if compat and c.pv.syscall32_callback:
        handler = c.pv.syscall32_callback
        kind = CALLBACKTYPE_syscall32
    st = pv_callback(c, handler, kind)
    c.eflags &= ~<u32>FL_DF
    return pv_resume(c, st)

cdef int pv_callback(Cpu* c, u64 handler, int kind) noexcept nogil:
    """Enter the guest kernel at one of its callbacks."""
    cdef u32 flags = TBF_FAILSAFE if kind == CALLBACKTYPE_failsafe else 0
    if handler == 0:
        return pv_crash(c, CRASH_NO_CALLBACK, kind, c.rip)
    if kind == CALLBACKTYPE_event or c.pv.callback_masks & (1 << kind):
        flags |= TBF_INTERRUPT
    return pv_bounce(c, handler, flags, 0)

cdef int pv_sysenter(Cpu* c, Insn* o) noexcept nogil:
    """SYSENTER: keeps neither RIP nor RSP, so the frame shows nulls; #GP without a callback (xen: sysenter_entry)."""
    cdef int st
    if c.pv.kernel_mode:
        return fault_err(c, X_GP, 0)
    c.rip = 0
    c.r[RSP] = 0
    c.seg[CS].sel = 3
    c.seg[SS].sel = FLAT_RING3_SS64
    if c.pv.sysenter_callback:
        return pv_resume(c, pv_callback(c, c.pv.sysenter_callback, CALLBACKTYPE_sysenter))
    c.exc_vector = X_GP
    st = pv_bounce(c, c.pv.traps[X_GP].address, TBF_ERROR | TBF_INTERRUPT, 0)
    return pv_resume(c, st)


# --- iret ------------------------------------------------------------------------------------------------------------
cdef int pv_iret(Cpu* c) noexcept nogil:
    """The iret hypercall: struct iret_context {rax r11 rcx flags rip cs rflags rsp ss} at RSP.  Returns ST_*."""
    cdef u64 f[9]
    cdef u64 cs, ss
    if pv_read(c, c.r[RSP], sizeof(f), f):
        return pv_crash(c, CRASH_IRET_FRAME, 0, c.r[RSP])
    if f[5] & 3 == 3:
        if c.pv.cr3_user == 0:
            return pv_crash(c, CRASH_NO_USER_TABLES, 0, f[4])
        pv_toggle(c)
    if c.pv.domain.vm_assist & (1 << VMASST_ARCH_IOPL):
        c.pv.iopl = <u32>f[6] & FL_IOPL
    cs = f[5] & 0xFFFF | 3
    ss = f[8] & 0xFFFF | 3
    c.rip = f[4]
    c.r[RSP] = f[7]
    c.r[RAX] = f[0]
    set_eflags(c, (<u32>f[6] & ~<u32>(FL_IOPL | FL_VM)) | FL_IF)
    c.pv.vcpu_info[VI_MASK] = (f[6] & FL_IF) == 0
    c.pv.nmi_masked = 0
    if c.pv.traps[X_NMI].address == 0:
        c.pv.nmi_pending = 0
    if f[3] & VGCF_in_syscall:                        # by SYSRET: flat selectors, RCX and R11 as it sets them
        cs = FLAT_RING3_CS32 if cs == FLAT_RING3_CS32 else FLAT_RING3_CS64
        ss = FLAT_RING3_SS64
        c.r[RCX] = f[4]
        c.r[11] = f[6] & ~<u64>(FL_IOPL | FL_VM) | FL_IF
    else:
        c.r[11] = f[1]
        c.r[RCX] = f[2]
    if (not c.pv.vcpu_info[VI_PENDING] or c.pv.vcpu_info[VI_MASK]) and not c.pv.nmi_pending:
        if pv_load_cs(c, <u16>cs) and pv_load_ss(c, <u16>ss) and (canonical(c.rip) or not c.seg[CS].attr & 0x2000):
            update_mode(c)
            return ST_BRANCH
    # An upcall comes first, and only shows the selectors in its frame; else they cannot be loaded.
    c.seg[CS].sel = <u16>cs
    c.seg[SS].sel = <u16>ss
    if c.pv.nmi_pending or (c.pv.vcpu_info[VI_PENDING] and not c.pv.vcpu_info[VI_MASK]):
        return pv_event(c)
    return pv_resume(c, pv_callback(c, c.pv.failsafe_callback, CALLBACKTYPE_failsafe))
