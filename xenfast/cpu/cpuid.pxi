# CPUID: the policy as a table, the leaves, and the instruction.
#
# SDM Vol. 2, CPUID; xen/include/public/arch-x86/cpuid.h for the hypervisor's leaves.  What is announced is at most what is
# implemented.  The policy of a vcpu is Cpu.cpuid_features: CPUID shows it, the decoder makes instructions of features that are off
# undefined (opcodes_features.pxi), CR4 and the MSRs allow what belongs to features that are on.  Named models and the syntax of
# configurations are in xenfast/cpuid.py.
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
    FEAT_DA1 = 4         # leaf Dh, subleaf 1, EAX
    FEAT_7B = 5          # leaf 7 EBX
    FEAT_7C = 6          # leaf 7 ECX
    FEAT_E7D = 7         # leaf 8000_0007h EDX
    FEAT_E8B = 8         # leaf 8000_0008h EBX
    FEAT_7D = 9          # leaf 7 EDX
    FEAT_7A1 = 10        # leaf 7, subleaf 1, EAX
    FEAT_WORDS = 16

# Where each word stands: leaf, subleaf, register.
CPUID_WORDS = (
    (0x1, 0, "edx"), (0x1, 0, "ecx"), (0x80000001, 0, "edx"), (0x80000001, 0, "ecx"), (0xD, 1, "eax"), (0x7, 0, "ebx"),
    (0x7, 0, "ecx"), (0x80000007, 0, "edx"), (0x80000008, 0, "ebx"), (0x7, 0, "edx"), (0x7, 1, "eax"),
)

cdef enum:               # who sees a feature
    ON = 1               # everybody
    BARE = 2             # not PV guests: Xen keeps it to itself
    OFF = 0              # not implemented (yet); here to have a name
    HIDDEN = 4           # guests of Xen only
    ASK = 8              # BARE, and off unless asked for by name

