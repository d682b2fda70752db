# Paging: linear address -> TLB -> page-table walk -> host pointer.
#
# SDM Vol. 3, ch. 4.  32-bit paging with PSE and PSE-36, PAE with its four registers, 4-level and 5-level with 2 MiB
# and 1 GiB pages; WP, NX, SMEP, SMAP, protection keys; A and D bits; reserved bits; the error code.  The TLB is in
# tlb.pxi, what MOV to a control register may do in control.pxi.  Memory types (PAT, MTRR) are kept and have no effect:
# there is no cache to see.
#
# A bits of the tables are set as the walk goes through them, A and D of the last entry when the access is allowed;
# nothing is speculative.

cdef enum:
    ACC_READ = 0
    ACC_WRITE = 1
    ACC_EXEC = 2
    ST_MMIO = 5          # translate(): not RAM; the physical address is in Cpu.exit.address
    WALK_AGAIN = 6       # another processor has changed an entry meanwhile

cdef enum:
    PTE_P = 1
    PTE_RW = 2
    PTE_US = 4
    PTE_A = 32
    PTE_D = 64
    PTE_PS = 128
    PTE_G = 256
    CR0_WP = 1 << 16
    CR0_PG = 1 << 31
    CR4_PSE = 1 << 4
    CR4_PAE = 1 << 5
    CR4_PGE = 1 << 7
    CR4_LA57 = 1 << 12
    CR4_PCIDE = 1 << 17
    CR4_SMEP = 1 << 20
    CR4_SMAP = 1 << 21
    CR4_PKE = 1 << 22
    EFER_LMA = 1 << 10
    EFER_NXE = 1 << 11
    PHYS_BITS = 46       # MAXPHYADDR, as CPUID 8000_0008h reports it

cdef enum:               # Walk.rights
    MAY_READ = 1 << ACC_READ
    MAY_WRITE = 1 << ACC_WRITE
    MAY_EXEC = 1 << ACC_EXEC

cdef struct Walk:        # what a walk finds
    u64 pa
    u32 rights           # MAY_*
    u32 shift            # log2 of the page's size
    bint dirty           # D of the last entry
    bint global_
    bint user            # U/S all the way

cdef extern from *:
    """
    #define XF_PTE_NX (1ull << 63)
    #define XF_PTE_ADDR 0x000FFFFFFFFFF000ull
    #define XF_PTE_RSVD 0x000FC00000000000ull
    #define XF_PTE_RSVD_PAE 0x7FFFC00000000000ull
    #define XF_PDPTE_RSVD 0xFFFFC000000001E6ull
    #define XF_PHYSMAP_RO (1ull << 63)
    #define XF_PHYSMAP_RAM (1ull << 62)
    #define XF_PHYSMAP_MFN 0x000FFFFFFFFFFFFFull
    #define XF_XEN_VIRT_START 0xFFFF800000000000ull
    #define XF_XEN_VIRT_END 0xFFFF880000000000ull
    """
    u64 PTE_NX "XF_PTE_NX"
    u64 PTE_ADDR "XF_PTE_ADDR"
    u64 PTE_RSVD "XF_PTE_RSVD"               # bits 51:PHYS_BITS
    u64 PTE_RSVD_PAE "XF_PTE_RSVD_PAE"       # bits 62:PHYS_BITS
    u64 PDPTE_RSVD "XF_PDPTE_RSVD"           # bits 63:PHYS_BITS, 8:5, 2:1
    u64 PHYSMAP_RO "XF_PHYSMAP_RO"           # a ROM
    u64 PHYSMAP_RAM "XF_PHYSMAP_RAM"         # there is a frame
    u64 PHYSMAP_MFN "XF_PHYSMAP_MFN"
    u64 XEN_VIRT_START "XF_XEN_VIRT_START"   # the 16 L4 slots Xen keeps in a PV guest's address space
    u64 XEN_VIRT_END "XF_XEN_VIRT_END"

cdef inline u64 page_to_mfn(Cpu* c, u64 pfn) noexcept nogil:
    """Machine frame behind a physical frame as this vcpu sees it, or NO_FRAME."""
    if c.physmap == NULL:
        return pfn if pfn < c.mem.max_page else NO_FRAME
    if pfn >= c.physmap.max_gfn or not c.physmap.mfn[pfn] & PHYSMAP_RAM:
        return NO_FRAME
    return c.physmap.mfn[pfn] & PHYSMAP_MFN

cdef inline u8* phys_host(Cpu* c, u64 pfn) noexcept nogil:
    """Host address of a physical frame, or NULL."""
    cdef u64 mfn = page_to_mfn(c, pfn)
    if mfn == NO_FRAME:
        return NULL
    # SAFETY: page_to_mfn bounds mfn by max_page (PV) or by a physmap that only host code fills.
    return c.mem.host + (mfn << 12)

