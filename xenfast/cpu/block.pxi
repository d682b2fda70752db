# The cache of decoded blocks, and what happens to it when code is written.
#
# A block is straight-line code from one entry to the first unconditional change of control flow, a limit or the end
# of the page; a conditional branch that is not taken just goes on inside the block.  Blocks are found by the machine
# address of their first byte and are position independent, so a library mapped at two addresses, or in two processes,
# is decoded once.  Each vcpu has its own cache: no locks.
#
# Self-modifying code (SDM Vol. 3, 8.1.3): a frame that holds decoded code carries the vcpu's bit in Frame.code, and
# no TLB entry of any vcpu allows writing it; writes take the slow path, which calls code_written().
#
# The instructions of a dead block stay in the arena until the whole cache is flushed: the block's first instruction
# then only goes back to the dispatcher, so stale links are harmless.

cdef extern from *:
    enum:
        ARENA_INSNS "(1 << XF_ARENA_BITS)"
        ARENA_BLOCKS "(1 << XF_ARENA_BITS >> 2)"

cdef BlockCache* cache_new(u64 max_page) noexcept nogil:
    """A cache for frames below max_page; pages of it are touched as they are used.  NULL when there is no address space."""
    cdef BlockCache* k = <BlockCache*>reserve(sizeof(BlockCache))
    if k == NULL:
        return NULL
    k.max_insn, k.max_block, k.max_page = ARENA_INSNS, ARENA_BLOCKS, max_page
    k.arena = <Insn*>reserve(sizeof(Insn) * ARENA_INSNS)
    k.blocks = <Block*>reserve(sizeof(Block) * ARENA_BLOCKS)
    k.pages = <CodePage*>reserve(sizeof(CodePage) * (max_page + 1))
    if k.arena == NULL or k.blocks == NULL or k.pages == NULL:
        cache_free(k)
        return NULL
    return k

cdef void cache_free(BlockCache* k) noexcept nogil:
    if k == NULL:
        return
    release(k.arena, sizeof(Insn) * ARENA_INSNS)
    release(k.blocks, sizeof(Block) * ARENA_BLOCKS)
    release(k.pages, sizeof(CodePage) * (k.max_page + 1))
    release(k, sizeof(BlockCache))

cdef void cache_flush(Cpu* c) noexcept nogil:
    """Forget every block.  Only between blocks."""
    cdef BlockCache* k = c.cache
    cdef u32 i
    cdef u32 bit = c.code_bit
    c.stat[STAT_CACHE_FLUSHES] += 1
    for i in range(k.n_block):
        fetch_and(&c.mem.frames[k.blocks[i].maddr >> 12].code, ~bit)
        k.pages[k.blocks[i].maddr >> 12].head = NULL
        k.pages[k.blocks[i].maddr >> 12].bitmap = 0
        if k.blocks[i].mfn2 != NO_FRAME:
            fetch_and(&c.mem.frames[k.blocks[i].mfn2].code, ~bit)
            k.pages[k.blocks[i].mfn2].head2 = NULL
            k.pages[k.blocks[i].mfn2].bitmap = 0
    memset(k.hash, 0, sizeof(k.hash))
    k.n_insn = 0
    k.n_block = 0
    c.want_link = NULL
    if c.jit != NULL:
        sites_forget(c)
        c.jit.used, c.jit.full, c.jit.n_sites = c.jit.first, 0, SITE_FIRST
    jc_flush(c)

cdef inline u32 block_hash(u64 maddr, u32 mode) noexcept nogil:
    return <u32>(((maddr ^ (maddr >> 15)) * <u64>0x9E3779B1 + mode * <u64>0x85EB) >> 3) & (BLOCK_HASH - 1)

