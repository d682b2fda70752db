# Hooks: a tool is told of blocks, instructions, accesses, interrupts, ports and hypercalls, with filters, counters and coverage maps
# that work here, without Python.
#
# Code hooks are planted where a block is decoded: a pseudo instruction (row ROW_HOOK) in front of the instruction concerned, of length 0
# and with Insn.pos of the instruction before it, so that it is not counted and does not move RIP.  Without hooks nothing is planted and
# nothing is looked at.  Its exec function returns ST_OK, or ST_EXIT when Python is to be called; a translator calls it as any other, or
# does what HOOK_COUNT, HOOK_BYTE or HOOK_EDGE say in line (they need Cpu.hook_skip to be 0, else call them).
#
# A basic block begins where control is transferred to, and behind a conditional branch that is not taken.  Decoded blocks begin in other
# places too (a block that is full, an exit in the middle): HOOK_ON, and hook_left() when a block is left, note in Cpu.hook_skip that
# the code at Cpu.hook_at is just gone on with.
#
# Memory hooks keep the pages they concern out of the TLB (debug.pxi does the same): other pages are as fast as ever.  A hook is called
# before the access: the instruction is left as for device memory, and restarted; Cpu.seen has what it has been told of already.

cdef enum:
    HOOK_FRESH = 1       # make_block(): a basic block begins; what is above it is the length of the jump that led here
    COND_VALUE = 32      # HookCondition.what; below: a register
    COND_SIZE = 33
    COND_ADDRESS = 34
    TEST_EQ = 0          # HookCondition.test, unsigned
    TEST_NE = 1
    TEST_LT = 2
    TEST_LE = 3
    TEST_GT = 4
    TEST_GE = 5

# ---- matching -------------------------------------------------------------------------------------------------------
cdef bint condition_holds(Cpu* c, HookCondition* q, u64 address, u64 size, u64 value) noexcept nogil:
    cdef u64 v
    if q.what == COND_VALUE:
        v = value
    elif q.what == COND_SIZE:
        v = size
    elif q.what == COND_ADDRESS:
        v = address
    else:
        v = c.r[q.what & 15]
    v &= q.mask
    if q.test == TEST_EQ:
        return v == q.value
    if q.test == TEST_NE:
        return v != q.value
    if q.test == TEST_LT:
        return v < q.value
    if q.test == TEST_LE:
        return v <= q.value
    if q.test == TEST_GT:
        return v > q.value
    return v >= q.value

cdef inline bint rule_covers(HookRule* h, u32 kinds, u64 first, u64 last, u32 row) noexcept nogil:
    return (h.kind & kinds and h.first <= last and first <= h.last
            and (h.rows == NULL or (h.rows[row >> 6] >> (row & 63)) & 1))

cdef inline u64 place_number(u64 address) noexcept nogil:
    """The number of a place in coverage maps."""
    return <u32>((address * <u64>0x9E3779B97F4A7C15) >> 20)

cdef inline void cover_byte(u8* p) noexcept nogil:
    """One more, never back to 0."""
    p[0] = p[0] + 1 if p[0] != 255 else 1

cdef void cover(HookRule* h, u64 address) noexcept nogil:
    # SAFETY: the index is masked to the map's size, or compared with it.
    if h.cover == COVER_EDGE:
        cover_byte(h.map + ((place_number(address) ^ h.prev) & h.map_mask))
        h.prev = place_number(address) >> 1
    elif h.cover == COVER_HASH:
        cover_byte(h.map + (place_number(address) & h.map_mask))
    elif address >= h.first and address - h.first < h.map_mask:
        cover_byte(h.map + (address - h.first))

cdef bint rule_met(Cpu* c, HookRule* h, u64 address, u64 size, u64 value) noexcept nogil:
    """Count the event for a rule that covers it; is Python to be called?"""
    cdef int i
    for i in range(h.n_cond):
        if not condition_holds(c, &h.cond[i], address, size, value):
            return False
    h.hits += 1
    if h.cover:
        cover(h, address)
    return h.call and h.hits >= h.after and (h.every <= 1 or (h.hits - h.after) % h.every == 0)

