# Hypercalls the core answers itself, and the way of the others out to Python.
#
# xen/include/public/xen.h.  A 64-bit PV kernel makes a hypercall with SYSCALL: number in RAX, arguments in RDI RSI RDX R10 R8 R9, result
# in RAX, RCX and R11 lost.  pv_call() is the table; a number that is not in it leaves run() with EXIT_HYPERCALL and is finished by
# Vcpu.hypercall_return().  Long ones are preempted as in Xen: they return to the SYSCALL instruction with their arguments advanced.

cdef enum:
    HC_set_trap_table = 0
    HC_mmu_update = 1
    HC_set_gdt = 2
    HC_stack_switch = 3
    HC_set_callbacks = 4
    HC_fpu_taskswitch = 5
    HC_set_debugreg = 8
    HC_get_debugreg = 9
    HC_update_descriptor = 10
    HC_multicall = 13
    HC_update_va_mapping = 14
    HC_set_timer_op = 15
    HC_xen_version = 17
    HC_vm_assist = 21
    HC_update_va_mapping_otherdomain = 22
    HC_iret = 23
    HC_vcpu_op = 24
    HC_set_segment_base = 25
    HC_mmuext_op = 26
    HC_sched_op = 29
    HC_callback_op = 30

cdef enum:
    ETIME = 62
    VCPUOP_set_singleshot_timer = 8
    VCPUOP_stop_singleshot_timer = 9
    VCPU_SSHOTTMR_future = 1
    SCHEDOP_yield = 0
    SCHEDOP_block = 1
    CALLBACKOP_register = 0
    CALLBACKOP_unregister = 1
    CALLBACKF_mask_events = 1
    MULTICALL_BATCH = 256
    TRAP_BATCH = 512

cdef extern from *:
    """
    #define XF_VM_ASSIST_VALID (1ull << 0 | 1ull << 1 | 1ull << 2 | 1ull << 3 | 1ull << 4 | 1ull << 5 | 1ull << 32)
    """
    # 4gb_segments(_notify), writable_pagetables, pae_extended_cr3, architectural_iopl, runstate_update_flag, m2p_strict
    u64 VM_ASSIST_VALID "XF_VM_ASSIST_VALID"

cdef struct Multicall:   # struct multicall_entry
    u64 op
    u64 result
    u64 args[6]

cdef struct CallbackRegister:    # struct callback_register
    u16 type
    u16 flags
    u32 pad
    u64 address


cdef i64 pv_call(Cpu* c, u64 nr, u64* a) noexcept nogil:
    """THE TABLE of the hypercalls that stay in the core."""
    c.pv.counts[nr if nr < 64 else 63] += 1
    if nr == HC_mmu_update:
        return pv_mmu_update(c, a)
    elif nr == HC_update_va_mapping:
        return pv_update_va_mapping(c, a)
    elif nr == HC_mmuext_op:
        return pv_mmuext_op(c, a)
    elif nr == HC_stack_switch:
        return pv_stack_switch(c, a)
    elif nr == HC_set_segment_base:
        return pv_set_segment_base(c, a)
    elif nr == HC_fpu_taskswitch:
        return pv_fpu_taskswitch(c, a)
    elif nr == HC_xen_version:
        return c.pv.domain.version if <u32>a[0] == 0 else HC_PYTHON
    elif nr == HC_set_timer_op:
        return pv_set_timer_op(c, a)
    elif nr == HC_vcpu_op:
        return pv_vcpu_op(c, a)
    elif nr == HC_sched_op:
        return pv_sched_op(c, a)
    elif nr == HC_update_descriptor:
        return pv_update_descriptor(c, a)
    elif nr == HC_set_trap_table:
        return pv_set_trap_table(c, a)
    elif nr == HC_set_gdt:
        return pv_set_gdt(c, a)
    elif nr == HC_set_callbacks:
        return pv_set_callbacks(c, a)
    elif nr == HC_callback_op:
        return pv_callback_op(c, a)
    elif nr == HC_set_debugreg:
        return pv_set_debugreg(c, a[0], a[1])
    elif nr == HC_get_debugreg:
        return pv_get_debugreg(c, a[0])
    elif nr == HC_vm_assist:
        return pv_vm_assist(c, a)
    elif nr == HC_update_va_mapping_otherdomain:
        return pv_update_va_mapping_otherdomain(c, a)
    return HC_PYTHON