# ---- making blocks --------------------------------------------------------------------------------------------------
cdef void mark_code(Cpu* c, u64 mfn, u64 first, u64 last) noexcept nogil:
    """Bytes first..last of the frame are decoded now: writes to it must be seen."""
    cdef u64 g
    cdef u32 bit = c.code_bit
    cdef u32 i
    cdef Cpu* other
    for g in range(first >> 6, (last >> 6) + 1):
        c.cache.pages[mfn].bitmap |= <u64>1 << g
    if c.mem.frames[mfn].code & bit:
        return
    fetch_or(&c.mem.frames[mfn].code, bit)
    tlb_protect_frame(c, mfn)
    for i in range(c.mem.vcpu_top):
        other = c.mem.vcpus[i]                            # it may go away meanwhile: room_give()
        if other != NULL and other != c and other.in_run:
            request_wait(c, other, REQ_FLUSH)

cdef Insn* finish_block(Cpu* c, Block* b, Insn* first, const u8* host, u32 n, u32 pos, int off) noexcept nogil:
    """Add the terminator, which goes on at off, and choose the threaded handlers; returns the block's entry."""
    cdef Insn* end = first + n
    memset(end, 0, sizeof(Insn))
    end.off = off
    end.pos = pos
    end.imm = off
    end.fn = T_NEXT
    end.next_in = NO_INSN
    specialise(c, b, first, host, n, off)
    return c.cache.arena + b.first

cdef Insn* make_block(Cpu* c, u64 maddr, const u8* host, u64 rip) noexcept nogil:
    """Decode a block whose first byte is at machine address maddr; NULL with c.status set when its first instruction cannot be had.

    pos counts the instructions, n those that need a handler: a jump within the page is followed instead.
    """
    cdef BlockCache* k = c.cache
    cdef Block* b
    cdef Insn* o
    cdef Insn* first
    cdef int n = 0, pos = 0, start = <int>(maddr & 4095), avail, length, off = 0, from_ = 0, extent = 0
    cdef int room = 8192
    cdef int fresh = HOOK_FRESH                       # a basic block begins here
    cdef bint hooked = c.hook_on & HOOK_ALL_CODE
    cdef int limit = MAX_BLOCK - 3 if hooked else MAX_BLOCK
    cdef u32 h
    if k.n_insn + MAX_BLOCK + 3 > k.max_insn or k.n_block + 1 > k.max_block or (c.jit != NULL and c.jit.full):
        cache_flush(c)
    avail = 4096 - start
    if not c.mode & MODE_64 and c.seg[CS].limit - rip < 8192:
        room = <int>(c.seg[CS].limit - rip) - 13          # an instruction from there on may cross the limit: alone
    mark_code(c, maddr >> 12, start, start)          # first of all, lest another vcpu writes unseen while we decode
    b = k.blocks + k.n_block
    b.rip = code_lin(c, rip)
    b.maddr, b.mode, b.first, b.incoming, b.dead = maddr, c.mode, k.n_insn, NO_INSN, 0
    b.mfn2 = NO_FRAME
    o = k.arena + k.n_insn
    if c.jit != NULL and c.mode & MODE_64:
        make_head(c, o)
        o += 1
    first = o
    while pos < MAX_BLOCK and n < limit:
        o.off = off
        length = decode_for(c, host + off, avail - off, o)
        if length == DECODE_MORE and pos == 0:
            length = decode_crossing(c, host, avail, rip, o, &b.mfn2)
            if length == 0:
                return NULL
        if length == DECODE_MORE:
            break
        if length == DECODE_LONG:
            o.ex = TOO_LONG
            o.op = ROW_UD
            o.len = length = 15
        if unlikely(hooked) and plant(c, b, o, pos, fresh):
            n += 1
            o += 1
        pos += 1
        o.pos = pos
        if off + length > extent:
            extent = off + length
        if follows(o, c.mode, start) and b.mfn2 == NO_FRAME:
            mark_code(c, maddr >> 12, start + from_, start + off + length - 1)
            from_ = off = <int>o.imm
            fresh = HOOK_FRESH + length
            continue
        n += 1
        off += length
        fresh = HOOK_FRESH if is_transfer(o) else 0
        if ends_block(o, c.mode) or b.mfn2 != NO_FRAME or off >= avail or off >= room:
            break
        o += 1
    if unlikely(hooked) and fresh == 0:
        plant_on(first + n, off, pos)
        n += 1
    c.stat[STAT_BLOCKS] += 1
    c.stat[STAT_INSNS] += n
    k.n_block += 1
    if c.jit != NULL:
        memset(c.jit.site + k.n_insn, 0, (<u64>(first - k.arena) + n + 1 - k.n_insn) * sizeof(u32))
    k.n_insn = <u32>(first - k.arena) + n + 1
    b.extent = extent
    h = block_hash(maddr, c.mode)
    b.hash_next = k.hash[h]
    k.hash[h] = b
    b.page_next = k.pages[maddr >> 12].head
    k.pages[maddr >> 12].head = b
    if b.mfn2 != NO_FRAME:
        mark_code(c, maddr >> 12, start + from_, 4095)
    elif off > from_:                                # else the block ends with a jump that was followed
        mark_code(c, maddr >> 12, start + from_, start + off - 1)
    if b.mfn2 != NO_FRAME:
        b.page2_next = k.pages[b.mfn2].head2
        k.pages[b.mfn2].head2 = b
    return finish_block(c, b, first, host, n, pos, off)

