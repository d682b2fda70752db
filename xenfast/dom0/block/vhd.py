"""VHD images (Microsoft's Virtual Hard Disk Image Format Specification, 2006): fixed, dynamic and differencing.

Blocks of 2 MiB are appended to the file as they are written, over the footer, which moves behind them; its copy at the
beginning serves while there is none.  ``flush`` syncs the blocks before it writes the block table that names them.
A differencing image has a bit for every sector that it has itself.  Sizes: the one in the footer, but for images
of Virtual PC and old QEMUs, whose disk has the size of its geometry.  Left out: batmaps of blktap (a hint only), discard
does not shrink the file, but the host gets the space.
"""

import errno
import os
import struct
import time
import uuid
from array import array
from dataclasses import dataclass
from typing import Any

from xenfast.dom0.block.qcow2 import read_within, take, zero
from xenfast.dom0.block.qcow2_file import File
from xenfast.dom0.block.raw import SECTOR_SIZE
from xenfast.errors import XenfastError

FOOTER = struct.Struct(">8sIIQI4sI4sQQHBBII16sB")
FOOTER_SIZE = 512
HEADER = struct.Struct(">8sQQIIII16sII512s")
HEADER_SIZE = 1024
LOCATOR = struct.Struct(">4sIIIQ")
LOCATORS_AT, LOCATORS = 576, 8
VERSION = 0x00010000
FEATURES = 2
NONE = 0xFFFFFFFFFFFFFFFF
FIXED, DYNAMIC, DIFFERENCING = 2, 3, 4
KINDS = {"fixed": FIXED, "dynamic": DYNAMIC, "differencing": DIFFERENCING}
UNUSED = 0xFFFFFFFF
EPOCH = 946684800                       # 2000-01-01
BLOCK_SIZE = 2 << 20
MAX_SIZE = 2040 << 30                   # what the specification allows
MAX_BLOCKS = 1 << 26
CREATOR = b"tap\0"                      # that of Xen's blktap: readers take the size as it is
BY_GEOMETRY = (b"vpc ", b"qemu", b"vs  ")
LARGEST_GEOMETRY = (65535, 16, 255)


@dataclass
class Footer:
    kind: int
    size: int
    header_at: int
    creator: bytes
    geometry: tuple[int, int, int]
    identity: bytes
    timestamp: int
    raw: bytes

    @property
    def disk_size(self) -> int:
        cylinders, heads, sectors = self.geometry
        if self.creator in BY_GEOMETRY and self.geometry != LARGEST_GEOMETRY:
            return cylinders * heads * sectors * SECTOR_SIZE
        return self.size


def summed(data: bytes, at: int) -> int:
    """The checksum of a structure whose own field is at ``at``."""
    return ~(sum(data) - sum(data[at : at + 4])) & 0xFFFFFFFF


def parse_footer(data: bytes) -> Footer | None:
    """None if this is no footer."""
    if len(data) < FOOTER_SIZE or data[:8] != b"conectix":
        return None
    (_, _, version, header_at, timestamp, creator, _, _, _, size, cylinders, heads, sectors, kind, total, identity,
     _) = FOOTER.unpack_from(data)  # fmt: skip
    if version >> 16 != 1 or total != summed(data[:FOOTER_SIZE], 64):
        return None
    return Footer(kind, size, header_at, creator, (cylinders, heads, sectors), identity, timestamp, data[:FOOTER_SIZE])


