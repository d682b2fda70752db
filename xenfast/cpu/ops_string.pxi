# String instructions: MOVS STOS LODS CMPS SCAS, alone and under REP, REPE, REPNE.
#
# SDM Vol. 2 (REP) and Vol. 1, 7.3.9.  Registers are up to date after every iteration, so a fault or an interrupt in
# the middle restarts the instruction where it was.  Upward MOVS and STOS on plain RAM go a page at a time: one
# translation, one memmove or memset. A long REP gives way after REP_BYTES or REP_STEPS by branching to itself; each
# time it is begun counts as an instruction.  While debug exceptions are looked for it gives way after every iteration
# (SDM Vol. 3, 17.3.1.4).

cdef enum:
    REP_BYTES = 1 << 18  # bulk: at most this much before other things get a look
    REP_STEPS = 4096     # iterations one by one

cdef inline u64 index_get(Cpu* c, Insn* o, int reg) noexcept nogil:
    if o.asize == 8:
        return c.r[reg]
    return <u32>c.r[reg] if o.asize == 4 else <u16>c.r[reg]

cdef inline void index_move(Cpu* c, Insn* o, int reg, u64 by) noexcept nogil:
    cdef u64 v = c.r[reg] + by
    if o.asize == 8:
        c.r[reg] = v
    elif o.asize == 4:
        c.r[reg] = <u32>v
    else:
        c.r[reg] = (c.r[reg] & ~<u64>0xFFFF) | <u16>v

cdef inline bint repeats(Insn* o) noexcept nogil:
    return (o.prefix & (PFX_REP | PFX_REPNE)) != 0

cdef inline u64 step_of(Cpu* c, Insn* o) noexcept nogil:
    """What SI and DI move by."""
    return <u64>-<i64>o.size if c.eflags & FL_DF else <u64>o.size

cdef inline int again(Cpu* c, Insn* o) noexcept nogil:
    """To the same instruction, through the dispatcher."""
    c.rip = c.rep_rip = insn_rip(c, o)
    return ST_BRANCH

cdef inline u64 fit(Insn* o, u64 off, u64 lin, u64 count) noexcept nogil:
    """How many elements upward from off lie in one page and below the end of the address size; 0: not even the first."""
    cdef u64 room = 4096 - (lin & 4095)
    cdef u64 wrap = <u64>1 << (8 * o.asize) if o.asize != 8 else 0
    if wrap and wrap - off < room:
        room = wrap - off
    room = room / o.size
    return room if room < count else count

cdef int string_host(Cpu* c, Insn* o, int seg, u64 off, bint write, u64* count, u8** host) noexcept nogil:
    """The host address of as many elements as fit in the page, at most count.  If not ST_OK: go element by element."""
    cdef u64 lin = 0
    if c.bp_on & BP_DATA or linear(c, seg, off, o.size, write, &lin) != ST_OK:
        return ST_FAULT
    if unlikely(c.bp_on & BP_HOOK) and hooked_page(c, lin & ~<u64>4095):
        return ST_FAULT
    count[0] = fit(o, off, lin, count[0])
    if count[0] == 0 or linear(c, seg, off, count[0] * o.size, write, &lin) != ST_OK:
        return ST_FAULT
    # SAFETY: count * size bytes from lin end in the page that translate_cached vouches for.
    return translate_cached(c, lin, ACC_WRITE if write else ACC_READ, host)

cdef inline int element_read(Cpu* c, Insn* o, int seg, u64 off, u64* v) noexcept nogil:
    cdef u64 lin = 0
    cdef int st = linear(c, seg, off, o.size, False, &lin)
    return mem_read(c, lin, o.size, v) if st == ST_OK else st

cdef inline int element_write(Cpu* c, Insn* o, u64 off, u64 v) noexcept nogil:
    cdef u64 lin = 0
    cdef int st = linear(c, ES, off, o.size, True, &lin)
    return mem_write(c, lin, o.size, v) if st == ST_OK else st

# ---- MOVS -----------------------------------------------------------------------------------------------------------
cdef void copy_up(u8* to, const u8* src, u64 n, int size) noexcept nogil:
    """n bytes upward, element by element where the order shows (the destination starts inside the source)."""
    cdef u64 i = 0
    if to <= src or to >= src + n:
        memmove(to, src, n)
        return
    while i < n:
        host_store(to + i, size, host_load(src + i, size))
        i += <u64>size

cdef int movs_bulk(Cpu* c, Insn* o, u64* n) noexcept nogil:
    """As many iterations as one page of each side allows; ST_OK and the number in n[0]."""
    cdef u8* src = NULL
    cdef u8* to = NULL
    cdef u64 k = n[0]
    cdef int st = string_host(c, o, o.seg, index_get(c, o, RSI), False, &k, &src)
    if st == ST_OK:
        st = string_host(c, o, ES, index_get(c, o, RDI), True, &k, &to)
    if st != ST_OK:
        return st
    copy_up(to, src, k * o.size, o.size)
    code_written(c, to, k * o.size)
    index_move(c, o, RSI, k * o.size)
    index_move(c, o, RDI, k * o.size)
    n[0] = k
    return ST_OK

