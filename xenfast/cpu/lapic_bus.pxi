# Messages between local APICs, INIT and SIPI, sleep.
#
# SDM Vol. 3, 10.6 (issuing interrupts), 10.12.10 (x2APIC destinations), 8.4 (starting processors), 6.9 (priority among events).
# lapic_accept() is all one APIC does to another: it sets a bit atomically, then REQ_EVENT.  Interrupts are then taken by
# take_event() (interrupts.pxi).  A vcpu that is not running and sleeps has
# to be woken by whoever runs vcpus: the sender leaves run() with EXIT_WAKE.

cdef enum:               # Lapic.pending
    LAPIC_INIT = 2
    LAPIC_SIPI = 4

cdef enum:               # delivery modes
    DM_FIXED = 0
    DM_LOWEST = 1
    DM_SMI = 2
    DM_NMI = 4
    DM_INIT = 5
    DM_SIPI = 6
    DM_EXTINT = 7

cdef enum:               # Cpu.halted of a bare machine
    HALTED = 1           # in HLT
    WAIT_SIPI = 2        # an application processor after INIT

cdef enum:
    APIC_MAX_CPUS = 128

# ---- sending ----------------------------------------------------------------------------------------------------------
cdef bint lapic_accept(Cpu* c, u32 mode, u32 vector, bint level) noexcept nogil:
    """A message gets to this APIC, from any thread.  Returns whether somebody must wake the vcpu."""
    cdef Lapic* a = c.lapic
    cdef u32 bit = <u32>1 << (vector & 31)
    if mode == DM_FIXED or mode == DM_LOWEST:
        if vector < 16:
            a.esr_next |= ESR_RECEIVE_VECTOR
            return False
        if level:
            fetch_or(&a.tmr[vector >> 5], bit)
        else:
            fetch_and(&a.tmr[vector >> 5], ~bit)
        fetch_or(&a.irr[vector >> 5], bit)
        fetch_or(&c.events, EVENT_LAPIC)
    elif mode == DM_NMI:
        fetch_or(&c.events, EVENT_NMI)
    elif mode == DM_INIT:
        fetch_and(&a.pending, ~<u32>LAPIC_SIPI)           # one that came before is lost: nobody waited for it
        fetch_or(&a.pending, LAPIC_INIT)
    elif mode == DM_SIPI:
        a.sipi_vector = vector
        fetch_or(&a.pending, LAPIC_SIPI)
    else:
        return False                                      # SMI: there is no SMM
    request(c, REQ_EVENT)
    return c.halted and not load_acquire(&c.in_run)

cdef bint logical_match(Cpu* t, u32 dest, bint x2) noexcept nogil:
    """Is this APIC meant by a logical destination (SDM Vol. 3, 10.6.2.2 and 10.12.10.2)?"""
    cdef u32 ldr = t.lapic.ldr
    if is_x2apic(t):
        return dest >> 16 == ldr >> 16 and dest & ldr & 0xFFFF != 0
    ldr >>= 24
    if t.lapic.dfr >> 28 == 0xF:                          # flat
        return dest & ldr & 0xFF != 0
    return (dest >> 4) & 15 == ldr >> 4 and dest & ldr & 15 != 0

cdef inline bint is_destination(Cpu* t, u32 dest, bint logical, bint x2) noexcept nogil:
    if t == NULL or t.lapic == NULL or not t.apic_base & APIC_BASE_EN:
        return False
    if dest == (<u32>0xFFFFFFFF if x2 else <u32>0xFF):
        return True
    return logical_match(t, dest, x2) if logical else t.apic_id == dest

cdef bint bus_send(ApicBusState* bus, u32 dest, bint logical, bint x2, u32 mode, u32 vector, bint level) noexcept nogil:
    """A message to all that are meant, or to the one of lowest priority.  Returns whether somebody must wake a vcpu."""
    cdef Cpu* t
    cdef Cpu* best = NULL
    cdef u32 i, k, start = bus.turn
    cdef bint wake = False
    for i in range(APIC_MAX_CPUS):
        k = (start + i) % APIC_MAX_CPUS
        t = bus.cpus[k]
        if not is_destination(t, dest, logical, x2):
            continue
        if mode != DM_LOWEST:
            wake |= lapic_accept(t, mode, vector, level)
        elif best == NULL or t.lapic.tpr < best.lapic.tpr:
            best = t
            bus.turn = (k + 1) % APIC_MAX_CPUS            # among equals the next one's turn
    if best != NULL:
        wake |= lapic_accept(best, mode, vector, level)
    return wake

cdef void lapic_icr(Cpu* c) noexcept nogil:
    """The interrupt command register has been written (SDM Vol. 3, 10.6.1)."""
    cdef Lapic* a = c.lapic
    cdef bint x2 = is_x2apic(c), wake = False
    cdef u32 mode = (a.icr_low >> 8) & 7, vector = a.icr_low & 0xFF, shorthand = (a.icr_low >> 18) & 3
    cdef u32 dest = a.icr_high if x2 else a.icr_high >> 24
    cdef int i
    if mode == DM_INIT and a.icr_low & 0xC000 == 0x8000:
        return                                            # INIT level de-assert: nothing, since the Pentium 4
    if mode == DM_FIXED or mode == DM_LOWEST:
        if vector < 16:
            lapic_error(c, ESR_SEND_VECTOR)
            return
    if shorthand == 0:
        wake = bus_send(c.apic_bus, dest, (a.icr_low >> 11) & 1, x2, mode, vector, False)
    elif shorthand == 1:
        if mode == DM_FIXED:
            lapic_accept(c, mode, vector, False)
    else:
        for i in range(APIC_MAX_CPUS):
            if is_destination(c.apic_bus.cpus[i], 0xFFFFFFFF, False, True) and (shorthand == 2 or c.apic_bus.cpus[i] != c):
                wake |= lapic_accept(c.apic_bus.cpus[i], mode, vector, False)
    if wake:
        c.wake = 1
        fetch_or(&c.req, REQ_EVENT)

