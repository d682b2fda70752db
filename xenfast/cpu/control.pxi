# What may be written to the control registers and EFER, and what follows: mode switches, PAE directory pointers, TLB
# flushes; INVLPG and INVPCID; protection keys.
#
# SDM Vol. 2, MOV to control registers, INVLPG, INVPCID, RDPKRU, WRPKRU; Vol. 3, 2.5 (the registers), 4.1.2 and 9.8.5
# (mode switches), 4.4.1 (PDPTEs), 4.10.4 (what is flushed when).  Every function that returns bint: False is #GP(0),
# and nothing has changed.

cdef enum:
    CR0_PE = 1
    CR0_NW = 1 << 29
    CR0_CD = 1 << 30
    CR0_KNOWN = 0xE005003F
    CR4_TSD = 1 << 2
    CR4_DE = 1 << 3
    CR4_UMIP = 1 << 11
    CR4_FSGSBASE = 1 << 16
    CR4_OSXSAVE = 1 << 18
    CR4_PAGING = CR4_PSE | CR4_PAE | CR4_PGE | CR4_LA57 | CR4_PCIDE | CR4_SMEP | CR4_SMAP | CR4_PKE
    CR4_PDPTE = CR4_PSE | CR4_PAE | CR4_PGE | CR4_SMEP      # a change of these loads the PDPTEs
    EFER_LME = 1 << 8

# ---- canonical addresses --------------------------------------------------------------------------------------------
cdef inline bint is_canonical(Cpu* c, u64 a) noexcept nogil:
    """An address that is used: 48 bits, or 57 with CR4.LA57."""
    return <u64>(<i64>(a << c.va_shift) >> c.va_shift) == a

cdef inline bint is_canonical_base(Cpu* c, u64 a) noexcept nogil:
    """An address that is kept in a register (bases, MSRs): as wide as the processor can do, whatever CR4.LA57 says."""
    cdef int shift = 7 if has_feature(c, FEAT_7C, 16) else 16
    return <u64>(<i64>(a << shift) >> shift) == a

# ---- CR0 ------------------------------------------------------------------------------------------------------------
cdef bint write_cr0(Cpu* c, u64 v) noexcept nogil:
    cdef u64 changed, efer = c.efer
    if v >> 32 or (v & CR0_PG and not v & CR0_PE) or (v & CR0_NW and not v & CR0_CD):
        return False
    v = (v & <u32>CR0_KNOWN) | 0x10
    changed = v ^ c.cr0
    if changed & CR0_PG:
        if v & CR0_PG and c.efer & EFER_LME:
            if not c.cr4 & CR4_PAE or c.seg[CS].attr & ATTR_L or not c.seg[TR].attr & 8:       # a 16-bit TSS
                return False
            efer |= EFER_LMA
        elif not v & CR0_PG:
            if c.mode & MODE_64 or c.cr4 & CR4_PCIDE:
                return False
            efer &= ~<u64>EFER_LMA
    if (changed & (CR0_PG | CR0_CD | CR0_NW) and v & CR0_PG and c.cr4 & CR4_PAE and not efer & EFER_LMA
            and not load_pdptes(c, c.cr3)):
        return False
    c.efer = efer
    c.cr0 = v
    if changed & (CR0_PG | CR0_WP | CR0_PE):
        tlb_flush(c)
    update_mode(c)
    return True

# ---- CR3 ------------------------------------------------------------------------------------------------------------
cdef bint write_cr3(Cpu* c, u64 v) noexcept nogil:
    cdef bint keep = c.cr4 & CR4_PCIDE and v >> 63
    cdef u64 old = c.cr3
    if c.cr4 & CR4_PCIDE:
        v &= ~PTE_NX                                      # bit 63: flush nothing; it is not kept
    if v & (PTE_NX | PTE_RSVD_PAE):
        return False
    if pae_paging(c) and not load_pdptes(c, v):
        return False
    c.cr3 = v
    if c.cr4 & CR4_PCIDE:
        pcid_switch(c, old & CR3_PCID, v & CR3_PCID, keep)
    else:
        tlb_flush_local(c)
    return True

