# Model-specific registers: one table, RDMSR and WRMSR.
#
# SDM Vol. 4.  A register that is not in the table is #GP and is remembered for the log.  What a PV guest may see is
# decided in pv_traps.pxi, which calls msr_read and msr_write for what it passes on.  The TSC counts nanoseconds of
# the machine's clock (TSC_KHZ).

cdef enum:
    TSC_KHZ = 1000000    # 1 GHz: RDTSC is now_ns() plus what was written to the TSC

cdef enum:
    MSR_TSC = 0x10
    MSR_EFER = 0xC0000080
    MSR_FS_BASE = 0xC0000100
    MSR_GS_BASE = 0xC0000101
    MSR_KERNEL_GS_BASE = 0xC0000102

cdef enum:               # MsrRow.kind
    M_FIELD = 0          # a u64 of Cpu; at = its offset
    M_CANON = 1          # the same, and a value that is not canonical is #GP
    M_LOW32 = 2          # the same, upper half reserved
    M_QUIET = 3          # reads as the constant, writes change nothing
    M_READ = 4           # reads as the constant, writes are #GP
    M_TSC = 5
    M_EFER = 6
    M_BASE = 7           # FS and GS; at = segment
    M_PAT = 8
    M_ZERO = 10          # reads as 0, anything else written to it is #GP; at: the feature_id() it belongs to
    M_MTRR = 9           # fields of Cpu in a row; mtrr.pxi says what may be written

cdef struct MsrRow:
    u32 nr
    u32 last             # rows may cover a range
    u32 kind
    u64 at

cdef MsrRow[40] MSRS
cdef int n_msrs = 0

cdef void msr(u32 nr, u32 kind, u64 at) noexcept:
    msr_range(nr, nr, kind, at)

cdef void msr_range(u32 nr, u32 last, u32 kind, u64 at) noexcept:
    global n_msrs
    MSRS[n_msrs].nr, MSRS[n_msrs].last, MSRS[n_msrs].kind, MSRS[n_msrs].at = nr, last, kind, at
    n_msrs += 1

cdef void init_msrs() noexcept:
    """THE TABLE.  Offsets of fields are taken from a Cpu at address 0."""
    cdef Cpu* c = NULL
    if n_msrs:
        return
    msr(0x10, M_TSC, 0)                                  # IA32_TIME_STAMP_COUNTER
    msr(0x17, M_READ, 0)                                 # IA32_PLATFORM_ID
    msr(0x1B, M_FIELD, <u64>&c.apic_base)                # IA32_APIC_BASE
    msr(0x3A, M_QUIET, 1)                                # IA32_FEATURE_CONTROL: locked, no VMX
    msr(0x8B, M_QUIET, <u64>1 << 32)                     # IA32_BIOS_SIGN_ID: microcode revision 1
    msr(0xFE, M_READ, MTRR_CAP)
    msr(0x174, M_LOW32, <u64>&c.sysenter_cs)             # IA32_SYSENTER_CS
    msr(0x175, M_CANON, <u64>&c.sysenter_esp)            # IA32_SYSENTER_ESP
    msr(0x176, M_CANON, <u64>&c.sysenter_eip)            # IA32_SYSENTER_EIP
    msr(0x179, M_READ, 0)                                # IA32_MCG_CAP: no banks
    msr(0x17A, M_QUIET, 0)                               # IA32_MCG_STATUS
    msr(0x198, M_READ, 0)                                # IA32_PERF_STATUS
    msr(0x1A0, M_QUIET, 1)                               # IA32_MISC_ENABLE: fast strings
    msr(0x1D9, M_QUIET, 0)                               # IA32_DEBUGCTL
    msr_range(0x200, 0x20F, M_MTRR, <u64>&c.mtrr_var[0])     # IA32_MTRR_PHYSBASEn, PHYSMASKn
    msr(0x250, M_MTRR, <u64>&c.mtrr_fixed[0])            # IA32_MTRR_FIX64K_00000
    msr_range(0x258, 0x259, M_MTRR, <u64>&c.mtrr_fixed[1])
    msr_range(0x268, 0x26F, M_MTRR, <u64>&c.mtrr_fixed[3])
    msr(0x277, M_PAT, <u64>&c.pat)                       # IA32_PAT
    msr(0x2FF, M_MTRR, <u64>&c.mtrr_def)                 # IA32_MTRR_DEF_TYPE
    msr(0xDA0, M_ZERO, feature_id(FEAT_DA1, 3))          # IA32_XSS: no supervisor state
    msr(MSR_EFER, M_EFER, 0)
    msr(0xC0000081, M_FIELD, <u64>&c.star)
    msr(0xC0000082, M_CANON, <u64>&c.lstar)
    msr(0xC0000083, M_CANON, <u64>&c.cstar)
    msr(0xC0000084, M_LOW32, <u64>&c.fmask)
    msr(MSR_FS_BASE, M_BASE, FS)
    msr(MSR_GS_BASE, M_BASE, GS)
    msr(MSR_KERNEL_GS_BASE, M_CANON, <u64>&c.kernel_gs_base)
    msr(0xC0000103, M_LOW32, <u64>&c.tsc_aux)

