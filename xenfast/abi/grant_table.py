"""Grant tables.  Specified in xen/include/public/grant_table.h."""

from xenfast.abi.layout import Layout

GNTTABOP_map_grant_ref = 0
GNTTABOP_unmap_grant_ref = 1
GNTTABOP_setup_table = 2
GNTTABOP_dump_table = 3
GNTTABOP_transfer = 4
GNTTABOP_copy = 5
GNTTABOP_query_size = 6
GNTTABOP_unmap_and_replace = 7
GNTTABOP_set_version = 8
GNTTABOP_get_status_frames = 9
GNTTABOP_get_version = 10
GNTTABOP_swap_grant_ref = 11
GNTTABOP_cache_flush = 12

# Bits 0-1 of an entry's flags: its type.
GTF_invalid = 0
GTF_permit_access = 1
GTF_accept_transfer = 2
GTF_transitive = 3
GTF_type_mask = 3
GTF_readonly = 1 << 2
GTF_reading = 1 << 3
GTF_writing = 1 << 4
GTF_PWT = 1 << 5
GTF_PCD = 1 << 6
GTF_PAT = 1 << 7
GTF_sub_page = 1 << 8

GNTTAB_NR_RESERVED_ENTRIES = 8
GNTTAB_RESERVED_CONSOLE = 0
GNTTAB_RESERVED_XENSTORE = 1

GNTMAP_device_map = 1 << 0
GNTMAP_host_map = 1 << 1
GNTMAP_readonly = 1 << 2
GNTMAP_application_map = 1 << 3
GNTMAP_contains_pte = 1 << 4
GNTMAP_can_fail = 1 << 5

GNTST_okay = 0
GNTST_general_error = -1        # what none of the others says
GNTST_bad_domain = -2           # there is no such domain
GNTST_bad_gntref = -3           # the reference is beyond the table, or the flags make no sense
GNTST_bad_handle = -4           # the handle stands for no mapping
GNTST_bad_virt_addr = -5
GNTST_bad_dev_addr = -6
GNTST_no_device_space = -7
GNTST_permission_denied = -8
GNTST_bad_page = -9             # the frame cannot be used so
GNTST_bad_copy_arg = -10        # a copy would leave its page
GNTST_address_too_big = -11
GNTST_eagain = -12              # in use just now
GNTST_no_space = -13            # no handle, entry or frame is free

GNTCOPY_source_gref = 1 << 0
GNTCOPY_dest_gref = 1 << 1

entry_v1 = Layout("grant_entry_v1", ("flags", "H"), ("domid", "H"), ("frame", "I"))
# Version 2 is a union: full_page {hdr, pad0, frame}, sub_page {hdr, page_off, length, frame} and
# transitive {hdr, trans_domid, pad, gref}.
entry_v2 = Layout("grant_entry_v2", ("flags", "H"), ("domid", "H"), ("page_off", "H"), ("length", "H"), ("frame", "Q"))
entry_v2_transitive = Layout("grant_entry_v2_transitive", ("flags", "H"), ("domid", "H"), ("trans_domid", "H"),
                             ("pad0", "2x"), ("gref", "I"), ("pad1", "4x"))
STATUS_PER_PAGE = 4096 // 2
V1_PER_PAGE = 4096 // entry_v1.size
V2_PER_PAGE = 4096 // entry_v2.size

map_grant_ref = Layout("gnttab_map_grant_ref", ("host_addr", "Q"), ("flags", "I"), ("ref", "I"), ("dom", "H"),
                       ("status", "h"), ("handle", "I"), ("dev_bus_addr", "Q"))
unmap_grant_ref = Layout("gnttab_unmap_grant_ref", ("host_addr", "Q"), ("dev_bus_addr", "Q"), ("handle", "I"),
                         ("status", "h"))
setup_table = Layout("gnttab_setup_table", ("dom", "H"), ("nr_frames", "I"), ("status", "h"), ("frame_list", "P"))
dump_table = Layout("gnttab_dump_table", ("dom", "H"), ("status", "h"))
# source and dest: {union { grant_ref_t ref; xen_pfn_t gmfn; } u; domid_t domid; uint16_t offset;}
copy = Layout("gnttab_copy", ("source", "Q"), ("source_domid", "H"), ("source_offset", "H"), ("source_pad", "4x"),
              ("dest", "Q"), ("dest_domid", "H"), ("dest_offset", "H"), ("dest_pad", "4x"),
              ("len", "H"), ("flags", "H"), ("status", "h"), compat=(
                  ("source", "P"), ("source_domid", "H"), ("source_offset", "H"),
                  ("dest", "P"), ("dest_domid", "H"), ("dest_offset", "H"), ("len", "H"), ("flags", "H"), ("status", "h")))
query_size = Layout("gnttab_query_size", ("dom", "H"), ("nr_frames", "I"), ("max_nr_frames", "I"), ("status", "h"))
unmap_and_replace = Layout("gnttab_unmap_and_replace", ("host_addr", "Q"), ("new_addr", "Q"), ("handle", "I"),
                           ("status", "h"))
transfer = Layout("gnttab_transfer", ("mfn", "P"), ("domid", "H"), ("ref", "I"), ("status", "h"))
set_version = Layout("gnttab_set_version", ("version", "I"))
get_status_frames = Layout("gnttab_get_status_frames", ("nr_frames", "I"), ("dom", "H"), ("status", "h"),
                           ("frame_list", "P"))
get_version = Layout("gnttab_get_version", ("dom", "H"), ("pad", "H"), ("version", "I"))
swap_grant_ref = Layout("gnttab_swap_grant_ref", ("ref_a", "I"), ("ref_b", "I"), ("status", "h"))
cache_flush = Layout("gnttab_cache_flush", ("a", "Q"), ("offset", "H"), ("length", "H"), ("op", "I"))