# --- entry and exit --------------------------------------------------------------------------------------------------
cdef int pv_hypercall(Cpu* c, u64 rip, u64 next) noexcept nogil:
    """A hypercall of the guest kernel by the instruction at rip.  ST_BRANCH or ST_EXIT."""
    cdef u64 a[6]
    cdef u64 nr = c.r[RAX], began = 0
    cdef i64 rc
    cdef int st
    c.stat[STAT_HYPERCALLS] += 1
    a[0], a[1], a[2], a[3], a[4], a[5] = c.r[RDI], c.r[RSI], c.r[RDX], c.r[10], c.r[8], c.r[9]
    c.rip = next
    c.r[RCX] = next                                   # Xen returns by SYSRET
    c.r[11] = get_eflags(c)
    if c.seg[CS].sel != FLAT_RING3_CS64 or c.seg[SS].sel != FLAT_RING3_SS64:
        pv_flat(c)
        update_mode(c)
    c.pv.again_rip = rip
    if nr == HC_iret:
        c.pv.counts[HC_iret] += 1
        return pv_iret(c)
    if unlikely(c.profile != NULL):
        began = monotonic_ns()
    rc = pv_multicall(c, a) if nr == HC_multicall else pv_call(c, nr, a)
    if unlikely(c.profile != NULL):
        profile_call(c, nr, began)
    if rc == HC_AGAIN:
        pv_again(c)
        return pv_resume(c, ST_BRANCH)
    if rc == HC_PYTHON:
        if c.pv.multicall_left == 0:
            exit_hypercall(c, nr, a)
        return ST_EXIT
    if rc == HC_EXIT:
        if nr != HC_multicall:
            c.r[RAX] = 0
        return ST_EXIT
    c.r[RAX] = <u64>rc
    st = pv_resume(c, ST_BRANCH)
    return st

cdef void exit_hypercall(Cpu* c, u64 nr, u64* a) noexcept nogil:
    c.exit.reason = EXIT_HYPERCALL
    c.exit.nr = nr
    memcpy(c.exit.args, a, sizeof(c.exit.args))

cdef void pv_again(Cpu* c) noexcept nogil:
    """Make the hypercall again, with the arguments in PvState.again."""
    c.r[RDI], c.r[RSI], c.r[RDX], c.r[10] = c.pv.again[0], c.pv.again[1], c.pv.again[2], c.pv.again[3]
    c.rip = c.pv.again_rip

cdef i64 pv_multicall(Cpu* c, u64* a) noexcept nogil:
    """multicall(list, count).  An entry that is not the core's leaves run(); multicall_done() goes on behind it."""
    cdef u64 entry = a[0], left = <u32>a[1], n = 0
    cdef Multicall call
    cdef i64 rc
    c.pv.counts[HC_multicall] += 1
    if left and not access_ok(entry, left * sizeof(Multicall)):
        return -EFAULT
    while left:
        if pv_read(c, entry, sizeof(Multicall), &call):
            return -EFAULT
        rc = -ENOSYS if call.op == HC_iret else -EINVAL if call.op == HC_multicall else pv_call(c, call.op, call.args)
        if rc == HC_PYTHON:
            exit_hypercall(c, call.op, call.args)
            c.pv.multicall_entry, c.pv.multicall_left = entry, left
            return HC_PYTHON
        if rc == HC_AGAIN:
            if pv_write(c, entry + 16, 32, c.pv.again):
                return -EFAULT
        else:
            call.result = 0 if rc == HC_EXIT else <u64>rc
            if pv_write(c, entry + 8, 8, &call.result):
                return -EFAULT
            entry += sizeof(Multicall)
            left -= 1
        n += 1
        if rc == HC_EXIT:
            multicall_next(c, entry, left)
            return HC_EXIT
        if left and (rc == HC_AGAIN or n == MULTICALL_BATCH or c.req):
            c.pv.again[0], c.pv.again[1] = entry, left
            c.pv.again[2], c.pv.again[3] = a[2], a[3]
            return HC_AGAIN
    return 0

