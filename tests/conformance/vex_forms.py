"""VEX-encoded instructions for the oracle: opcode, operands and the kind of data that makes them interesting.

A line: mandatory prefix, opcode after the map, VEX.L and VEX.W, operands, data, mnemonics.  L and W: 0, 1, or x for both;
where the SDM says that one is ignored both are tried.  Operands as in simd_forms.py, and H: VEX.vvvv; L: the register in
the immediate; x for a size of 16 or 32 bytes by VEX.L and h for half of that; a: memory must be aligned; S: memory at a
vector of indices.  Data as in simd_forms.py, and h half precision, k masks and small indices.
"""

import numpy as np

AVX = """
NP 10      x x  V,Wx       i  VMOVUPS
66 10      x x  V,Wx       i  VMOVUPD
F3 10      x x  V,M4       i  VMOVSS
F2 10      x x  V,M8       i  VMOVSD
F3 10      x x  V,H,U      i  VMOVSS
F2 10      x x  V,H,U      i  VMOVSD
NP 11      x x  Wx,V       i  VMOVUPS
66 11      x x  Wx,V       i  VMOVUPD
F3 11      x x  M4,V       i  VMOVSS
F2 11      x x  M8,V       i  VMOVSD
F3 11      x x  U,H,V      i  VMOVSS
F2 11      x x  U,H,V      i  VMOVSD
NP 12      0 x  V,H,W8     i  VMOVLPS VMOVHLPS
66 12      0 x  V,H,M8     i  VMOVLPD
F3 12      x x  V,Wx       i  VMOVSLDUP
F2 12      0 x  V,W8       i  VMOVDDUP
F2 12      1 x  V,W32      i  VMOVDDUP
NP 13      0 x  M8,V       i  VMOVLPS
66 13      0 x  M8,V       i  VMOVLPD
NP 14-15   x x  V,H,Wx     i  VUNPCKLPS VUNPCKHPS
66 14-15   x x  V,H,Wx     i  VUNPCKLPD VUNPCKHPD
NP 16      0 x  V,H,W8     i  VMOVHPS VMOVLHPS
66 16      0 x  V,H,M8     i  VMOVHPD
F3 16      x x  V,Wx       i  VMOVSHDUP
NP 17      0 x  M8,V       i  VMOVHPS
66 17      0 x  M8,V       i  VMOVHPD
NP 28      x x  V,Wxa      i  VMOVAPS
66 28      x x  V,Wxa      i  VMOVAPD
NP 29      x x  Wxa,V      i  VMOVAPS
66 29      x x  Wxa,V      i  VMOVAPD
F3 2A      x x  V,H,E      w  VCVTSI2SS
F2 2A      x x  V,H,E      w  VCVTSI2SD
NP 2B      x x  Mxa,V      i  VMOVNTPS
66 2B      x x  Mxa,V      i  VMOVNTPD
F3 2C-2D   x x  G,W4       s  VCVTTSS2SI VCVTSS2SI
F2 2C-2D   x x  G,W8       d  VCVTTSD2SI VCVTSD2SI
NP 2E-2F   x x  V,W4       s  VUCOMISS VCOMISS
66 2E-2F   x x  V,W8       d  VUCOMISD VCOMISD
NP 50      x x  G,U        i  VMOVMSKPS
66 50      x x  G,U        i  VMOVMSKPD
NP 51      x x  V,Wx       s  VSQRTPS
66 51      x x  V,Wx       d  VSQRTPD
F3 51      x x  V,H,W4     s  VSQRTSS
F2 51      x x  V,H,W8     d  VSQRTSD
NP 54-57   x x  V,H,Wx     i  VANDPS VANDNPS VORPS VXORPS
66 54-57   x x  V,H,Wx     i  VANDPD VANDNPD VORPD VXORPD
NP 58-59   x x  V,H,Wx     s  VADDPS VMULPS
66 58-59   x x  V,H,Wx     d  VADDPD VMULPD
F3 58-59   x x  V,H,W4     s  VADDSS VMULSS
F2 58-59   x x  V,H,W8     d  VADDSD VMULSD
NP 5A      x x  V,Wh       s  VCVTPS2PD
66 5A      x x  V,Wx       d  VCVTPD2PS
F3 5A      x x  V,H,W4     s  VCVTSS2SD
F2 5A      x x  V,H,W8     d  VCVTSD2SS
NP 5B      x x  V,Wx       w  VCVTDQ2PS
66 5B      x x  V,Wx       s  VCVTPS2DQ
F3 5B      x x  V,Wx       s  VCVTTPS2DQ
NP 5C-5F   x x  V,H,Wx     s  VSUBPS VMINPS VDIVPS VMAXPS
66 5C-5F   x x  V,H,Wx     d  VSUBPD VMINPD VDIVPD VMAXPD
F3 5C-5F   x x  V,H,W4     s  VSUBSS VMINSS VDIVSS VMAXSS
F2 5C-5F   x x  V,H,W8     d  VSUBSD VMINSD VDIVSD VMAXSD
66 60-6D   x x  V,H,Wx     i  VPUNPCKLBW ... VPUNPCKHQDQ
66 6E      0 x  V,E        i  VMOVD VMOVQ
66 6F      x x  V,Wxa      i  VMOVDQA
F3 6F      x x  V,Wx       i  VMOVDQU
66 70      x x  V,Wx,Ib    i  VPSHUFD
F3 70      x x  V,Wx,Ib    i  VPSHUFHW
F2 70      x x  V,Wx,Ib    i  VPSHUFLW
66 71/2    x x  H,U,Ib     i  VPSRLW
66 71/4    x x  H,U,Ib     i  VPSRAW
66 71/6    x x  H,U,Ib     i  VPSLLW
66 72/2    x x  H,U,Ib     i  VPSRLD
66 72/4    x x  H,U,Ib     i  VPSRAD
66 72/6    x x  H,U,Ib     i  VPSLLD
66 73/2    x x  H,U,Ib     i  VPSRLQ
66 73/3    x x  H,U,Ib     i  VPSRLDQ
66 73/6    x x  H,U,Ib     i  VPSLLQ
66 73/7    x x  H,U,Ib     i  VPSLLDQ
66 74-76   x x  V,H,Wx     i  VPCMPEQB VPCMPEQW VPCMPEQD
NP 77      x x  -          i  VZEROUPPER VZEROALL
66 7C-7D   x x  V,H,Wx     d  VHADDPD VHSUBPD
F2 7C-7D   x x  V,H,Wx     s  VHADDPS VHSUBPS
66 7E      0 x  E,V        i  VMOVD VMOVQ
F3 7E      0 x  V,W8       i  VMOVQ
66 7F      x x  Wxa,V      i  VMOVDQA
F3 7F      x x  Wx,V       i  VMOVDQU
NP AE/2    0 x  M4         m  VLDMXCSR
NP AE/3    0 x  M4         i  VSTMXCSR
NP C2      x x  V,H,Wx,Ib  s  VCMPPS
66 C2      x x  V,H,Wx,Ib  d  VCMPPD
F3 C2      x x  V,H,W4,Ib  s  VCMPSS
F2 C2      x x  V,H,W8,Ib  d  VCMPSD
66 C4      0 0  V,H,E2,Ib  i  VPINSRW
66 C5      0 0  G,U,Ib     i  VPEXTRW
NP C6      x x  V,H,Wx,Ib  i  VSHUFPS
66 C6      x x  V,H,Wx,Ib  i  VSHUFPD
66 D0      x x  V,H,Wx     d  VADDSUBPD
F2 D0      x x  V,H,Wx     s  VADDSUBPS
66 D1-D3   x x  V,H,W16    q  VPSRLW VPSRLD VPSRLQ
66 D4-D5   x x  V,H,Wx     i  VPADDQ VPMULLW
66 D6      0 x  W8,V       i  VMOVQ
66 D7      x x  G,U        i  VPMOVMSKB
66 D8-E0   x x  V,H,Wx     i  VPSUBUSB VPSUBUSW VPMINUB VPAND VPADDUSB VPADDUSW VPMAXUB VPANDN VPAVGB
66 E1-E2   x x  V,H,W16    q  VPSRAW VPSRAD
66 E3-E5   x x  V,H,Wx     i  VPAVGW VPMULHUW VPMULHW
66 E6      x x  V,Wx       d  VCVTTPD2DQ
F3 E6      x x  V,Wh       w  VCVTDQ2PD
F2 E6      x x  V,Wx       d  VCVTPD2DQ
66 E7      x x  Mxa,V      i  VMOVNTDQ
66 E8-EF   x x  V,H,Wx     i  VPSUBSB VPSUBSW VPMINSW VPOR VPADDSB VPADDSW VPMAXSW VPXOR
F2 F0      x x  V,Mx       i  VLDDQU
66 F1-F3   x x  V,H,W16    q  VPSLLW VPSLLD VPSLLQ
66 F4-F6   x x  V,H,Wx     i  VPMULUDQ VPMADDWD VPSADBW
66 F7      0 x  V,U        i  VMASKMOVDQU
66 F8-FE   x x  V,H,Wx     i  VPSUBB VPSUBW VPSUBD VPSUBQ VPADDB VPADDW VPADDD
"""

