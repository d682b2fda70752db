# Writing host instructions: ModRM, SIB, REX (SDM Vol. 2, ch. 2), and the few instructions that glue the guest's together.
#
# Register plan.  Guest RAX RCX RDX RBX RBP RSI RDI R8 R9 R10 live in the host registers of the same name, guest RSP in R15,
# guest R12 in R14; R11 and R13 to R15 stay in Cpu.r.  RSP holds the Cpu (signal frames land in the headroom below it), R13
# the instruction budget; R11 and R12 are scratch.  Guest XMM0 to XMM15 are in the host's while Cpu.xmm_in says so.
# Arithmetic flags: jit_block.pxi.

cdef enum:
    H_T0 = 11
    H_T1 = 12
    H_BUDGET = 13
    H_ENV = 4
    H_NONE = 0xFF
    MAX_STUBS = 256
    # operand kinds of byte instructions, for the REX that makes SPL BPL SIL DIL of AH CH DH BH
    BYTE_REG = 1
    BYTE_RM = 2

cdef u8* HREG = [0, 1, 2, 3, 15, 5, 6, 7, 8, 9, 10, H_NONE, 14, H_NONE, H_NONE, H_NONE]

cdef struct Addr:        # a host memory operand
    u8 base
    u8 index             # H_NONE: none
    u8 scale
    i32 disp

cdef struct Stub:        # code out of line: what to do when an instruction cannot be done in line
    u32* from_           # the rel32 that leads there
    u32* from2           # a second one, or NULL
    u8* resume           # where to go on (NULL: nowhere)
    Insn* o
    u32 info
    i32 site             # the site that did not cover the access, or -1
    i32 reach            # of a group: so far below the address the site must begin
    u8* retry
    u8 kind              # STUB_*
    u8 restore           # put the flags back into the host's

cdef enum:
    STUB_EXEC = 0        # run the exec function, go on at resume
    STUB_LINK = 1        # a branch within the page that is not linked yet
    STUB_FAR = 2         # a branch to another page: look it up

cdef struct Group:       # jit_groups.pxi
    u8 on
    i32 lo               # the range checked, relative to the base register
    i32 hi
    i32 add              # offset in Cpu of Site.add

cdef struct Emit:
    u8* p
    u8* limit
    Cpu* c
    Jit* j
    Block* b
    u32 start            # offset of the block in its page
    u32 counted          # instructions taken off the budget so far
    bint host_valid      # the guest's arithmetic flags are in the host's
    bint mem_valid       # they are in Cpu.fl_nat
    bint failed
    u8* retry            # where the instruction's address is computed
    Insn* insns          # the block's instructions, how many, and which one is written
    int n
    int at
    bint grouping
    i32 rsp              # what has been added to rSP so far
    Group groups[16][2]
    int n_stubs
    Stub stubs[256]

cdef inline void b1(Emit* e, u32 v) noexcept nogil:
    e.p[0] = <u8>v
    e.p += 1

cdef inline void b4(Emit* e, u32 v) noexcept nogil:
    (<u32*>e.p)[0] = v
    e.p += 4

cdef inline void b8(Emit* e, u64 v) noexcept nogil:
    (<u64*>e.p)[0] = v
    e.p += 8

cdef inline Addr addr(u8 base, i32 disp) noexcept nogil:
    cdef Addr a
    a.base, a.index, a.scale, a.disp = base, H_NONE, 0, disp
    return a

cdef inline Addr env(Emit* e, const void* field) noexcept nogil:
    return addr(H_ENV, <i32>(<const u8*>field - <const u8*>e.c))

cdef inline Addr guest_reg(int n) noexcept nogil:
    return addr(H_ENV, 8 * n)

