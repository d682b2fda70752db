# What follows from the control registers and segments: Cpu.mode, the bases address formation uses, the current TLB.
#
# SDM Vol. 3, 2.2 (modes of operation), 3.4 (segmentation).  Whoever changes CR0, EFER, EFLAGS.VM, CPL or a segment calls update_mode().

cdef inline bint is_flat(Seg* s) noexcept nogil:
    return s.base == 0 and s.limit == <u32>0xFFFFFFFF and (s.attr & 0x8E) == 0x82      # present, writable, expand-up data

cdef void update_mode(Cpu* c) noexcept nogil:
    cdef u32 mode = 0
    cdef int i
    cdef u64 base
    if not c.cr0 & 1:
        # D and B stay as protected mode left them until CS and SS are loaded anew (SDM Vol. 3, 9.9.2).
        if c.seg[CS].attr & 0x4000:
            mode |= MODE_CS32
        if c.seg[SS].attr & 0x4000:
            mode |= MODE_SS32
    else:
        mode = MODE_PE
        if c.eflags & FL_VM and not c.efer & EFER_LMA:
            mode |= MODE_VM
        elif c.efer & EFER_LMA and c.seg[CS].attr & 0x2000:
            mode |= MODE_64 | MODE_FLAT
        else:
            if c.seg[CS].attr & 0x4000:
                mode |= MODE_CS32
            if c.seg[SS].attr & 0x4000:
                mode |= MODE_SS32
            if (c.seg[CS].base == 0 and c.seg[CS].limit == <u32>0xFFFFFFFF and is_flat(&c.seg[ES]) and is_flat(&c.seg[SS])
                    and is_flat(&c.seg[DS])):
                mode |= MODE_FLAT
    for i in range(6):
        base = c.seg[i].base
        c.r[R_SEG + i] = 0 if mode & MODE_64 and i < FS else base
    c.tlb_index = (not c.pv.kernel_mode) if c.is_pv else c.cpl == 3
    if c.tlb_index:
        mode |= MODE_USER
    c.tlb = c.tlbs[c.tlb_index]
    base = 0 if mode & MODE_64 else c.seg[CS].base
    if (mode ^ c.mode) & ~<u32>(MODE_64 | MODE_USER) or base != c.jc_base or (c.seg[CS].limit != c.jc_limit and not mode & MODE_64):
        c.mode = mode
        c.jc_base = base
        c.jc_limit = c.seg[CS].limit
        jc_flush(c)
        return
    c.mode = mode
    jc_salt(c)

cdef void reset_cpu(Cpu* c) noexcept nogil:
    """State after RESET (SDM Vol. 3, table 9-1), but for CS:RIP, which the machine sets."""
    cdef int i
    memset(c.r, 0, sizeof(c.r))
    for i in range(8):
        c.seg[i].sel = 0
        c.seg[i].base = 0
        c.seg[i].limit = 0xFFFF
        c.seg[i].attr = 0x93 if i < 6 else 0x82 if i == 6 else 0x8B
    c.seg[CS].attr = 0x9B
    c.gdtr.base = c.idtr.base = 0
    c.gdtr.limit = c.idtr.limit = 0xFFFF
    c.cr0 = 0x60000010
    c.cr2 = c.cr3 = c.cr4 = c.cr8 = 0
    c.efer = 0
    c.pkru = 0
    c.va_shift = 16
    memset(c.pdpte, 0, sizeof(c.pdpte))
    mtrr_reset(c)
    c.apic_base = 0xFEE00900
    c.xcr0 = 1
    c.dr[6] = 0xFFFF0FF0
    c.dr[7] = 0x400
    c.fcw = 0x37F                 # as after FNINIT: what every system starts with
    c.fsw = 0
    c.ftw = 0
    c.mxcsr = 0x1F80
    c.eflags = 0
    set_arith(c, 0)
    c.cpl = 0
    c.timer_deadline = ~<u64>0
    c.lapic_page = ~<u64>0
    c.until = ~<u64>0
    c.mmio_n = c.mmio_next = 0
    tlb_flush(c)
    update_mode(c)