# ---- INIT and SIPI ----------------------------------------------------------------------------------------------------
cdef void cpu_init(Cpu* c) noexcept nogil:
    """INIT (SDM Vol. 3, table 9-1): as RESET, but for vector and x87 registers, MSRs of memory types and the time, and the APIC's ID."""
    cdef u64 pat = c.pat, base = c.apic_base, cr0 = c.cr0, mtrr_def = c.mtrr_def
    cdef u64[11] fixed
    cdef u64[16] var
    cdef u16 fcw = c.fcw, fsw = c.fsw
    cdef u8 ftw = c.ftw
    cdef u32 mxcsr = c.mxcsr
    cdef u64 xcr0 = c.xcr0, until = c.until, deadline = c.timer_deadline
    memcpy(fixed, c.mtrr_fixed, sizeof(fixed))
    memcpy(var, c.mtrr_var, sizeof(var))
    reset_cpu(c)
    memcpy(c.mtrr_fixed, fixed, sizeof(fixed))
    memcpy(c.mtrr_var, var, sizeof(var))
    c.pat, c.apic_base, c.mtrr_def = pat, base, mtrr_def
    c.cr0 |= cr0 & 0x60000000                             # CD and NW stay
    c.cr0 &= cr0 | ~<u64>0x60000000
    c.fcw, c.fsw, c.ftw, c.mxcsr = fcw, fsw, ftw, mxcsr
    c.xcr0, c.until, c.timer_deadline = xcr0, until, deadline
    c.r[RDX] = c.cpuid.signature
    c.seg[CS].sel, c.seg[CS].base = 0xF000, 0xFFFF0000
    c.rip = 0xFFF0
    c.inhibit = c.nmi_blocked = 0
    c.db_pending = 0
    c.bp_on &= ~<u8>(BP_EXEC | BP_DATA)
    c.halted = 0 if c.apic_base & APIC_BASE_BSP else WAIT_SIPI
    if c.lapic != NULL:
        lapic_reset(c)
    update_mode(c)

cdef void take_init(Cpu* c) noexcept nogil:
    """INIT, and SIPI to one that waits for it (SDM Vol. 3, 8.4.2); to others SIPI means nothing."""
    cdef Lapic* a = c.lapic
    cdef u32 got = fetch_and(&a.pending, ~<u32>(LAPIC_INIT | LAPIC_SIPI)), vector = a.sipi_vector
    if got & LAPIC_INIT and not (c.hvm != NULL and c.halted == WAIT_SIPI):
        cpu_init(c)             # (Xen leaves a vcpu alone that has been reset already: Linux gives it an upcall before its first INIT)
    if got & LAPIC_SIPI and c.halted == WAIT_SIPI:
        c.seg[CS].sel = <u16>(vector << 8)
        c.seg[CS].base = vector << 12
        c.rip = 0
        c.halted = 0
        update_mode(c)

# ---- sleep and exits ---------------------------------------------------------------------------------------------------
cdef inline bint takes_extint(Cpu* c) noexcept nogil:
    """Does INTR get to the processor: without an APIC, with one that is off, through the I/O APIC or LINT0 as ExtINT?"""
    cdef u32 lvt
    if c.lapic == NULL or not c.apic_base & APIC_BASE_EN:
        return True
    lvt = c.lapic.lvt[LVT_LINT0]
    if c.lapic.extint and c.lapic.svr & SVR_ENABLE:
        return True
    return not lvt & LVT_MASKED and (lvt >> 8) & 7 == DM_EXTINT

cdef bint wakes(Cpu* c) noexcept nogil:
    """Does anything end this vcpu's sleep?  It is then awake, or about to be."""
    if c.halted == WAIT_SIPI:
        return c.lapic.pending != 0
    if c.lapic.pending & LAPIC_INIT or event_ready(c):
        c.halted = 0
        return True
    return False

cdef u32 lapic_serve(Cpu* c) noexcept nogil:
    """REQ_EVENT: what is not an interrupt.  Returns an exit reason or EXIT_NONE."""
    cdef Lapic* a = c.lapic
    if c.wake:
        c.wake = 0
        return event_exit(c, EXIT_WAKE, 0)
    if a.eoi:
        c.exit.nr = a.eoi - 1
        a.eoi = 0
        return event_exit(c, EXIT_EOI, c.exit.nr)
    if a.pending:
        take_init(c)
    return EXIT_HLT if c.halted == WAIT_SIPI else EXIT_NONE

cdef u32 event_exit(Cpu* c, u32 reason, u64 nr) noexcept nogil:
    """Leave run() between instructions; what else there is, is served when it goes on."""
    c.exit.reason = reason
    c.exit.nr = nr
    fetch_or(&c.req, REQ_EVENT)
    return reason
