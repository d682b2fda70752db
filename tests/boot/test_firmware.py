"""Debian's kernel from a GRUB CD-ROM by each firmware: ours, SeaBIOS, OVMF; what it says of the tables, and the tables themselves."""

import re
from pathlib import Path

import pytest

from tests.boot.hvm import Guest, grub_iso, package_file
from xenfast.firmware import fw_images

pytestmark = pytest.mark.slow

SCRIPT = """
echo READY $(nproc)
for table in /sys/firmware/acpi/tables/*; do
    [ -f $table ] && echo TABLE ${table##*/} $(busybox od -A n -v -t x1 $table | busybox tr -d ' \\n')
done
for device in /sys/bus/acpi/devices/*; do echo DEVICE $(cat $device/hid 2>/dev/null); done
echo DMI $(cat /sys/class/dmi/id/sys_vendor) $(cat /sys/class/dmi/id/product_name) $(cat /sys/class/dmi/id/product_uuid)
dmesg | busybox sed 's/^/DMESG /'
echo DONE
poweroff -f
"""
UUID = "00112233-4455-6677-8899-aabbccddeeff"
IMAGES = {"": (), "seabios": fw_images.SEABIOS, "ovmf": fw_images.OVMF}
COMPLAINTS = r"DMESG .*(ACPI (Error|Warning|Exception|BIOS Error)|[Ff]irmware [Bb]ug|BIOS bug|MTRR.*(wrong|bad|inconsistent)|\[Firmware)"


@pytest.fixture(scope="module")
def iso(tmp_path_factory):
    return grub_iso(tmp_path_factory.mktemp("iso") / "debian.iso", SCRIPT, "")


def needs(bios):
    if IMAGES[bios] and not any(Path(path).exists() for path in IMAGES[bios]):
        pytest.skip(f"Debian's package {bios} is not installed")
    if bios == "ovmf" and not Path("/usr/lib/grub/x86_64-efi").exists():
        pytest.skip("grub-efi-amd64-bin is not installed")


@pytest.mark.parametrize("bios", IMAGES, ids=lambda name: name or "own")
def test_debian_boots_and_has_no_complaint(bios, iso):
    """GRUB, kernel, user space with 2 vcpus, S5; the kernel finds no fault with a table, and has them as they were made."""
    needs(bios)
    with Guest(iso, bios=bios, memory=256, vcpus=2, maxvcpus=3, uuid=UUID) as guest:
        text = guest.run()
        assert "READY 2\n" in text and "DONE" in text, text[-2000:]
        assert guest.domain.shutdown_code == 0
    complaint = re.search(COMPLAINTS, text)
    assert not complaint, complaint[0]
    assert f"DMI Xen HVM domU {UUID}" in text
    devices = re.findall(r"^DEVICE (\S+)", text, re.M)
    assert {"PNP0A03", "PNP0103", "PNP0B00", "PNP0303", "PNP0F13", "PNP0501", "PNP0C0F", "LNXPWRBN"} <= set(devices)
    assert "PM-Timer IO Port: 0xb008" in text
    found = {name: bytes.fromhex(data) for name, data in re.findall(r"^TABLE (\w+) ([0-9a-f]+)$", text, re.M)}
    assert {"APIC", "DSDT", "FACP", "HPET", "WAET"} <= set(found)
    if guest.loaded.acpi is not None:
        acpi = guest.loaded.acpi
        for name, data in found.items():
            at = acpi.where[name] - acpi.base
            if name != "FACS":          # the system writes to it
                assert data == acpi.data[at:at + len(data)], name


def test_seabios_gets_interrupts():
    """Its clock ticks and its keyboard is heard: the PICs reach the first processor as hvmloader leaves it."""
    needs("seabios")
    with Guest(bios="seabios", vcpus=2) as guest:
        guest.run("No bootable device", timeout=30)
        memory = guest.domain.hvm.physmem
        before = memory.read_int(0x46C, 4)
        guest.hv.run(lambda: memory.read_int(0x46C, 4) > before + 2, timeout=30)
        assert memory.read_int(0x46C, 4) > before + 2


