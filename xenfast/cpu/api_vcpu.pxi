# The Python classes of a CPU: Clock, PhysMap, Vcpu.

REGISTERS = {name: i for i, name in enumerate(
    "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15".split())}
SEGMENTS = {name: i for i, name in enumerate("es cs ss ds fs gs ldtr tr".split())}

UNKNOWN_NAMES = {
    UNKNOWN_OPCODE: "instruction", UNKNOWN_MSR_READ: "rdmsr", UNKNOWN_MSR_WRITE: "wrmsr", UNKNOWN_PORT: "port",
    UNKNOWN_HYPERCALL: "hypercall",
}
cdef enum:
    CPU_HEADROOM = 64 << 10
    CPU_BYTES = (64 << 10) + (128 << 10) + (1 << 16) * 32      # headroom, Cpu, sites

STAT_NAMES = ("blocks_decoded", "instructions_decoded", "lookups", "tlb_fills", "tlb_flushes", "faults", "blocks_dropped", "events",
              "cache_flushes", "hypercalls", "translated")


MMU_KINDS = ("read", "write", "fetch", "flush all", "flush non-global", "flush page", "flush kernel", "flush user", "flush pcid",
             "switch to pcid")


def host_cpuid(u32 leaf, u32 sub=0):
    """(EAX, EBX, ECX, EDX) of the host's own CPUID; None where there is none, or no such leaf."""
    cdef u32[4] r
    if not xf_host_cpuid(leaf, sub, r):
        return None
    return r[0], r[1], r[2], r[3]


def cpuid_known(bint default=False):
    """The names of the features that are implemented for some kind of guest; default: without those one must ask for."""
    return frozenset(row[0] for row in CPUID_FEATURES if row[3] != OFF and not (default and row[3] == ASK))


def opcode_features():
    """The feature (or None) that each row of the opcode table needs, in the order of opcode_rows()."""
    names = {feature_id(word, bit): name for name, word, bit, *_ in CPUID_FEATURES}
    return [names.get(rows[i].feature) for i in range(n_rows)]


def translator_works():
    """Does this host give executable memory to translate into?"""
    cdef Jit* j = jit_new()
    if j == NULL:
        return False
    jit_free(j)
    return True


class GuestFault(Exception):
    """A guest address could not be read or written."""


cdef class MachineClock:
    """Time of a machine in ns: the host's monotonic clock, or virtual (instructions retired, idle time skipped)."""
    cdef Clock clock

    def __init__(self, bint virtual=False):
        self.clock.is_virtual = virtual
        self.clock.start = monotonic_ns()

    @property
    def virtual(self):
        return bool(self.clock.is_virtual)

    def now(self):
        """ns since the machine was made (virtual: as of the last time a vcpu left run())."""
        if self.clock.is_virtual:
            return self.clock.now + self.clock.offset
        return monotonic_ns() - self.clock.start + self.clock.offset

    def skip(self, u64 ns):
        """Let ns pass at once (virtual time: nothing is runnable before then)."""
        self.clock.offset += ns


