# The state of a virtual CPU, a decoded instruction and machine memory: the structs every part of the hot core shares.
#
# Included by _core.pxd.  Specified in SDM Vol. 1 ch. 3 (registers), Vol. 3 ch. 2 (system registers) and, for PV, in
# xen/include/public/arch-x86/xen.h.  Nothing here holds a PyObject: all of it is used without the GIL.

from libc.stdint cimport int8_t as i8, int16_t as i16, int32_t as i32, int64_t as i64
from libc.stdint cimport uint8_t as u8, uint16_t as u16, uint32_t as u32, uint64_t as u64

# ---------------------------------------------------------------------------------------------------------------------
# Register numbers in Cpu.r.  0..15 are the GPRs in encoding order; the rest let one formula compute every address:
#   lin = r[base] + (r[index] << scale) + disp
cdef enum:
    RAX = 0
    RCX = 1
    RDX = 2
    RBX = 3
    RSP = 4
    RBP = 5
    RSI = 6
    RDI = 7
    R_ZERO = 16         # always 0: "no base", "no index"
    R_RIPBASE = 17      # RIP of the first byte of the running block; RIP of an instruction is r[17] + Insn.off
    R_SEG = 18          # r[18 + segment]: base as address formation uses it (0 for ES CS SS DS in 64-bit mode)
    R_COUNT = 24

# Segment registers, in the order of the ModRM reg field (SDM Vol. 2, table 2-2 and B.1.4.1).
cdef enum:
    ES = 0
    CS = 1
    SS = 2
    DS = 3
    FS = 4
    GS = 5
    SEG_NONE = 7        # Insn.seg when the operand has no memory segment

# RFLAGS bits (SDM Vol. 1, 3.4.3).
cdef enum:
    FL_CF = 1 << 0
    FL_PF = 1 << 2
    FL_AF = 1 << 4
    FL_ZF = 1 << 6
    FL_SF = 1 << 7
    FL_TF = 1 << 8
    FL_IF = 1 << 9
    FL_DF = 1 << 10
    FL_OF = 1 << 11
    FL_IOPL = 3 << 12
    FL_NT = 1 << 14
    FL_RF = 1 << 16
    FL_VM = 1 << 17
    FL_AC = 1 << 18
    FL_VIF = 1 << 19
    FL_VIP = 1 << 20
    FL_ID = 1 << 21
    FL_ARITH = FL_CF | FL_PF | FL_AF | FL_ZF | FL_SF | FL_OF

# What an exec function returns.
cdef enum:
    ST_OK = 0           # done; the engine goes on with the next instruction
    ST_BRANCH = 1       # done; Cpu.rip has been set (branches, mode switches, TLB flushes: look the block up again)
    ST_FAULT = 2        # nothing committed; exception in Cpu.exc_*; the engine sets rip to this instruction
    ST_TRAP = 3         # exception in Cpu.exc_* to be delivered with Cpu.rip as it has been set (INT n, INT3, #DB traps)
    ST_EXIT = 4         # leave run(); Cpu.exit is filled and Cpu.rip has been set

# Exceptions (SDM Vol. 3, table 6-1).
cdef enum:
    X_DE = 0
    X_DB = 1
    X_NMI = 2
    X_BP = 3
    X_OF = 4
    X_BR = 5
    X_UD = 6
    X_NM = 7
    X_DF = 8
    X_TS = 10
    X_NP = 11
    X_SS = 12
    X_GP = 13
    X_PF = 14
    X_MF = 16
    X_AC = 17
    X_MC = 18
    X_XM = 19

# Page-fault error code (SDM Vol. 3, 4.7).
cdef enum:
    PF_P = 1
    PF_W = 2
    PF_U = 4
    PF_RSVD = 8
    PF_I = 16
    PF_PK = 32

# Cpu.mode: what decoding depends on besides the bytes.
cdef enum:
    MODE_64 = 1         # CS.L in IA-32e mode
    MODE_CS32 = 2       # CS.D: default operand and address size 32
    MODE_SS32 = 4       # SS.B: stack pointer is ESP (else SP); unused in 64-bit mode
    MODE_FLAT = 8       # ES CS SS DS have base 0 and limit 4 GiB (always so in 64-bit mode)
    MODE_PE = 16        # protected mode (clear: real mode)
    MODE_VM = 32        # virtual-8086 mode
    MODE_USER = 64      # the user TLB: code of the two privileges is never shared

# Cpu.req: requests to a vcpu, set atomically by anyone, served by the vcpu between blocks.
cdef enum:
    REQ_STOP = 1        # leave run() with EXIT_STOP
    REQ_EVENT = 2       # look for a pending upcall or interrupt
    REQ_FLUSH = 4       # flush the TLB, then clear the bit (the asker may be waiting)
    REQ_CODE = 8        # drop the decoded blocks named in the code queue, then clear the bit
    REQ_SLICE = 16      # a timer has been set: work out anew how long to run
    REQ_FLUSH_PV = 32   # as REQ_FLUSH, but kernel mappings of a PV guest that have not changed may stay (pv_flush.pxi)

