"""The CPUID policy: what it shows, which instructions and control bits it takes away, and how it is written."""

import logging

import pytest

from tests.cpu.asm import assemble
from xenfast import _core, cpuid
from xenfast.errors import XenfastError
from xenfast.libxl import config
from xenfast.machine import Machine, Reason

CODE, DATA = 0x10000, 0x20000

# feature -> an instruction of it (rsi points to 64 readable and writable bytes; rcx, rax and rdx are 0)
SAMPLES = {
    "fpu": "fld1", "tsc": "rdtsc", "msr": "mov ecx, 0x10; rdmsr", "cx8": "cmpxchg8b [rsi]", "sep": "sysenter", "cmov": "cmovz eax, edx",
    "clflush": "clflush [rsi]", "mmx": "paddb mm0, mm1", "fxsr": "fxsave [rsi]", "sse": "addps xmm0, xmm1",
    "sse2": "addpd xmm0, xmm1", "sse3": "haddps xmm0, xmm1", "pclmulqdq": "pclmulqdq xmm0, xmm1, 0", "monitor": "mov rax, rsi; monitor",
    "ssse3": "pshufb xmm0, xmm1", "fma": "vfmadd231ps xmm0, xmm1, xmm2", "cx16": "cmpxchg16b [rsi]", "sse4_1": "pmulld xmm0, xmm1",
    "sse4_2": "crc32 eax, edx", "movbe": "movbe eax, [rsi]", "popcnt": "popcnt eax, edx", "aesni": "aesenc xmm0, xmm1",
    "xsave": "xgetbv", "avx": "vaddps ymm0, ymm1, ymm2", "f16c": "vcvtph2ps xmm0, xmm1", "rdrand": "rdrand eax",
    "syscall": "syscall", "rdtscp": "rdtscp", "lahf_lm": "lahf", "xsaveopt": "xsaveopt [rsi]", "xsavec": "xsavec [rsi]",
    "xsaves": "xsaves [rsi]", "fsgsbase": "rdfsbase rax", "bmi1": "andn eax, edx, ecx", "avx2": "vpaddb ymm0, ymm1, ymm2",
    "bmi2": "pdep eax, edx, ecx", "invpcid": "invpcid rax, [rsi]", "rdseed": "rdseed eax", "adx": "adcx eax, edx", "smap": "stac",
    "clflushopt": "clflushopt [rsi]", "clwb": "clwb [rsi]", "sha": "sha1msg1 xmm0, xmm1", "pku": "rdpkru", "rdpid": "rdpid rax",
    "movdiri": "movdiri [rsi], eax", "movdir64b": "movdir64b rsi, [rsi]", "serialize": "serialize",
}  # fmt: skip
INSTEAD = {"lzcnt": ("lzcnt eax, edx", 0x1000, 19, 12), "bmi1": ("tzcnt eax, edx", 0x1000, 12, 12)}
AVX_STATE = {"fma", "avx", "f16c", "avx2"}


def machine(cpu: str) -> Machine:
    m = Machine(memory=1 << 20, cpu=cpu)
    m.map(CODE, 0x1000)
    m.map(DATA, 0x1000)
    m.rsi = DATA
    m.cpu.cr4 |= 1 << 16                                    # FSGSBASE
    for bit, feature in _core.CR4_FEATURES:
        if feature in ("xsave", "pku") and feature in m.cpu.features():
            m.cpu.cr4 |= 1 << bit
    return m


def run(m: Machine, text: str) -> int | None:
    """The vector of the exception the text ends with; None when it ends."""
    code = assemble(text, 64, CODE)
    m.write(CODE, code)
    m.rip = CODE
    stop = m.run(10, until=CODE + len(code))
    return stop.vector if stop.reason is Reason.EXCEPTION else None


@pytest.mark.parametrize("feature", sorted(SAMPLES))
def test_an_instruction_whose_bit_is_off_is_undefined(feature):
    """With the bit off it is #UD; with the bit on it is anything but #UD."""
    m = machine(f"max,-{feature}")
    assert feature not in m.cpu.features()
    assert run(m, SAMPLES[feature]) == 6
    if feature not in _core.cpuid_known():
        pytest.skip("not implemented")
    m = machine(f"max,+{feature}")
    if feature in AVX_STATE:
        assert run(m, "xor ecx, ecx; mov eax, 7; xor edx, edx; xsetbv") is None
    assert run(m, SAMPLES[feature]) != 6