cdef void multicall_next(Cpu* c, u64 entry, u64 left) noexcept nogil:
    """The guest's registers for what is left of a multicall: nothing, or the same hypercall with advanced arguments."""
    c.pv.multicall_left = 0
    if left == 0:
        c.r[RAX] = 0
        return
    c.r[RAX] = HC_multicall
    c.r[RDI], c.r[RSI] = entry, left
    c.rip = c.pv.again_rip

cdef void hypercall_done(Cpu* c, u64 value) noexcept nogil:
    """Python has answered the hypercall run() was left for."""
    cdef u64 entry = c.pv.multicall_entry, left = c.pv.multicall_left
    if left == 0:
        c.r[RAX] = value
    elif pv_write(c, entry + 8, 8, &value):
        c.pv.multicall_left = 0
        c.r[RAX] = <u64><i64>-EFAULT
    else:
        multicall_next(c, entry + sizeof(Multicall), left - 1)
    fetch_or(&c.req, REQ_EVENT)

cdef void hypercall_again(Cpu* c) noexcept nogil:
    """Python wants the hypercall made again when the vcpu runs next, with the arguments in c.exit.args."""
    cdef u64* a = c.exit.args
    if c.pv.multicall_left == 0:
        c.r[RAX] = c.exit.nr
        c.r[RDI], c.r[RSI], c.r[RDX], c.r[10], c.r[8], c.r[9] = a[0], a[1], a[2], a[3], a[4], a[5]
        c.rip = c.pv.again_rip
    else:
        pv_write(c, c.pv.multicall_entry + 16, 48, a)
        multicall_next(c, c.pv.multicall_entry, c.pv.multicall_left)


# --- traps, callbacks, stacks ----------------------------------------------------------------------------------------
cdef i64 pv_set_trap_table(Cpu* c, u64* a) noexcept nogil:
    """set_trap_table(table): entries up to one whose address is 0; no table clears them all."""
    cdef TrapInfo t
    cdef u64 at = a[0]
    cdef int n
    if at == 0:
        memset(c.pv.traps, 0, sizeof(c.pv.traps))
        return 0
    for n in range(TRAP_BATCH):
        if pv_read(c, at, sizeof(TrapInfo), &t):
            return -EFAULT
        if t.address == 0:
            return 0
        if not canonical(t.address):
            return -EINVAL
        c.pv.traps[t.vector] = t
        at += sizeof(TrapInfo)
    c.pv.again[0], c.pv.again[1], c.pv.again[2], c.pv.again[3] = at, a[1], a[2], a[3]
    return HC_AGAIN

cdef int register_callback(Cpu* c, int type, u32 flags, u64 address) noexcept nogil:
    cdef PvState* pv = c.pv
    if not canonical(address):
        return -EINVAL
    if type == CALLBACKTYPE_event:
        pv.event_callback = address
    elif type == CALLBACKTYPE_failsafe:
        pv.failsafe_callback = address
    elif type == CALLBACKTYPE_syscall:
        pv.syscall_callback = address
    elif type == CALLBACKTYPE_syscall32:
        pv.syscall32_callback = address
    elif type == CALLBACKTYPE_sysenter:
        pv.sysenter_callback = address
    elif type == CALLBACKTYPE_nmi:
        pv.traps[X_NMI].vector = X_NMI
        pv.traps[X_NMI].flags = TI_IF
        pv.traps[X_NMI].cs = FLAT_RING3_CS64
        pv.traps[X_NMI].address = address
        return 0
    else:
        return -ENOSYS
    pv.callback_masks &= ~(<u32>1 << type)
    if flags & CALLBACKF_mask_events:
        pv.callback_masks |= <u32>1 << type
    return 0