cdef u32 hooks_met(Cpu* c, u32 kinds, u64 address, u64 size, u64 value, u32 row) noexcept nogil:
    """Count an event for every rule; how many are to be called is returned, and which are in Cpu.hook_hit."""
    cdef HookRule* h = c.hooks
    c.hook_n = 0
    c.hook_kind = kinds
    while h != NULL:
        if rule_covers(h, kinds, address, address + size - 1 if kinds & HOOK_MEMORY else address, row):
            if rule_met(c, h, address, size, value) and c.hook_n < HOOK_HITS:
                c.hook_hit[c.hook_n] = h.id
                c.hook_n += 1
        h = h.next
    return c.hook_n

cdef int hook_exit(Cpu* c, u64 address, u64 size, bint is_write, u64 value) noexcept nogil:
    c.exit.reason = EXIT_HOOK
    c.exit.address = address
    c.exit.size = <u32>size
    c.exit.is_write = is_write
    c.exit.value = value
    return ST_EXIT

# ---- code: planting -------------------------------------------------------------------------------------------------
cdef bint is_transfer(Insn* o) noexcept nogil:
    """Does a basic block begin behind o, or where it goes?"""
    return (rows[o.op].attrs & A_JCC or o.ex == CALL_J or o.ex == JMP_J or o.ex == CALL_E or o.ex == JMP_E or o.ex == RET or o.ex == RET_Iw
            or o.ex == LOOP_J or o.ex == LOOPE_J or o.ex == LOOPNE_J or o.ex == JCXZ_J)

cdef bint flags_seen_at(Cpu* c, u64 at) noexcept nogil:
    """May a tool look at the flags in front of the instruction here?"""
    cdef HookRule* h = c.hooks
    while h != NULL:
        if h.kind & HOOK_ALL_CODE and h.first <= at and at <= h.last and (h.call or h.kind == HOOK_STOP):
            return True
        h = h.next
    return False

cdef void pseudo(Insn* p, i64 off, int pos, exec_t ex) noexcept nogil:
    memset(p, 0, sizeof(Insn))
    p.op = ROW_HOOK
    p.ex = ex
    p.off = <i16>off
    p.pos = <u16>pos
    p.size = 8
    p.base = p.index = R_ZERO
    p.seg = DS
    p.next_in = NO_INSN

cdef bint plant(Cpu* c, Block* b, Insn* o, int pos, int fresh) noexcept nogil:
    """If a rule covers the instruction just decoded at o, move it on by one and put the pseudo instruction in front of it."""
    cdef u64 at = b.rip + <u64><i64>o.off
    cdef u32 kinds = HOOK_CODE | HOOK_STOP | (HOOK_BLOCK if fresh else 0)
    cdef HookRule* h = c.hooks
    cdef HookRule* found = NULL
    cdef int n = 0
    cdef u16 row = o.op
    cdef u8 length = o.len
    if not b.mode & MODE_64:
        at = <u32>at
    while h != NULL:
        if rule_covers(h, kinds, at, at, row):
            found = h
            n += 1
        h = h.next
    if n == 0:
        return False
    memcpy(o + 1, o, sizeof(Insn))
    pseudo(o, o.off, pos, HOOK_SITE)
    o.imm = row
    o.rm = length
    o.index = R_ZERO
    o.reg = <u8>kinds
    o.vvvv = <u8>(fresh - HOOK_FRESH) if fresh else 0
    if n == 1:
        simple_site(o, found, at)
    return True

