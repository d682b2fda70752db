"""INT 18h and 19h: the boot order, the boot menu, and the way into a boot sector.

The order is the option ``boot`` of xl.cfg(5): a diskette, c disk, d CD-ROM, n network; one after the other until something boots.
A boot sector that gives up (INT 18h) has the next one tried (BIOS Boot Specification 1.01, 6.6).  The menu comes with F12 or Esc.
"""

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xenfast.firmware.bios_rom import SEGMENT
from xenfast.firmware.drives import CDROM, DISK, FLOPPY, BiosDrive
from xenfast.firmware.eltorito import NotBootable
from xenfast.firmware.int13 import DiskError
from xenfast.firmware.post import set_limits
from xenfast.firmware.routine import Asking, FarCall, Idle, Interrupt, Jump, Routine
from xenfast.firmware.traps import Call

if TYPE_CHECKING:
    from xenfast.firmware.bios import Bios

log = logging.getLogger("xenfast")

LOAD = 0x7C00
KINDS = {"a": FLOPPY, "c": DISK, "d": CDROM}
NAMES = {FLOPPY: "Diskette", DISK: "Hard disk", CDROM: "CD-ROM"}
NETWORK = "network"
KEY_ESC, KEY_F12 = 0x011B, 0x8600
RETRY_TICKS = 1092              # 60 s


@dataclass
class Network:
    """The bootstrap entry vector of an option ROM."""

    segment: int
    offset: int
    name: str
    bdf: int


@dataclass
class Candidate:
    """Something that may boot."""

    kind: str
    name: str
    drive: BiosDrive | None = None
    network: Network | None = None


