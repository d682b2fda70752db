# The local APIC of a vcpu: registers as memory (xAPIC) and as MSRs (x2APIC), priorities, the timer.
#
# SDM Vol. 3, ch. 10.  It lives in the core, as it does in Xen: a guest touches it at every timer interrupt and IPI.  A vcpu
# has one after lapic_attach() (Vcpu.attach_lapic); without one nothing here is used.  Messages between APICs and what a vcpu does
# about a pending interrupt are in lapic_bus.pxi.  The registers belong to the vcpu's thread, but for IRR, TMR and `pending`.
#
# The timer counts at 100 MHz, as Xen's does, by the machine's clock, so in virtual time it is exact to the instruction.
# Left out: the CMCI entry, suppression of EOI broadcasts, focus checking; thermal and performance entries never fire.

cdef enum:               # register numbers: offset >> 4, and MSR 800h + number
    APIC_ID = 0x02
    APIC_VERSION = 0x03
    APIC_TPR = 0x08
    APIC_APR = 0x09
    APIC_PPR = 0x0A
    APIC_EOI = 0x0B
    APIC_RRD = 0x0C
    APIC_LDR = 0x0D
    APIC_DFR = 0x0E
    APIC_SVR = 0x0F
    APIC_ISR = 0x10      # 8 registers each
    APIC_TMR = 0x18
    APIC_IRR = 0x20
    APIC_ESR = 0x28
    APIC_ICR = 0x30
    APIC_ICR_HIGH = 0x31
    APIC_LVT = 0x32      # 6 registers
    APIC_INITIAL = 0x38
    APIC_CURRENT = 0x39
    APIC_DIVIDE = 0x3E
    APIC_SELF_IPI = 0x3F

cdef enum:               # rights of a register, in each mode
    XR = 1               # xAPIC: read, write
    XW = 2
    X2R = 4              # x2APIC
    X2W = 8

cdef enum:
    APIC_BASE_BSP = 1 << 8
    APIC_BASE_EXTD = 1 << 10
    APIC_BASE_EN = 1 << 11
    LVT_TIMER = 0
    LVT_LINT0 = 3
    LVT_LINT1 = 4
    LVT_ERROR = 5
    LVT_MASKED = 1 << 16
    TIMER_ONE_SHOT = 0
    TIMER_PERIODIC = 1
    TIMER_DEADLINE = 2
    SVR_ENABLE = 1 << 8
    ESR_SEND_VECTOR = 1 << 5
    ESR_RECEIVE_VECTOR = 1 << 6
    ESR_REGISTER = 1 << 7
    BUS_NS = 10          # of the timer, at divisor 1

cdef struct ApicReg:
    u16 first
    u16 last
    u16 rights
    u32 writable         # bits that may be written; in x2APIC mode another one is #GP

# THE TABLE, in the order of SDM table 10-6.
cdef ApicReg[21] APIC_REGS
APIC_REGS[0] = ApicReg(APIC_ID, APIC_ID, XR | X2R, 0)
APIC_REGS[1] = ApicReg(APIC_VERSION, APIC_VERSION, XR | X2R, 0)
APIC_REGS[2] = ApicReg(APIC_TPR, APIC_TPR, XR | XW | X2R | X2W, 0xFF)
APIC_REGS[3] = ApicReg(APIC_APR, APIC_APR, XR, 0)
APIC_REGS[4] = ApicReg(APIC_PPR, APIC_PPR, XR | X2R, 0)
APIC_REGS[5] = ApicReg(APIC_EOI, APIC_EOI, XW | X2W, 0)
APIC_REGS[6] = ApicReg(APIC_RRD, APIC_RRD, XR, 0)
APIC_REGS[7] = ApicReg(APIC_LDR, APIC_LDR, XR | XW | X2R, 0xFF000000)
APIC_REGS[8] = ApicReg(APIC_DFR, APIC_DFR, XR | XW, 0xF0000000)
APIC_REGS[9] = ApicReg(APIC_SVR, APIC_SVR, XR | XW | X2R | X2W, 0x1FF)
APIC_REGS[10] = ApicReg(APIC_ISR, APIC_ESR - 1, XR | X2R, 0)
APIC_REGS[11] = ApicReg(APIC_ESR, APIC_ESR, XR | XW | X2R | X2W, 0)
APIC_REGS[12] = ApicReg(APIC_ICR, APIC_ICR, XR | XW | X2R | X2W, 0xCCFFF)
APIC_REGS[13] = ApicReg(APIC_ICR_HIGH, APIC_ICR_HIGH, XR | XW, 0xFF000000)
APIC_REGS[14] = ApicReg(APIC_LVT, APIC_LVT, XR | XW | X2R | X2W, 0x700FF)
APIC_REGS[15] = ApicReg(APIC_LVT + 1, APIC_LVT + 2, XR | XW | X2R | X2W, 0x107FF)
APIC_REGS[16] = ApicReg(APIC_LVT + LVT_LINT0, APIC_LVT + LVT_LINT1, XR | XW | X2R | X2W, 0x1A7FF)
APIC_REGS[17] = ApicReg(APIC_LVT + LVT_ERROR, APIC_LVT + LVT_ERROR, XR | XW | X2R | X2W, 0x100FF)
APIC_REGS[18] = ApicReg(APIC_INITIAL, APIC_INITIAL, XR | XW | X2R | X2W, 0xFFFFFFFF)
APIC_REGS[19] = ApicReg(APIC_CURRENT, APIC_CURRENT, XR | X2R, 0)
APIC_REGS[20] = ApicReg(APIC_DIVIDE, APIC_DIVIDE, XR | XW | X2R | X2W, 0xB)

