# Memory for translated code: one object mapped twice, writable here and executable there, never both through one mapping.
#
# The object is an anonymous file (memfd_create).  Hosts that forbid executable memory, or are not x86-64, get no translator:
# jit_new() returns NULL and everything runs in the interpreter.

cdef extern from *:
    """
    #include <unistd.h>
    #include <sys/syscall.h>
    #if defined(__x86_64__) && defined(__linux__) && defined(SYS_memfd_create)
    static int xf_code_map(size_t n, void **rw, void **rx) {
        int fd = (int)syscall(SYS_memfd_create, "xenfast-code", 1u /* MFD_CLOEXEC */);
        if (fd < 0) return -1;
        *rw = *rx = MAP_FAILED;
        if (ftruncate(fd, (off_t)n) == 0) {
            *rw = mmap(0, n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
            *rx = mmap(0, n, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_NORESERVE, fd, 0);
        }
        close(fd);
        if (*rw != MAP_FAILED && *rx != MAP_FAILED) return 0;
        if (*rw != MAP_FAILED) munmap(*rw, n);
        if (*rx != MAP_FAILED) munmap(*rx, n);
        return -1; }
    /* Beyond the baseline: bit 0 SSSE3, SSE4, AES, PCLMULQDQ; bit 1 POPCNT, LZCNT, BMI; bit 2 AVX2, FMA (and F16C) */
    static unsigned xf_host_features(void) {
        unsigned f = 0;
        __builtin_cpu_init();
        if (__builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("ssse3") && __builtin_cpu_supports("sse4.1")
            && __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul")) f |= 1;
        if (__builtin_cpu_supports("popcnt") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2")) f |= 2;
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) f |= 4;
        return f; }
    #else
    static int xf_code_map(size_t n, void **rw, void **rx) { (void)n; (void)rw; (void)rx; return -1; }
    static unsigned xf_host_features(void) { return 0; }
    #endif
    """
    int code_map "xf_code_map"(size_t n, void** rw, void** rx) noexcept nogil
    unsigned host_features "xf_host_features"() noexcept nogil

cdef enum:
    JIT_CODE = 64 << 20      # bytes of code a vcpu may hold before all of it is dropped
    JIT_ROOM = 64 << 10      # what one block may take at most
    HOST_SSE4 = 1
    HOST_BMI = 2
    HOST_AVX = 4

cdef Jit* jit_new() noexcept nogil:
    """A translator's state with its thunks written, or NULL where this host has none."""
    cdef Jit* j = <Jit*>reserve(sizeof(Jit))
    cdef void* rw = NULL
    cdef void* rx = NULL
    if j == NULL:
        return NULL
    if code_map(JIT_CODE, &rw, &rx) < 0:
        release(j, sizeof(Jit))
        return NULL
    j.rw, j.rx, j.size = <u8*>rw, <u8*>rx, JIT_CODE
    j.site = <u32*>reserve(sizeof(u32) * ARENA_INSNS)
    if j.site == NULL:
        jit_free(j)
        return NULL
    j.host = host_features()
    j.hot = JIT_HOT
    j.n_sites = SITE_FIRST
    emit_thunks(j)
    return j

cdef void jit_free(Jit* j) noexcept nogil:
    if j == NULL:
        return
    unmap(j.rw, j.size)
    unmap(j.rx, j.size)
    release(j.site, sizeof(u32) * ARENA_INSNS)
    release(j, sizeof(Jit))
