# Segment registers: descriptors, loading with every check, what LAR LSL VERR VERW find out.
#
# SDM Vol. 3, ch. 3.4 and 5 (protected mode), 5.2.1 (64-bit mode); Vol. 2, MOV.  A PV guest's descriptors come from
# the GDT frames and LDT that Xen has validated (pv_read_desc); there the accessed bit stays as it is.  A null
# selector in FS or GS clears the base, as on Intel.

cdef enum:               # Seg.attr, and bits 47:40 and 55:52 of a descriptor
    ATTR_A = 1
    ATTR_RW = 2          # data: writable, code: readable
    ATTR_CE = 4          # data: expand-down, code: conforming
    ATTR_CODE = 8
    ATTR_S = 0x10        # code or data, not system
    ATTR_P = 0x80
    ATTR_L = 1 << 13
    ATTR_DB = 1 << 14
    ATTR_G = 1 << 15

cdef enum:               # system descriptor types (SDM Vol. 3, table 3-2)
    SYS_TSS16 = 1
    SYS_LDT = 2
    SYS_TSS16_BUSY = 3
    SYS_CALL16 = 4
    SYS_TASK_GATE = 5
    SYS_TSS = 9
    SYS_TSS_BUSY = 11
    SYS_CALL = 12

cdef enum:
    LDTR = 6             # Cpu.seg
    TR = 7

cdef inline u16 desc_attr(u64 desc) noexcept nogil:
    return <u16>(desc >> 40) & 0xF0FF

cdef inline int desc_dpl(u64 desc) noexcept nogil:
    return (desc >> 45) & 3

cdef inline u64 desc_base(u64 desc) noexcept nogil:
    return ((desc >> 16) & 0xFFFFFF) | ((desc >> 32) & <u64>0xFF000000)

cdef inline u32 desc_limit(u64 desc) noexcept nogil:
    cdef u32 limit = <u32>(desc & 0xFFFF) | <u32>((desc >> 32) & 0xF0000)
    return (limit << 12) | 0xFFF if desc_attr(desc) & ATTR_G else limit

cdef inline bint is_code(u64 desc) noexcept nogil:
    return desc_attr(desc) & (ATTR_S | ATTR_CODE) == ATTR_S | ATTR_CODE

cdef inline bint is_conforming(u64 desc) noexcept nogil:
    return desc_attr(desc) & (ATTR_S | ATTR_CODE | ATTR_CE) == ATTR_S | ATTR_CODE | ATTR_CE

cdef inline bint is_writable_data(u64 desc) noexcept nogil:
    return desc_attr(desc) & (ATTR_S | ATTR_CODE | ATTR_RW) == ATTR_S | ATTR_RW

cdef inline bint in_long_mode(Cpu* c) noexcept nogil:
    return (c.efer & EFER_LMA) != 0

# ---- descriptor tables ----------------------------------------------------------------------------------------------
cdef bint desc_address(Cpu* c, u16 sel, u64* lin) noexcept nogil:
    """Where the 8 bytes of a descriptor are; False beyond the table's limit or without an LDT."""
    cdef u32 at = sel & 0xFFF8
    if sel & 4:
        lin[0] = c.seg[LDTR].base + at
        return c.seg[LDTR].attr & ATTR_P and at + 7 <= c.seg[LDTR].limit
    lin[0] = c.gdtr.base + at
    return at + 7 <= c.gdtr.limit

cdef int read_descriptor(Cpu* c, u16 sel, u64* desc) noexcept nogil:
    """#GP(sel) when there is none."""
    cdef u64 lin
    if c.is_pv:
        return ST_OK if pv_read_desc(c, sel, desc) == ST_OK else fault_err(c, X_GP, sel & 0xFFFC)
    if not desc_address(c, sel, &lin):
        return fault_err(c, X_GP, sel & 0xFFFC)
    return mem_read_sys(c, lin, 8, desc)