@pytest.mark.parametrize("feature", sorted(INSTEAD))
def test_what_an_instruction_was_before_its_feature(feature):
    """Without its bit, LZCNT is BSR and TZCNT is BSF: the prefix means nothing."""
    text, value, on, off = INSTEAD[feature]
    m = machine(f"max,-{feature}")
    m.rdx = value
    assert run(m, text) is None and m.rax == off
    if feature in _core.cpuid_known():
        m = machine("max")
        m.rdx = value
        assert run(m, text) is None and m.rax == on


def test_every_feature_with_instructions_has_a_sample():
    """No feature of the table of instructions is left untested."""
    named = {feature for feature, _, _ in _core.FEATURE_INSTRUCTIONS}
    assert named | {"cx16", "lahf_lm"} == set(SAMPLES) | set(INSTEAD)


def test_the_table_names_instructions_that_exist():
    """A mnemonic of the table is in the opcode table, unless its feature is not implemented; so a typing error is found."""
    rows = _core.opcode_rows()
    mnemonics = {name for name, _ in rows}
    needs = _core.opcode_features()
    for feature, _, names in _core.FEATURE_INSTRUCTIONS:
        for name in names.split():
            plain = name.split(":")[0]
            if feature in _core.cpuid_known() and not plain.endswith("*"):
                assert plain in mnemonics, (feature, name)
            if ":" in name:
                assert any(row == tuple(name.split(":")) and need == feature for row, need in zip(rows, needs)), name


def test_a_change_reaches_code_that_was_decoded():
    """A policy that changes makes the vcpu decode again."""
    m = machine("max")
    assert run(m, "popcnt eax, edx") is None
    m.cpu.set_cpuid("popcnt", False)
    m.rip = CODE
    assert m.run(1).vector == 6


@pytest.mark.parametrize(("bit", "feature"), _core.CR4_FEATURES)
def test_bits_of_cr4_follow_the_policy(bit, feature):
    """A bit of CR4 whose feature is off is reserved: #GP; on, it can be set."""
    text = f"mov rax, cr4; mov ecx, {1 << bit}; or rax, rcx; mov cr4, rax"
    if feature == "pae":
        return                                                  # cannot go in 64-bit mode
    m = machine(f"max,-{feature}")
    m.cpu.cr4 = 0x620 & ~(1 << bit)
    assert run(m, text) == 13
    if feature in _core.cpuid_known() and feature not in ("la57", "pcid"):      # which have conditions of their own
        m = machine("max")
        assert run(m, text) is None


@pytest.mark.parametrize(("bit", "feature"), [(0, "syscall"), (11, "nx")])
def test_bits_of_efer_follow_the_policy(bit, feature):
    """EFER.SCE and NXE are reserved without SYSCALL and NX."""
    text = f"mov ecx, 0xC0000080; xor edx, edx; mov eax, {0xD01 & ~(1 << bit)}; wrmsr; mov eax, 0xD01; wrmsr"
    assert run(machine(f"max,-{feature}"), text) == 13
    assert run(machine("max"), text) is None


def test_leaves_show_the_policy():
    """Leaf 1 and 8000_0001h show what is on; OSXSAVE follows CR4."""
    for cpu, popcnt in (("qemu64", 0), ("x86-64-v2", 1), ("x86-64-v2,-popcnt", 0), ("qemu64,+popcnt", 1)):
        m = machine(cpu)
        assert m.cpu.cpuid(1)[2] >> 23 & 1 == popcnt
        assert bytes.fromhex("47656e75 6e74656c 696e6549".replace(" ", "")) == b"".join(
            x.to_bytes(4, "little") for x in m.cpu.cpuid(0)[1:])
        brand = b"".join(x.to_bytes(4, "little") for leaf in (2, 3, 4) for x in m.cpu.cpuid(0x80000000 + leaf))
        assert brand.rstrip(b"\0").decode() == f"xenfast virtual CPU {cpu.split(',')[0]}"


def test_topology():
    """Leaves 1, 4 and 8000_0008h agree on the number of processors."""
    m = machine("max")
    m.cpu.set_processor(threads=6)
    m.cpu.apic_id = 5
    eax, ebx, _, edx = m.cpu.cpuid(1)
    assert (ebx >> 24, ebx >> 16 & 0xFF, edx >> 28 & 1) == (5, 8, 1)
    assert m.cpu.cpuid(4, 0)[0] >> 26 == 7
    assert m.cpu.cpuid(0x80000008)[2] == 3 << 12 | 5


