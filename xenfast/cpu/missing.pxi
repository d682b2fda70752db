# Functions other parts of the core are about to define; each stub goes when its part lands.

# simd
cdef void rows_sse4() noexcept:
    pass