cdef int mark_descriptor(Cpu* c, u16 sel, u64 desc, u8 bits) noexcept nogil:
    """Set bits of the type byte in memory: accessed (1), busy (2)."""
    cdef u64 lin
    if c.is_pv or (desc >> 40) & bits == bits or not desc_address(c, sel, &lin):
        return ST_OK
    return mem_write_sys(c, lin + 5, 1, ((desc >> 40) & 0xFF) | bits)

cdef inline void fill_seg(Seg* s, u16 sel, u64 desc) noexcept nogil:
    s.sel = sel
    s.base = desc_base(desc)
    s.limit = desc_limit(desc)
    s.attr = desc_attr(desc) | (ATTR_A if desc_attr(desc) & ATTR_S else 0)

cdef inline void fill_null(Seg* s, u16 sel) noexcept nogil:
    s.sel = sel
    s.base = 0
    s.limit = 0
    s.attr = 0

cdef void set_code_segment(Cpu* c, u16 sel, u64 desc) noexcept nogil:
    """CS after all checks; the caller runs update_mode."""
    fill_seg(&c.seg[CS], sel, desc)

cdef void set_null_ss(Cpu* c, int cpl) noexcept nogil:
    """SS after a switch to an inner ring in IA-32e mode (SDM Vol. 3, 6.14.2)."""
    fill_null(&c.seg[SS], cpl)
    c.seg[SS].attr = cpl << 5

# ---- loading --------------------------------------------------------------------------------------------------------
cdef int load_seg(Cpu* c, int seg, u16 sel) noexcept nogil:
    """ES SS DS FS GS, as MOV, POP and LxS do it (CS is loaded by far transfers only)."""
    cdef u64 desc
    cdef int st
    if not c.mode & MODE_PE or c.mode & MODE_VM:
        load_seg_real(c, seg, sel)
        return ST_OK
    if sel & 0xFFFC == 0:
        if seg == SS:
            if not c.mode & MODE_64 or c.cpl == 3 or sel & 3 != c.cpl:
                return fault_err(c, X_GP, 0)
            set_null_ss(c, c.cpl)
            c.seg[SS].sel = sel
        else:
            fill_null(&c.seg[seg], sel)
        seg_changed(c, seg)
        return ST_OK
    st = read_descriptor(c, sel, &desc)
    if st == ST_OK:
        st = check_stack_desc(c, sel, desc, c.cpl) if seg == SS else check_data_desc(c, sel, desc)
    if st == ST_OK:
        st = mark_descriptor(c, sel, desc, ATTR_A)
    if st != ST_OK:
        return st
    fill_seg(&c.seg[seg], sel, desc)
    seg_changed(c, seg)
    return ST_OK

cdef inline void seg_changed(Cpu* c, int seg) noexcept nogil:
    """In 64-bit mode decoding depends on none of ES SS DS FS GS, and only FS and GS have a base."""
    if c.mode & MODE_64:
        if seg >= FS:
            c.r[R_SEG + seg] = c.seg[seg].base
    else:
        update_mode(c)

cdef void load_seg_real(Cpu* c, int seg, u16 sel) noexcept nogil:
    """Real mode keeps limit and attributes ("unreal mode"); virtual-8086 mode has 64 KiB of ring 3 data."""
    c.seg[seg].sel = sel
    c.seg[seg].base = <u64>sel << 4
    if c.mode & MODE_VM:
        c.seg[seg].limit = 0xFFFF
        c.seg[seg].attr = 0xF3
    elif not c.seg[seg].attr & ATTR_P:
        c.seg[seg].limit = 0xFFFF
        c.seg[seg].attr = 0x93
    update_mode(c)

cdef int check_stack_desc(Cpu* c, u16 sel, u64 desc, int cpl) noexcept nogil:
    if sel & 3 != cpl or not is_writable_data(desc) or desc_dpl(desc) != cpl:
        return fault_err(c, X_GP, sel & 0xFFFC)
    if not desc_attr(desc) & ATTR_P:
        return fault_err(c, X_SS, sel & 0xFFFC)
    return ST_OK

