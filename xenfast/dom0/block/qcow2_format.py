"""The parts of a qcow2 file that stand still: header, header extensions, snapshot table (QEMU's docs/interop/qcow2.txt).

Everything is read from a file that anyone may have made: sizes and places are checked here, before they are used.
"""

import struct
from dataclasses import dataclass, field, replace

from xenfast.errors import XenfastError

MAGIC = b"QFI\xfb"
HEADER_V2 = struct.Struct(">4sIQIIQIIQQIIQ")
HEADER_V3 = struct.Struct(">QQQII")             # behind it, at 72
V2_SIZE, V3_SIZE = 72, 104

# incompatible_features
DIRTY, CORRUPT, DATA_FILE, COMPRESSION, EXTENDED_L2 = 1, 2, 4, 8, 16
KNOWN_INCOMPATIBLE = 31
LAZY_REFCOUNTS = 1                              # compatible_features
BITMAPS, RAW_DATA_FILE = 1, 2                   # autoclear_features

EXT_END, EXT_BACKING_FORMAT, EXT_FEATURES = 0, 0xE2792ACA, 0x6803F857
EXT_BITMAPS, EXT_LUKS, EXT_DATA_FILE = 0x23852875, 0x0537BE77, 0x44415441

ZLIB, ZSTD = 0, 1
COMPRESSIONS = {"zlib": ZLIB, "zstd": ZSTD}

# entries of the L1 and L2 tables
COPIED = 1 << 63                                # what it points to has a refcount of exactly one
COMPRESSED = 1 << 62
ZERO = 1
OFFSET_MASK = 0x00FF_FFFF_FFFF_FE00

MIN_CLUSTER_BITS, MAX_CLUSTER_BITS = 9, 21
MAX_L1 = 32 << 20                               # bytes, as QEMU limits them
MAX_REFCOUNT_TABLE = 8 << 20
MAX_SNAPSHOTS = 65536
MAX_SNAPSHOT_TABLE = 64 << 20
MAX_BACKING_NAME = 1023

FEATURE_NAMES = (
    (0, 0, "dirty bit"), (0, 1, "corrupt bit"), (0, 2, "external data file"), (0, 3, "compression type"),
    (0, 4, "extended L2 entries"), (1, 0, "lazy refcounts"), (2, 0, "bitmaps"), (2, 1, "raw external data"),
)  # fmt: skip


@dataclass
class Header:
    version: int = 3
    cluster_bits: int = 16
    size: int = 0
    crypt_method: int = 0
    l1_size: int = 0                            # entries
    l1_offset: int = 0
    refcount_table_offset: int = 0
    refcount_table_clusters: int = 0
    nb_snapshots: int = 0
    snapshots_offset: int = 0
    incompatible: int = 0
    compatible: int = 0
    autoclear: int = 0
    refcount_order: int = 4
    compression: int = ZLIB
    backing: str = ""
    backing_format: str = ""
    data_file: str = ""
    extensions: list[tuple[int, bytes]] = field(default_factory=list)   # those that we only keep

    @property
    def cluster_size(self) -> int:
        return 1 << self.cluster_bits

    @property
    def l1_needed(self) -> int:
        """Entries of an L1 table for the disk's size."""
        bits = self.cluster_bits + self.cluster_bits - 3
        return (self.size + (1 << bits) - 1) >> bits


