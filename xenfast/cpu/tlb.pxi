# The TLB: linear page -> host address, with its rights; what a flush forgets and what it keeps.
#
# SDM Vol. 3, 4.10.  There are two TLBs a vcpu: supervisor and user.  For a PV guest they are guest kernel and guest
# user, each with its own CR3, so that a switch of mode only switches the pointer.  Both are direct mapped.  A tag of
# slot i that names a page of slot i ^ 1 can never match: that is "invalid".
#
# Beside each TLB are its notes (TlbNotes): which slots are filled, so that a flush of few is cheap; which hold global
# translations, which MOV CR3 keeps; which are pieces of a large page, all of which INVLPG of any address in it must
# forget.
#
# With CR4.PCIDE the user TLBs of the last few PCIDs are parked, and come back with MOV CR3 when bit 63 of its operand
# is set.  The supervisor TLB keeps the global entries alone.  An entry may be dropped at any time, so whatever is rare
# drops more than it must.
#
# The jump cache (RIP -> decoded instruction) is a TLB for fetches: it is forgotten with it, but separately for the two
# privileges, and an INVLPG outside of where code has run leaves it alone.

cdef enum:
    PCID_NONE = 0xFFFF   # Parked.pcid: nothing is parked here
    CR3_PCID = 0xFFF
    JC_GENERATIONS = 1 << 13

cdef inline TlbEntry* tlb_slot(TlbEntry* tlb, u64 lin) noexcept nogil:
    return tlb + ((lin >> 12) & (TLB_SIZE - 1))

cdef inline u64 invalid_tag(u64 lin) noexcept nogil:
    """A tag no address of this slot matches."""
    return (lin ^ 4096) & ~<u64>4095

cdef inline void tlb_clear_slot(TlbEntry* tlb, u64 i) noexcept nogil:
    tlb[i].rtag = tlb[i].wtag = tlb[i].xtag = (i ^ 1) << 12

cdef inline bint slot_fixed(TlbNotes* n, u64 lin) noexcept nogil:
    """Is the translation in the slot of lin global?"""
    cdef u64 slot = (lin >> 12) & (TLB_SIZE - 1)
    return (n.fixed[slot >> 6] >> (slot & 63)) & 1

# ---- the jump cache -------------------------------------------------------------------------------------------------
cdef inline void jc_salt(Cpu* c) noexcept nogil:
    """The salt of the privilege and mode the vcpu is in; tags of any other never match."""
    c.jc_salt = (<u64>((c.notes[c.tlb_index].jc_gen << 2) | (c.tlb_index << 1) | (c.mode & 1))) << 48

cdef void jc_forget(Cpu* c, TlbNotes* n) noexcept nogil:
    """Forget the entries of one address space: a new generation makes their tags foreign."""
    cdef int i
    n.jc_low, n.jc_high, n.jc_local = ~<u64>0, 0, 0
    c.jc_gen += 1
    if c.jc_gen >= JC_GENERATIONS:
        memset(c.jc, 0, sizeof(JumpEntry) * JC_SIZE)
        c.jc_gen = 1
        for i in range(PARKED):                       # theirs would come round again
            c.parked[i].notes.jc_gen = c.jc_gen = c.jc_gen + 1
        for i in range(2):
            c.notes[i].jc_gen = c.jc_gen = c.jc_gen + 1
        c.jc_gen += 1
    n.jc_gen = c.jc_gen

cdef void jc_flush(Cpu* c) noexcept nogil:
    """Forget every jump-cache entry."""
    cdef int i
    for i in range(2):
        jc_forget(c, &c.notes[i])
    for i in range(PARKED):
        if c.parked[i].pcid != PCID_NONE:
            jc_forget(c, &c.parked[i].notes)
    jc_salt(c)

