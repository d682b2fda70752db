# Access to guest memory and to the operands of an instruction: segment:offset -> linear -> host, with every check.
#
# SDM Vol. 1, 3.7 (operand addressing), Vol. 3, 5.3 and 5.4 (limit and type checks).  Every function returns ST_OK, or
# ST_FAULT with the exception in Cpu.exc_*, or ST_EXIT for memory that is not RAM.  Nothing is written before the last byte is known to
# be writable.  A LOCKed operand across a page boundary is atomic where the two frames are neighbours, else against others of its kind only.

cdef enum:
    RMW_AGAIN = 6        # rmw_end(): a LOCKed compare-and-swap lost a race; begin again
    RMW_REG = 0
    RMW_HOST = 1
    RMW_CODE = 2         # as RMW_HOST, but the frame may hold decoded code
    RMW_TABLE = 3        # a PV guest's read-only view of its page table: pv_fixup_rmw
    RMW_SLOW = 4         # across a page boundary, or not RAM

cdef struct Rmw:         # a read-modify-write in progress
    u64 lin
    u64 old
    u8* host
    int kind

# ---- faults ---------------------------------------------------------------------------------------------------------
cdef int fault(Cpu* c, int vector) noexcept nogil:
    c.exc_vector = vector
    c.exc_has_error = 0
    c.exc_error = 0
    return ST_FAULT

cdef int fault_err(Cpu* c, int vector, u32 error) noexcept nogil:
    c.exc_vector = vector
    c.exc_has_error = 1
    c.exc_error = error
    return ST_FAULT

cdef void log_unknown(Cpu* c, u32 kind, u64 value) noexcept nogil:
    """Remember once that the guest asked for something we do not have; Python reads the list and logs it."""
    cdef u32 i
    for i in range(c.unknown_n):
        if c.unknown_kind[i] == kind and c.unknown_value[i] == value:
            return
    if c.unknown_n < 32:
        c.unknown_kind[c.unknown_n] = kind
        c.unknown_value[c.unknown_n] = value
        c.unknown_n += 1

cdef inline u64 insn_rip(Cpu* c, Insn* o) noexcept nogil:
    return c.r[R_RIPBASE] + o.off

cdef inline u64 next_rip(Cpu* c, Insn* o) noexcept nogil:
    return c.r[R_RIPBASE] + o.off + o.len

cdef inline bint canonical(u64 a) noexcept nogil:
    """In 48 bits, which is what a PV guest has; others: is_canonical (control.pxi)."""
    return <u64>(<i64>(a << 16) >> 16) == a

# ---- host memory ----------------------------------------------------------------------------------------------------
cdef inline u64 host_load(const u8* p, int size) noexcept nogil:
    if size == 8:
        return (<u64*>p)[0]
    if size == 4:
        return (<u32*>p)[0]
    if size == 1:
        return p[0]
    return (<u16*>p)[0]

cdef inline void host_store(u8* p, int size, u64 v) noexcept nogil:
    if size == 8:
        (<u64*>p)[0] = v
    elif size == 4:
        (<u32*>p)[0] = <u32>v
    elif size == 1:
        p[0] = <u8>v
    else:
        (<u16*>p)[0] = <u16>v

# ---- linear memory --------------------------------------------------------------------------------------------------
cdef inline int mem_read(Cpu* c, u64 lin, int size, u64* out) noexcept nogil:
    cdef TlbEntry* e = tlb_slot(c.tlb, lin)
    if likely((lin ^ e.rtag) <= <u64>(4096 - size)):
        # SAFETY: the tag matched, so lin .. lin + size lies in the page that e.add maps to one machine frame.
        out[0] = host_load(<u8*>(lin + <u64>e.add), size)
        return ST_OK
    return mem_read_slow(c, lin, size, out)

cdef inline int mem_write(Cpu* c, u64 lin, int size, u64 v) noexcept nogil:
    cdef TlbEntry* e = tlb_slot(c.tlb, lin)
    if likely((lin ^ e.wtag) <= <u64>(4096 - size)):
        # SAFETY: as in mem_read.
        host_store(<u8*>(lin + <u64>e.add), size, v)
        return ST_OK
    return mem_write_slow(c, lin, size, v)