cdef enum:               # Cpu.inhibit
    INHIBIT_STI = 1      # external interrupts
    INHIBIT_SS = 2       # those, NMI and debug exceptions (MOV SS, POP SS)

cdef enum:               # Cpu.events
    EVENT_NMI = 1
    EVENT_INTR = 2       # an external interrupt, Cpu.intr_vector
    EVENT_EXTINT = 4     # a PIC asserts INTR: its vector is asked for when it is taken
    EVENT_LAPIC = 8      # there may be something in IRR
    EVENT_UPCALL = 16    # HVM: there may be an event channel upcall

# Why run() returned (Cpu.exit.reason).  Python sees these as _core.ExitReason.
cpdef enum ExitReason:
    EXIT_NONE = 0
    EXIT_BUDGET = 1      # the instruction budget is used up
    EXIT_STOP = 2        # REQ_STOP, from another thread
    EXIT_HLT = 3         # HLT with nothing pending (bare), or sched_op block (PV)
    EXIT_PIO = 4         # port I/O: port, size, is_write, value; HVM: count elements at a time, of INS and OUTS
    EXIT_MMIO = 5        # access to something that is not RAM: address, size, is_write, value
    EXIT_HYPERCALL = 6   # nr, args: a hypercall the core does not answer itself; finish with hypercall_return()
    EXIT_UNTIL = 7       # reached the address asked for
    EXIT_SHUTDOWN = 8    # triple fault (bare machine)
    EXIT_CRASH = 9       # PV: the guest left Xen no way to go on (no handler, bad stack); code says which
    EXIT_MSR = 10        # HVM: wrmsr of a register of the hypervisor's: nr, value; rip is behind it, address is where it was
    EXIT_EXCEPTION = 11  # bare machine without IDT: vector, error code (the tools API)
    EXIT_TIMER = 12      # Cpu.timer_deadline has passed
    EXIT_INTACK = 14     # INTR is asserted and taken: ask the PIC for the vector, then Vcpu.interrupt(vector)
    EXIT_EOI = 15        # a level-triggered interrupt has ended at the local APIC: nr is its vector
    EXIT_WAKE = 16       # a vcpu that sleeps in HLT or waits for SIPI has got an interrupt: run it again
    EXIT_HOOK = 13       # a hook wants Python: Cpu.hook_hit (Vcpu.run() answers it and goes on; nobody else sees it)

# ---------------------------------------------------------------------------------------------------------------------
cdef struct Seg:
    u64 base
    u32 limit
    u16 sel
    u16 attr             # type 0-3, S 4, DPL 5-6, P 7, AVL 12, L 13, D/B 14, G 15 (as VMX access rights)

cdef struct DescTable:
    u64 base
    u32 limit

cdef union Vec:          # one vector register; room for YMM
    u8 b[32]
    u16 w[16]
    u32 d[8]
    u64 q[4]
    float f[8]
    double lf[4]

cdef struct F80:         # x87 register: sign and exponent, explicit-integer mantissa (SDM Vol. 1, 4.2.2)
    u64 man
    u16 se

cdef struct TlbEntry:    # 32 bytes.  Tags are linear page addresses; an invalid tag names a page of another slot
    u64 rtag             # a read hits when (lin ^ rtag) <= 4096 - size: tag and page crossing in one compare
    u64 wtag             # as rtag, for writes; invalid too while the frame holds decoded code or is being logged
    u64 xtag             # as rtag, for fetches
    i64 add              # host address = lin + add

cdef enum:
    TLB_BITS = 10
    TLB_SIZE = 1 << TLB_BITS
    TLB_FEW = 96
    PARKED = 4           # user TLBs kept for other PCIDs
    JC_BITS = 14
    JC_SIZE = 1 << JC_BITS

cdef struct TlbNotes:    # what is known of a TLB beside its entries (tlb.pxi)
    u32 filled           # slots filled since the last flush with what is not global; TLB_FEW + 1: many
    u32 jc_gen           # generation of this address space's entries in the jump cache, part of their tags
    u16 slots[96]        # which, the first TLB_FEW of them
    u64 fixed[16]        # bit per slot: a global translation
    u64 large[16]        # bit per slot: a piece of a page larger than 4 KiB
    u64 jc_low           # GiB of linear addresses the jump cache has entries for
    u64 jc_high
    u8 jc_local          # some of them on pages that are not global

