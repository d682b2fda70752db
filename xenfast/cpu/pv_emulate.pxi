# Privileged instructions of a PV kernel: it runs in ring 3, where they fault, and Xen does them for it.
#
# xen/arch/x86/pv/emul-priv-op.c.  Here: CR0 CR2 CR3 CR4, DR0-7, CLTS, WBINVD, RDMSR and WRMSR of what a guest may have, XSETBV, RDTSC and
# RDTSCP under CR4.TSD, CLI and STI (allowed by the virtual IOPL, without effect: the interrupt flag is the upcall mask), IN and OUT
# (allowed by the virtual IOPL; nothing is there).  Everything else is #GP, as in Xen: HLT, INVLPG, LGDT, SWAPGS, INS, OUTS...

cdef extern from *:
    """
    #define XF_PV_PAT 0x0000050100070406ull
    """
    u64 PV_PAT "XF_PV_PAT"       # the PAT Xen runs with: WB WT UC- UC WC WP UC UC

cdef enum:
    PV_CR4_GUEST = 4 | 8 | (1 << 16) | (1 << 18)      # TSD DE FSGSBASE OSXSAVE: what a guest may change


cdef int pv_emulate(Cpu* c, Insn* o) noexcept nogil:
    """A privileged instruction in ring 3.  ST_BRANCH when done, else the #GP."""
    cdef u8 b[16]
    cdef int n = 0, rex = 0, size = 4, st
    if mem_read_n(c, insn_rip(c, o) + c.r[R_SEG + CS], o.len, b) != ST_OK:
        return ST_FAULT
    while n < o.len and is_prefix(b[n]):
        if b[n] == 0x66:
            size = 2
        n += 1
    if c.mode & MODE_64 and n < o.len and b[n] & 0xF0 == 0x40:
        rex = b[n]
        n += 1
    st = ST_FAULT
    if n < o.len and b[n] != 0x0F:
        st = emulate_one_byte(c, b[n], size)
    elif n + 1 < o.len and c.pv.kernel_mode:
        st = emulate_0f(c, b[n + 1], b[n + 2] if n + 2 < o.len else 0, rex)
    if st != ST_OK:
        return fault_err(c, X_GP, 0)
    c.rip = next_rip(c, o)
    return pv_resume(c, ST_BRANCH)

cdef inline bint is_prefix(u8 b) noexcept nogil:
    return (b == 0x66 or b == 0x67 or b == 0xF2 or b == 0xF3 or b == 0xF0 or b == 0x2E or b == 0x36 or b == 0x3E or b == 0x26
            or b == 0x64 or b == 0x65)

cdef inline bint pv_iopl_ok(Cpu* c) noexcept nogil:
    """A guest kernel counts as ring 1, or as ring 0 with VMASST_TYPE_architectural_iopl; its user mode as ring 3."""
    cdef u32 cpl = 3
    if c.pv.kernel_mode:
        cpl = 0 if c.pv.domain.vm_assist & (1 << VMASST_ARCH_IOPL) else 1
    return cpl <= c.pv.iopl >> 12

cdef int emulate_one_byte(Cpu* c, u8 op, int size) noexcept nogil:
    if not pv_iopl_ok(c):
        return ST_FAULT
    if op == 0xFA or op == 0xFB:                      # CLI STI
        return ST_OK
    if op == 0xE4 or op == 0xEC:                      # IN AL
        c.r[RAX] |= 0xFF
        return ST_OK
    if op == 0xE5 or op == 0xED:                      # IN eAX
        c.r[RAX] = c.r[RAX] | 0xFFFF if size == 2 else <u64>0xFFFFFFFF
        return ST_OK
    if op == 0xE6 or op == 0xE7 or op == 0xEE or op == 0xEF:
        return ST_OK                                  # OUT
    return ST_FAULT

cdef int emulate_0f(Cpu* c, u8 op, u8 modrm, int rex) noexcept nogil:
    cdef int reg = (modrm >> 3) & 7 | (rex & 4) << 1
    cdef int rm = modrm & 7 | (rex & 1) << 3
    cdef u64 v = 0
    cdef i64 rc
    if op == 0x06:                                    # CLTS
        c.cr0 &= ~<u64>CR0_TS
    elif op == 0x09:                                  # WBINVD
        pass
    elif op == 0x20:
        return pv_read_cr(c, reg, &c.r[rm])
    elif op == 0x22:
        return pv_write_cr(c, reg, c.r[rm])
    elif op == 0x21:
        rc = pv_get_debugreg(c, reg)
        if rc < 0:
            return ST_FAULT
        c.r[rm] = <u64>rc
    elif op == 0x23:
        return ST_OK if pv_set_debugreg(c, reg, c.r[rm]) == 0 else ST_FAULT
    elif op == 0x30:
        return pv_wrmsr(c, <u32>c.r[RCX], c.r[RDX] << 32 | <u32>c.r[RAX])
    elif op == 0x32:
        if pv_rdmsr(c, <u32>c.r[RCX], &v) != ST_OK:
            return ST_FAULT
        c.r[RAX], c.r[RDX] = <u32>v, v >> 32
    elif op == 0x31 or (op == 0x01 and modrm == 0xF9):
        v = now_ns(c)
        c.r[RAX], c.r[RDX] = <u32>v, v >> 32
        if op == 0x01:
            c.r[RCX] = <u32>c.tsc_aux
    elif op == 0x01 and modrm == 0xD1:
        return pv_xsetbv(c, <u32>c.r[RCX], c.r[RDX] << 32 | <u32>c.r[RAX])
    else:
        return ST_FAULT
    return ST_OK