cdef ApicReg* apic_reg(u32 nr) noexcept nogil:
    cdef int i
    for i in range(21):
        if nr >= APIC_REGS[i].first and nr <= APIC_REGS[i].last:
            return &APIC_REGS[i]
    return NULL

cdef inline bint is_x2apic(Cpu* c) noexcept nogil:
    return (c.apic_base & APIC_BASE_EXTD) != 0

# ---- reset and modes --------------------------------------------------------------------------------------------------
cdef void lapic_reset(Cpu* c) noexcept nogil:
    """State after RESET or INIT, or when it has been disabled (SDM Vol. 3, 10.4.7)."""
    cdef Lapic* a = c.lapic
    cdef u32 extint = a.extint                            # is the I/O APIC's
    cdef int i
    memset(a, 0, sizeof(Lapic))
    a.extint = extint
    a.svr = 0xFF
    a.dfr = 0xFFFFFFFF
    a.deadline = ~<u64>0
    for i in range(6):
        a.lvt[i] = LVT_MASKED
    lapic_place(c)

cdef void lapic_place(Cpu* c) noexcept nogil:
    """Where the registers are, after a change of IA32_APIC_BASE; the logical ID of x2APIC mode follows from the ID."""
    c.lapic_page = ~<u64>0
    if c.apic_base & APIC_BASE_EN and not is_x2apic(c):
        c.lapic_page = c.apic_base >> 12
    if is_x2apic(c):
        c.lapic.ldr = (c.apic_id >> 4) << 16 | 1 << (c.apic_id & 15)
    tlb_flush(c)

cdef bint write_apic_base(Cpu* c, u64 v) noexcept nogil:
    """False: #GP.  Modes go off -> xAPIC -> x2APIC -> off, and xAPIC -> off (SDM Vol. 3, figure 10-27)."""
    cdef u64 known = APIC_BASE_BSP | APIC_BASE_EN | (((<u64>1 << PHYS_BITS) - 1) & ~<u64>0xFFF)
    cdef u64 old = c.apic_base & (APIC_BASE_EN | APIC_BASE_EXTD), new = v & (APIC_BASE_EN | APIC_BASE_EXTD)
    if c.lapic == NULL:
        c.apic_base = v
        return True
    if has_feature(c, FEAT_1C, 21):
        known |= APIC_BASE_EXTD
    if v & ~known or new == APIC_BASE_EXTD:
        return False
    if new & APIC_BASE_EXTD and old == 0 or old & APIC_BASE_EXTD and new == APIC_BASE_EN:
        return False
    c.apic_base = v
    if not new and old:
        lapic_reset(c)
    lapic_place(c)
    return True

# ---- vectors and priorities -------------------------------------------------------------------------------------------
cdef int highest(const u32* bits) noexcept nogil:
    """The highest vector in IRR or ISR, -1 for none."""
    cdef int i, bit
    for i in range(7, -1, -1):
        if bits[i]:
            for bit in range(31, -1, -1):
                if (bits[i] >> bit) & 1:
                    return 32 * i + bit
    return -1