cdef inline void jc_note(Cpu* c, u64 lin, bint crossing) noexcept nogil:
    """A jump-cache entry is made for code at lin, which the TLB has just been asked for."""
    cdef TlbNotes* n = &c.notes[c.tlb_index]
    cdef u64 slot = (lin >> 12) & (TLB_SIZE - 1)
    n.jc_low = min(n.jc_low, lin >> 30)
    n.jc_high = max(n.jc_high, (lin + 15) >> 30)
    if n.jc_local:
        return
    if not slot_fixed(n, lin) or (c.tlb[slot].xtag ^ lin) & ~<u64>4095:
        n.jc_local = 1
    elif crossing:
        lin = (lin | 4095) + 1
        slot = (lin >> 12) & (TLB_SIZE - 1)
        if not slot_fixed(n, lin) or c.tlb[slot].xtag != lin:
            n.jc_local = 1

# ---- sites: where accesses of translated code went last (jit_ops.pxi) -------------------------------------------------
cdef void sites_forget_some(Cpu* c, int kind) noexcept nogil:
    """The sites of local translations (0), or of global ones (1)."""
    cdef u32 i, n = c.site_n[kind]
    cdef u32* log = c.site_log[kind]
    if n == 0:
        return
    c.site_epoch += 1
    if n <= SITE_LOG:
        for i in range(n):
            if (c.jit.site_use[log[i]] & SITE_GLOBAL != 0) == kind:
                c.sites[log[i]].len = 0
    else:
        for i in range(c.jit.n_sites):
            if (c.jit.site_use[i] & SITE_GLOBAL != 0) == kind:
                c.sites[i].len = 0
    c.site_n[kind] = 0

cdef void sites_forget(Cpu* c) noexcept nogil:
    """Whenever a translation or a right to write is withdrawn from either TLB."""
    sites_forget_some(c, 0)
    sites_forget_some(c, 1)

cdef void sites_forget_page(Cpu* c, u64 page) noexcept nogil:
    """Those of global translations that cover the page."""
    cdef u32 i
    cdef Site* s
    if c.site_n[1] > SITE_LOG:
        sites_forget_some(c, 1)
        return
    for i in range(c.site_n[1]):
        s = c.sites + c.site_log[1][i]
        if page + 4095 >= s.lo and page < s.lo + s.len + 255:     # len is less than the range by the size of an access
            s.len = 0
            c.site_epoch += 1

# ---- filling --------------------------------------------------------------------------------------------------------
cdef void tlb_note_fill(Cpu* c, u64 lin, bint fixed, bint large) noexcept nogil:
    """A slot gets a new translation: global or not, of a page larger than 4 KiB or not."""
    cdef TlbNotes* n = &c.notes[c.tlb_index]
    cdef u64 slot = (lin >> 12) & (TLB_SIZE - 1)
    cdef u64 bit = <u64>1 << (slot & 63)
    if large:
        n.large[slot >> 6] |= bit
    else:
        n.large[slot >> 6] &= ~bit
    if fixed:
        n.fixed[slot >> 6] |= bit
        return
    n.fixed[slot >> 6] &= ~bit
    if n.filled < TLB_FEW:
        n.slots[n.filled] = <u16>slot
    if n.filled <= TLB_FEW:
        n.filled += 1

cdef inline bint tlb_noted(Cpu* c, u64 lin, bint fixed, bint large) noexcept nogil:
    """Do the notes of the slot say so already?"""
    cdef TlbNotes* n = &c.notes[c.tlb_index]
    cdef u64 slot = (lin >> 12) & (TLB_SIZE - 1)
    return ((n.fixed[slot >> 6] >> (slot & 63)) & 1 == <u64>fixed
            and (n.large[slot >> 6] >> (slot & 63)) & 1 == <u64>large)