cdef inline void opcode(Emit* e, int size, int map_, u32 pfx, u8 opc, int reg, int index, int base, bint force) noexcept nogil:
    """Prefixes, REX and the opcode; size 8 sets REX.W, 2 the 66 prefix."""
    cdef u8 rex = 0
    if pfx:
        b1(e, pfx)
    if size == 2:
        b1(e, 0x66)
    if size == 8:
        rex = 0x48
    if reg & 8:
        rex |= 0x44
    if index & 8:
        rex |= 0x42
    if base & 8:
        rex |= 0x41
    if rex or force:
        b1(e, rex | 0x40)
    if map_ > 0:
        b1(e, 0x0F)
    if map_ == 2:
        b1(e, 0x38)
    elif map_ == 3:
        b1(e, 0x3A)
    b1(e, opc)

cdef inline void put_rr(Emit* e, int size, int map_, u32 pfx, u8 opc, int reg, int rm, int bytes_) noexcept nogil:
    opcode(e, size, map_, pfx, opc, reg, 0, rm,
           (bytes_ & BYTE_REG and reg >= 4 and reg < 8) or (bytes_ & BYTE_RM and rm >= 4 and rm < 8))
    b1(e, 0xC0 | (reg & 7) << 3 | (rm & 7))

cdef void put_rm(Emit* e, int size, int map_, u32 pfx, u8 opc, int reg, Addr a, int bytes_) noexcept nogil:
    opcode(e, size, map_, pfx, opc, reg, a.index if a.index != H_NONE else 0, a.base, bytes_ & BYTE_REG and reg >= 4 and reg < 8)
    put_address(e, reg, a)

cdef struct VexOp:       # the fields of a VEX prefix and the opcode (SDM Vol. 2, 2.3.5)
    u8 map_
    u8 pp
    u8 w
    u8 l
    u8 opc

cdef inline void put_vex(Emit* e, VexOp* v, int reg, int index, int base, int vvvv) noexcept nogil:
    b1(e, 0xC4)
    b1(e, (0 if reg & 8 else 0x80) | (0 if index & 8 else 0x40) | (0 if base & 8 else 0x20) | v.map_)
    b1(e, v.w << 7 | (~vvvv & 15) << 3 | v.l << 2 | v.pp)
    b1(e, v.opc)

cdef inline void put_vex_rr(Emit* e, VexOp* v, int reg, int vvvv, int rm) noexcept nogil:
    put_vex(e, v, reg, 0, rm, vvvv)
    b1(e, 0xC0 | (reg & 7) << 3 | (rm & 7))

cdef void put_vex_rm(Emit* e, VexOp* v, int reg, int vvvv, Addr a) noexcept nogil:
    put_vex(e, v, reg, a.index if a.index != H_NONE else 0, a.base, vvvv)
    put_address(e, reg, a)

cdef void put_address(Emit* e, int reg, Addr a) noexcept nogil:
    """ModRM, SIB and displacement of a memory operand."""
    cdef int mod
    if a.disp == 0 and a.base & 7 != 5:
        mod = 0
    elif a.disp >= -128 and a.disp < 128:
        mod = 0x40
    else:
        mod = 0x80
    if a.index != H_NONE or a.base & 7 == 4:
        b1(e, mod | (reg & 7) << 3 | 4)
        b1(e, a.scale << 6 | (4 if a.index == H_NONE else a.index & 7) << 3 | (a.base & 7))
    else:
        b1(e, mod | (reg & 7) << 3 | (a.base & 7))
    if mod == 0x40:
        b1(e, <u8>a.disp)
    elif mod == 0x80:
        b4(e, <u32>a.disp)

cdef inline void put_ri1(Emit* e, int size, u8 opc, int ext, int rm, u32 imm) noexcept nogil:
    put_rr(e, size, 0, 0, opc, ext, rm, 0)
    b1(e, imm)

cdef inline void put_ri4(Emit* e, int size, u8 opc, int ext, int rm, u32 imm) noexcept nogil:
    put_rr(e, size, 0, 0, opc, ext, rm, 0)
    b4(e, imm)

