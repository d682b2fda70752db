# Packed integers, arithmetic: PADD PSUB PMUL PMADD PAVG PSAD PMIN PMAX PABS PSIGN PCMP PAND POR PXOR, for MMX and XMM
# alike.
#
# SDM Vol. 2, chapter 4.  In lower case the meaning on one 128-bit lane, in upper case the instruction (vec.pxi has
# the shapes).

cdef inline i32 clamp(i32 v, i32 lo, i32 hi) noexcept nogil:
    return lo if v < lo else hi if v > hi else v

# ---------------------------------------------------------------------------------------------------------------------
# Addition and subtraction: wrapping, signed saturation, unsigned saturation

cdef inline Lane paddb(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(16):
        a.b[i] = <u8>(a.b[i] + b.b[i])
    return a

cdef inline Lane paddw(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(8):
        a.w[i] = <u16>(a.w[i] + b.w[i])
    return a

cdef inline Lane paddd(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(4):
        a.d[i] += b.d[i]
    return a

cdef inline Lane paddq(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(2):
        a.q[i] += b.q[i]
    return a

cdef inline Lane paddsb(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(16):
        a.sb[i] = <i8>clamp(<i32>a.sb[i] + <i32>b.sb[i], -128, 127)
    return a

cdef inline Lane paddsw(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(8):
        a.sw[i] = <i16>clamp(<i32>a.sw[i] + <i32>b.sw[i], -32768, 32767)
    return a

cdef inline Lane paddusb(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(16):
        a.b[i] = <u8>clamp(<i32>a.b[i] + <i32>b.b[i], 0, 255)
    return a

cdef inline Lane paddusw(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(8):
        a.w[i] = <u16>clamp(<i32>a.w[i] + <i32>b.w[i], 0, 65535)
    return a

cdef inline Lane psubb(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(16):
        a.b[i] = <u8>(a.b[i] - b.b[i])
    return a

cdef inline Lane psubw(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(8):
        a.w[i] = <u16>(a.w[i] - b.w[i])
    return a

cdef inline Lane psubd(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(4):
        a.d[i] -= b.d[i]
    return a

cdef inline Lane psubq(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(2):
        a.q[i] -= b.q[i]
    return a

cdef inline Lane psubsb(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(16):
        a.sb[i] = <i8>clamp(<i32>a.sb[i] - <i32>b.sb[i], -128, 127)
    return a

cdef inline Lane psubsw(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(8):
        a.sw[i] = <i16>clamp(<i32>a.sw[i] - <i32>b.sw[i], -32768, 32767)
    return a

cdef inline Lane psubusb(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(16):
        a.b[i] = <u8>clamp(<i32>a.b[i] - <i32>b.b[i], 0, 255)
    return a

cdef inline Lane psubusw(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(8):
        a.w[i] = <u16>clamp(<i32>a.w[i] - <i32>b.w[i], 0, 65535)
    return a

# ---------------------------------------------------------------------------------------------------------------------
# Multiplication

cdef inline Lane pmullw(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(8):
        a.w[i] = <u16>(<u32>a.w[i] * <u32>b.w[i])
    return a

cdef inline Lane pmulhw(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(8):
        a.w[i] = <u16>((<i32>a.sw[i] * <i32>b.sw[i]) >> 16)
    return a

cdef inline Lane pmulhuw(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(8):
        a.w[i] = <u16>((<u32>a.w[i] * <u32>b.w[i]) >> 16)
    return a

cdef inline Lane pmulhrsw(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(8):
        a.w[i] = <u16>((((<i32>a.sw[i] * <i32>b.sw[i]) >> 14) + 1) >> 1)
    return a

cdef inline Lane pmuludq(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(2):
        a.q[i] = <u64><u32>a.q[i] * <u32>b.q[i]
    return a

cdef inline Lane pmaddwd(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(4):
        a.d[i] = (<u32>(<i32>a.sw[2 * i] * <i32>b.sw[2 * i])
                  + <u32>(<i32>a.sw[2 * i + 1] * <i32>b.sw[2 * i + 1]))
    return a

cdef inline Lane pmaddubsw(Lane a, Lane b) noexcept nogil:
    """Unsigned bytes of the destination by signed bytes of the source."""
    cdef int i
    for i in range(8):
        a.sw[i] = <i16>clamp(<i32>a.b[2 * i] * <i32>b.sb[2 * i] + <i32>a.b[2 * i + 1] * <i32>b.sb[2 * i + 1],
                             -32768, 32767)
    return a

cdef inline Lane pmuldq(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(2):
        a.sq[i] = <i64>a.sd[2 * i] * <i64>b.sd[2 * i]
    return a

cdef inline Lane pmulld(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(4):
        a.d[i] *= b.d[i]
    return a

# ---------------------------------------------------------------------------------------------------------------------
# Averages, sums of differences, minima, maxima, signs

cdef inline Lane pavgb(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(16):
        a.b[i] = <u8>((<u32>a.b[i] + <u32>b.b[i] + 1) >> 1)
    return a

cdef inline Lane pavgw(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(8):
        a.w[i] = <u16>((<u32>a.w[i] + <u32>b.w[i] + 1) >> 1)
    return a

cdef inline Lane psadbw(Lane a, Lane b) noexcept nogil:
    cdef int i
    cdef u32 lo = 0, hi = 0
    for i in range(8):
        lo += a.b[i] - b.b[i] if a.b[i] > b.b[i] else b.b[i] - a.b[i]
        hi += a.b[i + 8] - b.b[i + 8] if a.b[i + 8] > b.b[i + 8] else b.b[i + 8] - a.b[i + 8]
    a.q[0] = lo
    a.q[1] = hi
    return a

cdef inline Lane pminub(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(16):
        a.b[i] = a.b[i] if a.b[i] < b.b[i] else b.b[i]
    return a

cdef inline Lane pmaxub(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(16):
        a.b[i] = a.b[i] if a.b[i] > b.b[i] else b.b[i]
    return a

cdef inline Lane pminsb(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(16):
        a.sb[i] = a.sb[i] if a.sb[i] < b.sb[i] else b.sb[i]
    return a

cdef inline Lane pmaxsb(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(16):
        a.sb[i] = a.sb[i] if a.sb[i] > b.sb[i] else b.sb[i]
    return a

cdef inline Lane pminuw(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(8):
        a.w[i] = a.w[i] if a.w[i] < b.w[i] else b.w[i]
    return a

cdef inline Lane pmaxuw(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(8):
        a.w[i] = a.w[i] if a.w[i] > b.w[i] else b.w[i]
    return a

cdef inline Lane pminsw(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(8):
        a.sw[i] = a.sw[i] if a.sw[i] < b.sw[i] else b.sw[i]
    return a

cdef inline Lane pmaxsw(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(8):
        a.sw[i] = a.sw[i] if a.sw[i] > b.sw[i] else b.sw[i]
    return a

cdef inline Lane pminud(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(4):
        a.d[i] = a.d[i] if a.d[i] < b.d[i] else b.d[i]
    return a

cdef inline Lane pmaxud(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(4):
        a.d[i] = a.d[i] if a.d[i] > b.d[i] else b.d[i]
    return a

cdef inline Lane pminsd(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(4):
        a.sd[i] = a.sd[i] if a.sd[i] < b.sd[i] else b.sd[i]
    return a

cdef inline Lane pmaxsd(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(4):
        a.sd[i] = a.sd[i] if a.sd[i] > b.sd[i] else b.sd[i]
    return a

cdef inline Lane psignb(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(16):
        a.sb[i] = <i8>(-<i32>a.sb[i] if b.sb[i] < 0 else 0 if b.sb[i] == 0 else <i32>a.sb[i])
    return a

cdef inline Lane psignw(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(8):
        a.sw[i] = <i16>(-<i32>a.sw[i] if b.sw[i] < 0 else 0 if b.sw[i] == 0 else <i32>a.sw[i])
    return a

cdef inline Lane psignd(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(4):
        a.sd[i] = <i32>(-<i32>a.sd[i] if b.sd[i] < 0 else 0 if b.sd[i] == 0 else <i32>a.sd[i])
    return a

cdef inline Lane pabsb(Lane b) noexcept nogil:
    cdef int i
    for i in range(16):
        b.b[i] = <u8>(-b.sb[i] if b.sb[i] < 0 else b.sb[i])
    return b

cdef inline Lane pabsw(Lane b) noexcept nogil:
    cdef int i
    for i in range(8):
        b.w[i] = <u16>(-b.sw[i] if b.sw[i] < 0 else b.sw[i])
    return b

cdef inline Lane pabsd(Lane b) noexcept nogil:
    cdef int i
    for i in range(4):
        b.d[i] = <u32>(-b.sd[i] if b.sd[i] < 0 else b.sd[i])
    return b

# ---------------------------------------------------------------------------------------------------------------------
# Comparison and logic

cdef inline Lane pcmpeqb(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(16):
        a.b[i] = 0xFF if a.b[i] == b.b[i] else 0
    return a

cdef inline Lane pcmpgtb(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(16):
        a.b[i] = 0xFF if a.sb[i] > b.sb[i] else 0
    return a

cdef inline Lane pcmpeqw(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(8):
        a.w[i] = 0xFFFF if a.w[i] == b.w[i] else 0
    return a

cdef inline Lane pcmpgtw(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(8):
        a.w[i] = 0xFFFF if a.sw[i] > b.sw[i] else 0
    return a

cdef inline Lane pcmpeqd(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(4):
        a.d[i] = <u32>0xFFFFFFFF if a.d[i] == b.d[i] else 0
    return a

cdef inline Lane pcmpgtd(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(4):
        a.d[i] = <u32>0xFFFFFFFF if a.sd[i] > b.sd[i] else 0
    return a

cdef inline Lane pcmpeqq(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(2):
        a.q[i] = <u64>0xFFFFFFFFFFFFFFFF if a.q[i] == b.q[i] else 0
    return a

cdef inline Lane pcmpgtq(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(2):
        a.q[i] = <u64>0xFFFFFFFFFFFFFFFF if a.sq[i] > b.sq[i] else 0
    return a

cdef inline Lane pand(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(2):
        a.q[i] = a.q[i] & b.q[i]
    return a

cdef inline Lane pandn(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(2):
        a.q[i] = ~a.q[i] & b.q[i]
    return a

cdef inline Lane por(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(2):
        a.q[i] = a.q[i] | b.q[i]
    return a

cdef inline Lane pxor(Lane a, Lane b) noexcept nogil:
    cdef int i
    for i in range(2):
        a.q[i] = a.q[i] ^ b.q[i]
    return a

# ---------------------------------------------------------------------------------------------------------------------
# The instructions

cdef int PADDB(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, paddb)
cdef int PADDW(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, paddw)
cdef int PADDD(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, paddd)
cdef int PADDQ(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, paddq)
cdef int PADDSB(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, paddsb)
cdef int PADDSW(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, paddsw)
cdef int PADDUSB(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, paddusb)
cdef int PADDUSW(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, paddusw)
cdef int PSUBB(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, psubb)
cdef int PSUBW(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, psubw)
cdef int PSUBD(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, psubd)
cdef int PSUBQ(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, psubq)
cdef int PSUBSB(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, psubsb)
cdef int PSUBSW(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, psubsw)
cdef int PSUBUSB(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, psubusb)
cdef int PSUBUSW(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, psubusw)
cdef int PMULLW(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, pmullw)
cdef int PMULHW(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, pmulhw)
cdef int PMULHUW(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, pmulhuw)
cdef int PMULHRSW(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, pmulhrsw)
cdef int PMULUDQ(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, pmuludq)
cdef int PMADDWD(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, pmaddwd)
cdef int PMADDUBSW(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, pmaddubsw)
cdef int PMULDQ(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, pmuldq)
cdef int PMULLD(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, pmulld)
cdef int PAVGB(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, pavgb)
cdef int PAVGW(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, pavgw)
cdef int PSADBW(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, psadbw)
cdef int PMINUB(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, pminub)
cdef int PMAXUB(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, pmaxub)
cdef int PMINSB(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, pminsb)
cdef int PMAXSB(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, pmaxsb)
cdef int PMINUW(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, pminuw)
cdef int PMAXUW(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, pmaxuw)
cdef int PMINSW(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, pminsw)
cdef int PMAXSW(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, pmaxsw)
cdef int PMINUD(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, pminud)
cdef int PMAXUD(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, pmaxud)
cdef int PMINSD(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, pminsd)
cdef int PMAXSD(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, pmaxsd)
cdef int PSIGNB(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, psignb)
cdef int PSIGNW(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, psignw)
cdef int PSIGND(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, psignd)
cdef int PCMPEQB(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, pcmpeqb)
cdef int PCMPGTB(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, pcmpgtb)
cdef int PCMPEQW(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, pcmpeqw)
cdef int PCMPGTW(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, pcmpgtw)
cdef int PCMPEQD(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, pcmpeqd)
cdef int PCMPGTD(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, pcmpgtd)
cdef int PCMPEQQ(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, pcmpeqq)
cdef int PCMPGTQ(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, pcmpgtq)
cdef int PAND(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, pand)
cdef int PANDN(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, pandn)
cdef int POR(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, por)
cdef int PXOR(Cpu* c, Insn* o) noexcept nogil: return packed(c, o, pxor)
cdef int PABSB(Cpu* c, Insn* o) noexcept nogil: return packed_unary(c, o, pabsb)
cdef int PABSW(Cpu* c, Insn* o) noexcept nogil: return packed_unary(c, o, pabsw)
cdef int PABSD(Cpu* c, Insn* o) noexcept nogil: return packed_unary(c, o, pabsd)