cdef inline bint follows(Insn* o, u32 mode, int start) noexcept nogil:
    """Is o a jump to later in the page, or back beyond the block's start?  Decoding then goes on there, and o costs nothing."""
    return (o.ex == JMP_J and mode & MODE_64 and o.size == 8 and (o.imm > o.off or o.imm < 0)
            and <u64>(start + o.imm) < 4096)

cdef inline bint ends_block(Insn* o, u32 mode) noexcept nogil:
    """A conditional branch that is not taken goes on inside the block where threaded handlers know how to (64-bit mode)."""
    cdef u32 attrs = rows[o.op].attrs
    return attrs & A_END and not (attrs & A_JCC and mode & MODE_64)

cdef int decode_crossing(Cpu* c, const u8* host, int avail, u64 rip, Insn* o, u64* mfn2) noexcept nogil:
    """An instruction that crosses into the next page: fetch from both.  0: the second page faults (c.status)."""
    cdef u8 buf[32]
    cdef u8* host2 = NULL
    cdef u64 lin = code_lin(c, rip) + avail
    cdef int length, st
    st = translate_cached_x(c, lin if c.mode & MODE_64 else <u32>lin, &host2)
    if st != ST_OK:
        c.status = fetch_failed(c, st)
        return 0
    mfn2[0] = <u64>(host2 - c.mem.host) >> 12
    mark_code(c, mfn2[0], 0, 15)
    memcpy(buf, host, avail)
    memcpy(buf + avail, host2, 15)
    length = decode_for(c, buf, avail + 15, o)
    return length if length > 0 else DECODE_LONG

cdef int TOO_LONG(Cpu* c, Insn* o) noexcept nogil:
    """More than 15 bytes (SDM Vol. 2, 2.3.11)."""
    return fault_err(c, X_GP, 0)

# ---- finding blocks -------------------------------------------------------------------------------------------------
cdef inline u64 code_lin(Cpu* c, u64 rip) noexcept nogil:
    return rip if c.mode & MODE_64 else <u32>(rip + c.seg[CS].base)

cdef inline int translate_cached_x(Cpu* c, u64 lin, u8** host) noexcept nogil:
    cdef TlbEntry* e = tlb_slot(c.tlb, lin)
    if likely(((lin ^ e.xtag) & ~<u64>4095) == 0):
        host[0] = <u8*>(lin + <u64>e.add)
        return ST_OK
    return translate(c, lin, ACC_EXEC, host)

cdef int fetch_failed(Cpu* c, int st) noexcept nogil:
    if st == ST_MMIO:
        return fault_err(c, X_GP, 0)      # code outside RAM: nothing a guest of ours runs does that
    return st

