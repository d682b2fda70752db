"""Why our decoder and the reference decoder may disagree: every disagreement falls under one of these rules, or is a bug.

The reference, iced-x86, knows every extension of every vendor; a processor decodes those it has. What we do not have
is named here by the feature that would announce it, so that a row of the opcode table that is missing by oversight is
never covered: it belongs to a feature that we do announce.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Disagreement:
    bits: int
    record: bytes
    ours: int                    # length, 0: #UD, -1: more than 15 bytes
    theirs: int                  # length, 0: no instruction
    row: tuple[str, str]         # our mnemonic and operands
    mnemonic: str                # theirs
    features: frozenset[str]


@dataclass(frozen=True)
class Rule:
    name: str
    why: str                     # with the section that says so
    applies: Callable[[Disagreement], bool]


@dataclass(frozen=True)
class Missing:
    """We raise #UD for the instructions of these features, because our CPUID does not announce them (SDM Vol. 2, 3.1.1.4)."""

    name: str
    why: str
    features: frozenset[str] = field(default_factory=frozenset)

    def applies(self, d: Disagreement) -> bool:
        return d.ours == 0 and d.theirs > 0 and bool(d.features & self.features)


def missing(name: str, why: str, features: str) -> Missing:
    return Missing(name, why, frozenset(features.split()))


ABSENT = [
    missing("AVX-512", "SDM Vol. 1, 15.2: CPUID.7.EBX[16] and the bits that follow from it are 0; the models end at x86-64-v3",
            "AVX512F AVX512BW AVX512CD AVX512DQ AVX512ER AVX512PF AVX512VL AVX512_4FMAPS AVX512_4VNNIW AVX512_BF16 AVX512_BITALG"
            " AVX512_FP16 AVX512_IFMA AVX512_VBMI AVX512_VBMI2 AVX512_VNNI AVX512_VP2INTERSECT AVX512_VPOPCNTDQ"),
    missing("AVX after AVX2", "SDM Vol. 2, CPUID leaf 7 sub-leaf 1: later than x86-64-v3",
            "AVX_IFMA AVX_NE_CONVERT AVX_VNNI AVX_VNNI_INT16 AVX_VNNI_INT8 SHA512 SM3 SM4"),
    missing("256-bit AES and carry-less products", "SDM Vol. 1, 12.13.3: VAES and VPCLMULQDQ came with AVX-512", "VAES VPCLMULQDQ"),
    missing("GFNI", "SDM Vol. 2, CPUID.7.ECX[8]: later than x86-64-v3", "GFNI"),
    missing("AMX", "SDM Vol. 1, ch. 18: no tiles", "AMX_BF16 AMX_COMPLEX AMX_FP16 AMX_INT8 AMX_TILE"),
    missing("TSX", "SDM Vol. 1, 16.3.1: HLE and RTM are off, as microcode has turned them off in most processors",
            "HLE RTM HLE_OR_RTM TSXLDTRK"),
    missing("CET shadow stacks", "SDM Vol. 1, 17.1: CPUID.7.ECX[7] is 0, CR4.CET cannot be set; ENDBR is a NOP", "CET_SS"),
    missing("key locker", "SDM Vol. 2, CPUID.19H: no such leaf", "AESKLE KL WIDE_KL"),
    missing("virtual machines", "SDM Vol. 3, 24.7 and APM Vol. 2, 15.4: guests of ours have neither VMX nor SVM",
            "VMX SVM SKINIT SKINIT_OR_SVM INVEPT INVVPID SEV_ES SEV_SNP INVLPGB RMPQUERY TDX TSE"),
    missing("SMX and SGX", "SDM Vol. 3, ch. 7 and ch. 35: neither measured launch nor enclaves", "SMX SGX1 OSS PCONFIG"),
    missing("system instructions after 2018", "SDM Vol. 2, CPUID.7: WAITPKG, MOVDIR, ENQCMD, UINTR, FRED and others are not announced",
            "WAITPKG MOVDIRI MOVDIR64B ENQCMD UINTR FRED LKGS WRMSRNS MSRLIST SERIALIZE HRESET RAO_INT CMPCCXADD PTWRITE PREFETCHITI"),
    missing("AMD's own", "APM Vol. 3, appendix D: SSE4A, XOP, FMA4, TBM, LWP, 3DNow!, CLZERO, MONITORX and the like are not announced",
            "SSE4A XOP FMA4 TBM LWP D3NOW D3NOWEXT CLZERO MONITORX RDPRU MCOMMIT"),
    missing("VIA's own", "VIA PadLock programming guide: only on VIA's processors",
            "PADLOCK_ACE PADLOCK_GMI PADLOCK_PHE PADLOCK_PMM PADLOCK_RNG PADLOCK_UNDOC CENTAUR_AIS"),
]

DIFFERENT = [
    Rule("RSM outside SMM", "SDM Vol. 2, RSM: #UD outside system-management mode, which no guest of ours enters",
         lambda d: d.ours == 0 and d.mnemonic == "RSM"),
    Rule("SYSRET outside 64-bit mode", "SDM Vol. 2, SYSRET: #UD if not in 64-bit mode; AMD's processors have it in all of protected mode",
         lambda d: d.ours == 0 and d.mnemonic == "SYSRET" and d.bits < 64),
    Rule("PREFETCHW of a register", "APM Vol. 3, PREFETCHW: #UD; SDM Vol. 2, table A-3, leaves mod = 3 open, a NOP on Intel's",
         lambda d: d.ours == 0 and d.mnemonic == "RESERVEDNOP" and b"\x0f\x0d" in d.record),
    Rule("segment registers 6 and 7", "SDM Vol. 2, MOV: #UD; our decoder lets them pass and the instruction raises it",
         lambda d: d.theirs == 0 and d.row in (("MOV", "Ev,Sw"), ("MOV", "Sw,Ew"))),
    Rule("control and debug registers 9 to 15", "SDM Vol. 2, MOV: #UD with REX.R but for CR8; our decoder lets them pass, as above",
         lambda d: d.theirs == 0 and d.bits == 64 and d.row[0] == "MOV" and d.row[1] in ("Ry,Cy", "Cy,Ry", "Ry,Dy", "Dy,Ry")),
]

RULES: list[Rule | Missing] = [*ABSENT, *DIFFERENT]


def explain(d: Disagreement) -> Rule | Missing | None:
    return next((rule for rule in RULES if rule.applies(d)), None)