cdef struct Parked:      # the user TLB of a PCID that is not the current one
    TlbEntry* tlb
    TlbNotes notes
    u32 pcid             # PCID_NONE: nothing
    u64 since

cdef struct Exit:
    u32 reason
    u32 size
    u32 is_write
    u32 port
    u64 address
    u64 value
    u64 count
    u64 nr
    u64 args[6]
    u64 code

cdef enum:
    MMIO_DONE = 24

cdef struct MmioDone:    # an access to device memory that has been answered
    u64 address
    u64 value

cdef struct JumpEntry:   # indirect targets and page-crossing jumps: RIP (salted with the mode) -> first instruction
    u64 tag
    Insn* first
    void* code           # translated code, or the thunk that goes to the dispatcher
    u64 page             # linear address of the page

cdef struct Insn:        # a decoded instruction: 64 bytes, laid out in a row; fn of the next one is the continuation
    void (*fn)(Cpu*, Insn*) noexcept nogil       # threaded handler: does the work and tail-calls the next
    int (*ex)(Cpu*, Insn*) noexcept nogil        # the instruction's meaning (tier 0), returns ST_*
    i64 imm              # immediate (sign-extended) or branch target relative to the block's first byte
    i64 disp             # displacement, or the 64-bit moffs
    Insn* link           # direct branches: first instruction of the target block once known
    i16 off              # offset of this instruction from the block's first byte (a block may run on through a jump)
    u16 op               # row in the opcode table
    u16 pos              # number of instructions of the block up to and including this one, jumps left out included
    u8 len
    u8 size              # operand size in bytes: 1, 2, 4, 8 (16, 32 for vectors)
    u8 asize             # address size in bytes: 2, 4, 8
    u8 base              # Cpu.r index (R_ZERO for none, R_RIPBASE for RIP-relative: disp then includes off + len)
    u8 index             # Cpu.r index (R_ZERO for none)
    u8 scale             # 0..3
    u8 seg               # segment of the memory operand (ES..GS), override applied
    u8 reg               # ModRM.reg with REX.R (opcode register for +r forms goes to rm)
    u8 rm                # ModRM.rm with REX.B when is_mem is 0
    u8 is_mem            # the E (W, M) operand is memory
    u8 cc                # condition code of Jcc, SETcc, CMOVcc
    u8 prefix            # INSN_* bits
    u8 vvvv              # VEX.vvvv; without VEX a copy of reg
    u8 vex               # VEX_* bits; 0: not VEX encoded
    u32 next_in          # next instruction (arena index) that links to the same block

cdef enum:               # Insn.prefix
    PFX_LOCK = 1
    PFX_REP = 2          # F3
    PFX_REPNE = 4        # F2
    PFX_OPSIZE = 8       # 66
    PFX_REX = 16         # any REX: byte registers 4..7 are SPL BPL SIL DIL, not AH CH DH BH
    PFX_FLAGS_LIVE = 32  # somebody may read the arithmetic flags this instruction sets
    PFX_PROBE = 64       # translated: its accesses go here and there, so ask the TLB, not a site
    PFX_POLL = 128       # translated: behind a jump backward that was followed, so its branch looks for requests wherever it goes

cdef enum:               # Insn.vex
    VEX_ENCODED = 1
    VEX_L = 2            # 256 bits
    VEX_W = 4

cdef enum:
    NO_INSN = 0xFFFFFFFF
    NO_FRAME = 0xFFFFFFFFFFFFFFFF
    CODE_QUEUE = 64
    MAX_BLOCK = 64       # instructions in a block, at most

cdef struct Block:       # straight-line code, position independent, found by the machine address of its first byte
    u64 maddr            # machine address of the first byte
    u64 rip              # linear address it was decoded at: part of its identity while code hooks are on
    u64 mfn2             # frame of the second page when the (only) instruction crosses one, else NO_FRAME
    u32 mode
    u32 first            # arena index of the first instruction
    u32 incoming         # arena index of the first instruction that links here, or NO_INSN
    u32 extent           # bytes from the first one to the end of the last one (of the furthest, with jumps)
    u8 dead
    Block* hash_next
    Block* page_next     # next block that starts in the same frame
    Block* page2_next    # next block that ends in the same frame, for those with mfn2

cdef struct CodePage:    # the decoded blocks of a machine frame; indexed by mfn
    Block* head
    Block* head2
    u64 bitmap           # 64-byte granules that blocks were decoded from

cdef enum:
    BLOCK_HASH_BITS = 15
    BLOCK_HASH = 1 << BLOCK_HASH_BITS

cdef struct Site:        # where one access in translated code went last: 32 bytes
    u64 lo               # first linear address
    u64 len              # an access at lo + x is fine when x < len; 0: none
    i64 add              # host address = linear + add
    u64 host             # lo + add

