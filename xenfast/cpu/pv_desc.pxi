# Descriptors of PV guests: GDT and LDT frames, their validation, and the entries Xen adds to every GDT.
#
# xen/arch/x86/pv/descriptor-tables.c.  A guest's GDT is up to 14 frames of type PGT_seg_desc_page, so it cannot write them: it
# has update_descriptor.  Xen's own entries follow at selector E000h.  An LDT stays in the guest's address space (it must be mapped
# read-only): its page is validated whenever a selector in it is loaded.  Left out: call gates, which Xen permits.

cdef enum:
    FIRST_RESERVED_GDT_PAGE = 14
    FIRST_RESERVED_GDT_ENTRY = 14 * 512
    FLAT_RING3_CS32 = 0xE023
    FLAT_RING3_CS64 = 0xE033
    FLAT_RING3_DS32 = 0xE02B
    FLAT_RING3_SS64 = 0xE02B
    MAX_LDT_ENTRIES = 8192

cdef extern from *:
    """
    #define XF_DESC_CS32 0x00CFFB000000FFFFull
    #define XF_DESC_CS64 0x00AFFB000000FFFFull
    #define XF_DESC_DATA 0x00CFF3000000FFFFull
    """
    u64 DESC_CS32 "XF_DESC_CS32"     # what FLAT_RING3_CS32, _CS64 and _DS32 name
    u64 DESC_CS64 "XF_DESC_CS64"
    u64 DESC_DATA "XF_DESC_DATA"


cdef bint check_descriptor(u64* d) noexcept nogil:
    """May the guest have this descriptor?  Its DPL is raised to 3, where all of a 64-bit guest runs (xen: check_descriptor)."""
    cdef u64 v = d[0]
    if not v >> 47 & 1:
        return True                                   # not present: loading it faults
    v |= <u64>3 << 45
    if not v >> 44 & 1:
        if v >> 40 & 15:
            return False                              # a system descriptor: gates, TSS, LDT
        d[0] = v                                      # type 0 is reserved, and faults
        return True
    d[0] = v
    return True

cdef int validate_descriptors(Mem* m, u64 mfn) noexcept nogil:
    """First use of a frame as a descriptor table: every entry must be harmless."""
    cdef u64* p = <u64*>frame_host(m, mfn)
    cdef int i
    for i in range(512):
        if not check_descriptor(&p[i]):
            return -EINVAL
    if m.frames[mfn].code:
        frame_written(m, mfn)
    return 0


# --- set_gdt, update_descriptor, SET_LDT -----------------------------------------------------------------------------
cdef i64 pv_set_gdt(Cpu* c, u64* a) noexcept nogil:
    """set_gdt(frame_list, entries)"""
    cdef u64 frames[14]
    cdef u64 entries = <u32>a[1], n = (entries + 511) >> 9
    if entries > FIRST_RESERVED_GDT_ENTRY:
        return -EINVAL
    if n and pv_read(c, a[0], n * 8, frames):
        return -EFAULT
    return load_gdt(c.mem, c, c.pv, frames, <u32>entries)

cdef int load_gdt(Mem* m, Cpu* c, PvState* pv, u64* frames, u32 entries) noexcept nogil:
    """Make these frames the GDT; the old ones are given back."""
    cdef u64 n = (entries + 511) >> 9, i, j
    cdef int rc
    mem_lock(m, c)
    for i in range(n):
        rc = get_page_and_type(m, c, frames[i], pv.domid, PGT_seg_desc_page)
        if rc:
            for j in range(i):
                put_page_and_type(m, frames[j])
            mem_unlock(m)
            return rc
    for i in range(FIRST_RESERVED_GDT_PAGE):
        if pv.gdt_frames[i] != NO_FRAME:
            put_page_and_type(m, pv.gdt_frames[i])
        pv.gdt_frames[i] = frames[i] if i < n else NO_FRAME
    pv.gdt_ents = entries
    mem_unlock(m)
    return 0

cdef i64 pv_update_descriptor(Cpu* c, u64* a) noexcept nogil:
    """update_descriptor(machine address, descriptor)"""
    cdef Mem* m = c.mem
    cdef u64 mfn = a[0] >> PAGE_SHIFT, desc = a[1]
    cdef Frame* f
    cdef int rc = -EINVAL, type
    if a[0] & 7 or not check_descriptor(&desc):
        return -EINVAL
    mem_lock(m, c)
    if get_page(m, mfn, c.pv.domid):
        f = &m.frames[mfn]
        type = PGT_seg_desc_page if f.type == PGT_seg_desc_page and f.type_count else PGT_writable_page
        rc = get_page_type(m, c, mfn, type)
        if rc == 0:
            # SAFETY: the frame exists, and the address is a multiple of 8.
            (<u64*>(frame_host(m, mfn) + (a[0] & 0xFFF)))[0] = desc
            if f.code:
                frame_written(m, mfn)
            put_page_type(m, mfn)
        put_page(m, mfn)
    mem_unlock(m)
    return rc

