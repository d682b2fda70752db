# Machine memory: one sparse host mapping, the frame table beside it, the M2P table, and the lock over all three.
#
# Modelled on Xen's frame table (xen/arch/x86/mm.c, xen/common/page_alloc.c): every machine frame has an owner and a count of
# references; the allocation itself is one of them, and the frame is free when the last one is dropped.  What a frame may be
# used as (its type) is the business of pv_types.pxi.
#
# Nothing is touched before the guest touches it: the mapping is MAP_NORESERVE, and a freed frame is given back to the host with
# MADV_DONTNEED, which also zeroes it for the next owner.

# Domain identifiers with a meaning (xen/include/public/xen.h).
cdef enum:
    DOMID_FIRST_RESERVED = 0x7FF0
    DOMID_SELF = 0x7FF0
    DOMID_IO = 0x7FF1
    DOMID_XEN = 0x7FF2
    DOMID_COW = 0x7FF3
    DOMID_INVALID = 0x7FF4

cdef enum:
    PAGE_SHIFT = 12
    PAGE_SIZE = 4096

# INVALID_M2P_ENTRY: what the M2P holds for a frame that is no guest's.
cdef u64 M2P_INVALID = ~<u64>0
cdef u64 MFN_NONE = ~<u64>0          # what the searches below return for "none"

# Reference counts saturate far below wrapping: a guest that reaches this is refused further references.
cdef u32 COUNT_MAX = 0x7FFFFFFF


# --- frames ----------------------------------------------------------------------------------------------------------
cdef inline u8* frame_host(Mem* m, u64 mfn) noexcept nogil:
    """Host address of a machine frame.  SAFETY: the caller has checked mfn < m.max_page."""
    return m.host + (mfn << PAGE_SHIFT)

cdef int mem_create(Mem* m, u64 frames) noexcept nogil:
    """Reserve host address space for so many frames, all of them free.  -1: the host refuses."""
    memset(m, 0, sizeof(Mem))
    m.max_page = frames
    m.m2p_bytes = (frames * 8 + PAGE_SIZE - 1) & ~<u64>(PAGE_SIZE - 1)
    m.host = <u8*>reserve(frames << PAGE_SHIFT)
    m.frames = <Frame*>reserve(frames * sizeof(Frame))
    m.m2p = <u64*>reserve(m.m2p_bytes)
    if m.host == NULL or m.frames == NULL or m.m2p == NULL:
        mem_destroy(m)
        return -1
    memset(m.m2p, 0xFF, m.m2p_bytes)
    cdef u64 i
    for i in range(frames):
        m.frames[i].owner = DOMID_INVALID
    m.free_pages = frames
    m.cursor = 1                     # frame 0 comes last: a CR3 of 0 means none
    m.flush_clock = 1
    return 0

cdef void mem_destroy(Mem* m) noexcept nogil:
    while m.snap != NULL:
        snap_pop(m)
    release(m.host, m.max_page << PAGE_SHIFT)
    release(m.frames, m.max_page * sizeof(Frame))
    release(m.m2p, m.m2p_bytes)
    free(m.vcpus)
    cdef void* room = m.spare_rooms
    cdef void* after
    while room != NULL:
        after = (<void**>room)[0]
        release(room, CPU_BYTES)
        room = after
    memset(m, 0, sizeof(Mem))

cdef u8* room_take(Mem* m) noexcept nogil:
    """Address space for a new Cpu, all zeroes; NULL: the host refuses."""
    spin_lock(&m.lock)
    cdef void* room = m.spare_rooms
    if room != NULL:
        m.spare_rooms = (<void**>room)[0]
        (<void**>room)[0] = NULL
    spin_unlock(&m.lock)
    return <u8*>(room if room != NULL else reserve(CPU_BYTES))

cdef void room_give(Mem* m, u8* room) noexcept nogil:
    """A Cpu is gone.  Its room stays mapped for the next one: a vcpu that is running may have just read its address in
    Mem.vcpus, and look at requests there or leave one, which means nothing to zeroes or to the next Cpu.
    """
    discard(room, CPU_BYTES)
    spin_lock(&m.lock)
    (<void**>room)[0] = m.spare_rooms
    m.spare_rooms = room
    spin_unlock(&m.lock)

cdef enum:
    VCPU_SLOTS = 16384

cdef int mem_add_vcpu(Mem* m, Cpu* c) noexcept nogil:
    """Enter a vcpu in the list that dropped code goes to.  -1: the host has no memory."""
    cdef u32 i
    cdef Cpu** grown
    spin_lock(&m.lock)
    for i in range(m.vcpu_slots):
        if m.vcpus[i] == NULL:
            break
    else:
        i = m.vcpu_slots
        grown = <Cpu**>realloc(m.vcpus, (i + VCPU_SLOTS) * sizeof(Cpu*))
        if grown == NULL:
            spin_unlock(&m.lock)
            return -1
        memset(grown + i, 0, VCPU_SLOTS * sizeof(Cpu*))
        m.vcpus = grown              # large enough at once that running vcpus never see it move
        m.vcpu_slots = i + VCPU_SLOTS
    m.vcpus[i] = c
    m.vcpu_top = max(m.vcpu_top, i + 1)
    c.code_bit = <u32>1 << (i & 31)
    spin_unlock(&m.lock)
    return 0

