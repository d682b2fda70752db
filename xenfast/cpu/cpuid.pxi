# CPUID: the policy as a table, the leaves, and the instruction.
#
# SDM Vol. 2, CPUID; xen/include/public/arch-x86/cpuid.h for the hypervisor's leaves.  What is announced is what is
# implemented; a single feature can be switched with Vcpu.set_cpuid().
#
# The processor calls itself GenuineIntel, family 6, model 36h (an in-order Atom).  The SDM is the specification this
# core follows where vendors differ, and the model tells the truth about speculation: there is none, so that Linux
# enables no retpolines, no buffer clearing, no branch barriers (its list of processors without speculation has this
# model).

cdef enum:               # words of Cpu.cpuid_features, in the order of xen/arch-x86/cpufeatureset.h
    FEAT_1D = 0          # leaf 1 EDX
    FEAT_1C = 1          # leaf 1 ECX
    FEAT_E1D = 2         # leaf 8000_0001h EDX
    FEAT_E1C = 3         # leaf 8000_0001h ECX
    FEAT_7B = 5          # leaf 7 EBX
    FEAT_7C = 6          # leaf 7 ECX
    FEAT_E7D = 7         # leaf 8000_0007h EDX
    FEAT_E8B = 8         # leaf 8000_0008h EBX
    FEAT_7D = 9          # leaf 7 EDX
    FEAT_WORDS = 16

cdef enum:               # who sees a feature
    ON = 1               # everybody
    BARE = 2             # not PV guests: Xen keeps it to itself
    OFF = 0              # implemented in part or not yet; here to have a name
    HIDDEN = 4           # PV guests only

# THE TABLE: name, word, bit, who.
CPUID_FEATURES = (
    ("fpu", FEAT_1D, 0, ON),
    ("vme", FEAT_1D, 1, OFF),
    ("de", FEAT_1D, 2, ON),
    ("pse", FEAT_1D, 3, BARE),
    ("tsc", FEAT_1D, 4, ON),
    ("msr", FEAT_1D, 5, ON),
    ("pae", FEAT_1D, 6, ON),
    ("mce", FEAT_1D, 7, OFF),
    ("cx8", FEAT_1D, 8, ON),
    ("apic", FEAT_1D, 9, OFF),
    ("sep", FEAT_1D, 11, ON),
    ("mtrr", FEAT_1D, 12, BARE),
    ("pge", FEAT_1D, 13, BARE),
    ("mca", FEAT_1D, 14, OFF),
    ("cmov", FEAT_1D, 15, ON),
    ("pat", FEAT_1D, 16, ON),
    ("pse36", FEAT_1D, 17, BARE),
    ("clflush", FEAT_1D, 19, ON),
    ("mmx", FEAT_1D, 23, ON),
    ("fxsr", FEAT_1D, 24, ON),
    ("sse", FEAT_1D, 25, ON),
    ("sse2", FEAT_1D, 26, ON),
    ("htt", FEAT_1D, 28, OFF),
    ("sse3", FEAT_1C, 0, ON),
    ("pclmulqdq", FEAT_1C, 1, ON),
    ("monitor", FEAT_1C, 3, OFF),
    ("ssse3", FEAT_1C, 9, ON),
    ("fma", FEAT_1C, 12, OFF),
    ("cx16", FEAT_1C, 13, ON),
    ("pcid", FEAT_1C, 17, BARE),
    ("sse4.1", FEAT_1C, 19, ON),
    ("sse4.2", FEAT_1C, 20, ON),
    ("x2apic", FEAT_1C, 21, OFF),
    ("movbe", FEAT_1C, 22, ON),
    ("popcnt", FEAT_1C, 23, ON),
    ("aesni", FEAT_1C, 25, ON),
    ("xsave", FEAT_1C, 26, OFF),
    ("avx", FEAT_1C, 28, OFF),
    ("f16c", FEAT_1C, 29, OFF),
    ("rdrand", FEAT_1C, 30, ON),
    ("hypervisor", FEAT_1C, 31, HIDDEN),
    ("syscall", FEAT_E1D, 11, ON),
    ("nx", FEAT_E1D, 20, ON),
    ("page1gb", FEAT_E1D, 26, BARE),
    ("rdtscp", FEAT_E1D, 27, ON),
    ("lm", FEAT_E1D, 29, ON),
    ("lahf_lm", FEAT_E1C, 0, ON),
    ("lzcnt", FEAT_E1C, 5, ON),
    ("prefetchw", FEAT_E1C, 8, ON),
    ("fsgsbase", FEAT_7B, 0, ON),
    ("bmi1", FEAT_7B, 3, ON),
    ("avx2", FEAT_7B, 5, OFF),
    ("smep", FEAT_7B, 7, BARE),
    ("bmi2", FEAT_7B, 8, ON),
    ("erms", FEAT_7B, 9, ON),
    ("invpcid", FEAT_7B, 10, BARE),
    ("rdseed", FEAT_7B, 18, ON),
    ("adx", FEAT_7B, 19, ON),
    ("smap", FEAT_7B, 20, BARE),
    ("clflushopt", FEAT_7B, 23, ON),
    ("clwb", FEAT_7B, 24, ON),
    ("sha", FEAT_7B, 29, ON),
    ("umip", FEAT_7C, 2, OFF),
    ("pku", FEAT_7C, 3, BARE),
    ("la57", FEAT_7C, 16, OFF),
    ("rdpid", FEAT_7C, 22, ON),
    ("fsrm", FEAT_7D, 4, ON),
    ("itsc", FEAT_E7D, 8, BARE),
)