# THE TABLE: name, word, bit, who, the features it cannot be without.
#
# To add a feature: implement it, change its OFF to ON (or BARE, ASK), and name its instructions in opcodes_features.pxi, which
# makes them #UD where the bit is off.  CR4 bits that belong to a feature are in CR4_FEATURES below.
CPUID_FEATURES = (
    ("fpu", FEAT_1D, 0, ON, ""),
    ("vme", FEAT_1D, 1, BARE, ""),
    ("de", FEAT_1D, 2, ON, ""),
    ("pse", FEAT_1D, 3, BARE, ""),
    ("tsc", FEAT_1D, 4, ON, ""),
    ("msr", FEAT_1D, 5, ON, ""),
    ("pae", FEAT_1D, 6, ON, ""),
    ("mce", FEAT_1D, 7, BARE, ""),
    ("cx8", FEAT_1D, 8, ON, ""),
    ("apic", FEAT_1D, 9, BARE, ""),
    ("sep", FEAT_1D, 11, ON, ""),
    ("mtrr", FEAT_1D, 12, BARE, ""),
    ("pge", FEAT_1D, 13, BARE, ""),
    ("mca", FEAT_1D, 14, BARE, ""),
    ("cmov", FEAT_1D, 15, ON, ""),
    ("pat", FEAT_1D, 16, ON, ""),
    ("pse36", FEAT_1D, 17, BARE, "pse"),
    ("psn", FEAT_1D, 18, OFF, ""),
    ("clflush", FEAT_1D, 19, ON, ""),
    ("ds", FEAT_1D, 21, OFF, ""),
    ("acpi", FEAT_1D, 22, OFF, ""),
    ("mmx", FEAT_1D, 23, ON, "fpu"),
    ("fxsr", FEAT_1D, 24, ON, ""),
    ("sse", FEAT_1D, 25, ON, "fxsr"),
    ("sse2", FEAT_1D, 26, ON, "sse"),
    ("ss", FEAT_1D, 27, OFF, ""),
    ("htt", FEAT_1D, 28, OFF, ""),
    ("tm", FEAT_1D, 29, OFF, ""),
    ("ia64", FEAT_1D, 30, OFF, ""),
    ("pbe", FEAT_1D, 31, OFF, ""),
    ("sse3", FEAT_1C, 0, ON, "sse2"),
    ("pclmulqdq", FEAT_1C, 1, ON, "sse2"),
    ("dtes64", FEAT_1C, 2, OFF, ""),
    ("monitor", FEAT_1C, 3, ASK, ""),
    ("dscpl", FEAT_1C, 4, OFF, ""),
    ("vmx", FEAT_1C, 5, OFF, ""),
    ("smx", FEAT_1C, 6, OFF, ""),
    ("est", FEAT_1C, 7, OFF, ""),
    ("tm2", FEAT_1C, 8, OFF, ""),
    ("ssse3", FEAT_1C, 9, ON, "sse3"),
    ("cntxid", FEAT_1C, 10, OFF, ""),
    ("fma", FEAT_1C, 12, ON, "avx"),
    ("cx16", FEAT_1C, 13, ON, "lm"),
    ("xtpr", FEAT_1C, 14, OFF, ""),
    ("pdcm", FEAT_1C, 15, OFF, ""),
    ("pcid", FEAT_1C, 17, BARE, "lm"),
    ("dca", FEAT_1C, 18, OFF, ""),
    ("sse4_1", FEAT_1C, 19, ON, "ssse3"),
    ("sse4_2", FEAT_1C, 20, ON, "sse4_1"),
    ("x2apic", FEAT_1C, 21, BARE, "apic"),
    ("movbe", FEAT_1C, 22, ON, ""),
    ("popcnt", FEAT_1C, 23, ON, ""),
    ("tsc_deadline", FEAT_1C, 24, BARE, "apic tsc"),
    ("aesni", FEAT_1C, 25, ON, "sse2"),
    ("xsave", FEAT_1C, 26, ON, "fxsr"),
    ("avx", FEAT_1C, 28, ON, "xsave sse4_2"),
    ("f16c", FEAT_1C, 29, ON, "avx"),
    ("rdrand", FEAT_1C, 30, ON, ""),
    ("hypervisor", FEAT_1C, 31, HIDDEN, ""),
    ("syscall", FEAT_E1D, 11, ON, ""),
    ("nx", FEAT_E1D, 20, ON, "pae"),
    ("mmxext", FEAT_E1D, 22, OFF, "mmx"),
    ("ffxsr", FEAT_E1D, 25, OFF, "fxsr"),
    ("page1gb", FEAT_E1D, 26, BARE, "lm"),
    ("rdtscp", FEAT_E1D, 27, ON, "tsc"),
    ("lm", FEAT_E1D, 29, ON, "pae"),
    ("3dnowext", FEAT_E1D, 30, OFF, "3dnow"),
    ("3dnow", FEAT_E1D, 31, OFF, "mmx"),
    ("lahf_lm", FEAT_E1C, 0, ON, "lm"),
    ("cmp_legacy", FEAT_E1C, 1, OFF, ""),
    ("svm", FEAT_E1C, 2, OFF, ""),
    ("extapic", FEAT_E1C, 3, OFF, "apic"),
    ("cr8_legacy", FEAT_E1C, 4, OFF, ""),
    ("lzcnt", FEAT_E1C, 5, ON, ""),
    ("sse4a", FEAT_E1C, 6, OFF, "sse3"),
    ("misalignsse", FEAT_E1C, 7, OFF, "sse"),
    ("prefetchw", FEAT_E1C, 8, ON, ""),
    ("osvw", FEAT_E1C, 9, OFF, ""),
    ("ibs", FEAT_E1C, 10, OFF, ""),
    ("xop", FEAT_E1C, 11, OFF, "avx"),
    ("skinit", FEAT_E1C, 12, OFF, ""),
    ("wdt", FEAT_E1C, 13, OFF, ""),
    ("lwp", FEAT_E1C, 15, OFF, "xsave"),
    ("fma4", FEAT_E1C, 16, OFF, "avx"),
    ("nodeid_msr", FEAT_E1C, 19, OFF, ""),
    ("tbm", FEAT_E1C, 21, OFF, ""),
    ("topoext", FEAT_E1C, 22, OFF, ""),
    ("perfctr_core", FEAT_E1C, 23, OFF, ""),
    ("perfctr_nb", FEAT_E1C, 24, OFF, ""),
    ("dbext", FEAT_E1C, 26, OFF, ""),
    ("monitorx", FEAT_E1C, 29, OFF, ""),
    ("xsaveopt", FEAT_DA1, 0, ON, "xsave"),
    ("xsavec", FEAT_DA1, 1, ON, "xsave"),
    ("xgetbv1", FEAT_DA1, 2, ON, "xsave"),
    ("xsaves", FEAT_DA1, 3, BARE, "xsave"),
    ("fsgsbase", FEAT_7B, 0, ON, "lm"),
    ("tsc_adjust", FEAT_7B, 1, BARE, "tsc"),
    ("sgx", FEAT_7B, 2, OFF, ""),
    ("bmi1", FEAT_7B, 3, ON, ""),
    ("hle", FEAT_7B, 4, OFF, ""),
    ("avx2", FEAT_7B, 5, ON, "avx"),
    ("fdp_excp_only", FEAT_7B, 6, OFF, ""),
    ("smep", FEAT_7B, 7, BARE, ""),
    ("bmi2", FEAT_7B, 8, ON, ""),
    ("erms", FEAT_7B, 9, ON, ""),
    ("invpcid", FEAT_7B, 10, BARE, ""),
    ("rtm", FEAT_7B, 11, OFF, ""),
    ("pqm", FEAT_7B, 12, OFF, ""),
    ("no_fpu_sel", FEAT_7B, 13, OFF, ""),
    ("mpx", FEAT_7B, 14, OFF, "xsave"),
    ("pqe", FEAT_7B, 15, OFF, ""),
    ("avx512f", FEAT_7B, 16, OFF, "avx2"),
    ("avx512dq", FEAT_7B, 17, OFF, "avx512f"),
    ("rdseed", FEAT_7B, 18, ON, ""),
    ("adx", FEAT_7B, 19, ON, ""),
    ("smap", FEAT_7B, 20, BARE, ""),
    ("avx512_ifma", FEAT_7B, 21, OFF, "avx512f"),
    ("clflushopt", FEAT_7B, 23, ON, "clflush"),
    ("clwb", FEAT_7B, 24, ON, ""),
    ("proc_trace", FEAT_7B, 25, OFF, ""),
    ("avx512pf", FEAT_7B, 26, OFF, "avx512f"),
    ("avx512er", FEAT_7B, 27, OFF, "avx512f"),
    ("avx512cd", FEAT_7B, 28, OFF, "avx512f"),
    ("sha", FEAT_7B, 29, ON, "sse2"),
    ("avx512bw", FEAT_7B, 30, OFF, "avx512f"),
    ("avx512vl", FEAT_7B, 31, OFF, "avx512f"),
    ("prefetchwt1", FEAT_7C, 0, OFF, ""),
    ("avx512_vbmi", FEAT_7C, 1, OFF, "avx512bw"),
    ("umip", FEAT_7C, 2, BARE, ""),
    ("pku", FEAT_7C, 3, BARE, "lm"),
    ("waitpkg", FEAT_7C, 5, OFF, ""),
    ("avx512_vbmi2", FEAT_7C, 6, OFF, "avx512bw"),
    ("cet_ss", FEAT_7C, 7, OFF, ""),
    ("gfni", FEAT_7C, 8, OFF, "sse2"),
    ("vaes", FEAT_7C, 9, OFF, "avx"),
    ("vpclmulqdq", FEAT_7C, 10, OFF, "avx"),
    ("avx512_vnni", FEAT_7C, 11, OFF, "avx512f"),
    ("avx512_bitalg", FEAT_7C, 12, OFF, "avx512bw"),
    ("avx512_vpopcntdq", FEAT_7C, 14, OFF, "avx512f"),
    ("la57", FEAT_7C, 16, ASK, "lm"),
    ("rdpid", FEAT_7C, 22, ON, ""),
    ("cldemote", FEAT_7C, 25, OFF, ""),
    ("movdiri", FEAT_7C, 27, OFF, ""),
    ("movdir64b", FEAT_7C, 28, OFF, ""),
    ("enqcmd", FEAT_7C, 29, OFF, ""),
    ("itsc", FEAT_E7D, 8, BARE, "tsc"),
    ("efro", FEAT_E7D, 10, OFF, ""),
    ("clzero", FEAT_E8B, 0, OFF, ""),
    ("rstr_fp_err_ptrs", FEAT_E8B, 2, OFF, ""),
    ("wbnoinvd", FEAT_E8B, 9, OFF, ""),
    ("ibpb", FEAT_E8B, 12, OFF, ""),
    ("amd_ssbd", FEAT_E8B, 24, OFF, ""),
    ("virt_ssbd", FEAT_E8B, 25, OFF, ""),
    ("ssb_no", FEAT_E8B, 26, OFF, ""),
    ("avx512_4vnniw", FEAT_7D, 2, OFF, "avx512f"),
    ("avx512_4fmaps", FEAT_7D, 3, OFF, "avx512f"),
    ("fsrm", FEAT_7D, 4, ON, ""),
    ("srbds_ctrl", FEAT_7D, 9, OFF, ""),
    ("md_clear", FEAT_7D, 10, OFF, ""),
    ("serialize", FEAT_7D, 14, OFF, ""),
    ("cet_ibt", FEAT_7D, 20, OFF, ""),
    ("ibrsb", FEAT_7D, 26, OFF, ""),
    ("stibp", FEAT_7D, 27, OFF, ""),
    ("l1d_flush", FEAT_7D, 28, OFF, ""),
    ("arch_caps", FEAT_7D, 29, OFF, ""),
    ("core_caps", FEAT_7D, 30, OFF, ""),
    ("ssbd", FEAT_7D, 31, OFF, ""),
    ("avx_vnni", FEAT_7A1, 4, OFF, "avx2"),
    ("avx512_bf16", FEAT_7A1, 5, OFF, "avx512f"),
    ("fzrm", FEAT_7A1, 10, OFF, ""),
    ("fsrs", FEAT_7A1, 11, OFF, ""),
    ("fsrcs", FEAT_7A1, 12, OFF, ""),
)

