# Functions other parts of the core are about to define; each stub goes when its part lands.

# simd
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

cdef int pv_syscall(Cpu* c, Insn* o) noexcept nogil:
    return fault(c, X_UD)

cdef int pv_sysenter(Cpu* c, Insn* o) noexcept nogil:
    return fault(c, X_UD)

cdef int pv_int(Cpu* c, Insn* o, int vector) noexcept nogil:
    return fault_err(c, X_GP, vector * 8 + 2)

cdef int pv_read_desc(Cpu* c, u16 sel, u64* desc) noexcept nogil:
    """Raw descriptor of a selector as a PV guest may use it; ST_OK, anything else when there is none."""
    return ST_FAULT
