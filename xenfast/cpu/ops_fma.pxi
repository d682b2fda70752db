# FMA3: VFMADD VFMSUB VFNMADD VFNMSUB VFMADDSUB VFMSUBADD in the orders 132, 213 and 231, with a single rounding.
#
# SDM Vol. 1, 14.5.  x * y + z with x, y, z taken from the destination a, VEX.vvvv b and W c:
#   132   a * c + b        213   b * a + c        231   b * c + a
# The first NaN among x, y, z is the result (table 14-17), so the order of x and y matters; a sign is never changed on a
# NaN.  The arithmetic is the host's, as in fp_host.pxi: its FMA instructions where it has them, else the C library's
# fma(), which rounds once too; DAZ, FTZ and DE are then done here.

cdef extern from *:
    """
    static inline uint32_t xf_f_bits32(float a) { uint32_t u; memcpy(&u, &a, 4); return u; }
    static inline uint64_t xf_f_bits64(double a) { uint64_t u; memcpy(&u, &a, 8); return u; }
    static inline float xf_f_from32(uint32_t u) { float a; memcpy(&a, &u, 4); return a; }
    static inline double xf_f_from64(uint64_t u) { double a; memcpy(&a, &u, 8); return a; }
    #ifdef XF_HOST_FP_X86
    #define XF_FMA_RAISE(f) _mm_setcsr(_mm_getcsr() | (f))
    #define XF_FMA_MODE _mm_getcsr()
    #define XF_FMA_PLAIN _mm_setcsr(_mm_getcsr() & ~0x8050u)            /* neither FTZ nor DAZ, and no UE yet */
    #define XF_FMA_TINY (_mm_getcsr() & 0x10)
    #define XF_FMA_BACK(m) _mm_setcsr(_mm_getcsr() | ((m) & 0x8050u))
    #else
    #define XF_FMA_RAISE(f) feraiseexcept(((f) & 1 ? FE_INVALID : 0) | ((f) & 32 ? FE_INEXACT : 0))
    #define XF_FMA_MODE 0
    #define XF_FMA_PLAIN (void)0
    #define XF_FMA_TINY 0
    #define XF_FMA_BACK(m) (void)(m)
    #endif
    /* In software: NaNs first, then denormal operands, the operation, denormal results. */
    #define XF_FMA_SOFT(T, U, n, call, QUIET, EXP, DEFAULT) \\
    static T xf_fma_soft##n(T x, T y, T z) { \\
        U b[3] = {xf_f_bits##n(x), xf_f_bits##n(y), xf_f_bits##n(z)}; \\
        U frac = (QUIET << 1) - 1, sign = ~(EXP | frac), r; \\
        unsigned mode = XF_FMA_MODE, flags = 0; int i; \\
        for (i = 0; i < 3; i++) if ((b[i] & ~sign) > EXP && !(b[i] & QUIET)) flags |= 1; \\
        for (i = 0; i < 3; i++) if ((b[i] & ~sign) > EXP) { XF_FMA_RAISE(flags); return xf_f_from##n(b[i] | QUIET); } \\
        for (i = 0; i < 3; i++) if (!(b[i] & EXP) && b[i] & frac) { \\
            if (mode & 0x40) b[i] &= sign; else flags |= 2; } \\
        if ((!(b[0] & ~sign) && (b[1] & ~sign) == EXP) || (!(b[1] & ~sign) && (b[0] & ~sign) == EXP) \\
            || (((b[0] & ~sign) == EXP || (b[1] & ~sign) == EXP) && (b[2] & ~sign) == EXP && ((b[0] ^ b[1] ^ b[2]) & sign))) { \\
            XF_FMA_RAISE(1); return xf_f_from##n(DEFAULT); } \\
        x = xf_f_from##n(b[0]); y = xf_f_from##n(b[1]); z = xf_f_from##n(b[2]); \\
        XF_FMA_PLAIN; \\
        { volatile T vx = x, vy = y, vz = z, vr = call(vx, vy, vz); r = xf_f_bits##n(vr); } \\
        if (mode & 0x8000 && ((!(r & EXP) && r & frac) || (XF_FMA_TINY && (r & ~sign) == frac + 1))) { \\
            r &= sign; flags |= 0x30; }                                 /* also what was rounded up to the smallest normal */ \\
        XF_FMA_BACK(mode); \\
        if (flags) XF_FMA_RAISE(flags); \\
        return xf_f_from##n(r); }
    XF_FMA_SOFT(float, uint32_t, 32, fmaf, 0x400000u, 0x7F800000u, 0xFFC00000u)
    XF_FMA_SOFT(double, uint64_t, 64, fma, 0x8000000000000ull, 0x7FF0000000000000ull, 0xFFF8000000000000ull)
    #if defined(__x86_64__) && defined(XF_HOST_FP_X86) && !defined(XF_NO_FMA)
    static inline float xf_fma32(float x, float y, float z) {
        if (!__builtin_cpu_supports("fma")) return xf_fma_soft32(x, y, z);
        __asm__ volatile("vfmadd231ss %2, %1, %0" : "+x"(z) : "x"(x), "x"(y)); return z; }
    static inline double xf_fma64(double x, double y, double z) {
        if (!__builtin_cpu_supports("fma")) return xf_fma_soft64(x, y, z);
        __asm__ volatile("vfmadd231sd %2, %1, %0" : "+x"(z) : "x"(x), "x"(y)); return z; }
    #else
    #define xf_fma32 xf_fma_soft32
    #define xf_fma64 xf_fma_soft64
    #endif
    """
    float fma32 "xf_fma32"(float x, float y, float z) noexcept nogil
    double fma64 "xf_fma64"(double x, double y, double z) noexcept nogil