cdef int check_data_desc(Cpu* c, u16 sel, u64 desc) noexcept nogil:
    cdef u16 attr = desc_attr(desc)
    if not attr & ATTR_S or attr & (ATTR_CODE | ATTR_RW) == ATTR_CODE:
        return fault_err(c, X_GP, sel & 0xFFFC)         # system, or code that cannot be read
    if not is_conforming(desc) and (sel & 3 > desc_dpl(desc) or c.cpl > desc_dpl(desc)):
        return fault_err(c, X_GP, sel & 0xFFFC)
    if not attr & ATTR_P:
        return fault_err(c, X_NP, sel & 0xFFFC)
    return ST_OK

cdef void drop_inner_segs(Cpu* c) noexcept nogil:
    """On a return to an outer ring, data segments that it may not use become null (SDM Vol. 3, 5.8.6)."""
    cdef Seg* s
    cdef int k
    for k in range(GS + 1):
        if k == CS or k == SS:
            continue
        s = &c.seg[k]
        if s.attr & (ATTR_CODE | ATTR_CE) == ATTR_CODE | ATTR_CE or not s.attr & ATTR_P:
            continue
        if (s.attr >> 5) & 3 < c.cpl:
            fill_null(s, 0)

# ---- LDTR and TR ----------------------------------------------------------------------------------------------------
cdef int read_system_desc(Cpu* c, u16 sel, u64* desc, u64* high) noexcept nogil:
    """An LDT or TSS descriptor: in the GDT, 16 bytes long in IA-32e mode."""
    cdef u64 lin
    cdef int st
    high[0] = 0
    if sel & 4 or not desc_address(c, sel, &lin) or (in_long_mode(c) and <u32>(sel & 0xFFF8) + 15 > c.gdtr.limit):
        return fault_err(c, X_GP, sel & 0xFFFC)
    st = mem_read_sys(c, lin, 8, desc)
    if st == ST_OK and in_long_mode(c):
        st = mem_read_sys(c, lin + 8, 8, high)
    return st

cdef int load_ldtr(Cpu* c, u16 sel) noexcept nogil:
    cdef u64 desc, high
    cdef int st
    if sel & 0xFFFC == 0:
        fill_null(&c.seg[LDTR], sel)
        return ST_OK
    st = read_system_desc(c, sel, &desc, &high)
    if st != ST_OK:
        return st
    if desc_attr(desc) & 0x1F != SYS_LDT:
        return fault_err(c, X_GP, sel & 0xFFFC)
    if not desc_attr(desc) & ATTR_P:
        return fault_err(c, X_NP, sel & 0xFFFC)
    fill_seg(&c.seg[LDTR], sel, desc)
    c.seg[LDTR].base |= high << 32
    return ST_OK

cdef int load_tr(Cpu* c, u16 sel) noexcept nogil:
    """Marks the TSS busy."""
    cdef u64 desc, high
    cdef u16 kind
    cdef int st
    if sel & 0xFFFC == 0:
        return fault_err(c, X_GP, 0)
    st = read_system_desc(c, sel, &desc, &high)
    if st != ST_OK:
        return st
    kind = desc_attr(desc) & 0x1F
    if kind != SYS_TSS and (kind != SYS_TSS16 or in_long_mode(c)):
        return fault_err(c, X_GP, sel & 0xFFFC)
    if not desc_attr(desc) & ATTR_P:
        return fault_err(c, X_NP, sel & 0xFFFC)
    st = mark_descriptor(c, sel, desc, 2)
    if st != ST_OK:
        return st
    fill_seg(&c.seg[TR], sel, desc | (<u64>2 << 40))
    c.seg[TR].base |= high << 32
    return ST_OK

# ---- LAR LSL VERR VERW ----------------------------------------------------------------------------------------------
cdef enum:               # bit per system type: what LAR and LSL accept (SDM Vol. 2, tables 3-53 and 3-65)
    LAR_LEGACY = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 9 | 1 << 11 | 1 << 12
    LAR_LONG = 1 << 2 | 1 << 9 | 1 << 11 | 1 << 12
    LSL_LEGACY = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 9 | 1 << 11
    LSL_LONG = 1 << 2 | 1 << 9 | 1 << 11