cdef void simple_site(Insn* o, HookRule* h, u64 at) noexcept nogil:
    """A site with one rule that only counts or covers does so in a few host instructions.  o.cc: the SKIP_* bits that silence it."""
    if h.kind == HOOK_STOP or h.call or h.n_cond:
        return
    o.cc = SKIP_ALL if h.kind == HOOK_CODE else SKIP_ALL | SKIP_BLOCK
    if h.cover == COVER_NONE:
        o.ex = HOOK_COUNT
        o.disp = <i64>&h.hits
    elif h.cover == COVER_EDGE and h.map_mask >> 31 == 0:
        o.ex = HOOK_EDGE
        o.disp = <i64>h
        o.imm = <i64>place_number(at)
    elif h.cover == COVER_HASH or at - h.first < h.map_mask:
        o.ex = HOOK_BYTE
        o.disp = <i64>(h.map + (place_number(at) & h.map_mask if h.cover == COVER_HASH else at - h.first))
        o.imm = <i64>&h.hits

cdef void plant_on(Insn* p, i64 off, int pos) noexcept nogil:
    """The block ends without a transfer: what follows it is no new basic block."""
    pseudo(p, off, pos, HOOK_ON)

# ---- code: running --------------------------------------------------------------------------------------------------
cdef u32 skipped(Cpu* c, u64 lin) noexcept nogil:
    """The SKIP_* bits for the code here; they are good for once."""
    cdef u32 skip = c.hook_skip
    c.hook_skip = 0
    return skip if c.hook_at == lin else 0

cdef int HOOK_ON(Cpu* c, Insn* o) noexcept nogil:
    c.hook_skip, c.hook_at = SKIP_BLOCK, code_lin(c, insn_rip(c, o))
    return ST_OK

cdef int HOOK_COUNT(Cpu* c, Insn* o) noexcept nogil:
    """*disp += 1."""
    if likely(c.hook_skip == 0) or not skipped(c, code_lin(c, insn_rip(c, o))) & o.cc:
        (<u64*>o.disp)[0] += 1
    return ST_OK

cdef int HOOK_BYTE(Cpu* c, Insn* o) noexcept nogil:
    """The byte at disp, and the counter at imm."""
    if likely(c.hook_skip == 0) or not skipped(c, code_lin(c, insn_rip(c, o))) & o.cc:
        cover_byte(<u8*>o.disp)
        (<u64*>o.imm)[0] += 1
    return ST_OK

cdef int HOOK_EDGE(Cpu* c, Insn* o) noexcept nogil:
    """The byte of the pair (place before, this place)."""
    cdef HookRule* h = <HookRule*>o.disp
    if likely(c.hook_skip == 0) or not skipped(c, code_lin(c, insn_rip(c, o))) & o.cc:
        cover_byte(h.map + ((<u64>o.imm ^ h.prev) & h.map_mask))
        h.prev = <u64>o.imm >> 1
        h.hits += 1
    return ST_OK

cdef int HOOK_SITE(Cpu* c, Insn* o) noexcept nogil:
    """Any rules."""
    cdef u64 rip = insn_rip(c, o)
    cdef u64 lin = code_lin(c, rip)
    cdef u32 kinds = o.reg, skip
    if lin == c.until:
        c.rip = rip if c.mode & MODE_64 else <u32>rip
        c.exit.reason = EXIT_UNTIL
        return ST_EXIT
    skip = skipped(c, lin) if c.hook_skip else 0
    if skip & SKIP_ALL:
        return ST_OK
    if skip & SKIP_BLOCK:
        kinds &= ~<u32>HOOK_BLOCK
    if hooks_met(c, kinds, lin, o.rm, 0, <u32>o.imm) == 0:
        return ST_OK
    c.rip = rip if c.mode & MODE_64 else <u32>rip
    hook_exit(c, lin, o.rm, False, 0)
    c.exit.count = basic_block_size(c, o)
    return ST_EXIT

cdef u64 basic_block_size(Cpu* c, Insn* o) noexcept nogil:
    """Bytes from the pseudo instruction o to the end of its basic block, as far as it is decoded."""
    cdef u64 n = 0
    cdef Insn* p = o + 1
    if o < c.cache.arena or o >= c.cache.arena + c.cache.n_insn:
        return o.rm                                       # a single step
    while p.fn != T_NEXT:
        if p.op == ROW_HOOK:
            if p.vvvv and p.off != o.off + <i64>n:
                return n + p.vvvv                         # a jump within the page was left out here
        else:
            n += p.len
            if is_transfer(p):
                break
        p += 1
    return n

