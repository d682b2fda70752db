"""The distribution's boot loaders on our BIOS: syslinux, isolinux, GRUB, from diskette, disk and CD-ROM, driven by keys and read from
the screen.
"""

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.cpu.asm import assemble
from tests.firmware.machine import Clock, Machine
from tests.firmware.pc import Memory
from xenfast.devices.ahci import Ahci
from xenfast.devices.drive import Drive
from xenfast.devices.pci import PIN_A, PciDevice

MODULES = Path("/usr/lib/syslinux/modules/bios")
ISOLINUX = Path("/usr/lib/ISOLINUX/isolinux.bin")
GRUB = Path("/usr/lib/grub/i386-pc")

MENU = """UI {ui}
MENU TITLE Our {medium}
LABEL one
 MENU LABEL First entry
 {how} one.bin
LABEL two
 MENU LABEL Second entry
 {how} two.bin
"""


def need(*things):
    for thing in things:
        if not (Path(thing).exists() if str(thing).startswith("/") else shutil.which(thing)):
            pytest.skip(f"{thing} is not installed (Debian: syslinux isolinux syslinux-common mtools xorriso grub-pc-bin grub-common)")


def run(*command, **more):
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **more)


def program(text):
    """A boot sector that says something by teletype and on COM1, and stops."""
    return assemble(f"""
        xor ax, ax
        mov ds, ax
        mov si, offset text
    1:  lodsb
        test al, al
        jz 2f
        mov ah, 0x0E
        mov bx, 7
        int 0x10
        mov dx, 0x3F8
        out dx, al
        jmp 1b
    2:  sti
        hlt
        jmp 2b
    text: .asciz "{text}"
    """, 16, 0x7C00).ljust(510, b"\0") + b"\x55\xAA"


def files(directory, medium, ui, how):
    (directory / "one.bin").write_bytes(program("one runs"))
    (directory / "two.bin").write_bytes(program("two runs"))
    (directory / "syslinux.cfg").write_text(MENU.format(ui=ui, medium=medium, how=how))


def choose_second(machine, title):
    """The second entry of the menu, by the cursor keys."""
    machine.wait("Second entry")
    assert title in machine.screen and "First entry" in machine.screen
    machine.type("DOWN", "\r")
    machine.wait("two runs")


@pytest.mark.parametrize("kib", [360, 720, 1440, 2880])
def test_syslinux_on_a_diskette(tmp_path, kib):
    """A FAT diskette of every size: the menu is on the screen, and starts what is chosen."""
    need("mformat", "syslinux", MODULES)
    floppy = tmp_path / "floppy.img"
    run("mformat", "-C", "-f", kib, "-i", floppy, "::")
    run("syslinux", "--install", floppy)
    files(tmp_path, "diskette", "menu.c32", "BOOT")
    run("mcopy", "-i", floppy, tmp_path / "syslinux.cfg", MODULES / "menu.c32", MODULES / "libutil.c32", tmp_path / "one.bin",
        tmp_path / "two.bin", "::")
    with Machine(32, floppies=[floppy], boot="a") as machine:
        choose_second(machine, "Our diskette")


def partitioned(disk, mib, heads, per_track, *, fat=16, code=b"", track=1):
    """A disk with an MBR, one active FAT partition from this track on, ending at the end of a cylinder; its offset."""
    size = (mib << 11) // (heads * per_track) * heads * per_track
    first = per_track * track

    def chs(lba):
        track, sector = divmod(lba, per_track)
        cylinder, head = divmod(track, heads)
        return bytes((head, sector + 1 | cylinder >> 2 & 0xC0, cylinder & 0xFF))

    mbr = bytearray(code.ljust(512, b"\0"))
    entry = b"\x80" + chs(first) + bytes((0x0C if fat == 32 else 0x06,)) + chs(size - 1)
    mbr[446:462] = entry + first.to_bytes(4, "little") + (size - first).to_bytes(4, "little")
    mbr[510:] = b"\x55\xAA"
    disk.write_bytes(mbr)
    with disk.open("r+b") as file:
        file.truncate(size * 512)
    run("mformat", "-i", f"{disk}@@{first * 512}", "-T", size - first, "-h", heads, "-s", per_track, "-H", first,
        *(["-F"] if fat == 32 else []), "::")
    return first * 512