AVX38 = """
66 38.00-0B  x x  V,H,Wx   i  VPSHUFB VPHADDW ... VPMULHRSW
66 38.0C-0D  x 0  V,H,Wx   i  VPERMILPS VPERMILPD
66 38.0E-0F  x 0  V,Wx     i  VTESTPS VTESTPD
66 38.16     1 0  V,H,Wx   i  VPERMPS
66 38.17     x x  V,Wx     i  VPTEST
66 38.18     x 0  V,W4     i  VBROADCASTSS
66 38.19     1 0  V,W8     i  VBROADCASTSD
66 38.1A     1 0  V,M16    i  VBROADCASTF128
66 38.1C-1E  x x  V,Wx     i  VPABSB VPABSW VPABSD
66 38.20     x x  V,Wh     i  VPMOVSXBW
66 38.21     x x  V,Wq     i  VPMOVSXBD
66 38.22     x x  V,Wo     i  VPMOVSXBQ
66 38.23     x x  V,Wh     i  VPMOVSXWD
66 38.24     x x  V,Wq     i  VPMOVSXWQ
66 38.25     x x  V,Wh     i  VPMOVSXDQ
66 38.28-29  x x  V,H,Wx   i  VPMULDQ VPCMPEQQ
66 38.2A     x x  V,Mxa    i  VMOVNTDQA
66 38.2B     x x  V,H,Wx   i  VPACKUSDW
66 38.2C-2D  x 0  V,H,Mx   i  VMASKMOVPS VMASKMOVPD
66 38.2E-2F  x 0  Mx,H,V   i  VMASKMOVPS VMASKMOVPD
66 38.30     x x  V,Wh     i  VPMOVZXBW
66 38.31     x x  V,Wq     i  VPMOVZXBD
66 38.32     x x  V,Wo     i  VPMOVZXBQ
66 38.33     x x  V,Wh     i  VPMOVZXWD
66 38.34     x x  V,Wq     i  VPMOVZXWQ
66 38.35     x x  V,Wh     i  VPMOVZXDQ
66 38.36     1 0  V,H,Wx   i  VPERMD
66 38.37-3F  x x  V,H,Wx   i  VPCMPGTQ VPMINSB ... VPMAXUD
66 38.40     x x  V,H,Wx   i  VPMULLD
66 38.41     0 x  V,Wx     i  VPHMINPOSUW
66 38.45     x x  V,H,Wx   k  VPSRLVD VPSRLVQ
66 38.46     x 0  V,H,Wx   k  VPSRAVD
66 38.47     x x  V,H,Wx   k  VPSLLVD VPSLLVQ
66 38.58     x 0  V,W4     i  VPBROADCASTD
66 38.59     x 0  V,W8     i  VPBROADCASTQ
66 38.5A     1 0  V,M16    i  VBROADCASTI128
66 38.78     x 0  V,W1     i  VPBROADCASTB
66 38.79     x 0  V,W2     i  VPBROADCASTW
66 38.8C     x x  V,H,Mx   i  VPMASKMOVD VPMASKMOVQ
66 38.8E     x x  Mx,H,V   i  VPMASKMOVD VPMASKMOVQ
66 38.DB     0 x  V,W16    i  VAESIMC
66 38.DC-DF  0 x  V,H,W16  i  VAESENC VAESENCLAST VAESDEC VAESDECLAST
"""