# Bits of CR4 that may be set only where a feature is there (SDM Vol. 3, 2.5); PCE needs none.
CR4_FEATURES = (
    (0, "vme"), (1, "vme"), (2, "tsc"), (3, "de"), (4, "pse"), (5, "pae"), (6, "mce"), (7, "pge"), (9, "fxsr"), (10, "sse"),
    (11, "umip"), (12, "la57"), (16, "fsgsbase"), (17, "pcid"), (18, "xsave"), (20, "smep"), (21, "smap"), (22, "pku"),
)

CPUID_NAMES = {name: (word, bit) for name, word, bit, *_ in CPUID_FEATURES}

cdef u64[FEAT_WORDS] CPUID_KNOWN         # what is implemented
cdef u64[FEAT_WORDS] CPUID_DEFAULT       # what of it nobody needs to ask for
cdef u64[FEAT_WORDS] CPUID_PV            # what a PV guest may see of it
cdef u64[FEAT_WORDS] CPUID_ONLY_XEN
cdef u64[32] CR4_NEEDS                   # CR4 bit -> FEATURE(), 0 for none: the bit is not there

cdef inline u16 feature_id(int word, int bit) noexcept nogil:
    """A feature as one number that is not 0: what rows of the opcode table name."""
    return <u16>(0x8000 | word << 5 | bit)