cdef Insn* find_block(Cpu* c) noexcept nogil:
    """First instruction of the block at c.rip, decoding it if need be; NULL with c.status set when it cannot be fetched."""
    cdef u64 rip = c.rip, lin = code_lin(c, rip), maddr
    cdef u8* host = NULL
    cdef u8* host2 = NULL
    cdef Block* b
    cdef Insn* first = NULL
    cdef JumpEntry* e
    cdef int st
    c.stat[STAT_LOOKUPS] += 1
    if not c.mode & MODE_64 and rip + 15 > c.seg[CS].limit:
        step(c)                                           # near or beyond the limit, which may end inside the instruction
        return NULL
    st = translate_cached_x(c, lin, &host)
    if st != ST_OK:
        c.status = fetch_failed(c, st)
        return NULL
    maddr = <u64>(host - c.mem.host)
    b = c.cache.hash[block_hash(maddr, c.mode)]
    while b != NULL:
        if b.maddr == maddr and b.mode == c.mode and not b.dead and (b.rip == lin or not c.hook_on & HOOK_ALL_CODE):
            if b.mfn2 == NO_FRAME:
                break
            st = translate_cached_x(c, lin + (4096 - (lin & 4095)), &host2)
            if st != ST_OK:
                c.status = fetch_failed(c, st)
                return NULL
            if <u64>(host2 - c.mem.host) >> 12 == b.mfn2:
                break
        b = b.hash_next
    if b != NULL:
        first = c.cache.arena + b.first
    else:
        first = make_block(c, maddr, host, rip)
        if first == NULL:
            return NULL
        b = c.cache.blocks + c.cache.n_block - 1
    if not c.mode & MODE_64 and rip + b.extent - 1 > c.seg[CS].limit:
        step(c)                                           # the last instruction crosses the limit: #GP when it is its turn
        return NULL
    if c.va_shift == 16:                                  # with 57-bit addresses a tag would have no room for the salt
        e = c.jc + jc_index(rip)
        e.tag = rip ^ c.jc_salt
        e.first = first
        e.page = rip & ~<u64>4095
        if c.jit != NULL:
            e.code = <void*>first.disp if first.fn == T_JIT else <void*>(c.jit.rx + (c.jit.exit_look - c.jit.rw))
        jc_note(c, lin, b.mfn2 != NO_FRAME)
    if c.want_link != NULL and (c.mode & MODE_64 or c.seg[CS].limit == <u32>0xFFFFFFFF):
        link(c, c.want_link, b, first)
    return first

cdef inline u64 jc_index(u64 rip) noexcept nogil:
    return (rip ^ (rip >> 12)) & (JC_SIZE - 1)

cdef inline void link(Cpu* c, Insn* o, Block* b, Insn* first) noexcept nogil:
    """Let the direct branch o go to b without asking: only within one page, whose mapping both share.

    b need not be where the branch goes: an upcall, a fault or the caller of run() may have changed rip since.
    """
    cdef Block* source = c.cache.blocks + insn_block(c, o)
    if (b.mfn2 == NO_FRAME and source.mfn2 == NO_FRAME and o.link == NULL and not source.dead and b.mode == source.mode
            and <u64>(<i64>(source.maddr & 4095) + o.imm) < 4096 and b.maddr == source.maddr + <u64>o.imm
            and (not c.hook_on & HOOK_ALL_CODE or b.rip - b.maddr == source.rip - source.maddr)):
        o.link = first
        o.next_in = b.incoming
        b.incoming = <u32>(o - c.cache.arena)
        if c.jit != NULL:
            link_code(c, o, first)

cdef u32 insn_block(Cpu* c, Insn* o) noexcept nogil:
    """The block an instruction of the arena belongs to (blocks stand in the order of their first instructions)."""
    cdef u32 lo = 0, hi = c.cache.n_block, mid
    cdef u32 at = <u32>(o - c.cache.arena)
    while hi - lo > 1:
        mid = (lo + hi) >> 1
        if c.cache.blocks[mid].first <= at:
            lo = mid
        else:
            hi = mid
    return lo

