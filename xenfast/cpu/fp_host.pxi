# IEEE arithmetic on the host: the one place where SSE instructions of the guest meet floating point of the host.
#
# SDM Vol. 1, ch. 11.5 (MXCSR, SIMD floating-point exceptions) and 4.8.3.5 (which NaN results).  While run() is on the
# stack the host rounds, flushes and treats denormals as the guest's MXCSR says, with every exception masked
# (fp_enter, fp_leave), so an addition is an addition; the sticky flags gather in the host's status register and are
# merged into Cpu.mxcsr whenever somebody looks.
#
# On x86-64 each primitive is the instruction of that name, in asm volatile: exact by construction, and in order with
# respect to the reads of the status register.  Elsewhere it is C with <fenv.h> and the NaN rules spelled out; there
# DE is not raised and DAZ and FTZ have no effect.  -DXF_PORTABLE_FP selects that half on x86-64, for the tests.

cdef extern from *:
    """
    #include <math.h>
    #include <string.h>
    #include <stdint.h>
    #if defined(__x86_64__) && !defined(XF_PORTABLE_FP)
    #include <emmintrin.h>
    #define XF_HOST_FP_X86 1
    static inline unsigned xf_fp_get(void) { return _mm_getcsr(); }
    static inline void xf_fp_set(unsigned v) { _mm_setcsr(v); }
    static inline unsigned xf_fp_flags(void) { return _mm_getcsr() & 0x3F; }
    static inline void xf_fp_mode(unsigned mxcsr) {         /* rounding, FTZ, DAZ of the guest; all masked; no flags */
        if (!(mxcsr & 0x0800)) mxcsr &= ~0x8000u;           /* FTZ counts only while underflow is masked */
        _mm_setcsr((mxcsr & 0xE040) | 0x1F80); }
    #define XF_S2(name, T, insn) static inline T xf_##name(T a, T b) { \\
        __asm__ volatile(insn " %1, %0" : "+x"(a) : "xm"(b)); return a; }
    #define XF_S1(name, T, insn) static inline T xf_##name(T a) { \\
        T r; __asm__ volatile(insn " %1, %0" : "=x"(r) : "x"(a)); return r; }
    #define XF_PS2(name) static inline void xf_##name(void *d, const void *a, const void *b) { \\
        __m128 x = _mm_loadu_ps((const float *)a), y = _mm_loadu_ps((const float *)b); \\
        __asm__ volatile(#name " %1, %0" : "+x"(x) : "x"(y)); _mm_storeu_ps((float *)d, x); }
    #define XF_PS1(name) static inline void xf_##name(void *d, const void *a) { \\
        __m128 x = _mm_loadu_ps((const float *)a), y; \\
        __asm__ volatile(#name " %1, %0" : "=x"(y) : "x"(x)); _mm_storeu_ps((float *)d, y); }
    #define XF_CVT(name, R, T, insn, out) static inline R xf_##name(T a) { \\
        R r; __asm__ volatile(insn " %1, %0" : out(r) : "x"(a)); return r; }
    #define XF_CVT_FROM(name, R, T, insn) static inline R xf_##name(T a) { \\
        R r = 0; __asm__ volatile(insn " %1, %0" : "+x"(r) : "r"(a)); return r; }
    #define XF_REL(name, T, insn) static inline int xf_##name(T a, T b) { \\
        unsigned char un, lt, eq; \\
        __asm__ volatile(insn " %4, %3" : "=@ccp"(un), "=@ccc"(lt), "=@ccz"(eq) : "x"(a), "x"(b)); \\
        return un ? 8 : lt ? 1 : eq ? 2 : 4; }
    XF_S2(add32, float, "addss") XF_S2(sub32, float, "subss") XF_S2(mul32, float, "mulss") XF_S2(div32, float, "divss")
    XF_S2(min32, float, "minss") XF_S2(max32, float, "maxss") XF_S1(sqrt32, float, "sqrtss")
    XF_S2(add64, double, "addsd") XF_S2(sub64, double, "subsd") XF_S2(mul64, double, "mulsd") XF_S2(div64, double,
    "divsd")
    XF_S2(min64, double, "minsd") XF_S2(max64, double, "maxsd") XF_S1(sqrt64, double, "sqrtsd")
    XF_PS2(addps) XF_PS2(subps) XF_PS2(mulps) XF_PS2(divps) XF_PS2(minps) XF_PS2(maxps) XF_PS1(sqrtps)
    XF_PS2(addpd) XF_PS2(subpd) XF_PS2(mulpd) XF_PS2(divpd) XF_PS2(minpd) XF_PS2(maxpd) XF_PS1(sqrtpd)
    static inline double xf_f32_to_f64(float a) {
        double r = 0; __asm__ volatile("cvtss2sd %1, %0" : "+x"(r) : "x"(a)); return r; }
    static inline float xf_f64_to_f32(double a) {
        float r = 0; __asm__ volatile("cvtsd2ss %1, %0" : "+x"(r) : "x"(a)); return r; }
    XF_CVT(f32_to_i32, int32_t, float, "cvtss2sil", "=r") XF_CVT(f32_to_i32z, int32_t, float, "cvttss2sil", "=r")
    XF_CVT(f32_to_i64, int64_t, float, "cvtss2siq", "=r") XF_CVT(f32_to_i64z, int64_t, float, "cvttss2siq", "=r")
    XF_CVT(f64_to_i32, int32_t, double, "cvtsd2sil", "=r") XF_CVT(f64_to_i32z, int32_t, double, "cvttsd2sil", "=r")
    XF_CVT(f64_to_i64, int64_t, double, "cvtsd2siq", "=r") XF_CVT(f64_to_i64z, int64_t, double, "cvttsd2siq", "=r")
    XF_CVT_FROM(i32_to_f32, float, int32_t, "cvtsi2ssl") XF_CVT_FROM(i64_to_f32, float, int64_t, "cvtsi2ssq")
    XF_CVT_FROM(i32_to_f64, double, int32_t, "cvtsi2sdl") XF_CVT_FROM(i64_to_f64, double, int64_t, "cvtsi2sdq")
    XF_REL(rel32, float, "comiss") XF_REL(relq32, float, "ucomiss")
    XF_REL(rel64, double, "comisd") XF_REL(relq64, double, "ucomisd")
    #else
    #include <fenv.h>
    static inline unsigned xf_fp_flags(void) {
        int e = fetestexcept(FE_ALL_EXCEPT);
        return (e & FE_INVALID ? 1 : 0) | (e & FE_DIVBYZERO ? 4 : 0) | (e & FE_OVERFLOW ? 8 : 0)
             | (e & FE_UNDERFLOW ? 16 : 0) | (e & FE_INEXACT ? 32 : 0); }
    static inline unsigned xf_fp_get(void) {
        int r = fegetround();
        return r == FE_DOWNWARD ? 0x2000 : r == FE_UPWARD ? 0x4000 : r == FE_TOWARDZERO ? 0x6000 : 0; }
    static inline void xf_fp_mode(unsigned mxcsr) {
        static const int rc[4] = {FE_TONEAREST, FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO};
        fesetround(rc[(mxcsr >> 13) & 3]); feclearexcept(FE_ALL_EXCEPT); }
    static inline void xf_fp_set(unsigned v) { xf_fp_mode(v); }
    static inline uint32_t xf_bits32(float a) { uint32_t u; memcpy(&u, &a, 4); return u; }
    static inline uint64_t xf_bits64(double a) { uint64_t u; memcpy(&u, &a, 8); return u; }
    static inline float xf_from32(uint32_t u) { float a; memcpy(&a, &u, 4); return a; }
    static inline double xf_from64(uint64_t u) { double a; memcpy(&a, &u, 8); return a; }
    #define XF_KEEP(x) __asm__ volatile("" : "+m"(x) : : "memory")     /* the operation stays where it is written */
    #define XF_NAN(T, n, Q, D) \\
        static inline T xf_nan##n(T a, T b, T r) { \\
            if (a != a) return xf_from##n(xf_bits##n(a) | Q); \\
            if (b != b) return xf_from##n(xf_bits##n(b) | Q); \\
            return r != r ? xf_from##n(D) : r; } \\
        static inline int xf_snan##n(T a) { return a != a && !(xf_bits##n(a) & Q); }
    XF_NAN(float, 32, 0x400000u, 0xFFC00000u) XF_NAN(double, 64, 0x8000000000000ull, 0xFFF8000000000000ull)
    #define XF_ARITH(name, T, n, op) static inline T xf_##name##n(T a, T b) { \\
        T r; XF_KEEP(a); XF_KEEP(b); r = a op b; XF_KEEP(r); return xf_nan##n(a, b, r); }
    #define XF_FORMAT(T, n, sq) \\
        XF_ARITH(add, T, n, +) XF_ARITH(sub, T, n, -) XF_ARITH(mul, T, n, *) XF_ARITH(div, T, n, /) \\
        static inline T xf_sqrt##n(T a) { T r; XF_KEEP(a); r = sq(a); XF_KEEP(r); return xf_nan##n(a, a, r); } \\
        static inline int xf_unord##n(T a, T b, int quiet) { \\
            if (a == a && b == b) return 0; \\
            if (!quiet || xf_snan##n(a) || xf_snan##n(b)) feraiseexcept(FE_INVALID); \\
            return 1; } \\
        static inline int xf_rel##n(T a, T b) { return xf_unord##n(a, b, 0) ? 8 : a < b ? 1 : a == b ? 2 : 4; } \\
        static inline int xf_relq##n(T a, T b) { return xf_unord##n(a, b, 1) ? 8 : a < b ? 1 : a == b ? 2 : 4; } \\
        static inline T xf_min##n(T a, T b) { return !xf_unord##n(a, b, 0) && a < b ? a : b; } \\
        static inline T xf_max##n(T a, T b) { return !xf_unord##n(a, b, 0) && a > b ? a : b; }
    XF_FORMAT(float, 32, sqrtf) XF_FORMAT(double, 64, sqrt)
    #define XF_LANES(name, T, n, k) static inline void xf_##name(void *d, const void *a, const void *b) { \\
        T x[k], y[k]; int i; memcpy(x, a, 16); memcpy(y, b, 16); \\
        for (i = 0; i < k; i++) x[i] = xf_##n(x[i], y[i]); \\
        memcpy(d, x, 16); }
    #define XF_LANES1(name, T, n, k) static inline void xf_##name(void *d, const void *a) { \\
        T x[k]; int i; memcpy(x, a, 16); for (i = 0; i < k; i++) x[i] = xf_##n(x[i]); memcpy(d, x, 16); }
    XF_LANES(addps, float, add32, 4) XF_LANES(subps, float, sub32, 4) XF_LANES(mulps, float, mul32, 4)
    XF_LANES(divps, float, div32, 4) XF_LANES(minps, float, min32, 4) XF_LANES(maxps, float, max32, 4)
    XF_LANES(addpd, double, add64, 2) XF_LANES(subpd, double, sub64, 2) XF_LANES(mulpd, double, mul64, 2)
    XF_LANES(divpd, double, div64, 2) XF_LANES(minpd, double, min64, 2) XF_LANES(maxpd, double, max64, 2)
    XF_LANES1(sqrtps, float, sqrt32, 4) XF_LANES1(sqrtpd, double, sqrt64, 2)
    static inline double xf_f32_to_f64(float a) {
        uint32_t u = xf_bits32(a);
        if (a == a) return (double)a;
        if (!(u & 0x400000)) feraiseexcept(FE_INVALID);
        return xf_from64(((uint64_t)(u >> 31) << 63) | 0x7FF8000000000000ull | ((uint64_t)(u & 0x3FFFFF) << 29)); }
    static inline float xf_f64_to_f32(double a) {
        uint64_t u = xf_bits64(a); float r;
        if (a == a) { XF_KEEP(a); r = (float)a; XF_KEEP(r); return r; }
        if (!(u & 0x8000000000000ull)) feraiseexcept(FE_INVALID);
        return xf_from32((uint32_t)(u >> 63) << 31 | 0x7FC00000u | ((uint32_t)(u >> 29) & 0x3FFFFF)); }
    #define XF_TO_INT(name, R, T, rnd, lo, hi, bad) static inline R xf_##name(T a) { \\
        double r; int e = fetestexcept(FE_ALL_EXCEPT); \\
        if (a != a) { feraiseexcept(FE_INVALID); return bad; } \\
        r = rnd((double)a); \\
        feclearexcept(FE_ALL_EXCEPT); feraiseexcept(e); \\
        if (!(r >= lo && r < hi)) { feraiseexcept(FE_INVALID); return bad; } \\
        if (r != (double)a) feraiseexcept(FE_INEXACT); \\
        return (R)r; }
    #define XF_TO_INTS(f, T) \\
        XF_TO_INT(f##_to_i32, int32_t, T, nearbyint, -2147483648.0, 2147483648.0, INT32_MIN) \\
        XF_TO_INT(f##_to_i32z, int32_t, T, trunc, -2147483648.0, 2147483648.0, INT32_MIN) \\
        XF_TO_INT(f##_to_i64, int64_t, T, nearbyint, -9223372036854775808.0, 9223372036854775808.0, INT64_MIN) \\
        XF_TO_INT(f##_to_i64z, int64_t, T, trunc, -9223372036854775808.0, 9223372036854775808.0, INT64_MIN)
    XF_TO_INTS(f32, float) XF_TO_INTS(f64, double)
    #define XF_FROM_INT(name, R, T) static inline R xf_##name(T a) { R r; XF_KEEP(a); r = (R)a; XF_KEEP(r); return r; }
    XF_FROM_INT(i32_to_f32, float, int32_t) XF_FROM_INT(i64_to_f32, float, int64_t)
    XF_FROM_INT(i32_to_f64, double, int32_t) XF_FROM_INT(i64_to_f64, double, int64_t)
    #endif
    """
    # The host's status register: what it held before run(), its six sticky flags in MXCSR order, its mode from an
    # MXCSR.
    u32 host_fp_get "xf_fp_get"() noexcept nogil
    void host_fp_set "xf_fp_set"(u32) noexcept nogil
    u32 host_fp_flags "xf_fp_flags"() noexcept nogil
    void host_fp_mode "xf_fp_mode"(u32 mxcsr) noexcept nogil
    # Scalars.
    float add32 "xf_add32"(float, float) noexcept nogil
    float sub32 "xf_sub32"(float, float) noexcept nogil
    float mul32 "xf_mul32"(float, float) noexcept nogil
    float div32 "xf_div32"(float, float) noexcept nogil
    float min32 "xf_min32"(float, float) noexcept nogil
    float max32 "xf_max32"(float, float) noexcept nogil
    float sqrt32 "xf_sqrt32"(float) noexcept nogil
    double add64 "xf_add64"(double, double) noexcept nogil
    double sub64 "xf_sub64"(double, double) noexcept nogil
    double mul64 "xf_mul64"(double, double) noexcept nogil
    double div64 "xf_div64"(double, double) noexcept nogil
    double min64 "xf_min64"(double, double) noexcept nogil
    double max64 "xf_max64"(double, double) noexcept nogil
    double sqrt64 "xf_sqrt64"(double) noexcept nogil
    # Comparisons: 1 less, 2 equal, 4 greater, 8 unordered.  rel* raises IE for any NaN, relq* for a signalling one.
    int rel32 "xf_rel32"(float, float) noexcept nogil
    int relq32 "xf_relq32"(float, float) noexcept nogil
    int rel64 "xf_rel64"(double, double) noexcept nogil
    int relq64 "xf_relq64"(double, double) noexcept nogil
    # Conversions; ...z truncate.  What does not fit becomes the integer indefinite.
    double f32_to_f64 "xf_f32_to_f64"(float) noexcept nogil
    float f64_to_f32 "xf_f64_to_f32"(double) noexcept nogil
    i32 f32_to_i32 "xf_f32_to_i32"(float) noexcept nogil
    i32 f32_to_i32z "xf_f32_to_i32z"(float) noexcept nogil
    i64 f32_to_i64 "xf_f32_to_i64"(float) noexcept nogil
    i64 f32_to_i64z "xf_f32_to_i64z"(float) noexcept nogil
    i32 f64_to_i32 "xf_f64_to_i32"(double) noexcept nogil
    i32 f64_to_i32z "xf_f64_to_i32z"(double) noexcept nogil
    i64 f64_to_i64 "xf_f64_to_i64"(double) noexcept nogil
    i64 f64_to_i64z "xf_f64_to_i64z"(double) noexcept nogil
    float i32_to_f32 "xf_i32_to_f32"(i32) noexcept nogil
    float i64_to_f32 "xf_i64_to_f32"(i64) noexcept nogil
    double i32_to_f64 "xf_i32_to_f64"(i32) noexcept nogil
    double i64_to_f64 "xf_i64_to_f64"(i64) noexcept nogil
    # Four singles or two doubles: d = a op b.
    void host_addps "xf_addps"(void*, const void*, const void*) noexcept nogil
    void host_subps "xf_subps"(void*, const void*, const void*) noexcept nogil
    void host_mulps "xf_mulps"(void*, const void*, const void*) noexcept nogil
    void host_divps "xf_divps"(void*, const void*, const void*) noexcept nogil
    void host_minps "xf_minps"(void*, const void*, const void*) noexcept nogil
    void host_maxps "xf_maxps"(void*, const void*, const void*) noexcept nogil
    void host_sqrtps "xf_sqrtps"(void*, const void*) noexcept nogil
    void host_addpd "xf_addpd"(void*, const void*, const void*) noexcept nogil
    void host_subpd "xf_subpd"(void*, const void*, const void*) noexcept nogil
    void host_mulpd "xf_mulpd"(void*, const void*, const void*) noexcept nogil
    void host_divpd "xf_divpd"(void*, const void*, const void*) noexcept nogil
    void host_minpd "xf_minpd"(void*, const void*, const void*) noexcept nogil
    void host_maxpd "xf_maxpd"(void*, const void*, const void*) noexcept nogil
    void host_sqrtpd "xf_sqrtpd"(void*, const void*) noexcept nogil