cdef class GuestPhysMap:
    """Guest frame -> machine frame of a bare machine, PVH or HVM guest.  Frames not mapped are device memory.

    It may change while vcpus run: once set() or clear() has returned, none of them uses what was there before.
    """
    cdef PhysMap map
    cdef Memory memory                      # of the vcpus that use it; None: none yet

    def __cinit__(self, u64 max_gfn):
        if not 0 < max_gfn <= <u64>1 << (PHYS_BITS - PAGE_SHIFT):
            raise ValueError(f"a map of {max_gfn} frames is not possible")
        self.map.mfn = <u64*>reserve(max_gfn * 8)       # only what is used of it takes memory of the host
        if self.map.mfn == NULL:
            raise MemoryError
        self.map.max_gfn = max_gfn

    def __dealloc__(self):
        release(self.map.mfn, self.map.max_gfn * 8)

    @property
    def max_gfn(self):
        """Frames from this one on cannot be mapped."""
        return self.map.max_gfn

    def set(self, u64 gfn, mfns, bint readonly=False):
        """Map consecutive guest frames from gfn to the machine frames of the sequence."""
        cdef u64[::1] frames = numpy.ascontiguousarray(mfns, dtype=numpy.uint64)
        cdef u64 i, n = frames.shape[0], flags = PHYSMAP_RAM | (PHYSMAP_RO if readonly else 0)
        cdef bint changed = False
        if n > self.map.max_gfn or gfn > self.map.max_gfn - n:
            raise ValueError(f"guest frame {gfn + n - 1:#x} is beyond the end of the map ({self.map.max_gfn:#x})")
        for i in range(n):
            changed |= self.map.mfn[gfn + i] & PHYSMAP_RAM != 0
            self.map.mfn[gfn + i] = frames[i] | flags
        if changed:
            self.flush()

    def get(self, u64 gfn):
        """Machine frame, or None."""
        if gfn >= self.map.max_gfn or not self.map.mfn[gfn] & PHYSMAP_RAM:
            return None
        return self.map.mfn[gfn] & PHYSMAP_MFN

    def is_readonly(self, u64 gfn):
        """Is there a ROM?"""
        return gfn < self.map.max_gfn and self.map.mfn[gfn] & PHYSMAP_RO != 0

    def clear(self, u64 gfn, u64 count=1):
        """From now on there is nothing: accesses go to devices."""
        cdef u64 i
        cdef bint changed = False
        for i in range(gfn, min(gfn + count, self.map.max_gfn)):
            changed |= self.map.mfn[i] & PHYSMAP_RAM != 0
            self.map.mfn[i] = 0
        if changed:
            self.flush()

    def clear_list(self, gfns):
        """The same for frames that lie anywhere."""
        cdef u64[::1] frames = numpy.ascontiguousarray(gfns, dtype=numpy.uint64)
        cdef Py_ssize_t i
        cdef bint changed = False
        for i in range(frames.shape[0]):
            if frames[i] < self.map.max_gfn:
                changed |= self.map.mfn[frames[i]] & PHYSMAP_RAM != 0
                self.map.mfn[frames[i]] = 0
        if changed:
            self.flush()

    def used(self):
        """The guest frames that are mapped, as a numpy array in order."""
        table = numpy.frombuffer(HostArray.make(self, self.map.mfn, self.map.max_gfn * 8), dtype=numpy.uint64)
        return numpy.nonzero(table)[0]

    cdef void flush(self):
        """No vcpu that uses the map may go on with an old translation."""
        cdef u32 i
        cdef Cpu* v
        cdef Mem* m
        if self.memory is None:
            return
        m = &self.memory.m
        with nogil:
            for i in range(m.vcpu_top):
                v = m.vcpus[i]
                if v != NULL and v.physmap == &self.map:
                    fetch_or(&v.req, REQ_FLUSH)
            for i in range(m.vcpu_top):
                v = m.vcpus[i]
                if v != NULL and v.physmap == &self.map:
                    wait_flushed(NULL, v)


cdef class ApicBus:
    """What joins the local APICs of a machine."""
    cdef ApicBusState b

    cdef add(self, Cpu* c):
        cdef int i
        for i in range(APIC_MAX_CPUS):
            if self.b.cpus[i] == NULL:
                self.b.cpus[i] = c
                return
        raise ValueError(f"there are {APIC_MAX_CPUS} local APICs already")

    cdef forget(self, Cpu* c):
        cdef int i
        for i in range(APIC_MAX_CPUS):
            if self.b.cpus[i] == c:
                self.b.cpus[i] = NULL

    def send(self, u32 dest, u32 vector, u32 mode=0, bint logical=False, bint level=False, bint extended=False):
        """A message, as of an I/O APIC or an MSI; from any thread.  True: a vcpu that sleeps has to be run."""
        if mode > 7 or vector > 255:
            raise ValueError("there is no such message")
        return bus_send(&self.b, dest, logical, extended, mode, vector, level)


