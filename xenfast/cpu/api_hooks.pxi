# Hook, and what Vcpu.run() does when one is to be called.

cdef enum:
    STOPS = 8

TESTS = {"==": TEST_EQ, "!=": TEST_NE, "<": TEST_LT, "<=": TEST_LE, ">": TEST_GT, ">=": TEST_GE}
SUBJECTS = {"value": COND_VALUE, "size": COND_SIZE, "address": COND_ADDRESS}


cdef check_not_running(Cpu* c):
    """Decoded code belongs to the thread that runs it."""
    if load_acquire(&c.in_run):
        raise RuntimeError("the vcpu is in run(): change its hooks from one of its hooks, or stop it first")

cdef void hooks_changed(Cpu* c, HookRule* h) noexcept:
    cdef HookRule* p = c.hooks
    c.hook_on = 0
    while p != NULL:
        c.hook_on |= p.kind
        p = p.next
    if h.kind & HOOK_ALL_CODE:
        drop_hooked(c, h.first, h.last)
    elif h.call:
        cache_flush(c)                      # translated code keeps the flags that such hooks may look at (hooks_call)
    if h.kind & HOOK_MEMORY:
        c.bp_on = (c.bp_on & BP_DEBUG) | (BP_HOOK if c.hook_on & HOOK_MEMORY else 0)
        tlb_flush(c)

cdef void add_rule(Cpu* c, HookRule* h) noexcept:
    cdef HookRule** p = &c.hooks
    while p[0] != NULL:                     # called in the order in which they were made
        p = &p[0].next
    p[0] = h
    hooks_changed(c, h)

cdef void remove_rule(Cpu* c, HookRule* h) noexcept:
    cdef HookRule** p = &c.hooks
    while p[0] != NULL and p[0] != h:
        p = &p[0].next
    if p[0] == NULL:
        return
    p[0] = h.next
    h.next = NULL
    hooks_changed(c, h)