cdef enum:
    SITES = 1 << 16      # of a vcpu
    SITE_LOG = 2048
    SITE_STACK = 0       # the first ones: stack reads and writes of supervisor blocks, then of user blocks
    SITE_FIRST = 4
    SITE_WRITE = 1 << 8  # Jit.site_use
    SITE_GLOBAL = 1 << 9 # it covers global translations only
    SITE_MISS = 1 << 10

cdef struct Jit:         # the translator of a vcpu (jit_*.pxi)
    u8* rw               # its code memory, writable
    u8* rx               # the same memory, executable
    u32 size
    u32 used
    u32 first            # where blocks begin, behind the thunks
    u32 full             # drop everything when next in the dispatcher
    u32 host             # HOST_* features of the host
    u32 hot              # times a block runs in the interpreter before it is translated
    u32* site            # by arena index: offset of the rel32 of a translated branch within its page, 0 for none
    u8* enter            # thunks: the first in the executable mapping, the others in the writable one
    u8* exit_rip
    u8* exit_look        # T1 = jump-cache entry of a block that is not translated
    u8* exit_link
    u8* exit_miss
    u8* exec_
    u8* load_xmm
    u8* load_ymm
    u8* load_x87
    u8* refill
    u32 n_sites
    u32 site_use[1 << 16]    # size of the access in bits 0-7, SITE_WRITE, SITE_GLOBAL, misses above

cdef struct BlockCache:  # one per vcpu
    Insn* arena
    u32 n_insn
    u32 max_insn
    Block* blocks
    u32 n_block
    u32 max_block
    CodePage* pages
    u64 max_page
    Block* hash[1 << 15]
    Insn scratch[4]      # where single instructions are decoded

cdef enum:               # Cpu.unknown_kind
    UNKNOWN_OPCODE = 1
    UNKNOWN_MSR_READ = 2
    UNKNOWN_MSR_WRITE = 3
    UNKNOWN_PORT = 4
    UNKNOWN_HYPERCALL = 5

cdef enum:               # Cpu.stat
    STAT_BLOCKS = 0      # blocks decoded
    STAT_INSNS = 1       # instructions decoded
    STAT_LOOKUPS = 2     # dispatcher look-ups
    STAT_TLB_FILLS = 3
    STAT_TLB_FLUSHES = 4
    STAT_FAULTS = 5
    STAT_SMC = 6         # blocks dropped because their bytes were written
    STAT_EVENTS = 7      # upcalls and interrupts delivered
    STAT_CACHE_FLUSHES = 8
    STAT_HYPERCALLS = 9
    STAT_TRANSLATED = 10 # blocks translated

# ---------------------------------------------------------------------------------------------------------------------
# Where the time goes (profile.pxi).
cdef enum:
    PROFILE_SLOTS = 1 << 15

cdef struct ProfileSlot:
    u64 rip              # where slices ended
    u64 ns               # time they took
    u32 count            # 0: free
    u8 user
    u8 translated

cdef struct Profile:
    u64 began            # the running slice
    u64 lost_ns          # of places there was no slot for
    u64 call_ns[64]      # hypercalls in the core, by number
    u64 call_n[64]
    ProfileSlot slot[1 << 15]

# What the MMU does (mmu_trace.pxi).
cdef enum:
    MMU_EVENTS = 4096

cdef enum:               # MmuEvent.kind
    MMU_FILL = 0         # ACC_READ, ACC_WRITE, ACC_EXEC: a walk for such an access has succeeded
    MMU_FLUSH_ALL = 3
    MMU_FLUSH_LOCAL = 4  # what is not global
    MMU_FLUSH_PAGE = 5
    MMU_FLUSH_KERNEL = 6  # one of the two TLBs of a PV guest
    MMU_FLUSH_USER = 7
    MMU_FLUSH_PCID = 8
    MMU_SWITCH_PCID = 9

cdef enum:               # MmuEvent.rights
    MMU_USER = 1
    MMU_WRITABLE = 2
    MMU_EXECUTABLE = 4
    MMU_GLOBAL = 8

cdef struct MmuEvent:
    u64 lin              # the page; of MMU_*_PCID: the PCID
    u64 pa
    u64 mfn
    u32 kind
    u16 rights
    u16 shift            # log2 of the page's size

cdef struct MmuTrace:
    u64 n                # events since they were read
    MmuEvent event[4096]

# ---------------------------------------------------------------------------------------------------------------------
# Hooks of tools (hooks.pxi).
cpdef enum HookKind:     # HookRule.kind; Cpu.hook_on has the kinds there are
    HOOK_BLOCK = 1       # a basic block begins
    HOOK_CODE = 2        # an instruction is about to run
    HOOK_STOP = 4        # an address that run() has been asked to stop at
    HOOK_READ = 8        # the program is about to read memory
    HOOK_WRITE = 16      # or to write it
    HOOK_INTERRUPT = 32  # an exception or software interrupt is about to be delivered
    HOOK_PORT = 64       # port I/O
    HOOK_HYPERCALL = 128  # VMCALL, VMMCALL (bare machines)

