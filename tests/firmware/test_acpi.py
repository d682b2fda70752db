"""ACPI tables, read back by hand, by the ACPI project's compiler (iasl) and by its interpreter (acpiexec), where installed."""

import re
import shutil
import struct
import subprocess

import pytest

from xenfast.errors import XenfastError
from xenfast.firmware.acpi import aml, tables
from xenfast.firmware.acpi.build import build, split_tables
from xenfast.firmware.acpi.machine import GPE0, PM1A_CONTROL, PM1A_EVENT, PM_TIMER, TABLES, Machine, NumaNode

FULL = Machine(
    vcpus=2, max_vcpus=4, generation_id=True, s3=True, s4=True, lpt=True, com=(True, True),
    pci_window_high=(1 << 32, 5 << 30),
    numa=(NumaNode(((0, 1 << 30),), (0, 1), (10, 20)), NumaNode(((1 << 30, 1 << 30),), (2, 3), (20, 10))),
)
MACHINES = {
    "hvm": FULL,
    "no-apic": Machine(apic=False, hpet=False),
    "many": Machine(vcpus=100),
    "pvh": Machine(kind="pvh", vcpus=3),
}
LEGACY = "3168"         # iasl: Processor() is old; that is why it is used


def all_tables(acpi):
    return {
        name: acpi.data[where - acpi.base:][:int.from_bytes(acpi.data[where - acpi.base + 4:][:4], "little")]
        for name, where in acpi.where.items()
    }


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_everything_sums_to_zero_and_is_found_from_the_rsdp(machine):
    """RSDP -> XSDT and RSDT -> FADT -> DSDT and FACS: each is where it is said to be, and its bytes sum up to zero."""
    acpi = build(machine)
    found = all_tables(acpi)
    assert acpi.base == TABLES and sum(acpi.rsdp) % 256 == sum(acpi.rsdp[:20]) % 256 == 0
    rsdt, xsdt = struct.unpack_from("<I", acpi.rsdp, 16)[0], struct.unpack_from("<Q", acpi.rsdp, 24)[0]
    assert (rsdt, xsdt) == (acpi.where["RSDT"], acpi.where["XSDT"])
    for name, data in found.items():
        assert name == "FACS" or sum(data) % 256 == 0, name
    listed = {name for name in found if name not in ("RSDT", "XSDT", "DSDT", "FACS")}
    for root, letter in (("RSDT", "I"), ("XSDT", "Q")):
        body = found[root][36:]
        addresses = struct.unpack(f"<{len(body) // struct.calcsize(letter)}{letter}", body)
        assert set(addresses) == {acpi.where[name] for name in listed}
    assert addresses[0] == acpi.where["FACP"]
    fadt = found["FACP"]
    assert struct.unpack_from("<II", fadt, 36) == struct.unpack_from("<QQ", fadt, 132)
    assert struct.unpack_from("<II", fadt, 36) == (acpi.where.get("FACS", 0), acpi.where["DSDT"])
    assert acpi.where.get("FACS", 0) % 64 == 0


def test_a_pc_has_xens_ports_and_pvh_has_none():
    """FADT: PM1a at B000h, the timer at B008h, GPE0 at AFE0h, reset by CF9h; hardware-reduced without any of it for PVH."""
    pc, pvh = (all_tables(build(MACHINES[name]))["FACP"] for name in ("hvm", "pvh"))
    assert (len(pc), pc[8], len(pvh)) == (244, 4, 276)
    ports = struct.unpack_from("<8I", pc, 56)
    assert (ports[0], ports[2], ports[5], ports[6]) == (PM1A_EVENT, PM1A_CONTROL, PM_TIMER, GPE0)
    assert pc[116:129] == bytes([1, 8, 0, 1]) + (0xCF9).to_bytes(8, "little") + b"\x06"
    assert struct.unpack_from("<I", pvh, 112)[0] & tables.HW_REDUCED
    assert not any(pvh[48:109]) and not any(pvh[116:132]) and not any(pvh[148:268])