cdef class Hook:
    """A hook of a vcpu, made by ``Vcpu.hook()``.  ``hits`` counts, in the core; ``remove()`` ends it; as a context manager it ends with
    the block.

    ``when`` is a list of at most four conditions (subject, test, value[, mask]) that must all hold for an event to count: the subject is
    a register, ``"value"`` (written, or about to be read; a fault's error code), ``"size"`` or ``"address"``; tests are unsigned.
    Python is entered for the event number ``after`` and every ``every``-th behind it.  ``cover`` is a writable buffer, one byte a
    place, that hits increment (from 255 on to 1): COVER_EDGE indexes it by the pair of the place before and this one, COVER_HASH by
    the place (both need a size that is a power of two), COVER_OFFSET by address - first.
    """

    cdef HookRule rule
    cdef Cpu* c
    cdef object vcpu
    cdef public object callback
    cdef Py_buffer* view                # not a member: a collection that clears it would end the buffer under us
    cdef u64[64] row_bits

    def __init__(self, u32 kind, callback, u64 first, u64 last, cover, int cover_mode, when, u64 after, u64 every, mnemonics, u64 answer):
        if kind not in (HOOK_BLOCK, HOOK_CODE, HOOK_READ, HOOK_WRITE, HOOK_MEMORY, HOOK_INTERRUPT, HOOK_PORT, HOOK_HYPERCALL):
            raise ValueError(f"there is no kind of hook {kind}")
        if last < first:
            raise ValueError(f"the range {first:#x}..{last:#x} is empty")
        self.rule.kind, self.rule.first, self.rule.last = kind, first, last
        self.rule.after, self.rule.every, self.rule.answer = after, every, answer
        self.rule.call = callback is not None
        self.callback = callback
        for condition in when:
            self.add_condition(tuple(condition))
        if mnemonics is not None:
            self.set_mnemonics(mnemonics)
        if cover is not None:
            self.set_cover(cover, cover_mode)

    cdef add_condition(self, tuple condition):
        cdef HookCondition* q
        if len(condition) not in (3, 4):
            raise ValueError("a condition is (subject, test, value) or (subject, test, value, mask)")
        subject, test = condition[:2]
        if self.rule.n_cond == 4:
            raise ValueError("at most four conditions")
        if test not in TESTS or (subject not in SUBJECTS and subject not in REGISTERS):
            raise ValueError(f"no such condition: {subject} {test}")
        q = &self.rule.cond[self.rule.n_cond]
        q.what = SUBJECTS.get(subject, REGISTERS.get(subject))
        q.test, q.value, q.mask = TESTS[test], condition[2], condition[3] if len(condition) == 4 else 0xFFFFFFFFFFFFFFFF
        self.rule.n_cond += 1

    cdef set_mnemonics(self, names):
        cdef int i
        wanted = {str(name).upper() for name in names}
        found = set()
        for i in range(n_rows):
            if rows[i].name != NULL and (<bytes>rows[i].name).decode() in wanted:
                self.row_bits[i >> 6] |= <u64>1 << (i & 63)
                found.add((<bytes>rows[i].name).decode())
        if wanted - found:
            raise ValueError(f"no such instruction: {', '.join(sorted(wanted - found))}")
        self.rule.rows = self.row_bits

    cdef set_cover(self, cover, int mode):
        self.view = <Py_buffer*>calloc(1, sizeof(Py_buffer))
        if self.view == NULL:
            raise MemoryError
        PyObject_GetBuffer(cover, self.view, PyBUF_WRITABLE | PyBUF_SIMPLE)
        if mode not in (COVER_EDGE, COVER_HASH, COVER_OFFSET) or self.view.len == 0:
            raise ValueError("the map must have room, and one of the modes COVER_EDGE, COVER_HASH, COVER_OFFSET")
        if mode != COVER_OFFSET and self.view.len & (self.view.len - 1):
            raise ValueError("the size of the map must be a power of two")
        self.rule.cover = mode
        self.rule.map = <u8*>self.view.buf
        self.rule.map_mask = self.view.len if mode == COVER_OFFSET else self.view.len - 1

    def __dealloc__(self):
        if self.view != NULL:
            PyBuffer_Release(self.view)
            free(self.view)

    def __repr__(self):
        return f"<Hook {HookKind(self.rule.kind).name} {self.rule.first:#x}..{self.rule.last:#x}, {self.rule.hits} hits>"

    @property
    def kind(self):
        return self.rule.kind

    @property
    def first(self):
        return self.rule.first

    @property
    def last(self):
        return self.rule.last

    @property
    def hits(self):
        """Events that met all conditions."""
        return self.rule.hits

    @hits.setter
    def hits(self, u64 value):
        self.rule.hits = value

    def restart(self):
        """COVER_EDGE: the next place has none before it (a new run of a fuzzer)."""
        self.rule.prev = 0

    def remove(self):
        """End the hook.  May be called from any hook; once more is nothing."""
        if self.vcpu is not None:
            check_not_running(self.c)
            remove_rule(self.c, &self.rule)
            (<Vcpu>self.vcpu).hook_by_id.pop(self.rule.id, None)
            self.vcpu = None

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.remove()


# ---- calling them ---------------------------------------------------------------------------------------------------
cdef u32 answer_hooks(Vcpu vcpu, Cpu* c) except? 0xFFFFFFFF:
    """Call the hooks that run() was left for.  EXIT_NONE to go on, or the reason to stop."""
    cdef u32 i
    cdef u32 kind = c.hook_kind
    cdef list hooks = [vcpu.hook_by_id.get(c.hook_hit[i]) for i in range(c.hook_n)]
    cdef object owner = vcpu.owner if vcpu.owner is not None else vcpu
    if kind & HOOK_ALL_CODE:
        call_code(hooks, owner, c)
    elif kind & HOOK_MEMORY:
        call_memory(hooks, owner, c)
    elif kind == HOOK_INTERRUPT:
        return call_interrupt(hooks, owner, c)
    elif kind == HOOK_PORT:
        call_port(hooks, owner, c)
    elif kind == HOOK_HYPERCALL:
        call_hypercall(hooks, owner, c)
    return EXIT_NONE