cpdef enum HookCover:    # HookRule.cover: which byte of the map a hit increments (skipping 0 when it wraps)
    COVER_NONE = 0
    COVER_EDGE = 1        # of the pair (block before, this block), as AFL does
    COVER_HASH = 2        # of the address
    COVER_OFFSET = 3      # map[address - first]

cdef enum:
    HOOK_ALL_CODE = 7    # kinds that are planted in blocks
    HOOK_MEMORY = 24
    SKIP_BLOCK = 1       # Cpu.hook_skip: no new block begins at hook_at (the code before it just goes on there)
    SKIP_ALL = 2         # the hooks of the instruction at hook_at have been called
    HOOK_HITS = 64       # hooks that can be called for one event
    SEEN_MAX = 8

cdef struct HookCondition:
    u8 what              # 0..15: that register; COND_*
    u8 test              # TEST_*
    u64 mask             # of what is compared
    u64 value

cdef struct HookRule:
    HookRule* next
    u64 first            # addresses, ports, vectors or numbers, both included
    u64 last
    u64 hits
    u64 after            # call only from this hit on (1: from the first)
    u64 every            # and then at every so many
    u32 id
    u32 kind             # HOOK_* bits
    u8 call              # Python is to be called
    u8 cover             # COVER_*
    u8 n_cond
    u64 answer           # what a port without a callback reads as
    u8* map
    u64 map_mask         # COVER_EDGE, COVER_HASH: size of the map (a power of two) - 1; COVER_OFFSET: size
    u64 prev             # COVER_EDGE: half the number of the block before
    u64* rows            # opcode rows it is for, a bit each; NULL for all
    HookCondition cond[4]

cdef struct Seen:        # an access of the instruction being restarted that hooks have been called for
    u64 lin
    u32 size
    u8 write
    u8 armed

# ---------------------------------------------------------------------------------------------------------------------
# Machine memory.  One sparse host mapping holds every machine frame; frame mfn is at host + (mfn << 12).
cdef struct Frame:       # struct page_info of Xen, in 32 bytes
    u64 stamp            # Mem.flush_clock when the last use as its type ended: a TLB flushed later holds nothing of that use
    u32 count            # references to the frame, PGC_count_mask
    u32 type_count       # uses of the frame as its type, PGT_count_mask
    u8 type              # PGT_*
    u8 flags             # FRAME_*
    u16 owner            # domid; DOMID_INVALID for a free frame, DOMID_XEN for Xen's own
    u32 code             # bit (slot in Mem.vcpus & 31): that vcpu holds blocks decoded from this frame
    u64 linear           # L1 tables: where the kernel mappings in it were met by a TLB (pv_flush.pxi)

cdef enum:               # Frame.type (xen/arch/x86/include/asm/mm.h)
    PGT_none = 0
    PGT_l1_page_table = 1
    PGT_l2_page_table = 2
    PGT_l3_page_table = 3
    PGT_l4_page_table = 4
    PGT_seg_desc_page = 5
    PGT_writable_page = 7

cdef enum:               # Frame.flags
    FRAME_VALIDATED = 1
    FRAME_PINNED = 2
    FRAME_ALLOCATED = 4
    FRAME_PARTIAL = 8
    FRAME_SHARED = 16    # Xen's own page shared with the owner (shared info, grant table): writable for ever, not guest memory

cdef struct SnapLevel:   # a snapshot of memory (snapshot.pxi)
    SnapLevel* below     # the snapshot taken before it, still in use
    u8* copy             # frame mfn as it was is at copy + (mfn << 12), once it has been written
    u32* mark            # by frame: epoch it was first written in, 0 for never
    u32 epoch            # counts restores; a frame with this mark is dirty
    u64* dirty           # the dirty frames
    u64 n_dirty
    u64 serial           # no two are alike

cdef enum:
    CHANGES = 64             # KernelChanges.lin
    CHANGE_LISTS = 16        # domains share one when there are more

cdef struct KernelChanges:   # what was withdrawn from the kernel mappings of PV guests (pv_flush.pxi)
    u64 clock
    u64 lin[64]              # change n is at (n - 1) % CHANGES; CHANGE_ALL: it could be anywhere