def test_the_kernel_sees_two_nodes(tmp_path):
    """vnuma: SRAT and SLIT give it memory, processors and distances of each."""
    script = """
    for node in /sys/devices/system/node/node*; do echo NODE ${node##*/} $(cat $node/cpulist) $(cat $node/distance); done
    echo DONE
    poweroff -f
    """
    nodes = [["size=128", "vcpus=0", "vdistances=10,25"], ["size=128", "vcpus=1", "vdistances=25,10"]]
    with Guest(grub_iso(tmp_path / "numa.iso", script), memory=256, vcpus=2, vnuma=nodes) as guest:
        text = guest.run()
    assert "NODE node0 0 10 25" in text and "NODE node1 1 25 10" in text, text[-2000:]
    assert not re.search(r"(SRAT|SLIT|ACPI).*([Ee]rror|invalid|not used|BIOS bug)", text)


def test_processors_come_and_go(tmp_path):
    """ACPI tells the kernel of a vcpu that is plugged in, user space turns it on; plugged out, it is ejected."""
    script = """
    echo ONE $(nproc)
    echo GO
    while [ ! -d /sys/devices/system/cpu/cpu1 ]; do sleep 0.1; done
    echo 1 > /sys/devices/system/cpu/cpu1/online
    echo TWO $(nproc)
    echo BACK
    while [ $(nproc) = 2 ]; do sleep 0.1; done
    echo THREE $(nproc)
    dmesg | busybox tail -20
    poweroff -f
    """
    with Guest(grub_iso(tmp_path / "plug.iso", script), bios="", memory=256, vcpus=1, maxvcpus=2) as guest:
        text = guest.run("GO\r\n")
        assert "ONE 1\n" in text
        with guest.hv.lock:
            guest.pc.set_vcpus(2)
        text = guest.run("BACK\r\n", timeout=60)
        assert "TWO 2\n" in text, text[-2000:]
        with guest.hv.lock:
            guest.pc.set_vcpus(1)
        text = guest.run(timeout=60)
        assert "THREE 1\n" in text and guest.domain.shutdown_code == 0, text[-2000:]
        assert not re.search(r"ACPI (Error|Warning|Exception|BIOS Error)", text)


def test_xens_own_hvmloader(iso):
    """Debian's unmodified hvmloader sets up our PC, with hypercalls, xenstore and virtual wire mode, and SeaBIOS and Debian boot on it.

    It finds what our own set-up makes: the same BARs, interrupts and memory map.
    """
    needs("seabios")
    loader = package_file("xen-utils-4.17", "usr/lib/xen-4.17/boot/hvmloader")
    with Guest(iso, bios="seabios", memory=256, vcpus=2, uuid=UUID) as own:
        ours = own.loaded
    with Guest(iso, bios="seabios", firmware_override=str(loader), memory=256, vcpus=2, uuid=UUID) as guest:
        text = guest.run()
        log = guest.debug.decode("latin-1")
        assert "READY 2\n" in text and "DONE" in text, (text[-2000:], log[-2000:])
    assert "Invoking SeaBIOS" in log and "bug" not in log.lower().replace("debug", "") and "OVERLAP" not in log
    complaint = re.search(COMPLAINTS, text)
    assert not complaint, complaint[0]
    for link, irq in enumerate(ours.placement.irqs):
        assert f"PCI-ISA link {link} routed to IRQ{irq}" in log
    placed = {
        (int(slot, 16), int(function), int(bar, 16)): int(where, 16) & ~0xF if not int(where, 16) & 1 else int(where, 16) & ~3
        for slot, function, bar, where in re.findall(r"pci dev (\w\w):(\d) bar (\w\w) size \w+: (\w+)", log)
    }
    assert placed == {
        (one.slot, one.function, bar.register): bar.address for one in ours.placement.functions for bar in one.bars
    }
    for line in (r"mem 0x0*100000-0x0*fff[0-9a-f]+\] usable", r"mem 0x0*fc000000-0x0*fc00[0-9a-f]fff\] ACPI NVS"):
        assert re.search(line, text), line


def test_power_on_is_quick(iso):
    """Everything that is done before the first instruction takes less than a tenth of a second."""
    with Guest(iso, bios="", memory=64) as guest:
        assert guest.load_seconds < 0.1
