# Paging: linear address -> TLB -> page-table walk -> host pointer.
#
# SDM Vol. 3, ch. 4.  32-bit paging with PSE, PAE, 4-level with 2 MiB and 1 GiB pages; WP, NX, SMEP, SMAP; A and D bits;
# reserved bits.  Left out so far: 5-level, PCID, protection keys, PSE-36.
#
# There are two TLBs a vcpu: supervisor and user.  For a PV guest they are guest kernel and guest user, each with its own CR3, so that
# a switch of mode only switches the pointer.  A tag of slot i that names a page of slot i ^ 1 can never match: that is "invalid".

cdef enum:
    ACC_READ = 0
    ACC_WRITE = 1
    ACC_EXEC = 2
    ST_MMIO = 5          # translate(): not RAM; the physical address is in Cpu.exit.address

cdef enum:
    PTE_P = 1
    PTE_RW = 2
    PTE_US = 4
    PTE_A = 32
    PTE_D = 64
    PTE_PS = 128
    CR0_WP = 1 << 16
    CR0_PG = 1 << 31
    CR4_PSE = 1 << 4
    CR4_PAE = 1 << 5
    CR4_SMEP = 1 << 20
    CR4_SMAP = 1 << 21
    EFER_LMA = 1 << 10
    EFER_NXE = 1 << 11
    PHYS_BITS = 46       # MAXPHYADDR, as CPUID 8000_0008h reports it

cdef extern from *:
    """
    #define XF_PTE_NX (1ull << 63)
    #define XF_PTE_ADDR 0x000FFFFFFFFFF000ull
    #define XF_PTE_RSVD 0x000FC00000000000ull
    #define XF_PHYSMAP_MMIO (~0ull)
    #define XF_PHYSMAP_RO (1ull << 63)
    #define XF_XEN_VIRT_START 0xFFFF800000000000ull
    #define XF_XEN_VIRT_END 0xFFFF880000000000ull
    """
    u64 PTE_NX "XF_PTE_NX"
    u64 PTE_ADDR "XF_PTE_ADDR"
    u64 PTE_RSVD "XF_PTE_RSVD"               # bits 51:PHYS_BITS
    u64 PHYSMAP_MMIO "XF_PHYSMAP_MMIO"
    u64 PHYSMAP_RO "XF_PHYSMAP_RO"
    u64 XEN_VIRT_START "XF_XEN_VIRT_START"   # the 16 L4 slots Xen keeps in a PV guest's address space
    u64 XEN_VIRT_END "XF_XEN_VIRT_END"

cdef inline u64 page_to_mfn(Cpu* c, u64 pfn) noexcept nogil:
    """Machine frame behind a physical frame as this vcpu sees it, or NO_FRAME."""
    if c.physmap == NULL:
        return pfn if pfn < c.mem.max_page else NO_FRAME
    if pfn >= c.physmap.max_gfn or c.physmap.mfn[pfn] == PHYSMAP_MMIO:
        return NO_FRAME
    return c.physmap.mfn[pfn] & ~PHYSMAP_RO

cdef inline u8* phys_host(Cpu* c, u64 pfn) noexcept nogil:
    """Host address of a physical frame, or NULL."""
    cdef u64 mfn = page_to_mfn(c, pfn)
    if mfn == NO_FRAME:
        return NULL
    # SAFETY: page_to_mfn bounds mfn by max_page (PV) or by a physmap that only host code fills.
    return c.mem.host + (mfn << 12)

cdef inline TlbEntry* tlb_slot(TlbEntry* tlb, u64 lin) noexcept nogil:
    return tlb + ((lin >> 12) & (TLB_SIZE - 1))

cdef inline u64 invalid_tag(u64 lin) noexcept nogil:
    """A tag no address of this slot matches."""
    return (lin ^ 4096) & ~<u64>4095

cdef inline void tlb_clear_slot(TlbEntry* tlb, u64 i) noexcept nogil:
    tlb[i].rtag = tlb[i].wtag = tlb[i].xtag = (i ^ 1) << 12

cdef void tlb_clear(Cpu* c, int index) noexcept nogil:
    """Forget one TLB: slot by slot while few have been filled, for a guest that switches address spaces flushes often."""
    cdef u64 i
    if c.tlb_filled[index] <= TLB_FEW:
        for i in range(c.tlb_filled[index]):
            tlb_clear_slot(c.tlbs[index], c.tlb_slots[index][i])
    else:
        for i in range(TLB_SIZE):
            tlb_clear_slot(c.tlbs[index], i)
    c.tlb_filled[index] = 0

cdef inline void tlb_note_fill(Cpu* c, u64 lin) noexcept nogil:
    cdef u32 n = c.tlb_filled[c.tlb_index]
    if n < TLB_FEW:
        c.tlb_slots[c.tlb_index][n] = <u16>((lin >> 12) & (TLB_SIZE - 1))
    if n <= TLB_FEW:
        c.tlb_filled[c.tlb_index] = n + 1