cdef int pv_set_ldt(Cpu* c, u64 base, u64 entries) noexcept nogil:
    """MMUEXT_SET_LDT"""
    if base & 0xFFF or entries > MAX_LDT_ENTRIES or (entries and not access_ok(base, entries * 8)):
        return -EINVAL
    c.pv.ldt_base = base
    c.pv.ldt_ents = <u32>entries
    return 0


# --- reading a descriptor --------------------------------------------------------------------------------------------
cdef int pv_read_desc(Cpu* c, u16 sel, u64* desc) noexcept nogil:
    """The descriptor a PV guest's selector names; ST_FAULT (no exception set) beyond its table.  It has passed check_descriptor()."""
    cdef u32 index = sel >> 3
    cdef u64 mfn
    if sel & 4:
        return ST_OK if ldt_desc(c, index, desc) else ST_FAULT
    if index >= FIRST_RESERVED_GDT_ENTRY:
        desc[0] = 0
        if index == FLAT_RING3_CS32 >> 3:
            desc[0] = DESC_CS32
        elif index == FLAT_RING3_CS64 >> 3:
            desc[0] = DESC_CS64
        elif index == FLAT_RING3_DS32 >> 3:
            desc[0] = DESC_DATA
        return ST_OK
    mfn = c.pv.gdt_frames[index >> 9]
    # SAFETY: index >> 9 is below 14; the frames are held as seg_desc pages.
    desc[0] = 0 if mfn == NO_FRAME else (<u64*>frame_host(c.mem, mfn))[index & 511]
    return ST_OK

cdef bint ldt_desc(Cpu* c, u32 index, u64* desc) noexcept nogil:
    """From the LDT: the page must be the guest's and hold only good descriptors, as if Xen had shadowed it."""
    cdef u64 table = 0, mfn
    cdef u64* p
    cdef bint ok = False
    if index >= c.pv.ldt_ents:
        return False
    mem_lock(c.mem, c)
    p = guest_l1e(c, c.pv.ldt_base + index * 8, &table)
    if p != NULL and p[0] & PTE_P:
        mfn = (p[0] & PTE_ADDR) >> PAGE_SHIFT
        if get_page_and_type(c.mem, c, mfn, c.pv.domid, PGT_seg_desc_page) == 0:
            # SAFETY: the frame exists; the index is masked to its 512 entries.
            desc[0] = (<u64*>frame_host(c.mem, mfn))[index & 511]
            put_page_and_type(c.mem, mfn)
            ok = True
    mem_unlock(c.mem)
    return ok

cdef bint pv_load_cs(Cpu* c, u16 sel) noexcept nogil:
    """CS from a selector, for a return to the guest: code, ring 3, present (SDM Vol. 2, IRET).  0: it may not be loaded."""
    cdef u64 d = 0
    if sel & 0xFFFC == 0 or pv_read_desc(c, sel, &d) != ST_OK:
        return False
    if (d >> 43) & 3 != 3 or not d >> 47 & 1 or (d >> 53) & 3 == 3:
        return False                                  # not code, not present, or both L and D
    desc_to_seg(&c.seg[CS], sel | 3, d)
    return True

cdef bint pv_load_ss(Cpu* c, u16 sel) noexcept nogil:
    """SS: writable data, ring 3, present.  A null selector is no good in ring 3."""
    cdef u64 d = 0
    if sel & 0xFFFC == 0 or pv_read_desc(c, sel, &d) != ST_OK:
        return False
    if (d >> 43) & 3 != 2 or not (d >> 41) & 1 or not d >> 47 & 1:
        return False
    desc_to_seg(&c.seg[SS], sel | 3, d)
    return True

cdef inline void desc_to_seg(Seg* s, u16 sel, u64 d) noexcept nogil:
    s.sel = sel
    s.base = (d >> 16 & 0xFFFFFF) | (d >> 32 & <u64>0xFF000000)
    s.limit = <u32>((d & 0xFFFF) | (d >> 32 & 0xF0000))
    if d >> 55 & 1:
        s.limit = (s.limit << 12) | 0xFFF
    s.attr = <u16>(d >> 40 & 0xF0FF) | 1              # accessed