# ---- CR4 ------------------------------------------------------------------------------------------------------------
cdef bint write_cr4(Cpu* c, u64 v) noexcept nogil:
    cdef u64 changed = v ^ c.cr4
    cdef bint lma = (c.efer & EFER_LMA) != 0
    if v & ~c.cr4_legal:                                  # CR4_FEATURES in cpuid.pxi
        return False
    if lma and (not v & CR4_PAE or changed & CR4_LA57):
        return False
    if changed & v & CR4_PCIDE and (not lma or c.cr3 & CR3_PCID):
        return False
    if c.cr0 & CR0_PG and v & CR4_PAE and not lma and changed & CR4_PDPTE and not load_pdptes(c, c.cr3):
        return False
    c.cr4 = v
    c.va_shift = 7 if v & CR4_LA57 else 16
    if changed & CR4_PAGING:
        tlb_flush(c)
    if changed & CR4_DE:
        debug_changed(c)
    return True

# ---- EFER -----------------------------------------------------------------------------------------------------------
cdef bint write_efer(Cpu* c, u64 v) noexcept nogil:
    """SCE, LME, NXE as the policy has them; LMA follows CR0.PG, and what is written to it is ignored."""
    cdef u64 legal = EFER_LMA
    if has_feature(c, FEAT_E1D, 11):
        legal |= 1
    if has_feature(c, FEAT_E1D, 29):
        legal |= EFER_LME
    if has_feature(c, FEAT_E1D, 20):
        legal |= EFER_NXE
    if v & ~legal:
        return False
    if (v ^ c.efer) & EFER_LME and c.cr0 & CR0_PG:
        return False
    v = (v & ~<u64>EFER_LMA) | (c.efer & EFER_LMA)
    if (v ^ c.efer) & EFER_NXE:
        tlb_flush(c)
    c.efer = v
    return True

cdef void paging_changed(Cpu* c) noexcept nogil:
    """Page tables or control registers have been changed from outside, with values no MOV to them may have allowed."""
    c.va_shift = 7 if c.cr4 & CR4_LA57 else 16
    if pae_paging(c) and not load_pdptes(c, c.cr3):
        memset(c.pdpte, 0, sizeof(c.pdpte))               # nothing is mapped
    tlb_flush(c)
    update_mode(c)

# ---- INVLPG and INVPCID ---------------------------------------------------------------------------------------------
cdef int INVLPG_M(Cpu* c, Insn* o) noexcept nogil:
    """Of an address that is not canonical nothing happens."""
    cdef u64 lin = operand_off(c, o) + c.r[R_SEG + o.seg]
    tlb_flush_page(c, lin if c.mode & MODE_64 else <u32>lin)
    return branch_next(c, o)

cdef int INVPCID_G_M(Cpu* c, Insn* o) noexcept nogil:
    """Descriptor: PCID in bits 11:0, linear address in bits 127:64.  Types: address, PCID, all, all but global."""
    cdef u64 kind = c.r[o.reg] if c.mode & MODE_64 else <u32>c.r[o.reg]
    cdef u64 lin
    cdef u64 desc[2]
    cdef int st
    st = operand_lin(c, o, 16, &lin)
    if st == ST_OK:
        st = mem_read_n(c, lin, 16, desc)
    if st != ST_OK:
        return st
    if kind > 3 or desc[0] >> 12 or (kind < 2 and desc[0] and not c.cr4 & CR4_PCIDE):
        return fault_err(c, X_GP, 0)
    if kind == 0 and not is_canonical_base(c, desc[1]):
        return fault_err(c, X_GP, 0)
    if kind == 0:
        pcid_forget_page(c, desc[0], desc[1])
    elif kind == 1:
        pcid_forget(c, desc[0])
    elif kind == 2:
        tlb_flush(c)
    else:
        pcid_forget_all(c)
    return branch_next(c, o)

# ---- protection keys ------------------------------------------------------------------------------------------------
cdef void set_pkru(Cpu* c, u32 v) noexcept nogil:
    """WRPKRU, XRSTOR: user-mode data translations were made with the old rights."""
    if v == c.pkru:
        return
    c.pkru = v
    if c.cr4 & CR4_PKE:
        tlb_flush(c)

cdef int RDPKRU(Cpu* c, Insn* o) noexcept nogil:
    if not c.cr4 & CR4_PKE:
        return fault(c, X_UD)
    if <u32>c.r[RCX]:
        return fault_err(c, X_GP, 0)
    c.r[RAX] = c.pkru
    c.r[RDX] = 0
    return ST_OK

cdef int WRPKRU(Cpu* c, Insn* o) noexcept nogil:
    if not c.cr4 & CR4_PKE:
        return fault(c, X_UD)
    if <u32>c.r[RCX] or <u32>c.r[RDX]:
        return fault_err(c, X_GP, 0)
    set_pkru(c, <u32>c.r[RAX])
    return branch_next(c, o)