cdef inline void jc_flush(Cpu* c) noexcept nogil:
    """Forget every jump-cache entry: a new generation makes all tags foreign."""
    c.jc_gen += 1
    if c.jc_gen >= 1 << 13:
        memset(c.jc, 0, sizeof(JumpEntry) * JC_SIZE)
        c.jc_gen = 1
    c.jc_salt = (<u64>((c.jc_gen << 2) | (c.tlb_index << 1) | (c.mode & 1))) << 48

cdef void tlb_flush(Cpu* c) noexcept nogil:
    c.stat[STAT_TLB_FLUSHES] += 1
    tlb_clear(c, 0)
    tlb_clear(c, 1)
    c.flush_time[0] = c.flush_time[1] = add_fetch64(&c.mem.flush_clock, 1)
    jc_flush(c)

cdef void tlb_flush_one(Cpu* c, int index) noexcept nogil:
    """One of the two TLBs: a PV guest has loaded the CR3 of one mode."""
    c.stat[STAT_TLB_FLUSHES] += 1
    tlb_clear(c, index)
    c.flush_time[index] = add_fetch64(&c.mem.flush_clock, 1)
    jc_flush(c)

cdef void tlb_flush_page(Cpu* c, u64 lin) noexcept nogil:
    cdef int i
    cdef TlbEntry* e
    for i in range(2):
        e = tlb_slot(c.tlbs[i], lin)
        e.rtag = e.wtag = e.xtag = invalid_tag(lin)
    jc_flush(c)

cdef void tlb_protect_frame(Cpu* c, u64 mfn) noexcept nogil:
    """No write to this frame may hit the TLB from now on (it holds decoded code)."""
    cdef u64 host = <u64>(c.mem.host + (mfn << 12))
    cdef int i, k
    cdef TlbEntry* e
    for k in range(2):
        e = c.tlbs[k]
        for i in range(TLB_SIZE):
            if e.wtag + <u64>e.add == host:
                e.wtag = (<u64>i ^ 1) << 12
            e += 1

cdef int page_fault(Cpu* c, u64 lin, u32 error) noexcept nogil:
    c.cr2 = lin
    return fault_err(c, X_PF, error)

cdef inline void pte_or(u64* p, u64 bits) noexcept nogil:
    cdef u64 old
    while True:
        old = p[0]
        if (old & bits) == bits or cas64(p, old, old | bits):
            return

cdef int walk(Cpu* c, u64 cr3, u64 lin, int access, bint user, u64* out_pa, u64* out_perm) noexcept nogil:
    """Walk the page tables.  out_perm: PTE_RW and PTE_US anded over the levels, PTE_NX or-ed, PTE_D of the leaf."""
    cdef u64 table, e, rsvd, perm = PTE_RW | PTE_US, nx = 0, shift
    cdef u64* p
    cdef u32 err = 0
    cdef int level, bits = 9
    cdef bint pae = (c.cr4 & CR4_PAE) != 0
    cdef bint lma = (c.efer & EFER_LMA) != 0
    if access == ACC_WRITE:
        err |= PF_W
    if user:
        err |= PF_U
    if access == ACC_EXEC and (pae and c.efer & EFER_NXE or c.cr4 & CR4_SMEP):
        err |= PF_I
    rsvd = PTE_RSVD if c.efer & EFER_NXE else PTE_RSVD | PTE_NX
    if lma:
        level = 4
        table = cr3 & PTE_ADDR
    elif pae:
        level = 3
        table = cr3 & <u64>0xFFFFFFE0
    else:
        level = 2
        bits = 10
        table = cr3 & <u64>0xFFFFF000
        rsvd = 0
    while True:
        shift = 12 + (level - 1) * bits
        p = <u64*>phys_host(c, table >> 12)
        if p == NULL:
            return page_fault(c, lin, err)       # a table outside RAM reads as not present
        if pae:
            # SAFETY: the index is masked to the 512 entries of a page (4 for the PAE directory, 32-byte aligned).
            p += ((table & 0xFFF) >> 3) + ((lin >> shift) & (511 if lma or level < 3 else 3))
            e = p[0]
        else:
            p = <u64*>(<u32*>p + ((lin >> shift) & 1023))
            e = (<u32*>p)[0]
        if not e & PTE_P:
            return page_fault(c, lin, err)
        if e & rsvd or (level == 4 and e & PTE_PS):
            return page_fault(c, lin, err | PF_P | PF_RSVD)
        if pae and not lma and level == 3:
            table = e & PTE_ADDR
            level = 2
            continue
        perm &= e
        nx |= e & PTE_NX
        if level == 1 or (e & PTE_PS and (pae or c.cr4 & CR4_PSE)):
            break
        if not e & PTE_A:
            pte_set(p, PTE_A, pae)
        table = e & PTE_ADDR
        level -= 1
    if level > 1 and pae and e & ((<u64>1 << shift) - 1) & ~<u64>0x1FFF:
        return page_fault(c, lin, err | PF_P | PF_RSVD)
    if not pae:
        nx = 0
    if not permitted(c, access, user, perm, nx):
        return page_fault(c, lin, err | PF_P)
    if access == ACC_WRITE:
        if (e & (PTE_A | PTE_D)) != (PTE_A | PTE_D):
            pte_set(p, PTE_A | PTE_D, pae)
            e |= PTE_D
    elif not e & PTE_A:
        pte_set(p, PTE_A, pae)
    out_pa[0] = (e & PTE_ADDR & ~((<u64>1 << shift) - 1)) | (lin & ((<u64>1 << shift) - 1))
    if not pae:
        out_pa[0] &= <u64>0xFFFFFFFF
    out_perm[0] = (perm & (PTE_RW | PTE_US)) | nx | (e & PTE_D)
    return ST_OK

