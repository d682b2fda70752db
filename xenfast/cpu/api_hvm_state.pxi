# The state of a vcpu with a p2m as plain values: what is saved with a domain, and loaded into a vcpu of another host.
#
# As xen/include/public/arch-x86/hvm/save.h has it (CPU, LAPIC, LAPIC_REGS, MTRR, TSC_ADJUST), by names.  Times are relative to now, or TSC
# values: the clock of the host it is loaded on is another one.

cdef u64 from_now(Cpu* c, u64 deadline) noexcept:
    """A deadline as ns from now on, ~0 for none."""
    cdef u64 now = now_ns(c)
    return deadline if deadline == ~<u64>0 else deadline - now if deadline > now else 0

cdef u64 at_time(Cpu* c, u64 ns) noexcept:
    return ns if ns == ~<u64>0 else now_ns(c) + ns

cdef dict system_registers(Cpu* c):
    return {
        "cr0": c.cr0, "cr2": c.cr2, "cr3": c.cr3, "cr4": c.cr4, "xcr0": c.xcr0, "efer": c.efer, "star": c.star, "lstar": c.lstar,
        "cstar": c.cstar, "fmask": c.fmask, "sysenter_cs": c.sysenter_cs, "sysenter_esp": c.sysenter_esp, "sysenter_eip": c.sysenter_eip,
        "kernel_gs_base": c.kernel_gs_base, "pat": c.pat, "pkru": c.pkru, "tsc_aux": c.tsc_aux, "tsc_adjust": c.tsc_adjust,
        "mcg_status": c.mcg_status, "mtrr_def": c.mtrr_def, "apic_base": c.apic_base,
    }

cdef load_system_registers(Cpu* c, dict s):
    c.cr0, c.cr2, c.cr3, c.cr4, c.xcr0 = s["cr0"], s["cr2"], s["cr3"], s["cr4"] & c.cr4_legal, s["xcr0"]
    c.efer, c.star, c.lstar, c.cstar, c.fmask = s["efer"], s["star"], s["lstar"], s["cstar"], s["fmask"]
    c.sysenter_cs, c.sysenter_esp, c.sysenter_eip = s["sysenter_cs"], s["sysenter_esp"], s["sysenter_eip"]
    c.kernel_gs_base, c.pat, c.pkru, c.tsc_aux = s["kernel_gs_base"], s["pat"], s["pkru"], s["tsc_aux"]
    c.tsc_adjust, c.mcg_status, c.mtrr_def, c.apic_base = s["tsc_adjust"], s["mcg_status"], s["mtrr_def"], s["apic_base"]

cdef dict lapic_state(Cpu* c):
    cdef Lapic* a = c.lapic
    return {
        "irr": list(<u32[:8]>a.irr), "isr": list(<u32[:8]>a.isr), "tmr": list(<u32[:8]>a.tmr), "lvt": list(<u32[:6]>a.lvt),
        "pending": a.pending, "sipi_vector": a.sipi_vector, "tpr": a.tpr, "ldr": a.ldr, "dfr": a.dfr, "svr": a.svr, "esr": a.esr,
        "esr_next": a.esr_next, "icr_low": a.icr_low, "icr_high": a.icr_high, "initial": a.initial, "divide": a.divide, "eoi": a.eoi,
        "tsc_deadline": a.tsc_deadline, "deadline": from_now(c, a.deadline),
    }

cdef load_lapic(Cpu* c, dict s):
    cdef Lapic* a = c.lapic
    cdef int i
    for i in range(8):
        a.irr[i], a.isr[i], a.tmr[i] = s["irr"][i], s["isr"][i], s["tmr"][i]
    for i in range(6):
        a.lvt[i] = s["lvt"][i]
    a.pending, a.sipi_vector = s["pending"] & (LAPIC_INIT | LAPIC_SIPI), s["sipi_vector"] & 0xFF
    a.tpr, a.ldr, a.dfr, a.svr = s["tpr"] & 0xFF, s["ldr"], s["dfr"], s["svr"]
    a.esr, a.esr_next, a.icr_low, a.icr_high = s["esr"], s["esr_next"], s["icr_low"], s["icr_high"]
    a.initial, a.divide, a.eoi, a.tsc_deadline = s["initial"], s["divide"], min(s["eoi"], 256), s["tsc_deadline"]
    a.deadline = at_time(c, s["deadline"])
    a.start = now_ns(c)

