# Port I/O: IN OUT INS OUTS.  Every access leaves run() with EXIT_PIO; the machine around the core owns the ports.
#
# SDM Vol. 1, ch. 19 (permission), Vol. 2.  Cpu.exit says port, size, is_write, value.  For a read rip is already
# behind the instruction and the caller stores the answer with Vcpu.pio_return: into AL, AX or EAX, or, for INS
# (exit.code = 1), to linear address exit.address.  An HVM guest's REP INS and OUTS leave once for all elements within a page
# (exit.count, from exit.address on): HvmVcpu.pio_data, pio_store.

cdef enum:
    PIO_TO_REG = 0       # Cpu.exit.code of a read
    PIO_TO_MEMORY = 1

cdef int io_allowed(Cpu* c, Insn* o, u32 port, int size) noexcept nogil:
    """ST_OK when CPL <= IOPL or the TSS's permission bitmap has all bits of the ports clear (SDM Vol. 1, 19.5.2)."""
    cdef Seg* tr = &c.seg[TR]
    cdef u64 v
    cdef u32 at
    if not c.mode & MODE_PE or (c.cpl <= iopl(c) and not c.mode & MODE_VM):
        return ST_OK
    if not tr.attr & ATTR_P or tr.attr & 0xD != SYS_TSS or tr.limit < 0x67:
        return fault_err(c, X_GP, 0)
    if mem_read_sys(c, tr.base + 0x66, 2, &v) != ST_OK:
        return ST_FAULT
    at = <u32>v + (port >> 3)
    if at + 1 > tr.limit:
        return fault_err(c, X_GP, 0)
    if mem_read_sys(c, tr.base + at, 2, &v) != ST_OK:
        return ST_FAULT
    if (v >> (port & 7)) & ((1 << size) - 1):
        return fault_err(c, X_GP, 0)
    return ST_OK

cdef inline int pio_exit(Cpu* c, u32 port, int size, bint is_write, u64 value, u64 memory) noexcept nogil:
    """ST_EXIT, or ST_BRANCH when a hook has answered."""
    c.exit.reason = EXIT_PIO
    c.exit.port = port
    c.exit.size = size
    c.exit.is_write = is_write
    c.exit.value = value
    c.exit.count = 1
    c.exit.address = memory
    c.exit.code = PIO_TO_MEMORY if memory else PIO_TO_REG
    return ST_EXIT if likely(not c.hook_on & HOOK_PORT) else hook_port(c)

cdef inline int port_in(Cpu* c, Insn* o, u32 port, int size) noexcept nogil:
    cdef int st
    if c.is_pv:
        return pv_emulate(c, o)
    st = io_allowed(c, o, port, size)
    if st != ST_OK:
        return st
    io_watch(c, port, size)
    branch_next(c, o)
    return pio_exit(c, port, size, False, 0, 0)

cdef inline int port_out(Cpu* c, Insn* o, u32 port, int size) noexcept nogil:
    cdef int st
    if c.is_pv:
        return pv_emulate(c, o)
    st = io_allowed(c, o, port, size)
    if st != ST_OK:
        return st
    io_watch(c, port, size)
    branch_next(c, o)
    return pio_exit(c, port, size, True, get_reg(c, o, RAX, size), 0)

cdef int IN_A_I(Cpu* c, Insn* o) noexcept nogil:
    return port_in(c, o, <u32>(o.imm & 0xFF), o.size)

cdef int IN_A_DX(Cpu* c, Insn* o) noexcept nogil:
    return port_in(c, o, <u16>c.r[RDX], o.size)

cdef int OUT_I_A(Cpu* c, Insn* o) noexcept nogil:
    return port_out(c, o, <u32>(o.imm & 0xFF), o.size)

cdef int OUT_DX_A(Cpu* c, Insn* o) noexcept nogil:
    return port_out(c, o, <u16>c.r[RDX], o.size)

# ---- INS and OUTS: an exit for every element, or for a page of them ----------------------------------------------------
cdef inline int string_io_begin(Cpu* c, Insn* o, int size) noexcept nogil:
    return pv_emulate(c, o) if c.is_pv else io_allowed(c, o, <u16>c.r[RDX], size)

cdef u64 string_io_count(Cpu* c, Insn* o, int seg, int reg, u64 lin, bint write) noexcept nogil:
    """How many elements one exit serves, the first being at lin: those upward in its page, if that is RAM."""
    cdef u64 n
    cdef u8* host = NULL
    if c.hvm == NULL or not repeats(o) or c.stepping or c.eflags & FL_DF or c.bp_on or c.hook_on:
        return 1
    n = fit(o, index_get(c, o, reg), lin, count_get(c, o))
    if n < 2 or linear(c, seg, index_get(c, o, reg), n * o.size, write, &lin) != ST_OK:
        return 1
    return n if translate_cached(c, lin, ACC_WRITE if write else ACC_READ, &host) == ST_OK else 1

cdef inline int string_io_end(Cpu* c, Insn* o, int st, u64 n) noexcept nogil:
    """Count, and stay at the instruction while REP has more to do."""
    cdef u64 left
    branch_next(c, o)
    c.exit.count = n
    if repeats(o):
        left = count_get(c, o) - n
        count_set(c, o, left)
        if left != 0:
            c.rip = c.rep_rip = insn_rip(c, o)
    return st

cdef int INS(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 lin = 0, n
    cdef int st
    st = string_io_begin(c, o, o.size)
    if st == ST_OK and repeats(o) and count_get(c, o) == 0:
        c.rip = next_rip(c, o)
        return ST_BRANCH
    if st == ST_OK:
        st = linear(c, ES, index_get(c, o, RDI), o.size, True, &lin)
    if st == ST_OK:
        st = mem_check_write(c, lin, o.size)
    if st != ST_OK:
        return st
    n = string_io_count(c, o, ES, RDI, lin, True)
    index_move(c, o, RDI, n * step_of(c, o))
    io_watch(c, <u16>c.r[RDX], o.size)
    st = pio_exit(c, <u16>c.r[RDX], o.size, False, 0, lin)
    return string_io_end(c, o, st, n)

cdef int OUTS(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 v, lin = 0, n = 1
    cdef int st
    st = string_io_begin(c, o, o.size)
    if st == ST_OK and repeats(o) and count_get(c, o) == 0:
        c.rip = next_rip(c, o)
        return ST_BRANCH
    if st == ST_OK:
        st = element_read(c, o, o.seg, index_get(c, o, RSI), &v)
    if st != ST_OK:
        return st
    if linear(c, o.seg, index_get(c, o, RSI), o.size, False, &lin) == ST_OK:
        n = string_io_count(c, o, o.seg, RSI, lin, False)
    index_move(c, o, RSI, n * step_of(c, o))
    io_watch(c, <u16>c.r[RDX], o.size)
    st = pio_exit(c, <u16>c.r[RDX], o.size, True, v, 0)
    c.exit.address = lin
    return string_io_end(c, o, st, n)
