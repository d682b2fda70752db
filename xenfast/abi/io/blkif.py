"""xen/include/public/io/blkif.h: the block protocol's operations, features and the layouts of its ring slots.

Sectors are 512 bytes in requests and in the ``sectors`` node, whatever ``sector-size`` says.  The slots have two
layouts, because ``uint64_t`` is aligned to 4 bytes on x86-32 and to 8 on x86-64; the front end names its own in the
node ``protocol``.
"""

import struct
from typing import NamedTuple

SECTOR_SIZE = 512
SECTORS_PER_PAGE = 8

BLKIF_OP_READ = 0
BLKIF_OP_WRITE = 1
BLKIF_OP_WRITE_BARRIER = 2  # feature-barrier
BLKIF_OP_FLUSH_DISKCACHE = 3  # feature-flush-cache
BLKIF_OP_RESERVED_1 = 4  # SLES's packet command
BLKIF_OP_DISCARD = 5  # feature-discard
BLKIF_OP_INDIRECT = 6  # feature-max-indirect-segments

OP_NAMES = {
    BLKIF_OP_READ: "read",
    BLKIF_OP_WRITE: "write",
    BLKIF_OP_WRITE_BARRIER: "barrier",
    BLKIF_OP_FLUSH_DISKCACHE: "flush",
    BLKIF_OP_DISCARD: "discard",
}

BLKIF_RSP_OKAY = 0
BLKIF_RSP_ERROR = -1
BLKIF_RSP_EOPNOTSUPP = -2

BLKIF_MAX_SEGMENTS_PER_REQUEST = 11
BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST = 8
SEGMENTS_PER_INDIRECT_PAGE = 512

BLKIF_DISCARD_SECURE = 1 << 0

# the node "info"
VDISK_CDROM = 0x1
VDISK_REMOVABLE = 0x2
VDISK_READONLY = 0x4

# struct blkif_request_segment: gref, first_sect, last_sect, two bytes of padding
SEGMENT = struct.Struct("<IBBxx")
# the segments of a request of n of them, in one go: (gref, first, last) * n
SEGMENTS = [struct.Struct("<" + "IBBxx" * n) for n in range(BLKIF_MAX_SEGMENTS_PER_REQUEST + 1)]


class Abi(NamedTuple):
    """Where the fields of struct blkif_request and its variants are."""

    name: str  # the value of the node "protocol"
    slot_size: int  # sizeof(union blkif_sring_entry)
    request: struct.Struct  # operation, nr_segments, handle, id, sector_number
    segments: int  # offset of seg[]
    discard: struct.Struct  # operation, flag, id, sector_number, nr_sectors
    indirect: struct.Struct  # operation, indirect_op, nr_segments, id, sector_number, handle, indirect_grefs[8]
    response: struct.Struct  # id, operation, status


ABI_X86_64 = Abi(
    name="x86_64-abi",
    slot_size=112,
    request=struct.Struct("<BBHxxxxQQ"),
    segments=24,
    discard=struct.Struct("<BBxxxxxxQQQ"),
    indirect=struct.Struct("<BBHxxxxQQHxx8I"),
    response=struct.Struct("<QBxhxxxx"),
)
ABI_X86_32 = Abi(
    name="x86_32-abi",
    slot_size=108,
    request=struct.Struct("<BBHQQ"),
    segments=20,
    discard=struct.Struct("<BBxxQQQ"),
    indirect=struct.Struct("<BBHQQHxx8I"),
    response=struct.Struct("<QBxh"),
)
ABIS = {abi.name: abi for abi in (ABI_X86_64, ABI_X86_32)}
