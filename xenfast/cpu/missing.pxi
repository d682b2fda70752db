# Functions other parts of the core are about to define; each stub goes when its part lands.

cdef void rows_1byte() noexcept:
    pass

cdef void rows_0f() noexcept:
    pass

cdef int load_seg(Cpu* c, int seg, u16 sel) noexcept nogil:
    return fault(c, X_GP)

cdef int read_descriptor(Cpu* c, u16 sel, u64* desc) noexcept nogil:
    """Raw descriptor of a selector in GDT or LDT; #GP(sel) beyond the limit."""
    return fault(c, X_GP)

cdef void set_code_segment(Cpu* c, u16 sel, u64 desc) noexcept nogil:
    """Load CS from a descriptor already checked."""
    pass

cdef void set_null_ss(Cpu* c, u16 rpl) noexcept nogil:
    """SS = null selector with this RPL (IA-32e interrupt to an inner ring)."""
    pass

cdef void rows_sse4() noexcept:
    pass

# pv
cdef int pv_xen_area(Cpu* c, u64 lin, int access, u8** host) noexcept nogil:
    return page_fault(c, lin, 0)

cdef int pv_fixup_write(Cpu* c, u64 lin, int size, u64 v) noexcept nogil:
    """A write of a PV vcpu faulted (exception in Cpu.exc_*): emulate it if it is one to its own L1 page table (ptwr)."""
    return ST_FAULT

cdef bint pv_may_fixup(Cpu* c, u64 lin) noexcept nogil:
    """Would pv_fixup_write() help?  Asked by read-modify-writes before they read."""
    return False

cdef int pv_emulate(Cpu* c, Insn* o) noexcept nogil:
    return fault_err(c, X_GP, 0)

cdef int pv_deliver(Cpu* c) noexcept nogil:
    return ST_EXIT

cdef int pv_event(Cpu* c) noexcept nogil:
    return ST_OK
