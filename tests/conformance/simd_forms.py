"""MMX and SSE instructions for the oracle: opcode, operands and the kind of data that makes them interesting.

A line: mandatory prefix (NP 66 F3 F2), opcode after 0F, operands, data, mnemonics.  Operands are those of SDM Vol. 2,
appendix A, with the size of a memory operand in bytes: V XMM in reg, W XMM or memory, U XMM, P Q N the same for MMX,
G E general registers, M memory, Ib an immediate byte; a W of 16 bytes must be aligned unless it says u.  Several
opcodes in a row share a line.  Data: i integers, s singles, d doubles, q integers of which some are small (counts),
w 32- and 64-bit integers, m values for MXCSR, t short texts of few different characters (and
lengths in EAX and EDX), a integers in memory that is always aligned (AMD's SHA instructions take any address).
"""

SSE = """
NP 10     V,Wu16      i  MOVUPS
66 10     V,Wu16      i  MOVUPD
F3 10     V,W4        i  MOVSS
F2 10     V,W8        i  MOVSD
NP 11     Wu16,V      i  MOVUPS
66 11     Wu16,V      i  MOVUPD
F3 11     W4,V        i  MOVSS
F2 11     W8,V        i  MOVSD
NP 12     V,W8        i  MOVLPS MOVHLPS
66 12     V,M8        i  MOVLPD
F3 12     V,W16       i  MOVSLDUP
F2 12     V,W8        i  MOVDDUP
NP 13     M8,V        i  MOVLPS
66 13     M8,V        i  MOVLPD
NP 14-15  V,W16       i  UNPCKLPS UNPCKHPS
66 14-15  V,W16       i  UNPCKLPD UNPCKHPD
NP 16     V,W8        i  MOVHPS MOVLHPS
66 16     V,M8        i  MOVHPD
F3 16     V,W16       i  MOVSHDUP
NP 17     M8,V        i  MOVHPS
66 17     M8,V        i  MOVHPD
NP 28     V,W16       i  MOVAPS
66 28     V,W16       i  MOVAPD
NP 29     W16,V       i  MOVAPS
66 29     W16,V       i  MOVAPD
NP 2A     V,Q8        w  CVTPI2PS
66 2A     V,Q8        w  CVTPI2PD
F3 2A     V,E         w  CVTSI2SS
F2 2A     V,E         w  CVTSI2SD
NP 2B     M16,V       i  MOVNTPS
66 2B     M16,V       i  MOVNTPD
NP 2C-2D  P,W8        s  CVTTPS2PI CVTPS2PI
66 2C-2D  P,W16       d  CVTTPD2PI CVTPD2PI
F3 2C-2D  G,W4        s  CVTTSS2SI CVTSS2SI
F2 2C-2D  G,W8        d  CVTTSD2SI CVTSD2SI
NP 2E-2F  V,W4        s  UCOMISS COMISS
66 2E-2F  V,W8        d  UCOMISD COMISD
NP 50     G,U         i  MOVMSKPS
66 50     G,U         i  MOVMSKPD
NP 51     V,W16       s  SQRTPS
66 51     V,W16       d  SQRTPD
F3 51     V,W4        s  SQRTSS
F2 51     V,W8        d  SQRTSD
NP 54-57  V,W16       i  ANDPS ANDNPS ORPS XORPS
66 54-57  V,W16       i  ANDPD ANDNPD ORPD XORPD
NP 58-59  V,W16       s  ADDPS MULPS
66 58-59  V,W16       d  ADDPD MULPD
F3 58-59  V,W4        s  ADDSS MULSS
F2 58-59  V,W8        d  ADDSD MULSD
NP 5A     V,W8        s  CVTPS2PD
66 5A     V,W16       d  CVTPD2PS
F3 5A     V,W4        s  CVTSS2SD
F2 5A     V,W8        d  CVTSD2SS
NP 5B     V,W16       w  CVTDQ2PS
66 5B     V,W16       s  CVTPS2DQ
F3 5B     V,W16       s  CVTTPS2DQ
NP 5C-5F  V,W16       s  SUBPS MINPS DIVPS MAXPS
66 5C-5F  V,W16       d  SUBPD MINPD DIVPD MAXPD
F3 5C-5F  V,W4        s  SUBSS MINSS DIVSS MAXSS
F2 5C-5F  V,W8        d  SUBSD MINSD DIVSD MAXSD
NP 60-62  P,Q4        i  PUNPCKLBW PUNPCKLWD PUNPCKLDQ
NP 63-6B  P,Q8        i  PACKSSWB PCMPGTB PCMPGTW PCMPGTD PACKUSWB PUNPCKHBW PUNPCKHWD PUNPCKHDQ PACKSSDW
66 60-6D  V,W16       i  PUNPCKLBW PUNPCKLWD PUNPCKLDQ PACKSSWB PCMPGTB ... PUNPCKLQDQ PUNPCKHQDQ
NP 6E     P,E         i  MOVD
66 6E     V,E         i  MOVD
NP 6F     P,Q8        i  MOVQ
66 6F     V,W16       i  MOVDQA
F3 6F     V,Wu16      i  MOVDQU
NP 70     P,Q8,Ib     i  PSHUFW
66 70     V,W16,Ib    i  PSHUFD
F3 70     V,W16,Ib    i  PSHUFHW
F2 70     V,W16,Ib    i  PSHUFLW
NP 71/2   N,Ib        i  PSRLW
NP 71/4   N,Ib        i  PSRAW
NP 71/6   N,Ib        i  PSLLW
66 71/2   U,Ib        i  PSRLW
66 71/4   U,Ib        i  PSRAW
66 71/6   U,Ib        i  PSLLW
NP 72/2   N,Ib        i  PSRLD
NP 72/4   N,Ib        i  PSRAD
NP 72/6   N,Ib        i  PSLLD
66 72/2   U,Ib        i  PSRLD
66 72/4   U,Ib        i  PSRAD
66 72/6   U,Ib        i  PSLLD
NP 73/2   N,Ib        i  PSRLQ
NP 73/6   N,Ib        i  PSLLQ
66 73/2   U,Ib        i  PSRLQ
66 73/3   U,Ib        i  PSRLDQ
66 73/6   U,Ib        i  PSLLQ
66 73/7   U,Ib        i  PSLLDQ
NP 74-76  P,Q8        i  PCMPEQB PCMPEQW PCMPEQD
66 74-76  V,W16       i  PCMPEQB PCMPEQW PCMPEQD
NP 77     -           i  EMMS
66 7C-7D  V,W16       d  HADDPD HSUBPD
F2 7C-7D  V,W16       s  HADDPS HSUBPS
NP 7E     E,P         i  MOVD
66 7E     E,V         i  MOVD
F3 7E     V,W8        i  MOVQ
NP 7F     Q8,P        i  MOVQ
66 7F     W16,V       i  MOVDQA
F3 7F     Wu16,V      i  MOVDQU
NP AE/2   M4          m  LDMXCSR
NP AE/3   M4          i  STMXCSR
NP C2     V,W16,Ib    s  CMPPS
66 C2     V,W16,Ib    d  CMPPD
F3 C2     V,W4,Ib     s  CMPSS
F2 C2     V,W8,Ib     d  CMPSD
NP C3     M8,G        i  MOVNTI
NP C4     P,E2,Ib     i  PINSRW
66 C4     V,E2,Ib     i  PINSRW
NP C5     G,N,Ib      i  PEXTRW
66 C5     G,U,Ib      i  PEXTRW
NP C6     V,W16,Ib    i  SHUFPS
66 C6     V,W16,Ib    i  SHUFPD
66 D0     V,W16       d  ADDSUBPD
F2 D0     V,W16       s  ADDSUBPS
NP D1-D3  P,Q8        q  PSRLW PSRLD PSRLQ
66 D1-D3  V,W16       q  PSRLW PSRLD PSRLQ
NP D4-D5  P,Q8        i  PADDQ PMULLW
66 D4-D5  V,W16       i  PADDQ PMULLW
66 D6     W8,V        i  MOVQ
F3 D6     V,N         i  MOVQ2DQ
F2 D6     P,U         i  MOVDQ2Q
NP D7     G,N         i  PMOVMSKB
66 D7     G,U         i  PMOVMSKB
NP D8-E0  P,Q8        i  PSUBUSB PSUBUSW PMINUB PAND PADDUSB PADDUSW PMAXUB PANDN PAVGB
66 D8-E0  V,W16       i  PSUBUSB PSUBUSW PMINUB PAND PADDUSB PADDUSW PMAXUB PANDN PAVGB
NP E1-E2  P,Q8        q  PSRAW PSRAD
66 E1-E2  V,W16       q  PSRAW PSRAD
NP E3-E5  P,Q8        i  PAVGW PMULHUW PMULHW
66 E3-E5  V,W16       i  PAVGW PMULHUW PMULHW
66 E6     V,W16       d  CVTTPD2DQ
F3 E6     V,W8        w  CVTDQ2PD
F2 E6     V,W16       d  CVTPD2DQ
NP E7     M8,P        i  MOVNTQ
66 E7     M16,V       i  MOVNTDQ
NP E8-EF  P,Q8        i  PSUBSB PSUBSW PMINSW POR PADDSB PADDSW PMAXSW PXOR
66 E8-EF  V,W16       i  PSUBSB PSUBSW PMINSW POR PADDSB PADDSW PMAXSW PXOR
F2 F0     V,Mu16      i  LDDQU
NP F1-F3  P,Q8        q  PSLLW PSLLD PSLLQ
66 F1-F3  V,W16       q  PSLLW PSLLD PSLLQ
NP F4-F6  P,Q8        i  PMULUDQ PMADDWD PSADBW
66 F4-F6  V,W16       i  PMULUDQ PMADDWD PSADBW
NP F7     P,N         i  MASKMOVQ
66 F7     V,U         i  MASKMOVDQU
NP F8-FE  P,Q8        i  PSUBB PSUBW PSUBD PSUBQ PADDB PADDW PADDD
66 F8-FE  V,W16       i  PSUBB PSUBW PSUBD PSUBQ PADDB PADDW PADDD
"""