class VhdImage:
    format = "vhd"

    def __init__(self, path: str, readonly: bool = False, *, chain: Any = ()) -> None:
        self.path, self.readonly = path, readonly
        self.parent: Any = None
        self.file = File(path, readonly)
        try:
            self._open(chain)
        except BaseException:
            self.close()
            raise

    def _fail(self, text: str) -> XenfastError:
        return XenfastError(f"disk {self.path!r}: {text}")

    def _open(self, chain: Any) -> None:
        end = self.file.size()
        footer = parse_footer(self.file.read(max(0, end - FOOTER_SIZE), FOOTER_SIZE))
        self.end = end - FOOTER_SIZE            # where the footer is, and the next block goes
        if footer is None:
            footer = parse_footer(self.file.read(0, FOOTER_SIZE))
            self.end = -(-end // SECTOR_SIZE) * SECTOR_SIZE
        if footer is None or footer.kind not in KINDS.values():
            raise self._fail("this is not a VHD image")
        self.footer, self.kind = footer, footer.kind
        self.size_sectors = footer.disk_size // SECTOR_SIZE
        self.table: Any = None
        self.dirty: set[int] = set()
        if not 0 < footer.disk_size <= MAX_SIZE:
            raise self._fail(f"a disk of {footer.disk_size} bytes cannot be")
        if self.kind == FIXED:
            if footer.disk_size > self.end:
                raise self._fail("the file is shorter than the disk")
            return
        self._read_header(footer.header_at)
        if self.kind == DIFFERENCING:
            self.parent = self._open_parent(chain)

    def _read_header(self, at: int) -> None:
        data = self.file.read(at, HEADER_SIZE) if at < 1 << 56 else b""
        if data[:8] != b"cxsparse":
            raise self._fail("its dynamic header is missing")
        (_, _, self.table_at, version, entries, self.block_size, total, self.parent_identity, _, _,
         name) = HEADER.unpack_from(data)  # fmt: skip
        if total != summed(data, 36) or version >> 16 != 1:
            raise self._fail("its dynamic header is damaged")
        if self.block_size < SECTOR_SIZE or self.block_size & self.block_size - 1 or self.block_size > 1 << 28:
            raise self._fail(f"blocks of {self.block_size} bytes cannot be")
        if entries > MAX_BLOCKS or entries * self.block_size < self.size_sectors * SECTOR_SIZE or self.table_at + entries * 4 > self.end:
            raise self._fail(f"a table of {entries} blocks does not go with the disk")
        self.bitmap_size = -(-self.block_size // SECTOR_SIZE // 8 // SECTOR_SIZE) * SECTOR_SIZE
        self.names = [name.decode("utf-16-be", "replace").split("\0")[0]]
        for i in range(LOCATORS):
            self._read_locator(data, LOCATORS_AT + i * LOCATOR.size)
        self.table = array("I", self.file.read(self.table_at, entries * 4))
        self.table.byteswap()

    def _read_locator(self, data: bytes, at: int) -> None:
        """A name of the parent: before the plain one, as these may say where it is."""
        code, _, size, _, offset = LOCATOR.unpack_from(data, at)
        if not size or size > 4096 or offset >= 1 << 56:
            return
        raw = self.file.read(offset, size)
        if code == b"MacX":
            self.names.insert(0, raw.decode("utf-8", "replace").split("\0")[0].removeprefix("file://"))
        elif code in (b"W2ru", b"W2ku"):
            self.names.insert(0, raw.decode("utf-16-le", "replace").split("\0")[0].replace("\\", "/"))

    def _open_parent(self, chain: Any) -> Any:
        from xenfast.dom0.block.chain import open_backing, probe

        directory = os.path.dirname(self.path)
        for name in self.names:
            for place in (name, os.path.basename(name)):
                if place and os.path.isfile(os.path.join(directory, place)):
                    kind = probe(os.path.join(directory, place))
                    parent = open_backing(self.path, place, kind, chain)
                    if isinstance(parent, VhdImage) and parent.footer.identity != self.parent_identity:
                        parent.close()
                        raise self._fail(f"its parent {place!r} is another disk than the one it was made from")
                    return parent
        raise self._fail(f"its parent {self.names[-1]!r} is not there")

    # --- reading -----------------------------------------------------------------------------------------------------
    def readv(self, offset: int, buffers: list[memoryview]) -> None:
        if self.kind == FIXED:
            self.file.readv(offset, buffers)
            return
        length = sum(map(len, buffers))
        while length:
            inside = offset % self.block_size
            size = min(length, self.block_size - inside)
            part, buffers = take(buffers, size)
            self._read_block(offset // self.block_size, inside, offset, size, part)
            offset, length = offset + size, length - size

    def _read_block(self, block: int, inside: int, offset: int, size: int, buffers: list[memoryview]) -> None:
        sector = self.table[block]
        if sector == UNUSED:
            self._from_parent(offset, buffers)
            return
        data_at = self._place(sector) + self.bitmap_size
        if self.kind == DYNAMIC:
            self.file.readv(data_at + inside, buffers)
            return
        for own, first, count in runs(self._bitmap(sector), inside // SECTOR_SIZE, size // SECTOR_SIZE):
            part, buffers = take(buffers, count * SECTOR_SIZE)
            if own:
                self.file.readv(data_at + first * SECTOR_SIZE, part)
            else:
                self._from_parent(block * self.block_size + first * SECTOR_SIZE, part)

    def _from_parent(self, offset: int, buffers: list[memoryview]) -> None:
        if self.parent is not None:
            read_within(self.parent, offset, buffers)
        else:
            zero(buffers)

    def _place(self, sector: int) -> int:
        at = sector * SECTOR_SIZE
        if at < FOOTER_SIZE + HEADER_SIZE or at + self.bitmap_size > self.end:
            raise OSError(errno.EIO, f"the image {self.path} is corrupt: a block at {at:#x}")
        return at

    def _bitmap(self, sector: int) -> bytearray:
        return bytearray(self.file.read(self._place(sector), self.bitmap_size))

    # --- writing -----------------------------------------------------------------------------------------------------
    def writev(self, offset: int, buffers: list[memoryview]) -> None:
        if self.readonly:
            raise OSError(errno.EROFS, f"the image {self.path} cannot be written")
        if self.kind == FIXED:
            self.file.writev(offset, buffers)
            return
        length = sum(map(len, buffers))
        while length:
            inside = offset % self.block_size
            size = min(length, self.block_size - inside)
            part, buffers = take(buffers, size)
            sector = self._own_block(offset // self.block_size)
            self.file.writev(self._place(sector) + self.bitmap_size + inside, part)
            self._mark(sector, inside, size)
            offset, length = offset + size, length - size

    def _own_block(self, block: int) -> int:
        """The sector of a block, which is appended to the file if there is none."""
        sector = self.table[block]
        if sector == UNUSED:
            sector = -(-self.end // SECTOR_SIZE)
            size = self.bitmap_size + self.block_size
            self.file.write(sector * SECTOR_SIZE + size, self.footer.raw)
            # the old footer is gone with this, and what lies behind the bitmap is a hole
            self.file.write(sector * SECTOR_SIZE, (b"\xff" if self.kind == DYNAMIC else b"\0") * self.bitmap_size)
            self.end = sector * SECTOR_SIZE + size
            self.table[block] = sector
            self.dirty.add(block)
        return sector

    def _mark(self, sector: int, inside: int, size: int) -> None:
        """Note in a differencing image's bitmap that these sectors are its own."""
        if self.kind != DIFFERENCING:
            return
        bitmap = self._bitmap(sector)
        before = bytes(bitmap)
        for each in range(inside // SECTOR_SIZE, (inside + size) // SECTOR_SIZE):
            bitmap[each >> 3] |= 0x80 >> (each & 7)
        if bitmap != before:
            self.file.write(self._place(sector), bytes(bitmap))

    def discard(self, offset: int, length: int) -> None:
        """The sectors read as zeros, and the host gets their space."""
        if self.readonly:
            raise OSError(errno.EROFS, f"the image {self.path} cannot be written")
        if self.kind == FIXED:
            self.file.punch(offset, length)
            return
        while length:
            inside = offset % self.block_size
            size = min(length, self.block_size - inside)
            block = offset // self.block_size
            if self.table[block] != UNUSED or self.parent is not None:
                sector = self._own_block(block)
                where = self._place(sector) + self.bitmap_size + inside
                for at in range(0, size, 1 << 16):      # the host may have no holes: then zeros are written
                    self.file.write(where + at, bytes(min(1 << 16, size - at)))
                self.file.punch(where, size)
                self._mark(sector, inside, size)
            offset, length = offset + size, length - size

    def flush(self) -> None:
        """Everything written so far is on the disk when this returns."""
        self.file.sync()
        if self.dirty:
            for sector in sorted({block // 128 for block in self.dirty}):
                part = self.table[sector * 128 : sector * 128 + 128]
                part.byteswap()
                self.file.write(self.table_at + sector * SECTOR_SIZE, part.tobytes())
            self.dirty.clear()
            self.file.sync()

    def close(self) -> None:
        if self.file.fd >= 0 and not self.readonly and getattr(self, "dirty", None):
            self.flush()
        self.file.close()
        if self.parent is not None:
            self.parent.close()


def runs(bitmap: bytes | bytearray, first: int, count: int) -> list[tuple[bool, int, int]]:
    """(is it set, first, number) of the runs of equal bits; the highest bit of a byte is the first."""
    found: list[tuple[bool, int, int]] = []
    for each in range(first, first + count):
        own = bool(bitmap[each >> 3] & 0x80 >> (each & 7))
        if found and found[-1][0] == own:
            found[-1] = own, found[-1][1], found[-1][2] + 1
        else:
            found.append((own, each, 1))
    return found


# --- making one ------------------------------------------------------------------------------------------------------
def geometry(sectors: int) -> tuple[int, int, int]:
    """Cylinders, heads and sectors of a disk (the specification's appendix)."""
    total = min(sectors, 65535 * 16 * 255)
    if total >= 65535 * 16 * 63:
        per_track, heads = 255, 16
        cylinders_heads = total // per_track
    else:
        per_track = 17
        cylinders_heads = total // per_track
        heads = max(4, (cylinders_heads + 1023) // 1024)
        if cylinders_heads >= heads * 1024 or heads > 16:
            per_track, heads = 31, 16
            cylinders_heads = total // per_track
        if cylinders_heads >= heads * 1024:
            per_track, heads = 63, 16
            cylinders_heads = total // per_track
    return cylinders_heads // heads, heads, per_track


def make_footer(kind: int, size: int, identity: bytes) -> bytes:
    cylinders, heads, sectors = geometry(size // SECTOR_SIZE)
    raw = FOOTER.pack(
        b"conectix", FEATURES, VERSION, NONE if kind == FIXED else FOOTER_SIZE, int(time.time()) - EPOCH, CREATOR, 1 << 16,
        b"\0\0\0\0", size, size, cylinders, heads, sectors, kind, 0, identity, 0,
    ).ljust(FOOTER_SIZE, b"\0")  # fmt: skip
    return raw[:64] + struct.pack(">I", summed(raw, 64)) + raw[68:]


def create(path: str, size: int = 0, kind: str = "dynamic", parent: str = "") -> None:
    """Make an empty image; one with a parent has the parent's size unless given."""
    if kind not in KINDS:
        raise XenfastError(f"a VHD image is {', '.join(KINDS)}, not {kind!r}")
    parent_identity, parent_time, locators, places = bytes(16), 0, b"", b""
    if parent:
        from xenfast.dom0.block import open_image
        from xenfast.dom0.block.chain import probe

        where = os.path.join(os.path.dirname(path), parent)
        base = open_image(where, probe(where), True)
        try:
            size = size or base.size_sectors * SECTOR_SIZE
            if isinstance(base, VhdImage):
                parent_identity, parent_time = base.footer.identity, base.footer.timestamp
        finally:
            base.close()
        kind = "differencing"
    size = -(-size // SECTOR_SIZE) * SECTOR_SIZE
    if not 0 < size <= MAX_SIZE:
        raise XenfastError(f"a VHD image cannot have {size} bytes (at most {MAX_SIZE})")
    footer = make_footer(KINDS[kind], size, uuid.uuid4().bytes)
    try:
        with open(path, "wb") as file:
            if kind == "fixed":
                file.truncate(size)
                file.seek(size)
                file.write(footer)
                return
            blocks = -(-size // BLOCK_SIZE)
            table_at = FOOTER_SIZE + HEADER_SIZE
            table_size = -(-blocks * 4 // SECTOR_SIZE) * SECTOR_SIZE
            if parent:
                relative = parent if os.path.isabs(parent) else f"./{parent}"
                at = table_at + table_size
                for code, raw in ((b"MacX", f"file://{relative}".encode()), (b"W2ru", relative.replace("/", "\\").encode("utf-16-le"))):
                    locators += LOCATOR.pack(code, SECTOR_SIZE * -(-len(raw) // SECTOR_SIZE), len(raw), 0, at + len(places))
                    places += raw + bytes(-len(raw) % SECTOR_SIZE)
            name = os.path.basename(parent).encode("utf-16-be")[:510].ljust(512, b"\0")
            head = HEADER.pack(b"cxsparse", NONE, table_at, VERSION, blocks, BLOCK_SIZE, 0, parent_identity, parent_time, 0, name)
            head = (head + locators).ljust(HEADER_SIZE, b"\0")
            head = head[:36] + struct.pack(">I", summed(head, 36)) + head[40:]
            file.write(footer + head + b"\xff" * table_size + places + footer)
    except OSError as error:
        raise XenfastError(f"disk {path!r} cannot be made: {error.strerror}") from None