cdef inline bint misaligned(Cpu* c, u64 lin, u64 n) noexcept nogil:
    """Is this access an #AC (SDM Vol. 3, 6.15, table 6-7)?  16 is BP_ALIGN."""
    if likely(not c.bp_on & 16) or not c.tlb_index:
        return False
    if n == 10 or n == 94 or n == 108:                    # x87: the extended format, FSAVE areas
        n = 8 if n == 10 else 4 if n == 108 else 2
    elif n == 14 or n == 28 or n == 6:                    # environments, far pointers
        n = 2 if n == 14 else 4
    elif n == 32:                                         # as processors do; the SDM does not say
        n = 16
    return n <= 16 and lin & (n - 1)

cdef int mem_read_slow(Cpu* c, u64 lin, int size, u64* out) noexcept nogil:
    cdef u64 v = 0
    cdef u8* host = NULL
    cdef int st
    if misaligned(c, lin, size):
        return fault_err(c, X_AC, 0)
    if (lin & 4095) + size <= 4096:
        st = translate(c, lin, ACC_READ, &host)
        if st == ST_MMIO:
            return mmio_read(c, size, out)
        if st == ST_OK and unlikely(c.bp_on & BP_LOOK):
            st = look(c, lin, size, False, host_load(host, size))
        if st == ST_OK:
            out[0] = host_load(host, size)
        return st
    st = mem_read_n(c, lin, size, &v)
    if st == ST_OK:
        out[0] = v
    return st

cdef int mem_write_slow(Cpu* c, u64 lin, int size, u64 v) noexcept nogil:
    cdef u8* host = NULL
    cdef int st
    if misaligned(c, lin, size):
        return fault_err(c, X_AC, 0)
    if (lin & 4095) + size > 4096:
        return mem_write_n(c, lin, size, &v)
    st = translate(c, lin, ACC_WRITE, &host)
    if likely(st == ST_OK):
        if unlikely(c.bp_on & BP_LOOK):
            st = look(c, lin, size, True, v)
            if st != ST_OK:
                return st
        host_store(host, size, v)
        code_written(c, host, size)
        return ST_OK
    if st == ST_MMIO:
        return mmio_write(c, size, v)
    if c.is_pv:
        return pv_fixup_write(c, lin, size, v)
    return st

cdef int mem_read_n(Cpu* c, u64 lin, u64 n, void* out) noexcept nogil:
    """Up to 4096 bytes."""
    cdef u8* h1 = NULL
    cdef u8* h2 = NULL
    cdef u64 n1 = 4096 - (lin & 4095)
    cdef int st
    if misaligned(c, lin, n):
        return fault_err(c, X_AC, 0)
    st = translate_cached(c, lin, ACC_READ, &h1)
    if st == ST_OK and n > n1:
        st = translate_cached(c, lin + n1, ACC_READ, &h2)
    if st == ST_MMIO:
        return mmio_pieces(c, lin, n, <u8*>out, ACC_READ)
    if st != ST_OK:
        return st
    if unlikely(c.bp_on & BP_LOOK):
        st = look(c, lin, n, False, first_bytes(h1, n1, h2, n))
        if st != ST_OK:
            return st
    if n <= n1:
        memcpy(out, h1, n)
    else:
        memcpy(out, h1, n1)
        memcpy(<u8*>out + n1, h2, n - n1)
    return ST_OK

cdef u64 first_bytes(const u8* h1, u64 n1, const u8* h2, u64 n) noexcept nogil:
    """At most eight of n bytes, of which n1 (or all) are at h1 and the others at h2."""
    cdef u64 v = 0, i
    for i in range(min(n, <u64>8)):
        v |= <u64>(h1[i] if i < n1 else h2[i - n1]) << (8 * i)
    return v