cdef u16 feature_named(name) except 0:
    word, bit = CPUID_NAMES[name]
    return feature_id(word, bit)

cdef init_cpuid():
    cdef int word, bit, who
    for _, word, bit, who, _ in CPUID_FEATURES:
        if who != OFF:
            CPUID_KNOWN[word] |= <u64>1 << bit
        if who != BARE and who != ASK:
            CPUID_PV[word] |= <u64>1 << bit
        if who == HIDDEN:
            CPUID_ONLY_XEN[word] |= <u64>1 << bit
        if who != OFF and who != ASK:
            CPUID_DEFAULT[word] |= <u64>1 << bit
    for bit, name in CR4_FEATURES:
        CR4_NEEDS[bit] = feature_named(name)

cdef inline u32 feature_word(Cpu* c, int word) noexcept nogil:
    """SAFETY: word is below FEAT_WORDS in every caller."""
    return <u32>c.cpuid_features[word]

cdef inline bint has_feature(Cpu* c, int word, int bit) noexcept nogil:
    return (c.cpuid_features[word] >> bit) & 1

cdef inline bint has_feature_id(Cpu* c, u16 id) noexcept nogil:
    """SAFETY: feature_id() made it: a word below 16."""
    return (c.cpuid_features[(id >> 5) & 15] >> (id & 31)) & 1