# ---- flushing -------------------------------------------------------------------------------------------------------
cdef void tlb_clear_local(TlbEntry* tlb, TlbNotes* n) noexcept nogil:
    """Forget all but global translations: slot by slot while few are filled, for guests switch often."""
    cdef u64 i
    if n.filled <= TLB_FEW:
        for i in range(n.filled):
            if not (n.fixed[n.slots[i] >> 6] >> (n.slots[i] & 63)) & 1:
                tlb_clear_slot(tlb, n.slots[i])
    else:
        for i in range(TLB_SIZE):
            if not (n.fixed[i >> 6] >> (i & 63)) & 1:
                tlb_clear_slot(tlb, i)
    for i in range(TLB_SIZE // 64):
        n.large[i] &= n.fixed[i]
    n.filled = 0

cdef void tlb_clear(TlbEntry* tlb, TlbNotes* n) noexcept nogil:
    """Forget one TLB."""
    cdef u64 i, bits
    tlb_clear_local(tlb, n)
    for i in range(TLB_SIZE // 64):
        bits = n.fixed[i]
        while bits:
            tlb_clear_slot(tlb, i * 64 + <u64>ctz64(bits))
            bits &= bits - 1
        n.fixed[i] = n.large[i] = 0

cdef void tlb_flush(Cpu* c) noexcept nogil:
    """Everything, of every PCID, global or not."""
    cdef int i
    mmu_flushed(c, MMU_FLUSH_ALL, 0)
    sites_forget(c)
    c.stat[STAT_TLB_FLUSHES] += 1
    if c.pv != NULL:
        c.kernel_seen = load_acquire64(&changes_of(c.mem, c.pv.domid).clock)
    for i in range(PARKED):
        c.parked[i].pcid = PCID_NONE
    tlb_clear(c.tlbs[0], &c.notes[0])
    tlb_clear(c.tlbs[1], &c.notes[1])
    c.flush_time[0] = c.flush_time[1] = add_fetch64(&c.mem.flush_clock, 1)
    jc_flush(c)

cdef void tlb_flush_local(Cpu* c) noexcept nogil:
    """What MOV CR3 forgets: the translations of the current PCID that are not global."""
    cdef int i
    mmu_flushed(c, MMU_FLUSH_LOCAL, 0)
    sites_forget_some(c, 0)
    c.stat[STAT_TLB_FLUSHES] += 1
    for i in range(2):
        tlb_clear_local(c.tlbs[i], &c.notes[i])
        if c.notes[i].jc_local:
            jc_forget(c, &c.notes[i])
    jc_salt(c)

cdef void tlb_forget_page(Cpu* c, TlbEntry* tlb, TlbNotes* n, u64 lin) noexcept nogil:
    """One page of one TLB; of a large page every piece (here: every large page within the same GiB)."""
    cdef TlbEntry* e = tlb_slot(tlb, lin)
    cdef u64 i, bits
    e.rtag = e.wtag = e.xtag = invalid_tag(lin)
    for i in range(TLB_SIZE // 64):
        bits = n.large[i]
        while bits:
            e = tlb + i * 64 + ctz64(bits)
            if (e.rtag ^ lin) >> 30 == 0 or (e.wtag ^ lin) >> 30 == 0 or (e.xtag ^ lin) >> 30 == 0:
                tlb_clear_slot(tlb, i * 64 + <u64>ctz64(bits))
                n.large[i] &= ~(bits & -bits)
            bits &= bits - 1
    if lin >> 30 >= n.jc_low and lin >> 30 <= n.jc_high:
        jc_forget(c, n)

cdef void tlb_flush_page(Cpu* c, u64 lin) noexcept nogil:
    """INVLPG: the page in the current PCID, and in all of them where it is global (which is: everywhere)."""
    cdef int i
    mmu_flushed(c, MMU_FLUSH_PAGE, lin & ~<u64>4095)
    sites_forget_some(c, 0)
    if c.is_pv:                                       # no large pages
        sites_forget_page(c, lin & ~<u64>4095)
    else:
        sites_forget_some(c, 1)
    for i in range(2):
        tlb_forget_page(c, c.tlbs[i], &c.notes[i], lin)
    for i in range(PARKED):
        if c.parked[i].pcid != PCID_NONE:
            tlb_forget_page(c, c.parked[i].tlb, &c.parked[i].notes, lin)
    jc_salt(c)

cdef void tlb_protect_frame(Cpu* c, u64 mfn) noexcept nogil:
    """No write to this frame may hit the TLB from now on (it holds decoded code)."""
    cdef u64 host = <u64>(c.mem.host + (mfn << 12))
    cdef int i, k
    cdef TlbEntry* e
    sites_forget(c)
    for k in range(2):
        e = c.tlbs[k]
        for i in range(TLB_SIZE):
            if e.wtag + <u64>e.add == host:
                e.wtag = (<u64>i ^ 1) << 12
            e += 1
    for k in range(PARKED):
        c.parked[k].pcid = PCID_NONE

# ---- address-space identifiers --------------------------------------------------------------------------------------
cdef Parked* pcid_parked(Cpu* c, u64 pcid) noexcept nogil:
    cdef int i
    for i in range(PARKED):
        if c.parked[i].pcid == pcid:
            return &c.parked[i]
    return NULL

cdef Parked* pcid_place(Cpu* c) noexcept nogil:
    """Where the next user TLB can be parked: a free place, else the one used longest ago.  NULL: no memory."""
    cdef int i
    cdef Parked* p = &c.parked[0]
    for i in range(PARKED):
        if c.parked[i].pcid == PCID_NONE:
            p = &c.parked[i]
            break
        if c.parked[i].since < p.since:
            p = &c.parked[i]
    if p.tlb == NULL:
        p.tlb = <TlbEntry*>reserve(sizeof(TlbEntry) * TLB_SIZE)
        p.notes.filled = TLB_FEW + 1                  # all zeroes is not all invalid
    p.pcid = PCID_NONE
    return p if p.tlb != NULL else NULL

cdef void pcid_switch(Cpu* c, u64 old, u64 new, bint keep) noexcept nogil:
    """MOV CR3 with CR4.PCIDE: park the user TLB of the old PCID; take that of the new one, empty unless kept."""
    cdef Parked* p
    cdef TlbEntry* tlb
    cdef TlbNotes notes
    sites_forget(c)
    if old == new:
        if not keep:
            tlb_flush_local(c)
        return
    mmu_flushed(c, MMU_SWITCH_PCID if keep else MMU_FLUSH_PCID, new)
    c.stat[STAT_TLB_FLUSHES] += 1
    tlb_clear_local(c.tlbs[0], &c.notes[0])
    if c.notes[0].jc_local:
        jc_forget(c, &c.notes[0])
    p = pcid_parked(c, new)
    if p != NULL and not keep:
        p.pcid = PCID_NONE
    if p == NULL or not keep:
        p = pcid_place(c)
        if p == NULL:                                 # go on without parking
            tlb_clear_local(c.tlbs[1], &c.notes[1])
            jc_forget(c, &c.notes[1])
            jc_salt(c)
            return
        tlb_clear(p.tlb, &p.notes)
        jc_forget(c, &p.notes)
    tlb = c.tlbs[1]
    notes = c.notes[1]
    c.tlbs[1] = p.tlb
    c.notes[1] = p.notes
    p.tlb = tlb
    p.notes = notes
    p.pcid = <u32>old
    p.since = c.stat[STAT_TLB_FLUSHES]
    c.tlb = c.tlbs[c.tlb_index]
    jc_salt(c)

cdef void pcid_forget(Cpu* c, u64 pcid) noexcept nogil:
    """What is not global of one PCID, which need not be the current one."""
    cdef Parked* p = pcid_parked(c, pcid)
    if p != NULL:
        mmu_flushed(c, MMU_FLUSH_PCID, pcid)
        p.pcid = PCID_NONE
    if pcid == c.cr3 & CR3_PCID or not c.cr4 & CR4_PCIDE:
        tlb_flush_local(c)

cdef void pcid_forget_all(Cpu* c) noexcept nogil:
    """What is not global of every PCID."""
    cdef int i
    for i in range(PARKED):
        c.parked[i].pcid = PCID_NONE
    tlb_flush_local(c)

cdef void pcid_forget_page(Cpu* c, u64 pcid, u64 lin) noexcept nogil:
    """One page of one PCID."""
    cdef Parked* p = pcid_parked(c, pcid)
    sites_forget(c)
    if p != NULL:
        mmu_flushed(c, MMU_FLUSH_PAGE, lin & ~<u64>4095)
        tlb_forget_page(c, p.tlb, &p.notes, lin)
    elif pcid == c.cr3 & CR3_PCID or not c.cr4 & CR4_PCIDE:
        tlb_flush_page(c, lin)
