# Snapshots of machine memory by dirty pages: taking one copies nothing, the first write to a frame afterwards saves it, restoring copies
# the saved frames back.
#
# A frame that is clean (not written since the latest snapshot, or its last restore) has no write entry in any TLB, like one that holds
# decoded code; translate() and pte_mark() call about_to_write().  Snapshots are a stack: each has what was written while it was the
# latest.  What was saved once stays saved, so that a fuzzer's next run only has to be noted as having written the frame.

cdef inline bint is_clean(Mem* m, u64 mfn) noexcept nogil:
    # SAFETY: callers have bounded mfn by max_page, which mark has room for.
    return unlikely(m.snap != NULL) and m.snap.mark[mfn] != m.snap.epoch

cdef inline void about_to_write(Mem* m, u64 mfn) noexcept nogil:
    """Call before the first byte of the frame changes."""
    if is_clean(m, mfn):
        save_frame(m, mfn)

cdef void save_frame(Mem* m, u64 mfn) noexcept nogil:
    cdef SnapLevel* s = m.snap
    spin_lock(&m.snap_lock)
    if s.mark[mfn] != s.epoch:
        if s.mark[mfn] == 0:
            memcpy(s.copy + (mfn << 12), m.host + (mfn << 12), 4096)
        s.dirty[s.n_dirty] = mfn
        s.n_dirty += 1
        s.mark[mfn] = s.epoch
    spin_unlock(&m.snap_lock)

cdef void snap_free(Mem* m, SnapLevel* s) noexcept nogil:
    release(s.copy, m.max_page << 12)
    release(s.mark, m.max_page * sizeof(u32))
    release(s.dirty, m.max_page * sizeof(u64))
    free(s)

cdef SnapLevel* snap_push(Mem* m) noexcept nogil:
    """A new latest snapshot; NULL when the host has no room.  Every TLB is to be flushed."""
    cdef SnapLevel* s = <SnapLevel*>calloc(1, sizeof(SnapLevel))
    if s == NULL:
        return NULL
    s.copy = <u8*>reserve(m.max_page << 12)
    s.mark = <u32*>reserve(m.max_page * sizeof(u32))
    s.dirty = <u64*>reserve(m.max_page * sizeof(u64))
    if s.copy == NULL or s.mark == NULL or s.dirty == NULL:
        snap_free(m, s)
        return NULL
    s.epoch = 1
    m.snap_serial += 1
    s.serial = m.snap_serial
    s.below = m.snap
    m.snap = s
    return s

cdef void snap_pop(Mem* m) noexcept nogil:
    cdef SnapLevel* s = m.snap
    m.snap = s.below
    snap_free(m, s)

cdef void snap_merge(Mem* m, SnapLevel* s) noexcept nogil:
    """Do without snapshot s: what was written while it was the latest was written since the one below."""
    cdef SnapLevel** p = &m.snap
    cdef SnapLevel* b = s.below
    cdef u64 i, mfn
    if b != NULL:
        for i in range(s.n_dirty):
            mfn = s.dirty[i]
            if b.mark[mfn] != b.epoch:
                if b.mark[mfn] == 0:
                    memcpy(b.copy + (mfn << 12), s.copy + (mfn << 12), 4096)
                b.dirty[b.n_dirty] = mfn
                b.n_dirty += 1
                b.mark[mfn] = b.epoch
    while p[0] != s:
        p = &p[0].below
    p[0] = b
    snap_free(m, s)

cdef void restore_code(Mem* m, u64 mfn, const u8* now, const u8* then) noexcept nogil:
    """The frame is about to be put back: drop the decoded blocks whose bytes change.  No vcpu runs."""
    cdef u32 i
    cdef u64 bits
    cdef Cpu* c
    for i in range(m.vcpu_top):
        c = m.vcpus[i]
        if c == NULL or not m.frames[mfn].code & c.code_bit:
            continue
        bits = c.cache.pages[mfn].bitmap
        while bits:
            # SAFETY: 64 granules of 64 bytes are the frame.
            if memcmp(now + 64 * ctz64(bits), then + 64 * ctz64(bits), 64) != 0:
                drop_frame_code(c, mfn)
                break
            bits &= bits - 1

cdef u64 snap_restore(Mem* m) noexcept nogil:
    """Memory as it was when the latest snapshot was taken; returns the number of frames put back.  Every TLB is to be flushed."""
    cdef SnapLevel* s = m.snap
    cdef u64 i, mfn, n = s.n_dirty
    cdef u8* now
    cdef u8* then
    for i in range(n):
        mfn = s.dirty[i]
        now, then = m.host + (mfn << 12), s.copy + (mfn << 12)
        if m.frames[mfn].code:
            restore_code(m, mfn, now, then)
        memcpy(now, then, 4096)
    s.n_dirty = 0
    s.epoch += 1
    if s.epoch == 0:
        # SAFETY: every frame with a mark stays saved; marks below 2^32 restores ago may not look dirty.
        for i in range(m.max_page):
            if s.mark[i]:
                s.mark[i] = 1
        s.epoch = 2
    return n