cdef enum:               # what an instruction does to the signs, even and odd elements
    FMA_ADD = 0
    FMA_NEG = 1          # -(x * y)
    FMA_SUB_EVEN = 2     # - z
    FMA_SUB_ODD = 4
    FMA_SUB = FMA_SUB_EVEN | FMA_SUB_ODD

cdef inline void minus32(float* v) noexcept nogil:
    cdef u32* u = <u32*>v
    if u[0] & 0x7FFFFFFF <= 0x7F800000:
        u[0] ^= <u32>0x80000000

cdef inline void minus64(double* v) noexcept nogil:
    cdef u64* u = <u64*>v
    if u[0] & <u64>0x7FFFFFFFFFFFFFFF <= <u64>0x7FF0000000000000:
        u[0] ^= <u64>0x8000000000000000

cdef inline float fma_element32(float a, float b, float c, int order, int how, int i) noexcept nogil:
    cdef float x = a if order == 132 else b
    cdef float y = a if order == 213 else c
    cdef float z = b if order == 132 else c if order == 213 else a
    if how & FMA_NEG:
        minus32(&x)
    if how & (FMA_SUB_ODD if i & 1 else FMA_SUB_EVEN):
        minus32(&z)
    return fma32(x, y, z)

cdef inline double fma_element64(double a, double b, double c, int order, int how, int i) noexcept nogil:
    cdef double x = a if order == 132 else b
    cdef double y = a if order == 213 else c
    cdef double z = b if order == 132 else c if order == 213 else a
    if how & FMA_NEG:
        minus64(&x)
    if how & (FMA_SUB_ODD if i & 1 else FMA_SUB_EVEN):
        minus64(&z)
    return fma64(x, y, z)

# ---- shapes: VEX.W chooses double precision -------------------------------------------------------------------------
cdef int fma_packed(Cpu* c, Insn* o, int order, int how) noexcept nogil:
    """Vx,Hx,Wx"""
    cdef Vec s
    cdef Vec* a = &c.v[o.reg & 15]
    cdef Vec* b = &c.v[o.vvvv & 15]
    cdef bint double_ = o.vex & VEX_W
    cdef int i, st = read_Wx(c, o, <Lane*>&s)
    if st != ST_OK:
        return st
    if fp_unmasked(c):
        fp_begin(c)
    if double_:
        for i in range(o.size >> 3):
            s.lf[i] = fma_element64(a.lf[i], b.lf[i], s.lf[i], order, how, i)
    else:
        for i in range(o.size >> 2):
            s.f[i] = fma_element32(a.f[i], b.f[i], s.f[i], order, how, i)
    if fp_unmasked(c):
        st = fp_check_lanes(c, <Lane*>&s, o.size >> 4, TINY_PD if double_ else TINY_PS)
    if st == ST_OK:
        put_Vx(c, o, <Lane*>&s)
    return st

cdef int fma_scalar(Cpu* c, Insn* o, int order, int how) noexcept nogil:
    """Vsd,Hsd,Wsd: the rest of the low half stays."""
    cdef Lane s
    cdef Lane* a = xmm(c, o.reg)
    cdef Lane* b = xmm(c, o.vvvv)
    cdef bint double_ = o.vex & VEX_W
    cdef int st = read_W_part(c, o, 8 if double_ else 4, &s)
    if st != ST_OK:
        return st
    if fp_unmasked(c):
        fp_begin(c)
    if double_:
        s.lf[0] = fma_element64(a.lf[0], b.lf[0], s.lf[0], order, how, 0)
    else:
        s.f[0] = fma_element32(a.f[0], b.f[0], s.f[0], order, how, 0)
    if fp_unmasked(c):
        st = fp_check(c, &s, TINY_SD if double_ else TINY_SS)
    if st == ST_OK:
        memcpy(a, &s, 8 if double_ else 4)
        clear_upper(o, a)
    return st