cdef void T_HOOK_COUNT(Cpu* c, Insn* o) noexcept nogil:
    HOOK_COUNT(c, o)
    (o + 1).fn(c, o + 1)

cdef void T_HOOK_BYTE(Cpu* c, Insn* o) noexcept nogil:
    HOOK_BYTE(c, o)
    (o + 1).fn(c, o + 1)

cdef void T_HOOK_EDGE(Cpu* c, Insn* o) noexcept nogil:
    HOOK_EDGE(c, o)
    (o + 1).fn(c, o + 1)

cdef handler_t hook_handler(Insn* o) noexcept nogil:
    if o.ex == HOOK_COUNT:
        return T_HOOK_COUNT
    if o.ex == HOOK_BYTE:
        return T_HOOK_BYTE
    return T_HOOK_EDGE if o.ex == HOOK_EDGE else T_GENERIC

cdef void hook_left(Cpu* c, Insn* o, int st) noexcept nogil:
    """A block has been left at o, and c.rip says where to go on.  Is that a new basic block?  Is it the same instruction, unfinished?"""
    cdef u64 off = c.rip - c.r[R_RIPBASE] if c.mode & MODE_64 else <u32>(c.rip - c.r[R_RIPBASE])
    if o.op == ROW_HOOK:
        return
    if st == ST_MMIO or (off == <u64><i64>o.off and st != ST_FAULT and not is_transfer(o)):
        c.hook_skip, c.hook_at = SKIP_ALL, code_lin(c, c.rip)         # restarted, or REP has more to do
    elif st == ST_FAULT or (off == <u64><i64>(o.off + o.len) and not is_transfer(o)):
        c.hook_skip, c.hook_at = SKIP_BLOCK, code_lin(c, c.rip)

cdef bint hook_step(Cpu* c, Insn* o) noexcept nogil:
    """A single instruction is about to run: True when Python is to be called, or the run ends here (c.status is set)."""
    cdef Insn p
    pseudo(&p, 0, 0, HOOK_SITE)
    p.imm = o.op
    p.rm = o.len
    p.reg = HOOK_CODE | HOOK_STOP | HOOK_BLOCK
    if HOOK_SITE(c, &p) == ST_OK:
        return False
    c.status = ST_EXIT
    return True

cdef void drop_hooked(Cpu* c, u64 first, u64 last) noexcept nogil:
    """The rules for these addresses have changed: decode again what touches them, and what falls through into them."""
    cdef u64 low = first & ~<u64>4095, high = last | 4095
    cdef u32 i
    cdef Block* b
    low = low - 4096 if low else 0
    if low == 0 and high == ~<u64>0:
        cache_flush(c)
        return
    for i in range(c.cache.n_block):
        b = c.cache.blocks + i
        if not b.dead and b.rip <= high and b.rip >= low:
            kill_block(c, b)
    c.want_link = NULL
    jc_flush(c)

# ---- memory ---------------------------------------------------------------------------------------------------------
cdef bint hooked_page(Cpu* c, u64 page) noexcept nogil:
    cdef HookRule* h = c.hooks
    while h != NULL:
        if h.kind & HOOK_MEMORY and h.first <= (page | 4095) and page <= h.last:
            return True
        h = h.next
    return False

cdef int hook_access(Cpu* c, u64 lin, u64 n, bint write, u64 value) noexcept nogil:
    """The program is about to access n bytes at lin: ST_OK, or ST_MMIO when Python is to be called first."""
    cdef u32 i
    cdef Seen* s
    if c.hook_quiet or c.implicit or not hooked_access(c, lin, n, HOOK_WRITE if write else HOOK_READ):
        return ST_OK
    for i in range(c.seen_n):
        s = &c.seen[i]
        if s.armed and s.lin == lin and s.size == n and s.write == write:
            s.armed = 0
            return ST_OK
    if hooks_met(c, HOOK_WRITE if write else HOOK_READ, lin, n, value, 0) == 0:
        return ST_OK
    hook_exit(c, lin, n, write, value)
    return ST_MMIO