cdef int probe_descriptor(Cpu* c, u16 sel, u64* desc, bint* found) noexcept nogil:
    """Read a descriptor without a fault for one that is not there; page faults stay faults."""
    cdef u64 lin
    found[0] = False
    if sel & 0xFFFC == 0:
        return ST_OK
    if c.is_pv:
        found[0] = pv_read_desc(c, sel, desc) == ST_OK
        return ST_OK
    if not desc_address(c, sel, &lin):
        return ST_OK
    found[0] = True
    return mem_read_sys(c, lin, 8, desc)

cdef bint desc_visible(Cpu* c, u16 sel, u64 desc, u32 legacy, u32 long_) noexcept nogil:
    """May this privilege level learn about the descriptor?"""
    cdef u32 allowed = long_ if in_long_mode(c) else legacy
    if not desc_attr(desc) & ATTR_S and not (allowed >> (desc_attr(desc) & 15)) & 1:
        return False
    return is_conforming(desc) or (c.cpl <= desc_dpl(desc) and sel & 3 <= desc_dpl(desc))

cdef int LAR_G_E(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 sel, desc
    cdef bint ok
    cdef int st = read_rm_n(c, o, 2, &sel)
    if not c.mode & MODE_PE or c.mode & MODE_VM:
        return fault(c, X_UD)
    if st == ST_OK:
        st = probe_descriptor(c, <u16>sel, &desc, &ok)
    if st != ST_OK:
        return st
    ok = ok and desc_visible(c, <u16>sel, desc, LAR_LEGACY, LAR_LONG)
    if ok:
        set_reg(c, o, o.reg, o.size, (desc >> 32) & 0x00F0FF00)
    set_zf(c, ok)
    return ST_OK

cdef int LSL_G_E(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 sel, desc
    cdef bint ok
    cdef int st = read_rm_n(c, o, 2, &sel)
    if not c.mode & MODE_PE or c.mode & MODE_VM:
        return fault(c, X_UD)
    if st == ST_OK:
        st = probe_descriptor(c, <u16>sel, &desc, &ok)
    if st != ST_OK:
        return st
    ok = ok and desc_visible(c, <u16>sel, desc, LSL_LEGACY, LSL_LONG)
    if ok:
        set_reg(c, o, o.reg, o.size, desc_limit(desc))
    set_zf(c, ok)
    return ST_OK

cdef int verify(Cpu* c, Insn* o, bint write) noexcept nogil:
    cdef u64 sel, desc
    cdef u16 attr
    cdef bint ok
    cdef int st = read_rm_n(c, o, 2, &sel)
    if not c.mode & MODE_PE or c.mode & MODE_VM:
        return fault(c, X_UD)
    if st == ST_OK:
        st = probe_descriptor(c, <u16>sel, &desc, &ok)
    if st != ST_OK:
        return st
    if ok:
        attr = desc_attr(desc)
        ok = attr & ATTR_S and desc_visible(c, <u16>sel, desc, 0, 0)
        if write:
            ok = ok and attr & (ATTR_CODE | ATTR_RW) == ATTR_RW
        else:
            ok = ok and attr & (ATTR_CODE | ATTR_RW) != ATTR_CODE
    set_zf(c, ok)
    return ST_OK

cdef int VERR_E(Cpu* c, Insn* o) noexcept nogil:
    return verify(c, o, False)

cdef int VERW_E(Cpu* c, Insn* o) noexcept nogil:
    return verify(c, o, True)

cdef int ARPL_E_G(Cpu* c, Insn* o) noexcept nogil:
    """Raise the RPL of E to that of G (SDM Vol. 2)."""
    cdef Rmw m
    cdef u64 v
    cdef u64 rpl = c.r[o.reg] & 3
    cdef int st
    if not c.mode & MODE_PE or c.mode & MODE_VM:
        return fault(c, X_UD)
    st = rmw_begin(c, o, &m, &v)
    if st != ST_OK:
        return st
    if v & 3 < rpl:
        st = rmw_end(c, o, &m, (v & ~<u64>3) | rpl)
        if st != ST_OK:
            return st
        set_zf(c, True)
    else:
        set_zf(c, False)
    return ST_OK