AVX3A = """
66 3A.00-01  1 1  V,Wx,Ib    i  VPERMQ VPERMPD
66 3A.02     x 0  V,H,Wx,Ib  i  VPBLENDD
66 3A.04-05  x 0  V,Wx,Ib    i  VPERMILPS VPERMILPD
66 3A.06     1 0  V,H,Wx,Ib  i  VPERM2F128
66 3A.08     x x  V,Wx,Ib    s  VROUNDPS
66 3A.09     x x  V,Wx,Ib    d  VROUNDPD
66 3A.0A     x x  V,H,W4,Ib  s  VROUNDSS
66 3A.0B     x x  V,H,W8,Ib  d  VROUNDSD
66 3A.0C-0F  x x  V,H,Wx,Ib  i  VBLENDPS VBLENDPD VPBLENDW VPALIGNR
66 3A.14     0 0  E1,V,Ib    i  VPEXTRB
66 3A.15     0 0  E2,V,Ib    i  VPEXTRW
66 3A.16     0 x  E,V,Ib     i  VPEXTRD VPEXTRQ
66 3A.17     0 x  E4,V,Ib    i  VEXTRACTPS
66 3A.18     1 0  V,H,W16,Ib i  VINSERTF128
66 3A.19     1 0  W16,V,Ib   i  VEXTRACTF128
66 3A.20     0 0  V,H,E1,Ib  i  VPINSRB
66 3A.21     0 x  V,H,W4,Ib  i  VINSERTPS
66 3A.22     0 x  V,H,E,Ib   i  VPINSRD VPINSRQ
66 3A.38     1 0  V,H,W16,Ib i  VINSERTI128
66 3A.39     1 0  W16,V,Ib   i  VEXTRACTI128
66 3A.40     x x  V,H,Wx,Ib  s  VDPPS
66 3A.41     0 x  V,H,W16,Ib d  VDPPD
66 3A.42     x x  V,H,Wx,Ib  i  VMPSADBW
66 3A.44     0 x  V,H,W16,Ib i  VPCLMULQDQ
66 3A.46     1 0  V,H,Wx,Ib  i  VPERM2I128
66 3A.4A-4C  x 0  V,H,Wx,L   i  VBLENDVPS VBLENDVPD VPBLENDVB
66 3A.60     0 x  V,W16,Ib   t  VPCMPESTRM
66 3A.61     0 x  V,W16,Ib   t  VPCMPESTRI
66 3A.62     0 x  V,W16,Ib   t  VPCMPISTRM
66 3A.63     0 x  V,W16,Ib   t  VPCMPISTRI
66 3A.DF     0 x  V,W16,Ib   i  VAESKEYGENASSIST
"""

