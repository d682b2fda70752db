# What the core needs of the host's C compiler and libc: branch hints, atomics, wide multiplication, clocks, mappings.

cdef extern from *:
    """
    #include <stdint.h>
    #include <time.h>
    #include <sched.h>
    #include <sys/mman.h>
    #define xf_likely(x) __builtin_expect(!!(x), 1)
    #define xf_unlikely(x) __builtin_expect(!!(x), 0)
    #define xf_fetch_or(p, v) __atomic_fetch_or((p), (v), __ATOMIC_SEQ_CST)
    #define xf_fetch_and(p, v) __atomic_fetch_and((p), (v), __ATOMIC_SEQ_CST)
    #define xf_add_fetch64(p, v) __atomic_add_fetch((uint64_t *)(p), (v), __ATOMIC_SEQ_CST)
    #define xf_load(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define xf_store(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    static inline int xf_cas8(void *p, unsigned long long o, unsigned long long n) {
        unsigned char e = o; return __atomic_compare_exchange_n((unsigned char *)p, &e, n, 0, 5, 5); }
    static inline int xf_cas16(void *p, unsigned long long o, unsigned long long n) {
        unsigned short e = o; return __atomic_compare_exchange_n((unsigned short *)p, &e, n, 0, 5, 5); }
    static inline int xf_cas32(void *p, unsigned long long o, unsigned long long n) {
        unsigned int e = o; return __atomic_compare_exchange_n((unsigned int *)p, &e, n, 0, 5, 5); }
    static inline int xf_cas64(void *p, unsigned long long o, unsigned long long n) {
        unsigned long long e = o; return __atomic_compare_exchange_n((unsigned long long *)p, &e, n, 0, 5, 5); }
    static inline unsigned long long xf_monotonic_ns(void) {
        struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t);
        return (unsigned long long)t.tv_sec * 1000000000ull + t.tv_nsec; }
    static inline void *xf_map(size_t n) {
        void *p = mmap(0, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        return p == MAP_FAILED ? 0 : p; }
    #ifdef __SANITIZE_ADDRESS__             /* a mapping is an object to the sanitizer: poisoned before and behind */
    #include <sanitizer/asan_interface.h>
    static inline size_t xf_room(size_t n) { return ((n + 4095) & ~(size_t)4095) + 8192; }
    static inline void *xf_reserve(size_t n) {
        char *p = xf_map(xf_room(n));
        if (!p) return 0;
        __asan_poison_memory_region(p, 4096);
        __asan_poison_memory_region(p + 4096 + n, xf_room(n) - 4096 - n);
        return p + 4096; }
    static inline void xf_release(void *p, size_t n) {
        if (!p) return;
        __asan_unpoison_memory_region((char *)p - 4096, xf_room(n));
        munmap((char *)p - 4096, xf_room(n)); }
    #else
    static inline void *xf_reserve(size_t n) { return xf_map(n); }
    static inline void xf_release(void *p, size_t n) { if (p) munmap(p, n); }
    #endif
    #ifndef XF_ARENA_BITS                   /* log2 of the decoded instructions a vcpu keeps; small for fuzzing */
    #define XF_ARENA_BITS 20
    #endif
    static inline void xf_unmap(void *p, size_t n) { if (p) munmap(p, n); }
    static inline void xf_discard(void *p, size_t n) { madvise(p, n, MADV_DONTNEED); }
    static inline void xf_pause(void) { sched_yield(); }
    """
    bint likely "xf_likely"(bint) noexcept nogil
    bint unlikely "xf_unlikely"(bint) noexcept nogil
    u32 fetch_or "xf_fetch_or"(u32*, u32) noexcept nogil
    u32 fetch_and "xf_fetch_and"(u32*, u32) noexcept nogil
    u64 add_fetch64 "xf_add_fetch64"(u64*, u64) noexcept nogil
    u32 load_acquire "xf_load"(u32*) noexcept nogil
    void store_release "xf_store"(u32*, u32) noexcept nogil
    u64 load_acquire64 "xf_load"(u64*) noexcept nogil
    void store_release64 "xf_store"(u64*, u64) noexcept nogil
    bint cas8 "xf_cas8"(void*, u64, u64) noexcept nogil
    bint cas16 "xf_cas16"(void*, u64, u64) noexcept nogil
    bint cas32 "xf_cas32"(void*, u64, u64) noexcept nogil
    bint cas64 "xf_cas64"(void*, u64, u64) noexcept nogil
    int ctz64 "__builtin_ctzll"(u64) noexcept nogil
    u64 monotonic_ns "xf_monotonic_ns"() noexcept nogil
    void* reserve "xf_reserve"(size_t) noexcept nogil
    void release "xf_release"(void*, size_t) noexcept nogil
    void unmap "xf_unmap"(void*, size_t) noexcept nogil           # what was not mapped by reserve()
    void discard "xf_discard"(void*, size_t) noexcept nogil
    void cpu_pause "xf_pause"() noexcept nogil

cdef inline void spin_lock(u32* lock) noexcept nogil:
    while not cas32(lock, 0, 1):
        cpu_pause()

cdef inline void spin_unlock(u32* lock) noexcept nogil:
    store_release(lock, 0)

cdef inline u64 now_ns(Cpu* c) noexcept nogil:
    """Time of the machine in ns: the host's monotonic clock, or (virtual) instructions retired plus idle time skipped."""
    if c.clock.is_virtual:
        return c.clock.now + <u64>(c.slice - c.budget) + c.clock.offset
    return monotonic_ns() - c.clock.start + c.clock.offset

# ---- the host's CPUID, for the model called "host" ---------------------------------------------------------------------
cdef extern from *:
    """
    #if defined(__x86_64__) || defined(__i386__)
    #include <cpuid.h>
    static int xf_host_cpuid(uint32_t leaf, uint32_t sub, uint32_t* r) {
        return __get_cpuid_count(leaf, sub, &r[0], &r[1], &r[2], &r[3]);
    }
    #else
    static int xf_host_cpuid(uint32_t leaf, uint32_t sub, uint32_t* r) { (void)leaf; (void)sub; (void)r; return 0; }
    #endif
    """
    int xf_host_cpuid(u32 leaf, u32 sub, u32* r) nogil