cdef MsrRow* msr_find(u32 nr) noexcept nogil:
    cdef int i
    for i in range(n_msrs):
        if nr >= MSRS[i].nr and nr <= MSRS[i].last:
            return &MSRS[i]
    return NULL

cdef inline u64* msr_field(Cpu* c, MsrRow* row) noexcept nogil:
    return <u64*>(<u8*>c + row.at)

cdef inline u64 read_tsc(Cpu* c) noexcept nogil:
    return now_ns(c) + c.tsc_offset

cdef bint msr_read(Cpu* c, u32 nr, u64* v) noexcept nogil:
    """False: there is no such register."""
    cdef MsrRow* row = msr_find(nr)
    if row == NULL:
        return False
    if row.kind == M_ZERO:
        v[0] = 0
        return has_feature_id(c, <u16>row.at)
    if row.kind == M_QUIET or row.kind == M_READ:
        v[0] = row.at
    elif row.kind == M_TSC:
        v[0] = read_tsc(c)
    elif row.kind == M_EFER:
        v[0] = c.efer
    elif row.kind == M_BASE:
        v[0] = c.seg[row.at].base
    elif row.kind == M_MTRR:
        v[0] = msr_field(c, row)[nr - row.nr]
    else:
        v[0] = msr_field(c, row)[0]
    return True

cdef bint msr_write(Cpu* c, u32 nr, u64 v) noexcept nogil:
    """False: #GP, there is no such register or the value is not allowed."""
    cdef MsrRow* row = msr_find(nr)
    if row == NULL or row.kind == M_READ:
        return False
    if (row.kind == M_CANON or row.kind == M_BASE) and not is_canonical_base(c, v):
        return False
    if row.kind == M_LOW32 and v >> 32:
        return False
    if row.kind == M_ZERO:
        return v == 0 and has_feature_id(c, <u16>row.at)
    if row.kind == M_QUIET:
        return True
    if row.kind == M_TSC:
        c.tsc_offset = v - now_ns(c)
    elif row.kind == M_EFER:
        return write_efer(c, v)
    elif row.kind == M_BASE:
        c.seg[row.at].base = v
        c.r[R_SEG + row.at] = v
    elif row.kind == M_PAT:
        if not pat_ok(v):
            return False
        c.pat = v
    elif row.kind == M_MTRR:
        if not mtrr_ok(nr, v):
            return False
        msr_field(c, row)[nr - row.nr] = v
    else:
        msr_field(c, row)[0] = v
    return True

cdef int RDMSR(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 v = 0
    if not msr_read(c, <u32>c.r[RCX], &v):
        log_unknown(c, UNKNOWN_MSR_READ, <u32>c.r[RCX])
        return fault_err(c, X_GP, 0)
    c.r[RAX] = <u32>v
    c.r[RDX] = v >> 32
    return ST_OK

cdef int WRMSR(Cpu* c, Insn* o) noexcept nogil:
    if not msr_write(c, <u32>c.r[RCX], (c.r[RDX] << 32) | <u32>c.r[RAX]):
        if msr_find(<u32>c.r[RCX]) == NULL:
            log_unknown(c, UNKNOWN_MSR_WRITE, <u32>c.r[RCX])
        return fault_err(c, X_GP, 0)
    return branch_next(c, o)

cdef int RDTSC(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 v
    if c.cr4 & CR4_TSD and c.cpl != 0:
        return pv_emulate(c, o) if c.is_pv else fault_err(c, X_GP, 0)
    v = read_tsc(c)
    c.r[RAX] = <u32>v
    c.r[RDX] = v >> 32
    return ST_OK

cdef int RDTSCP(Cpu* c, Insn* o) noexcept nogil:
    cdef int st = RDTSC(c, o)
    if st == ST_OK:
        c.r[RCX] = <u32>c.tsc_aux
    return st

cdef int RDPMC(Cpu* c, Insn* o) noexcept nogil:
    """There are no performance counters."""
    return fault_err(c, X_GP, 0)