cdef struct Mem:
    u8* host             # base of the mapping
    SnapLevel* snap      # the latest snapshot: frames not in it yet are saved before their first write; NULL: none
    u64 snap_serial
    u32 snap_lock
    u64 max_page         # frames 0 .. max_page - 1 exist
    Frame* frames
    u64* m2p             # machine frame -> pseudo-physical frame; pages of it are mapped read-only into PV guests
    u64 m2p_bytes
    u64 free_pages       # frames without an owner
    u64 cursor           # where the next allocation starts to look
    u64 flush_clock      # counts TLB flushes; a vcpu notes it in Cpu.flush_time when it flushes
    u32 vcpu_top         # slots in use are below this
    Cpu** vcpus          # every vcpu on this memory, of any domain; NULL for a free slot
    u32 vcpu_slots
    void* spare_rooms    # rooms of vcpus that are gone, each with the address of the next at its start
    u32 lock             # spin lock for frame types and counts (pv_mmu)
    u32 split_lock       # spin lock of LOCKed operands that cross into a page elsewhere
    KernelChanges kernel[16]

cdef struct PhysMap:     # guest frame -> machine frame, for bare machines, PVH and HVM; PV guests have none
    u64* mfn             # PHYSMAP_*: flags and machine frame; 0: not RAM
    u64 max_gfn

# ---------------------------------------------------------------------------------------------------------------------
cdef struct TrapInfo:    # struct trap_info
    u8 vector
    u8 flags             # bits 0-1 DPL, bit 2 clear upcall mask
    u16 cs
    u64 address

cdef struct PvState:     # what Xen keeps for a PV vcpu (struct pv_vcpu)
    TrapInfo traps[256]
    u64 event_callback
    u64 failsafe_callback
    u64 syscall_callback
    u64 syscall32_callback
    u64 sysenter_callback
    u32 callback_masks   # bit per CALLBACKTYPE: the callback starts with upcalls masked
    u64 kernel_ss
    u64 kernel_sp
    u64 cr3_kernel       # machine address of the L4 in kernel mode
    u64 cr3_user         # machine address of the L4 in user mode (0: none)
    u64 gdt_frames[14]   # NO_FRAME: none
    u32 gdt_ents
    u32 ldt_ents
    u64 ldt_base
    u8 nmi_pending
    u8 nmi_masked        # an NMI handler runs: until the next iret
    u8 kernel_mode       # TF_kernel_mode; the GS base of the other mode is in Cpu.kernel_gs_base
    u32 iopl             # virtual IOPL, as in EFLAGS bits 12-13
    u8* vcpu_info        # host address of struct vcpu_info (in shared info or registered): upcall pending 0, mask 1
    u64 ctrlreg4         # CR4 as the guest sees it
    u32 domid
    u32 vcpu_id
    PvDom* domain
    u64 again[6]         # arguments a preempted hypercall continues with
    u64 again_rip        # where it does so
    u64 multicall_entry  # multicall in progress: guest address of the entry being done, entries left with it (0: none)
    u64 multicall_left
    u64 counts[64]       # hypercalls made, by number

cdef enum:
    PV_MAX_VCPUS = 128

cdef struct PvDom:       # what Xen keeps for a PV domain
    Mem* mem
    u32 domid
    u32 version          # answer of xen_version(XENVER_version)
    u64 vm_assist        # bit per VMASST_TYPE
    Cpu* vcpus[128]      # by vcpu_id; NULL for none

cdef struct CpuidForced: # bits of a CPUID leaf that the configuration gives a value
    u32 leaf
    u32 sub              # ~0: any
    u32 reg              # 0 EAX, 1 EBX, 2 ECX, 3 EDX
    u32 mask
    u32 value

cdef struct CpuidPolicy: # what CPUID says beside the features (cpu/cpuid.pxi)
    u8 vendor[12]
    u8 brand[48]
    u32 signature        # leaf 1 EAX: family, model, stepping
    u32 max_basic
    u32 max_extended
    u32 threads          # logical processors of the machine
    u32 n_forced
    CpuidForced forced[32]

cdef struct ApicBusState:     # the local APICs of one machine: what an interrupt message can reach
    Cpu* cpus[128]       # NULL for none
    u32 turn             # lowest-priority delivery goes round

cdef struct Lapic:       # the local APIC of a vcpu (cpu/lapic.pxi)
    u32 irr[8]           # interrupts to be taken: set by anyone, atomically
    u32 tmr[8]           # of those, level-triggered ones
    u32 pending          # LAPIC_INIT, LAPIC_SIPI: set by anyone, atomically
    u32 sipi_vector
    u32 isr[8]           # interrupts in service
    u32 tpr
    u32 ldr
    u32 dfr
    u32 svr
    u32 esr
    u32 esr_next         # errors since the last write to ESR
    u32 icr_low
    u32 icr_high
    u32 lvt[6]           # timer, thermal, performance, LINT0, LINT1, error
    u32 initial          # the timer's initial count and divide configuration
    u32 divide
    u64 start            # ns of the clock when the count was at its initial value
    u64 deadline         # ns when it gets to 0; ~0: it does not run
    u64 tsc_deadline
    u32 eoi              # 1 + vector of a level-triggered interrupt whose EOI the machine has not seen
    u32 extint           # input 0 of the I/O APIC sends the PICs' interrupts here as ExtINT (virtual wire mode)

