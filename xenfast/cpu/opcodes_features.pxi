# Which feature of CPUID an instruction belongs to, and what happens to it where the vcpu's policy has that feature off.
#
# SDM Vol. 2, the column "CPUID Feature Flag" of each instruction.  The table names features as cpuid.pxi does and instructions by
# their mnemonics in the opcode table ("PEXTRW:Ew,Vdq,Ib": that mnemonic with these operands).  decode_for() is decode() for one vcpu: an
# instruction whose feature is off is undefined, or what it was before the feature existed (LZCNT without its bit is BSR).  It
# costs nothing at run time: blocks belong to a vcpu, and policy_set() drops them.
#
# What is not named: a row of XMM registers is SSE2's, of MMX registers MMX's, with a VEX prefix AVX's (and AVX2's when it handles
# integers in 256 bits), of the x87 stack the FPU's; every other row needs no feature.  A feature that takes away only a form of an
# instruction (LAHF in 64-bit mode, CMPXCHG16B) is looked at by its exec function.

cdef enum:               # a class of rows, by their attributes and map
    CLASS_ANY = 0
    CLASS_FPU = 1
    CLASS_MMX = 2
    CLASS_SSE = 3
    CLASS_VEX = 4

# THE TABLE: feature, class of the rows, mnemonics.
FEATURE_INSTRUCTIONS = (
    ("fpu", CLASS_FPU, "*"),
    ("cmov", CLASS_FPU, "FCMOVB FCMOVE FCMOVBE FCMOVU FCMOVNB FCMOVNE FCMOVNBE FCMOVNU FCOMI FCOMIP FUCOMI FUCOMIP"),
    ("sse3", CLASS_FPU, "FISTTP"),
    ("fxsr", CLASS_FPU, "FXSAVE FXRSTOR"),
    ("tsc", CLASS_ANY, "RDTSC"),
    ("msr", CLASS_ANY, "RDMSR WRMSR"),
    ("cx8", CLASS_ANY, "CMPXCHG8B"),
    ("sep", CLASS_ANY, "SYSENTER SYSEXIT"),
    ("cmov", CLASS_ANY, "CMOVO CMOVNO CMOVB CMOVAE CMOVE CMOVNE CMOVBE CMOVA CMOVS CMOVNS CMOVP CMOVNP CMOVL CMOVGE CMOVLE CMOVG"),
    ("clflush", CLASS_ANY, "CLFLUSH"),
    ("mmx", CLASS_MMX, "*"),
    ("sse", CLASS_MMX, """PSHUFW PINSRW PEXTRW PMOVMSKB PMINUB PMAXUB PAVGB PAVGW PMULHUW PMINSW PMAXSW PSADBW MOVNTQ MASKMOVQ"""),
    ("sse2", CLASS_MMX, "PADDQ PSUBQ PMULUDQ"),
    ("ssse3", CLASS_MMX, """PSHUFB PHADDW PHADDD PHADDSW PMADDUBSW PHSUBW PHSUBD PHSUBSW PSIGNB PSIGNW PSIGND PMULHRSW PABSB PABSW
        PABSD PALIGNR"""),
    ("sse", CLASS_ANY, "SFENCE"),
    ("sse", CLASS_SSE, """MOVUPS MOVSS MOVLPS MOVHPS UNPCKLPS UNPCKHPS MOVAPS CVTPI2PS CVTSI2SS MOVNTPS CVTTPS2PI CVTPS2PI CVTTSS2SI
        CVTSS2SI UCOMISS COMISS MOVMSKPS SQRTPS SQRTSS RSQRTPS RSQRTSS RCPPS RCPSS ANDPS ANDNPS ORPS XORPS ADDPS ADDSS MULPS MULSS
        SUBPS SUBSS MINPS MINSS DIVPS DIVSS MAXPS MAXSS LDMXCSR STMXCSR CMPPS CMPSS SHUFPS"""),
    ("sse2", CLASS_SSE, "*"),
    ("sse2", CLASS_ANY, "MOVNTI LFENCE MFENCE"),
    ("sse3", CLASS_SSE, "MOVSLDUP MOVDDUP MOVSHDUP HADDPD HADDPS HSUBPD HSUBPS ADDSUBPD ADDSUBPS LDDQU"),
    ("ssse3", CLASS_SSE, """PSHUFB PHADDW PHADDD PHADDSW PMADDUBSW PHSUBW PHSUBD PHSUBSW PSIGNB PSIGNW PSIGND PMULHRSW PABSB PABSW
        PABSD PALIGNR"""),
    ("sse4_1", CLASS_SSE, """PBLENDVB BLENDVPS BLENDVPD PTEST PMOVSXBW PMOVSXBD PMOVSXBQ PMOVSXWD PMOVSXWQ PMOVSXDQ PMULDQ PCMPEQQ
        MOVNTDQA PACKUSDW PMOVZXBW PMOVZXBD PMOVZXBQ PMOVZXWD PMOVZXWQ PMOVZXDQ PMINSB PMINSD PMINUW PMINUD PMAXSB PMAXSD PMAXUW
        PMAXUD PMULLD PHMINPOSUW ROUNDPS ROUNDPD ROUNDSS ROUNDSD BLENDPS BLENDPD PBLENDW PEXTRB PEXTRW:Ew,Vdq,Ib PEXTRD EXTRACTPS
        PINSRB INSERTPS PINSRD DPPS DPPD MPSADBW"""),
    ("sse4_2", CLASS_SSE, "PCMPGTQ PCMPESTRM PCMPESTRI PCMPISTRM PCMPISTRI"),
    ("sse4_2", CLASS_ANY, "CRC32"),
    ("aesni", CLASS_VEX, "VAES*"),
    ("pclmulqdq", CLASS_VEX, "VPCLMULQDQ"),
    ("aesni", CLASS_SSE, "AESIMC AESENC AESENCLAST AESDEC AESDECLAST AESKEYGENASSIST"),
    ("pclmulqdq", CLASS_SSE, "PCLMULQDQ"),
    ("sha", CLASS_SSE, "SHA1NEXTE SHA1MSG1 SHA1MSG2 SHA256RNDS2 SHA256MSG1 SHA256MSG2 SHA1RNDS4"),
    ("monitor", CLASS_ANY, "MONITOR MWAIT"),
    ("movbe", CLASS_ANY, "MOVBE"),
    ("popcnt", CLASS_ANY, "POPCNT"),
    ("xsave", CLASS_ANY, "XSAVE XRSTOR XGETBV XSETBV"),
    ("xsaveopt", CLASS_ANY, "XSAVEOPT"),
    ("xsavec", CLASS_ANY, "XSAVEC"),
    ("xsaves", CLASS_ANY, "XSAVES XRSTORS"),
    ("rdrand", CLASS_ANY, "RDRAND"),
    ("syscall", CLASS_ANY, "SYSCALL SYSRET"),
    ("rdtscp", CLASS_ANY, "RDTSCP"),
    ("lzcnt", CLASS_ANY, "LZCNT"),
    ("fsgsbase", CLASS_ANY, "RDFSBASE RDGSBASE WRFSBASE WRGSBASE"),
    ("bmi1", CLASS_ANY, "TZCNT"),
    ("bmi1", CLASS_VEX, "ANDN BEXTR BLSI BLSMSK BLSR"),
    ("bmi2", CLASS_VEX, "BZHI MULX PDEP PEXT RORX SARX SHLX SHRX"),
    ("invpcid", CLASS_ANY, "INVPCID"),
    ("rdseed", CLASS_ANY, "RDSEED"),
    ("adx", CLASS_ANY, "ADCX ADOX"),
    ("smap", CLASS_ANY, "CLAC STAC"),
    ("clflushopt", CLASS_ANY, "CLFLUSHOPT"),
    ("clwb", CLASS_ANY, "CLWB"),
    ("pku", CLASS_ANY, "RDPKRU WRPKRU"),
    ("rdpid", CLASS_ANY, "RDPID"),
    ("movdiri", CLASS_ANY, "MOVDIRI"),
    ("movdir64b", CLASS_ANY, "MOVDIR64B"),
    ("serialize", CLASS_ANY, "SERIALIZE"),
    ("avx", CLASS_VEX, "*"),
    ("f16c", CLASS_VEX, "VCVTPH2PS VCVTPS2PH"),
    ("fma", CLASS_VEX, "VFMADD* VFMSUB* VFNMADD* VFNMSUB*"),
    ("avx2", CLASS_VEX, """VPBROADCAST* VBROADCASTI128 VEXTRACTI128 VINSERTI128 VPERM2I128 VPERMD VPERMQ VPERMPS VPERMPD VPBLENDD
        VPSLLV* VPSRAV* VPSRLV* VPGATHER* VGATHER* VPMASKMOV*"""),
)
# With 256 bits these integer instructions are AVX's all the same; the others that begin with VP are AVX2's, and so are the exceptions here.
AVX_IN_256 = ("VPERM2F128", "VPERMILPS", "VPERMILPD", "VPTEST")
AVX2_IN_256 = ("VMPSADBW", "VMOVNTDQA")