cdef int mem_write_n(Cpu* c, u64 lin, u64 n, const void* data) noexcept nogil:
    cdef u8* h1 = NULL
    cdef u8* h2 = NULL
    cdef u64 n1 = 4096 - (lin & 4095)
    cdef int st
    if misaligned(c, lin, n):
        return fault_err(c, X_AC, 0)
    st = translate_cached(c, lin, ACC_WRITE, &h1)
    if st == ST_OK and n > n1:
        st = translate_cached(c, lin + n1, ACC_WRITE, &h2)
    if st == ST_MMIO:
        return mmio_pieces(c, lin, n, <u8*>data, ACC_WRITE)
    if st != ST_OK:
        return st
    if unlikely(c.bp_on & BP_LOOK):
        st = look(c, lin, n, True, first_bytes(<const u8*>data, n, NULL, n))
        if st != ST_OK:
            return st
    if n <= n1:
        memcpy(h1, data, n)
        code_written(c, h1, n)
    else:
        memcpy(h1, data, n1)
        memcpy(h2, <const u8*>data + n1, n - n1)
        code_written(c, h1, n1)
        code_written(c, h2, n - n1)
    return ST_OK

cdef inline int translate_cached(Cpu* c, u64 lin, int access, u8** host) noexcept nogil:
    cdef TlbEntry* e = tlb_slot(c.tlb, lin)
    if ((lin ^ (e.wtag if access == ACC_WRITE else e.rtag)) & ~<u64>4095) == 0:
        host[0] = <u8*>(lin + <u64>e.add)
        return ST_OK
    return translate(c, lin, access, host)

cdef int mem_check_write(Cpu* c, u64 lin, u64 n) noexcept nogil:
    """Fault now if a write of n bytes would."""
    cdef u8* host = NULL
    cdef int st = translate_cached(c, lin, ACC_WRITE, &host)
    if st == ST_OK and (lin & 4095) + n > 4096:
        st = translate_cached(c, (lin | 4095) + 1, ACC_WRITE, &host)
    return ST_OK if st == ST_MMIO else st

# ---- supervisor accesses of the processor itself (descriptor tables, TSS) --------------------------------------------
cdef int mem_read_sys(Cpu* c, u64 lin, int size, u64* out) noexcept nogil:
    cdef TlbEntry* tlb = c.tlb
    cdef u8 index = c.tlb_index
    cdef int st
    c.tlb = c.tlbs[0]
    c.tlb_index = 0
    c.implicit = 1
    st = mem_read(c, lin, size, out)
    c.implicit = 0
    c.tlb = tlb
    c.tlb_index = index
    return st

cdef int mem_write_sys(Cpu* c, u64 lin, int size, u64 v) noexcept nogil:
    cdef TlbEntry* tlb = c.tlb
    cdef u8 index = c.tlb_index
    cdef int st
    c.tlb = c.tlbs[0]
    c.tlb_index = 0
    c.implicit = 1
    st = mem_write(c, lin, size, v)
    c.implicit = 0
    c.tlb = tlb
    c.tlb_index = index
    return st

# ---- what is not RAM ------------------------------------------------------------------------------------------------
cdef int mmio_read(Cpu* c, int size, u64* out) noexcept nogil:
    """Leave run() for the device model; the instruction is restarted by itself and finds the answer (Vcpu.mmio_return), and those it has
    got before, if it is one with several accesses.

    Not so for what the processor itself wants of descriptor tables, a TSS or the stack of an interrupt: such accesses cannot be
    restarted, reach no device, and read ones.
    """
    if unlikely(c.implicit or c.delivering):
        out[0] = ~<u64>0
        return ST_OK
    if c.exit.address >> 12 == c.lapic_page:
        return lapic_mmio_read(c, size, out)
    if mmio_answered(c):
        out[0] = c.mmio[c.mmio_next - 1].value
        return ST_OK
    return mmio_exit(c, size, 0, 0)

cdef int mmio_write(Cpu* c, int size, u64 v) noexcept nogil:
    if unlikely(c.implicit or c.delivering):
        return ST_OK
    if c.exit.address >> 12 == c.lapic_page:
        return lapic_mmio_write(c, size, v)
    if mmio_answered(c):
        return ST_OK
    return mmio_exit(c, size, 1, v)

