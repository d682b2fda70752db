# HvmVcpu: a vcpu of a PVH or HVM domain as Python sees it.

cdef class HvmVcpu(Vcpu):
    """A vcpu with a p2m and a local APIC, under Xen: VMCALL and VMMCALL leave run() with EXIT_HYPERCALL.

    One that is not the bootstrap processor waits for SIPI.
    """

    cdef HvmState state
    cdef object info_owner

    def __cinit__(self, Memory memory, physmap, clock=None, *, ApicBus apics not None, u32 apic_id=0, u32 vcpu_id=0, u32 domid=0,
                  **kwargs):
        cdef Cpu* c = self.c
        if physmap is None:
            raise ValueError("an HVM guest has a physmap")
        self.state.vcpu_id, self.state.domid, self.state.version = vcpu_id, domid, 4 << 16 | 17
        c.hvm = &self.state
        self.attach_lapic(apics, apic_id, vcpu_id == 0)

    def release(self):
        """The vcpu will not run again."""
        self.c.hvm.vcpu_info = NULL

    # -- exits --------------------------------------------------------------------------------------------------------
    @property
    def hypercall_size(self):
        """8 or 4: the ABI of the hypercall that run() was left for."""
        return self.c.exit.code

    def hypercall_return(self, value):
        """Finish the hypercall that run() was left for (EXIT_HYPERCALL)."""
        cdef u64 v = value & 0xFFFFFFFFFFFFFFFF
        self.c.r[RAX] = v if self.c.exit.code == 8 else <u32>v

    def hypercall_retry(self, *args):
        """Have the guest make it again when it runs next, with these arguments in place of the first ones."""
        names = "rdi rsi rdx r10 r8 r9" if self.c.exit.code == 8 else "rbx rcx rdx rsi rdi rbp"
        for i, arg in enumerate(args):
            self.c.r[<int>REGISTERS[names.split()[i % 6]]] = arg & (0xFFFFFFFFFFFFFFFF if self.c.exit.code == 8 else 0xFFFFFFFF)
        self.c.rip = self.c.hvm.again_rip

    def hypercall_counts(self):
        """{number: times made}"""
        cdef int i
        return {i: self.c.hvm.counts[i] for i in range(64) if self.c.hvm.counts[i]}

    def pio_data(self):
        """The elements of an OUTS: exit_count times exit_size bytes."""
        cdef u64 n = self.c.exit.count * self.c.exit.size
        if not self.c.exit.is_write or n > 4096:
            raise ValueError("no OUTS to finish")
        if self.c.exit.count == 1:
            return (<char*>&self.c.exit.value)[:n]
        return self.copy_from_guest(self.c.exit.address, n)

    def pio_store(self, data):
        """Finish an INS of several elements."""
        if len(data) != self.c.exit.count * self.c.exit.size:
            raise ValueError(f"{self.c.exit.count} elements of {self.c.exit.size} bytes are wanted")
        self.copy_to_guest(self.c.exit.address, data)

    @property
    def exit_count(self):
        """Elements of a string instruction that this EXIT_PIO stands for."""
        return self.c.exit.count

    @property
    def pio_to_memory(self):
        """Is it an INS?"""
        return self.c.exit.code == PIO_TO_MEMORY

    def fault(self, u8 vector, error=None):
        """The instruction of the EXIT_MSR raises an exception instead; an ExitReason when that leaves run() itself, as a triple fault."""
        cdef Cpu* c = self.c
        c.rip = c.exit.address
        if error is None:
            fault(c, vector)
        else:
            fault_err(c, vector, error)
        c.status = ST_FAULT
        enter_core(c)
        c.status = deliver(c)
        leave_core(c)
        return c.exit.reason if c.status == ST_EXIT else <u32>EXIT_NONE

    # -- interrupts ---------------------------------------------------------------------------------------------------
    @property
    def callback_vector(self):
        """Where upcalls go, by vector; 0: they do not."""
        return self.c.hvm.callback_vector

    @callback_vector.setter
    def callback_vector(self, u8 value):
        self.c.hvm.callback_vector = value
        self.upcall()

    def set_vcpu_info(self, mfn, u64 offset=0):
        """Where struct vcpu_info is.  The frame must stay the domain's."""
        cdef Memory memory = self.memory
        cdef u64 number = memory.check(mfn)
        if offset > 4096 - 64:
            raise ValueError("vcpu_info crosses a page")
        # SAFETY: check() has bounded the frame.
        self.c.hvm.vcpu_info = frame_host(&memory.m, number) + offset

    def upcall(self):
        """From any thread: evtchn_upcall_pending has been set."""
        fetch_or(&self.c.events, EVENT_UPCALL)
        request(self.c, REQ_EVENT)

    def lapic_irq(self, u8 vector, bint level=False):
        """From any thread: an interrupt for this APIC alone.  True: the vcpu sleeps and has to be run."""
        return lapic_accept(self.c, DM_FIXED, vector, level)

    @property
    def awake(self):
        """Would run() do something: it is not in HLT and does not wait for SIPI, or there is what ends that?  Not while it runs."""
        cdef Cpu* c = self.c
        return not c.halted or wakes(c)

    @property
    def takes_extint(self):
        """Would INTR of the PICs get to the processor (vlapic_accept_pic_intr)?"""
        return takes_extint(self.c)

    @property
    def upcall_vector(self):
        return self.c.hvm.upcall_vector

    @upcall_vector.setter
    def upcall_vector(self, u8 value):
        self.c.hvm.upcall_vector = value

    @property
    def extint(self):
        """Does the I/O APIC send the PICs' interrupts to this vcpu?"""
        return self.c.lapic.extint != 0

    @extint.setter
    def extint(self, bint value):
        self.c.lapic.extint = value
        request(self.c, REQ_EVENT)

    # -- guest memory -------------------------------------------------------------------------------------------------
    def copy_from_guest(self, u64 lin, u64 n):
        """n bytes at a linear address, with the kernel's rights; raises GuestFault.  Not while the vcpu runs."""
        cdef bytearray out
        cdef u8* p
        if n > <u64>1 << 30:
            raise GuestFault(f"cannot read {n} bytes at {lin:#x}")
        out = bytearray(n)
        p = out
        if not hvm_copy(self.c, lin, n, p, False):
            raise GuestFault(f"cannot read {n} bytes at {lin:#x}")
        return bytes(out)

    def copy_to_guest(self, u64 lin, data):
        """Write bytes at a linear address with the kernel's rights; raises GuestFault (what comes before the fault is written)."""
        cdef bytes b = bytes(data)
        cdef u8* p = b
        if not hvm_copy(self.c, lin, len(b), p, True):
            raise GuestFault(f"cannot write {len(b)} bytes at {lin:#x}")

    # -- state --------------------------------------------------------------------------------------------------------
    def registers(self):
        """All a crash dump shows, by name, in the order to print it."""
        cdef Cpu* c = self.c
        out = {"rip": c.rip, "rflags": get_eflags(c)}
        for name, i in REGISTERS.items():
            out[name] = c.r[<int>i]
        for name, i in SEGMENTS.items():
            if i < 6:
                out[name] = c.seg[<int>i].sel
        out.update(fs_base=c.seg[FS].base, gs_base=c.seg[GS].base, gs_base_other=c.kernel_gs_base, cs_base=c.seg[CS].base, cr0=c.cr0,
                   cr2=c.cr2, cr3=c.cr3, cr4=c.cr4, efer=c.efer, halted=c.halted)
        return out

    @property
    def cr4_legal(self):
        """Bits of CR4 that the CPUID policy allows."""
        return self.c.cr4_legal

    def save(self):
        """All of it as plain values (numbers, bytes, lists, dicts); while it does not run."""
        check_not_running(self.c)
        return hvm_save(self)

    def load(self, dict state not None):
        """What save() gave, here or on another host; ValueError when that is not possible.  The CPUID policy is to be the same."""
        check_not_running(self.c)
        try:
            hvm_load(self, state)
        except (AttributeError, KeyError, IndexError, TypeError, OverflowError) as error:
            raise ValueError(f"this is not the state of a vcpu: {error!r}") from None

    def init(self):
        """As INIT does; then run() waits for SIPI unless it is the bootstrap processor."""
        cpu_init(self.c)

    def start(self):
        """An application processor runs without a SIPI, from where its registers say (VCPUOP_up)."""
        self.c.halted = 0


cdef bint hvm_copy(Cpu* c, u64 lin, u64 n, u8* p, bint write) noexcept:
    """With the page tables of now and the rights of ring 0, whatever code runs."""
    cdef u64 at = 0, k
    cdef int st = ST_OK
    cdef TlbEntry* tlb = c.tlb
    cdef u8 index = c.tlb_index
    cdef bint wide = c.efer & EFER_LMA != 0
    if not wide and (lin >> 32 or n > (<u64>1 << 32) - lin):
        return False
    enter_core(c)
    c.tlb, c.tlb_index = c.tlbs[0], 0
    while at < n and st == ST_OK:
        if wide and not is_canonical(c, lin + at):
            st = ST_FAULT
            break
        k = min(4096 - ((lin + at) & 4095), n - at)
        st = quiet_write(c, lin + at, k, p + at) if write else quiet_read(c, lin + at, k, p + at)
        at += k
    c.tlb, c.tlb_index = tlb, index
    leave_core(c)
    return st == ST_OK
