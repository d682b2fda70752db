# Model-specific registers: one table, RDMSR and WRMSR.
#
# SDM Vol. 4.  A register that is not in the table, or whose feature the policy does not have, is #GP and is remembered for the log.
# Machine checks are there and quiet: a few banks in which nothing ever happens.  What a PV guest may see is
# decided in pv_traps.pxi, which calls msr_read and msr_write for what it passes on.  The TSC counts nanoseconds of
# the machine's clock (TSC_KHZ).

cdef enum:
    TSC_KHZ = 1000000    # 1 GHz: RDTSC is now_ns() plus what was written to the TSC
    CRYSTAL_KHZ = 100000 # the core crystal clock: that of the timer of the local APIC (BUS_NS)

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
    M_MTRR = 9           # fields of Cpu in a row; mtrr.pxi says what may be written
    M_APIC_BASE = 10
    M_X2APIC = 11        # lapic.pxi
    M_DEADLINE = 12
    M_ADJUST = 13        # TSC_ADJUST: moves the TSC by as much as it is changed
    M_BANK = 14          # MCi_CTL, STATUS, ADDR, MISC of each bank in turn
    M_ZERO = 15          # reads as 0, anything else written to it is #GP

cdef enum:
    MCE_BANKS = 4
    ANY = 0              # no feature needed

cdef struct MsrRow:
    u32 nr
    u32 last             # rows may cover a range
    u16 feature          # feature_id() without which the register is not there
    u16 kind
    u64 at

cdef MsrRow[64] MSRS
cdef int n_msrs = 0

cdef void msr(u32 nr, u16 feature, u16 kind, u64 at) noexcept:
    msr_range(nr, nr, feature, kind, at)

cdef void msr_range(u32 nr, u32 last, u16 feature, u16 kind, u64 at) noexcept:
    global n_msrs
    cdef MsrRow* row = &MSRS[n_msrs]
    row.nr, row.last, row.feature, row.kind, row.at = nr, last, feature, kind, at
    n_msrs += 1