cdef i64 pv_callback_op(Cpu* c, u64* a) noexcept nogil:
    """callback_op(cmd, arg): struct callback_register {u16 type, flags; u64 address}, struct callback_unregister {u16 type}"""
    cdef CallbackRegister r
    if <u32>a[0] == CALLBACKOP_register:
        if pv_read(c, a[1], sizeof(r), &r):
            return -EFAULT
        return register_callback(c, r.type, r.flags, r.address)
    if <u32>a[0] != CALLBACKOP_unregister:
        return -ENOSYS
    if pv_read(c, a[1], 2, &r.type):
        return -EFAULT
    if r.type == CALLBACKTYPE_nmi:
        memset(&c.pv.traps[X_NMI], 0, sizeof(TrapInfo))
        return 0
    return -ENOSYS if r.type == 3 or r.type == 6 or r.type > CALLBACKTYPE_syscall32 else -EINVAL

cdef i64 pv_set_callbacks(Cpu* c, u64* a) noexcept nogil:
    """set_callbacks(event, failsafe, syscall); a bad address is ignored"""
    register_callback(c, CALLBACKTYPE_event, 0, a[0])
    register_callback(c, CALLBACKTYPE_failsafe, 0, a[1])
    register_callback(c, CALLBACKTYPE_syscall, 0, a[2])
    return 0

cdef i64 pv_stack_switch(Cpu* c, u64* a) noexcept nogil:
    """stack_switch(ss, sp): where frames for the kernel go when user mode is interrupted"""
    c.pv.kernel_ss = a[0] & 0xFFFF | 3
    c.pv.kernel_sp = a[1]
    return 0

cdef i64 pv_fpu_taskswitch(Cpu* c, u64* a) noexcept nogil:
    if <u32>a[0]:
        c.cr0 |= CR0_TS
    else:
        c.cr0 &= ~<u64>CR0_TS
    return 0

cdef i64 pv_set_segment_base(Cpu* c, u64* a) noexcept nogil:
    """set_segment_base(which, base): FS, user GS, kernel GS, or user GS by selector"""
    cdef u32 which = <u32>a[0]
    cdef u64 base = a[1], desc = 0
    cdef u16 sel = <u16>base
    if which < 3 and not canonical(base):
        return -EINVAL
    if which == 0:
        c.seg[FS].base = c.r[R_SEG + FS] = base
    elif which == 1:
        c.kernel_gs_base = base
    elif which == 2:
        c.seg[GS].base = c.r[R_SEG + GS] = base
    elif which == 3:
        sel = sel | 3 if sel > 3 else 0
        base = c.seg[GS].base
        c.kernel_gs_base = 0
        memset(&c.seg[GS], 0, sizeof(Seg))
        if sel and pv_read_desc(c, sel, &desc) == ST_OK and (desc >> 44) & 9 == 9 and (desc >> 43 & 1) <= (desc >> 41 & 1):
            desc_to_seg(&c.seg[GS], sel, desc)        # present, data or readable code
            c.kernel_gs_base = c.seg[GS].base
        c.seg[GS].base = base
    else:
        return -EINVAL
    return 0

# --- time, scheduling ------------------------------------------------------------------------------------------------
cdef i64 pv_set_timer_op(Cpu* c, u64* a) noexcept nogil:
    """set_timer_op(time): one shot, in system time; 0 stops it.  run() is left with EXIT_TIMER when it is due."""
    set_deadline(c, a[0] if a[0] else ~<u64>0)
    return 0

cdef void set_deadline(Cpu* c, u64 deadline) noexcept nogil:
    """Virtual time counts instructions, so the slice that is running must end there."""
    cdef i64 left = 0, have = c.budget + c.bias
    cdef u64 now
    c.timer_deadline = deadline
    if not c.clock.is_virtual or deadline == ~<u64>0:
        return
    now = now_ns(c)
    if deadline > now:
        if deadline - now >= <u64>have:
            return
        left = <i64>(deadline - now)
    c.budget -= have - left
    c.slice -= have - left

