"""xen/include/public/io/console.h: struct xencons_interface, the page a PV console shares.

The guest produces into ``out`` and consumes ``in``; the four indices run freely through 32 bits.
"""

IN_SIZE = 1024  # to the guest
OUT_SIZE = 2048  # from the guest
IN_OFFSET = 0
OUT_OFFSET = IN_SIZE

# the indices, as an array of uint32_t at INDEX_OFFSET
INDEX_OFFSET = IN_SIZE + OUT_SIZE
IN_CONS, IN_PROD, OUT_CONS, OUT_PROD = range(4)
INDEX_COUNT = 4