# What an instruction is without its feature, where that is not #UD.
FEATURE_INSTEAD = {"LZCNT": "BSR", "TZCNT": "BSF"}

cdef int row_class(Row* row) except -1:
    if row.attrs & (A_SSE | A_FPU):
        return CLASS_SSE if row.attrs & A_SSE else CLASS_MMX if row.attrs & A_MMX else CLASS_FPU
    return CLASS_ANY

cdef u16 row_feature(dict exact, list wild, int kind, str name, str operands) except 0xFFFF:
    for key in ((kind, f"{name}:{operands}"), (kind, name)):
        if key in exact:
            return exact[key]
    for kind_, prefix, feature in wild:
        if kind_ == kind and name.startswith(prefix):
            return feature
    return 0

cdef init_row_features():
    """Fill in Row.feature, Row.feature_256 and Row.instead from the table."""
    cdef int i, kind
    cdef Row* row
    exact, wild, by_name = {}, [], {}
    for feature, kind, names in FEATURE_INSTRUCTIONS:
        id = feature_named(feature)
        for name in names.split():
            if name.endswith("*"):
                wild.append((kind, name.rstrip("*"), id))
            else:
                exact[kind, name] = id
    wild.sort(key=lambda entry: -len(entry[1]))              # the longest prefix first, "*" last
    vex_rows = rows_of_maps(MAP_V0F, MAP_COUNT << 8)
    avx2 = feature_named("avx2")
    for i in range(1, n_rows):
        row = &rows[i]
        name, operands = row.name.decode(), row.operands.decode()
        by_name.setdefault(name, i)
        kind = CLASS_VEX if i in vex_rows else row_class(row)
        row.feature = row.feature_256 = row_feature(exact, wild, kind, name, operands)
        if kind == CLASS_VEX and (name.startswith("VP") and name not in AVX_IN_256 or name in AVX2_IN_256):
            row.feature_256 = avx2
    for name, other in FEATURE_INSTEAD.items():
        rows[<int>by_name[name]].instead = by_name[other]

cdef rows_of_maps(int first, int last):
    """The rows that the opcodes of these maps lead to."""
    cdef int i, k
    found = set()
    for i in range((first >> 8) * 1024, (last >> 8) * 1024):
        if opcode_map[i] & GROUP_BIT:
            found.update([groups[opcode_map[i] & 0x7FFF][k] for k in range(72)])
        else:
            found.add(opcode_map[i])
    found.discard(ROW_UD)
    return found

cdef inline int decode_for(Cpu* c, const u8* bytes, int avail, Insn* o) noexcept nogil:
    """decode() under the policy of a vcpu."""
    cdef int length = decode(c.mode, bytes, avail, o)
    cdef u16 need
    if length > 0:
        need = rows[o.op].feature_256 if o.vex & VEX_L else rows[o.op].feature
        if unlikely(need and not has_feature_id(c, need)):
            feature_is_off(o)
    return length

cdef void feature_is_off(Insn* o) noexcept nogil:
    o.op = rows[o.op].instead
    o.ex = UD1 if o.op == ROW_UD else rows[o.op].ex
