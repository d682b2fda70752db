# RDRAND and RDSEED.
#
# SDM Vol. 1, 7.3.17.  In real time the numbers are the host's; in virtual time they follow from the machine's seed (Vcpu.seed), so that a
# run repeats to the bit.  They never run dry: CF is 1, unless the host itself has no entropy to give.

cdef extern from *:
    """
    #include <sys/random.h>
    static inline int xf_entropy(void* p) { return getrandom(p, 8, 0) == 8; }
    """
    bint xf_entropy(void* p) noexcept nogil

cdef u64 next_random(Cpu* c) noexcept nogil:
    """SplitMix64 (Steele, Lea and Flood, 2014) over Cpu.rng."""
    cdef u64 z
    c.rng += <u64>0x9E3779B97F4A7C15
    z = c.rng
    z = (z ^ (z >> 30)) * <u64>0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * <u64>0x94D049BB133111EB
    return z ^ (z >> 31)

cdef int RDRAND_R(Cpu* c, Insn* o) noexcept nogil:
    """RDRAND and RDSEED."""
    cdef u64 v = 0
    cdef bint ok = True
    if c.clock.is_virtual:
        v = next_random(c)
    else:
        ok = xf_entropy(&v)
    set_reg(c, o, o.rm, o.size, v if ok else 0)
    set_arith(c, FL_CF if ok else 0)
    return ST_OK