cdef bint hooked_access(Cpu* c, u64 lin, u64 n, u32 kind) noexcept nogil:
    cdef HookRule* h = c.hooks
    while h != NULL:
        if h.kind & kind and h.first <= lin + n - 1 and lin <= h.last:
            return True
        h = h.next
    return False

cdef void note_seen(Cpu* c) noexcept nogil:
    """After an exit of a memory hook: the instruction is restarted, and is not to tell of this access, or those before it, again.

    The list is of one instruction, and of one iteration of a repeated one.
    """
    cdef u32 i
    cdef Seen* s
    if c.seen_rip != c.rip or c.seen_icount != c.icount or c.seen_count != c.r[RCX]:
        c.seen_n = 0
    c.seen_rip, c.seen_icount, c.seen_count = c.rip, c.icount, c.r[RCX]
    if c.seen_n < SEEN_MAX:
        s = &c.seen[c.seen_n]
        s.lin, s.size, s.write = c.exit.address, c.exit.size, c.exit.is_write
        c.seen_n += 1
    for i in range(c.seen_n):
        c.seen[i].armed = 1

# ---- interrupts, ports, hypercalls ----------------------------------------------------------------------------------
cdef int hook_deliver(Cpu* c) noexcept nogil:
    """deliver(), after the hooks.  c.status says whether it is a fault or a trap, here and when Python is done."""
    cdef int st
    if c.hook_on & HOOK_INTERRUPT and hooks_met(c, HOOK_INTERRUPT, c.exc_vector, 1, c.exc_error, 0):
        hook_exit(c, c.exc_vector, 0, False, c.exc_error)
        c.exit.code = c.status
        return ST_EXIT
    c.hook_quiet += 1
    st = deliver(c)
    c.hook_quiet -= 1
    return st

cdef HookRule* silent_rule(Cpu* c, u32 kind, u64 number) noexcept nogil:
    """A rule without a callback that answers the event itself."""
    cdef HookRule* h = c.hooks
    while h != NULL:
        if rule_covers(h, kind, number, number, 0) and not h.call:
            return h
        h = h.next
    return NULL

cdef int hook_port(Cpu* c) noexcept nogil:
    """Cpu.exit has a port access: ST_EXIT for Python or for who has no hook, else ST_BRANCH with the answer given."""
    cdef HookRule* h = silent_rule(c, HOOK_PORT, c.exit.port)
    cdef u64 value = c.exit.value if c.exit.is_write else 0
    if hooks_met(c, HOOK_PORT, c.exit.port, c.exit.size, value, 0):
        c.exit.reason = EXIT_HOOK
        return ST_EXIT
    if h == NULL:
        return ST_EXIT
    if not c.exit.is_write:
        port_answer(c, h.answer)
    return ST_BRANCH

cdef void port_answer(Cpu* c, u64 value) noexcept nogil:
    """Finish an IN or INS."""
    cdef Insn o
    if c.exit.code == PIO_TO_MEMORY:
        mem_write(c, c.exit.address, c.exit.size, value)
        return
    memset(&o, 0, sizeof(o))
    o.prefix = PFX_REX
    set_reg(c, &o, RAX, c.exit.size, value)

cdef int VMCALL(Cpu* c, Insn* o) noexcept nogil:
    """A hypercall by VMCALL or VMMCALL: RAX is its number and takes the answer.  On a bare machine #UD where nobody hooks it."""
    cdef HookRule* h
    if c.hvm != NULL and not c.is_pv:
        return hvm_hypercall(c, o)
    if not c.hook_on & HOOK_HYPERCALL:
        return fault(c, X_UD)
    h = silent_rule(c, HOOK_HYPERCALL, c.r[RAX])
    if hooks_met(c, HOOK_HYPERCALL, c.r[RAX], 1, 0, 0):
        branch_next(c, o)
        return hook_exit(c, c.r[RAX], 0, False, 0)
    if h == NULL:
        return fault(c, X_UD)
    c.r[RAX] = h.answer
    return ST_OK