def test_models_grow():
    """Each level of x86-64 has what the one before has; max has all that is implemented."""
    levels = [cpuid.Policy(model).features() for model in ("qemu64", "x86-64-v2", "x86-64-v3")]
    assert levels[0] < levels[1] < levels[2]
    assert {"avx2", "bmi1", "bmi2", "fma", "f16c", "lzcnt", "movbe"} <= levels[2]
    assert cpuid.Policy("max").features() == _core.cpuid_known(default=True)
    if _core.host_cpuid(0) is not None:
        assert cpuid.parse("host").features() <= cpuid.Policy("max").features()
        assert "sse2" in cpuid.host_features()


def test_dependencies():
    """A feature goes with what it needs: without SSE there is no AES, and +avx brings XSAVE."""
    assert not {"sse2", "aesni", "sha", "sse4_2"} & cpuid.parse("max,-sse").features()
    assert {"avx", "xsave", "sse4_2"} <= cpuid.parse("qemu64,+avx").features()
    for name, needs in cpuid.NEEDS.items():
        assert set(needs) <= set(cpuid.FEATURES), name


def test_what_is_not_implemented_stays_off(caplog):
    """A feature that is asked for and not there is off, and the log says so once."""
    with caplog.at_level(logging.WARNING, "xenfast"):
        m = machine("max,+sse4a")
    assert "sse4a" not in m.cpu.features()
    assert [r.getMessage() for r in caplog.records] == ["CPUID: sse4a: asked for and not implemented"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("z80", "there is no CPU model 'z80' (qemu64, x86-64-v2"),
        ("max,+popcntt", "there is no CPU feature 'popcntt' (did you mean 'popcnt'?)"),
        ("max,popcnt", "a change of a CPU model is +FEATURE or -FEATURE, not 'popcnt'"),
    ],
)
def test_mistakes_in_a_model(text, says):
    """A mistake in --cpu is one sentence."""
    with pytest.raises(XenfastError) as error:
        cpuid.parse(text)
    assert str(error.value).startswith(says)


def xlcfg(value: str) -> cpuid.Policy:
    return config.parse(f"kernel = 'k'\ncpuid = {value}\n").cpuid


def test_the_form_of_libxl():
    """"host,feature=value,...": 0 and 1 force, x leaves, k asks the host; fields are numbers."""
    policy = xlcfg("'host,popcnt=0,aes=x,cmpxchg16=1,sse4.2=0,family=15,model=0x4F,stepping=3,tm=0'")
    assert policy.off == {"popcnt", "sse4_2", "tm"} and policy.on == {"cx16"}
    m = Machine(memory=1 << 20)
    policy.apply(m.cpu)
    assert m.cpu.cpuid(1)[0] == 0x00040FF3 and not m.cpu.cpuid(1)[2] >> 23 & 1
    if _core.host_cpuid(0) is not None:
        assert ("sse2" in xlcfg("'host,sse2=k'").on) == ("sse2" in cpuid.host_features())


def test_the_form_of_xend():
    """["leaf:register=bits"]: 32 characters, bit 31 first; bits that are no features are given to the leaf."""
    bits = ["x"] * 32
    bits[31 - 23] = "0"                                     # POPCNT
    bits[31 - 0] = "1"                                      # SSE3
    policy = xlcfg(f"['1:ecx={''.join(bits)},eax=xxxxxxxxxxxxxxxxxxxxxxxxxxxx0101', '4,1:ebx={'0' * 31}1']")
    assert policy.off == {"popcnt"} and policy.on == {"sse3"}
    m = Machine(memory=1 << 20)
    policy.apply(m.cpu)
    assert m.cpu.cpuid(1)[0] & 15 == 5 and m.cpu.cpuid(4, 1)[1] == 1 and m.cpu.cpuid(4, 0)[1] != 1


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("'avx=0'", "must begin with 'host'"),
        ("'host,avx'", "is not FEATURE=VALUE"),
        ("'host,avx=2'", "the value is 0, 1, x, k or s"),
        ("'host,nonsense=1'", "there is no CPU feature 'nonsense'"),
        ("'host,stepping=99'", "stepping in cpuid has 4 bits"),
        ("['1:ecx=xx']", "does not have 32 characters"),
        ("['ecx=xx']", "is not LEAF:REGISTER=BITS"),
        ("[1]", "is a list of strings"),
    ],
)
def test_mistakes_in_cpuid(value, says):
    """A mistake in the key cpuid is one sentence."""
    with pytest.raises(XenfastError) as error:
        xlcfg(value)
    assert says in str(error.value)