cdef void mem_remove_vcpu(Mem* m, Cpu* c) noexcept nogil:
    cdef u32 i
    spin_lock(&m.lock)
    for i in range(m.vcpu_slots):
        if m.vcpus[i] == c:
            m.vcpus[i] = NULL
    spin_unlock(&m.lock)


# --- allocation (call with m.lock held) ------------------------------------------------------------------------------
cdef inline void frame_take(Mem* m, u64 mfn, u32 domid, u8 flags) noexcept nogil:
    """A free frame becomes a domain's: one reference for being allocated, no type.  Its stamp stays, for the TLB filter."""
    cdef Frame* f = &m.frames[mfn]
    f.owner = <u16>domid
    f.count = 1
    f.type = PGT_none
    f.type_count = 0
    f.flags = FRAME_ALLOCATED | flags
    if flags & FRAME_SHARED:
        f.type = PGT_writable_page
        f.type_count = 1
    m.free_pages -= 1

cdef void frame_free(Mem* m, u64 mfn) noexcept nogil:
    """The last reference is gone: forget the contents, and let the frame be allocated again."""
    cdef Frame* f = &m.frames[mfn]
    f.owner = DOMID_INVALID
    f.type = PGT_none
    f.type_count = 0
    f.flags = 0
    f.stamp = m.flush_clock
    m.m2p[mfn] = M2P_INVALID
    if f.code:
        frame_written(m, mfn)        # block.pxi: every vcpu in f.code drops what it decoded from the frame
    discard(frame_host(m, mfn), PAGE_SIZE)
    m.free_pages += 1

cdef u64 mem_alloc_run(Mem* m, u64 n) noexcept nogil:
    """First frame of n adjacent free frames, or MFN_NONE.  The frames are not taken yet."""
    cdef u64 i, have = 0
    if n == 0 or n > m.free_pages:
        return MFN_NONE
    for i in range(0 if n == m.max_page else 1, m.max_page):
        have = have + 1 if m.frames[i].owner == DOMID_INVALID else 0
        if have == n:
            return i + 1 - n
    return MFN_NONE

cdef u64 mem_alloc_one(Mem* m) noexcept nogil:
    """A free frame, looked for from where the last search ended, or MFN_NONE.  Not taken yet."""
    cdef u64 i
    if m.free_pages == 0:
        return MFN_NONE
    for i in range(m.max_page):
        if m.cursor >= m.max_page:
            m.cursor = 1
            if m.max_page == 1:
                break
        if m.frames[m.cursor].owner == DOMID_INVALID:
            m.cursor += 1
            return m.cursor - 1
        m.cursor += 1
    return 0 if m.frames[0].owner == DOMID_INVALID else MFN_NONE


cdef int mem_alloc(Mem* m, u32 domid, u64 n, u64* out, bint run, u8 flags) noexcept nogil:
    """Give n frames to a domain; takes the lock itself.  -1: there are not so many, or no n adjacent ones."""
    cdef u64 i, first = 0, stamp = 0
    spin_lock(&m.lock)
    if run and n:
        first = mem_alloc_run(m, n)
    if n > m.free_pages or first == MFN_NONE:
        spin_unlock(&m.lock)
        return -1
    for i in range(n):
        out[i] = first + i if run else mem_alloc_one(m)
        stamp = max(stamp, m.frames[out[i]].stamp)
        frame_take(m, out[i], domid, flags)
    if stamp:
        flush_all_stale(m, stamp)
    spin_unlock(&m.lock)
    return 0


# --- references (call with m.lock held) ------------------------------------------------------------------------------
cdef inline bint get_page(Mem* m, u64 mfn, u32 domid) noexcept nogil:
    """One more reference to a frame of this domain; 0: no such frame, another's, being freed, or too many references."""
    cdef Frame* f
    if mfn >= m.max_page:
        return 0
    f = &m.frames[mfn]
    if f.owner != domid or f.count == 0 or f.count >= COUNT_MAX:
        return 0
    f.count += 1
    return 1

cdef inline void put_page(Mem* m, u64 mfn) noexcept nogil:
    """Drop a reference that get_page gave; the last one frees the frame."""
    cdef Frame* f = &m.frames[mfn]
    f.count -= 1
    if f.count == 0:
        frame_free(m, mfn)

cdef bint mem_free_frame(Mem* m, u64 mfn) noexcept nogil:
    """Give up the allocation of a frame.  It is free once nothing refers to it any more (a grant may still map it)."""
    cdef Frame* f
    if mfn >= m.max_page:
        return 0
    f = &m.frames[mfn]
    if not f.flags & FRAME_ALLOCATED:
        return 0
    f.flags &= ~<u8>FRAME_ALLOCATED
    if f.flags & FRAME_SHARED:
        f.type_count -= 1
    put_page(m, mfn)
    return 1