cdef inline bint mmio_answered(Cpu* c) noexcept nogil:
    """Is this access one that the instruction has made before it was restarted?"""
    if c.hook_quiet:
        return False
    if c.mmio_next < c.mmio_n and c.mmio[c.mmio_next].address == c.exit.address:
        c.mmio_next += 1
        return True
    c.mmio_n = c.mmio_next
    return False

cdef int mmio_exit(Cpu* c, int size, bint is_write, u64 v) noexcept nogil:
    if c.hook_quiet:
        return ST_MMIO   # nobody restarts anything
    c.exit.reason = EXIT_MMIO
    c.exit.size = size
    c.exit.is_write = is_write
    c.exit.value = v
    return ST_MMIO       # leave() turns this into ST_EXIT with rip at the instruction

cdef int mmio_wide(Cpu* c, int st) noexcept nogil:
    """What a bus does not carry (FXSAVE to device memory, CMPXCHG16B): bus error as #GP."""
    return fault_err(c, X_GP, 0) if st == ST_MMIO else st

cdef int mmio_pieces(Cpu* c, u64 lin, u64 n, u8* data, int access) noexcept nogil:
    """An access of more than 8 bytes, or over the end of a page, that is not all RAM: one naturally aligned access after the other."""
    cdef u8* host = NULL
    cdef u64 at = 0, v, n1 = 4096 - (lin & 4095)
    cdef int k, st = ST_OK
    if n > 64:
        return fault_err(c, X_GP, 0)
    if n > n1 and translate_cached(c, lin + n1, access, &host) == ST_FAULT:
        return ST_FAULT
    while at < n and st == ST_OK:
        k = 8
        while (lin + at) & <u64>(k - 1) or at + <u64>k > n:
            k >>= 1
        v = 0
        if access == ACC_WRITE:
            memcpy(&v, data + at, k)
            st = mem_write(c, lin + at, k, v)
        else:
            st = mem_read(c, lin + at, k, &v)
            memcpy(data + at, &v, k)
        at += <u64>k
    return st

