"""A domain's devices and nodes in xenstore: what the toolstack writes so that guest and domain 0 find each other.

Paths are those of docs/misc/xenstore-paths.pandoc, values those libxl writes.  Disks are served by dom0/blkback.py,
networks by dom0/netback.py, the console by dom0/consoled.py; this module only introduces them to each other.  Other
devices are left out until they have back ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenfast.abi.io.xenbus import XenbusState
from xenfast.dom0.block import Image, open_image
from xenfast.dom0.net.networks import Networks
from xenfast.errors import XenfastError

if TYPE_CHECKING:
    from collections.abc import Callable

    from xenfast.libxl.build import Built
    from xenfast.libxl.config import DomainConfig
    from xenfast.libxl.disk import DiskSpec
    from xenfast.libxl.network import NicSpec
    from xenfast.xen.domain import Domain
    from xenfast.xen.hypervisor import Hypervisor
    from xenfast.xenstore.xenstored import XenStored

CONSOLE_LIMIT = 1 << 20

# Nodes of a domain that it may only read, and those it owns (libxl__domain_make)
READ_ONLY_NODES = ("cpu", "memory", "device", "control")
OWN_NODES = (
    "control/shutdown",
    "control/feature-poweroff",
    "control/feature-reboot",
    "control/feature-suspend",
    "device/suspend/event-channel",
    "data",
    "drivers",
    "feature",
    "attr",
    "error",
)


def domain_path(domid: int) -> str:
    return f"/local/domain/{domid}"


class Attached:
    """What domain 0 holds for one domain."""

    def __init__(self, images: dict[str, Image]) -> None:
        self.images = images
        self.disks: dict[str, Any] = {}     # vdev -> its back end
        self.nics: dict[int, Any] = {}      # devid -> its back end
        self.console: Any = None


class Devices:
    """The devices of all domains of a host."""

    def __init__(self, hypervisor: Hypervisor, store: XenStored) -> None:
        self.hypervisor, self.store = hypervisor, store
        self.client = store.client("toolstack")
        self.attached: dict[int, Attached] = {}
        self.networks = Networks(hypervisor)
        self._domain0()

    # --- disks before there is a domain: a missing image is found before anything is built ---------------------------
    def open_images(self, disks: list[DiskSpec]) -> dict[str, Image]:
        """By vdev; a drive without a medium has none."""
        images: dict[str, Image] = {}
        try:
            for spec in disks:
                if spec.target:
                    images[spec.vdev] = open_image(spec.target, spec.format, spec.readonly, spec.direct_io_safe)
        except BaseException:
            self.close_images(images)
            raise
        return images

    @staticmethod
    def close_images(images: dict[str, Image]) -> None:
        for image in images.values():
            image.close()

    # --- a domain ----------------------------------------------------------------------------------------------------
    def attach(
        self,
        domain: Domain,
        config: DomainConfig,
        built: Built,
        images: dict[str, Image],
        output: Callable[[bytes], Any],
    ) -> None:
        """Write the domain's nodes, start its back ends, and introduce it to the store."""
        from xenfast.dom0.consoled import ConsoleBackend

        held = self.attached[domain.domid] = Attached(images)
        self._domain_nodes(domain.domid, config)
        self._ring_nodes(domain.domid, built)
        self.store.introduce(domain, built.store_mfn, built.store_port)
        held.console = ConsoleBackend(self.hypervisor, domain, built.console_mfn, built.console_port, output)
        for spec in config.disks:
            if spec.vdev not in images or spec.is_floppy:
                continue                    # PV drivers know neither drives without a medium nor diskettes
            self._start_disk(domain, spec, images[spec.vdev])
        for nic in config.vifs:
            self.attach_nic(domain, nic)

    def _start_disk(self, domain: Domain, spec: DiskSpec, image: Image) -> None:
        from xenfast.dom0.blkback import Blkback

        self._disk_nodes(domain.domid, spec)
        backend = Blkback(self.hypervisor, self.store, domain, spec.number, image)
        backend.start()
        self.attached[domain.domid].disks[spec.vdev] = backend

    # --- while it runs -----------------------------------------------------------------------------------------------
    def attach_disk(self, domain: Domain, spec: DiskSpec) -> None:
        """Plug in a disk, by the PV drivers."""
        held = self.attached[domain.domid]
        if spec.vdev in held.images or spec.vdev in held.disks:
            raise XenfastError(f"the domain has a disk {spec.vdev} already")
        held.images.update(self.open_images([spec]))
        if spec.vdev not in held.images:
            raise XenfastError("a drive without a medium cannot be plugged in")
        self._start_disk(domain, spec, held.images[spec.vdev])

    def detach_disk(self, domain: Domain, vdev: str, done: Callable[[], None] | None = None, force: bool = False) -> None:
        """Have the guest let go of a disk, then close its image and call ``done()``; at once with ``force``."""
        held = self.attached[domain.domid]
        backend = held.disks.get(vdev)
        if backend is None:
            raise XenfastError(f"the domain has no disk {vdev}")

        def gone() -> None:
            if held.disks.pop(vdev, None) is None:
                return
            self._remove_backend(backend)
            held.images.pop(vdev).close()
            if done is not None:
                done()

        gone() if force else backend.unplug(gone)

    def change_medium(self, domain: Domain, vdev: str, spec: DiskSpec | None) -> None:
        """Put another medium into a PV drive, or none (cd-insert, cd-eject)."""
        held = self.attached[domain.domid]
        backend = held.disks.get(vdev)
        if backend is None:
            raise XenfastError(f"the domain has no disk {vdev}")
        target = spec.target if spec is not None else ""
        image = open_image(target, spec.format, True) if spec is not None and target else open_image("", "empty")
        backend.change_image(image)
        held.images[vdev].close()
        held.images[vdev] = image
        self.client.write(f"{backend.path}/params", target)

    def disk_resized(self, domain: Domain, vdev: str) -> int:
        """Tell the guest that the file behind a raw disk has another size; returns its size in bytes."""
        held = self.attached[domain.domid]
        backend = held.disks.get(vdev)
        if backend is None:
            raise XenfastError(f"the domain has no disk {vdev}")
        grown = getattr(backend.image, "grown", None)
        if grown is not None and grown():
            backend.size_changed()
        return backend.image.size_sectors * 512

    def detach_nic(self, domain: Domain, devid: int, done: Callable[[], None] | None = None, force: bool = False) -> None:
        """Have the guest let go of a network interface, then pull it out of its switch and call ``done()``."""
        held = self.attached[domain.domid]
        backend = held.nics.get(devid)
        if backend is None:
            raise XenfastError(f"the domain has no network interface {devid}")

        def gone() -> None:
            if held.nics.pop(devid, None) is None:
                return
            self._remove_backend(backend)
            if done is not None:
                done()

        gone() if force else backend.unplug(gone)

    def _remove_backend(self, backend: Any) -> None:
        backend.close()
        self.client.rm(backend.front)

    def attach_nic(self, domain: Domain, spec: NicSpec) -> None:
        """Plug a network interface into its switch, also into a domain that runs."""
        from xenfast.dom0.netback import Netback

        port = self.networks.switch(spec.bridge).port(spec.vifname or f"vif{domain.domid}.{spec.devid}", spec.mac)
        self._nic_nodes(domain.domid, spec, port.switch.name)
        backend = Netback(self.hypervisor, self.store, domain, spec.devid, port)
        self.attached[domain.domid].nics[spec.devid] = backend
        backend.start()

    def detach(self, domain: Domain) -> None:
        """Take everything away again; harmless for a domain that has nothing."""
        held = self.attached.pop(domain.domid, None)
        if held is None:
            return
        for backend in [*held.disks.values(), *held.nics.values()]:
            backend.close()
        if held.console is not None:
            held.console.close()
        self.close_images(held.images)
        self.client.rm(domain_path(domain.domid))

    def drain(self, domain: Domain) -> None:
        """Take what is left in the console ring of a domain that has ended."""
        held = self.attached.get(domain.domid)
        if held is not None and held.console is not None:
            held.console.drain()

    def console_send(self, domain: Domain, data: bytes) -> None:
        held = self.attached.get(domain.domid)
        if held is not None and held.console is not None:
            held.console.send(data)

    def disk_stats(self, domain: Domain) -> dict[str, dict[str, int]]:
        held = self.attached.get(domain.domid)
        return {vdev: backend.stats() for vdev, backend in held.disks.items()} if held is not None else {}

    def nic_stats(self, domain: Domain) -> dict[str, dict[str, int]]:
        held = self.attached.get(domain.domid)
        return {str(devid): backend.stats() for devid, backend in held.nics.items()} if held is not None else {}

    # --- nodes -------------------------------------------------------------------------------------------------------
    def _write(self, nodes: dict[str, Any], perms: list[str]) -> None:
        for path, value in nodes.items():
            self.client.write(path, str(value))
            self.client.set_perms(path, perms)

    def _domain0(self) -> None:
        self._write({"/local/domain/0/name": "Domain-0", "/local/domain/0/domid": 0}, ["n0"])

    def _domain_nodes(self, domid: int, config: DomainConfig) -> None:
        home, vm = domain_path(domid), f"/vm/{config.uuid}"
        read_only, own = ["n0", f"r{domid}"], [f"n{domid}"]
        self._write({home: "", vm: ""}, read_only)
        self._write({f"{vm}/name": config.name, f"{vm}/uuid": config.uuid}, read_only)
        self._write({f"{home}/{name}": "" for name in READ_ONLY_NODES}, read_only)
        self._write({f"{home}/{name}": "" for name in OWN_NODES}, own)
        memory = config.memory << 10
        self._write(
            {
                f"{home}/vm": vm,
                f"{home}/name": config.name,
                f"{home}/domid": domid,
                f"{home}/memory/static-max": config.maxmem << 10,
                f"{home}/memory/target": memory,
                f"{home}/memory/videoram": 0,
            },
            read_only,
        )
        if config.type == "hvm":
            from xenfast.firmware.hvmloader import store_nodes

            self._write({f"{home}/{name}": value for name, value in store_nodes(config).items()}, read_only)
        for i in range(config.maxvcpus):
            path = f"{home}/cpu/{i}"
            self._write({path: "", f"{path}/availability": "online" if i < config.vcpus else "offline"}, read_only)

    def _ring_nodes(self, domid: int, built: Built) -> None:
        """The store's and the console's ring: what start_info says, for those who look here."""
        home, read_only = domain_path(domid), ["n0", f"r{domid}"]
        backend = f"/local/domain/0/backend/console/{domid}/0"
        self._write(
            {
                f"{home}/store": "",
                f"{home}/store/ring-ref": built.store_frame,
                f"{home}/store/port": built.store_port,
                f"{home}/console": "",
                f"{home}/console/backend": backend,
                f"{home}/console/backend-id": 0,
                f"{home}/console/limit": CONSOLE_LIMIT,
                f"{home}/console/type": "xenconsoled",
                f"{home}/console/output": "pty",
                f"{home}/console/ring-ref": built.console_frame,
                f"{home}/console/port": built.console_port,
            },
            read_only,
        )
        self._write(
            {
                backend: "",
                f"{backend}/frontend": f"{home}/console",
                f"{backend}/frontend-id": domid,
                f"{backend}/online": 1,
                f"{backend}/state": int(XenbusState.Initialising),
                f"{backend}/protocol": "vt100",
            },
            read_only,
        )

    def _disk_nodes(self, domid: int, spec: DiskSpec) -> None:
        """The two directories of a virtual disk (libxl's device_disk_add)."""
        front = f"{domain_path(domid)}/device/vbd/{spec.number}"
        back = f"/local/domain/0/backend/vbd/{domid}/{spec.number}"
        kind = "cdrom" if spec.cdrom else "disk"
        self._write({f"{domain_path(domid)}/device/vbd": ""}, ["n0", f"r{domid}"])
        self._write(
            {
                back: "",
                f"{back}/frontend": front,
                f"{back}/frontend-id": domid,
                f"{back}/params": spec.target,
                f"{back}/online": 1,
                f"{back}/removable": int(spec.cdrom),
                f"{back}/bootable": 1,
                f"{back}/state": int(XenbusState.Initialising),
                f"{back}/dev": spec.vdev,
                f"{back}/type": "phy",
                f"{back}/mode": spec.mode,
                f"{back}/device-type": kind,
                f"{back}/discard-enable": int(spec.discard),
            },
            ["n0", f"r{domid}"],
        )
        self._write(
            {
                front: "",
                f"{front}/backend": back,
                f"{front}/backend-id": 0,
                f"{front}/virtual-device": spec.number,
                f"{front}/device-type": kind,
                f"{front}/state": int(XenbusState.Initialising),
            },
            [f"n{domid}", "r0"],
        )

    def _nic_nodes(self, domid: int, spec: NicSpec, bridge: str) -> None:
        """The two directories of a network interface (libxl__set_xenstore_nic)."""
        front = f"{domain_path(domid)}/device/vif/{spec.devid}"
        back = f"/local/domain/0/backend/vif/{domid}/{spec.devid}"
        optional = {"ip": spec.ip, "vifname": spec.vifname, "mtu": spec.mtu}
        if spec.rate_bytes:
            optional["rate"] = f"{spec.rate_bytes},{spec.rate_interval_us}"
        self._write({f"{domain_path(domid)}/device/vif": ""}, ["n0", f"r{domid}"])
        self._write(
            {
                back: "",
                f"{back}/frontend": front,
                f"{back}/frontend-id": domid,
                f"{back}/online": 1,
                f"{back}/state": int(XenbusState.Initialising),
                f"{back}/script": spec.script or "vif-bridge",
                f"{back}/mac": spec.mac,
                f"{back}/bridge": bridge,
                f"{back}/handle": spec.devid,
                f"{back}/type": "vif",
                **{f"{back}/{name}": value for name, value in optional.items() if value},
            },
            ["n0", f"r{domid}"],
        )
        self._write(
            {
                front: "",
                f"{front}/backend": back,
                f"{front}/backend-id": 0,
                f"{front}/state": int(XenbusState.Initialising),
                f"{front}/handle": spec.devid,
                f"{front}/mac": spec.mac,
                f"{front}/mtu": spec.mtu or 1500,
                f"{front}/trusted": int(spec.trusted),
            },
            [f"n{domid}", "r0"],
        )