F16C = """
66 38.13     x 0  V,Wh       h  VCVTPH2PS
66 3A.1D     x 0  Wh,V,Ib    s  VCVTPS2PH
"""

FMA = "".join(
    f"""
66 38.{row}{first}     x {w}  V,H,W{'x' if packed else size}   {data}  {name}
"""
    for row in "9AB"
    for w, data, size in ((0, "s", 4), (1, "d", 8))
    for first, packed, name in (("6", 1, "VFMADDSUB"), ("7", 1, "VFMSUBADD"), ("8", 1, "VFMADD"), ("9", 0, "VFMADD"),
                                ("A", 1, "VFMSUB"), ("B", 0, "VFMSUB"), ("C", 1, "VFNMADD"), ("D", 0, "VFNMADD"),
                                ("E", 1, "VFNMSUB"), ("F", 0, "VFNMSUB"))
)

GATHER = """
66 38.90     x x  V,S,H  g  VPGATHERDD VPGATHERDQ
66 38.91     x x  V,S,H  g  VPGATHERQD VPGATHERQQ
66 38.92     x x  V,S,H  g  VGATHERDPS VGATHERDPD
66 38.93     x x  V,S,H  g  VGATHERQPS VGATHERQPD
"""

PP = {"NP": 0, "66": 1, "F3": 2, "F2": 3}
MAPS = {"": 1, "38": 2, "3A": 3}


