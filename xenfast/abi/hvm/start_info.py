"""What a PVH guest finds at its start.  Specified in xen/include/public/arch-x86/hvm/start_info.h."""

from xenfast.abi.layout import Layout

XEN_HVM_START_MAGIC_VALUE = 0x336EC578

hvm_start_info = Layout(
    "hvm_start_info",
    ("magic", "I"), ("version", "I"), ("flags", "I"), ("nr_modules", "I"),
    ("modlist_paddr", "Q"), ("cmdline_paddr", "Q"), ("rsdp_paddr", "Q"),
    ("memmap_paddr", "Q"), ("memmap_entries", "I"), ("reserved", "I"),      # since version 1
)  # fmt: skip
hvm_modlist_entry = Layout("hvm_modlist_entry", ("paddr", "Q"), ("size", "Q"), ("cmdline_paddr", "Q"), ("reserved", "Q"))
hvm_memmap_table_entry = Layout("hvm_memmap_table_entry", ("addr", "Q"), ("size", "Q"), ("type", "I"), ("reserved", "I"))