cdef int page_fault(Cpu* c, u64 lin, u32 error) noexcept nogil:
    c.cr2 = lin
    return fault_err(c, X_PF, error)

# ---- the walk -------------------------------------------------------------------------------------------------------
cdef inline bint pae_paging(Cpu* c) noexcept nogil:
    return c.cr0 & CR0_PG and c.cr4 & CR4_PAE and not c.efer & EFER_LMA

cdef bint load_pdptes(Cpu* c, u64 cr3) noexcept nogil:
    """The four registers of PAE paging (SDM Vol. 3, 4.4.1).  False: #GP, a present one has a reserved bit; none is loaded."""
    cdef u64* p = <u64*>phys_host(c, (cr3 & <u64>0xFFFFFFE0) >> 12)
    cdef u64 e[4]
    cdef int i
    for i in range(4):
        # SAFETY: 32 bytes at a multiple of 32 lie within the page.
        e[i] = p[((cr3 & 0xFE0) >> 3) + i] if p != NULL else 0
        if e[i] & PTE_P and e[i] & PDPTE_RSVD:
            return False
    memcpy(c.pdpte, e, sizeof(e))
    return True

cdef inline u32 pf_error(Cpu* c, int access, bint user) noexcept nogil:
    """W/R, U/S and I/D of the error code (SDM Vol. 3, 4.7)."""
    cdef u32 err = PF_U if user else 0
    if access == ACC_WRITE:
        return err | PF_W
    if access == ACC_EXEC and (c.cr4 & CR4_SMEP or (c.cr4 & CR4_PAE and c.efer & EFER_NXE)):
        err |= PF_I
    return err

cdef inline u32 key_rights(Cpu* c, bint user, u64 entry) noexcept nogil:
    """What the protection key of a user-mode address leaves of data accesses (SDM Vol. 3, 4.6.2)."""
    cdef u32 bits
    if not c.cr4 & CR4_PKE or not c.efer & EFER_LMA:
        return MAY_READ | MAY_WRITE
    bits = (c.pkru >> (2 * ((entry >> 59) & 15))) & 3
    if bits & 1:
        return 0
    return MAY_READ if bits & 2 and (user or c.cr0 & CR0_WP) else MAY_READ | MAY_WRITE

cdef inline u32 page_rights(Cpu* c, bint user, u64 perm, u64 nx) noexcept nogil:
    """SDM Vol. 3, 4.6.1, without protection keys.  perm: R/W and U/S anded over the levels; nx: XD or-ed."""
    cdef u32 rights = MAY_READ | MAY_WRITE | MAY_EXEC
    if user:
        if not perm & PTE_US:
            return 0
        if not perm & PTE_RW:
            rights &= ~<u32>MAY_WRITE
    else:
        if not perm & PTE_RW and c.cr0 & CR0_WP:
            rights &= ~<u32>MAY_WRITE
        if perm & PTE_US and c.cr4 & CR4_SMAP and (c.implicit or not c.eflags & FL_AC):
            rights &= MAY_EXEC
        if perm & PTE_US and c.cr4 & CR4_SMEP:
            rights &= ~<u32>MAY_EXEC
    return rights & ~<u32>MAY_EXEC if nx else rights

cdef bint pte_mark(Cpu* c, u64 table, u64* p, u64 e, u64 bits, bint wide) noexcept nogil:
    """Set A, or A and D, of an entry as it was read; False: it has changed since.  A table in ROM stays as it is."""
    if e & bits == bits or (c.physmap != NULL and c.physmap.mfn[table >> 12] & PHYSMAP_RO):
        return True
    about_to_write(c.mem, <u64>(<u8*>p - c.mem.host) >> 12)
    return cas64(p, e, e | bits) if wide else cas32(p, e, e | bits)

cdef int finish_walk(Cpu* c, u64 lin, int access, bint user, u64 table, u64* p, u64 e, u64 perm, u64 nx, bint wide,
                     Walk* w) noexcept nogil:
    """The last entry has been found, e at p: rights, A and D."""
    cdef u32 keys = MAY_READ | MAY_WRITE
    w.user = (perm & PTE_US) != 0
    w.rights = page_rights(c, user, perm, nx)
    if w.user and wide:
        keys = key_rights(c, user, e)
        w.rights &= keys | MAY_EXEC
    if not (w.rights >> access) & 1:
        if access != ACC_EXEC and not (keys >> access) & 1:
            return page_fault(c, lin, pf_error(c, access, user) | PF_P | PF_PK)
        return page_fault(c, lin, pf_error(c, access, user) | PF_P)
    if not pte_mark(c, table, p, e, PTE_A | PTE_D if access == ACC_WRITE else PTE_A, wide):
        return WALK_AGAIN
    w.dirty = access == ACC_WRITE or e & PTE_D != 0
    if c.is_pv:
        w.global_ = c.tlb_index == 0 and lin >> 63
        return ST_OK if not w.global_ or kernel_table_met(c, table >> 12, lin) else WALK_AGAIN
    w.global_ = e & PTE_G and c.cr4 & CR4_PGE
    return ST_OK

