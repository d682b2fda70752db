# PvVcpu: a vcpu of a PV domain as Python sees it.  The hypervisor in Python (xen/) owns policy; this owns what the core keeps.

CRASH_TEXT = {
    CRASH_NO_HANDLER: "there is no handler for the exception",
    CRASH_NO_CALLBACK: "the callback is not registered",
    CRASH_BAD_STACK: "the kernel stack cannot be written",
    CRASH_IRET_FRAME: "the iret frame cannot be read",
    CRASH_NO_USER_TABLES: "iret to user mode without user page tables",
}


cdef class PvVcpu(Vcpu):
    """A vcpu of a PV domain: Vcpu plus traps, callbacks, GDT, two page-table bases and the hypercalls of the core.

    Until set_vcpu_info() it has a vcpu_info of its own with upcalls masked.  Call release() before dropping the last reference.
    """

    cdef readonly PvDomain domain
    cdef object info_owner
    cdef u8 own_info[64]

    def __cinit__(self, Memory memory, physmap=None, clock=None, *, PvDomain domain not None, int vcpu_id=0, **kwargs):
        cdef Cpu* c = self.c
        cdef PvState* pv
        cdef int i
        if physmap is not None:
            raise ValueError("a PV guest has no physmap")
        if not 0 <= vcpu_id < PV_MAX_VCPUS or domain.d.vcpus[vcpu_id] != NULL:
            raise ValueError(f"vcpu {vcpu_id} cannot be made")
        if domain.d.mem != c.mem:
            raise ValueError("the domain is in another memory")
        pv = <PvState*>calloc(1, sizeof(PvState))
        if pv == NULL:
            raise MemoryError
        self.domain = domain
        pv.domain = &domain.d
        pv.domid = domain.d.domid
        pv.vcpu_id = vcpu_id
        pv.vcpu_info = self.own_info
        self.own_info[VI_MASK] = 1
        pv.kernel_mode = 1
        for i in range(FIRST_RESERVED_GDT_PAGE):
            pv.gdt_frames[i] = NO_FRAME
        c.cr0 = <u64>0x80050033                            # PG AM WP NE ET MP PE
        c.cr4 = pv.ctrlreg4 = 0x000506F0                   # PAE MCE PGE OSFXSR OSXMMEXCPT PSE, FSGSBASE OSXSAVE
        c.efer = 0xD01                                # SCE LME LMA NXE
        c.pat = PV_PAT
        c.cpl = 3
        c.gdtr.limit = 0xFFFF
        c.idtr.limit = 0xFFF
        c.pv = pv
        c.is_pv = 1
        policy_reset(c)
        domain.d.vcpus[vcpu_id] = c
        self.start(0, 0, 0)

    def __dealloc__(self):
        if self.c == NULL or self.c.pv == NULL:
            return
        mem_remove_vcpu(self.c.mem, self.c)           # nobody looks at pv any more
        if self.domain is not None and self.domain.d.vcpus[self.c.pv.vcpu_id] == self.c:
            self.domain.d.vcpus[self.c.pv.vcpu_id] = NULL
        free(self.c.pv)
        self.c.pv = NULL

    # -- running ------------------------------------------------------------------------------------------------------
    def run(self, i64 budget=0x7FFFFFFFFFFFFFFF):
        """Vcpu.run(), after looking whether an upcall is due."""
        cdef u8* info = self.c.pv.vcpu_info
        if self.c.pv.cr3_kernel == 0:
            raise ValueError("the vcpu has no page tables")
        if self.c.pv.nmi_pending or (info[VI_PENDING] and not info[VI_MASK]):
            fetch_or(&self.c.req, REQ_EVENT)
        return self.run_hooked(budget)

    def start(self, u64 entry, u64 start_info, u64 stack):
        """Registers as a PV kernel finds them at its entry (xen/include/public/xen.h, "Start-of-day memory layout")."""
        cdef Cpu* c = self.c
        cdef int i
        memset(c.r, 0, sizeof(c.r))
        for i in range(6):
            memset(&c.seg[i], 0, sizeof(Seg))
        pv_flat(c)
        c.rip = entry
        c.r[RSI] = start_info
        c.r[RSP] = stack
        c.kernel_gs_base = 0
        c.pv.kernel_mode = 1
        c.halted = 0
        set_eflags(c, FL_IF)
        tlb_flush(c)
        update_mode(c)

    def release(self):
        """The vcpu will not run again: give back its page tables and GDT."""
        cdef Cpu* c = self.c
        with nogil:
            load_gdt(c.mem, NULL, c.pv, NULL, 0)
            mem_lock(c.mem, NULL)
            if c.pv.cr3_user:
                set_cr3(c.mem, NULL, c.pv, 0, True)
            if c.pv.cr3_kernel:
                put_page_and_type(c.mem, c.pv.cr3_kernel >> PAGE_SHIFT)
                c.pv.cr3_kernel = 0
            mem_unlock(c.mem)

    # -- hypercalls ---------------------------------------------------------------------------------------------------
    def hypercall(self, u64 nr, *args):
        """Make a hypercall for the guest kernel, outside run(): its value; None when it is not the core's (exit_* tell it)."""
        cdef u64 a[6]
        cdef i64 rc
        cdef Cpu* c = self.c
        memset(a, 0, sizeof(a))
        for i, arg in enumerate(args):
            a[<int>i % 6] = arg & 0xFFFFFFFFFFFFFFFF
        if c.pv.cr3_kernel == 0:
            raise ValueError("the vcpu has no page tables")
        c.pv.again_rip = c.rip
        with nogil:
            enter_core(c)
            while True:
                if nr == HC_iret:
                    rc = HC_EXIT if pv_iret(c) == ST_EXIT else 0
                elif nr == HC_multicall:
                    rc = pv_multicall(c, a)
                else:
                    rc = pv_call(c, nr, a)
                if rc != HC_AGAIN:
                    break
                memcpy(a, c.pv.again, sizeof(a))
            if rc == HC_PYTHON and c.pv.multicall_left == 0:
                exit_hypercall(c, nr, a)
            leave_core(c)
        if rc == HC_PYTHON:
            return None
        return 0 if rc == HC_EXIT else rc

    def hypercall_return(self, value):
        """Finish the hypercall that run() was left for (EXIT_HYPERCALL), alone or in a multicall."""
        enter_core(self.c)
        hypercall_done(self.c, value & 0xFFFFFFFFFFFFFFFF)
        leave_core(self.c)

    def hypercall_retry(self, *args):
        """Have the guest make it again when it runs next, with these arguments in place of the first ones."""
        for i, arg in enumerate(args):
            self.c.exit.args[<int>i % 6] = arg & 0xFFFFFFFFFFFFFFFF
        enter_core(self.c)
        hypercall_again(self.c)
        leave_core(self.c)

    def hypercall_counts(self):
        """{number: times made}"""
        cdef int i
        return {i: self.c.pv.counts[i] for i in range(64) if self.c.pv.counts[i]}

    def crash_text(self):
        """Why EXIT_CRASH."""
        text = CRASH_TEXT.get(self.c.exit.code, "?")
        return f"{text} (vector or callback {self.c.exit.nr}, address {self.c.exit.address:#x})"

    # -- guest kernel memory ------------------------------------------------------------------------------------------
    def copy_from_guest(self, u64 lin, u64 n):
        """n bytes at a guest kernel address; raises GuestFault.  Not while the vcpu runs."""
        if n > <u64>1 << 30:
            raise GuestFault(f"cannot read {n} bytes at {lin:#x}")
        cdef bytearray out = bytearray(n)
        cdef u8* p = out
        if n and not copy_kernel(self.c, lin, n, p, False):
            raise GuestFault(f"cannot read {n} bytes at {lin:#x}")
        return bytes(out)

    def copy_to_guest(self, u64 lin, data):
        """Write bytes at a guest kernel address; raises GuestFault (what comes before the fault is written)."""
        cdef bytes b = bytes(data)
        cdef u8* p = b
        if len(b) and not copy_kernel(self.c, lin, len(b), p, True):
            raise GuestFault(f"cannot write {len(b)} bytes at {lin:#x}")

    def store(self, u64 lin, u64 value, int size=8):
        """As a store instruction of the guest would: 1, 2, 4 or 8 bytes, writable page tables included; raises GuestFault."""
        cdef int st
        if size not in (1, 2, 4, 8):
            raise ValueError(f"no store of {size} bytes")
        enter_core(self.c)
        st = mem_write(self.c, lin, size, value) if canonical(lin) else ST_FAULT
        leave_core(self.c)
        if st != ST_OK:
            raise GuestFault(f"cannot write {lin:#x}")

    def mmu_update_one(self, u64 ptr, u64 val):
        """One struct mmu_update; 0 or -errno."""
        cdef int rc
        with nogil:
            enter_core(self.c)
            rc = mmu_update_one(self.c, ptr, val)
            leave_core(self.c)
        return rc

    def grant_map(self, u64 addr, u64 mfn, bint readonly=False, bint contains_pte=False, bint user=True, u64 available=0):
        """Map a granted frame of another domain at a linear address, or by the machine address of an L1 entry.  0 or -errno.

        The caller has checked the grant and holds the frame.  `available`: bits 9-11 and 52-61 of the entry, as the guest asks.
        """
        cdef u64 flags = PTE_P | PTE_A | PTE_D | (0 if readonly else PTE_RW) | (PTE_US if user else 0)
        cdef int rc
        flags |= available & FASTPATH & ~(L1_DISALLOW | PTE_G)
        with nogil:
            enter_core(self.c)
            rc = grant_map_pte(self.c, addr, contains_pte, mfn, flags)
            leave_core(self.c)
        return rc

    def grant_unmap(self, u64 addr, u64 mfn, bint contains_pte=False, u64 replace=0):
        """Undo grant_map(), or move the mapping of the address `replace` there; flushes all TLBs of the domain.  0 or -errno."""
        cdef int rc
        with nogil:
            enter_core(self.c)
            rc = grant_unmap_pte(self.c, addr, contains_pte, mfn, replace)
            leave_core(self.c)
        return rc

    # -- vcpu_info ----------------------------------------------------------------------------------------------------
    def set_vcpu_info(self, u64 mfn, u32 offset=0):
        """Where struct vcpu_info is: in shared info, or registered.  The caller keeps the frame."""
        if offset > PAGE_SIZE - 64 or offset & 7:
            raise ValueError(f"vcpu_info cannot be at offset {offset}")
        # SAFETY: the frame exists, and 64 bytes from offset are inside it.
        self.c.pv.vcpu_info = frame_host(self.c.mem, (<Memory>self.memory).check(mfn)) + offset

    def set_upcall_pending(self):
        """An event: set evtchn_upcall_pending and have the vcpu look.  From any thread."""
        self.c.pv.vcpu_info[VI_PENDING] = 1
        request(self.c, REQ_EVENT)

    def send_nmi(self):
        """VCPUOP_send_nmi: an NMI, delivered as soon as the vcpu runs."""
        self.c.pv.nmi_pending = 1
        request(self.c, REQ_EVENT)

    @property
    def upcall_pending(self):
        return bool(self.c.pv.vcpu_info[VI_PENDING])

    @property
    def upcall_mask(self):
        return bool(self.c.pv.vcpu_info[VI_MASK])

    @upcall_mask.setter
    def upcall_mask(self, bint value):
        self.c.pv.vcpu_info[VI_MASK] = value

    # -- state for VCPUOP_initialise and for looking at it --------------------------------------------------------------
    def set_cr3(self, u64 mfn):
        """The kernel's L4; 0 or -errno."""
        return self.load_cr3(mfn, False)

    def set_user_cr3(self, u64 mfn):
        """The L4 of user mode, 0 for none; 0 or -errno."""
        return self.load_cr3(mfn, True)

    cdef int load_cr3(self, u64 mfn, bint user):
        cdef int rc
        with nogil:
            mem_lock(self.c.mem, NULL)
            rc = set_cr3(self.c.mem, NULL, self.c.pv, mfn, user)
            mem_unlock(self.c.mem)
            tlb_flush(self.c)
        return rc

    @property
    def cr3(self):
        """Machine address of the kernel's L4; 0 for none."""
        return self.c.pv.cr3_kernel

    @property
    def user_cr3(self):
        return self.c.pv.cr3_user

    def set_gdt(self, frames, entries):
        """As the hypercall; 0 or -errno."""
        cdef u64 list[14]
        cdef u32 n = entries
        if n > FIRST_RESERVED_GDT_ENTRY or len(frames) < (n + 511) >> 9:
            return -EINVAL
        for i in range((n + 511) >> 9):
            list[<int>i] = frames[i]
        return load_gdt(self.c.mem, NULL, self.c.pv, list, n)

    def gdt_frames(self):
        """The frames of the GDT."""
        return [self.c.pv.gdt_frames[i] for i in range(FIRST_RESERVED_GDT_PAGE) if self.c.pv.gdt_frames[i] != NO_FRAME]

    def set_ldt(self, u64 base, u64 entries):
        return pv_set_ldt(self.c, base, entries)

    def set_trap(self, u8 vector, u64 address, u8 flags=0, u16 cs=FLAT_RING3_CS64):
        """One entry of the trap table.  -EINVAL: the address is not canonical."""
        if not canonical(address):
            return -EINVAL
        cdef TrapInfo* t = &self.c.pv.traps[vector]
        t.vector, t.flags, t.cs, t.address = vector, flags, cs, address
        return 0

    def trap(self, u8 vector):
        """(address, flags, cs)"""
        cdef TrapInfo* t = &self.c.pv.traps[vector]
        return t.address, t.flags, t.cs

    def set_callback(self, int type, u64 address, bint mask_events=False):
        """Register a CALLBACKTYPE_*; 0 or -errno."""
        return register_callback(self.c, type, CALLBACKF_mask_events if mask_events else 0, address)

    def callback(self, int type):
        cdef PvState* p = self.c.pv
        return {0: p.event_callback, 1: p.failsafe_callback, 2: p.syscall_callback, 4: p.traps[X_NMI].address,
                5: p.sysenter_callback, 7: p.syscall32_callback}[type]

    def load_segments(self, *, cs=FLAT_RING3_CS64, ss=FLAT_RING3_SS64, ds=0, es=0, fs=0, gs=0):
        """Load selectors from GDT or LDT; 0, or -EINVAL when CS or SS may not be loaded (the others then read as null)."""
        cdef u64 d = 0
        cdef u16 sel
        if not pv_load_cs(self.c, cs) or not pv_load_ss(self.c, ss):
            pv_flat(self.c)
            return -EINVAL
        for index, value in ((DS, ds), (ES, es), (FS, fs), (GS, gs)):
            sel = value
            memset(&self.c.seg[<int>index], 0, sizeof(Seg))
            if sel & 0xFFFC and pv_read_desc(self.c, sel, &d) == ST_OK and d >> 47 & 1 and d >> 44 & 1:
                desc_to_seg(&self.c.seg[<int>index], sel | 3, d)
        update_mode(self.c)
        return 0

    @property
    def kernel_mode(self):
        return bool(self.c.pv.kernel_mode)

    @kernel_mode.setter
    def kernel_mode(self, bint value):
        if value != self.c.pv.kernel_mode:
            if not value and self.c.pv.cr3_user == 0:
                raise ValueError("the vcpu has no user page tables")
            pv_toggle(self.c)
            update_mode(self.c)

    @property
    def kernel_sp(self):
        return self.c.pv.kernel_sp

    @property
    def kernel_ss(self):
        return self.c.pv.kernel_ss

    def set_kernel_stack(self, u64 ss, u64 sp):
        self.c.pv.kernel_ss, self.c.pv.kernel_sp = ss & 0xFFFF | 3, sp

    @property
    def fs_base(self):
        return self.c.seg[FS].base

    @property
    def gs_base_kernel(self):
        return self.c.seg[GS].base if self.c.pv.kernel_mode else self.c.kernel_gs_base

    @property
    def gs_base_user(self):
        return self.c.kernel_gs_base if self.c.pv.kernel_mode else self.c.seg[GS].base

    def set_bases(self, u64 fs=0, u64 gs_kernel=0, u64 gs_user=0):
        """FS and GS bases; ValueError when one is not canonical."""
        if not (canonical(fs) and canonical(gs_kernel) and canonical(gs_user)):
            raise ValueError("a segment base is not canonical")
        self.c.seg[FS].base = fs
        self.c.seg[GS].base = gs_kernel if self.c.pv.kernel_mode else gs_user
        self.c.kernel_gs_base = gs_user if self.c.pv.kernel_mode else gs_kernel
        update_mode(self.c)

    @property
    def iopl(self):
        """Virtual IOPL, 0 to 3 (PHYSDEVOP_set_iopl)."""
        return self.c.pv.iopl >> 12

    @iopl.setter
    def iopl(self, u32 value):
        self.c.pv.iopl = (value & 3) << 12

    def debugreg(self, int n):
        return self.c.dr[n & 7]

    def set_debugreg(self, int n, u64 value):
        return pv_set_debugreg(self.c, n, value)

    def registers(self):
        """All a crash dump shows, by name, in the order to print it."""
        cdef Cpu* c = self.c
        out = {"rip": c.rip, "rflags": get_eflags(c), "mode": "kernel" if c.pv.kernel_mode else "user"}
        for name, i in REGISTERS.items():
            out[name] = c.r[<int>i]
        for name, i in SEGMENTS.items():
            if i < 6:
                out[name] = c.seg[<int>i].sel
        out.update(fs_base=self.fs_base, gs_base=c.seg[GS].base, gs_base_other=c.kernel_gs_base, cr0=c.cr0, cr2=c.cr2,
                   cr3=c.pv.cr3_kernel, cr3_user=c.pv.cr3_user, cr4=c.pv.ctrlreg4, kernel_sp=c.pv.kernel_sp,
                   upcall_pending=c.pv.vcpu_info[VI_PENDING], upcall_mask=c.pv.vcpu_info[VI_MASK])
        return out
