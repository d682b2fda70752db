# mmuext_op: pinning, CR3, TLB flushes and what else Xen does to a PV guest's memory.
#
# xen/include/public/xen.h, HYPERVISOR_mmuext_op; behaviour after do_mmuext_op in xen/arch/x86/mm.c.

cdef struct MmuextOp:    # struct mmuext_op
    u32 cmd
    u32 pad
    u64 arg1             # mfn or linear_addr
    u64 arg2             # nr_ents, vcpumask or src_mfn

cdef enum:
    MMUEXT_PIN_L1_TABLE = 0
    MMUEXT_PIN_L4_TABLE = 3
    MMUEXT_UNPIN_TABLE = 4
    MMUEXT_NEW_BASEPTR = 5
    MMUEXT_TLB_FLUSH_LOCAL = 6
    MMUEXT_INVLPG_LOCAL = 7
    MMUEXT_TLB_FLUSH_MULTI = 8
    MMUEXT_INVLPG_MULTI = 9
    MMUEXT_TLB_FLUSH_ALL = 10
    MMUEXT_INVLPG_ALL = 11
    MMUEXT_FLUSH_CACHE = 12
    MMUEXT_SET_LDT = 13
    MMUEXT_NEW_USER_BASEPTR = 15
    MMUEXT_CLEAR_PAGE = 16
    MMUEXT_COPY_PAGE = 17
    MMUEXT_FLUSH_CACHE_GLOBAL = 18
    MMUEXT_MARK_SUPER = 19
    MMUEXT_UNMARK_SUPER = 20
    MMUEXT_BATCH = 64                # as MMU_BATCH; one of these may validate a whole address space


cdef i64 pv_mmuext_op(Cpu* c, u64* a) noexcept nogil:
    """mmuext_op(ops, count, pdone, foreigndom)"""
    cdef u64 ops = a[0], count = <u32>a[1], pdone = a[2], i = 0, left
    cdef MmuextOp op
    cdef u32 done = 0
    cdef int rc
    if count & MMU_UPDATE_PREEMPTED:
        count &= ~MMU_UPDATE_PREEMPTED
        if pdone:
            pv_read(c, pdone, 4, &done)
    rc = foreign_ok(c, <u32>a[3])
    if rc:
        return rc
    while i < count:
        if i == MMUEXT_BATCH or (i and c.req):
            break
        rc = pv_read(c, ops, sizeof(MmuextOp), &op)
        if rc:
            break
        rc = mmuext_one(c, &op)
        if rc:
            break
        i += 1
        ops += sizeof(MmuextOp)
    done += <u32>i
    if pdone:
        pv_write(c, pdone, 4, &done)
    left = count - i
    if rc == 0 and left:
        c.pv.again[0], c.pv.again[1] = ops, left | MMU_UPDATE_PREEMPTED
        c.pv.again[2], c.pv.again[3] = pdone, a[3]
        return HC_AGAIN
    return rc

cdef int mmuext_one(Cpu* c, MmuextOp* op) noexcept nogil:
    cdef u32 cmd = op.cmd
    if cmd <= MMUEXT_PIN_L4_TABLE:
        return pin_table(c.mem, c, op.arg1, c.pv.domid, PGT_l1_page_table + <int>cmd)
    if cmd == MMUEXT_UNPIN_TABLE:
        return unpin_table(c.mem, c, op.arg1, c.pv.domid)
    if cmd == MMUEXT_NEW_BASEPTR or cmd == MMUEXT_NEW_USER_BASEPTR:
        return mmuext_cr3(c, op.arg1, cmd == MMUEXT_NEW_USER_BASEPTR)
    if cmd >= MMUEXT_TLB_FLUSH_LOCAL and cmd <= MMUEXT_INVLPG_ALL:
        return mmuext_flush(c, op, cmd)
    if cmd == MMUEXT_FLUSH_CACHE or cmd == MMUEXT_FLUSH_CACHE_GLOBAL:
        return 0                                      # caches are not modelled
    if cmd == MMUEXT_SET_LDT:
        return pv_set_ldt(c, op.arg1, op.arg2)
    if cmd == MMUEXT_CLEAR_PAGE:
        return mmuext_fill(c, op.arg1, op.arg1, True)
    if cmd == MMUEXT_COPY_PAGE:
        return mmuext_fill(c, op.arg1, op.arg2, False)
    return -ENOSYS                                    # MARK_SUPER and UNMARK_SUPER too: there are no superpages