SSE4 = """
NP 38.00-0B  P,Q8        i  PSHUFB PHADDW PHADDD PHADDSW PMADDUBSW PHSUBW PHSUBD PHSUBSW PSIGNB PSIGNW PSIGND PMULHRSW
66 38.00-0B  V,W16       i  the same
66 38.10     V,W16       i  PBLENDVB
66 38.14-15  V,W16       i  BLENDVPS BLENDVPD
66 38.17     V,W16       i  PTEST
NP 38.1C-1E  P,Q8        i  PABSB PABSW PABSD
66 38.1C-1E  V,W16       i  PABSB PABSW PABSD
66 38.20     V,W8        i  PMOVSXBW
66 38.21     V,W4        i  PMOVSXBD
66 38.22     V,W2        i  PMOVSXBQ
66 38.23     V,W8        i  PMOVSXWD
66 38.24     V,W4        i  PMOVSXWQ
66 38.25     V,W8        i  PMOVSXDQ
66 38.28-29  V,W16       i  PMULDQ PCMPEQQ
66 38.2A     V,M16       i  MOVNTDQA
66 38.2B     V,W16       i  PACKUSDW
66 38.30     V,W8        i  PMOVZXBW
66 38.31     V,W4        i  PMOVZXBD
66 38.32     V,W2        i  PMOVZXBQ
66 38.33     V,W8        i  PMOVZXWD
66 38.34     V,W4        i  PMOVZXWQ
66 38.35     V,W8        i  PMOVZXDQ
66 38.37-41  V,W16       i  PCMPGTQ PMIN.. PMAX.. PMULLD PHMINPOSUW
66 3A.08     V,W16,Ib    s  ROUNDPS
66 3A.09     V,W16,Ib    d  ROUNDPD
66 3A.0A     V,W4,Ib     s  ROUNDSS
66 3A.0B     V,W8,Ib     d  ROUNDSD
66 3A.0C-0E  V,W16,Ib    i  BLENDPS BLENDPD PBLENDW
NP 3A.0F     P,Q8,Ib     i  PALIGNR
66 3A.0F     V,W16,Ib    i  PALIGNR
66 3A.14     E1,V,Ib     i  PEXTRB
66 3A.15     E2,V,Ib     i  PEXTRW
66 3A.16     E,V,Ib      i  PEXTRD PEXTRQ
66 3A.17     E4,V,Ib     i  EXTRACTPS
66 3A.20     V,E1,Ib     i  PINSRB
66 3A.21     V,W4,Ib     i  INSERTPS
66 3A.22     V,E,Ib      i  PINSRD PINSRQ
66 3A.40     V,W16,Ib    s  DPPS
66 3A.41     V,W16,Ib    d  DPPD
66 3A.42     V,W16,Ib    i  MPSADBW
66 3A.60     V,Wu16,Ib   t  PCMPESTRM
66 3A.61     V,Wu16,Ib   t  PCMPESTRI
66 3A.62     V,Wu16,Ib   t  PCMPISTRM
66 3A.63     V,Wu16,Ib   t  PCMPISTRI
"""