# ---- the instructions -----------------------------------------------------------------------------------------------
cdef int VFMADDSUB132P(Cpu* c, Insn* o) noexcept nogil: return fma_packed(c, o, 132, FMA_SUB_EVEN)
cdef int VFMSUBADD132P(Cpu* c, Insn* o) noexcept nogil: return fma_packed(c, o, 132, FMA_SUB_ODD)
cdef int VFMADD132P(Cpu* c, Insn* o) noexcept nogil: return fma_packed(c, o, 132, FMA_ADD)
cdef int VFMADD132S(Cpu* c, Insn* o) noexcept nogil: return fma_scalar(c, o, 132, FMA_ADD)
cdef int VFMSUB132P(Cpu* c, Insn* o) noexcept nogil: return fma_packed(c, o, 132, FMA_SUB)
cdef int VFMSUB132S(Cpu* c, Insn* o) noexcept nogil: return fma_scalar(c, o, 132, FMA_SUB)
cdef int VFNMADD132P(Cpu* c, Insn* o) noexcept nogil: return fma_packed(c, o, 132, FMA_NEG)
cdef int VFNMADD132S(Cpu* c, Insn* o) noexcept nogil: return fma_scalar(c, o, 132, FMA_NEG)
cdef int VFNMSUB132P(Cpu* c, Insn* o) noexcept nogil: return fma_packed(c, o, 132, FMA_NEG | FMA_SUB)
cdef int VFNMSUB132S(Cpu* c, Insn* o) noexcept nogil: return fma_scalar(c, o, 132, FMA_NEG | FMA_SUB)
cdef int VFMADDSUB213P(Cpu* c, Insn* o) noexcept nogil: return fma_packed(c, o, 213, FMA_SUB_EVEN)
cdef int VFMSUBADD213P(Cpu* c, Insn* o) noexcept nogil: return fma_packed(c, o, 213, FMA_SUB_ODD)
cdef int VFMADD213P(Cpu* c, Insn* o) noexcept nogil: return fma_packed(c, o, 213, FMA_ADD)
cdef int VFMADD213S(Cpu* c, Insn* o) noexcept nogil: return fma_scalar(c, o, 213, FMA_ADD)
cdef int VFMSUB213P(Cpu* c, Insn* o) noexcept nogil: return fma_packed(c, o, 213, FMA_SUB)
cdef int VFMSUB213S(Cpu* c, Insn* o) noexcept nogil: return fma_scalar(c, o, 213, FMA_SUB)
cdef int VFNMADD213P(Cpu* c, Insn* o) noexcept nogil: return fma_packed(c, o, 213, FMA_NEG)
cdef int VFNMADD213S(Cpu* c, Insn* o) noexcept nogil: return fma_scalar(c, o, 213, FMA_NEG)
cdef int VFNMSUB213P(Cpu* c, Insn* o) noexcept nogil: return fma_packed(c, o, 213, FMA_NEG | FMA_SUB)
cdef int VFNMSUB213S(Cpu* c, Insn* o) noexcept nogil: return fma_scalar(c, o, 213, FMA_NEG | FMA_SUB)
cdef int VFMADDSUB231P(Cpu* c, Insn* o) noexcept nogil: return fma_packed(c, o, 231, FMA_SUB_EVEN)
cdef int VFMSUBADD231P(Cpu* c, Insn* o) noexcept nogil: return fma_packed(c, o, 231, FMA_SUB_ODD)
cdef int VFMADD231P(Cpu* c, Insn* o) noexcept nogil: return fma_packed(c, o, 231, FMA_ADD)
cdef int VFMADD231S(Cpu* c, Insn* o) noexcept nogil: return fma_scalar(c, o, 231, FMA_ADD)
cdef int VFMSUB231P(Cpu* c, Insn* o) noexcept nogil: return fma_packed(c, o, 231, FMA_SUB)
cdef int VFMSUB231S(Cpu* c, Insn* o) noexcept nogil: return fma_scalar(c, o, 231, FMA_SUB)
cdef int VFNMADD231P(Cpu* c, Insn* o) noexcept nogil: return fma_packed(c, o, 231, FMA_NEG)
cdef int VFNMADD231S(Cpu* c, Insn* o) noexcept nogil: return fma_scalar(c, o, 231, FMA_NEG)
cdef int VFNMSUB231P(Cpu* c, Insn* o) noexcept nogil: return fma_packed(c, o, 231, FMA_NEG | FMA_SUB)
cdef int VFNMSUB231S(Cpu* c, Insn* o) noexcept nogil: return fma_scalar(c, o, 231, FMA_NEG | FMA_SUB)