@pytest.mark.parametrize(("heads", "per_track", "mib", "fat"), [(16, 63, 32, 16), (255, 63, 80, 32), (64, 32, 40, 16)])
def test_syslinux_on_a_disk(tmp_path, heads, per_track, mib, fat):
    """A partition with FAT16 or FAT32 behind an MBR, in the geometry of who partitioned it."""
    mbr = Path("/usr/lib/syslinux/mbr/mbr.bin")
    need("mformat", "syslinux", mbr, MODULES)
    disk = tmp_path / "disk.img"
    offset = partitioned(disk, mib, heads, per_track, fat=fat, code=mbr.read_bytes())
    files(tmp_path, "disk", "menu.c32", "BOOT")
    run("syslinux", "--offset", offset, "--install", disk)
    run("mcopy", "-i", f"{disk}@@{offset}", tmp_path / "syslinux.cfg", MODULES / "menu.c32", MODULES / "libutil.c32", tmp_path / "one.bin",
        tmp_path / "two.bin", "::")
    with Machine(32, disks=[disk], boot="c") as machine:
        choose_second(machine, "Our disk")
        assert machine.bios.drives.get(0x80).geometry[1:] == (heads, per_track)


def iso(tmp_path, *options):
    tree = tmp_path / "tree"
    tree.mkdir(exist_ok=True)
    made = tmp_path / "our.iso"
    run("xorriso", "-as", "mkisofs", "-quiet", "-o", made, *options, tree)
    return made


