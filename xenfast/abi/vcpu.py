"""VCPU operations.  Specified in xen/include/public/vcpu.h; the start context in arch-x86/xen.h and
arch-x86/xen-x86_64.h.
"""

from xenfast.abi.layout import Layout

VCPUOP_initialise = 0
VCPUOP_up = 1
VCPUOP_down = 2
VCPUOP_is_up = 3
VCPUOP_get_runstate_info = 4
VCPUOP_register_runstate_memory_area = 5
VCPUOP_set_periodic_timer = 6
VCPUOP_stop_periodic_timer = 7
VCPUOP_set_singleshot_timer = 8
VCPUOP_stop_singleshot_timer = 9
VCPUOP_register_vcpu_info = 10
VCPUOP_send_nmi = 11
VCPUOP_get_physid = 12
VCPUOP_register_vcpu_time_memory_area = 13
VCPUOP_register_runstate_phys_area = 14
VCPUOP_register_vcpu_time_phys_area = 15

RUNSTATE_running = 0
RUNSTATE_runnable = 1           # another vcpu has the processor
RUNSTATE_blocked = 2            # it waits for an event
RUNSTATE_offline = 3            # down
XEN_RUNSTATE_UPDATE = 1 << 63   # in state_entry_time while the area is being written (VMASST_TYPE_runstate_update_flag)

VCPU_SSHOTTMR_future = 1 << 0   # -ETIME when the timeout has passed

runstate_info = Layout("vcpu_runstate_info", ("state", "i"), ("state_entry_time", "Q"), ("time", "4Q"))
set_periodic_timer = Layout("vcpu_set_periodic_timer", ("period_ns", "Q"))
set_singleshot_timer = Layout("vcpu_set_singleshot_timer", ("timeout_abs_ns", "Q"), ("flags", "I"))
register_vcpu_info = Layout("vcpu_register_vcpu_info", ("mfn", "Q"), ("offset", "I"), ("rsvd", "I"))
register_memory_area = Layout("vcpu_register_memory_area", ("addr", "Q"))
get_physid = Layout("vcpu_get_physid", ("phys_id", "Q"))

# struct cpu_user_regs, 64-bit
USER_REGS = (
    ("r15", "Q"), ("r14", "Q"), ("r13", "Q"), ("r12", "Q"), ("rbp", "Q"), ("rbx", "Q"),
    ("r11", "Q"), ("r10", "Q"), ("r9", "Q"), ("r8", "Q"), ("rax", "Q"), ("rcx", "Q"), ("rdx", "Q"), ("rsi", "Q"),
    ("rdi", "Q"),
    ("error_code", "I"), ("entry_vector", "I"), ("rip", "Q"), ("cs", "H"), ("_pad0", "2x"), ("saved_upcall_mask", "B"),
    ("_pad1", "3x"), ("rflags", "Q"), ("rsp", "Q"), ("ss", "H"), ("_pad2", "6x"), ("es", "H"), ("_pad3", "6x"),
    ("ds", "H"), ("_pad4", "6x"), ("fs", "H"), ("_pad5", "6x"), ("gs", "H"), ("_pad6", "6x"),
)
cpu_user_regs = Layout("cpu_user_regs", *USER_REGS)
trap_info = Layout("trap_info", ("vector", "B"), ("flags", "B"), ("cs", "H"), ("address", "Q"))

VGCF_i387_valid = 1 << 0
VGCF_in_kernel = 1 << 2
VGCF_failsafe_disables_events = 1 << 3
VGCF_syscall_disables_events = 1 << 4
VGCF_online = 1 << 5

vcpu_guest_context = Layout(
    "vcpu_guest_context",
    ("fpu_ctxt", "512s"),                   # FXSAVE image
    ("flags", "Q"),                         # VGCF_*
    ("user_regs", f"{cpu_user_regs.size}s"),
    ("trap_ctxt", f"{256 * trap_info.size}s"),
    ("ldt_base", "Q"), ("ldt_ents", "Q"),
    ("gdt_frames", "16Q"), ("gdt_ents", "Q"),
    ("kernel_ss", "Q"), ("kernel_sp", "Q"),
    ("ctrlreg", "8Q"),                      # CR3: xen_pfn_to_cr3, the frame number shifted by 12 on x86-64
    ("debugreg", "8Q"),
    ("event_callback_eip", "Q"), ("failsafe_callback_eip", "Q"), ("syscall_callback_eip", "Q"),
    ("vm_assist", "Q"),
    ("fs_base", "Q"), ("gs_base_kernel", "Q"), ("gs_base_user", "Q"),
    align=16,
)