# ---- operands -------------------------------------------------------------------------------------------------------
cdef inline u64 operand_off(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 ea = c.r[o.base] + (c.r[o.index] << o.scale) + <u64>o.disp
    if o.asize == 8:
        return ea
    return <u32>ea if o.asize == 4 else <u16>ea

cdef inline int linear(Cpu* c, int seg, u64 off, u64 n, bint write, u64* lin) noexcept nogil:
    """Linear address of n bytes at seg:off, after the checks of the mode."""
    if c.mode & MODE_64:
        lin[0] = off + c.r[R_SEG + seg]
        if unlikely(not is_canonical(c, lin[0]) or not is_canonical(c, lin[0] + n - 1)):
            return fault_err(c, X_SS if seg == SS else X_GP, 0)
        return ST_OK
    if unlikely(not (c.mode & MODE_FLAT) or seg >= FS or seg == CS):
        if seg_check(c, seg, off, n, write) != ST_OK:
            return ST_FAULT
    lin[0] = <u32>(off + c.r[R_SEG + seg])
    return ST_OK

cdef int seg_check(Cpu* c, int seg, u64 off, u64 n, bint write) noexcept nogil:
    """Limit and type checks of legacy and compatibility mode (SDM Vol. 3, 5.3 and 5.5)."""
    cdef Seg* s = &c.seg[seg]
    cdef u64 last = off + n - 1
    cdef bint ok = True
    if not c.mode & MODE_PE or c.mode & MODE_VM:
        pass                                              # no types there: CS can be written
    elif not s.attr & 0x80:
        ok = False                                        # null or not present
    elif s.attr & 8:
        ok = not write and s.attr & 2                     # code: readable, never writable
    elif write and not s.attr & 2:
        ok = False
    if ok:
        if (s.attr & 0x8C) == 0x84:                       # expand-down data
            ok = off > s.limit and last <= (<u64>0xFFFFFFFF if s.attr & 0x4000 else <u64>0xFFFF)
        else:
            ok = last <= s.limit
    if ok:
        return ST_OK
    return fault_err(c, X_SS if seg == SS else X_GP, 0)

cdef inline int operand_lin(Cpu* c, Insn* o, u64 n, u64* lin) noexcept nogil:
    return linear(c, o.seg, operand_off(c, o), n, False, lin)

cdef inline int operand_lin_w(Cpu* c, Insn* o, u64 n, u64* lin) noexcept nogil:
    return linear(c, o.seg, operand_off(c, o), n, True, lin)

cdef inline u64 get_reg(Cpu* c, Insn* o, int n, int size) noexcept nogil:
    if size == 8:
        return c.r[n]
    if size == 4:
        return <u32>c.r[n]
    if size == 2:
        return <u16>c.r[n]
    if n >= 4 and n < 8 and not o.prefix & PFX_REX:
        return (c.r[n - 4] >> 8) & 0xFF                   # AH CH DH BH
    return c.r[n] & 0xFF

cdef inline void set_reg(Cpu* c, Insn* o, int n, int size, u64 v) noexcept nogil:
    if size == 8:
        c.r[n] = v
    elif size == 4:
        c.r[n] = <u32>v
    elif size == 2:
        c.r[n] = (c.r[n] & ~<u64>0xFFFF) | <u16>v
    elif n >= 4 and n < 8 and not o.prefix & PFX_REX:
        c.r[n - 4] = (c.r[n - 4] & ~<u64>0xFF00) | (<u64><u8>v << 8)
    else:
        c.r[n] = (c.r[n] & ~<u64>0xFF) | <u8>v

cdef inline int read_rm(Cpu* c, Insn* o, u64* v) noexcept nogil:
    return read_rm_n(c, o, o.size, v)

cdef inline int write_rm(Cpu* c, Insn* o, u64 v) noexcept nogil:
    return write_rm_n(c, o, o.size, v)

cdef inline int read_rm_n(Cpu* c, Insn* o, int size, u64* v) noexcept nogil:
    cdef u64 lin = 0
    if not o.is_mem:
        v[0] = get_reg(c, o, o.rm, size)
        return ST_OK
    if operand_lin(c, o, size, &lin) != ST_OK:
        return ST_FAULT
    return mem_read(c, lin, size, v)

cdef inline int write_rm_n(Cpu* c, Insn* o, int size, u64 v) noexcept nogil:
    cdef u64 lin = 0
    if not o.is_mem:
        set_reg(c, o, o.rm, size, v)
        return ST_OK
    if operand_lin_w(c, o, size, &lin) != ST_OK:
        return ST_FAULT
    return mem_write(c, lin, size, v)

cdef int rmw_begin(Cpu* c, Insn* o, Rmw* m, u64* old) noexcept nogil:
    cdef int st
    if not o.is_mem:
        m.kind = RMW_REG
        old[0] = get_reg(c, o, o.rm, o.size)
        return ST_OK
    st = operand_lin_w(c, o, o.size, &m.lin)
    if st != ST_OK:
        return st
    return rmw_begin_lin(c, m.lin, o.size, m, old)

cdef int rmw_begin_lin(Cpu* c, u64 lin, int size, Rmw* m, u64* old) noexcept nogil:
    """As rmw_begin, for an address already worked out."""
    cdef TlbEntry* e = tlb_slot(c.tlb, lin)
    cdef int st
    m.lin = lin
    if likely((lin ^ e.wtag) <= <u64>(4096 - size)):
        m.kind = RMW_HOST
        # SAFETY: the write tag matched for size bytes.
        m.host = <u8*>(lin + <u64>e.add)
        old[0] = m.old = host_load(m.host, size)
        return ST_OK
    m.kind = RMW_SLOW
    if misaligned(c, lin, size):
        return fault_err(c, X_AC, 0)
    if (lin & 4095) + size <= 4096:
        st = translate(c, lin, ACC_WRITE, &m.host)
        if likely(st == ST_OK):
            m.kind = RMW_CODE
            old[0] = m.old = host_load(m.host, size)
            if unlikely(c.bp_on & BP_LOOK):
                return look(c, lin, size, False, m.old)
            return ST_OK
        if st == ST_FAULT and c.is_pv and pv_may_fixup(c, lin):
            m.kind = RMW_TABLE
            st = ST_OK
    else:
        st = mem_check_write(c, lin, size)
    if st == ST_FAULT:
        return st
    st = mem_read(c, lin, size, old)
    m.old = old[0]
    return st

cdef int rmw_end(Cpu* c, Insn* o, Rmw* m, u64 v) noexcept nogil:
    if m.kind == RMW_REG:
        set_reg(c, o, o.rm, o.size, v)
        return ST_OK
    return rmw_end_mem(c, m, o.size, o.prefix & PFX_LOCK, v)

cdef int rmw_end_mem(Cpu* c, Rmw* m, int size, bint lock, u64 v) noexcept nogil:
    """The memory half of rmw_end, for operands of another size."""
    cdef int st
    if m.kind == RMW_SLOW:
        return rmw_end_split(c, m, size, v) if lock else mem_write(c, m.lin, size, v)
    if m.kind == RMW_TABLE:
        return pv_fixup_rmw(c, m.lin, size, m.old, v)
    if unlikely(c.bp_on & BP_LOOK) and m.kind == RMW_CODE:
        st = look(c, m.lin, size, True, v)
        if st != ST_OK:
            return st
    if lock:
        if not host_cas(m.host, size, m.old, v):
            return RMW_AGAIN
    else:
        host_store(m.host, size, v)
    if m.kind == RMW_CODE:
        code_written(c, m.host, size)
    return ST_OK

cdef int rmw_end_split(Cpu* c, Rmw* m, int size, u64 v) noexcept nogil:
    """LOCKed, across a page boundary: one compare-and-swap of the host where the frames are neighbours, else under a lock of its own."""
    cdef u8* h1 = NULL
    cdef u8* h2 = NULL
    cdef u64 n1 = 4096 - (m.lin & 4095), now = 0
    cdef bint ok
    cdef int st
    if (n1 >= <u64>size or translate_cached(c, m.lin, ACC_WRITE, &h1) != ST_OK
            or translate_cached(c, m.lin + n1, ACC_WRITE, &h2) != ST_OK):
        return mem_write(c, m.lin, size, v)               # not RAM
    if unlikely(c.bp_on & BP_LOOK):
        st = look(c, m.lin, size, True, v)
        if st != ST_OK:
            return st
    if h2 == h1 + n1:
        ok = host_cas(h1, size, m.old, v)
    else:
        # SAFETY: n1 < size <= 8, so the two parts lie in the two pages.
        spin_lock(&c.mem.split_lock)
        memcpy(&now, h1, n1)
        memcpy(<u8*>&now + n1, h2, size - n1)
        ok = now == m.old
        if ok:
            memcpy(h1, &v, n1)
            memcpy(h2, <u8*>&v + n1, size - n1)
        spin_unlock(&c.mem.split_lock)
    if not ok:
        return RMW_AGAIN
    code_written(c, h1, n1)
    code_written(c, h2, size - n1)
    return ST_OK

cdef bint host_cas(u8* p, int size, u64 old, u64 new) noexcept nogil:
    if size == 8:
        return cas64(p, old, new)
    if size == 4:
        return cas32(p, old, new)
    if size == 2:
        return cas16(p, old, new)
    return cas8(p, old, new)

cdef inline int branch_to(Cpu* c, Insn* o, u64 target) noexcept nogil:
    """Near branch: truncate to the operand size, check, set rip (SDM Vol. 2, JMP)."""
    if c.mode & MODE_64:
        if unlikely(not is_canonical(c, target)):
            return fault_err(c, X_GP, 0)
    else:
        target = <u16>target if o.size == 2 else <u32>target
        if unlikely(target > c.seg[CS].limit):
            return fault_err(c, X_GP, 0)
    c.rip = target
    return ST_BRANCH