cdef int pv_read_cr(Cpu* c, int reg, u64* v) noexcept nogil:
    if reg == 0:
        v[0] = c.cr0
    elif reg == 2:
        v[0] = c.cr2
    elif reg == 3:
        v[0] = c.pv.cr3_kernel
    elif reg == 4:
        v[0] = c.pv.ctrlreg4
    else:
        return ST_FAULT
    return ST_OK

cdef int pv_write_cr(Cpu* c, int reg, u64 v) noexcept nogil:
    if reg == 0:
        if (v ^ c.cr0) & ~<u64>CR0_TS:
            return ST_FAULT
        c.cr0 = v
    elif reg == 2:
        c.cr2 = v
        (<u64*>(c.pv.vcpu_info + VI_CR2))[0] = v
    elif reg == 3:
        return ST_OK if mmuext_cr3(c, v >> PAGE_SHIFT, False) == 0 else ST_FAULT
    elif reg == 4:
        c.pv.ctrlreg4 = c.pv.ctrlreg4 & ~<u64>PV_CR4_GUEST | v & PV_CR4_GUEST
        c.cr4 = c.cr4 & ~<u64>PV_CR4_GUEST | v & PV_CR4_GUEST
    else:
        return ST_FAULT
    return ST_OK

cdef int pv_xsetbv(Cpu* c, u32 index, u64 v) noexcept nogil:
    if index or not c.cr4 & CR4_OSXSAVE or not xcr0_legal(c, v):
        return ST_FAULT
    c.xcr0 = v
    return ST_OK

cdef int pv_rdmsr(Cpu* c, u32 nr, u64* v) noexcept nogil:
    """What guest_rdmsr() and read_msr() of Xen let a guest read."""
    v[0] = 0
    if nr == <u32>0xC0000100:                              # FS_BASE
        v[0] = c.seg[FS].base
    elif nr == <u32>0xC0000101:                            # GS_BASE
        v[0] = c.seg[GS].base
    elif nr == <u32>0xC0000102:                            # KERNEL_GS_BASE: the other mode's
        v[0] = c.kernel_gs_base
    elif nr == <u32>0xC0000080:                            # EFER
        v[0] = c.efer
    elif nr == <u32>0xC0000103:                            # TSC_AUX
        v[0] = c.tsc_aux
    elif nr == 0x10:                                  # TSC
        v[0] = now_ns(c)
    elif nr == 0x1B:                                  # APIC_BASE: enabled; boot processor
        v[0] = <u64>0xFEE00800 | (0x100 if c.pv.vcpu_id == 0 else 0)
    elif nr == 0x277:                                 # PAT
        v[0] = PV_PAT
    elif nr == 0x1A0:                                 # MISC_ENABLE: fast strings; no BTS, PEBS, xTPR
        v[0] = 1 | 1 << 11 | 1 << 12 | 1 << 23
    elif not msr_is_dull(nr):
        log_unknown(c, UNKNOWN_MSR_READ, nr)
        return ST_FAULT
    return ST_OK

cdef bint msr_is_dull(u32 nr) noexcept nogil:
    """Registers that read as 0 and ignore what is written: PLATFORM_ID, UCODE_REV, MCG_CAP, MCG_STATUS, PERF_CAPABILITIES; SYSENTER and
    STAR, LSTAR, CSTAR, SFMASK, which Xen keeps for itself (the guest has callback_op)."""
    return (nr == 0x17 or nr == 0x8B or nr == 0x179 or nr == 0x17A or nr == 0x345 or (nr >= 0x174 and nr <= 0x176)
            or (nr >= <u32>0xC0000081 and nr <= <u32>0xC0000084))

cdef int pv_wrmsr(Cpu* c, u32 nr, u64 v) noexcept nogil:
    cdef u64 old = 0
    if nr >= <u32>0xC0000100 and nr <= <u32>0xC0000102 and not canonical(v):
        return ST_FAULT
    if nr == <u32>0xC0000100:
        c.seg[FS].base = c.r[R_SEG + FS] = v
    elif nr == <u32>0xC0000101:
        c.seg[GS].base = c.r[R_SEG + GS] = v
    elif nr == <u32>0xC0000102:
        c.kernel_gs_base = v
    elif nr == <u32>0xC0000103:
        c.tsc_aux = <u32>v
    elif nr == <u32>0xC0000080 or nr == 0x1B or nr == 0x277 or nr == 0x1A0:
        pv_rdmsr(c, nr, &old)
        return ST_OK if v == old else ST_FAULT
    elif not (nr == 0x10 or msr_is_dull(nr)):
        log_unknown(c, UNKNOWN_MSR_WRITE, nr)
        return ST_FAULT
    return ST_OK
