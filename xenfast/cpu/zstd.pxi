# Zstandard frames, for kernels compressed with it (libxl/decompress.py).
#
# Specified in RFC 8878; section numbers below are its.  Python has zstd only from 3.14 on, and numpy is our only dependency.
# Left out: dictionaries (3.1.1.1.1.3), and the check of the content checksum.
#
# Everything is read from an untrusted file.  SAFETY: lengths are compared with what is left before they are used; bit streams read
# zeros beyond their start (bits_read) and are refused by whoever notices; table indices are masked or bounded where they are made.

cdef enum:
    ZSTD_MAGIC = 0xFD2FB528
    ZSTD_SKIPPABLE = 0x184D2A50     # 3.1.2: and the fifteen numbers behind it
    ZSTD_BLOCK_MAX = 128 << 10      # 3.1.1.2.3
    FSE_MAX_LOG = 9
    HUF_MAX_LOG = 11

cdef struct Fse:                    # 4.1: a decoding table; state -> symbol, and how to find the next state
    u8 log
    u8 symbol[512]
    u8 bits[512]
    u16 base[512]

cdef struct Bits:                   # 4.1: a bit stream read from its end
    const u8* data
    i64 size
    i64 pos                         # bits left; negative: read beyond the start

cdef struct ZFrame:
    Fse ll
    Fse of
    Fse ml
    u8 has_tables                   # bit 0 LL, 1 OF, 2 ML, 3 Huffman: "repeat" modes need an earlier table
    u8 huf_log
    u8 huf_symbol[2048]
    u8 huf_bits[2048]
    u64 rep[3]                      # 3.1.1.5: repeat offsets
    u8 literals[131072 + 16]

# 3.1.1.3.2.2: the default distributions
cdef i16 LL_DEFAULT[36]
LL_DEFAULT[:] = [4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1, -1, -1, -1, -1]
cdef i16 OF_DEFAULT[29]
OF_DEFAULT[:] = [1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1]
cdef i16 ML_DEFAULT[53]
ML_DEFAULT[:] = [1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1]

# 3.1.1.3.2.1.1: code -> (base, extra bits) of literal and match lengths
cdef u32 LL_BASE[36]
LL_BASE[:] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 20, 22, 24, 28, 32, 40, 48, 64, 128, 256, 512, 1024,
              2048, 4096, 8192, 16384, 32768, 65536]