cdef int walk_32(Cpu* c, u64 cr3, u64 lin, int access, bint user, Walk* w) noexcept nogil:
    """32-bit paging (SDM Vol. 3, 4.3): 1024 entries a table; 4 MiB pages with CR4.PSE, above 4 GiB with PSE-36."""
    cdef u64 table = cr3 & <u64>0xFFFFF000, e, perm
    cdef u64* p = <u64*>phys_host(c, table >> 12)
    if p == NULL:
        return page_fault(c, lin, pf_error(c, access, user))       # a table outside RAM reads as not present
    # SAFETY: the index is masked to the 1024 entries of a page, here and below.
    p = <u64*>(<u32*>p + ((lin >> 22) & 1023))
    e = (<u32*>p)[0]
    if not e & PTE_P:
        return page_fault(c, lin, pf_error(c, access, user))
    perm = e
    if e & PTE_PS and c.cr4 & CR4_PSE:
        if e & (1 << 21 if has_feature(c, FEAT_1D, 17) else 0x3FE000):
            return page_fault(c, lin, pf_error(c, access, user) | PF_P | PF_RSVD)
        w.shift = 22
        w.pa = (e & <u64>0xFFC00000) | ((e & 0x1FE000) << 19) | (lin & 0x3FFFFF)
        return finish_walk(c, lin, access, user, table, p, e, perm, 0, False, w)
    if not pte_mark(c, table, p, e, PTE_A, False):
        return WALK_AGAIN
    table = e & <u64>0xFFFFF000
    p = <u64*>phys_host(c, table >> 12)
    if p == NULL:
        return page_fault(c, lin, pf_error(c, access, user))
    p = <u64*>(<u32*>p + ((lin >> 12) & 1023))
    e = (<u32*>p)[0]
    if not e & PTE_P:
        return page_fault(c, lin, pf_error(c, access, user))
    w.shift = 12
    w.pa = (e & <u64>0xFFFFF000) | (lin & 0xFFF)
    return finish_walk(c, lin, access, user, table, p, e, perm & e, 0, False, w)

cdef int walk_64(Cpu* c, u64 cr3, u64 lin, int access, bint user, Walk* w) noexcept nogil:
    """PAE, 4-level and 5-level paging (SDM Vol. 3, 4.4 and 4.5): entries of 8 bytes, 512 in a table."""
    cdef u64 table = cr3 & PTE_ADDR, e, perm = PTE_RW | PTE_US, nx = 0, rsvd = PTE_RSVD
    cdef u64* p
    cdef int level = 5 if c.cr4 & CR4_LA57 else 4
    cdef u32 shift
    if not c.efer & EFER_LMA:
        e = c.pdpte[(lin >> 30) & 3]
        if not e & PTE_P:
            return page_fault(c, lin, pf_error(c, access, user))
        table = e & PTE_ADDR
        level = 2
        rsvd = PTE_RSVD_PAE
    if not c.efer & EFER_NXE:
        rsvd |= PTE_NX
    while True:
        shift = 3 + 9 * level
        p = <u64*>phys_host(c, table >> 12)
        if p == NULL:
            return page_fault(c, lin, pf_error(c, access, user))
        # SAFETY: the index is masked to the 512 entries of a page.
        p += (lin >> shift) & 511
        e = p[0]
        if not e & PTE_P:
            return page_fault(c, lin, pf_error(c, access, user))
        if e & rsvd:
            return page_fault(c, lin, pf_error(c, access, user) | PF_P | PF_RSVD)
        perm &= e
        nx |= e & PTE_NX
        if level == 1:
            break
        if e & PTE_PS:
            if (level > 3 or (level == 3 and not has_feature(c, FEAT_E1D, 26))
                    or e & ((<u64>1 << shift) - 1) & ~<u64>0x1FFF):
                return page_fault(c, lin, pf_error(c, access, user) | PF_P | PF_RSVD)
            break
        if not pte_mark(c, table, p, e, PTE_A, True):
            return WALK_AGAIN
        table = e & PTE_ADDR
        level -= 1
    w.shift = shift
    w.pa = (e & PTE_ADDR & ~((<u64>1 << shift) - 1)) | (lin & ((<u64>1 << shift) - 1))
    return finish_walk(c, lin, access, user, table, p, e, perm, nx, True, w)

