"""``struct start_info``: the page a PV kernel finds in RSI at its first instruction.

Specified in xen/include/public/xen.h ("start-of-day memory layout").  64-bit layout only; the domain 0 form of the
console union is left out, as domain 0 is Python here and never started this way.
"""

import struct

MAX_GUEST_CMDLINE = 1024

# flags
SIF_PRIVILEGED = 1 << 0         # is the domain privileged?
SIF_INITDOMAIN = 1 << 1         # is this the initial control domain?
SIF_MULTIBOOT_MOD = 1 << 2      # is mod_start a multiboot module?
SIF_MOD_START_PFN = 1 << 3      # is mod_start a PFN?
SIF_VIRT_P2M_4TOOLS = 1 << 4    # do the tools understand a virtually mapped p2m?
SIF_PM_MASK = 0xFF << 8

MAGIC = b"xen-3.0-x86_64"

# (name, struct code): in the order of the C struct, padding written out
FIELDS = (
    ("magic", "32s"),
    ("nr_pages", "Q"),          # total pages allocated to this domain
    ("shared_info", "Q"),       # MACHINE address of shared info
    ("flags", "I4x"),           # SIF_*
    ("store_mfn", "Q"),         # MACHINE page number of the xenstore ring
    ("store_evtchn", "I4x"),
    ("console_mfn", "Q"),       # MACHINE page number of the console ring
    ("console_evtchn", "I4x"),
    ("pt_base", "Q"),           # VIRTUAL address of the page directory
    ("nr_pt_frames", "Q"),      # number of bootstrap page-table frames
    ("mfn_list", "Q"),          # VIRTUAL address of the p2m list
    ("mod_start", "Q"),         # VIRTUAL address (or PFN) of the initial ramdisk
    ("mod_len", "Q"),           # its size in bytes
    ("cmd_line", f"{MAX_GUEST_CMDLINE}s"),
    ("first_p2m_pfn", "Q"),     # first PFN of the p2m list, when it is mapped where INIT_P2M says
    ("nr_p2m_frames", "Q"),     # number of frames of the p2m list and the page tables that map it
)

FORMAT = struct.Struct("<" + "".join(code for _, code in FIELDS))
SIZE = FORMAT.size              # 1168


def pack(**values: int | bytes) -> bytes:
    """The bytes of a start_info with the fields given; fields that are not are zero."""
    unknown = values.keys() - {name for name, _ in FIELDS}
    if unknown:
        raise TypeError(f"no such field of start_info: {', '.join(sorted(unknown))}")
    values.setdefault("magic", MAGIC)
    return FORMAT.pack(*(values.get(name, b"" if code.endswith("s") else 0) for name, code in FIELDS))


def unpack(data: bytes | memoryview) -> dict[str, int | bytes]:
    """The fields of a start_info by name; strings without their padding."""
    fields = zip((name for name, _ in FIELDS), FORMAT.unpack_from(data), strict=True)
    return {name: value.rstrip(b"\0") if isinstance(value, bytes) else value for name, value in fields}
