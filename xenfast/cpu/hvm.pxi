# What Xen does for a vcpu with a p2m (PVH, HVM) in the core: hypercalls by VMCALL and VMMCALL, registers of the hypervisor, upcalls.
#
# xen/include/public/arch-x86/xen-x86_64.h and xen-x86_32.h (hypercalls), hvm/params.h (HVM_PARAM_CALLBACK_IRQ); follows hvm_hypercall of
# xen/arch/x86/hvm/hypercall.c and hvm_vcpu_has_pending_irq of hvm/irq.c.  Everything else of such guests is in xen/hvm.

cdef enum:
    EPERM_ = 1

cdef inline bint upcall_ready(Cpu* c) noexcept nogil:
    """The upcall by vector is as an interrupt line that is high while evtchn_upcall_pending is set; the mask means nothing."""
    return c.hvm != NULL and c.hvm.callback_vector != 0 and c.hvm.vcpu_info != NULL and c.hvm.vcpu_info[0] != 0

cdef int hvm_hypercall(Cpu* c, Insn* o) noexcept nogil:
    """By the ABI of the mode: number in RAX, arguments in RDI RSI RDX R10 R8 R9, or in EBX ECX EDX ESI EDI EBP (exit.code: 8 or 4)."""
    cdef u64* a = c.exit.args
    cdef bint wide = (c.mode & MODE_64) != 0
    cdef u64 nr = c.r[RAX] if wide else <u32>c.r[RAX]
    c.stat[STAT_HYPERCALLS] += 1
    branch_next(c, o)
    c.hvm.again_rip = insn_rip(c, o)
    if c.cpl != 0:
        c.r[RAX] = <u64><i64>-EPERM_ if wide else <u32><i32>-EPERM_
        return ST_BRANCH
    c.hvm.counts[nr if nr < 64 else 63] += 1
    if wide:
        a[0], a[1], a[2], a[3], a[4], a[5] = c.r[RDI], c.r[RSI], c.r[RDX], c.r[10], c.r[8], c.r[9]
    else:
        a[0], a[1], a[2] = <u32>c.r[RBX], <u32>c.r[RCX], <u32>c.r[RDX]
        a[3], a[4], a[5] = <u32>c.r[RSI], <u32>c.r[RDI], <u32>c.r[RBP]
    if nr == HC_xen_version and <u32>a[0] == 0:           # what kernels call to have pending events looked at
        c.r[RAX] = c.hvm.version
        return ST_BRANCH
    c.exit.reason = EXIT_HYPERCALL
    c.exit.nr = nr
    c.exit.code = 8 if wide else 4
    return ST_EXIT

cdef int hvm_wrmsr(Cpu* c, Insn* o) noexcept nogil:
    """Registers 40000000h to 400000FFh are the hypervisor's.  A refusal comes as HvmVcpu.fault()."""
    c.exit.reason = EXIT_MSR
    c.exit.nr = <u32>c.r[RCX]
    c.exit.value = (c.r[RDX] << 32) | <u32>c.r[RAX]
    c.exit.is_write = 1
    c.exit.address = insn_rip(c, o)
    branch_next(c, o)
    return ST_EXIT