cdef u32 lapic_ppr(Lapic* a) noexcept nogil:
    """The processor priority: that of the task or of what is in service (SDM Vol. 3, 10.8.3.1)."""
    cdef int vector = highest(a.isr)
    cdef u32 service = <u32>vector & 0xF0 if vector >= 0 else 0
    return a.tpr if a.tpr & 0xF0 >= service else service

cdef int lapic_deliverable(Cpu* c) noexcept nogil:
    """The vector to be taken next, -1 for none."""
    cdef Lapic* a = c.lapic
    cdef int vector
    if not c.events & EVENT_LAPIC or a == NULL or not c.apic_base & APIC_BASE_EN or not a.svr & SVR_ENABLE:
        return -1
    vector = highest(a.irr)
    return vector if vector >= 0 and <u32>vector & 0xF0 > lapic_ppr(a) & 0xF0 else -1

cdef int lapic_take(Cpu* c) noexcept nogil:
    """Take the next interrupt into service and return its vector; the spurious one if there is none after all."""
    cdef Lapic* a = c.lapic
    cdef int vector = lapic_deliverable(c)
    if vector < 0:
        return a.svr & 0xFF
    fetch_and(&a.irr[vector >> 5], ~(<u32>1 << (vector & 31)))
    a.isr[vector >> 5] |= <u32>1 << (vector & 31)
    if highest(a.irr) < 0:
        fetch_and(&c.events, ~<u32>EVENT_LAPIC)
        if highest(a.irr) >= 0:                           # somebody has set one meanwhile
            fetch_or(&c.events, EVENT_LAPIC)
    return vector

cdef void lapic_set_tpr(Cpu* c, u32 v) noexcept nogil:
    c.lapic.tpr = v
    c.cr8 = v >> 4

cdef void lapic_eoi(Cpu* c) noexcept nogil:
    """The highest interrupt in service has been dealt with; of a level-triggered one the machine is told (its I/O APIC)."""
    cdef Lapic* a = c.lapic
    cdef int vector = highest(a.isr)
    if vector < 0:
        return
    a.isr[vector >> 5] &= ~(<u32>1 << (vector & 31))
    if (a.tmr[vector >> 5] >> (vector & 31)) & 1:
        a.eoi = vector + 1
        fetch_or(&c.req, REQ_EVENT)

cdef void lapic_error(Cpu* c, u32 bit) noexcept nogil:
    c.lapic.esr_next |= bit
    lapic_local(c, LVT_ERROR)

cdef void lapic_local(Cpu* c, int entry) noexcept nogil:
    """A local source is raised: the timer, LINT0, LINT1, an error (SDM Vol. 3, 10.5.1)."""
    cdef u32 lvt = c.lapic.lvt[entry]
    if lvt & LVT_MASKED:
        return
    if entry == LVT_TIMER or entry == LVT_ERROR:
        lvt &= ~<u32>0x700
    if (lvt >> 8) & 7 != 7:                               # ExtINT is looked at by takes_extint()
        lapic_accept(c, (lvt >> 8) & 7, lvt & 0xFF, lvt & (1 << 15) and entry >= LVT_LINT0 and entry <= LVT_LINT1)

# ---- the timer --------------------------------------------------------------------------------------------------------
cdef inline u32 timer_mode(Lapic* a) noexcept nogil:
    return (a.lvt[LVT_TIMER] >> 17) & 3

cdef inline u64 timer_tick_ns(Lapic* a) noexcept nogil:
    """Divide configuration: bits 3 1 0 are 0 for 2 to 6 for 128, 7 for 1."""
    cdef u32 code = (a.divide & 3) | ((a.divide & 8) >> 1)
    return <u64>BUS_NS << ((code + 1) & 7)

cdef void timer_set(Cpu* c, u64 deadline) noexcept nogil:
    c.lapic.deadline = deadline
    fetch_or(&c.req, REQ_SLICE)

cdef void timer_start(Cpu* c) noexcept nogil:
    """The initial count has been written."""
    cdef Lapic* a = c.lapic
    a.start = now_ns(c)
    timer_set(c, a.start + a.initial * timer_tick_ns(a) if a.initial else ~<u64>0)