class VexForm:
    """One opcode of the tables above, at one VEX.L and VEX.W."""

    def __init__(self, prefix: str, opcode: str, length: int, w: int, operands: str, data: str) -> None:
        self.pp, self.length, self.w = PP[prefix], length, w
        code, _, reg = opcode.partition("/")
        self.reg = int(reg) if reg else None
        map_, _, byte = code.rpartition(".")
        self.map, self.byte = MAPS[map_], int(byte, 16)
        self.operands = [] if operands == "-" else operands.split(",")
        self.data = data
        self.name = f"VEX.{256 if length else 128}.{prefix}.W{w} {opcode} {operands}"
        rm = [o for o in self.operands if o[0] in "WEMS"]
        size = rm[0][1:].rstrip("a") if rm else ""
        full = 32 if length else 16
        by_letter = {"x": full, "h": full // 2, "q": full // 4, "o": full // 8, "": 8 if w else 4}
        self.memory = (by_letter[size] if size in by_letter else int(size)) if rm else None
        self.aligned = bool(rm) and rm[0].endswith("a")
        self.only_memory = bool(rm) and rm[0][0] in "MS"
        self.vsib = "S" in self.operands
        self.has_h = "H" in self.operands
        self.has_imm = "Ib" in self.operands or "L" in self.operands

    def encode(self, rng: np.random.Generator, reg: int, rm: int, vvvv: int, memory: bytes | None, base: int, index: int) -> bytes:
        """memory: what follows ModRM (SIB, displacement), the mod and rm fields first; short form where it can be."""
        bits = (reg >> 3, index >> 3, base >> 3 if memory is not None else rm >> 3)
        tail = bytes([self.byte])
        modrm = memory[0] if memory is not None else 0xC0 | rm & 7
        if self.operands:
            tail += bytes([modrm | (reg & 7) << 3]) + (memory[1:] if memory is not None else b"")
        if self.has_imm:
            tail += bytes([int(rng.integers(256))])
        second = (~vvvv & 15) << 3 | self.length << 2 | self.pp
        if self.map == 1 and not self.w and not bits[1] and not bits[2] and rng.random() < 0.5:
            return bytes([0xC5, (not bits[0]) << 7 | second]) + tail
        return bytes([0xC4, (not bits[0]) << 7 | (not bits[1]) << 6 | (not bits[2]) << 5 | self.map, self.w << 7 | second]) + tail


def vex_forms(table: str) -> list[VexForm]:
    out = []
    for line in filter(None, map(str.strip, table.splitlines())):
        prefix, opcode, length, w, operands, data = line.split()[:6]
        base, _, last = opcode.partition("-")
        codes = [base] if not last else [f"{base[:-2]}{i:02X}" for i in range(int(base[-2:], 16), int(last, 16) + 1)]
        out += [VexForm(prefix, code, x, y, operands, data) for code in codes
                for x in ((0, 1) if length == "x" else (int(length),)) for y in ((0, 1) if w == "x" else (int(w),))]
    return out