cdef struct HvmState:    # what Xen keeps for a vcpu with a p2m (hvm.pxi)
    u8* vcpu_info        # host address of struct vcpu_info: upcall pending 0
    u32 callback_vector  # of upcalls, for all vcpus alike (HVM_PARAM_CALLBACK_IRQ); 0: none
    u32 upcall_vector    # of this vcpu's, by its local APIC (HVMOP_set_evtchn_upcall_vector); 0: none
    u32 vcpu_id
    u32 domid
    u32 version          # answer of xen_version(XENVER_version)
    u64 again_rip        # the VMCALL
    u64 counts[64]       # hypercalls made, by number

cdef struct Clock:
    u32 is_virtual       # 0: host CLOCK_MONOTONIC, 1: instructions retired + skipped idle time
    u64 start            # real: host ns at time 0
    u64 now              # virtual: ns at the last slice boundary
    u64 offset           # added to both

cdef struct Cpu:
    u64 r[24]
    u64 rip              # valid outside run() and whenever an exec function returns other than ST_OK
    # Translated code (jit_*.pxi): RSP points at this struct while it runs
    u64 jit_page         # linear address of the page the running block is in
    u64 jit_rsp          # the host's stack
    u64 jit_tmp
    u64 jit_lin          # address that a site did not cover
    u32 fl_nat           # arithmetic flags: AH of LAHF, OF in bit 0; 0: they are in fl_*
    u32 jit_want         # arena index of a branch that would like to be linked, or NO_INSN
    Insn* jit_bail       # head of a block that its handlers must run
    Jit* jit             # NULL: interpreter only
    u64 fx_in            # the guest's x87 registers are in the host's FPU
    u8 fx_image[112]     # as FNSAVE and FRSTOR have them
    u64 xmm_in           # the guest's XMM registers are in the host's
    # Arithmetic flags, lazily (cpu/flags.pxi)
    u64 fl_res
    u64 fl_cv
    u32 fl_shd
    u32 eflags           # every bit of EFLAGS except the six arithmetic ones
    # The clockwork of the run loop
    i64 budget           # instructions left in this slice; counted down at block ends
    u32 req              # REQ_*
    u32 mode             # MODE_*
    TlbEntry* tlb        # current one of tlbs (user or supervisor)
    JumpEntry* jc
    u64 jc_salt
    u8 cpl
    u8 is_pv
    u8 tlb_index         # 0 supervisor, 1 user
    u8 inhibit           # INHIBIT_*: held off for one instruction
    u8 halted
    u8 reserved
    # Pending exception
    u8 exc_vector
    u8 exc_has_error
    u32 exc_error
    u64 int_rip          # INT n: RIP of the instruction, where a fault of its delivery goes back to
    u64 cr2
    Exit exit
    # The instruction being restarted has had these answers from devices, in this order (access.pxi)
    u32 mmio_n
    u32 mmio_next        # the one it asks for next
    MmioDone mmio[24]
    # Segments and system registers
    Seg seg[8]           # ES CS SS DS FS GS, then 6 = LDTR, 7 = TR
    DescTable gdtr
    DescTable idtr
    u64 cr0
    u64 cr3
    u64 cr4
    u64 cr8
    u64 efer
    u64 star
    u64 lstar
    u64 cstar
    u64 fmask
    u64 sysenter_cs
    u64 sysenter_esp
    u64 sysenter_eip
    u64 kernel_gs_base
    u64 pat
    u64 pdpte[4]         # PAE paging: the directory pointers, as MOV CR3 loaded them
    u64 mtrr_def
    u64 mtrr_fixed[11]
    u64 mtrr_var[16]     # base and mask by turns
    u32 pkru
    u8 va_shift          # 64 - the width of canonical addresses: 16, or 7 with CR4.LA57
    u8 implicit          # an access of the processor itself to a system structure: EFLAGS.AC does not open SMAP
    u8 delivering        # an exception is being delivered: pushes to device memory get lost
    u8 delivery_depth    # deliveries in a row that have faulted
    u64 tsc_aux
    u64 tsc_adjust
    u64 mcg_status
    u64 mci_ctl[4]       # of each machine-check bank
    u64 tsc_offset       # what WRMSR made the TSC differ from now_ns() by
    u64 xcr0
    u64 apic_base
    u64 dr[8]
    u8 bp_on             # kinds of breakpoints that are enabled (debug.pxi)
    u8 bp_hit            # data breakpoints the instruction has hit
    u8 bp_fault          # the #DB is of an instruction breakpoint: its frame has RF as it was
    u8 soft_int          # the ST_TRAP is of INT n, INT3 or INTO: delivery looks at the gate's DPL
    u8 stepping          # REP does one iteration
    u64 db_pending       # DR6 bits of a #DB that comes before the next instruction
    u64 rep_rip          # RIP of a REP instruction that gave way between two iterations
    # Events of a bare machine (interrupts.pxi)
    u32 events           # EVENT_*, set by anyone
    u8 intr_vector
    u8 nmi_blocked       # until the next IRET
    # Floating point and vectors
    Vec v[16]
    F80 st[8]            # physical registers; ST(i) is st[(top + i) & 7]
    u16 fcw
    u16 fsw              # TOP lives in bits 11-13
    u8 ftw               # one bit a register, 1 = valid (the FXSAVE form)
    u16 fop
    u64 fip
    u64 fdp
    u16 fcs
    u16 fds
    u32 mxcsr            # sticky flags: merged from the host's while running (fp_sync)
    u32 host_mxcsr       # the host's own, put back when run() returns
    u64 rng              # RDRAND and RDSEED in virtual time
    u64 monitor_at       # MONITOR: linear address, digest of the line
    u64 monitor_digest
    u8 monitor_on
    # Memory and time
    Mem* mem
    u64 flush_time[2]    # Mem.flush_clock at the last flush of each TLB
    u64 kernel_seen      # KernelChanges.clock at the last flush of the kernel's TLB
    PhysMap* physmap     # NULL for PV
    Clock* clock
    u64 timer_deadline   # ns of the clock at which REQ_EVENT work is due; ~0 for none
    u64 icount           # instructions retired before this slice
    i64 slice            # budget at the start of this slice
    i64 bias             # exact: instructions kept back from budget, to be stepped one by one
    u64 until            # stop before the instruction at this RIP; ~0 for none
    u64 cpuid_features[16]       # the CPUID policy, by FEAT_* word: change it with policy_set() only
    u64 cr4_legal        # bits of CR4 that the policy allows
    u64 cpuid_wanted[16] # what was asked for; features follow from it and from what the vcpu has
    CpuidPolicy cpuid
    u32 apic_id
    Lapic* lapic         # NULL: none
    ApicBusState* apic_bus
    HvmState* hvm        # NULL: a PV guest or a bare machine
    u64 lapic_page       # frame of the xAPIC registers; ~0: none
    u32 wake             # an interrupt was sent to a vcpu that sleeps
    TlbEntry* tlbs[2]
    TlbNotes notes[2]    # of each TLB
    Parked parked[4]
    BlockCache* cache
    PvState* pv
    int status           # ST_* a handler left the block with
    u32 in_run          # run() is on; requests are served
    u32 code_hit         # a write dropped decoded code: leave the block after this instruction
    Insn* want_link      # direct branch that would like to be linked to the block at rip
    u32 jc_gen           # last generation of the jump cache given out
    u64 jc_base          # CS base and limit the jump cache is valid for
    u32 jc_limit
    u8 strict            # translated code keeps the flags exact everywhere a fault or a stop could show them
    u8 exact             # stop at exactly the instruction budget (virtual time, the tools API)
    u8 trace             # leave after every instruction
    u32 code_bit         # this vcpu's bit of Frame.code
    u32 code_lock        # guards code_queue
    u32 code_n           # frames in code_queue; above CODE_QUEUE: drop everything
    u64 code_queue[64]
    u32 unknown_n        # things the guest asked for that we do not have, for the log
    u32 unknown_kind[32]
    u64 unknown_value[32]
    u64 fault_icount     # 1 + instructions retired at the last delivery of a fault (0: none)
    u64 stat[16]         # counters, indexed by STAT_*
    u32 site_n[2]        # sites filled since the last flush, local ones and global ones; above SITE_LOG: not all are in the log
    u32 site_log[2][2048]
    Site* sites
    u64 site_epoch       # counts withdrawals
    u32 group_fails
    # Hooks (hooks.pxi)
    HookRule* hooks
    u32 hook_on          # kinds of hooks there are
    u8 hook_skip         # SKIP_*
    u8 hook_quiet        # the processor itself accesses memory
    u8 seen_n
    u64 hook_at          # address that hook_skip is for
    u32 hook_kind        # HOOK_* of the event run() was left for
    u32 hook_n           # hooks to be called for it
    u32 hook_hit[64]     # their ids
    Seen seen[8]
    u64 seen_rip         # the instruction seen[] is of
    u64 seen_icount
    u64 seen_count
    Profile* profile     # NULL: off
    MmuTrace* mmu_trace  # NULL: off
