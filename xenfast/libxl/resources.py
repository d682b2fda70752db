"""What a domain has of the host, changed while it runs: memory, vcpus, processors, its share of them.

Memory and vcpus are changed with the guest's help, as xl does: the target is written to xenstore, and the guest's balloon
driver or its hotplug of processors follows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenfast.errors import XenfastError
from xenfast.xen.credit import MAX_WEIGHT

if TYPE_CHECKING:
    from xenfast.libxl.config import DomainConfig
    from xenfast.libxl.host import Host

SLACK = 1 << 8          # pages above the target that the domain may have (LIBXL_MAXMEM_CONSTANT: 1 MiB)


class Resources:
    """The part of a Domain that is about memory and processors."""

    host: Host
    config: DomainConfig
    xen: Any
    name: str

    def _init_resources(self) -> None:
        self.affinity: dict[int, set[int]] = {}         # vcpu -> processors it is pinned to
        self.soft_affinity: dict[int, set[int]] = {}    # ... and those it prefers (kept, not used)

    def _path(self, name: str) -> str:
        return f"/local/domain/{self.xen.domid}/{name}"

    # --- memory ------------------------------------------------------------------------------------------------------
    @property
    def memory_target(self) -> int:
        """KiB that the guest's balloon driver aims at."""
        return self.host.store.client().read_int(self._path("memory/target"))

    def set_memory(self, kib: int) -> None:
        """Ask the guest to have so much memory (xl mem-set): its balloon driver gives back or takes."""
        client = self.host.store.client()
        most = client.read_int(self._path("memory/static-max"))
        if kib < 1 << 10:
            raise XenfastError(f"a domain cannot have {kib} KiB of memory")
        if kib > most:
            raise XenfastError(f"{kib} KiB are more than the domain {self.name!r} can ever have ({most} KiB, its maxmem)")
        self.xen.max_pages = (kib >> 2) + SLACK
        client.write(self._path("memory/target"), kib)

    def set_maxmem(self, kib: int) -> None:
        """Limit what the domain may have (xl mem-max); not below what it is asked to have."""
        target = self.memory_target
        if kib < target:
            raise XenfastError(f"{kib} KiB are less than the domain {self.name!r} is asked to have ({target} KiB)")
        self.xen.max_pages = (kib >> 2) + SLACK

    # --- vcpus -------------------------------------------------------------------------------------------------------
    def set_vcpus(self, count: int) -> None:
        """Ask the guest to use so many vcpus (xl vcpu-set)."""
        have = len(self.xen.vcpus)
        if not 1 <= count <= have:
            raise XenfastError(f"the domain {self.name!r} can have 1 to {have} vcpus (its maxvcpus), not {count}")
        client = self.host.store.client()
        for number in range(have):
            node, wanted = self._path(f"cpu/{number}/availability"), "online" if number < count else "offline"
            if client.read(node, "") != wanted:
                client.write(node, wanted)

    def pin_vcpu(self, number: int, cpus: set[int] | None, soft: set[int] | None = None) -> None:
        """Let a vcpu run on these processors of the host only; None: leave that as it is."""
        if not 0 <= number < len(self.xen.vcpus):
            raise XenfastError(f"the domain {self.name!r} has no vcpu {number}")
        if cpus is not None:
            if not cpus:
                raise XenfastError("a vcpu must be able to run on some processor")
            self.affinity[number] = set(cpus)
            self.host.hypervisor.scheduler.pin(self.xen.vcpus[number], set(cpus))
        if soft is not None:
            self.soft_affinity[number] = set(soft)

    # --- shares ------------------------------------------------------------------------------------------------------
    @property
    def share(self) -> tuple[int, int]:
        """(weight, cap in percent of a processor; 0: no limit)."""
        share = self.host.hypervisor.scheduler.credit.share(self.xen)
        return share.weight, share.cap

    def set_share(self, weight: int | None = None, cap: int | None = None) -> None:
        """Change the domain's weight or cap (xl sched-credit)."""
        if weight is not None and not 1 <= weight <= MAX_WEIGHT:
            raise XenfastError(f"a weight is between 1 and {MAX_WEIGHT}, not {weight}")
        most = 100 * len(self.xen.vcpus)
        if cap is not None and not 0 <= cap <= most:
            raise XenfastError(f"the cap of the domain {self.name!r} is between 0 and {most}, not {cap}")
        self.host.hypervisor.scheduler.set_share(self.xen, weight, cap)
        if weight is not None:
            self.config.cpu_weight = weight
        if cap is not None:
            self.config.cap = cap