cdef int pin_table(Mem* m, Cpu* c, u64 mfn, u32 domid, int type) noexcept nogil:
    """Hold a table as one of its type until it is unpinned, whether anything uses it or not."""
    cdef int rc
    mem_lock(m, c)
    rc = get_page_and_type(m, c, mfn, domid, type)
    if rc == 0:
        if m.frames[mfn].flags & FRAME_PINNED:
            put_page_and_type(m, mfn)
            rc = -EINVAL
        else:
            m.frames[mfn].flags |= FRAME_PINNED
    mem_unlock(m)
    return rc

cdef int unpin_table(Mem* m, Cpu* c, u64 mfn, u32 domid) noexcept nogil:
    cdef int rc = -EINVAL
    mem_lock(m, c)
    if mfn < m.max_page and m.frames[mfn].owner == domid and m.frames[mfn].flags & FRAME_PINNED:
        m.frames[mfn].flags &= ~<u8>FRAME_PINNED
        put_page_and_type(m, mfn)
        rc = 0
    mem_unlock(m)
    return rc

cdef int mmuext_cr3(Cpu* c, u64 mfn, bint user) noexcept nogil:
    cdef int rc
    cdef bint same
    mem_lock(c.mem, c)
    # SAFETY: the old L4 is held by Cpu.pv; whether the new one exists is known only afterwards.
    same = mfn < c.mem.max_page and c.pv.cr3_kernel and kernel_half_same(c.mem, c.pv.cr3_kernel >> PAGE_SHIFT, mfn)
    rc = set_cr3(c.mem, c, c.pv, mfn, user)
    mem_unlock(c.mem)
    if rc == 0:
        tlb_flush_pv(c, not user, user, same)
    return rc

cdef int mmuext_flush(Cpu* c, MmuextOp* op, u32 cmd) noexcept nogil:
    """TLB flushes: of this vcpu, of those in a mask, of all; completely or for one page (others always flush completely)."""
    cdef u64 mask = 0
    cdef bint page = cmd & 1
    cdef bint others = cmd >= MMUEXT_TLB_FLUSH_MULTI
    if cmd == MMUEXT_TLB_FLUSH_ALL or cmd == MMUEXT_INVLPG_ALL:
        mask = ~<u64>0
    elif others:
        if pv_read(c, op.arg2, 8, &mask):
            return -EFAULT
    if not others or mask & (<u64>1 << (c.pv.vcpu_id & 63)):
        if not page:
            tlb_flush_pv(c, True, True, True)
        elif access_ok(op.arg1, 1):
            tlb_flush_page(c, op.arg1)
    if others:
        flush_others(c, mask)
    return 0

cdef int mmuext_fill(Cpu* c, u64 mfn, u64 source, bint clear) noexcept nogil:
    """Clear a frame, or copy one: the guest's own, and not in use as anything but plain memory."""
    cdef Mem* m = c.mem
    cdef int rc
    mem_lock(m, c)
    rc = get_page_and_type(m, c, mfn, c.pv.domid, PGT_writable_page)
    if rc == 0:
        # SAFETY: both frames exist (get_page).
        if clear:
            memset(frame_host(m, mfn), 0, PAGE_SIZE)
        elif get_page(m, source, c.pv.domid):
            memmove(frame_host(m, mfn), frame_host(m, source), PAGE_SIZE)
            put_page(m, source)
        else:
            rc = -EINVAL
        if m.frames[mfn].code:
            frame_written(m, mfn)
        put_page_and_type(m, mfn)
    mem_unlock(m)
    return rc
