# RFLAGS, kept lazily: an instruction stores its result and carry vector, and a reader works out the flag it wants.
#
# SDM Vol. 1, 3.4.3.1.  Three words describe all six arithmetic flags, whatever the operand size:
#   fl_res   the result, shifted left so that its sign is bit 63
#   fl_cv    the carry (or borrow) out of every bit, shifted alike: CF is bit 63, the carry into the sign is bit 62
#   fl_shd   the shift in bits 0-5; bits 8-15 and 31 are corrections of PF and SF for states no result can have (POPF, SAHF)
# so   ZF = fl_res == 0     SF = bit 63 of fl_res     CF = bit 63 of fl_cv     OF = bit 63 ^ bit 62 of fl_cv
#      AF = bit 3 of fl_cv before the shift           PF = even parity of the low byte of fl_res before the shift

cdef enum:
    SHD_SF = 1 << 31

cdef inline u32 size_shift(int size) noexcept nogil:
    return 64 - 8 * size

cdef inline bint flag_cf(Cpu* c) noexcept nogil:
    return c.fl_cv >> 63

cdef inline bint flag_zf(Cpu* c) noexcept nogil:
    return c.fl_res == 0

cdef inline bint flag_sf(Cpu* c) noexcept nogil:
    return (c.fl_res >> 63) ^ (c.fl_shd >> 31)

cdef inline bint flag_of(Cpu* c) noexcept nogil:
    return (c.fl_cv ^ (c.fl_cv << 1)) >> 63

cdef inline bint flag_pf(Cpu* c) noexcept nogil:
    cdef u32 b = <u32>((c.fl_res >> (c.fl_shd & 63)) & 0xFF) ^ ((c.fl_shd >> 8) & 0xFF)
    b ^= b >> 4
    return (0x9669 >> (b & 15)) & 1

cdef inline bint flag_af(Cpu* c) noexcept nogil:
    return (c.fl_cv >> ((c.fl_shd & 63) + 3)) & 1

cdef inline bint get_cf(Cpu* c) noexcept nogil:
    return c.fl_cv >> 63

cdef inline void set_cf(Cpu* c, bint value) noexcept nogil:
    """CF alone: bits 63 and 62 flip together, so that OF stays."""
    if (c.fl_cv >> 63) != <u64>value:
        c.fl_cv ^= <u64>3 << 62

cdef inline void flags_add(Cpu* c, int size, u64 a, u64 b, u64 r) noexcept nogil:
    """a + b (+ carry) = r; the operands may hold junk above their size."""
    cdef u32 sh = size_shift(size)
    c.fl_res = r << sh
    c.fl_cv = ((a & b) | ((a | b) & ~r)) << sh
    c.fl_shd = sh

cdef inline void flags_sub(Cpu* c, int size, u64 a, u64 b, u64 r) noexcept nogil:
    """a - b (- borrow) = r."""
    cdef u32 sh = size_shift(size)
    c.fl_res = r << sh
    c.fl_cv = ((~a & b) | ((~a | b) & r)) << sh
    c.fl_shd = sh

cdef inline void flags_logic(Cpu* c, int size, u64 r) noexcept nogil:
    """CF = OF = 0 (AF is undefined, here 0)."""
    cdef u32 sh = size_shift(size)
    c.fl_res = r << sh
    c.fl_cv = 0
    c.fl_shd = sh

cdef inline void flags_keep_cf(Cpu* c, bint cf) noexcept nogil:
    """Put CF back after INC or DEC have set the carry vector; OF stays as they made it."""
    if (c.fl_cv >> 63) != <u64>cf:
        c.fl_cv ^= <u64>3 << 62

cdef inline void flags_inc(Cpu* c, int size, u64 a, u64 r) noexcept nogil:
    cdef bint cf = get_cf(c)
    flags_add(c, size, a, 1, r)
    flags_keep_cf(c, cf)

cdef inline void flags_dec(Cpu* c, int size, u64 a, u64 r) noexcept nogil:
    cdef bint cf = get_cf(c)
    flags_sub(c, size, a, 1, r)
    flags_keep_cf(c, cf)

cdef inline void flags_shift(Cpu* c, int size, u64 r, bint cf, bint of) noexcept nogil:
    """SF ZF PF from r, CF and OF as given, AF 0."""
    cdef u32 sh = size_shift(size)
    c.fl_res = r << sh
    c.fl_cv = (<u64>cf << 63) | (<u64>(cf ^ of) << 62)
    c.fl_shd = sh

cdef inline void set_cf_of(Cpu* c, bint cf, bint of) noexcept nogil:
    """CF and OF alone (rotates)."""
    c.fl_cv = (c.fl_cv & ~(<u64>3 << 62)) | (<u64>cf << 63) | (<u64>(cf ^ of) << 62)

cdef u32 get_arith(Cpu* c) noexcept nogil:
    return (flag_cf(c) | (<u32>flag_pf(c) << 2) | (<u32>flag_af(c) << 4) | (<u32>flag_zf(c) << 6)
            | (<u32>flag_sf(c) << 7) | (<u32>flag_of(c) << 11))

cdef void set_arith(Cpu* c, u32 fl) noexcept nogil:
    """The six flags as given, in any combination.  Kept as a 32-bit result (shift 32) with corrections."""
    cdef u64 r = 0 if fl & FL_ZF else <u64>1 << 32          # parity of r's low byte: even for 0, odd for 1
    cdef u32 even = 1 if fl & FL_ZF else 0
    cdef u32 shd = 32
    if ((fl >> 2) & 1) != even:
        shd |= 1 << 8
    if fl & FL_SF:
        shd |= SHD_SF
    c.fl_res = r
    c.fl_shd = shd
    c.fl_cv = ((<u64>(fl & FL_CF) << 63) | (<u64>((fl & 1) ^ ((fl >> 11) & 1)) << 62)
               | (<u64>((fl >> 4) & 1) << 35))

cdef inline void set_zf(Cpu* c, bint value) noexcept nogil:
    """ZF alone (CMPXCHG8B, LAR, VERR...)."""
    set_arith(c, (get_arith(c) & ~<u32>FL_ZF) | (<u32>value << 6))

cdef inline u32 get_eflags(Cpu* c) noexcept nogil:
    return c.eflags | get_arith(c) | 2

cdef inline void set_eflags(Cpu* c, u32 fl) noexcept nogil:
    """All 32 bits; which of them the running code may change is the caller's business (POPF, IRET)."""
    c.eflags = (fl & ~<u32>(FL_ARITH | 2 | 8 | 32 | (1 << 15)))
    set_arith(c, fl)

cdef inline bint cond(Cpu* c, int cc) noexcept nogil:
    """Condition code of Jcc, SETcc, CMOVcc (SDM Vol. 1, appendix B)."""
    cdef bint v
    cdef int k = cc >> 1
    if k == 0:
        v = flag_of(c)
    elif k == 1:
        v = flag_cf(c)
    elif k == 2:
        v = flag_zf(c)
    elif k == 3:
        v = flag_cf(c) or flag_zf(c)
    elif k == 4:
        v = flag_sf(c)
    elif k == 5:
        v = flag_pf(c)
    elif k == 6:
        v = flag_sf(c) != flag_of(c)
    else:
        v = flag_zf(c) or (flag_sf(c) != flag_of(c))
    return v ^ (cc & 1)