CPUID_NAMES = {name: (word, bit) for name, word, bit, _ in CPUID_FEATURES}

cdef u64[FEAT_WORDS] CPUID_DEFAULT       # what the table switches on
cdef u64[FEAT_WORDS] CPUID_PV            # what a PV guest may see of it
cdef u64[FEAT_WORDS] CPUID_ONLY_PV

cdef init_cpuid():
    cdef int word, bit, who
    for _, word, bit, who in CPUID_FEATURES:
        if who != OFF:
            CPUID_DEFAULT[word] |= <u64>1 << bit
        if who != BARE:
            CPUID_PV[word] |= <u64>1 << bit
        if who == HIDDEN:
            CPUID_ONLY_PV[word] |= <u64>1 << bit

cdef void cpuid_reset(Cpu* c) noexcept nogil:
    """The policy of the table; part of making a vcpu."""
    memcpy(c.cpuid_features, CPUID_DEFAULT, sizeof(CPUID_DEFAULT))

cdef inline u32 feature_word(Cpu* c, int word) noexcept nogil:
    """SAFETY: word is below FEAT_WORDS in every caller."""
    return <u32>(c.cpuid_features[word] & (CPUID_PV[word] if c.is_pv else ~CPUID_ONLY_PV[word]))

cdef inline bint has_feature(Cpu* c, int word, int bit) noexcept nogil:
    return (feature_word(c, word) >> bit) & 1

# ---- leaves ---------------------------------------------------------------------------------------------------------
cdef struct CpuidLeaf:
    u32 a
    u32 b
    u32 c
    u32 d

cdef inline void leaf_text(CpuidLeaf* r, const char* text) noexcept nogil:
    """16 bytes of text as EAX EBX ECX EDX."""
    memcpy(r, text, 16)

cdef void cpuid_cache(CpuidLeaf* r, u32 sub) noexcept nogil:
    """Leaf 4: 32 KiB L1D and L1I, 512 KiB L2, 32 MiB L3, 64-byte lines, 8 ways; the C library sizes its copies by them."""
    cdef u32 kind = 1 if sub == 0 else 2 if sub == 1 else 3
    cdef u32 level = 1 if sub < 2 else sub
    if sub > 3:
        return
    r.a = kind | (level << 5) | (1 << 8)
    r.b = (7 << 22) | 63
    r.c = 63 if level == 1 else 1023 if level == 2 else 65535

cdef inline u32 vcpu_number(Cpu* c) noexcept nogil:
    return c.pv.vcpu_id if c.is_pv else 0