cdef u32 timer_current(Cpu* c) noexcept nogil:
    cdef Lapic* a = c.lapic
    cdef u64 now = now_ns(c)
    if a.deadline == ~<u64>0 or timer_mode(a) == TIMER_DEADLINE or now >= a.deadline:
        return 0
    return <u32>((a.deadline - now + timer_tick_ns(a) - 1) // timer_tick_ns(a))

cdef u64 lapic_tick(Cpu* c, u64 now) noexcept nogil:
    """Let the timer fire if it is time; returns the next deadline.  A period that has passed altogether is lost."""
    cdef Lapic* a = c.lapic
    cdef u64 period
    if now < a.deadline:
        return a.deadline
    a.tsc_deadline = 0
    if timer_mode(a) == TIMER_PERIODIC and a.initial:
        period = a.initial * timer_tick_ns(a)
        a.deadline += period * ((now - a.deadline) // period + 1)
    else:
        a.deadline = ~<u64>0
    lapic_local(c, LVT_TIMER)
    return a.deadline

cdef void write_tsc_deadline(Cpu* c, u64 v) noexcept nogil:
    """IA32_TSC_DEADLINE: 0 disarms; ignored in the other modes of the timer (SDM Vol. 3, 10.5.4.1)."""
    cdef Lapic* a = c.lapic
    if timer_mode(a) != TIMER_DEADLINE:
        return
    a.tsc_deadline = v
    timer_set(c, tsc_to_ns(c, v) if v else ~<u64>0)

cdef u64 tsc_to_ns(Cpu* c, u64 tsc) noexcept nogil:
    """When the TSC gets there; at once if it has."""
    cdef u64 now = now_ns(c), current = now + c.tsc_offset
    return now + (tsc - current) if tsc > current else now

# ---- registers --------------------------------------------------------------------------------------------------------
cdef u64 lapic_get(Cpu* c, u32 nr) noexcept nogil:
    cdef Lapic* a = c.lapic
    if nr == APIC_ID:
        return c.apic_id if is_x2apic(c) else c.apic_id << 24
    if nr == APIC_VERSION:
        return 5 << 16 | 0x14                             # integrated, 6 LVT entries
    if nr == APIC_TPR:
        return a.tpr
    if nr == APIC_PPR:
        return lapic_ppr(a)
    if nr == APIC_LDR:
        return a.ldr
    if nr == APIC_DFR:
        return a.dfr
    if nr == APIC_SVR:
        return a.svr
    if nr >= APIC_ISR and nr < APIC_TMR:
        return a.isr[nr - APIC_ISR]
    if nr >= APIC_TMR and nr < APIC_IRR:
        return a.tmr[nr - APIC_TMR]
    if nr >= APIC_IRR and nr < APIC_ESR:
        return a.irr[nr - APIC_IRR]
    if nr == APIC_ESR:
        return a.esr
    if nr == APIC_ICR:
        return (<u64>a.icr_high << 32 if is_x2apic(c) else 0) | a.icr_low
    if nr == APIC_ICR_HIGH:
        return a.icr_high
    if nr >= APIC_LVT and nr < APIC_LVT + 6:
        return a.lvt[nr - APIC_LVT]
    if nr == APIC_INITIAL:
        return 0 if timer_mode(a) == TIMER_DEADLINE else a.initial
    if nr == APIC_CURRENT:
        return timer_current(c)
    if nr == APIC_DIVIDE:
        return a.divide
    return 0

cdef void lapic_set(Cpu* c, u32 nr, u32 v) noexcept nogil:
    """A register that may be written, with bits that may be."""
    cdef Lapic* a = c.lapic
    if nr == APIC_TPR:
        lapic_set_tpr(c, v)
    elif nr == APIC_EOI:
        lapic_eoi(c)
    elif nr == APIC_LDR:
        a.ldr = v
    elif nr == APIC_DFR:
        a.dfr = v | 0x0FFFFFFF
    elif nr == APIC_SVR:
        set_svr(c, v)
    elif nr == APIC_ESR:
        a.esr, a.esr_next = a.esr_next, 0
    elif nr == APIC_ICR:
        a.icr_low = v
        lapic_icr(c)
    elif nr == APIC_ICR_HIGH:
        a.icr_high = v
    elif nr >= APIC_LVT and nr < APIC_LVT + 6:
        set_lvt(c, nr - APIC_LVT, v)
    elif nr == APIC_INITIAL:
        if timer_mode(a) != TIMER_DEADLINE:
            a.initial = v
            timer_start(c)
    elif nr == APIC_DIVIDE:
        a.divide = v
        if a.deadline != ~<u64>0 and timer_mode(a) != TIMER_DEADLINE:
            timer_start(c)

cdef void set_svr(Cpu* c, u32 v) noexcept nogil:
    cdef int i
    cdef bint was_off = not c.lapic.svr & SVR_ENABLE
    c.lapic.svr = v
    if was_off and v & SVR_ENABLE and c.hvm != NULL and c.hvm.upcall_vector and c.hvm.vcpu_info != NULL and c.hvm.vcpu_info[0]:
        lapic_accept(c, 0, c.hvm.upcall_vector, False)    # an upcall that INIT has wiped out, or that came meanwhile
    if not v & SVR_ENABLE:                                # every entry is masked, and stays so
        for i in range(6):
            c.lapic.lvt[i] |= LVT_MASKED

cdef void set_lvt(Cpu* c, int entry, u32 v) noexcept nogil:
    cdef Lapic* a = c.lapic
    cdef u32 old = a.lvt[entry]
    if not a.svr & SVR_ENABLE:
        v |= LVT_MASKED
    if entry == LVT_TIMER and not has_feature(c, FEAT_1C, 24):
        v &= ~<u32>(1 << 18)
    a.lvt[entry] = v
    if entry == LVT_TIMER and ((old ^ v) >> 18) & 1:      # to or from TSC deadline: the timer is disarmed
        a.initial = 0
        a.tsc_deadline = 0
        timer_set(c, ~<u64>0)

# ---- xAPIC: registers in memory ---------------------------------------------------------------------------------------
cdef int lapic_mmio_read(Cpu* c, int size, u64* out) noexcept nogil:
    """32 bits every 16 bytes; what lies between reads as 0 (the SDM leaves it undefined)."""
    cdef u32 at = <u32>c.exit.address & 0xFFF
    cdef ApicReg* r = apic_reg(at >> 4)
    out[0] = 0
    if r == NULL or not r.rights & XR:
        if r == NULL:
            lapic_error(c, ESR_REGISTER)
        return ST_OK
    if at & 12 == 0:
        out[0] = lapic_get(c, at >> 4) >> (8 * (at & 3))
        if size < 8:
            out[0] &= (<u64>1 << (8 * size)) - 1
    return ST_OK

cdef int lapic_mmio_write(Cpu* c, int size, u64 v) noexcept nogil:
    """Aligned 32-bit stores only; bits that cannot be written are ignored.  The block is left, so that what follows is seen at once."""
    cdef u32 at = <u32>c.exit.address & 0xFFF
    cdef ApicReg* r = apic_reg(at >> 4)
    if at & 15 or size != 4:
        return ST_OK
    if r == NULL:
        lapic_error(c, ESR_REGISTER)
    elif r.rights & XW:
        lapic_set(c, at >> 4, <u32>v & r.writable)
    c.code_hit = 1
    return ST_OK

# ---- x2APIC: registers as MSRs 800h to 8FFh ---------------------------------------------------------------------------
cdef bint x2apic_read(Cpu* c, u32 nr, u64* v) noexcept nogil:
    """False: #GP (SDM Vol. 3, 10.12.1)."""
    cdef ApicReg* r = apic_reg(nr)
    if c.lapic == NULL or not is_x2apic(c) or r == NULL or not r.rights & X2R:
        return False
    v[0] = lapic_get(c, nr)
    return True

cdef bint x2apic_write(Cpu* c, u32 nr, u64 v) noexcept nogil:
    cdef ApicReg* r = apic_reg(nr)
    if c.lapic == NULL or not is_x2apic(c):
        return False
    if nr == APIC_SELF_IPI:
        if v & ~<u64>0xFF:
            return False
        lapic_accept(c, 0, <u32>v, False)
        return True
    if 0x32 <= nr <= 0x37:                                # delivery status and, of LINT0 and LINT1, remote IRR are only read
        v &= ~<u64>(0x5000 if nr == 0x35 or nr == 0x36 else 0x1000)
    if r == NULL or not r.rights & X2W or <u32>v & ~r.writable or (v >> 32 and nr != APIC_ICR):
        return False
    if nr == APIC_ICR:
        c.lapic.icr_high = <u32>(v >> 32)
    lapic_set(c, nr, <u32>v)
    return True