cdef i64 pv_vcpu_op(Cpu* c, u64* a) noexcept nogil:
    """vcpu_op(cmd, vcpuid, arg): the one-shot timer of the calling vcpu, which set_timer_op sets too; vcpus there cannot be;
    the rest is Python's."""
    cdef u64 timer[2]                                 # struct vcpu_set_singleshot_timer {u64 timeout_abs_ns; u32 flags}
    if <u32>a[1] >= PV_MAX_VCPUS:
        return -ENOENT                                # Linux asks VCPUOP_is_up of every vcpu there could be, 8,192 at a boot
    if <u32>a[1] != c.pv.vcpu_id:
        return HC_PYTHON
    if <u32>a[0] == VCPUOP_stop_singleshot_timer:
        set_deadline(c, ~<u64>0)
        return 0
    if <u32>a[0] != VCPUOP_set_singleshot_timer:
        return HC_PYTHON
    if pv_read(c, a[2], 16, timer):
        return -EFAULT
    if timer[1] & VCPU_SSHOTTMR_future and timer[0] < now_ns(c):
        return -ETIME
    set_deadline(c, timer[0])
    return 0

cdef i64 pv_sched_op(Cpu* c, u64* a) noexcept nogil:
    """sched_op(yield) and sched_op(block); the others are Python's."""
    if <u32>a[0] == SCHEDOP_block:
        c.pv.vcpu_info[VI_MASK] = 0
        if c.pv.vcpu_info[VI_PENDING]:
            return 0
        c.halted = 1
        c.exit.reason = EXIT_HLT
        return HC_EXIT
    if <u32>a[0] == SCHEDOP_yield:
        if c.clock.is_virtual:
            c.exit.reason = EXIT_BUDGET               # the next vcpu's turn
            return HC_EXIT
        cpu_pause()
        return 0
    return HC_PYTHON

cdef i64 pv_vm_assist(Cpu* c, u64* a) noexcept nogil:
    """vm_assist(cmd, type): enable (0) or disable (1)"""
    cdef u64 bit
    if <u32>a[1] >= 64:
        return -EINVAL
    bit = <u64>1 << <u32>a[1]
    if <u32>a[0] > 1:
        return -ENOSYS
    if not VM_ASSIST_VALID & bit:
        return -EINVAL
    if <u32>a[0] == 0:
        c.pv.domain.vm_assist |= bit
    else:
        c.pv.domain.vm_assist &= ~bit
    return 0

# --- debug registers -------------------------------------------------------------------------------------------------
cdef int debugreg(Cpu* c, u64 reg) noexcept nogil:
    """Number of the register, DR4 and DR5 naming DR6 and DR7 unless CR4.DE is set; or -errno."""
    if reg == 4 or reg == 5:
        return -ENODEV if c.pv.ctrlreg4 & 8 else <int>reg + 2
    return -EINVAL if reg > 7 else <int>reg

cdef i64 pv_get_debugreg(Cpu* c, u64 reg) noexcept nogil:
    cdef int n = debugreg(c, <u32>reg)
    return n if n < 0 else <i64>c.dr[n]

cdef i64 pv_set_debugreg(Cpu* c, u64 reg, u64 value) noexcept nogil:
    """Breakpoints only at the guest's own addresses; none on I/O."""
    cdef int n = debugreg(c, <u32>reg), i
    if n < 0:
        return n
    if n < 4:
        if not access_ok(value, 1):
            return -EPERM
    elif n == 6:
        value = value & 0xE00F | <u64>0xFFFF0FF0
    else:
        if value >> 32:
            return -EPERM
        for i in range(4):
            if (value >> (16 + 4 * i)) & 3 == 2 and (value >> (2 * i)) & 3:
                return -EPERM
        value = value & <u64>0xFFFF23FF | 0x400
    c.dr[n] = value
    return 0