cdef void policy_set(Cpu* c, const u64* words) noexcept nogil:
    """The features of this vcpu, cut down to what there is for its kind of guest.  What was decoded before is forgotten."""
    memmove(c.cpuid_wanted, words, sizeof(c.cpuid_wanted))
    policy_apply(c)

cdef void policy_apply(Cpu* c) noexcept nogil:
    cdef int i
    for i in range(FEAT_WORDS):
        c.cpuid_features[i] = c.cpuid_wanted[i] & CPUID_KNOWN[i]
        if c.is_pv:
            c.cpuid_features[i] &= CPUID_PV[i]
        elif c.hvm == NULL:
            c.cpuid_features[i] &= ~CPUID_ONLY_XEN[i]
    if c.lapic == NULL:
        c.cpuid_features[FEAT_1D] &= ~<u64>(1 << 9)                       # APIC
        c.cpuid_features[FEAT_1C] &= ~<u64>(1 << 21 | 1 << 24)            # x2APIC, TSC deadline
    policy_changed(c)

cdef void policy_changed(Cpu* c) noexcept nogil:
    """What follows from the features: the bits of CR4; the decoded blocks, whose instructions may be #UD now."""
    cdef int i
    c.cr4_legal = 1 << 8
    for i in range(32):
        if CR4_NEEDS[i] and has_feature_id(c, <u16>CR4_NEEDS[i]):
            c.cr4_legal |= <u64>1 << i
    cache_flush(c)

cdef void policy_reset(Cpu* c) noexcept nogil:
    """Everything there is, under our own name; part of making a vcpu.  RESET does not change it."""
    memcpy(c.cpuid.vendor, b"GenuineIntel", 12)
    memset(c.cpuid.brand, 0, sizeof(c.cpuid.brand))
    memcpy(c.cpuid.brand, b"xenfast virtual CPU", 19)
    c.cpuid.signature = 0x00030661                                  # family 6, model 36h, stepping 1
    c.cpuid.max_basic, c.cpuid.max_extended = 0x16, <u32>0x80000008
    c.cpuid.threads, c.cpuid.n_forced = 1, 0
    policy_set(c, CPUID_DEFAULT)

# ---- leaves ---------------------------------------------------------------------------------------------------------
cdef struct CpuidLeaf:
    u32 a
    u32 b
    u32 c
    u32 d

cdef void cpuid_cache(Cpu* c, CpuidLeaf* r, u32 sub) noexcept nogil:
    """Leaf 4: 32 KiB L1D and L1I, 512 KiB L2, 32 MiB L3, 64-byte lines, 8 ways; the C library sizes its copies by them."""
    cdef u32 kind = 1 if sub == 0 else 2 if sub == 1 else 3
    cdef u32 level = 1 if sub < 2 else sub
    if sub > 3:
        return
    r.a = kind | (level << 5) | (1 << 8) | id_mask(c) << 26 | ((1 << id_shift(c)) - 1 if level == 3 else 0) << 14
    r.b = (7 << 22) | 63
    r.c = 63 if level == 1 else 1023 if level == 2 else 65535

# ---- topology: one package of single-threaded cores ------------------------------------------------------------------
cdef inline u32 apic_id(Cpu* c) noexcept nogil:
    """As Xen numbers them: even, for a PV guest; the vcpu's number on a bare machine."""
    return c.pv.vcpu_id * 2 if c.is_pv else c.apic_id

cdef inline u32 id_shift(Cpu* c) noexcept nogil:
    """Bits of the APIC ID that number the cores of the package."""
    cdef u32 n = 0
    while (<u32>1 << n) < c.cpuid.threads:
        n += 1
    return n

cdef inline u32 id_mask(Cpu* c) noexcept nogil:
    return min((<u32>1 << id_shift(c)) - 1, 63)

