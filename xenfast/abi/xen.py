"""Hypercall numbers, VIRQs, domain ids and the shared structures of an x86-64 guest.

Specified in xen/include/public/xen.h and arch-x86/xen.h, arch-x86/xen-x86_64.h.  Layouts are those of a 64-bit guest;
the 32-bit ("compat") ones are left out with 32-bit PV guests.
"""

from typing import NamedTuple

from xenfast.abi.layout import Layout

# --- hypercalls (XEN_HYPERCALL_NR) -----------------------------------------------------------------------------------
__HYPERVISOR_set_trap_table = 0
__HYPERVISOR_mmu_update = 1
__HYPERVISOR_set_gdt = 2
__HYPERVISOR_stack_switch = 3
__HYPERVISOR_set_callbacks = 4
__HYPERVISOR_fpu_taskswitch = 5
__HYPERVISOR_sched_op_compat = 6
__HYPERVISOR_platform_op = 7
__HYPERVISOR_set_debugreg = 8
__HYPERVISOR_get_debugreg = 9
__HYPERVISOR_update_descriptor = 10
__HYPERVISOR_memory_op = 12
__HYPERVISOR_multicall = 13
__HYPERVISOR_update_va_mapping = 14
__HYPERVISOR_set_timer_op = 15
__HYPERVISOR_event_channel_op_compat = 16
__HYPERVISOR_xen_version = 17
__HYPERVISOR_console_io = 18
__HYPERVISOR_physdev_op_compat = 19
__HYPERVISOR_grant_table_op = 20
__HYPERVISOR_vm_assist = 21
__HYPERVISOR_update_va_mapping_otherdomain = 22
__HYPERVISOR_iret = 23
__HYPERVISOR_vcpu_op = 24
__HYPERVISOR_set_segment_base = 25
__HYPERVISOR_mmuext_op = 26
__HYPERVISOR_xsm_op = 27
__HYPERVISOR_nmi_op = 28
__HYPERVISOR_sched_op = 29
__HYPERVISOR_callback_op = 30
__HYPERVISOR_xenoprof_op = 31
__HYPERVISOR_event_channel_op = 32
__HYPERVISOR_physdev_op = 33
__HYPERVISOR_hvm_op = 34
__HYPERVISOR_sysctl = 35
__HYPERVISOR_domctl = 36
__HYPERVISOR_kexec_op = 37
__HYPERVISOR_tmem_op = 38
__HYPERVISOR_argo_op = 39
__HYPERVISOR_xenpmu_op = 40
__HYPERVISOR_dm_op = 41
__HYPERVISOR_hypfs_op = 42
NR_HYPERCALLS = 64

# --- virtual interrupts ----------------------------------------------------------------------------------------------
VIRQ_TIMER = 0          # a timer of the vcpu is due
VIRQ_DEBUG = 1          # an administrator wants the guest to tell about itself
VIRQ_CONSOLE = 2        # this one and most of those below: to domain 0 only
VIRQ_DOM_EXC = 3
VIRQ_TBUF = 4
VIRQ_DEBUGGER = 6
VIRQ_XENOPROF = 7
VIRQ_CON_RING = 8
VIRQ_PCPU_STATE = 9
VIRQ_MEM_EVENT = 10
VIRQ_ARGO = 11
VIRQ_ENOMEM = 12
VIRQ_XENPMU = 13
VIRQ_ARCH_0 = 16
NR_VIRQS = 24
# One per vcpu; the others are bound once in a domain.
VCPU_VIRQS = frozenset({VIRQ_TIMER, VIRQ_DEBUG, VIRQ_XENOPROF, VIRQ_XENPMU})

# --- domain identifiers ----------------------------------------------------------------------------------------------
DOMID_FIRST_RESERVED = 0x7FF0
DOMID_SELF = 0x7FF0
DOMID_IO = 0x7FF1
DOMID_XEN = 0x7FF2
DOMID_COW = 0x7FF3
DOMID_INVALID = 0x7FF4
DOMID_IDLE = 0x7FFF

# --- mmu_update, mmuext_op (the calls themselves are answered in the core) -------------------------------------------
MMU_NORMAL_PT_UPDATE = 0
MMU_MACHPHYS_UPDATE = 1
MMU_PT_UPDATE_PRESERVE_AD = 2
MMU_PT_UPDATE_NO_TRANSLATE = 3

MMUEXT_PIN_L1_TABLE = 0
MMUEXT_PIN_L2_TABLE = 1
MMUEXT_PIN_L3_TABLE = 2
MMUEXT_PIN_L4_TABLE = 3
MMUEXT_UNPIN_TABLE = 4
MMUEXT_NEW_BASEPTR = 5
MMUEXT_TLB_FLUSH_LOCAL = 6
MMUEXT_INVLPG_LOCAL = 7
MMUEXT_TLB_FLUSH_MULTI = 8
MMUEXT_INVLPG_MULTI = 9
MMUEXT_TLB_FLUSH_ALL = 10
MMUEXT_INVLPG_ALL = 11
MMUEXT_FLUSH_CACHE = 12
MMUEXT_SET_LDT = 13
MMUEXT_NEW_USER_BASEPTR = 15
MMUEXT_CLEAR_PAGE = 16
MMUEXT_COPY_PAGE = 17
MMUEXT_FLUSH_CACHE_GLOBAL = 18
MMUEXT_MARK_SUPER = 19
MMUEXT_UNMARK_SUPER = 20

