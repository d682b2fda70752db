"""Memory reservations.  Specified in xen/include/public/memory.h."""

from xenfast.abi.layout import Layout

XENMEM_increase_reservation = 0
XENMEM_decrease_reservation = 1
XENMEM_maximum_ram_page = 2
XENMEM_current_reservation = 3
XENMEM_maximum_reservation = 4
XENMEM_machphys_mfn_list = 5
XENMEM_populate_physmap = 6
XENMEM_add_to_physmap = 7
XENMEM_memory_map = 9
XENMEM_machine_memory_map = 10
XENMEM_exchange = 11
XENMEM_machphys_mapping = 12
XENMEM_set_memory_map = 13
XENMEM_maximum_gpfn = 14
XENMEM_remove_from_physmap = 15
XENMEM_set_pod_target = 16
XENMEM_get_pod_target = 17
XENMEM_get_sharing_freed_pages = 18
XENMEM_get_sharing_shared_pages = 19
XENMEM_paging_op = 20
XENMEM_access_op = 21
XENMEM_sharing_op = 22
XENMEM_add_to_physmap_batch = 23
XENMEM_claim_pages = 24
XENMEM_machphys_compat_mfn_list = 25
XENMEM_get_vnumainfo = 26
XENMEM_reserved_device_memory_map = 27
XENMEM_acquire_resource = 28

MEMOP_EXTENT_SHIFT = 6          # the command is in bits 0-5, the first extent of a continued call above
MEMOP_CMD_MASK = (1 << MEMOP_EXTENT_SHIFT) - 1

XENMEMF_exact_node_request = 1 << 17
XENMEMF_vnode = 1 << 18

reservation = Layout("xen_memory_reservation", ("extent_start", "P"), ("nr_extents", "P"), ("extent_order", "I"),
                     ("mem_flags", "I"), ("domid", "H"))
exchange = Layout("xen_memory_exchange", ("in_", f"{reservation.size}s"), ("out", f"{reservation.size}s"),
                  ("nr_exchanged", "Q"))
EXCHANGE_OUT = exchange.offset["out"]
EXCHANGE_DONE = exchange.offset["nr_exchanged"]
machphys_mfn_list = Layout("xen_machphys_mfn_list", ("max_extents", "I"), ("extent_start", "P"), ("nr_extents", "I"))
machphys_mapping = Layout("xen_machphys_mapping", ("v_start", "P"), ("v_end", "P"), ("max_mfn", "P"))
add_to_physmap = Layout("xen_add_to_physmap", ("domid", "H"), ("size", "H"), ("space", "I"), ("idx", "P"),
                        ("gpfn", "P"))
remove_from_physmap = Layout("xen_remove_from_physmap", ("domid", "H"), ("gpfn", "P"))
add_to_physmap_batch = Layout("xen_add_to_physmap_batch", ("domid", "H"), ("space", "H"), ("size", "H"), ("extra", "H"),
                             ("idxs", "P"), ("gpfns", "P"), ("errs", "P"))
XENMAPSPACE_shared_info = 0
XENMAPSPACE_grant_table = 1
XENMAPSPACE_gmfn = 2
XENMAPSPACE_gmfn_range = 3
XENMAPSPACE_gmfn_foreign = 4
XENMAPSPACE_dev_mmio = 5
memory_map = Layout("xen_memory_map", ("nr_entries", "I"), ("buffer", "P"))

E820_RAM = 1
E820_RESERVED = 2
E820_ACPI = 3
E820_NVS = 4
E820_ENTRY = "<QQI"             # struct e820entry is packed: 20 bytes