cdef void cpuid_topology(Cpu* c, u32 sub, CpuidLeaf* r) noexcept nogil:
    """Leaf Bh: threads of a core, cores of the package (SDM Vol. 2, CPUID; Vol. 3, 8.9)."""
    if not has_feature(c, FEAT_1C, 21):
        return
    r.c = sub & 0xFF
    r.d = apic_id(c)
    if sub == 0:
        r.b = 1
        r.c |= 1 << 8
    elif sub == 1:
        r.a = id_shift(c)
        r.b = c.cpuid.threads
        r.c |= 2 << 8

# ---- the leaves, in order ---------------------------------------------------------------------------------------------
cdef u32 basic_leaves(Cpu* c) noexcept nogil:
    """The last basic leaf: 7, Bh with x2APIC, Dh with XSAVE, 16h for HVM guests, as far as the model goes."""
    cdef u32 last = 0xD if has_feature(c, FEAT_1C, 26) else 0xB if has_feature(c, FEAT_1C, 21) else 7
    return min(<u32>0x16 if c.hvm != NULL else last, c.cpuid.max_basic)

cdef void cpuid_basic(Cpu* c, u32 leaf, u32 sub, CpuidLeaf* r) noexcept nogil:
    cdef u32* vendor = <u32*>c.cpuid.vendor
    if leaf == 0:
        r.a = basic_leaves(c)
        r.b, r.d, r.c = vendor[0], vendor[1], vendor[2]
    elif leaf == 1:
        r.a = c.cpuid.signature
        r.b = apic_id(c) << 24 | (1 << id_shift(c) & 0xFF) << 16 | 8 << 8      # CLFLUSH: 64 bytes
        r.c = feature_word(c, FEAT_1C)
        if c.cr4 & CR4_OSXSAVE and has_feature(c, FEAT_1C, 26):     # a PV guest starts with the bit set, as under Xen
            r.c |= 1 << 27
        r.d = feature_word(c, FEAT_1D)
        if not c.apic_base & APIC_BASE_EN:
            r.d &= ~<u32>(1 << 9)                                   # APIC
        if c.cpuid.threads > 1 and not c.is_pv:
            r.d |= 1 << 28                                          # HTT: the count above means something
    elif leaf == 2:
        r.a = 0x00FF0001                                            # caches: see leaf 4
    elif leaf == 4:
        cpuid_cache(c, r, sub)
    elif leaf == 5 and has_feature(c, FEAT_1C, 3):                  # MONITOR: lines of 64 bytes; ECX: extensions
        r.a, r.b, r.c = 64, 64, 3
    elif leaf == 7 and sub == 0:
        r.a = 1 if feature_word(c, FEAT_7A1) else 0
        r.b = feature_word(c, FEAT_7B)
        r.c = feature_word(c, FEAT_7C)
        if c.cr4 & CR4_PKE:
            r.c |= 1 << 4                                           # OSPKE
        r.d = feature_word(c, FEAT_7D)
    elif leaf == 7 and sub == 1:
        r.a = feature_word(c, FEAT_7A1)
    elif leaf == 0xB:
        cpuid_topology(c, sub, r)
    elif leaf == 0xD:
        cpuid_xsave(c, sub, r)
    elif leaf == 0x15:                                              # TSC and timer of the local APIC: who reads this need not measure
        r.a, r.b, r.c = 1, TSC_KHZ // CRYSTAL_KHZ, CRYSTAL_KHZ * 1000
    elif leaf == 0x16:
        r.a = r.b = TSC_KHZ // 1000                                 # MHz
        r.c = CRYSTAL_KHZ // 1000

