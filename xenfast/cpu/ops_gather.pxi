# VGATHER and VPGATHER: elements of memory at a vector of indices.
#
# SDM Vol. 2, VGATHERDPS.  An element whose mask has its top bit clear is not accessed.  Elements are done from the lowest
# on; each one that is done has its mask cleared, so that a fault leaves the instruction to be restarted with the rest:
# the one instruction here that has changed registers when it faults.  That the three registers differ the decoder has seen to.

cdef int gather(Cpu* c, Insn* o, int index_size) noexcept nogil:
    """Vx,Mvm,Hx: destination, memory, mask.  VEX.W: quadwords, else doublewords; the index register is in o.imm."""
    cdef int n = 8 if o.vex & VEX_W else 4
    cdef int count = (32 if o.vex & VEX_L else 16) // (n if n > index_size else index_size)
    cdef Vec* d = &c.v[o.reg & 15]
    cdef Vec* mask = &c.v[o.vvvv & 15]
    cdef Vec* at = &c.v[o.imm & 15]
    cdef Insn x = o[0]
    cdef u64 lin, v
    cdef int i, st
    for i in range(count):
        if mask_bit(mask, i, n):
            x.disp = o.disp + ((at.q[i] if index_size == 8 else <i64><i32>at.d[i]) << o.scale)
            st = operand_lin(c, &x, n, &lin)
            if st == ST_OK:
                st = unaligned_read(c, lin, n, &v)
            if st != ST_OK:
                return st
            # SAFETY: i < count, and count * n <= 32.
            memcpy(d.b + n * i, &v, n)
        memset(mask.b + n * i, 0, n)
    memset(d.b + n * count, 0, 32 - n * count)
    memset(mask, 0, sizeof(Vec))
    return ST_OK

cdef int VGATHERD_Vx_Mvm_Hx(Cpu* c, Insn* o) noexcept nogil: return gather(c, o, 4)
cdef int VGATHERQ_Vx_Mvm_Hx(Cpu* c, Insn* o) noexcept nogil: return gather(c, o, 8)