cdef int movs_one(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 v = 0
    cdef int st = element_read(c, o, o.seg, index_get(c, o, RSI), &v)
    if st == ST_OK:
        st = element_write(c, o, index_get(c, o, RDI), v)
    if st != ST_OK:
        return st
    index_move(c, o, RSI, step_of(c, o))
    index_move(c, o, RDI, step_of(c, o))
    return ST_OK

cdef int MOVS(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 left, k
    cdef i64 room = 1 if c.stepping else REP_BYTES
    cdef int st
    if not repeats(o):
        return movs_one(c, o)
    left = count_get(c, o)
    while left != 0:
        if room <= 0 or c.code_hit:
            return again(c, o)
        k = left
        st = ST_FAULT if c.eflags & FL_DF or c.stepping else movs_bulk(c, o, &k)
        if st != ST_OK:
            k = 1
            st = movs_one(c, o)
            room -= REP_BYTES // REP_STEPS
        if st != ST_OK:
            return st
        left -= k
        count_set(c, o, left)
        room -= <i64>(k * o.size)
    return ST_OK

# ---- STOS -----------------------------------------------------------------------------------------------------------
cdef void fill_up(u8* to, u64 v, u64 n, int size) noexcept nogil:
    cdef u64 i
    if size == 1 or v == 0:
        memset(to, <u8>v, n * <u64>size)
        return
    for i in range(n):
        host_store(to + i * size, size, v)

cdef int stos_bulk(Cpu* c, Insn* o, u64* n) noexcept nogil:
    cdef u8* to = NULL
    cdef u64 k = n[0]
    cdef int st = string_host(c, o, ES, index_get(c, o, RDI), True, &k, &to)
    if st != ST_OK:
        return st
    fill_up(to, get_reg(c, o, RAX, o.size), k, o.size)
    code_written(c, to, k * o.size)
    index_move(c, o, RDI, k * o.size)
    n[0] = k
    return ST_OK

cdef int stos_one(Cpu* c, Insn* o) noexcept nogil:
    cdef int st = element_write(c, o, index_get(c, o, RDI), get_reg(c, o, RAX, o.size))
    if st == ST_OK:
        index_move(c, o, RDI, step_of(c, o))
    return st

cdef int STOS(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 left, k
    cdef i64 room = 1 if c.stepping else REP_BYTES
    cdef int st
    if not repeats(o):
        return stos_one(c, o)
    left = count_get(c, o)
    while left != 0:
        if room <= 0 or c.code_hit:
            return again(c, o)
        k = left
        st = ST_FAULT if c.eflags & FL_DF or c.stepping else stos_bulk(c, o, &k)
        if st != ST_OK:
            k = 1
            st = stos_one(c, o)
            room -= REP_BYTES // REP_STEPS
        if st != ST_OK:
            return st
        left -= k
        count_set(c, o, left)
        room -= <i64>(k * o.size)
    return ST_OK

# ---- LODS -----------------------------------------------------------------------------------------------------------
cdef int LODS(Cpu* c, Insn* o) noexcept nogil:
    cdef u64 v
    cdef u64 left = count_get(c, o) if repeats(o) else 1
    cdef int st, steps = 0
    while left != 0:
        if steps == (1 if c.stepping else REP_STEPS):
            return again(c, o)
        st = element_read(c, o, o.seg, index_get(c, o, RSI), &v)
        if st != ST_OK:
            return st
        set_reg(c, o, RAX, o.size, v)
        index_move(c, o, RSI, step_of(c, o))
        left -= 1
        steps += 1
        if repeats(o):
            count_set(c, o, left)
    return ST_OK

# ---- CMPS and SCAS --------------------------------------------------------------------------------------------------
# The flags change when the instruction ends or gives way, not when it faults (SDM Vol. 2, REP).
cdef inline int string_pair(Cpu* c, Insn* o, bint scas, u64* a, u64* b) noexcept nogil:
    """One iteration: what is compared with what."""
    cdef u64 step = step_of(c, o)
    cdef int st = ST_OK
    if scas:
        a[0] = get_reg(c, o, RAX, o.size)
    else:
        st = element_read(c, o, o.seg, index_get(c, o, RSI), a)
    if st == ST_OK:
        st = element_read(c, o, ES, index_get(c, o, RDI), b)
    if st != ST_OK:
        return st
    if not scas:
        index_move(c, o, RSI, step)
    index_move(c, o, RDI, step)
    return ST_OK

cdef inline int string_compare(Cpu* c, Insn* o, bint scas) noexcept nogil:
    cdef u64 a, b
    cdef u64 left = count_get(c, o) if repeats(o) else 1
    cdef bint until_equal = (o.prefix & PFX_REPNE) != 0
    cdef int st, steps = 0
    if left == 0:
        return ST_OK
    while True:
        st = string_pair(c, o, scas, &a, &b)
        if st != ST_OK:
            return st
        if not repeats(o):
            break
        left -= 1
        steps += 1
        count_set(c, o, left)
        if left == 0 or (a == b) == until_equal:
            break
        if steps == (1 if c.stepping else REP_STEPS):
            flags_sub(c, o.size, a, b, a - b)
            return again(c, o)
    flags_sub(c, o.size, a, b, a - b)
    return ST_OK

cdef int CMPS(Cpu* c, Insn* o) noexcept nogil:
    return string_compare(c, o, False)

cdef int SCAS(Cpu* c, Insn* o) noexcept nogil:
    return string_compare(c, o, True)