cdef int call_code(list hooks, owner, Cpu* c) except -1:
    """callback(owner, address, size).  Should one raise, the instruction's hooks have been called nevertheless."""
    cdef u64 address = c.exit.address, size = c.exit.size, block = c.exit.count, rip = c.rip
    cdef bint done = False
    cdef Hook h
    c.hook_skip, c.hook_at = SKIP_ALL, address
    for h in hooks:
        if h is None or h.vcpu is None:
            continue
        if h.rule.kind == HOOK_BLOCK:
            h.callback(owner, address, block)
        elif h.callback(owner, address, size) is True:
            done = True
    if done and c.rip == rip:
        c.rip = rip + size if c.mode & MODE_64 else <u32>(rip + size)
        c.hook_skip, c.hook_at = SKIP_BLOCK, code_lin(c, c.rip)
    return 0

cdef int call_memory(list hooks, owner, Cpu* c) except -1:
    """callback(owner, address, size, is_write, value), before the access."""
    cdef u64 address = c.exit.address, size = c.exit.size, value = c.exit.value
    cdef bint is_write = c.exit.is_write
    cdef Hook h
    note_seen(c)
    for h in hooks:
        if h is not None and h.vcpu is not None:
            h.callback(owner, address, size, is_write, value)
    return 0

cdef u32 call_interrupt(list hooks, owner, Cpu* c) except? 0xFFFFFFFF:
    """callback(owner, vector, error); True: it is dealt with.  Else it is delivered, also when the callback has moved rip."""
    cdef u8 vector = c.exc_vector, has_error = c.exc_has_error
    cdef u32 error = c.exc_error
    cdef u64 int_rip = c.int_rip
    cdef int status = <int>c.exit.code
    cdef u8 soft = c.soft_int
    cdef bint done = False
    cdef Hook h
    c.soft_int = 0
    for h in hooks:
        if h is not None and h.vcpu is not None and h.callback(owner, vector, error) is True:
            done = True
    if done:
        return EXIT_NONE
    c.exc_vector, c.exc_has_error, c.exc_error, c.int_rip, c.soft_int, c.status = vector, has_error, error, int_rip, soft, status
    c.hook_quiet += 1
    status = deliver(c)
    c.hook_quiet -= 1
    return c.exit.reason if status == ST_EXIT else EXIT_NONE

cdef int call_port(list hooks, owner, Cpu* c) except -1:
    """callback(owner, port, size, value), the value None for a read, whose answer is what is returned (None: all ones)."""
    cdef Exit e = c.exit
    cdef Hook h
    cdef u64 answer = ~<u64>0
    for h in hooks:
        if h is not None and h.vcpu is not None:
            got = h.callback(owner, e.port, e.size, e.value if e.is_write else None)
            if got is not None and not e.is_write:
                answer = got & 0xFFFFFFFFFFFFFFFF
    if not e.is_write:
        c.exit = e
        c.hook_quiet += 1
        port_answer(c, answer)
        c.hook_quiet -= 1
    return 0

cdef int call_hypercall(list hooks, owner, Cpu* c) except -1:
    """callback(owner, number); what it returns, unless None, goes to RAX."""
    cdef u64 number = c.exit.address
    cdef Hook h
    for h in hooks:
        if h is not None and h.vcpu is not None:
            got = h.callback(owner, number)
            if got is not None:
                c.r[RAX] = got & 0xFFFFFFFFFFFFFFFF
    return 0

cdef int quiet_read(Cpu* c, u64 lin, u64 n, void* out) noexcept nogil:
    cdef int st
    c.hook_quiet += 1
    st = mem_read_n(c, lin, n, out)
    c.hook_quiet -= 1
    return st

cdef int quiet_write(Cpu* c, u64 lin, u64 n, const void* data) noexcept nogil:
    cdef int st
    c.hook_quiet += 1
    st = mem_write_n(c, lin, n, data)
    c.hook_quiet -= 1
    return st