cdef class Vcpu:
    """A virtual CPU.  After construction: the state after RESET, with CS:RIP at F000:FFF0.

    Registers are attributes (``rax`` ... ``r15``, ``rip``, ``rflags``, ``cr0``, ``cr2``, ``cr3``, ``cr4``, ``efer``); segments are
    read and written with ``segment()`` and ``set_segment()``.  ``run(budget)`` releases the GIL, runs up to that many instructions and
    returns an ``ExitReason``.
    """
    cdef Cpu* c
    cdef readonly object memory
    cdef readonly object clock
    cdef readonly object physmap
    cdef readonly object apic_bus
    cdef public object owner                # what hooks get as their first argument; None: this object
    cdef dict hook_by_id
    cdef u32 next_hook
    cdef HookRule stops[STOPS]              # addresses that run() has been asked to stop at, lately
    cdef u32 n_stops
    cdef object mmu_reader                  # called when run() returns and there are MMU events

    def __cinit__(self, Memory memory, physmap=None, clock=None, *args, **kwargs):
        cdef MachineClock k = clock if clock is not None else MachineClock()
        cdef int i
        cdef u8* room
        room = room_take(&memory.m)         # signal frames land below the Cpu while translated code runs
        if room == NULL:
            raise MemoryError
        self.c = <Cpu*>(room + CPU_HEADROOM)
        self.c.sites = <Site*>(room + CPU_BYTES - SITES * sizeof(Site))
        self.memory, self.clock, self.physmap = memory, k, physmap
        self.hook_by_id = {}
        self.c.mem = &memory.m
        self.c.clock = &k.clock
        if physmap is not None:
            self.c.physmap = &(<GuestPhysMap?>physmap).map
            (<GuestPhysMap>physmap).memory = memory
        self.c.jc = <JumpEntry*>reserve(sizeof(JumpEntry) * JC_SIZE)
        for i in range(2):
            self.c.tlbs[i] = <TlbEntry*>reserve(sizeof(TlbEntry) * TLB_SIZE)
            self.c.notes[i].filled = TLB_FEW + 1       # all zeroes is not all invalid: clear every slot once
        self.c.cache = cache_new(memory.m.max_page)
        if self.c.cache == NULL or self.c.jc == NULL or self.c.tlbs[0] == NULL or self.c.tlbs[1] == NULL:
            raise MemoryError("no address space for a vcpu's caches")
        if mem_add_vcpu(&memory.m, self.c) < 0:
            raise MemoryError
        for i in range(PARKED):
            self.c.parked[i].pcid = PCID_NONE
        policy_reset(self.c)
        self.engine = "auto"
        reset_cpu(self.c)
        self.c.seg[CS].sel = 0xF000
        self.c.seg[CS].base = 0xFFFF0000
        self.c.rip = 0xFFF0
        update_mode(self.c)

    def __dealloc__(self):
        cdef int i
        if self.c == NULL:
            return
        if self.c.mem != NULL:
            mem_remove_vcpu(self.c.mem, self.c)
        release(self.c.profile, sizeof(Profile))
        release(self.c.mmu_trace, sizeof(MmuTrace))
        if self.apic_bus is not None:
            (<ApicBus>self.apic_bus).forget(self.c)
        free(self.c.lapic)
        cache_free(self.c.cache)
        release(self.c.jc, sizeof(JumpEntry) * JC_SIZE)
        release(self.c.tlbs[0], sizeof(TlbEntry) * TLB_SIZE)
        release(self.c.tlbs[1], sizeof(TlbEntry) * TLB_SIZE)
        for i in range(PARKED):
            release(self.c.parked[i].tlb, sizeof(TlbEntry) * TLB_SIZE)
        jit_free(self.c.jit)
        room_give(self.c.mem, <u8*>self.c - CPU_HEADROOM)

    # -- running ------------------------------------------------------------------------------------------------------
    def run(self, i64 budget=0x7FFFFFFFFFFFFFFF):
        """Run at most budget instructions; returns the ExitReason, with its record in exit_*."""
        return self.run_hooked(budget)

    def kick(self, u32 bits=REQ_STOP):
        """From any thread: have run() look at the requests (REQ_STOP: return EXIT_STOP)."""
        request(self.c, bits)

    @property
    def debug_registers(self):
        """(DR0, DR1, DR2, DR3, DR6, DR7)."""
        cdef u64* d = self.c.dr
        return d[0], d[1], d[2], d[3], d[6], d[7]

    @debug_registers.setter
    def debug_registers(self, values):
        cdef u64* d = self.c.dr
        d[0], d[1], d[2], d[3], d[6], d[7] = values
        d[6] = (d[6] & 0xE00F) | <u64>0xFFFF0FF0
        d[7] = (d[7] & <u64>0xFFFF27FF) | 0x400
        debug_changed(self.c)

    def nmi(self):
        """From any thread: a non-maskable interrupt, once; taken when no handler of an earlier one runs.  Bare machines."""
        fetch_or(&self.c.events, EVENT_NMI)
        request(self.c, REQ_EVENT)

    def interrupt(self, u8 vector):
        """From any thread: an external interrupt, taken when IF is set; False if an earlier one still waits.  Bare machines."""
        if self.c.events & EVENT_INTR:
            return False
        self.c.intr_vector = vector
        fetch_or(&self.c.events, EVENT_INTR)
        request(self.c, REQ_EVENT)
        return True

    @property
    def engine(self):
        """"translator" or "interpreter"; setting "auto" takes the translator where the host has one."""
        return "interpreter" if self.c.jit == NULL else "translator"

    @engine.setter
    def engine(self, value):
        if value not in ("auto", "translator", "interpreter"):
            raise ValueError(f"no engine {value!r}: auto, translator or interpreter")
        if value == "interpreter":
            if self.c.jit != NULL:
                cache_flush(self.c)
                jit_free(self.c.jit)
                self.c.jit = NULL
        elif self.c.jit == NULL:
            cache_flush(self.c)
            self.c.jit = jit_new()
            if self.c.jit == NULL and value == "translator":
                raise RuntimeError("this host gives no executable memory to translate into (it takes Linux on x86-64)")

    @property
    def hot_after(self):
        """Times a block runs in the interpreter before it is translated."""
        return 0 if self.c.jit == NULL else self.c.jit.hot

    @hot_after.setter
    def hot_after(self, u32 value):
        if self.c.jit != NULL:
            self.c.jit.hot = value
            cache_flush(self.c)

    @property
    def strict_flags(self):
        """Are arithmetic flags that no code reads kept exact as well, for frames of faults and for stops in mid-code?"""
        return bool(self.c.strict)

    @strict_flags.setter
    def strict_flags(self, bint value):
        if value != self.c.strict:
            self.c.strict = value
            cache_flush(self.c)

    def translated_code(self):
        """(address it runs at, bytes): what the translator has written, for a disassembler."""
        if self.c.jit == NULL:
            return 0, b""
        return <u64>self.c.jit.rx, <bytes>(<char*>self.c.jit.rw)[:self.c.jit.used]

    @property
    def exact(self):
        """Stop after exactly the budget (else at the next end of a block)."""
        return bool(self.c.exact)

    @exact.setter
    def exact(self, bint value):
        if value != self.c.exact:
            self.c.exact = value
            cache_flush(self.c)             # blocks for exact runs keep more flags

    @property
    def until(self):
        """Linear address to stop at, before the instruction there; None for none."""
        return None if self.c.until == ~<u64>0 else self.c.until

    @until.setter
    def until(self, value):
        cdef u64 v = ~<u64>0 if value is None else value
        if v != self.c.until and v != ~<u64>0:
            check_not_running(self.c)
            self.plant_stop(v)
        self.c.until = v

    @property
    def seed(self):
        """Where RDRAND and RDSEED are in their sequence (virtual time)."""
        return self.c.rng

    @seed.setter
    def seed(self, u64 value):
        self.c.rng = value

    @property
    def instructions(self):
        """Instructions retired."""
        return self.c.icount

    @property
    def timer_deadline(self):
        return None if self.c.timer_deadline == ~<u64>0 else self.c.timer_deadline

    @timer_deadline.setter
    def timer_deadline(self, value):
        self.c.timer_deadline = ~<u64>0 if value is None else value

    # -- the exit record ----------------------------------------------------------------------------------------------
    @property
    def exit_reason(self):
        return self.c.exit.reason

    @property
    def exit_port(self):
        return self.c.exit.port

    @property
    def exit_size(self):
        return self.c.exit.size

    @property
    def exit_is_write(self):
        return bool(self.c.exit.is_write)

    @property
    def exit_address(self):
        return self.c.exit.address

    @property
    def exit_value(self):
        return self.c.exit.value

    @property
    def exit_nr(self):
        return self.c.exit.nr

    @property
    def exit_code(self):
        return self.c.exit.code

    @property
    def exit_args(self):
        cdef u64* a = self.c.exit.args
        return (a[0], a[1], a[2], a[3], a[4], a[5])

    def pio_return(self, u64 value):
        """Finish an IN: the value goes to AL, AX or EAX; that of an INS to the memory it was meant for."""
        port_answer(self.c, value)

    def mmio_return(self, u64 value=0):
        """Finish a device memory access: the instruction is restarted and finds this value."""
        if self.c.mmio_n < MMIO_DONE:       # more accesses no instruction has
            self.c.mmio[self.c.mmio_n].address = self.c.exit.address
            self.c.mmio[self.c.mmio_n].value = value
            self.c.mmio_n += 1

    # -- hooks --------------------------------------------------------------------------------------------------------
    def hook(self, u32 kind, callback=None, u64 first=0, u64 last=0xFFFFFFFFFFFFFFFF, *, cover=None, int cover_mode=COVER_EDGE, when=(),
             u64 after=1, u64 every=1, mnemonics=None, u64 answer=0xFFFFFFFFFFFFFFFF):
        """Count events of a kind (HookKind) at first .. last, and call ``callback`` when all of ``when`` holds.  See Hook."""
        cdef Hook h = Hook(kind, callback, first, last, cover, cover_mode, when, after, every, mnemonics, answer)
        check_not_running(self.c)
        self.next_hook += 1
        h.rule.id = self.next_hook
        h.vcpu, h.c = self, self.c
        self.hook_by_id[self.next_hook] = h
        add_rule(self.c, &h.rule)
        return h

    cdef void plant_stop(self, u64 address):
        """Have blocks look for this address; the oldest of STOPS such addresses is forgotten."""
        cdef u32 i
        cdef HookRule* h
        for i in range(min(self.n_stops, STOPS)):
            if self.stops[i].first == address:
                return
        h = &self.stops[self.n_stops % STOPS]
        if self.n_stops >= STOPS:
            remove_rule(self.c, h)
        self.n_stops += 1
        memset(h, 0, sizeof(HookRule))
        h.kind, h.first, h.last = HOOK_STOP, address, address
        add_rule(self.c, h)

    cdef u32 run_hooked(self, i64 budget) except? 0xFFFFFFFF:
        """run(), and the callbacks of hooks."""
        cdef Cpu* c = self.c
        cdef u64 start = c.icount
        cdef u32 reason
        while True:
            with nogil:
                reason = run(c, budget - <i64>(c.icount - start))
            if reason == EXIT_HOOK:
                reason = answer_hooks(self, c)
            if reason != EXIT_NONE:
                if unlikely(c.mmu_trace != NULL) and c.mmu_trace.n:
                    self.mmu_reader()
                return reason

    # -- registers ----------------------------------------------------------------------------------------------------
    def __getattr__(self, name):
        index = REGISTERS.get(name)
        if index is None:
            raise AttributeError(name)
        return self.c.r[<int>index]

    def __setattr__(self, name, value):
        index = REGISTERS.get(name)
        if index is None:
            PyObject_GenericSetAttr(self, name, value)
        else:
            self.c.r[<int>index] = value & 0xFFFFFFFFFFFFFFFF

    @property
    def rip(self):
        return self.c.rip

    @rip.setter
    def rip(self, u64 value):
        self.c.rip = value
        if not self.c.is_pv:
            self.c.halted &= WAIT_SIPI      # HLT is behind it
        self.c.hook_skip = 0
        self.c.seen_n = 0
        self.c.mmio_n = self.c.mmio_next = 0

    @property
    def rflags(self):
        return get_eflags(self.c)

    @rflags.setter
    def rflags(self, u32 value):
        set_eflags(self.c, value)
        update_mode(self.c)

    @property
    def cpl(self):
        return self.c.cpl

    @cpl.setter
    def cpl(self, int value):
        self.c.cpl = value & 3
        update_mode(self.c)

    @property
    def cr0(self):
        return self.c.cr0

    @cr0.setter
    def cr0(self, u64 value):
        self.c.cr0 = value
        self.flush()

    @property
    def cr2(self):
        return self.c.cr2

    @property
    def cr3(self):
        return self.c.cr3

    @cr3.setter
    def cr3(self, u64 value):
        self.c.cr3 = value
        self.flush()

    @property
    def cr4(self):
        return self.c.cr4

    @cr4.setter
    def cr4(self, u64 value):
        self.c.cr4 = value
        self.flush()

    @property
    def efer(self):
        return self.c.efer

    @efer.setter
    def efer(self, u64 value):
        self.c.efer = value
        self.flush()

    @property
    def pkru(self):
        return self.c.pkru

    @pkru.setter
    def pkru(self, u32 value):
        set_pkru(self.c, value)

    @property
    def xcr0(self):
        return self.c.xcr0

    @xcr0.setter
    def xcr0(self, u64 value):
        self.c.xcr0 = value

    @property
    def mxcsr(self):
        return self.c.mxcsr

    @mxcsr.setter
    def mxcsr(self, u32 value):
        self.c.mxcsr = value

    def flush(self):
        """After changing page tables or control registers from outside."""
        paging_changed(self.c)

    def segment(self, name):
        """(selector, base, limit, access rights as in a VMCS) of es cs ss ds fs gs ldtr tr."""
        cdef Seg* s = &self.c.seg[<int>SEGMENTS[name]]
        return s.sel, s.base, s.limit, s.attr

    def set_segment(self, name, u16 sel, u64 base=0, u32 limit=0xFFFFFFFF, u16 attr=0xC093):
        cdef Seg* s = &self.c.seg[<int>SEGMENTS[name]]
        s.sel, s.base, s.limit, s.attr = sel, base, limit, attr
        update_mode(self.c)

    def set_table(self, name, u64 base, u32 limit):
        """gdtr or idtr."""
        cdef DescTable* t = &self.c.gdtr if name == "gdtr" else &self.c.idtr
        t.base, t.limit = base, limit

    def cpuid(self, u32 leaf, u32 sub=0):
        """(EAX, EBX, ECX, EDX) as the guest sees them."""
        cdef CpuidLeaf r
        cpuid(self.c, leaf, sub, &r)
        return r.a, r.b, r.c, r.d

    def features(self):
        """The CPUID policy: the names of the features that are on."""
        return frozenset(name for name, word, bit, *_ in CPUID_FEATURES if has_feature(self.c, word, bit))

    def set_features(self, names):
        """Set the CPUID policy.  What is not implemented, or not for this kind of guest, stays off; features() tells."""
        cdef u64[FEAT_WORDS] words
        memset(words, 0, sizeof(words))
        for name in names:
            word, bit = CPUID_NAMES[name]
            words[<int>word] |= <u64>1 << <int>bit
        policy_set(self.c, words)

    def set_cpuid(self, str feature, bint on):
        """Switch one feature by its name in CPUID_FEATURES."""
        self.set_features((self.features() | {feature}) if on else self.features() - {feature})

    def set_processor(self, str vendor="GenuineIntel", u32 signature=0x00030661, str brand="xenfast virtual CPU",
                      u32 max_basic=0x16, u32 max_extended=0x80000008, u32 threads=1):
        """What CPUID calls the processor, its last leaves, and how many logical processors the machine has."""
        cdef bytes v = vendor.encode("ascii"), b = brand.encode("ascii")[:47].ljust(48, b"\0")
        cdef const char* p = v
        if len(v) != 12:
            raise ValueError(f"a vendor is 12 characters, not {vendor!r}")
        if threads < 1:
            raise ValueError("a machine has a processor")
        memcpy(self.c.cpuid.vendor, p, 12)
        p = b
        memcpy(self.c.cpuid.brand, p, 48)
        self.c.cpuid.signature, self.c.cpuid.threads = signature, threads
        self.c.cpuid.max_basic, self.c.cpuid.max_extended = max_basic, max_extended

    def set_cpuid_bits(self, u32 leaf, sub, str register, u32 mask, u32 value):
        """Give the bits of mask in a register of a leaf (None: any subleaf) these values.  For features use set_features()."""
        cdef CpuidForced* f
        if self.c.cpuid.n_forced >= 32:
            raise ValueError("too many leaves of CPUID are changed")
        f = &self.c.cpuid.forced[self.c.cpuid.n_forced]
        f.leaf, f.sub, f.reg = leaf, 0xFFFFFFFF if sub is None else sub, ("eax", "ebx", "ecx", "edx").index(register)
        f.mask, f.value = mask, value
        self.c.cpuid.n_forced += 1

    @property
    def apic_id(self):
        return apic_id(self.c)

    @apic_id.setter
    def apic_id(self, u32 value):
        self.c.apic_id = value

    # -- local APIC and interrupts --------------------------------------------------------------------------------------
    def attach_lapic(self, ApicBus bus not None, u32 apic_id, bint bsp=True):
        """Give the vcpu a local APIC; one that is not the bootstrap processor waits for SIPI.  Once, before it runs."""
        cdef Cpu* c = self.c
        if c.is_pv or c.lapic != NULL:
            raise ValueError("the vcpu cannot get a local APIC")
        c.lapic = <Lapic*>calloc(1, sizeof(Lapic))
        if c.lapic == NULL:
            raise MemoryError
        self.apic_bus = bus
        bus.add(c)
        c.apic_bus = &bus.b
        c.apic_id = apic_id
        c.apic_base = 0xFEE00000 | APIC_BASE_EN | (APIC_BASE_BSP if bsp else 0)
        c.halted = 0 if bsp else WAIT_SIPI
        lapic_reset(c)
        policy_apply(c)

    def lint(self, int pin, bint asserted=True):
        """LINT0 or LINT1 of the local APIC is asserted; as ExtINT, and without an APIC, LINT0 is INTR.  From any thread."""
        if pin not in (0, 1):
            raise ValueError("the pins are LINT0 and LINT1")
        if pin == 0 and asserted:
            fetch_or(&self.c.events, EVENT_EXTINT)
            request(self.c, REQ_EVENT)
        elif pin == 0:
            fetch_and(&self.c.events, ~<u32>EVENT_EXTINT)
        if asserted and self.c.lapic != NULL and self.c.apic_base & APIC_BASE_EN:
            lapic_local(self.c, LVT_LINT0 + pin)

    @property
    def lapic_deadline(self):
        """When the timer of the local APIC fires, in ns of the clock; None: it does not run."""
        if self.c.lapic == NULL or self.c.lapic.deadline == ~<u64>0:
            return None
        return self.c.lapic.deadline

    @property
    def halted(self):
        """Asleep: in HLT, or (2) waiting for SIPI.  A vcpu of a PV guest: in SCHEDOP_block, with no event since."""
        return self.c.halted

    def lapic_register(self, u32 number):
        """A register of the local APIC by its number (offset >> 4), without side effects."""
        if self.c.lapic == NULL:
            raise ValueError("the vcpu has no local APIC")
        return lapic_get(self.c, number)

    def set_lapic_register(self, u32 number, u32 value):
        """As a write of the running code to a register of the local APIC, by its number: for firmware.  Not while the vcpu runs."""
        cdef ApicReg* r = apic_reg(number)
        if self.c.lapic == NULL or r == NULL or not r.rights & XW:
            raise ValueError(f"there is no local APIC, or its register {number:#x} cannot be written")
        lapic_set(self.c, number, value & r.writable)

    def rdmsr(self, u32 number):
        """A model-specific register, as RDMSR reads it; KeyError where that is #GP.  Not while the vcpu runs."""
        cdef u64 value = 0
        if not msr_read(self.c, number, &value):
            raise KeyError(number)
        return value

    def wrmsr(self, u32 number, u64 value):
        """As WRMSR does it; ValueError where that is #GP.  Not while the vcpu runs."""
        if not msr_write(self.c, number, value):
            raise ValueError(f"MSR {number:#x} cannot be {value:#x}")

    def vector(self, int n):
        """The 32 bytes of YMMn (XMMn is the first 16)."""
        return (<char*>&self.c.v[n & 15])[:32]

    def set_vector(self, int n, bytes data):
        memset(&self.c.v[n & 15], 0, sizeof(Vec))
        memcpy(&self.c.v[n & 15], <char*>data, min(len(data), 32))

    def vectors(self):
        """All 16 YMM registers, 512 bytes."""
        return (<char*>self.c.v)[:512]

    def set_vectors(self, const u8[::1] data):
        if data.shape[0] != 512:
            raise ValueError("16 registers of 32 bytes")
        memcpy(self.c.v, &data[0], 512)

    def general(self):
        """The 16 general registers in encoding order, 128 bytes."""
        return (<char*>self.c.r)[:128]

    def set_general(self, const u8[::1] data):
        if data.shape[0] != 128:
            raise ValueError("16 registers of 8 bytes")
        memcpy(self.c.r, &data[0], 128)

    def x87(self):
        """(FCW, FSW, FTW as in FXSAVE, the eight physical registers as (sign and exponent, mantissa))."""
        cdef int i
        return self.c.fcw, self.c.fsw, self.c.ftw, [(self.c.st[i].se, self.c.st[i].man) for i in range(8)]

    def set_x87(self, u16 fcw, u16 fsw, u8 ftw, registers):
        """As FRSTOR loads them: ES and B follow from the exceptions and their masks."""
        cdef int i
        self.c.fsw, self.c.ftw = fsw, ftw
        set_fcw(self.c, fcw)
        for i in range(8):
            self.c.st[i].se, self.c.st[i].man = registers[i]

    # -- memory as this vcpu sees it ----------------------------------------------------------------------------------
    def read(self, u64 lin, u64 n):
        """n bytes at a linear address, with the rights of the running code; raises GuestFault."""
        cdef bytearray out = bytearray(n)
        cdef u8* p = out
        cdef u64 at = 0, k
        while at < n:
            k = min(4096 - ((lin + at) & 4095), n - at)
            if quiet_read(self.c, lin + at, k, p + at) != ST_OK:
                raise GuestFault(f"cannot read {lin + at:#x}")
            at += k
        return bytes(out)

    def write(self, u64 lin, data):
        """Write bytes at a linear address, with the rights of the running code; raises GuestFault."""
        cdef bytes b = bytes(data)
        cdef const u8* p = b
        cdef u64 at = 0, k, n = len(b)
        while at < n:
            k = min(4096 - ((lin + at) & 4095), n - at)
            if quiet_write(self.c, lin + at, k, p + at) != ST_OK:
                raise GuestFault(f"cannot write {lin + at:#x}")
            at += k
        self.c.code_hit = 0

    def unknown(self):
        """What the guest asked for since the last call that we do not have: a list of (kind, value)."""
        cdef u32 i
        out = [(UNKNOWN_NAMES.get(self.c.unknown_kind[i], "?"), self.c.unknown_value[i]) for i in range(self.c.unknown_n)]
        self.c.unknown_n = 0
        return out

    @property
    def profiling(self):
        """Samples are taken: see profile()."""
        return self.c.profile != NULL

    @profiling.setter
    def profiling(self, bint on):
        release(self.c.profile, sizeof(Profile))
        self.c.profile = NULL
        if on:
            self.c.profile = <Profile*>reserve(sizeof(Profile))
            if self.c.profile == NULL:
                raise MemoryError

    def profile(self):
        """What was seen since profiling was switched on: ([(rip, ns, samples, user, translated)], {hypercall: (calls, ns)}, ns without a
        place).
        """
        cdef Profile* p = self.c.profile
        cdef int i
        if p == NULL:
            raise ValueError("profiling is off")
        samples = [(p.slot[i].rip, p.slot[i].ns, p.slot[i].count, bool(p.slot[i].user), bool(p.slot[i].translated))
                   for i in range(PROFILE_SLOTS) if p.slot[i].count]
        return samples, {i: (p.call_n[i], p.call_ns[i]) for i in range(64) if p.call_n[i]}, p.lost_ns

    def trace_mmu(self, reader):
        """Keep page walks and flushes for mmu_events(); reader() is called whenever run() returns and there are any.  None: no more."""
        check_not_running(self.c)
        release(self.c.mmu_trace, sizeof(MmuTrace))
        self.c.mmu_trace, self.mmu_reader = NULL, reader
        if reader is not None:
            tlb_flush(self.c)
            self.c.mmu_trace = <MmuTrace*>reserve(sizeof(MmuTrace))
            if self.c.mmu_trace == NULL:
                raise MemoryError

    @property
    def mmu_traced(self):
        """Are they kept?"""
        return self.c.mmu_trace != NULL

    def mmu_events(self):
        """([(kind, linear, physical, machine frame, rights, log2 of the page's size)], number of older ones that are lost) since the last
        call.  Kinds: MMU_KINDS; the rights are as in "uwxg", with "-" for what is not given.
        """
        cdef MmuTrace* t = self.c.mmu_trace
        cdef u64 i, lost
        cdef MmuEvent* e
        events = []
        if t == NULL:
            return events, 0
        lost = t.n - MMU_EVENTS if t.n > MMU_EVENTS else 0
        for i in range(lost, t.n):
            e = &t.event[i & (MMU_EVENTS - 1)]
            rights = "".join(letter if e.rights >> bit & 1 else "-" for bit, letter in enumerate("uwxg"))
            events.append((MMU_KINDS[e.kind], e.lin, e.pa, e.mfn, rights, e.shift))
        t.n = 0
        return events, lost

    def statistics(self):
        """Counters of the engine, by name."""
        cdef int i
        return {name: self.c.stat[i] for i, name in enumerate(STAT_NAMES)}