cdef void cpuid_extended(Cpu* c, u32 leaf, CpuidLeaf* r) noexcept nogil:
    if leaf == <u32>0x80000000:
        r.a = c.cpuid.max_extended
    elif leaf == <u32>0x80000001:
        r.c = feature_word(c, FEAT_E1C)
        r.d = feature_word(c, FEAT_E1D)
        if not c.mode & MODE_64:
            r.d &= ~<u32>(1 << 11)                                  # SYSCALL: in 64-bit mode only (Intel)
    elif leaf <= <u32>0x80000004:
        # SAFETY: the brand is 48 bytes, three leaves of 16.
        memcpy(r, c.cpuid.brand + (leaf - <u32>0x80000002) * 16, 16)
    elif leaf == <u32>0x80000006:
        r.c = 512 << 16 | 6 << 12 | 64                              # L2: 512 KiB, 8 ways, 64-byte lines
    elif leaf == <u32>0x80000007:
        r.d = feature_word(c, FEAT_E7D)
    elif leaf == <u32>0x80000008:
        r.a = (57 if has_feature(c, FEAT_7C, 16) else 48) << 8 | PHYS_BITS
        r.b = feature_word(c, FEAT_E8B)
        r.c = id_shift(c) << 12 | (min(c.cpuid.threads, 256) - 1 if c.cpuid.threads > 1 else 0)
    elif leaf == <u32>0x8000001E and has_feature(c, FEAT_E1C, 22):
        r.a = apic_id(c)
        r.b = apic_id(c) & 0xFF                                     # core; one thread each, one node

cdef void cpuid_xen(Cpu* c, u32 leaf, u32 sub, CpuidLeaf* r) noexcept nogil:
    """The leaves of Xen 4.17 (xen/include/public/arch-x86/cpuid.h)."""
    if leaf == 0x40000000:
        r.a = 0x40000005
        r.b, r.c, r.d = 0x566E6558, 0x65584D4D, 0x4D4D566E          # "XenV" "MMXe" "nVMM"
    elif leaf == 0x40000001:
        r.a = 4 << 16 | 17
    elif leaf == 0x40000002:
        r.a = 1                                                     # hypercall pages
        r.b = 0x40000000                                            # MSR that places one
        r.c = 1 if c.is_pv else 0                                   # XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD
    elif leaf == 0x40000003:
        if sub == 0:
            r.a = 6                                                 # TSC is stable, RDTSCP exists
            r.c = TSC_KHZ
        elif sub == 1:
            r.c = <u32>0x80000000                                        # ns = (tsc * 2^31) >> 31 >> -shift
            r.d = 1
        elif sub == 2:
            r.a = TSC_KHZ
    elif leaf == 0x40000004 and not c.is_pv:
        r.a = 1 | 2 | 8 | 16 | 64           # APIC and x2APIC registers without cost, vcpu and domain numbers below, upcalls by vcpu
        r.b, r.c = c.hvm.vcpu_id, c.hvm.domid
    elif leaf == 0x40000005 and c.is_pv:
        r.b = PHYS_BITS                                             # machine address width

cdef void cpuid_forced(Cpu* c, u32 leaf, u32 sub, CpuidLeaf* r) noexcept nogil:
    """Bits that the configuration gives values, beside features."""
    cdef CpuidForced* f
    cdef u32 i
    for i in range(c.cpuid.n_forced):
        f = &c.cpuid.forced[i]
        if f.leaf == leaf and (f.sub == sub or f.sub == <u32>0xFFFFFFFF):
            # SAFETY: set_cpuid_bits() checked that reg is below 4.
            (<u32*>r)[f.reg] = (<u32*>r)[f.reg] & ~f.mask | f.value & f.mask

cdef void cpuid(Cpu* c, u32 leaf, u32 sub, CpuidLeaf* r) noexcept nogil:
    """Leaves beyond the last one read as the last basic leaf on Intel: here as zeros, as hypervisors do."""
    memset(r, 0, sizeof(CpuidLeaf))
    if leaf < 0x40000000:
        if leaf == 0 or leaf <= basic_leaves(c):
            cpuid_basic(c, leaf, sub, r)
    elif leaf >= <u32>0x80000000:
        cpuid_extended(c, leaf, r)
    elif c.is_pv or c.hvm != NULL:
        cpuid_xen(c, leaf, sub, r)
    if c.cpuid.n_forced:
        cpuid_forced(c, leaf, sub, r)

cdef void cpuid_to_regs(Cpu* c) noexcept nogil:
    cdef CpuidLeaf r
    cpuid(c, <u32>c.r[RAX], <u32>c.r[RCX], &r)
    c.r[RAX], c.r[RBX], c.r[RCX], c.r[RDX] = r.a, r.b, r.c, r.d

cdef int CPUID(Cpu* c, Insn* o) noexcept nogil:
    cpuid_to_regs(c)
    return ST_OK
