# The decoder by itself, over many instructions at once: what its proof against a reference decoder needs.

cdef u32 decode_mode(int bits, bint real) except? 0:
    """MODE_* of a code segment of so many bits, in protected or long mode unless real."""
    if bits == 64:
        return MODE_64 | MODE_PE | MODE_FLAT
    if bits == 32:
        return MODE_CS32 | MODE_SS32 | MODE_PE | MODE_FLAT
    if bits == 16:
        return 0 if real else MODE_PE | MODE_FLAT
    raise ValueError("bits must be 16, 32 or 64")

def decode_many(const u8[::1] code, int bits=64, int stride=16, bint real=False):
    """Decode the instruction at every multiple of stride; returns its length and its row of the opcode table, as numpy arrays.

    A length of 0 stands for #UD, one of -1 for more than 15 bytes (#GP), one of -2 for bytes that end inside the instruction.
    """
    cdef u32 mode = decode_mode(bits, real)
    cdef Py_ssize_t n = code.shape[0] // stride if stride > 0 else 0, i
    cdef i64 length
    cdef Insn o
    if stride < 1:
        raise ValueError("stride must be positive")
    lengths = numpy.zeros(n, "i1")
    ops = numpy.zeros(n, "u2")
    cdef signed char[::1] length_view = lengths
    cdef unsigned short[::1] op_view = ops
    with nogil:
        for i in range(n):
            o.off = 0
            length = decode(mode, &code[i * stride], stride if stride < 15 else 15, &o)
            op_view[i] = o.op if length > 0 else ROW_UD
            length_view[i] = -1 if length == DECODE_LONG else -2 if length == DECODE_MORE else 0 if o.op == ROW_UD else <signed char>length
    return lengths, ops

def opcode_rows():
    """(mnemonic, operands) of every row of the opcode table, by the numbers decode_many() gives."""
    return [(rows[i].name.decode(), rows[i].operands.decode()) for i in range(n_rows)]