def test_madt_lists_processors_and_overrides():
    """APIC IDs are twice the number, processors to be plugged in are disabled, the PIT is at pin 2, PCI interrupts are level."""
    madt = all_tables(build(FULL))["APIC"][44:]
    entries = []
    while madt:
        entries.append(madt[:madt[1]])
        madt = madt[madt[1]:]
    assert [tuple(e[2:5]) for e in entries if e[0] == 0] == [(0, 0, 1), (1, 2, 1), (2, 4, 0), (3, 6, 0)]
    overrides = {e[3]: (e[4], e[8]) for e in entries if e[0] == 2}
    assert overrides == {0: (2, 0), 5: (5, 15), 9: (9, 15), 10: (10, 15), 11: (11, 15)}
    assert [e[0] for e in entries] == [0] * 4 + [1] + [2] * 5 + [4]
    pvh = all_tables(build(MACHINES["pvh"]))["APIC"]
    assert len(pvh) == 44 + 3 * 8 and pvh[40:44] == bytes(4)


def test_apic_ids_may_be_any():
    """IDs from 255 on get the longer entries of x2APIC, and no hot plug."""
    madt = all_tables(build(Machine(vcpus=3, apic_ids=(0, 1, 300))))["APIC"]
    assert struct.pack("<BBHIII", 9, 16, 0, 300, 1, 2) in madt


def test_it_takes_milliseconds():
    """The tables of a machine are kept: the same machine gets the same object."""
    assert build(Machine(vcpus=2)) is build(Machine(vcpus=2))


def test_package_lengths_and_integers_are_the_shortest():
    """PkgLength counts itself: 63 bytes need a byte, 64 need two; integers have five forms."""
    assert [len(aml.with_length(bytes(n))) - n for n in (0, 62, 63, 4093, 4094)] == [1, 1, 2, 2, 3]
    assert aml.with_length(bytes(63))[:2] == bytes([0x41, 0x04])
    assert [len(aml.integer(v)) for v in (0, 1, 2, 0x100, 0x10000, 1 << 32, (1 << 64) - 1)] == [1, 1, 2, 3, 5, 9, 1]
    assert aml.eisa_id("PNP0A03") == bytes.fromhex("0c41d00a03")
    for wrong in ("0AB", "TOOLONG", "lower"):
        with pytest.raises(ValueError, match="no ACPI name"):
            aml.segment(wrong)


def test_tables_of_a_file_are_taken_in():
    """acpi_firmware: tables behind each other, whose checksums are made right; anything else is refused in one sentence."""
    one = bytearray(tables.table(b"TEST", 1, b"abc"))
    one[9] ^= 0x55
    extra = split_tables(bytes(one) * 2)
    assert len(extra) == 2 and sum(extra[0]) % 256 == 0
    assert "TEST" in build(Machine(extra=extra)).where
    with pytest.raises(XenfastError, match="no ACPI table at offset 39"):
        split_tables(bytes(one) + b"garbage")
    with pytest.raises(XenfastError, match="1 to 255 vcpus"):
        build(Machine(vcpus=300))


# --- the oracles ---------------------------------------------------------------------------------------------------------------


def run(*command, cwd):
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def unpacked(tmp_path, request):
    if not shutil.which("iasl") or not shutil.which("acpiexec"):
        pytest.skip("acpica-tools is not installed")
    for name, data in all_tables(build(MACHINES[request.param])).items():
        (tmp_path / f"{name}.aml").write_bytes(data)
    return tmp_path