def parse_header(path: str, data: bytes) -> Header:
    """The header in the first cluster of a file; XenfastError if there is none that can be worked with."""

    def fail(text: str) -> XenfastError:
        return XenfastError(f"disk {path!r}: {text}")

    if len(data) < V2_SIZE or data[:4] != MAGIC:
        raise fail("this is not a qcow2 image")
    (_, version, backing_at, backing_size, bits, size, crypt, l1_size, l1_at, table_at, table_clusters, snapshots,
     snapshots_at) = HEADER_V2.unpack_from(data)  # fmt: skip
    if version not in (2, 3):
        raise fail(f"qcow2 version {version} is not known, only 2 and 3 are")
    if not MIN_CLUSTER_BITS <= bits <= MAX_CLUSTER_BITS:
        raise fail(f"clusters of 2**{bits} bytes cannot be")
    header = Header(version, bits, size, crypt, l1_size, l1_at, table_at, table_clusters, snapshots, snapshots_at)
    length = V2_SIZE
    if version == 3:
        if len(data) < V3_SIZE:
            raise fail("the header is cut short")
        header.incompatible, header.compatible, header.autoclear, header.refcount_order, length = HEADER_V3.unpack_from(data, 72)
        if not V3_SIZE <= length <= header.cluster_size:
            raise fail(f"a header of {length} bytes cannot be")
        header.compression = data[104] if length > 104 and len(data) > 104 else ZLIB
    _check(header, fail)
    header.extensions = []
    _read_extensions(header, data[: header.cluster_size], length, backing_at, fail)
    if backing_at:
        if backing_size > MAX_BACKING_NAME or backing_at + backing_size > min(len(data), header.cluster_size):
            raise fail("the name of its backing file is not within the header")
        header.backing = data[backing_at : backing_at + backing_size].decode("utf-8", "surrogateescape")
    return header


def _check(header: Header, fail) -> None:
    """What the fields of the header must be."""
    unknown = header.incompatible & ~KNOWN_INCOMPATIBLE
    if unknown:
        raise fail(f"it needs features that are not known (incompatible bits {unknown:#x})")
    if header.incompatible & EXTENDED_L2:
        raise fail("extended L2 entries (subclusters) are not supported")
    if header.crypt_method:
        raise fail("encrypted images are not supported")
    if header.refcount_order > 6:
        raise fail(f"refcounts of 2**{header.refcount_order} bits cannot be")
    if header.compression not in COMPRESSIONS.values():
        raise fail(f"compression type {header.compression} is not known")
    if header.compression != ZLIB and not header.incompatible & COMPRESSION:
        raise fail("its compression type is not announced by a feature bit")
    if header.size >= 1 << 62 or header.l1_size * 8 > MAX_L1 or header.l1_needed > header.l1_size:
        raise fail(f"an L1 table of {header.l1_size} entries does not go with a disk of {header.size} bytes")
    if not 0 < header.refcount_table_clusters << header.cluster_bits <= MAX_REFCOUNT_TABLE:
        raise fail(f"a refcount table of {header.refcount_table_clusters} clusters cannot be")
    if header.nb_snapshots > MAX_SNAPSHOTS:
        raise fail(f"{header.nb_snapshots} snapshots are more than there can be")
    places = {"L1 table": header.l1_offset, "refcount table": header.refcount_table_offset}
    if header.nb_snapshots:
        places["snapshot table"] = header.snapshots_offset
    for name, offset in places.items():
        if offset & header.cluster_size - 1 or offset >= 1 << 56 or (not offset and name != "L1 table") or (not offset and header.l1_size):
            raise fail(f"the {name} is at {offset:#x}, which is not the beginning of a cluster")


def _read_extensions(header: Header, data: bytes, at: int, end: int, fail) -> None:
    end = end or len(data)
    while at + 8 <= end:
        kind, size = struct.unpack_from(">II", data, at)
        if kind == EXT_END:
            break
        body = data[at + 8 : at + 8 + size]
        if at + 8 + size > end:
            raise fail("a header extension is longer than the header")
        at += 8 + (size + 7 & ~7)
        if kind == EXT_BACKING_FORMAT:
            header.backing_format = body.decode("ascii", "replace")
        elif kind == EXT_DATA_FILE:
            header.data_file = body.decode("utf-8", "surrogateescape")
        elif kind == EXT_LUKS:
            raise fail("encrypted images are not supported")
        elif kind not in (EXT_FEATURES, EXT_BITMAPS):
            header.extensions.append((kind, body))
    if header.incompatible & DATA_FILE and not header.data_file:
        raise fail("it does not name its data file")


