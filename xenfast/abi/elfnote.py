"""ELF notes by which a kernel tells Xen how it wants to be started.

Specified in xen/include/public/elfnote.h.  A note's owner name is ``"Xen"``; numbers are 4 or 8 bytes, strings end
with a NUL. Crash and core-dump notes are left out: they are written by tools that dump a domain, not read by a
builder.
"""

ELFNOTE_NAME = b"Xen\0"

XEN_ELFNOTE_INFO = 0
XEN_ELFNOTE_ENTRY = 1               # virtual address of the PV entry point
XEN_ELFNOTE_HYPERCALL_PAGE = 2      # virtual address of the page Xen fills with stubs; recent Linux has none
XEN_ELFNOTE_VIRT_BASE = 3           # virtual address of pseudo-physical address 0
XEN_ELFNOTE_PADDR_OFFSET = 4        # what p_paddr counts from
XEN_ELFNOTE_XEN_VERSION = 5
XEN_ELFNOTE_GUEST_OS = 6
XEN_ELFNOTE_GUEST_VERSION = 7
XEN_ELFNOTE_LOADER = 8
XEN_ELFNOTE_PAE_MODE = 9
XEN_ELFNOTE_FEATURES = 10           # "name|!name": with "!" the kernel cannot do without it
XEN_ELFNOTE_BSD_SYMTAB = 11
XEN_ELFNOTE_HV_START_LOW = 12
XEN_ELFNOTE_L1_MFN_VALID = 13
XEN_ELFNOTE_SUSPEND_CANCEL = 14
XEN_ELFNOTE_INIT_P2M = 15           # virtual address at which the p2m list is to be mapped
XEN_ELFNOTE_MOD_START_PFN = 16      # 1: start_info.mod_start may be a PFN, the module then is not mapped
XEN_ELFNOTE_SUPPORTED_FEATURES = 17
XEN_ELFNOTE_PHYS32_ENTRY = 18       # physical address of the PVH entry point
XEN_ELFNOTE_PHYS32_RELOC = 19

NOTE_NAMES = {
    value: name.removeprefix("XEN_ELFNOTE_")
    for name, value in list(globals().items())
    if name.startswith("XEN_ELFNOTE_")
}

STRING_NOTES = frozenset(
    {
        XEN_ELFNOTE_INFO,
        XEN_ELFNOTE_XEN_VERSION,
        XEN_ELFNOTE_GUEST_OS,
        XEN_ELFNOTE_GUEST_VERSION,
        XEN_ELFNOTE_LOADER,
        XEN_ELFNOTE_PAE_MODE,
        XEN_ELFNOTE_FEATURES,
        XEN_ELFNOTE_BSD_SYMTAB,
    }
)

# Names of XEN_ELFNOTE_FEATURES and their bit in XENFEAT_* (xen/include/public/features.h).
FEATURE_BITS = {
    "writable_page_tables": 0,
    "writable_descriptor_tables": 1,
    "auto_translated_physmap": 2,
    "supervisor_mode_kernel": 3,
    "pae_pgdir_above_4gb": 4,
    "mmu_pt_update_preserve_ad": 5,
    "highmem_assist": 6,
    "gnttab_map_avail_bits": 7,
    "hvm_callback_vector": 8,
    "hvm_safe_pvclock": 9,
    "hvm_pirqs": 10,
    "dom0": 11,
}