@pytest.mark.parametrize("ui", ["menu.c32", "vesamenu.c32"])
def test_isolinux(tmp_path, ui):
    """A CD-ROM without emulation; the graphics menu in a VBE mode."""
    need("xorriso", ISOLINUX, MODULES)
    tree = tmp_path / "tree"
    tree.mkdir()
    files(tree, "disc", ui, "BOOT")
    (tree / "syslinux.cfg").rename(tree / "isolinux.cfg")
    for path in (ISOLINUX, MODULES / "ldlinux.c32", MODULES / ui, MODULES / "libutil.c32", MODULES / "libcom32.c32"):
        shutil.copy(path, tree)
    made = iso(tmp_path, "-b", "isolinux.bin", "-c", "boot.cat", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table")
    with Machine(64, cdroms=[made], boot="d") as machine:
        if ui == "menu.c32":
            choose_second(machine, "Our disc")
        else:
            machine.run(lambda: not machine.screen.strip(), 20)
            machine.run(timeout=1)
            machine.type("DOWN", "\r")
            machine.wait("two runs", where=lambda: machine.serial.decode())


def test_a_cdrom_that_plays_a_diskette(tmp_path):
    """El Torito with emulation: the image is drive A, the other diskette is B."""
    need("xorriso", "mformat", "syslinux", MODULES)
    tree = tmp_path / "tree"
    tree.mkdir()
    floppy = tree / "floppy.img"
    run("mformat", "-C", "-f", 1440, "-i", floppy, "::")
    run("syslinux", "--install", floppy)
    files(tmp_path, "emulation", "menu.c32", "BOOT")
    run("mcopy", "-i", floppy, tmp_path / "syslinux.cfg", MODULES / "menu.c32", MODULES / "libutil.c32", tmp_path / "one.bin",
        tmp_path / "two.bin", "::")
    made = iso(tmp_path, "-b", "floppy.img", "-c", "boot.cat")
    with Machine(32, cdroms=[made], floppies=[bytes(720 << 10)], boot="d") as machine:
        choose_second(machine, "Our emulation")
        assert machine.bios.drives.get(0).emulated and machine.bios.drives.get(1).geometry.sectors == 9


GRUB_CONFIG = """
serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
set timeout=-1
menuentry "First entry" { chainloader /one.bin }
menuentry "Second entry" { chainloader /two.bin }
"""


def grub_core(tmp_path, prefix, *modules, target="i386-pc"):
    core = tmp_path / "core.img"
    run("grub-mkimage", "-O", target, "-o", core, "-p", prefix, "biosdisk", "normal", "chain", "serial", "terminal", *modules)
    return core


def grub_mbr(disk, core):
    """boot.img in sector 0 and core.img behind it, as grub-bios-setup writes them."""
    boot = bytearray((GRUB / "boot.img").read_bytes())
    data = bytearray(core.read_bytes())
    with disk.open("r+b") as file:
        old = file.read(512)
        boot[440:510] = old[440:510]
        boot[510:512] = b"\x55\xAA"
        boot[0x5C:0x64] = (1).to_bytes(8, "little")
        boot[0x64] = 0xFF                                   # the drive that has booted
        boot[0x66:0x68] = b"\x90\x90"
        sectors = -(-len(data) // 512)
        data[500:512] = (2).to_bytes(8, "little") + (sectors - 1).to_bytes(2, "little") + (0x820).to_bytes(2, "little")
        file.seek(0)
        file.write(boot + data.ljust(sectors * 512, b"\0"))


@pytest.mark.slow
def test_grub_on_a_disk(tmp_path):
    """boot.img, core.img and a FAT partition; the menu on screen and serial line, chosen by keys; with EDD and without.

    In real time: GRUB measures the time stamp counter against 55 ms of the PIT, which are many instructions in virtual time.
    """
    need("mformat", "grub-mkimage", GRUB)
    disk = tmp_path / "disk.img"
    offset = partitioned(disk, 64, 255, 63, track=20)
    files(tmp_path, "disk", "none", "BOOT")
    (tmp_path / "grub.cfg").write_text(GRUB_CONFIG)
    run("mcopy", "-i", f"{disk}@@{offset}", tmp_path / "grub.cfg", tmp_path / "one.bin", tmp_path / "two.bin", "::")
    grub_mbr(disk, grub_core(tmp_path, "(hd0,msdos1)/", "part_msdos", "fat"))
    with Machine(64, disks=[disk], boot="c", clock=Clock) as machine:
        machine.wait("Second entry")
        machine.wait("GNU GRUB", where=lambda: machine.serial.decode("latin-1"))
        machine.type("DOWN", "\r")
        machine.wait("two runs")
    with Machine(64, disks=[disk], boot="c", clock=Clock) as machine:
        machine.bios.int13.extensions[0x41] = machine.bios.int13.functions[0x07]        # refused: no EDD
        machine.wait("Second entry")
        machine.type("DOWN", "\r")
        machine.wait("two runs")


@pytest.mark.slow
def test_grub_on_a_cdrom(tmp_path):
    """cdboot.img without emulation."""
    need("xorriso", "grub-mkimage", GRUB)
    tree = tmp_path / "tree"
    tree.mkdir()
    files(tree, "disc", "none", "BOOT")
    (tree / "grub.cfg").write_text(GRUB_CONFIG)
    core = grub_core(tmp_path, "(cd)/", "iso9660", target="i386-pc-eltorito")
    shutil.copy(core, tree / "core.img")
    made = iso(tmp_path, "-b", "core.img", "-c", "boot.cat", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table")
    with Machine(64, cdroms=[made], boot="d", clock=Clock) as machine:
        machine.wait("Second entry")
        machine.type("DOWN", "\r")
        machine.wait("two runs")


def test_the_boot_menu_of_a_whole_machine():
    """F12 pressed before the machine has begun to run brings the menu; 2 is the CD-ROM, which does not boot; then the disk does."""
    with Machine(16, disks=[program("disk runs").ljust(1 << 20, b"\0")], cdroms=[bytes(1 << 20)], boot="c") as machine:
        machine.pc.ps2.keyboard.key(0x58, True)
        machine.pc.ps2.keyboard.key(0x58, False)
        machine.wait("Choose by number")
        assert "  1. Hard disk (1024 KiB, memory)\n  2. CD-ROM (1024 KiB, memory)" in machine.screen
        machine.type("2")
        machine.wait("CD-ROM: not bootable: not a bootable disc")
        machine.wait("disk runs")


@pytest.mark.slow
def test_ipxe_from_its_option_rom():
    """The distribution's iPXE ROM: initialised with memory from PMM, booted by its entry, and gone on behind when it has no card."""
    rom = Path("/usr/lib/ipxe/qemu/pxe-e1000.rom")
    need(rom)
    card = PciDevice("a card without registers", 0x8086, 0x100E, 0x020000, pin=PIN_A)
    with Machine(64, disks=[program("disk runs").ljust(1 << 20, b"\0")], cards=[card], boot="nc", clock=Clock) as machine:
        machine.wait("iPXE initialising devices", 30)
        assert "PMM+" in machine.screen and "Booting from iPXE (PCI 00:04.0)" in machine.screen
        machine.wait("disk runs", 30)
        assert "No more network devices" in machine.screen


def test_the_first_character_comes_soon(tmp_path):
    """Real time: machine, BIOS and boot sector's first character together in well under half a second."""
    start = time.monotonic()
    with Machine(32, disks=[program("here I am").ljust(1 << 20, b"\0")], clock=Clock, boot="c") as machine:
        machine.wait("here I am", 5)
        assert time.monotonic() - start < 2.5, "ten times of what it takes on an idle host"
        assert machine.domain.vcpus[0].core.instructions < 200_000


def test_a_disk_behind_ahci():
    """Whatever controller a drive hangs on, INT 13h boots it; its device path says where it is."""
    drives = [Drive(Memory(program("SATA disk").ljust(1 << 20, b"\0"))), Drive(Memory(bytes(1 << 20)), cdrom=True)]

    with Machine(16, make_cards=lambda hvm: [Ahci(hvm.physmem, drives)], boot="dc") as machine:
        machine.wait("SATA disk")
        assert "CD-ROM: not bootable" in machine.screen
        disk = machine.bios.drives.get(0x80)
        assert disk.info["pci"] == (0, 4, 0) and disk.info["interface"] == "SATA"
