# AES-NI, PCLMULQDQ and the SHA extensions.
#
# SDM Vol. 1, 12.13 (AES), Vol. 2 for each; FIPS 197 and FIPS 180-4 for the algorithms.  The state of AES is a lane of 16
# bytes, column by column.  The tables are worked out from the field when the module is loaded, and never change.

cdef u8 AES_SBOX[256]
cdef u8 AES_INV_SBOX[256]

cdef inline u8 aes_double(u8 v) noexcept nogil:
    """2 * v in GF(2**8) modulo x**8 + x**4 + x**3 + x + 1."""
    return <u8>((v << 1) ^ (0x1B if v & 0x80 else 0))

cdef u8 aes_multiply(u8 a, u8 b) noexcept nogil:
    cdef u8 r = 0
    while b:
        if b & 1:
            r ^= a
        a = aes_double(a)
        b >>= 1
    return r

cdef void init_aes() noexcept:
    """FIPS 197, 5.1.1: the inverse in the field, then an affine map.  3 generates the field, and 0xF6 is its inverse."""
    cdef u8 p = 1, q = 1, s
    cdef int i
    for i in range(255):
        s = q ^ (q << 1 | q >> 7) ^ (q << 2 | q >> 6) ^ (q << 3 | q >> 5) ^ (q << 4 | q >> 4) ^ 0x63
        AES_SBOX[p] = s
        AES_INV_SBOX[s] = p
        p = aes_multiply(p, 3)
        q = aes_multiply(q, 0xF6)
    AES_SBOX[0] = 0x63
    AES_INV_SBOX[0x63] = 0

# ---- AES ------------------------------------------------------------------------------------------------------------
cdef Lane aes_sub_shift(Lane a) noexcept nogil:
    """SubBytes and ShiftRows: row r of column c comes from column c + r."""
    cdef Lane r
    cdef int i
    for i in range(16):
        r.b[i] = AES_SBOX[a.b[(i + 4 * (i & 3)) & 15]]
    return r

cdef Lane aes_inv_sub_shift(Lane a) noexcept nogil:
    cdef Lane r
    cdef int i
    for i in range(16):
        r.b[i] = AES_INV_SBOX[a.b[(i - 4 * (i & 3)) & 15]]
    return r

cdef Lane aes_mix(Lane a) noexcept nogil:
    """MixColumns."""
    cdef Lane r
    cdef int i, c
    cdef u8 whole
    for i in range(16):
        c = i & ~3
        whole = a.b[c] ^ a.b[c + 1] ^ a.b[c + 2] ^ a.b[c + 3]
        r.b[i] = a.b[i] ^ whole ^ aes_double(a.b[i] ^ a.b[c + ((i + 1) & 3)])
    return r

cdef Lane aesimc(Lane a) noexcept nogil:
    """InvMixColumns: MixColumns of the state with four times (itself and the byte two rows on) added."""
    cdef Lane r
    cdef int i
    for i in range(16):
        r.b[i] = a.b[i] ^ aes_double(aes_double(a.b[i] ^ a.b[i ^ 2]))
    return aes_mix(r)

cdef Lane aesenc(Lane a, Lane key) noexcept nogil: return pxor(aes_mix(aes_sub_shift(a)), key)
cdef Lane aesenclast(Lane a, Lane key) noexcept nogil: return pxor(aes_sub_shift(a), key)
cdef Lane aesdec(Lane a, Lane key) noexcept nogil: return pxor(aesimc(aes_inv_sub_shift(a)), key)
cdef Lane aesdeclast(Lane a, Lane key) noexcept nogil: return pxor(aes_inv_sub_shift(a), key)

cdef inline u32 aes_sub_word(u32 v) noexcept nogil:
    return (AES_SBOX[v & 0xFF] | <u32>AES_SBOX[(v >> 8) & 0xFF] << 8 | <u32>AES_SBOX[(v >> 16) & 0xFF] << 16
            | <u32>AES_SBOX[v >> 24] << 24)

cdef Lane aeskeygenassist(Lane a, Lane b, u32 rcon) noexcept nogil:
    cdef u32 s1 = aes_sub_word(b.d[1]), s3 = aes_sub_word(b.d[3])
    a.d[0] = s1
    a.d[1] = (s1 >> 8 | s1 << 24) ^ rcon
    a.d[2] = s3
    a.d[3] = (s3 >> 8 | s3 << 24) ^ rcon
    return a

cdef int AESENC_Vdq_Wdq(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, aesenc)
cdef int AESENCLAST_Vdq_Wdq(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, aesenclast)
cdef int AESDEC_Vdq_Wdq(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, aesdec)
cdef int AESDECLAST_Vdq_Wdq(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, aesdeclast)
cdef int AESIMC_Vdq_Wdq(Cpu* c, Insn* o) noexcept nogil: return packed_unary(c, o, aesimc)
cdef int AESKEYGENASSIST_Vdq_Wdq_Ib(Cpu* c, Insn* o) noexcept nogil: return packed_imm(c, o, aeskeygenassist)

