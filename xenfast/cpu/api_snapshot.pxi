# Snapshot: memory and vcpus of a bare machine, put back in microseconds.

cdef void cpu_restore(Cpu* c, const Cpu* s, u32 flags) noexcept nogil:
    """The state of the processor, out of a copy of the whole struct; caches, settings, hooks and counters stay as they are."""
    cdef u8 hooked = c.bp_on & BP_HOOK
    memcpy(c.r, s.r, sizeof(c.r))
    c.rip, c.cpl, c.inhibit, c.halted = s.rip, s.cpl, s.inhibit, s.halted
    memcpy(&c.exc_vector, &s.exc_vector, <u8*>&c.host_mxcsr - <u8*>&c.exc_vector)      # pending exception ... MXCSR
    memcpy(&c.rng, &s.rng, <u8*>&c.mem - <u8*>&c.rng)
    c.bp_on = (s.bp_on & BP_DEBUG) | hooked
    c.eflags = s.eflags
    set_arith(c, flags)
    c.timer_deadline, c.icount = s.timer_deadline, s.icount
    c.req = (c.req & ~<u32>REQ_EVENT) | (s.req & REQ_EVENT)
    c.hook_skip, c.hook_at, c.seen_n = s.hook_skip, s.hook_at, 0
    c.want_link = NULL
    c.code_hit = 0

cdef void cpu_reset_caches(Cpu* c) noexcept nogil:
    """Nothing of the TLBs holds any more."""
    cdef int k
    tlb_flush(c)
    for k in range(PARKED):
        c.parked[k].pcid = PCID_NONE
    update_mode(c)


cdef class Snapshot:
    """Registers and memory of the vcpus of a bare machine as they are now; ``restore()`` puts them back, as often as wanted.

    Taking one and restoring it cost what is written in between, by the page.  Snapshots of a memory are a stack: restoring one makes those
    taken after it invalid.  Take and restore while no vcpu of the memory is in run() (a hook of the only one is not).
    """

    cdef Memory memory
    cdef tuple vcpus
    cdef SnapLevel* level
    cdef u64 serial
    cdef Cpu* saved
    cdef u32* flags
    cdef Clock clock
    cdef public object layout               # what the owner wants to keep with it

    def __init__(self, *vcpus):
        cdef Vcpu v
        cdef Py_ssize_t i
        if not vcpus or self.saved != NULL:
            raise ValueError("a snapshot is of at least one vcpu")
        v = vcpus[0]
        self.memory, self.vcpus = v.memory, vcpus
        for v in vcpus:
            if v.c.is_pv:
                raise ValueError("a PV domain is more than its memory and vcpus: it has no snapshots")
            if v.c.lapic != NULL:
                raise ValueError("there are no snapshots of machines with local APICs yet")
            if v.memory is not self.memory:
                raise ValueError("the vcpus of a snapshot share one memory")
        self.check_stopped()
        self.saved = <Cpu*>malloc(len(vcpus) * sizeof(Cpu))
        self.flags = <u32*>malloc(len(vcpus) * sizeof(u32))
        if self.saved == NULL or self.flags == NULL:
            raise MemoryError
        self.level = snap_push(&self.memory.m)
        if self.level == NULL:
            raise MemoryError("no address space for a snapshot")
        self.serial = self.level.serial
        for i, v in enumerate(vcpus):
            memcpy(&self.saved[i], v.c, sizeof(Cpu))
            self.flags[i] = get_eflags(v.c)
            self.clock = v.c.clock[0]
        self.flush_all()

    def __dealloc__(self):
        if self.valid():
            snap_merge(&self.memory.m, self.level)
        free(self.saved)
        free(self.flags)

    cdef bint valid(self) noexcept:
        cdef SnapLevel* s = NULL if self.memory is None else self.memory.m.snap
        while s != NULL and (s != self.level or s.serial != self.serial):
            s = s.below
        return s != NULL

    cdef check_stopped(self):
        cdef u32 i
        for i in range(self.memory.m.vcpu_top):
            if self.memory.m.vcpus[i] != NULL and self.memory.m.vcpus[i].in_run:
                raise RuntimeError("a vcpu is running")

    cdef void flush_all(self) noexcept:
        cdef u32 i
        for i in range(self.memory.m.vcpu_top):
            if self.memory.m.vcpus[i] != NULL:
                cpu_reset_caches(self.memory.m.vcpus[i])

    @property
    def dirty(self):
        """Frames written since this snapshot was taken or restored (while it is the latest)."""
        return [self.level.dirty[i] for i in range(self.level.n_dirty)] if self.valid() else []

    def restore(self):
        """Back to where it was taken; returns how many frames had to be put back."""
        cdef Py_ssize_t i
        cdef Vcpu v
        cdef Mem* m = &self.memory.m
        cdef u64 n = 0
        if not self.valid():
            raise ValueError("the snapshot is no more: an older one has been restored, or it was discarded")
        self.check_stopped()
        while m.snap != self.level:
            n += snap_restore(m)
            snap_pop(m)
        n += snap_restore(m)
        for i in range(len(self.vcpus)):
            v = self.vcpus[i]
            cpu_restore(v.c, &self.saved[i], self.flags[i])
            if v.c.clock.is_virtual:
                v.c.clock[0] = self.clock
        self.flush_all()
        return n

    def discard(self):
        """Keep memory as it is now and forget the snapshot."""
        if self.valid():
            snap_merge(&self.memory.m, self.level)
            self.flush_all()
        self.level = NULL