@pytest.mark.parametrize("unpacked", MACHINES, indirect=True)
def test_iasl_reads_and_compiles_everything(unpacked):
    """iasl takes each table apart without a complaint, and compiles the DSDT again without an error."""
    for file in sorted(unpacked.glob("*.aml")):
        done = run("iasl", "-d", file.name, cwd=unpacked)
        assert done.returncode == 0, done.stderr
        text = file.with_suffix(".dsl").read_text()
        assert not re.search(r"incorrect|invalid|unknown|middle of", text, re.I), (file.name, text[-800:])
    done = run("iasl", "-p", "again", "DSDT.dsl", cwd=unpacked)
    wrong = [line for line in done.stdout.splitlines() if re.match(r"(Error|Warning) ", line) and LEGACY not in line]
    assert done.returncode == 0 and not wrong, done.stdout[-2000:]


def execute(directory, *commands, fill=0):
    """What acpiexec says to each command; its regions of ports and memory are simulated, bytes of ``fill`` at first."""
    done = run("acpiexec", "-fv", str(fill), "-b", ";".join(commands), "DSDT.aml", cwd=directory)
    assert not re.search(r"ACPI (Error|Warning|Exception)", done.stdout + done.stderr), done.stdout[-3000:]
    answers = re.split(r"^Evaluating ", done.stdout, flags=re.M)[1:]
    assert len(answers) == len(commands)
    return answers


@pytest.mark.parametrize("unpacked", ["hvm"], indirect=True)
def test_links_are_set_and_read_back(unpacked):
    """_SRS of a link sets IRQ 10, _CRS says so; _DIS cuts it off, and _STA and _CRS say that too."""
    link = "execute \\_SB.PCI0.LNKB."
    answers = execute(
        unpacked, f"{link}_SRS (23 00 04 18 79 00)", f"{link}_CRS", f"{link}_STA", f"{link}_DIS", f"{link}_STA", f"{link}_CRS",
    )
    assert "23 00 04 18 79 00" in answers[1] and "[Integer] = 000000000000000B" in answers[2]
    assert "23 00 00 18 79 00" in answers[5] and "[Integer] = 0000000000000009" in answers[4]


@pytest.mark.parametrize("unpacked", ["hvm"], indirect=True)
def test_every_pin_of_every_slot_is_routed(unpacked):
    """_PRT gives links for PICs and pins of the I/O APIC for APICs, four for each of 31 slots, spread as Xen spreads them."""
    run("iasl", "-d", "DSDT.aml", cwd=unpacked)
    text = (unpacked / "DSDT.dsl").read_text().replace("Zero", "0").replace("One", "1")
    entries = re.findall(r"Package \(0x04\)\s*\{\s*(\w+),\s*(\w+),\s*(\w+),\s*(\w+)\s*\}", text)
    pics = {(int(a, 0) >> 16, int(b, 0)): c for a, b, c, d in entries if c.startswith("LNK")}
    apics = {(int(a, 0) >> 16, int(b, 0)): int(d, 0) for a, b, c, d in entries if not c.startswith("LNK") and int(d, 0) >= 16}
    assert set(pics) == set(apics) == {(slot, pin) for slot in range(1, 32) for pin in range(4)}
    assert (pics[1, 0], pics[3, 0], pics[3, 1]) == ("LNKB", "LNKD", "LNKA")
    assert (apics[1, 0], apics[3, 0], apics[8, 0], apics[31, 3]) == (20, 28, 17, 16 + (124 + 3 + 3) % 32)


@pytest.mark.parametrize("unpacked", ["hvm"], indirect=True)
def test_processors_are_unplugged_by_a_bit_map(unpacked):
    """GPE 2 compares the map with the MADT: of four processors there, only the first has its bit set; the others are told to go."""
    told = execute(unpacked, "execute \\_GPE._L02", *(f"execute \\_SB.PR0{n}._STA" for n in range(4)), fill=1)
    assert [f"[Integer] = {0xF * (n == 0):016X}" in told[n + 1] for n in range(4)] == [True] * 4
    again = execute(unpacked, "execute \\_GPE._L02", "execute \\_SB.PR02._MAT", fill=0xFF)
    assert "FF FF FF FF FF FF FF FF" in again[1]
