# LZ4 blocks, for kernels compressed with it (libxl/decompress.py): Debian's cloud kernel is one.
#
# Specified in lz4_Block_format.md: a block is a sequence of (token, literals, offset, match length).  Frames are the
# caller's business. This is here and not in Python because 40 MB of kernel pass through it before the first
# instruction of the guest.


cdef i64 lz4_block(const u8* src, i64 src_size, u8* dst, i64 dst_size) noexcept nogil:
    """Decode one block; returns the number of bytes written, or -1 when the block is malformed or does not fit.

    SAFETY: every length comes from the block, so each is compared with what is left of src and dst before it is used.
    """
    cdef const u8* s = src
    cdef const u8* s_end = src + src_size
    cdef u8* d = dst
    cdef u8* d_end = dst + dst_size
    cdef u8* m
    cdef u64 n, offset
    cdef u8 token, more
    while s < s_end:
        token = s[0]
        s += 1
        n = token >> 4                              # literals
        if n == 15:
            while True:
                if s >= s_end:
                    return -1
                more = s[0]
                s += 1
                n += more
                if more != 255:
                    break
        if n <= 16 and s_end - s >= 16 and d_end - d >= 16:
            memcpy(d, s, 16)
        else:
            if n > <u64>(s_end - s) or n > <u64>(d_end - d):
                return -1
            memcpy(d, s, n)
        d += n
        s += n
        if s >= s_end:
            return d - dst                          # the last sequence has literals only
        if s_end - s < 2:
            return -1
        offset = s[0] | (<u64>s[1] << 8)
        s += 2
        if offset == 0 or offset > <u64>(d - dst):
            return -1
        n = token & 15                              # match
        if n == 15:
            while True:
                if s >= s_end:
                    return -1
                more = s[0]
                s += 1
                n += more
                if more != 255:
                    break
        n += 4
        if n > <u64>(d_end - d):
            return -1
        m = d - offset
        if offset >= 8 and <u64>(d_end - d) >= n + 8:
            while True:                             # eight at a time; may write up to seven bytes too many, inside dst
                memcpy(d, m, 8)
                d += 8
                m += 8
                if n <= 8:
                    break
                n -= 8
            d -= 8 - n
        else:
            while n:                                # source and destination overlap: byte by byte
                d[0] = m[0]
                d += 1
                m += 1
                n -= 1
    return d - dst


def lz4_decompress_block(const u8[::1] data not None, u8[::1] out not None):
    """Decode one LZ4 block into ``out``; returns the number of bytes, ValueError when it is malformed or does not fit."""
    cdef const u8* src = &data[0] if data.shape[0] else NULL
    cdef u8* dst = &out[0] if out.shape[0] else NULL
    cdef i64 size = data.shape[0], room = out.shape[0], n
    with nogil:
        n = lz4_block(src, size, dst, room)
    if n < 0:
        raise ValueError("malformed LZ4 block")
    return n
