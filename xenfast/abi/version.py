"""xen_version.  Specified in xen/include/public/version.h and features.h."""

from xenfast.abi.layout import Layout

XENVER_version = 0              # major << 16 | minor
XENVER_extraversion = 1
XENVER_compile_info = 2
XENVER_capabilities = 3
XENVER_changeset = 4
XENVER_platform_parameters = 5
XENVER_get_features = 6
XENVER_pagesize = 7
XENVER_guest_handle = 8
XENVER_commandline = 9
XENVER_build_id = 10

EXTRAVERSION_LEN = 16
CAPABILITIES_LEN = 1024
CHANGESET_LEN = 64
COMMANDLINE_LEN = 1024

compile_info = Layout("xen_compile_info", ("compiler", "64s"), ("compile_by", "16s"), ("compile_domain", "32s"),
                      ("compile_date", "32s"))
platform_parameters = Layout("xen_platform_parameters", ("virt_start", "P"))
feature_info = Layout("xen_feature_info", ("submap_idx", "I"), ("submap", "I"))
