# Choosing a threaded handler for every instruction of a block.

cdef void specialise(Insn* first, u32 n, u32 mode) noexcept nogil:
    """Give each of the n instructions its handler, from the last to the first so that dead flags are known."""
    cdef u32 i
    for i in range(n):
        first[i].fn = generic_handler(&first[i])