cdef void init_msrs() noexcept:
    """THE TABLE, in the order of the numbers.  Offsets of fields are taken from a Cpu at address 0."""
    cdef Cpu* c = NULL
    cdef u16 mce = feature_id(FEAT_1D, 14), sep = feature_id(FEAT_1D, 11), mtrr = feature_id(FEAT_1D, 12)
    if n_msrs:
        return
    msr_range(0x0, 0x1, ANY, M_QUIET, 0)                       # IA32_P5_MC_ADDR, TYPE
    msr(0x10, ANY, M_TSC, 0)                                   # IA32_TIME_STAMP_COUNTER
    msr(0x17, ANY, M_READ, 0)                                  # IA32_PLATFORM_ID
    msr(0x1B, ANY, M_APIC_BASE, 0)                             # IA32_APIC_BASE
    msr(0x2A, ANY, M_READ, 0)                                  # EBL_CR_POWERON
    msr(0x34, ANY, M_READ, 0)                                  # SMI_COUNT
    msr(0x3A, ANY, M_QUIET, 1)                                 # IA32_FEATURE_CONTROL: locked, no VMX
    msr(0x3B, feature_id(FEAT_7B, 1), M_ADJUST, 0)             # IA32_TSC_ADJUST
    msr(0x79, ANY, M_QUIET, 0)                                 # IA32_BIOS_UPDT_TRIG: microcode is never newer
    msr(0x8B, ANY, M_QUIET, <u64>1 << 32)                      # IA32_BIOS_SIGN_ID: microcode revision 1
    msr(0xCE, ANY, M_READ, TSC_KHZ // 100000 << 8)             # PLATFORM_INFO: TSC frequency in units of 100 MHz
    msr(0xFE, mtrr, M_READ, MTRR_CAP)
    msr(0x10A, feature_id(FEAT_7D, 29), M_READ, 0)             # IA32_ARCH_CAPABILITIES
    msr(0x140, ANY, M_QUIET, 0)                                # MISC_FEATURES_ENABLES
    msr(0x174, sep, M_LOW32, <u64>&c.sysenter_cs)              # IA32_SYSENTER_CS
    msr(0x175, sep, M_CANON, <u64>&c.sysenter_esp)             # IA32_SYSENTER_ESP
    msr(0x176, sep, M_CANON, <u64>&c.sysenter_eip)             # IA32_SYSENTER_EIP
    msr(0x179, mce, M_READ, MCE_BANKS)                         # IA32_MCG_CAP
    msr(0x17A, mce, M_FIELD, <u64>&c.mcg_status)               # IA32_MCG_STATUS
    msr(0x198, ANY, M_READ, 0)                                 # IA32_PERF_STATUS
    msr(0x199, ANY, M_QUIET, 0)                                # IA32_PERF_CTL
    msr(0x19A, ANY, M_QUIET, 0)                                # IA32_CLOCK_MODULATION
    msr(0x19B, ANY, M_QUIET, 0)                                # IA32_THERM_INTERRUPT
    msr(0x19C, ANY, M_QUIET, 0)                                # IA32_THERM_STATUS
    msr(0x1A0, ANY, M_QUIET, 1 | 1 << 11 | 1 << 12)            # IA32_MISC_ENABLE: fast strings; no BTS, no PEBS
    msr(0x1D9, ANY, M_QUIET, 0)                                # IA32_DEBUGCTL
    msr_range(0x1DB, 0x1DE, ANY, M_READ, 0)                    # LASTBRANCHFROMIP, TOIP, LASTINTFROMIP, TOIP
    msr_range(0x200, 0x20F, mtrr, M_MTRR, <u64>&c.mtrr_var[0])     # IA32_MTRR_PHYSBASEn, PHYSMASKn
    msr(0x250, mtrr, M_MTRR, <u64>&c.mtrr_fixed[0])            # IA32_MTRR_FIX64K_00000
    msr_range(0x258, 0x259, mtrr, M_MTRR, <u64>&c.mtrr_fixed[1])
    msr_range(0x268, 0x26F, mtrr, M_MTRR, <u64>&c.mtrr_fixed[3])
    msr(0x277, feature_id(FEAT_1D, 16), M_PAT, <u64>&c.pat)    # IA32_PAT
    msr(0x2FF, mtrr, M_MTRR, <u64>&c.mtrr_def)                 # IA32_MTRR_DEF_TYPE
    msr_range(0x400, 0x400 + 4 * MCE_BANKS - 1, mce, M_BANK, <u64>&c.mci_ctl[0])
    msr(0x6E0, feature_id(FEAT_1C, 24), M_DEADLINE, 0)         # IA32_TSC_DEADLINE
    msr_range(0x800, 0x8FF, feature_id(FEAT_1C, 21), M_X2APIC, 0)
    msr(0xDA0, feature_id(FEAT_DA1, 3), M_ZERO, 0)             # IA32_XSS: no supervisor state
    msr(MSR_EFER, ANY, M_EFER, 0)
    msr(0xC0000081, feature_id(FEAT_E1D, 11), M_FIELD, <u64>&c.star)
    msr(0xC0000082, feature_id(FEAT_E1D, 29), M_CANON, <u64>&c.lstar)
    msr(0xC0000083, feature_id(FEAT_E1D, 29), M_CANON, <u64>&c.cstar)
    msr(0xC0000084, feature_id(FEAT_E1D, 11), M_LOW32, <u64>&c.fmask)
    msr(MSR_FS_BASE, feature_id(FEAT_E1D, 29), M_BASE, FS)
    msr(MSR_GS_BASE, feature_id(FEAT_E1D, 29), M_BASE, GS)
    msr(MSR_KERNEL_GS_BASE, feature_id(FEAT_E1D, 29), M_CANON, <u64>&c.kernel_gs_base)
    msr(0xC0000103, feature_id(FEAT_E1D, 27), M_LOW32, <u64>&c.tsc_aux)

cdef MsrRow* msr_find(Cpu* c, u32 nr) noexcept nogil:
    """The row of a register that this vcpu has."""
    cdef int i
    for i in range(n_msrs):
        if nr >= MSRS[i].nr and nr <= MSRS[i].last:
            return &MSRS[i] if not MSRS[i].feature or has_feature_id(c, MSRS[i].feature) else NULL
    return NULL

cdef inline u64* msr_field(Cpu* c, MsrRow* row) noexcept nogil:
    return <u64*>(<u8*>c + row.at)

cdef inline u64 read_tsc(Cpu* c) noexcept nogil:
    return now_ns(c) + c.tsc_offset

cdef bint msr_read(Cpu* c, u32 nr, u64* v) noexcept nogil:
    """False: there is no such register."""
    cdef MsrRow* row = msr_find(c, nr)
    if row == NULL:
        return False
    if row.kind == M_ZERO:
        v[0] = 0
        return True
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
    elif row.kind == M_APIC_BASE:
        v[0] = c.apic_base
    elif row.kind == M_X2APIC:
        return x2apic_read(c, nr - 0x800, v)
    elif row.kind == M_DEADLINE:
        v[0] = c.lapic.tsc_deadline
    elif row.kind == M_ADJUST:
        v[0] = c.tsc_adjust
    elif row.kind == M_BANK:
        v[0] = msr_field(c, row)[(nr - row.nr) >> 2] if nr & 3 == 0 else 0
    else:
        v[0] = msr_field(c, row)[0]
    return True

cdef bint msr_write(Cpu* c, u32 nr, u64 v) noexcept nogil:
    """False: #GP, there is no such register or the value is not allowed."""
    cdef MsrRow* row = msr_find(c, nr)
    if row == NULL or row.kind == M_READ:
        return False
    if (row.kind == M_CANON or row.kind == M_BASE) and not is_canonical_base(c, v):
        return False
    if row.kind == M_LOW32 and v >> 32:
        return False
    if row.kind == M_ZERO:
        return v == 0
    if row.kind == M_QUIET:
        return True
    if row.kind == M_TSC:
        c.tsc_adjust += v - read_tsc(c)                   # SDM Vol. 3, 17.17.3: writing either moves the other
        c.tsc_offset = v - now_ns(c)
        tsc_changed(c)
    elif row.kind == M_ADJUST:
        c.tsc_offset += v - c.tsc_adjust
        c.tsc_adjust = v
        tsc_changed(c)
    elif row.kind == M_APIC_BASE:
        return write_apic_base(c, v)
    elif row.kind == M_X2APIC:
        return x2apic_write(c, nr - 0x800, v)
    elif row.kind == M_DEADLINE:
        write_tsc_deadline(c, v)
    elif row.kind == M_BANK:
        if nr & 3:
            return v == 0                                 # STATUS, ADDR, MISC: nothing but 0 (SDM Vol. 3, 15.3.2)
        msr_field(c, row)[(nr - row.nr) >> 2] = v
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

cdef inline void tsc_changed(Cpu* c) noexcept nogil:
    """The TSC deadline is now at another time."""
    if c.lapic != NULL and c.lapic.tsc_deadline:
        timer_set(c, tsc_to_ns(c, c.lapic.tsc_deadline))

cdef int RDMSR(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 v = 0
    if not msr_read(c, <u32>c.r[RCX], &v):
        log_unknown(c, UNKNOWN_MSR_READ, <u32>c.r[RCX])
        return fault_err(c, X_GP, 0)
    c.r[RAX] = <u32>v
    c.r[RDX] = v >> 32
    return ST_OK

cdef int WRMSR(Cpu* c, Insn* o) noexcept nogil:
    if c.hvm != NULL and <u32>c.r[RCX] >> 8 == 0x400000:
        return hvm_wrmsr(c, o)
    if not msr_write(c, <u32>c.r[RCX], (c.r[RDX] << 32) | <u32>c.r[RAX]):
        if msr_find(c, <u32>c.r[RCX]) == NULL:
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