CRYPTO = """
66 3A.44     V,W16,Ib    i  PCLMULQDQ
66 38.DB-DF  V,W16       i  AESIMC AESENC AESENCLAST AESDEC AESDECLAST
66 3A.DF     V,W16,Ib    i  AESKEYGENASSIST
NP 38.C8-CD  V,W16       a  SHA1NEXTE SHA1MSG1 SHA1MSG2 SHA256RNDS2 SHA256MSG1 SHA256MSG2
NP 3A.CC     V,W16,Ib    a  SHA1RNDS4
"""


class Form:
    """One opcode of the tables above."""

    def __init__(self, prefix: str, opcode: str, operands: str, data: str) -> None:
        self.prefix = b"" if prefix == "NP" else bytes.fromhex(prefix)
        code, _, reg = opcode.partition("/")
        self.opcode = b"\x0f" + bytes.fromhex(code.replace(".", ""))
        self.reg = int(reg) if reg else None
        self.operands = [] if operands == "-" else operands.split(",")
        self.data = data
        self.name = f"{prefix} 0F {opcode} {operands}"
        rm = [o for o in self.operands if o[0] in "WQEM"]
        self.memory = int(rm[0].lstrip("WQEMu") or 0) if rm else None           # bytes; 0: 4 or 8 with REX.W
        self.aligned = bool(rm) and self.memory == 16 and "u" not in rm[0]
        self.only_memory = bool(rm) and rm[0][0] == "M"
        self.has_imm = "Ib" in self.operands
        self.wide = any(o in ("G", "E") for o in self.operands) or data == "t"      # REX.W means something


def forms(table: str) -> list[Form]:
    out = []
    for line in table.strip().splitlines():
        prefix, opcode, operands, data = line.split()[:4]
        base, _, last = opcode.partition("-")
        if not last:
            out.append(Form(prefix, opcode, operands, data))
            continue
        stem = base[:-2]
        out += [Form(prefix, f"{stem}{i:02X}", operands, data) for i in range(int(base[-2:], 16), int(last, 16) + 1)]
    return out
