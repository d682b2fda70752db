# SharedWords: atomic access, from Python, to words of memory that a guest changes at the same time.
#
# Event channel bits, FIFO event words and grant entries are shared with the guest without a lock: it uses LOCKed
# instructions on them, and so must we (xen/include/public/event_channel.h, grant_table.h).  Every access is one
# instruction of the host.

cdef extern from *:
    """
    #define xf_or8(p, v) __atomic_fetch_or((unsigned char *)(p), (v), __ATOMIC_SEQ_CST)
    #define xf_and8(p, v) __atomic_fetch_and((unsigned char *)(p), (v), __ATOMIC_SEQ_CST)
    #define xf_or16(p, v) __atomic_fetch_or((unsigned short *)(p), (v), __ATOMIC_SEQ_CST)
    #define xf_and16(p, v) __atomic_fetch_and((unsigned short *)(p), (v), __ATOMIC_SEQ_CST)
    #define xf_load8(p) __atomic_load_n((unsigned char *)(p), __ATOMIC_SEQ_CST)
    #define xf_load16(p) __atomic_load_n((unsigned short *)(p), __ATOMIC_SEQ_CST)
    #define xf_load32(p) __atomic_load_n((unsigned int *)(p), __ATOMIC_SEQ_CST)
    #define xf_store32(p, v) __atomic_store_n((unsigned int *)(p), (v), __ATOMIC_SEQ_CST)
    """
    u8 atomic_or8 "xf_or8"(u8*, u8) noexcept nogil
    u8 atomic_and8 "xf_and8"(u8*, u8) noexcept nogil
    u16 atomic_or16 "xf_or16"(u8*, u16) noexcept nogil
    u16 atomic_and16 "xf_and16"(u8*, u16) noexcept nogil
    u8 atomic_load8 "xf_load8"(u8*) noexcept nogil
    u16 atomic_load16 "xf_load16"(u8*) noexcept nogil
    u32 atomic_load32 "xf_load32"(u8*) noexcept nogil
    void atomic_store32 "xf_store32"(u8*, u32) noexcept nogil


cdef class SharedWords:
    """Words in a writable buffer, which stays alive.

    An index counts words of the width in the method's name; bits count from 0.  IndexError beyond the end.
    """

    cdef u8[::1] view
    cdef u8* base
    cdef u64 nbytes

    def __init__(self, view):
        self.view = view
        self.nbytes = self.view.shape[0]
        self.base = &self.view[0]

    cdef u8* at(self, u64 index, u64 size) except NULL:
        # SAFETY: index * size + size <= nbytes, computed without overflow.
        if index >= self.nbytes // size:
            raise IndexError(f"word {index} of {self.nbytes // size}")
        return self.base + index * size

    def test_bit(self, u64 bit):
        return atomic_load8(self.at(bit >> 3, 1)) >> (bit & 7) & 1 != 0

    def test_and_set_bit(self, u64 bit):
        """Was it set?"""
        return atomic_or8(self.at(bit >> 3, 1), <u8>(1 << (bit & 7))) >> (bit & 7) & 1 != 0

    def test_and_clear_bit(self, u64 bit):
        """Was it set?"""
        return atomic_and8(self.at(bit >> 3, 1), <u8>~(1 << (bit & 7))) >> (bit & 7) & 1 != 0

    def load16(self, u64 index):
        return atomic_load16(self.at(index, 2))

    def load32(self, u64 index):
        return atomic_load32(self.at(index, 4))

    def store32(self, u64 index, u32 value):
        atomic_store32(self.at(index, 4), value)

    def or16(self, u64 index, u16 bits):
        atomic_or16(self.at(index, 2), bits)

    def and16(self, u64 index, u16 bits):
        atomic_and16(self.at(index, 2), bits)

    def cas32(self, u64 index, u32 old, u32 new):
        """Store new if the word is old; was it?"""
        return cas32(self.at(index, 4), old, new) != 0