# ---- dropping blocks ------------------------------------------------------------------------------------------------
cdef void kill_block(Cpu* c, Block* b) noexcept nogil:
    """Unlink a block; its instructions stay, the first one leads to the dispatcher."""
    cdef Block** p = &c.cache.hash[block_hash(b.maddr, b.mode)]
    cdef u32 i = b.incoming, after
    cdef Insn* o
    b.dead = 1
    c.stat[STAT_SMC] += 1
    while p[0] != NULL:
        if p[0] == b:
            p[0] = b.hash_next
            break
        p = &p[0].hash_next
    while i != NO_INSN:
        o = c.cache.arena + i
        after = o.next_in
        o.link = NULL
        o.next_in = NO_INSN
        i = after
    b.incoming = NO_INSN
    o = c.cache.arena + b.first
    if o.fn == T_JIT:
        unlink_code(c, o)
    o.fn = T_DEAD

cdef void drop_frame_code(Cpu* c, u64 mfn) noexcept nogil:
    """Every block decoded from this frame goes."""
    cdef CodePage* page = c.cache.pages + mfn
    cdef Block* b = page.head
    while b != NULL:
        if not b.dead:
            kill_block(c, b)
        b = b.page_next
    b = page.head2
    while b != NULL:
        if not b.dead:
            kill_block(c, b)
        b = b.page2_next
    page.head = page.head2 = NULL
    page.bitmap = 0
    c.want_link = NULL
    fetch_and(&c.mem.frames[mfn].code, ~c.code_bit)

cdef inline void code_written(Cpu* c, u8* host, u64 n) noexcept nogil:
    """Bytes of a frame have been written through the slow path; n bytes within one page."""
    cdef u64 at = <u64>(host - c.mem.host)
    if unlikely(c.mem.frames[at >> 12].code != 0):
        code_written_slow(c, at, n)

cdef void code_written_slow(Cpu* c, u64 at, u64 n) noexcept nogil:
    cdef u64 mfn = at >> 12, g
    cdef u32 i
    cdef u32 code = c.mem.frames[mfn].code
    if code & c.code_bit:
        for g in range((at & 4095) >> 6, (((at & 4095) + n - 1) >> 6) + 1):
            if c.cache.pages[mfn].bitmap & (<u64>1 << g):
                drop_frame_code(c, mfn)
                c.code_hit = 1
                break
    if code & ~c.code_bit:
        queue_code_all(c.mem, c, mfn)

cdef void queue_code_all(Mem* m, Cpu* writer, u64 mfn) noexcept nogil:
    """Every vcpu but the writer that holds code of this frame is asked to drop it."""
    cdef u32 i
    cdef Cpu* c
    for i in range(m.vcpu_top):
        c = m.vcpus[i]
        if c != NULL and c != writer and m.frames[mfn].code & c.code_bit:
            queue_code(c, mfn)

cdef inline void frame_written(Mem* m, u64 mfn) noexcept nogil:
    """Host code has written the frame, or given it to another owner."""
    if m.frames[mfn].code:
        queue_code_all(m, NULL, mfn)

cdef void queue_code(Cpu* c, u64 mfn) noexcept nogil:
    """Ask another vcpu to drop its blocks of a frame; it does so before its next block."""
    spin_lock(&c.code_lock)
    if c.code_n < CODE_QUEUE:
        c.code_queue[c.code_n] = mfn
    if c.code_n <= CODE_QUEUE:
        c.code_n += 1
    spin_unlock(&c.code_lock)
    fetch_or(&c.req, REQ_CODE)

cdef void serve_code_queue(Cpu* c) noexcept nogil:
    cdef u32 i
    spin_lock(&c.code_lock)
    if c.code_n > CODE_QUEUE:
        cache_flush(c)
    else:
        for i in range(c.code_n):
            drop_frame_code(c, c.code_queue[i])
    c.code_n = 0
    spin_unlock(&c.code_lock)