class Boot:
    def __init__(self, bios: "Bios") -> None:
        self.bios = bios
        self.networks: list[Network] = []
        self.queue: list[Candidate] = []        # what has not been tried yet

    def add_network(self, segment: int, offset: int, name: str, bdf: int) -> None:
        self.networks.append(Network(segment, offset, name, bdf))

    # --- what there is -----------------------------------------------------------------------------------------------
    def inventory(self) -> list[str]:
        """Lines of the boot screen."""
        lines = []
        for kind, prefix in ((FLOPPY, "Diskette"), (DISK, "Hard disk"), (CDROM, "CD-ROM")):
            for i, drive in enumerate(self.bios.drives.of[kind]):
                lines.append(f"{prefix} {i}: {size_text(drive)}")
        return [*lines, ""] if lines else lines

    def candidates(self) -> list[Candidate]:
        """In the order of the configuration; of diskettes the first, of the others all."""
        found = []
        for letter in self.bios.config.boot:
            kind = KINDS.get(letter)
            if kind is not None:
                drives = self.bios.drives.of[kind]
                found += [self._candidate(drive) for drive in (drives[:1] if kind == FLOPPY else drives)]
            elif letter == "n":
                found += [Candidate(NETWORK, network.name, network=network) for network in self.networks]
        return found

    def everything(self) -> list[Candidate]:
        """For the menu."""
        drives = [drive for kind in (FLOPPY, DISK, CDROM) for drive in self.bios.drives.of[kind]]
        return [self._candidate(drive) for drive in drives] + [Candidate(NETWORK, n.name, network=n) for n in self.networks]

    def _candidate(self, drive: BiosDrive) -> Candidate:
        index = self.bios.drives.of[drive.kind].index(drive)
        return Candidate(drive.kind, NAMES[drive.kind] + (f" {index}" if index else ""), drive)

    # --- routines ----------------------------------------------------------------------------------------------------
    def power_on(self, call: Call) -> Routine:
        """The end of power-on."""
        self.queue = self.candidates()
        if (yield from self._menu_wanted(call)):
            yield from self._menu(call)
        yield from self.attempt(call)

    def int19(self, call: Call) -> None:
        """Boot again, from the first device on."""
        self.bios.eltorito.drives.stop_emulation()
        self.queue = self.candidates()
        self.bios.routines.start(call, self._routine, "post_halt", alone=True)

    def int18(self, call: Call) -> None:
        """The boot sector has given up."""
        self.bios.routines.start(call, self._routine, "post_halt", alone=True)

    def _routine(self, call: Call) -> Routine:
        call.cpu.set_segment("ss", 0, 0, 0xFFFF, 0x93)
        call.sp = LOAD
        yield from self.attempt(call)

    def attempt(self, call: Call) -> Routine:
        """One candidate after the other; when none is left, again when a key is pressed or after a minute."""
        say = self.bios.post.say
        while True:
            while self.queue:
                candidate = self.queue.pop(0)
                yield from say(f"Booting from {candidate.name}...\n")
                try:
                    yield from self._start(call, candidate)
                    reason = "it has given up"
                except NotBootable as error:
                    reason = str(error)
                log.info("firmware: %s does not boot: %s", candidate.name, reason)
                yield from say(f"{candidate.name}: not bootable: {reason}\n")
            yield from say("No bootable device. Press a key to try again.\n")
            log.warning("firmware: no bootable device (boot=%s)", self.bios.config.boot)
            yield from self._key_or_timeout(call)
            self.queue = self.candidates()

    def _start(self, call: Call, candidate: Candidate) -> Routine:
        """Into it; NotBootable says why not."""
        self.bios.drives.stop_emulation()
        set_limits(call, big=True)
        if candidate.network is not None:
            network = candidate.network
            yield FarCall(network.segment, network.offset, ax=network.bdf, es=SEGMENT, di=self.bios.rom.labels["pnp_header"], ds=0)
            raise NotBootable("the network has nothing for us")
        assert candidate.drive is not None
        if candidate.kind == CDROM:
            number, segment = self._load_cdrom(call, candidate.drive)
        else:
            number, segment = self._load_sector(call, candidate.drive), LOAD >> 4
        log.info("firmware: booting from %s (%02Xh)", candidate.name, number)
        set_limits(call, big=False)
        where = (0, segment << 4) if segment < 0x1000 else (segment, 0)
        yield Jump(*where, ax=0xAA55, bx=0, cx=0, dx=number, si=0, bp=0, di=self.bios.rom.labels["pnp_header"], es=SEGMENT, ds=0, ss=0,
                   sp=LOAD)

    def _load_sector(self, call: Call, drive: BiosDrive) -> int:
        """The first sector to 7C00h; the number of the drive."""
        if not drive.ready:
            raise NotBootable("no diskette" if drive.kind == FLOPPY else "no disk")
        if drive.kind == FLOPPY:
            drive.measure()
        try:
            sector = bytes(drive.read(0, 1))
        except OSError:
            raise NotBootable("it cannot be read") from None
        # A diskette needs no signature (the PC's first boot sectors have none), but code.
        if (drive.kind == DISK and sector[510:] != b"\x55\xAA") or (drive.kind == FLOPPY and len(set(sector[:16])) == 1):
            raise NotBootable("it has no boot sector")
        drives = self.bios.drives.of[drive.kind]
        drives.remove(drive)
        drives.insert(0, drive)                 # whoever boots is the first of its kind
        self.bios.post.disks(call)
        call.mem.write(LOAD, sector)
        return 0x80 if drive.kind == DISK else 0x00

    def _load_cdrom(self, call: Call, drive: BiosDrive) -> tuple[int, int]:
        number, entry = self.bios.eltorito.prepare(drive)
        try:
            self.bios.eltorito.load(call, entry)
        except DiskError:
            raise NotBootable("it cannot be read") from None
        return number, entry.segment

    # --- keys --------------------------------------------------------------------------------------------------------
    def _key(self, call: Call) -> Asking:
        """A keystroke that waits, or None."""
        yield Idle(halt=False)
        call = yield Interrupt(0x16, ax=0x1100)
        if call.zf:
            return None
        call = yield Interrupt(0x16, ax=0x1000)
        return call.ax

    def _menu_wanted(self, call: Call) -> Asking:
        config = self.bios.config
        if config.menu_seconds:
            yield from self.bios.post.say("Press F12 or Esc for the boot menu.\n")
        ticks = round(config.menu_seconds * 18.2)
        end = self._ticks(call) + ticks
        while True:
            yield Idle(halt=False)
            if self.bios.keyboard.peek(call) in (KEY_F12, KEY_ESC):         # other keys are for the boot loader
                self.bios.keyboard.drop(call)
                return True
            if self._ticks(call) >= end:
                return False
            yield Idle()

    def _ticks(self, call: Call) -> int:
        return call.mem.read_int(0x46C, 4)

    def _key_or_timeout(self, call: Call) -> Routine:
        end = self._ticks(call) + RETRY_TICKS
        while self._ticks(call) < end:
            if (yield from self._key(call)) is not None:
                return
            yield Idle()

    def _menu(self, call: Call) -> Routine:
        say = self.bios.post.say
        entries = self.everything()
        yield from say("\nBoot menu\n\n")
        for number, entry in enumerate(entries, 1):
            detail = f" ({size_text(entry.drive)})" if entry.drive is not None else ""
            yield from say(f"  {number}. {entry.name}{detail}\n")
        yield from say("\nChoose by number, Esc for the usual order: ")
        while True:
            key = yield from self._key(call)
            if key is None:
                yield Idle()
                continue
            if key == KEY_ESC:
                break
            choice = (key & 0xFF) - ord("0")
            if 1 <= choice <= len(entries):
                self.queue = [entries[choice - 1], *self.queue]
                break
        yield from say("\n\n")


def size_text(drive: BiosDrive) -> str:
    """For people: how large a medium is, and which it is."""
    if not drive.ready:
        return "empty"
    size = drive.drive.size
    unit, divisor = next((u, d) for u, d in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)) if size >= 4 * d or d == 1 << 10)
    name = drive.info.get("name") or ""
    return f"{size // divisor} {unit}" + (f", {name}" if name else "")