# ---- carry-less multiplication --------------------------------------------------------------------------------------
cdef Lane pclmulqdq(Lane a, Lane b, u32 k) noexcept nogil:
    """Imm: bit 0 the quadword of the first operand, bit 4 that of the second."""
    cdef u64 x = a.q[k & 1], y = b.q[(k >> 4) & 1]
    cdef Lane r
    cdef int i
    r.q[0] = x if y & 1 else 0
    r.q[1] = 0
    for i in range(1, 64):
        if (y >> i) & 1:
            r.q[0] ^= x << i
            r.q[1] ^= x >> (64 - i)
    return r

cdef int PCLMULQDQ_Vdq_Wdq_Ib(Cpu* c, Insn* o) noexcept nogil: return packed_imm(c, o, pclmulqdq)

# ---- SHA-1 ----------------------------------------------------------------------------------------------------------
cdef inline u32 rol32(u32 v, int n) noexcept nogil:
    return v << n | v >> (32 - n)

cdef u32* SHA1_K = [0x5A827999, 0x6ED9EBA1, 0x8F1BBCDC, 0xCA62C1D6]

cdef inline u32 sha1_f(int k, u32 b, u32 c, u32 d) noexcept nogil:
    if k == 0:
        return (b & c) ^ (~b & d)
    if k == 2:
        return (b & c) ^ (b & d) ^ (c & d)
    return b ^ c ^ d

cdef Lane sha1rnds4(Lane s, Lane w, u32 imm) noexcept nogil:
    """Four rounds; the first word of w already holds E."""
    cdef int i, k = imm & 3
    cdef u32 a = s.d[3], b = s.d[2], c = s.d[1], d = s.d[0], e = 0, t
    for i in range(4):
        t = sha1_f(k, b, c, d) + rol32(a, 5) + w.d[3 - i] + e + SHA1_K[k]
        e = d
        d = c
        c = rol32(b, 30)
        b = a
        a = t
    s.d[3], s.d[2], s.d[1], s.d[0] = a, b, c, d
    return s

cdef Lane sha1nexte(Lane a, Lane b) noexcept nogil:
    b.d[3] += rol32(a.d[3], 30)
    return b

cdef Lane sha1msg1(Lane a, Lane b) noexcept nogil:
    cdef Lane r
    r.d[3] = a.d[1] ^ a.d[3]
    r.d[2] = a.d[0] ^ a.d[2]
    r.d[1] = b.d[3] ^ a.d[1]
    r.d[0] = b.d[2] ^ a.d[0]
    return r

cdef Lane sha1msg2(Lane a, Lane b) noexcept nogil:
    a.d[3] = rol32(a.d[3] ^ b.d[2], 1)
    a.d[2] = rol32(a.d[2] ^ b.d[1], 1)
    a.d[1] = rol32(a.d[1] ^ b.d[0], 1)
    a.d[0] = rol32(a.d[0] ^ a.d[3], 1)
    return a

cdef int SHA1RNDS4_Vdq_Wdq_Ib(Cpu* c, Insn* o) noexcept nogil: return packed_imm(c, o, sha1rnds4)
cdef int SHA1NEXTE_Vdq_Wdq(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, sha1nexte)
cdef int SHA1MSG1_Vdq_Wdq(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, sha1msg1)
cdef int SHA1MSG2_Vdq_Wdq(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, sha1msg2)

# ---- SHA-256 --------------------------------------------------------------------------------------------------------
cdef inline u32 sha256_s0(u32 v) noexcept nogil: return rol32(v, 25) ^ rol32(v, 14) ^ (v >> 3)
cdef inline u32 sha256_s1(u32 v) noexcept nogil: return rol32(v, 15) ^ rol32(v, 13) ^ (v >> 10)

cdef Lane sha256rnds2(Lane x, Lane y, Lane wk) noexcept nogil:
    """Two rounds.  C D G H in x, A B E F in y; words plus constants in the low half of the implicit XMM0."""
    cdef u32 a = y.d[3], b = y.d[2], c = x.d[3], d = x.d[2], e = y.d[1], f = y.d[0], g = x.d[1], h = x.d[0], t
    cdef int i
    for i in range(2):
        t = ((e & f) ^ (~e & g)) + (rol32(e, 26) ^ rol32(e, 21) ^ rol32(e, 7)) + wk.d[i] + h
        h = g
        g = f
        f = e
        e = t + d
        t += ((a & b) ^ (a & c) ^ (b & c)) + (rol32(a, 30) ^ rol32(a, 19) ^ rol32(a, 10))
        d = c
        c = b
        b = a
        a = t
    x.d[3], x.d[2], x.d[1], x.d[0] = a, b, e, f
    return x

cdef Lane sha256msg1(Lane a, Lane b) noexcept nogil:
    a.d[0] += sha256_s0(a.d[1])
    a.d[1] += sha256_s0(a.d[2])
    a.d[2] += sha256_s0(a.d[3])
    a.d[3] += sha256_s0(b.d[0])
    return a

cdef Lane sha256msg2(Lane a, Lane b) noexcept nogil:
    a.d[0] += sha256_s1(b.d[2])
    a.d[1] += sha256_s1(b.d[3])
    a.d[2] += sha256_s1(a.d[0])
    a.d[3] += sha256_s1(a.d[1])
    return a

cdef int SHA256RNDS2_Vdq_Wdq(Cpu* c, Insn* o) noexcept nogil: return with_xmm0(c, o, sha256rnds2)
cdef int SHA256MSG1_Vdq_Wdq(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, sha256msg1)
cdef int SHA256MSG2_Vdq_Wdq(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, sha256msg2)