cdef inline void pte_set(u64* p, u64 bits, bint pae) noexcept nogil:
    cdef u32 old
    if pae:
        pte_or(p, bits)
        return
    while True:
        old = (<u32*>p)[0]
        if cas32(p, old, old | bits):
            return

cdef inline bint permitted(Cpu* c, int access, bint user, u64 perm, u64 nx) noexcept nogil:
    """SDM Vol. 3, 4.6.1."""
    if access == ACC_EXEC:
        if nx:
            return False
        if user:
            return (perm & PTE_US) != 0
        return not (perm & PTE_US and c.cr4 & CR4_SMEP)
    if user:
        return perm & PTE_US and (access == ACC_READ or perm & PTE_RW)
    if perm & PTE_US and c.cr4 & CR4_SMAP and not c.eflags & FL_AC:
        return False
    return access == ACC_READ or perm & PTE_RW or not c.cr0 & CR0_WP

cdef int translate(Cpu* c, u64 lin, int access, u8** host) noexcept nogil:
    """Host address of lin for one access within its page.  ST_OK, ST_FAULT (#PF raised), or ST_MMIO.

    Fills the TLB.  A write entry is made only when D is set and no vcpu holds code decoded from the frame: every other write
    comes through here.
    """
    cdef u64 pa = lin, perm = PTE_RW | PTE_US | PTE_D, mfn, page = lin & ~<u64>4095
    cdef bint user = c.tlb_index == 1 or c.is_pv
    cdef TlbEntry* e = tlb_slot(c.tlb, lin)
    cdef int st
    c.stat[STAT_TLB_FILLS] += 1
    if c.cr0 & CR0_PG:
        if c.is_pv:
            if lin >= XEN_VIRT_START and lin < XEN_VIRT_END:
                return pv_xen_area(c, lin, access, host)
            st = walk(c, c.pv.cr3_user if c.tlb_index else c.pv.cr3_kernel, lin, access, user, &pa, &perm)
        else:
            st = walk(c, c.cr3, lin, access, user, &pa, &perm)
        if st != ST_OK:
            return st
    mfn = page_to_mfn(c, pa >> 12)
    if mfn == NO_FRAME:
        c.exit.address = pa
        return ST_MMIO
    host[0] = c.mem.host + (mfn << 12) + (lin & 4095)
    if access == ACC_WRITE and c.physmap != NULL and c.physmap.mfn[pa >> 12] & PHYSMAP_RO:
        c.exit.address = pa
        return ST_MMIO
    if unlikely(c.bp_on & 2) and access != ACC_EXEC and watched_page(c, page):
        return ST_OK                              # every access is looked at (debug.pxi)
    if perm & PTE_US and not user and c.cr4 & CR4_SMAP:
        return ST_OK                              # depends on EFLAGS.AC: not cached
    if e.add != <i64>(<u64>host[0] - lin) or (e.rtag != page and e.wtag != page and e.xtag != page):
        # Another page, or the same one mapped elsewhere without a flush: no permission of the old entry may survive.
        e.rtag = e.wtag = e.xtag = invalid_tag(lin)
        tlb_note_fill(c, lin)
    e.add = <i64>(<u64>host[0] - lin)
    if access != ACC_EXEC:
        e.rtag = page
    if (access == ACC_WRITE or (access == ACC_READ and perm & PTE_D and permitted(c, ACC_WRITE, user, perm, 0))):
        if c.mem.frames[mfn].code == 0 and not (c.physmap != NULL and c.physmap.mfn[pa >> 12] & PHYSMAP_RO):
            e.wtag = page
    if access == ACC_EXEC:
        e.xtag = page
    return ST_OK