cdef u8 LL_BITS[36]
LL_BITS[:] = [0] * 16 + [1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
cdef u32 ML_BASE[53]
ML_BASE[:] = list(range(3, 35)) + [35, 37, 39, 41, 43, 47, 51, 59, 67, 83, 99, 131, 259, 515, 1027, 2051, 4099, 8195, 16387, 32771,
                                   65539]
cdef u8 ML_BITS[53]
ML_BITS[:] = [0] * 32 + [1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]


# --- bit streams -----------------------------------------------------------------------------------------------------
cdef inline u64 load_le(const u8* data, i64 size, i64 at) noexcept nogil:
    """Up to eight bytes at ``at``; bytes outside the data are zero."""
    cdef u64 v = 0
    if at + 8 <= size:
        memcpy(&v, data + at, 8)
    elif at < size:
        memcpy(&v, data + at, size - at)
    return v

cdef inline u64 bits_peek(Bits* b, int n) noexcept nogil:
    """The next n <= 32 bits; what lies before the start of the stream is zero."""
    cdef i64 at = b.pos - n
    if at >= 0:
        return (load_le(b.data, b.size, at >> 3) >> (at & 7)) & ((<u64>1 << n) - 1)
    if b.pos <= 0:
        return 0
    return (load_le(b.data, b.size, 0) & ((<u64>1 << b.pos) - 1)) << -at

cdef inline u64 bits_read(Bits* b, int n) noexcept nogil:
    cdef u64 v = bits_peek(b, n)
    b.pos -= n
    return v

cdef inline int highest_bit(u64 v) noexcept nogil:
    """Number of the highest set bit; v is not 0."""
    cdef int n = 0
    while v > 1:
        v >>= 1
        n += 1
    return n

cdef int bits_open(Bits* b, const u8* data, i64 size) noexcept nogil:
    """The last byte's highest set bit marks the end of the stream."""
    if size <= 0 or data[size - 1] == 0:
        return -1
    b.data, b.size = data, size
    b.pos = (size - 1) * 8 + highest_bit(data[size - 1])
    return 0


# --- FSE tables (4.1) ------------------------------------------------------------------------------------------------
cdef int fse_build(Fse* t, const i16* counts, int symbols, int log) noexcept nogil:
    cdef u16 next[256]
    cdef int size = 1 << log, high = size - 1, pos = 0, i, s, n
    cdef int step = (size >> 1) + (size >> 3) + 3, mask = size - 1
    t.log = log
    for s in range(symbols):
        next[s] = 1 if counts[s] == -1 else counts[s]
        if counts[s] == -1:
            t.symbol[high] = s
            high -= 1
    for s in range(symbols):
        for i in range(counts[s]):
            t.symbol[pos] = s
            pos = (pos + step) & mask
            while pos > high:
                pos = (pos + step) & mask
    if pos != 0:
        return -1
    for i in range(size):
        s = t.symbol[i]
        n = log - highest_bit(next[s])
        t.bits[i] = n
        t.base[i] = (next[s] << n) - size
        next[s] += 1
    return 0

cdef i64 fse_read_table(Fse* t, const u8* data, i64 size, int max_symbol, int max_log) noexcept nogil:
    """4.1.1: a table description; returns its length in bytes, or -1."""
    cdef i16 counts[256]
    cdef i64 bit = 4
    cdef int log, remaining, threshold, nbits, symbol = 0, count, limit, repeat
    cdef u64 v
    if size < 1:
        return -1
    log = (data[0] & 15) + 5
    if log > max_log:
        return -1
    remaining, threshold, nbits = (1 << log) + 1, 1 << log, log + 1
    while remaining > 1 and symbol <= max_symbol:
        v = load_le(data, size, bit >> 3) >> (bit & 7)
        limit = 2 * threshold - 1 - remaining
        if <int>(v & (threshold - 1)) < limit:
            count = <int>(v & (threshold - 1))
            bit += nbits - 1
        else:
            count = <int>(v & (2 * threshold - 1))
            if count >= threshold:
                count -= limit
            bit += nbits
        count -= 1
        remaining -= -count if count < 0 else count
        counts[symbol] = count
        symbol += 1
        if count == 0:
            while True:
                repeat = <int>((load_le(data, size, bit >> 3) >> (bit & 7)) & 3)
                bit += 2
                if symbol + repeat > max_symbol + 1:
                    return -1
                memset(&counts[symbol], 0, repeat * sizeof(i16))
                symbol += repeat
                if repeat != 3:
                    break
        while remaining < threshold and nbits > 1:
            nbits -= 1
            threshold >>= 1
    if remaining != 1 or (bit + 7) >> 3 > size:
        return -1
    if fse_build(t, counts, symbol, log) < 0:
        return -1
    return (bit + 7) >> 3


# --- Huffman (4.2) ---------------------------------------------------------------------------------------------------
cdef i64 huf_read_tree(ZFrame* z, const u8* data, i64 size) noexcept nogil:
    """4.2.1: the tree description; returns its length, or -1."""
    cdef u8 weights[256]
    cdef Fse t
    cdef Bits b
    cdef i64 used, length
    cdef int n = 0, i, s, w, first, total = 0, log, left, cell = 0
    if size < 1:
        return -1
    if data[0] >= 128:                              # 4.2.1.1: four bits each
        n = data[0] - 127
        length = 1 + (n + 1) // 2
        if length > size:
            return -1
        for i in range(n):
            weights[i] = data[1 + i // 2] >> 4 if i % 2 == 0 else data[1 + i // 2] & 15
    else:                                           # 4.2.1.2: FSE, two states in turn
        length = 1 + data[0]
        if length > size:
            return -1
        used = fse_read_table(&t, data + 1, length - 1, 255, 6)
        if used < 0 or bits_open(&b, data + 1 + used, length - 1 - used) < 0:
            return -1
        first = <int>bits_read(&b, t.log)
        s = <int>bits_read(&b, t.log)
        while True:
            if n > 253:
                return -1
            weights[n] = t.symbol[first]
            n += 1
            if b.pos < t.bits[first]:               # the other state is the last
                weights[n] = t.symbol[s]
                n += 1
                break
            w = t.base[first] + <int>bits_read(&b, t.bits[first])
            first, s = s, w
    for i in range(n):
        if weights[i] > HUF_MAX_LOG:
            return -1
        if weights[i]:
            total += 1 << (weights[i] - 1)
    if total == 0:
        return -1
    log = highest_bit(total) + 1
    left = (1 << log) - total                       # the last weight is not written: it completes the power of two
    if log > HUF_MAX_LOG or left & (left - 1):
        return -1
    weights[n] = highest_bit(left) + 1
    n += 1
    for w in range(1, log + 1):
        for s in range(n):
            if weights[s] == w:
                memset(&z.huf_symbol[cell], s, 1 << (w - 1))
                memset(&z.huf_bits[cell], log + 1 - w, 1 << (w - 1))
                cell += 1 << (w - 1)
    z.huf_log = log
    z.has_tables |= 8
    return length

cdef int huf_stream(ZFrame* z, const u8* data, i64 size, u8* out, i64 n) noexcept nogil:
    """4.2.2: one stream of n symbols."""
    cdef Bits b
    cdef i64 i
    cdef u64 v
    if bits_open(&b, data, size) < 0:
        return -1
    for i in range(n):
        v = bits_peek(&b, z.huf_log)
        out[i] = z.huf_symbol[v]
        b.pos -= z.huf_bits[v]
    return 0 if b.pos == 0 else -1

cdef i64 read_literals(ZFrame* z, const u8* data, i64 size, i64* count) noexcept nogil:
    """3.1.1.3.1: the literals section of a block into z.literals; returns its length, or -1."""
    cdef int kind, form, bits, streams, i
    cdef u64 header
    cdef i64 length, n, packed, tree, part, at
    cdef i64[4] each
    if size < 1:
        return -1
    kind, form = data[0] & 3, (data[0] >> 2) & 3
    header = load_le(data, size, 0)
    if kind < 2:                                    # raw, or one byte repeated
        if form == 1:
            length, n = 2, (header >> 4) & 0xFFF
        elif form == 3:
            length, n = 3, (header >> 4) & 0xFFFFF
        else:
            length, n = 1, (header >> 3) & 0x1F
        packed = n if kind == 0 else 1
        if n > ZSTD_BLOCK_MAX or length + packed > size:
            return -1
        if kind == 0:
            memcpy(z.literals, data + length, n)
        else:
            memset(z.literals, data[length], n)
        count[0] = n
        return length + packed
    bits = 10 if form < 2 else (14 if form == 2 else 18)
    length = 3 if form < 2 else form + 2
    streams = 1 if form == 0 else 4
    n = (header >> 4) & ((<u64>1 << bits) - 1)
    packed = (header >> (4 + bits)) & ((<u64>1 << bits) - 1)
    if n > ZSTD_BLOCK_MAX or length + packed > size:
        return -1
    count[0] = n
    data += length
    size = packed
    if kind == 2:
        tree = huf_read_tree(z, data, size)
        if tree < 0:
            return -1
        data += tree
        size -= tree
    elif not z.has_tables & 8:
        return -1
    if streams == 1:
        return length + packed if huf_stream(z, data, size, z.literals, n) == 0 else -1
    if size < 6:
        return -1
    for i in range(3):
        each[i] = data[2 * i] | (<i64>data[2 * i + 1] << 8)
    each[3] = size - 6 - each[0] - each[1] - each[2]
    part, at = (n + 3) // 4, 6
    if each[3] < 0 or 3 * part > n:
        return -1
    for i in range(4):
        if huf_stream(z, data + at, each[i], z.literals + i * part, part if i < 3 else n - 3 * part) < 0:
            return -1
        at += each[i]
    return length + packed


# --- sequences (3.1.1.3.2) -------------------------------------------------------------------------------------------
cdef i64 read_mode(ZFrame* z, Fse* t, int bit, int mode, const u8* data, i64 size, const i16* default, int defaults,
                   int default_log, int max_symbol, int max_log) noexcept nogil:
    """The table of one of the three codes; returns how many bytes describe it, or -1."""
    cdef i64 used = 0
    if mode == 3:
        return 0 if z.has_tables & bit else -1
    if mode == 0:
        fse_build(t, default, defaults, default_log)
    elif mode == 1:                                 # one symbol
        if size < 1 or data[0] > max_symbol:
            return -1
        t.log, t.symbol[0], t.bits[0], t.base[0] = 0, data[0], 0, 0
        used = 1
    else:
        used = fse_read_table(t, data, size, max_symbol, max_log)
        if used < 0:
            return -1
    z.has_tables |= bit
    return used

cdef i64 read_sequences(ZFrame* z, const u8* data, i64 size, i64 literals, u8* base, i64 done, i64 room) noexcept nogil:
    """Run the sequences of a block: literals and matches to base[done ...]; returns the new ``done``, or -1."""
    cdef i64 count, at, used, i, lit = 0, offset, ll, ml
    cdef int modes, code
    cdef u64 value
    cdef u32 sl, so, sm
    cdef Bits b
    cdef u8* d
    cdef const u8* m
    if size < 1:
        return -1
    count, at = data[0], 1
    if count >= 128:
        if size < 3:
            return -1
        if count < 255:
            count, at = ((count - 128) << 8) + data[1], 2
        else:
            count, at = data[1] + (<i64>data[2] << 8) + 0x7F00, 3
    if count:
        if at >= size:
            return -1
        modes = data[at]
        at += 1
        used = read_mode(z, &z.ll, 1, modes >> 6, data + at, size - at, LL_DEFAULT, 36, 6, 35, 9)
        if used < 0:
            return -1
        at += used
        used = read_mode(z, &z.of, 2, (modes >> 4) & 3, data + at, size - at, OF_DEFAULT, 29, 5, 31, 8)
        if used < 0:
            return -1
        at += used
        used = read_mode(z, &z.ml, 4, (modes >> 2) & 3, data + at, size - at, ML_DEFAULT, 53, 6, 52, 9)
        if used < 0:
            return -1
        at += used
        if bits_open(&b, data + at, size - at) < 0:
            return -1
        sl = <u32>bits_read(&b, z.ll.log)
        so = <u32>bits_read(&b, z.of.log)
        sm = <u32>bits_read(&b, z.ml.log)
        for i in range(count):
            code = z.of.symbol[so]
            value = (<u64>1 << code) + bits_read(&b, code)
            code = z.ml.symbol[sm]
            ml = ML_BASE[code] + <i64>bits_read(&b, ML_BITS[code])
            code = z.ll.symbol[sl]
            ll = LL_BASE[code] + <i64>bits_read(&b, LL_BITS[code])
            offset = repeat_offset(z, value, ll)
            if b.pos < 0 or ll > literals - lit or ll + ml > room - done or offset <= 0 or offset > done + ll:
                return -1
            memcpy(base + done, z.literals + lit, ll)
            lit += ll
            done += ll
            d, m = base + done, base + done - offset
            done += ml
            if offset >= ml:
                memcpy(d, m, ml)
            else:
                while ml:                           # the match reaches into what it writes
                    d[0] = m[0]
                    d += 1
                    m += 1
                    ml -= 1
            if i + 1 < count:
                sl = z.ll.base[sl] + <u32>bits_read(&b, z.ll.bits[sl])
                sm = z.ml.base[sm] + <u32>bits_read(&b, z.ml.bits[sm])
                so = z.of.base[so] + <u32>bits_read(&b, z.of.bits[so])
        if b.pos != 0:
            return -1
    if literals - lit > room - done:
        return -1
    memcpy(base + done, z.literals + lit, literals - lit)
    return done + literals - lit

cdef inline i64 repeat_offset(ZFrame* z, u64 value, i64 ll) noexcept nogil:
    """3.1.1.5: values 1 to 3 stand for the last offsets (one later when there are no literals)."""
    cdef u64 offset
    if value > 3:
        offset = value - 3
        z.rep[2] = z.rep[1]
        z.rep[1] = z.rep[0]
    else:
        if ll == 0:
            value += 1
        if value == 1:
            return z.rep[0]
        if value == 2:
            offset = z.rep[1]
        else:
            offset = z.rep[2] if value == 3 else z.rep[0] - 1
            z.rep[2] = z.rep[1]
        z.rep[1] = z.rep[0]
    z.rep[0] = offset
    return offset


# --- frames (3.1.1) --------------------------------------------------------------------------------------------------
cdef i64 frame_header(const u8* data, i64 size) noexcept nogil:
    """Length of the header with its magic; -1 when it is none, or names a dictionary."""
    cdef int descriptor
    cdef i64 length = 5
    cdef i64[4] content
    if size < 6 or <u32>load_le(data, size, 0) != <u32>ZSTD_MAGIC:
        return -1
    descriptor = data[4]
    if descriptor & 3:
        return -1
    content[0], content[1], content[2], content[3] = 0, 2, 4, 8
    if descriptor & 32:
        content[0] = 1
    else:
        length += 1
    length += content[descriptor >> 6]
    return length if length <= size else -1

cdef i64 zstd_frame(ZFrame* z, const u8* data, i64 size, u8* out, i64 room) noexcept nogil:
    """Decode one frame; returns the bytes written, or -1.  With out == NULL, an upper bound for them."""
    cdef i64 at = frame_header(data, size), done = 0, n, used, literals = 0
    cdef u32 header
    cdef int kind
    if at < 0:
        return -1
    if out != NULL:
        z.has_tables = 0
        z.rep[0], z.rep[1], z.rep[2] = 1, 4, 8
    while True:
        if size - at < 3:
            return -1
        header = <u32>load_le(data, size, at) & 0xFFFFFF
        at += 3
        kind, n = (header >> 1) & 3, header >> 3
        if kind == 3 or (kind != 1 and n > size - at) or (kind == 1 and at >= size):
            return -1
        if out == NULL:
            done += n if kind < 2 else ZSTD_BLOCK_MAX
        elif kind == 2:
            used = read_literals(z, data + at, n, &literals)
            if used < 0:
                return -1
            done = read_sequences(z, data + at + used, n - used, literals, out, done, room)
            if done < 0:
                return -1
        else:
            if n > room - done:
                return -1
            if kind == 0:
                memcpy(out + done, data + at, n)
            else:
                memset(out + done, data[at], n)
            done += n
        at += 1 if kind == 1 else n
        if header & 1:
            return done


def zstd_bound(const u8[::1] data not None):
    """An upper bound for the size of what a frame holds; ValueError when it is not a whole frame."""
    cdef i64 n = zstd_frame(NULL, &data[0], data.shape[0], NULL, 0) if data.shape[0] else -1
    if n < 0:
        raise ValueError("malformed zstd frame")
    return n


def zstd_decompress(const u8[::1] data not None, u8[::1] out not None):
    """Decode the frame at the start of ``data`` into ``out``; returns the number of bytes, ValueError when it is malformed."""
    cdef ZFrame* z = <ZFrame*>calloc(1, sizeof(ZFrame))
    cdef const u8* src = &data[0] if data.shape[0] else NULL
    cdef u8 nothing
    cdef u8* dst = &out[0] if out.shape[0] else &nothing
    cdef i64 size = data.shape[0], room = out.shape[0], n
    if z == NULL:
        raise MemoryError
    with nogil:
        n = zstd_frame(z, src, size, dst, room)
    free(z)
    if n < 0:
        raise ValueError("malformed zstd frame")
    return n
