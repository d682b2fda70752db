"""What a CD-ROM drive tells of itself and of its disc: MMC-3 (T10 1363D) inquiry data, mode pages (5.5), features (5.3), table
of contents (6.25), raw blocks (ECMA-130).
"""

CD_ROM, DVD_ROM = 0x0008, 0x0010            # profiles
CD_MAX_BLOCKS = 90 * 60 * 75
LEAD_OUT = 0xAA
DATA_TRACK = 0x14                           # ADR 1, CONTROL: data


def msf(lba: int) -> bytes:
    """Minute, second, frame: 75 frames a second, the disc begins at 2 seconds."""
    minute, rest = divmod(lba + 150, 60 * 75)
    return bytes([minute & 0xFF, rest // 75, rest % 75])


def from_msf(data: bytes) -> int:
    return (data[0] * 60 + data[1]) * 75 + data[2] - 150


def inquiry() -> bytes:
    """A removable CD-ROM device, ATAPI, MMC-3."""
    head = bytes([0x05, 0x80, 0x05, 0x32, 31, 0, 0, 0])
    return head + b"xenfast ".ljust(8) + b"DVD-ROM".ljust(16) + b"1.0 "


# --- mode pages ------------------------------------------------------------------------------------------------------
def _capabilities(locked: bool) -> bytes:
    """Page 2Ah: reads CD-R, CD-RW and DVD-ROM; tray, locks, ejects; 50x."""
    speed = (50 * 176).to_bytes(2, "big")
    return bytes([0x3B, 0x00, 0x71, 0x60, 0x29 | (2 if locked else 0), 0x00]) + speed + bytes([0, 2, 2, 0]) + speed + bytes(4)


PAGES = (0x01, 0x0D, 0x0E, 0x1A, 0x2A)      # error recovery, CD-ROM, audio control, power, capabilities


def mode_pages(wanted: int, locked: bool, changeable: bool = False) -> bytes | None:
    """One page, or all (3Fh); None where there is no such page."""
    bodies = {
        0x01: bytes([0, 5, 0, 0, 0, 0]),
        0x0D: bytes([0, 0x0D, 0, 60, 0, 75]),
        0x0E: bytes([4, 0, 0, 0, 0, 75, 1, 255, 2, 255, 0, 0, 0, 0]),
        0x1A: bytes([0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        0x2A: _capabilities(locked),
    }
    if wanted != 0x3F and wanted not in bodies:
        return None
    return b"".join(
        bytes([number, len(bodies[number])]) + (bytes(len(bodies[number])) if changeable else bodies[number])
        for number in PAGES if wanted in (number, 0x3F)
    )  # fmt: skip


# --- features --------------------------------------------------------------------------------------------------------
def features(profile: int, start: int, kind: int, locked: bool) -> bytes:
    """GET CONFIGURATION: the header and the features from a number on; kind 1 only current ones, 2 only that one."""
    current_cd, current_dvd = profile == CD_ROM, profile == DVD_ROM
    profiles = b"".join(p.to_bytes(2, "big") + bytes([p == profile, 0]) for p in (DVD_ROM, CD_ROM))
    rows = (
        (0x0000, 0, True, profiles),
        (0x0001, 1, True, b"\0\0\0\x02" + b"\0" * 4),                       # core: ATAPI
        (0x0002, 1, True, b"\x02\0\0\0"),                                   # morphing: events are polled
        (0x0003, 0, True, b"\x29\0\0\0"),                                   # removable medium: tray, eject, lock
        (0x0010, 0, bool(profile), (2048).to_bytes(4, "big") + b"\0\x01\x01\0"),     # random readable
        (0x001E, 0, current_cd, b"\0\0\0\0"),                               # CD read
        (0x001F, 0, current_dvd, b""),                                      # DVD read
        (0x0100, 0, True, b""),                                             # power management
    )  # fmt: skip
    body = b""
    for number, version, current, data in rows:
        if number < start or (kind == 2 and number != start) or (kind == 1 and not current):
            continue
        permanent = number in (0, 1, 2, 3, 0x100)
        body += number.to_bytes(2, "big") + bytes([version << 2 | permanent << 1 | current, len(data)]) + data
    return (len(body) + 4).to_bytes(4, "big") + b"\0\0" + profile.to_bytes(2, "big") + body


# --- the disc --------------------------------------------------------------------------------------------------------
def toc(form: int, first: int, in_msf: bool, blocks: int) -> bytes | None:
    """READ TOC: 0 tracks, 1 sessions, 2 the full table of contents."""
    def address(lba: int) -> bytes:
        return b"\0" + msf(lba) if in_msf else lba.to_bytes(4, "big")

    if form == 0:
        if first > 1 and first != LEAD_OUT:
            return None
        body = b"\x01\x01"
        if first <= 1:
            body += bytes([0, DATA_TRACK, 1, 0]) + address(0)
        body += bytes([0, DATA_TRACK, LEAD_OUT, 0]) + address(blocks)
    elif form == 1:
        body = b"\x01\x01" + bytes([0, DATA_TRACK, 1, 0]) + address(0)
    elif form == 2:
        body = b"\x01\x01"
        for point, where in ((0xA0, b"\x01\0\0"), (0xA1, b"\x01\0\0"), (0xA2, msf(blocks)), (1, msf(0))):
            body += bytes([1, DATA_TRACK, 0, point, 0, 0, 0, 0]) + where
    else:
        return None
    return len(body).to_bytes(2, "big") + body


def disc_information() -> bytes:
    """A finished disc of one session with one track."""
    data = bytearray(34)
    data[0:2] = (32).to_bytes(2, "big")
    data[2] = 0x0E                          # the last session and the disc are complete
    data[3] = data[4] = data[5] = data[6] = 1
    data[7] = 0x20                          # unrestricted use
    data[16:24] = b"\xff" * 8
    return bytes(data)


def track_information(blocks: int) -> bytes:
    data = bytearray(36)
    data[0:2] = (34).to_bytes(2, "big")
    data[2] = data[3] = 1
    data[5] = 0x04                          # a data track
    data[6] = 0x01                          # mode 1
    data[24:28] = blocks.to_bytes(4, "big")
    return bytes(data)


def dvd_structure(form: int, blocks: int) -> bytes | None:
    """Physical format of the first layer, copyright, manufacturing."""
    if form == 0:
        body = bytearray(2048)
        body[0:4] = bytes([0x01, 0x0F, 0x01, 0x00])     # DVD-ROM, 120 mm, one layer
        body[5:8] = (0x30000).to_bytes(3, "big")
        body[9:12] = (0x30000 + blocks - 1 & 0xFFFFFF).to_bytes(3, "big")
    elif form == 1:
        body = bytearray(4)
    elif form == 4:
        body = bytearray(2048)
    else:
        return None
    return (len(body) + 2).to_bytes(2, "big") + b"\0\0" + bytes(body)


# --- raw blocks ------------------------------------------------------------------------------------------------------
# READ CD, byte 9 bits 7:3: sync, headers (sub-header, header), user data, EDC and ECC; of mode 1 there is no sub-header.
SYNC_END, HEADER_END, DATA_END, RAW_END = 12, 16, 2064, 2352


def raw_parts(flags: int) -> tuple[int, int] | None:
    """From where to where of the 2,352 bytes; None for parts that do not follow each other."""
    parts = []
    if flags & 0x80:
        parts.append((0, SYNC_END))
    if flags & 0x20:
        parts.append((SYNC_END, HEADER_END))
    if flags & 0x10:
        parts.append((HEADER_END, DATA_END))
    if flags & 0x08:
        parts.append((DATA_END, RAW_END))
    if not parts or any(parts[i][1] != parts[i + 1][0] for i in range(len(parts) - 1)):
        return None
    return parts[0][0], parts[-1][1]


def _edc_table() -> list[int]:
    table = []
    for i in range(256):
        value = i
        for _ in range(8):
            value = value >> 1 ^ (0xD8018001 if value & 1 else 0)
        table.append(value)
    return table


_EDC = _edc_table()
_GF_DOUBLE = [i << 1 ^ (0x11D if i & 0x80 else 0) for i in range(256)]
_GF_THIRD = [0] * 256                       # division by 3 in GF(256)
for _i in range(256):
    _GF_THIRD[_i ^ _GF_DOUBLE[_i]] = _i


def _parity(data: bytes, majors: int, minors: int, major_step: int, minor_step: int) -> bytes:
    """Two bytes of Reed-Solomon parity for each of the ``majors`` vectors (ECMA-130, annex A)."""
    size = majors * minors
    first, second = bytearray(majors), bytearray(majors)
    for major in range(majors):
        at = (major >> 1) * major_step + (major & 1)
        a = b = 0
        for _ in range(minors):
            value = data[at]
            at += minor_step
            if at >= size:
                at -= size
            a = _GF_DOUBLE[a ^ value]
            b ^= value
        a = _GF_THIRD[_GF_DOUBLE[a] ^ b]
        first[major], second[major] = a, a ^ b
    return bytes(first + second)


def raw_block(lba: int, data: bytes) -> bytes:
    """A whole mode 1 block: sync, header, 2,048 bytes, EDC, zeros, P and Q parity."""
    minute, second, frame = msf(lba)
    bcd = bytes(value // 10 << 4 | value % 10 for value in (minute % 100, second, frame))
    block = b"\0" + b"\xff" * 10 + b"\0" + bcd + b"\x01" + data
    edc = 0
    for byte in block:
        edc = edc >> 8 ^ _EDC[edc & 0xFF ^ byte]
    block += edc.to_bytes(4, "little") + bytes(8)
    block += _parity(block[12:], 86, 24, 2, 86)
    return block + _parity(block[12:], 52, 43, 86, 88)