cdef dict hvm_save(HvmVcpu v):
    cdef Cpu* c = v.c
    return {
        "general": v.general(), "rip": c.rip, "rflags": get_eflags(c), "cpl": c.cpl,
        "segments": {name: v.segment(name) for name in SEGMENTS},
        "gdtr": (c.gdtr.base, c.gdtr.limit), "idtr": (c.idtr.base, c.idtr.limit),
        "system": system_registers(c), "pdptes": list(<u64[:4]>c.pdpte), "debug": v.debug_registers,
        "mtrr_fixed": list(<u64[:11]>c.mtrr_fixed), "mtrr_var": list(<u64[:16]>c.mtrr_var),
        "vectors": v.vectors(), "x87": v.x87(), "fp_pointers": (c.fop, c.fip, c.fdp, c.fcs, c.fds), "mxcsr": c.mxcsr,
        "tsc": read_tsc(c), "timer": from_now(c, c.timer_deadline),
        "halted": c.halted, "inhibit": c.inhibit, "nmi_blocked": c.nmi_blocked,
        "events": c.events & (EVENT_NMI | EVENT_INTR | EVENT_EXTINT),
        "intr_vector": c.intr_vector, "db_pending": c.db_pending, "callback_vector": c.hvm.callback_vector,
        "upcall_vector": c.hvm.upcall_vector, "lapic": lapic_state(c),
        "answers": [(c.mmio[i].address, c.mmio[i].value) for i in range(c.mmio_n)], "seed": c.rng,
    }

cdef hvm_load(HvmVcpu v, dict s):
    cdef Cpu* c = v.c
    cdef int i
    load_system_registers(c, s["system"])
    for i in range(4):
        c.pdpte[i] = s["pdptes"][i]
    for i in range(11):
        c.mtrr_fixed[i] = s["mtrr_fixed"][i]
    for i in range(16):
        c.mtrr_var[i] = s["mtrr_var"][i]
    v.set_general(s["general"])
    v.set_vectors(s["vectors"])
    v.set_x87(*s["x87"])
    c.fop, c.fip, c.fdp, c.fcs, c.fds = s["fp_pointers"]
    c.mxcsr = s["mxcsr"] & 0xFFFF
    for name, values in s["segments"].items():
        v.set_segment(name, *values)
    v.set_table("gdtr", *s["gdtr"])
    v.set_table("idtr", *s["idtr"])
    set_eflags(c, s["rflags"])
    c.cpl = s["cpl"] & 3
    v.rip = s["rip"]
    v.debug_registers = s["debug"]
    c.tsc_offset = <u64>s["tsc"] - now_ns(c)
    c.timer_deadline = at_time(c, s["timer"])
    c.inhibit, c.nmi_blocked = s["inhibit"] & 3, s["nmi_blocked"] & 1
    c.db_pending, c.intr_vector, c.rng = s["db_pending"] & 0xE00F, s["intr_vector"], s["seed"]
    c.hvm.callback_vector, c.hvm.upcall_vector = s["callback_vector"] & 0xFF, s["upcall_vector"] & 0xFF
    load_lapic(c, s["lapic"])
    c.halted = s["halted"] if s["halted"] in (0, HALTED, WAIT_SIPI) else 0
    c.mmio_n = c.mmio_next = 0
    for address, value in s["answers"][:MMIO_DONE]:
        c.mmio[c.mmio_n].address, c.mmio[c.mmio_n].value = address, value
        c.mmio_n += 1
    lapic_place(c)
    paging_changed_quietly(c, s["pdptes"])
    fetch_or(&c.events, (s["events"] & (EVENT_NMI | EVENT_INTR | EVENT_EXTINT)) | EVENT_LAPIC | EVENT_UPCALL)
    request(c, REQ_EVENT)

cdef paging_changed_quietly(Cpu* c, list pdptes):
    """As the loads of the control registers would; but the directory pointers are those that were loaded, not what memory has now."""
    cdef int i
    paging_changed(c)
    for i in range(4):
        c.pdpte[i] = pdptes[i]
