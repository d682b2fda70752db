"""CPUID policies: named models, and what a configuration changes of them.

A policy is a model and the features of it that are switched.  It is written

* as of ``--cpu``: ``MODEL[,+FEATURE][,-FEATURE]...``
* as ``cpuid`` of xl.cfg(5), libxl's form: ``"host,avx=0,tm=x"``, a value for each feature or field (below)
* as ``cpuid`` of xl.cfg(5), xend's form: ``["7:ebx=xxxx...", "0xD,1:eax=..."]``, 32 characters a register, bit 31 first

The values are those of xl: 1 and 0 force a bit, x leaves it to the policy, k and s take it from the host.  Nobody can be
given what is not implemented: such a feature stays off, and the log says so (Xen does the same, silently).  A feature
without one it depends on is off, too; a feature that is forced on brings those with it.

The table of features is CPUID_FEATURES in cpu/cpuid.pxi.  The names are those of xl.cfg(5) and of Xen; both "-" and "_" will
do.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from xenfast import _core
from xenfast.errors import XenfastError

log = logging.getLogger("xenfast")

FEATURES = {name: (word, bit) for name, word, bit, *_ in _core.CPUID_FEATURES}
NEEDS = {row[0]: tuple(row[4].split()) for row in _core.CPUID_FEATURES}
AT = {(*_core.CPUID_WORDS[word], bit): name for name, (word, bit) in FEATURES.items()}

# Other names of features: xl.cfg(5), Linux, QEMU.
ALIASES = {
    "cmpxchg8": "cx8", "cmpxchg16": "cx16", "sysenter": "sep", "clfsh": "clflush", "aes": "aesni", "lahfsahf": "lahf_lm",
    "abm": "lzcnt", "3dnowprefetch": "prefetchw", "invtsc": "itsc", "x86_64": "lm", "fxsr_opt": "ffxsr", "pclmul": "pclmulqdq",
    "pdpe1gb": "page1gb", "sha_ni": "sha", "intel_pt": "proc_trace", "ospke": "pku", "osxsave": "xsave", "ibrs": "ibrsb",
    "sse4.1": "sse4_1", "sse4.2": "sse4_2", "cmplegacy": "cmp_legacy", "altmovcr8": "cr8_legacy", "nodeid": "nodeid_msr",
    "psr_cat": "pqe", "cmt": "pqm", "xsave_opt": "xsaveopt",
}  # fmt: skip

# Fields of xl.cfg(5) that are numbers: leaf, subleaf, register, first bit, bits.
FIELDS = {
    "maxleaf": (0x0, None, "eax", 0, 32), "stepping": (0x1, None, "eax", 0, 4), "model": (0x1, None, "eax", 4, 4),
    "family": (0x1, None, "eax", 8, 4), "brandid": (0x1, None, "ebx", 0, 8), "clflush_size": (0x1, None, "ebx", 8, 8),
    "proccount": (0x1, None, "ebx", 16, 8), "localapicid": (0x1, None, "ebx", 24, 8), "procpkg": (0x4, None, "eax", 26, 6),
    "arat": (0x6, None, "eax", 2, 1), "nc": (0x80000008, None, "ecx", 0, 8), "apicidsize": (0x80000008, None, "ecx", 12, 4),
}  # fmt: skip

_BASELINE = """fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2
    syscall nx lm sse3 cx16 lahf_lm hypervisor"""
_V2 = _BASELINE + " ssse3 sse4_1 sse4_2 popcnt"
_V3 = _V2 + " xsave avx avx2 bmi1 bmi2 f16c fma lzcnt movbe"


class Model(NamedTuple):
    name: str
    features: str               # "*": all there are; "host": those the host has
    signature: int              # leaf 1, EAX
    brand: str
    max_basic: int
    what: str


# THE TABLE of models.  All are GenuineIntel, family 6, model 36h: why is in cpu/cpuid.pxi.
MODELS = {
    model.name: model
    for model in (
        Model("qemu64", _BASELINE, 0x00030661, "xenfast virtual CPU qemu64", 0xD, "the baseline: x86-64, SSE3, CMPXCHG16B"),
        Model("x86-64-v2", _V2, 0x00030661, "xenfast virtual CPU x86-64-v2", 0xD, "and SSSE3, SSE4, POPCNT"),
        Model("x86-64-v3", _V3, 0x00030661, "xenfast virtual CPU x86-64-v3", 0xD, "and AVX2, BMI, FMA, F16C, LZCNT, MOVBE"),
        Model("host", "host", 0x00030661, "", 0x16, "what this host has and xenfast implements"),
        Model("max", "*", 0x00030661, "xenfast virtual CPU", 0x16, "all that xenfast implements (the default)"),
    )
}
DEFAULT = "max"
# Of these the host's bit says nothing about what is implemented here, or it may be a virtual machine itself.
NOT_THE_HOSTS = ("hypervisor", "apic", "x2apic", "tsc_deadline", "mtrr", "mce", "mca", "itsc", "vme", "pse36", "pcid")


@dataclass
class Policy:
    """A model and what is changed of it.  ``apply()`` gives it to a vcpu of the core."""

    model: str = DEFAULT
    on: set[str] = field(default_factory=set)
    off: set[str] = field(default_factory=set)
    bits: list[tuple[int, int | None, str, int, int]] = field(default_factory=list)     # leaf, subleaf, register, mask, value

    def switch(self, name: str, on: bool) -> None:
        (self.on if on else self.off).add(name)
        (self.off if on else self.on).discard(name)

    def features(self) -> frozenset[str]:
        """The features asked for, whether implemented or not, with all that they need and without what lacks something."""
        wanted = set(_of_model(self.model)) | self.on
        for name in self.on:
            wanted |= _closure(name)
        wanted -= self.off
        while lacking := {name for name in wanted if not wanted.issuperset(NEEDS[name])}:
            wanted -= lacking
        return frozenset(wanted)

    def warn(self) -> None:
        """Say once in the log what is asked for and not there."""
        missing = self.features() - _core.cpuid_known() - set(NOT_THE_HOSTS)
        if missing:
            log.warning("CPUID: %s: asked for and not implemented", ", ".join(sorted(missing)))

    def apply(self, core: Any, threads: int = 1) -> None:
        """Set the policy of a vcpu that has not run yet."""
        model = MODELS[self.model]
        brand = model.brand or _host_brand()
        core.set_processor(signature=model.signature, brand=brand, max_basic=model.max_basic, threads=threads)
        core.set_features(self.features())
        for leaf, sub, register, mask, value in self.bits:
            core.set_cpuid_bits(leaf, sub, register, mask, value)


def parse(text: str) -> Policy:
    """A policy as of --cpu: a model, then +FEATURE and -FEATURE."""
    model, *changes = text.split(",")
    if model.strip() not in MODELS:
        raise XenfastError(f"there is no CPU model {model!r} ({', '.join(MODELS)})")
    policy = Policy(model.strip())
    if policy.model == "host" and _core.host_cpuid(0) is None:
        raise XenfastError("the CPU model 'host' needs a host with an x86 processor")
    for change in changes:
        change = change.strip()
        if change[:1] not in ("+", "-"):
            raise XenfastError(f"a change of a CPU model is +FEATURE or -FEATURE, not {change!r}")
        policy.switch(feature(change[1:]), change[0] == "+")
    return policy


def feature(name: str) -> str:
    """The name in the table of a feature by any of its names; XenfastError for none."""
    plain = name.strip().lower()
    plain = ALIASES.get(plain, plain).replace("-", "_")
    plain = ALIASES.get(plain, plain)
    if plain not in FEATURES:
        import difflib

        near = difflib.get_close_matches(plain, [*FEATURES, *ALIASES], 1)
        raise XenfastError(f"there is no CPU feature {name!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
    return plain


def change(policy: Policy, value: str | Iterable[Any]) -> None:
    """Change a policy as the key ``cpuid`` of xl.cfg(5) says."""
    if isinstance(value, str):
        _libxl(policy, value)
        return
    for item in value:
        if not isinstance(item, str):
            raise XenfastError(f"cpuid is a list of strings, and {item!r} is none")
        _xend(policy, item)


# ---- libxl's form ------------------------------------------------------------------------------------------------------
def _libxl(policy: Policy, text: str) -> None:
    start, *items = (item.strip() for item in text.split(","))
    if start != "host":
        raise XenfastError(f"cpuid = {text!r} must begin with 'host'")
    for item in filter(None, items):
        key, mark, value = (part.strip() for part in item.partition("="))
        if not mark:
            raise XenfastError(f"{item!r} in cpuid is not FEATURE=VALUE")
        key = key.lower()
        if key == "clflush" and value not in ("0", "1", "x", "k", "s"):
            key = "clflush_size"                    # xl has the same name for the size of a line
        if key in FIELDS and key not in FEATURES:
            _number_field(policy, key, value)
        else:
            _bit(policy, feature(key), value, f"{item!r} in cpuid")


def _bit(policy: Policy, name: str, value: str, where: str) -> None:
    if value in ("0", "1"):
        policy.switch(name, value == "1")
    elif value in ("k", "s"):
        policy.switch(name, name in host_features())
    elif value != "x":
        raise XenfastError(f"{where}: the value is 0, 1, x, k or s")


def _number_field(policy: Policy, key: str, value: str) -> None:
    leaf, sub, register, first, width = FIELDS[key]
    if value in ("x", "k", "s"):
        return
    try:
        number = int(value, 0)
    except ValueError:
        raise XenfastError(f"{key} in cpuid is a number, not {value!r}") from None
    if key in ("family", "model"):
        _signature(policy, key, number)
        return
    if not 0 <= number < 1 << width:
        raise XenfastError(f"{key} in cpuid has {width} bits, and {number} does not fit")
    policy.bits.append((leaf, sub, register, ((1 << width) - 1) << first, number << first))


def _signature(policy: Policy, key: str, number: int) -> None:
    """Family and model have an extended part (SDM Vol. 2, CPUID, "Version Information")."""
    if key == "model":
        if not 0 <= number <= 0xFF:
            raise XenfastError(f"model in cpuid is at most 255, not {number}")
        policy.bits.append((1, None, "eax", 0x000F00F0, (number & 15) << 4 | (number >> 4) << 16))
        return
    if not 0 <= number <= 15 + 0xFF:
        raise XenfastError(f"family in cpuid is at most 270, not {number}")
    base = min(number, 15)
    policy.bits.append((1, None, "eax", 0x0FF00F00, base << 8 | (number - base) << 20))


# ---- xend's form -------------------------------------------------------------------------------------------------------
def _xend(policy: Policy, text: str) -> None:
    place, mark, registers = text.partition(":")
    try:
        numbers = [int(part, 0) for part in place.split(",")]
    except ValueError:
        numbers = []
    if not mark or not 1 <= len(numbers) <= 2 or not all(0 <= number < 1 << 32 for number in numbers):
        raise XenfastError(f"{text!r} in cpuid is not LEAF:REGISTER=BITS or LEAF,SUBLEAF:REGISTER=BITS")
    leaf, sub = numbers[0], numbers[1] if len(numbers) == 2 else None
    for item in registers.split(","):
        register, mark, bits = (part.strip() for part in item.partition("="))
        if register not in ("eax", "ebx", "ecx", "edx") or not mark:
            raise XenfastError(f"{item!r} in cpuid is not REGISTER=BITS")
        if len(bits) != 32 or set(bits) - set("01xks"):
            raise XenfastError(f"{item!r} in cpuid does not have 32 characters out of 0, 1, x, k and s")
        _register(policy, leaf, sub, register, bits)


def _register(policy: Policy, leaf: int, sub: int | None, register: str, bits: str) -> None:
    mask = value = 0
    for i, char in enumerate(bits):
        bit = 31 - i
        name = AT.get((leaf, sub or 0, register, bit))
        if name is not None:
            _bit(policy, name, char, f"leaf {leaf:#x}")
        elif char in "01" and (leaf, sub or 0, register) not in _core.CPUID_WORDS:
            mask |= 1 << bit
            value |= int(char) << bit
        elif char == "1":
            log.warning("CPUID: bit %d of %s of leaf %#x is asked for and has no meaning here", bit, register, leaf)
    if mask:
        policy.bits.append((leaf, sub, register, mask, value))


# ---- models ------------------------------------------------------------------------------------------------------------
def _of_model(name: str) -> frozenset[str]:
    features = MODELS[name].features
    known = _core.cpuid_known(default=True)
    if features == "*":
        return known
    if features == "host":
        return known & (host_features() | set(NOT_THE_HOSTS))
    return frozenset(features.split())


def _closure(name: str) -> set[str]:
    """A feature and all it depends on."""
    found = {name}
    for need in NEEDS[name]:
        found |= _closure(need)
    return found


def host_features() -> frozenset[str]:
    """The features of the host's own processor, as its CPUID has them."""
    found = set()
    for (leaf, sub, register), names in _by_word().items():
        last = _core.host_cpuid(leaf & 0xFFFF0000)
        leaves = _core.host_cpuid(leaf, sub) if last is not None and last[0] >= leaf else None
        if leaves is not None:
            value = leaves[("eax", "ebx", "ecx", "edx").index(register)]
            found |= {name for name, bit in names if value >> bit & 1}
    return frozenset(found)


def _by_word() -> dict[tuple[int, int, str], list[tuple[str, int]]]:
    words: dict[tuple[int, int, str], list[tuple[str, int]]] = {}
    for name, (word, bit) in FEATURES.items():
        words.setdefault(_core.CPUID_WORDS[word], []).append((name, bit))
    return words


def _host_brand() -> str:
    text = b""
    for leaf in (0x80000002, 0x80000003, 0x80000004):
        registers = _core.host_cpuid(leaf)
        if registers is None:
            return "xenfast virtual CPU host"
        text += b"".join(register.to_bytes(4, "little") for register in registers)
    return text.split(b"\0")[0].decode("ascii", "replace").strip()