UVMF_NONE = 0
UVMF_TLB_FLUSH = 1
UVMF_INVLPG = 2
UVMF_FLUSHTYPE_MASK = 3
UVMF_MULTI = 0
UVMF_LOCAL = 0
UVMF_ALL = 4

# --- console_io ------------------------------------------------------------------------------------------------------
CONSOLEIO_write = 0
CONSOLEIO_read = 1

# --- vm_assist -------------------------------------------------------------------------------------------------------
VMASST_CMD_enable = 0
VMASST_CMD_disable = 1
VMASST_TYPE_4gb_segments = 0
VMASST_TYPE_4gb_segments_notify = 1
VMASST_TYPE_writable_pagetables = 2
VMASST_TYPE_pae_extended_cr3 = 3
VMASST_TYPE_architectural_iopl = 4
VMASST_TYPE_runstate_update_flag = 5
VMASST_TYPE_m2p_strict = 32

# --- where things are in a 64-bit PV guest's address space (arch-x86/xen-x86_64.h) -----------------------------------
HYPERVISOR_VIRT_START = 0xFFFF800000000000
HYPERVISOR_VIRT_END = 0xFFFF880000000000
MACH2PHYS_VIRT_START = 0xFFFF800000000000
MACH2PHYS_VIRT_END = 0xFFFF804000000000

FLAT_RING3_CS64 = 0xE033
FLAT_RING3_CS32 = 0xE023
FLAT_RING3_SS64 = 0xE02B
FLAT_KERNEL_CS = FLAT_RING3_CS64
FLAT_KERNEL_SS = FLAT_RING3_SS64

PAGE_SHIFT = 12
PAGE_SIZE = 4096

# --- shared_info -----------------------------------------------------------------------------------------------------
XEN_LEGACY_MAX_VCPUS = 32
EVTCHN_2L_NR_CHANNELS = 64 * 64

vcpu_time_info = Layout(
    "vcpu_time_info",
    ("version", "I"),               # odd while Xen is writing
    ("pad0", "I"),
    ("tsc_timestamp", "Q"),         # a TSC value,
    ("system_time", "Q"),           # and the ns since the machine's start that it stands for
    ("tsc_to_system_mul", "I"),     # ns in a TSC tick shifted by tsc_shift, times 2 to the 32
    ("tsc_shift", "b"),
    ("flags", "B"),
    ("pad1", "2x"),
)
XEN_PVCLOCK_TSC_STABLE_BIT = 1 << 0
XEN_PVCLOCK_GUEST_STOPPED = 1 << 1

vcpu_info = Layout(
    "vcpu_info",
    ("evtchn_upcall_pending", "B"),
    ("evtchn_upcall_mask", "B"),
    ("pad", "6x"),
    ("evtchn_pending_sel", "Q"),
    ("arch_cr2", "Q"),
    ("arch_pad", "Q"),
    ("time", "32s"),                # struct vcpu_time_info
)
VCPU_INFO_SIZE = vcpu_info.size     # 64
VCPU_INFO_TIME = vcpu_info.offset["time"]

shared_info = Layout(
    "shared_info",
    ("vcpu_info", f"{VCPU_INFO_SIZE * XEN_LEGACY_MAX_VCPUS}s"),
    ("evtchn_pending", "64Q"),
    ("evtchn_mask", "64Q"),
    ("wc_version", "I"),            # odd while Xen is writing
    ("wc_sec", "I"),
    ("wc_nsec", "I"),
    ("wc_sec_hi", "I"),
    ("arch_max_pfn", "Q"),
    ("arch_pfn_to_mfn_frame_list_list", "Q"),
    ("arch_nmi_reason", "Q"),
    ("arch_p2m_cr3", "Q"),
    ("arch_p2m_vaddr", "Q"),
    ("arch_p2m_generation", "Q"),
)


class SharedPlaces(NamedTuple):
    """Where things are in shared_info and vcpu_info, whose words are as wide as the guest's."""

    pending: int                    # offset of evtchn_pending in shared_info
    mask: int
    wall_clock: int                 # of wc_version, wc_sec, wc_nsec
    wc_sec_hi: int
    selector: int                   # of evtchn_pending_sel in vcpu_info
    shift: int                      # log2 of the bits in a word, as many words there are

    @property
    def ports(self) -> int:
        """Event channels of the two-level ABI."""
        return 1 << 2 * self.shift


SHARED_64 = SharedPlaces(0x800, 0xA00, 0xC00, 0xC0C, 8, 6)
SHARED_32 = SharedPlaces(0x800, 0x880, 0x900, 0x924, 4, 5)
SHARED_PENDING = shared_info.offset["evtchn_pending"]
SHARED_MASK = shared_info.offset["evtchn_mask"]
SHARED_WALL_CLOCK = shared_info.offset["wc_version"]

multicall_entry = Layout("multicall_entry", ("op", "P"), ("result", "P"), ("args", "6P"))
mmu_update = Layout("mmu_update", ("ptr", "Q"), ("val", "Q"))
mmuext_op = Layout("mmuext_op", ("cmd", "I"), ("arg1", "Q"), ("arg2", "Q"))
