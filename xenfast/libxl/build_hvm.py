"""The domain builder for HVM: RAM, the PC with its drives and ports, and the firmware that starts it.

Follows tools/libs/light/libxl_dm.c for what is emulated: a disk hdX or xvdX with X from a to d is on the IDE controller, or on AHCI up
to f (the PV drivers take it over when they have unplugged that), fda and fdb are diskettes, others are for PV drivers only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from xenfast.devices.drive import Drive
from xenfast.devices.e1000 import E1000
from xenfast.devices.machine import PC
from xenfast.devices.rtl8139 import Rtl8139
from xenfast.devices.virtio_net import VirtioNet
from xenfast.dom0.net.frame import parse_mac
from xenfast.errors import XenfastError
from xenfast.firmware import hvmloader
from xenfast.libxl.build_pvh import Built, special_pages

if TYPE_CHECKING:
    from xenfast.dom0.block import Image
    from xenfast.dom0.net.networks import Networks
    from xenfast.libxl.config import DomainConfig
    from xenfast.xen.domain import Domain

log = logging.getLogger("xenfast")

PAGE = 4096
SERIAL_PORTS = 4
CODE32, DATA32, TSS32, TSS_LIMIT = 0xC09B, 0xC093, 0x8B, 0x67
CR0_PE, CR0_ET = 1, 1 << 4

Output = Callable[[bytes], Any]
MODELS: dict[str, Any] = {"": E1000, "e1000": E1000, "rtl8139": Rtl8139, "virtio": VirtioNet, "virtio-net": VirtioNet}


@dataclass
class Machine:
    """What there is of an HVM domain beside the domain: the PC, what the firmware has made, the drives by their vdev."""

    pc: PC
    loaded: hvmloader.Loaded
    built: Built
    drives: dict[str, Drive] = field(default_factory=dict)
    console: int = 0                # the serial port that is the console

    def close(self) -> None:
        """Pull the plugs of the network cards."""
        for card in self.pc.cards:
            port = getattr(card, "port", None)
            if port is not None:
                port.close()

    def drain(self) -> None:
        """Hand on what the guest has sent last."""
        for uart in self.pc.serial:
            if isinstance(uart.output, Gathered):
                uart.output.flush()


class Gathered:
    """What a serial port sends, a character at a time, for somebody who wants it in pieces, called by domain 0's event loop."""

    def __init__(self, loop: Any, received: Output) -> None:
        self.loop, self.received = loop, received
        self.data = bytearray()

    def __call__(self, data: bytes) -> None:
        first = not self.data
        self.data += data
        if first:
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        data, self.data = self.data, bytearray()
        if data:
            self.received(bytes(data))


def serial_outputs(config: DomainConfig, loop: Any, console: Output) -> list[Output | None]:
    """What becomes of each serial port's output (``serial``): the first that is no file is the console."""
    outputs: list[Output | None] = []
    for text in config.serial:
        kind, _, rest = text.partition(":")
        if kind in ("none", "null"):
            outputs.append(None)
        elif kind == "file" and rest:
            outputs.append(_file(rest))
        elif kind in ("pty", "stdio", "vc", "mon", "chardev") and not any(isinstance(output, Gathered) for output in outputs):
            outputs.append(Gathered(loop, console))
        else:
            raise XenfastError(f"serial={text!r} is not supported (once pty or stdio, file:PATH, null, none)")
    if len(outputs) > SERIAL_PORTS:
        raise XenfastError(f"there are {SERIAL_PORTS} serial ports at most")
    return [] if config.serial == ["none"] else outputs


def _file(path: str) -> Output:
    try:
        return open(path, "ab", buffering=0).write
    except OSError as error:
        raise XenfastError(f"cannot write the serial port's output to {path}: {error.strerror}") from None


def build_hvm(domain: Domain, config: DomainConfig, images: dict[str, Image | None], serial: list[Output | None],
              networks: Networks | None = None) -> Machine:
    """Make the machine and start vcpu 0 at its firmware.  ``serial`` has a function for each serial port."""
    hvm: Any = domain.hvm
    try:
        hvm.populate_ram(config.memory << 8)
        built = special_pages(domain)
        drives = {spec.vdev: make_drive(spec, images.get(spec.vdev)) for spec in config.disks}
        at = places(config, drives)
        nics = network_cards(domain, config, networks) if networks is not None else []
        pc = PC(domain, config, ide=at.ide, ahci=at.ahci, floppies=at.floppies, serial=serial, nics=nics)
        loaded = hvmloader.load(domain, pc, config)
    except MemoryError as error:
        raise XenfastError(f"the domain's memory cannot be had: {error}") from None
    if loaded.start.entry is not None:
        start_flat(domain.vcpus[0].core, loaded.start.entry, loaded.start.ebx)
    domain.start_hvm()
    console = next((n for n, output in enumerate(serial) if isinstance(output, Gathered)), 0)
    return Machine(pc, loaded, built, drives, console)


def network_cards(domain: Domain, config: DomainConfig, networks: Networks) -> list[Any]:
    """A card for each vif that has one; it has the address of the PV device that takes its place after unplug."""
    cards = []
    for spec in config.vifs:
        if not spec.emulated:
            continue
        if spec.model not in MODELS:
            raise XenfastError(f"vif model={spec.model!r} is not supported ({', '.join(sorted(filter(None, MODELS)))})")
        port = networks.switch(spec.bridge).device_port(f"vif{domain.domid}.{spec.devid}-emu", spec.mac)
        cards.append(MODELS[spec.model](domain.hvm.physmem, port, parse_mac(spec.mac)))     # type: ignore[union-attr]
    return cards


def make_drive(spec: Any, image: Image | None) -> Drive:
    return Drive(image, cdrom=spec.cdrom, serial=f"XF{spec.position:05d}")


@dataclass
class Places:
    """Drives by their place on the controllers."""

    ide: list[Drive | None] = field(default_factory=lambda: [None] * 4)
    ahci: list[Drive | None] = field(default_factory=lambda: [None] * 6)
    floppies: list[Drive | None] = field(default_factory=lambda: [None] * 2)


def places(config: DomainConfig, drives: dict[str, Drive]) -> Places:
    """With ``hdtype="ahci"`` disks are on the AHCI controller, CD-ROM drives on IDE all the same."""
    found = Places()
    for spec in config.disks:
        where = found.floppies if spec.is_floppy else found.ahci if config.hdtype == "ahci" and not spec.cdrom else found.ide
        if spec.is_scsi or spec.position >= len(where):
            log.warning("disk %s: only the guest's PV drivers will see it, the emulated controllers have no such place", spec.vdev)
        elif where[spec.position] is not None:
            raise XenfastError(f"disk {spec.vdev!r}: there is another disk at this place")
        else:
            where[spec.position] = drives[spec.vdev]
    return found


def start_flat(core: Any, entry: int, ebx: int) -> None:
    """32-bit protected mode, flat, no paging, as hvmloader wants it."""
    core.cr0 = CR0_PE | CR0_ET
    core.set_segment("cs", 0, 0, 0xFFFFFFFF, CODE32)
    for name in ("ds", "es", "ss"):
        core.set_segment(name, 0, 0, 0xFFFFFFFF, DATA32)
    core.set_segment("tr", 0, 0, TSS_LIMIT, TSS32)
    core.rflags, core.rbx, core.rip = 2, ebx, entry