def format_header(header: Header) -> bytes:
    """The header with its extensions and the backing file's name.  Bitmaps are dropped: what they say is no longer
    true once the disk is written (their autoclear bit says so)."""
    parts = b""
    if header.backing_format:
        parts += _extension(EXT_BACKING_FORMAT, header.backing_format.encode())
    if header.data_file:
        parts += _extension(EXT_DATA_FILE, header.data_file.encode("utf-8", "surrogateescape"))
    if header.version == 3:
        names = b"".join(struct.pack("BB46s", kind, bit, name.encode()) for kind, bit, name in FEATURE_NAMES)
        parts += _extension(EXT_FEATURES, names)
    for kind, body in header.extensions:
        parts += _extension(kind, body)
    length = V2_SIZE if header.version == 2 else 112
    name = header.backing.encode("utf-8", "surrogateescape")
    name_at = length + len(parts) + 8
    if name_at + len(name) > header.cluster_size and header.version == 3:
        return format_header(replace(header, version=3, extensions=[])) if header.extensions else _too_long()
    head = HEADER_V2.pack(
        MAGIC, header.version, name_at if name else 0, len(name), header.cluster_bits, header.size, header.crypt_method,
        header.l1_size, header.l1_offset, header.refcount_table_offset, header.refcount_table_clusters,
        header.nb_snapshots, header.snapshots_offset,
    )  # fmt: skip
    if header.version == 3:
        head += HEADER_V3.pack(header.incompatible, header.compatible, header.autoclear, header.refcount_order, length)
        head += bytes([header.compression]) + bytes(7)
    return head + parts + bytes(8) + name


def _too_long() -> bytes:
    raise XenfastError("the header does not fit into a cluster of that size")


def _extension(kind: int, body: bytes) -> bytes:
    return struct.pack(">II", kind, len(body)) + body + bytes(-len(body) % 8)


# --- snapshots -------------------------------------------------------------------------------------------------------
SNAPSHOT = struct.Struct(">QIHHIIQII")


@dataclass
class Snapshot:
    l1_offset: int
    l1_size: int
    identity: str
    name: str
    seconds: int = 0
    nanoseconds: int = 0
    vm_clock: int = 0
    vm_state_size: int = 0
    disk_size: int = 0
    icount: int | None = None

    def pack(self) -> bytes:
        extra = struct.pack(">QQ", self.vm_state_size, self.disk_size)
        if self.icount is not None:
            extra += struct.pack(">Q", self.icount)
        identity, name = (text.encode("utf-8", "surrogateescape") for text in (self.identity, self.name))
        raw = SNAPSHOT.pack(self.l1_offset, self.l1_size, len(identity), len(name), self.seconds, self.nanoseconds,
                            self.vm_clock, min(self.vm_state_size, 0xFFFFFFFF), len(extra))  # fmt: skip
        raw += extra + identity + name
        return raw + bytes(-len(raw) % 8)


def parse_snapshots(path: str, header: Header, data: bytes) -> list[Snapshot]:
    """The entries of a snapshot table; ``data`` begins there and may be longer."""
    found, at = [], 0
    for _ in range(header.nb_snapshots):
        if at + SNAPSHOT.size > len(data):
            break
        l1_at, l1_size, id_size, name_size, seconds, ns, clock, state, extra_size = SNAPSHOT.unpack_from(data, at)
        at += SNAPSHOT.size
        extra, at = data[at : at + extra_size], at + extra_size
        texts = data[at : at + id_size + name_size].decode("utf-8", "surrogateescape")
        identity = data[at : at + id_size].decode("utf-8", "surrogateescape")
        at = at + id_size + name_size + 7 & ~7
        snapshot = Snapshot(l1_at, l1_size, identity, texts[len(identity) :], seconds, ns, clock, state, header.size)
        if len(extra) >= 16:
            snapshot.vm_state_size, snapshot.disk_size = struct.unpack_from(">QQ", extra)
        if len(extra) >= 24:
            (snapshot.icount,) = struct.unpack_from(">Q", extra, 16)
        if l1_at & header.cluster_size - 1 or l1_at >= 1 << 56 or l1_size * 8 > MAX_L1:
            raise XenfastError(f"disk {path!r}: the L1 table of its snapshot {snapshot.name!r} cannot be where it is said to be")
        found.append(snapshot)
    if len(found) < header.nb_snapshots or at > len(data) + 7:
        raise XenfastError(f"disk {path!r}: its snapshot table is cut short")
    return found