cdef int walk(Cpu* c, u64 cr3, u64 lin, int access, bint user, Walk* w) noexcept nogil:
    """Walk the page tables.  ST_OK with what they say in w, or ST_FAULT with #PF raised."""
    cdef int st = WALK_AGAIN
    while st == WALK_AGAIN:
        if c.cr4 & CR4_PAE:
            st = walk_64(c, cr3, lin, access, user, w)
        else:
            st = walk_32(c, cr3, lin, access, user, w)
    return st

cdef void trace_fill(Cpu* c, u64 page, int access, u64 mfn, bint rom, Walk* w) noexcept nogil:
    """For traces: a walk has succeeded (mmu_trace.pxi)."""
    cdef u32 rights = MMU_USER if w.user else 0
    if not c.in_run and not c.delivering:
        return
    if w.rights & MAY_WRITE and not rom:
        rights |= MMU_WRITABLE
    if w.rights & MAY_EXEC:
        rights |= MMU_EXECUTABLE
    if w.global_:
        rights |= MMU_GLOBAL
    mmu_event(c, MMU_FILL + access, page, w.pa & ~<u64>4095, mfn, rights, w.shift)

cdef int translate(Cpu* c, u64 lin, int access, u8** host) noexcept nogil:
    """Host address of lin for one access within its page.  ST_OK, ST_FAULT (#PF raised), or ST_MMIO.

    Fills the TLB.  A write entry is made only when D is set and no vcpu holds code decoded from the frame: every other
    write comes through here.  A user page that the supervisor reaches under SMAP is never cached: the next STAC or CLAC,
    POPF or IRET decides anew.
    """
    cdef u64 mfn, page = lin & ~<u64>4095
    cdef bint user = c.tlb_index == 1 or c.is_pv, rom
    cdef TlbEntry* e = tlb_slot(c.tlb, lin)
    cdef int st
    cdef Walk w
    c.stat[STAT_TLB_FILLS] += 1
    if c.cr0 & CR0_PG:
        if c.is_pv:
            if lin >= XEN_VIRT_START and lin < XEN_VIRT_END:
                return pv_xen_area(c, lin, access, host)
            st = walk(c, c.pv.cr3_user if c.tlb_index else c.pv.cr3_kernel, lin, access, user, &w)
        else:
            st = walk(c, c.cr3, lin, access, user, &w)
        if st != ST_OK:
            return st
    else:
        w.pa, w.rights, w.shift = lin, MAY_READ | MAY_WRITE | MAY_EXEC, 12
        w.dirty, w.global_, w.user = True, False, False
    mfn = page_to_mfn(c, w.pa >> 12)
    if mfn == NO_FRAME or w.pa >> 12 == c.lapic_page:
        c.exit.address = w.pa
        return ST_MMIO
    # SAFETY: page_to_mfn has bounded mfn, see phys_host.
    host[0] = c.mem.host + (mfn << 12) + (lin & 4095)
    rom = c.physmap != NULL and c.physmap.mfn[w.pa >> 12] & PHYSMAP_RO
    if access == ACC_WRITE and rom:
        c.exit.address = w.pa
        return ST_MMIO
    if access == ACC_WRITE:
        about_to_write(c.mem, mfn)
    if unlikely(c.mmu_trace != NULL):
        trace_fill(c, page, access, mfn, rom, &w)
    if unlikely(c.bp_on & BP_LOOK) and access != ACC_EXEC and watched_page(c, page):
        return ST_OK                              # every access is looked at (debug.pxi)
    if w.user and not user and c.cr4 & CR4_SMAP:
        return ST_OK
    if e.add != <i64>(<u64>host[0] - lin) or (e.rtag != page and e.wtag != page and e.xtag != page):
        # Another page, or the same one mapped elsewhere without a flush: no permission of the old entry may survive.
        e.rtag = e.wtag = e.xtag = invalid_tag(lin)
        tlb_note_fill(c, lin, w.global_, w.shift > 12)
    elif not tlb_noted(c, lin, w.global_, w.shift > 12):
        tlb_note_fill(c, lin, w.global_, w.shift > 12)
    e.add = <i64>(<u64>host[0] - lin)
    if access == ACC_EXEC:
        e.xtag = page
        return ST_OK
    e.rtag = page
    if w.rights & MAY_WRITE and w.dirty and not rom and c.mem.frames[mfn].code == 0 and not is_clean(c.mem, mfn):
        e.wtag = page
    return ST_OK