cdef inline void put_mi1(Emit* e, int size, u8 opc, int ext, Addr a, u32 imm) noexcept nogil:
    put_rm(e, size, 0, 0, opc, ext, a, 0)
    b1(e, imm)

cdef inline void put_mi4(Emit* e, int size, u8 opc, int ext, Addr a, u32 imm) noexcept nogil:
    put_rm(e, size, 0, 0, opc, ext, a, 0)
    b4(e, imm)

# ---- glue -----------------------------------------------------------------------------------------------------------
cdef inline void load(Emit* e, int reg, Addr a) noexcept nogil:
    put_rm(e, 8, 0, 0, 0x8B, reg, a, 0)

cdef inline void store(Emit* e, Addr a, int reg) noexcept nogil:
    put_rm(e, 8, 0, 0, 0x89, reg, a, 0)

cdef inline void move(Emit* e, int to, int from_) noexcept nogil:
    if to != from_:
        put_rr(e, 8, 0, 0, 0x89, from_, to, 0)

cdef inline void move_imm(Emit* e, int reg, u64 v) noexcept nogil:
    if v >> 32 == 0:
        opcode(e, 4, 0, 0, 0xB8 | (reg & 7), 0, 0, reg, False)
        b4(e, <u32>v)
    elif <i64>v == <i32>v:
        put_rr(e, 8, 0, 0, 0xC7, 0, reg, 0)
        b4(e, <u32>v)
    else:
        opcode(e, 8, 0, 0, 0xB8 | (reg & 7), 0, 0, reg, False)
        b8(e, v)

cdef inline void lea(Emit* e, int reg, Addr a) noexcept nogil:
    put_rm(e, 8, 0, 0, 0x8D, reg, a, 0)

cdef inline u32* jump(Emit* e) noexcept nogil:
    """jmp rel32, to be patched; returns where."""
    b1(e, 0xE9)
    b4(e, 0)
    return <u32*>(e.p - 4)

cdef inline u32* jump_if(Emit* e, int cc) noexcept nogil:
    b1(e, 0x0F)
    b1(e, 0x80 | cc)
    b4(e, 0)
    return <u32*>(e.p - 4)

cdef inline void patch(u32* at, u8* target) noexcept nogil:
    """Both in the writable mapping."""
    at[0] = <u32>(<u64>target - <u64>at - 4)

cdef inline void jump_to(Emit* e, u8* target) noexcept nogil:
    patch(jump(e), target)

cdef inline void call_to(Emit* e, u8* target) noexcept nogil:
    b1(e, 0xE8)
    b4(e, 0)
    patch(<u32*>(e.p - 4), target)

# ---- the arithmetic flags in memory: AH of LAHF and OF in AL --------------------------------------------------------
cdef inline u32 flags_to_native(u32 fl) noexcept nogil:
    return ((fl & 0xD5) | 2) << 8 | ((fl >> 11) & 1)

cdef inline u32 flags_from_native(u32 v) noexcept nogil:
    return ((v >> 8) & 0xD5) | (v & 1) << 11

cdef void save_flags(Emit* e) noexcept nogil:
    """Host flags -> Cpu.fl_nat; they stay as they are.  Uses T0."""
    move(e, H_T0, 0)
    b1(e, 0x9F)                                   # lahf
    put_rr(e, 4, 1, 0, 0x90, 0, 0, 0)              # seto al
    put_rm(e, 2, 0, 0, 0x89, 0, env(e, &e.c.fl_nat), 0)
    move(e, 0, H_T0)
    e.mem_valid = True

cdef void restore_flags(Emit* e, int temp) noexcept nogil:
    """Cpu.fl_nat -> host flags."""
    move(e, temp, 0)
    put_rm(e, 4, 1, 0, 0xB7, 0, env(e, &e.c.fl_nat), 0)      # movzx eax, word
    b1(e, 0x04)                                             # add al, 7Fh: OF from bit 0
    b1(e, 0x7F)
    b1(e, 0x9E)                                             # sahf
    move(e, 0, temp)
    e.host_valid = True