cdef void cpuid_basic(Cpu* c, u32 leaf, u32 sub, CpuidLeaf* r) noexcept nogil:
    if leaf == 0:
        r.a = 7
        r.b, r.d, r.c = 0x756E6547, 0x49656E69, 0x6C65746E          # "Genu" "ineI" "ntel"
    elif leaf == 1:
        r.a = 0x00030661                                            # family 6, model 36h, stepping 1
        r.b = (vcpu_number(c) * 2) << 24 | 1 << 16 | 8 << 8              # APIC ID as Xen numbers them, CLFLUSH 64 bytes
        r.c = feature_word(c, FEAT_1C)
        if c.cr4 & CR4_OSXSAVE:
            r.c |= 1 << 27
        r.d = feature_word(c, FEAT_1D)
    elif leaf == 2:
        r.a = 0x00FF0001                                            # caches: see leaf 4
    elif leaf == 4:
        cpuid_cache(r, sub)
    elif leaf == 5 and has_feature(c, FEAT_1C, 3):                  # MONITOR: lines of 64 bytes; ECX: extensions
        r.a, r.b, r.c = 64, 64, 3
    elif leaf == 7 and sub == 0:
        r.b = feature_word(c, FEAT_7B)
        r.c = feature_word(c, FEAT_7C)
        if c.cr4 & CR4_PKE:
            r.c |= 1 << 4                                           # OSPKE
        r.d = feature_word(c, FEAT_7D)

cdef void cpuid_extended(Cpu* c, u32 leaf, CpuidLeaf* r) noexcept nogil:
    if leaf == <u32>0x80000000:
        r.a = <u32>0x80000008
    elif leaf == <u32>0x80000001:
        r.c = feature_word(c, FEAT_E1C)
        r.d = feature_word(c, FEAT_E1D)
        if not c.mode & MODE_64:
            r.d &= ~<u32>(1 << 11)                                  # SYSCALL: in 64-bit mode only (Intel)
    elif leaf == <u32>0x80000002:
        leaf_text(r, b"xenfast virtual ")
    elif leaf == <u32>0x80000003:
        leaf_text(r, b"CPU\0\0\0\0\0\0\0\0\0\0\0\0\0")
    elif leaf == <u32>0x80000006:
        r.c = 512 << 16 | 6 << 12 | 64                              # L2: 512 KiB, 8 ways, 64-byte lines
    elif leaf == <u32>0x80000007:
        r.d = feature_word(c, FEAT_E7D)
    elif leaf == <u32>0x80000008:
        r.a = (57 if has_feature(c, FEAT_7C, 16) else 48) << 8 | PHYS_BITS
        r.b = feature_word(c, FEAT_E8B)

cdef void cpuid_xen(Cpu* c, u32 leaf, u32 sub, CpuidLeaf* r) noexcept nogil:
    """The leaves of Xen 4.17 for a PV guest."""
    if leaf == 0x40000000:
        r.a = 0x40000005
        r.b, r.c, r.d = 0x566E6558, 0x65584D4D, 0x4D4D566E          # "XenV" "MMXe" "nVMM"
    elif leaf == 0x40000001:
        r.a = 4 << 16 | 17
    elif leaf == 0x40000002:
        r.a = 1                                                     # hypercall pages
        r.b = 0x40000000                                            # MSR that places one
        r.c = 1                                                     # XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD
    elif leaf == 0x40000003:
        if sub == 0:
            r.a = 6                                                 # TSC is stable, RDTSCP exists
            r.c = TSC_KHZ
        elif sub == 1:
            r.c = <u32>0x80000000                                        # ns = (tsc * 2^31) >> 31 >> -shift
            r.d = 1
        elif sub == 2:
            r.a = TSC_KHZ
    elif leaf == 0x40000005:
        r.b = PHYS_BITS                                             # machine address width

cdef void cpuid(Cpu* c, u32 leaf, u32 sub, CpuidLeaf* r) noexcept nogil:
    """Leaves beyond the last one read as the last basic leaf on Intel: here as zeros, as hypervisors do."""
    memset(r, 0, sizeof(CpuidLeaf))
    if leaf < 0x40000000:
        cpuid_basic(c, leaf, sub, r)
    elif leaf >= <u32>0x80000000:
        cpuid_extended(c, leaf, r)
    elif c.is_pv:
        cpuid_xen(c, leaf, sub, r)

cdef void cpuid_to_regs(Cpu* c) noexcept nogil:
    cdef CpuidLeaf r
    cpuid(c, <u32>c.r[RAX], <u32>c.r[RCX], &r)
    c.r[RAX], c.r[RBX], c.r[RCX], c.r[RDX] = r.a, r.b, r.c, r.d

cdef int CPUID(Cpu* c, Insn* o) noexcept nogil:
    cpuid_to_regs(c)
    return ST_OK
