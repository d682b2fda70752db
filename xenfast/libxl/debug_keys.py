"""Debug keys: what ``xl debug-keys`` has the hypervisor print on its console (xl dmesg shows it)."""

from __future__ import annotations

from collections.abc import Callable

from xenfast.errors import XenfastError
from xenfast.libxl import information
from xenfast.libxl.host import Host


def _help(host: Host) -> list[str]:
    return [f" key '{key}' => {text}" for key, (text, _) in sorted(KEYS.items())]


def _registers(host: Host) -> list[str]:
    lines = []
    for domain in list(host.domains.values()):
        with host.hypervisor.lock:
            for vcpu in domain.xen.vcpus:
                if vcpu.core is not None and vcpu.online and not vcpu.in_guest:
                    lines += [f"*** Dumping Dom{domain.domid} vcpu#{vcpu.vcpu_id} state: ***", *vcpu.dump()]
    return lines


def _memory(host: Host) -> list[str]:
    memory = host.hypervisor.memory
    return ["Physical memory information:", f"    machine: {memory.frames * 4}kB", f"    free: {memory.free_pages * 4}kB"]


def _domains(host: Host) -> list[str]:
    lines = []
    for info in information.all_domains(host):
        lines.append(f"General information for domain {info['domid']}:")
        lines.append(f"    name={info['name']} type={info['type']} pages={info['memory_kib'] // 4} max_pages={info['maxmem_kib'] // 4}")
        lines.append(f"    paused={int(info['paused'])} shutdown={int(info['shutdown'])} vcpus={info['vcpus']}/{info['max_vcpus']}")
    return lines


def _events(host: Host) -> list[str]:
    lines = []
    for domain in list(host.domains.values()):
        channels = domain.xen.evtchn.channels
        ports = [str(port) for port in range(1, len(channels)) if channels[port] is not None][:1024]
        lines.append(f"Event channel information for domain {domain.domid}: ports {' '.join(ports)}")
    return lines


def _run_queue(host: Host) -> list[str]:
    credit = host.hypervisor.scheduler.credit
    lines = [f"Scheduler: credit, {credit.processors} processors, {'in use' if credit.active else 'not needed'}"]
    for domain in list(host.domains.values()):
        weight, cap = domain.share
        lines.append(f"    dom{domain.domid}: weight={weight} cap={cap} {information.cpu_seconds(domain.xen):.3f}s")
    return lines


KEYS: dict[str, tuple[str, Callable[[Host], list[str]]]] = {
    "h": ("show this message", _help),
    "0": ("dump the registers of waiting vcpus", _registers),
    "e": ("dump event channels", _events),
    "m": ("memory info", _memory),
    "q": ("dump domain info", _domains),
    "r": ("dump run queues", _run_queue),
}


def press(host: Host, keys: str) -> None:
    """Print what the keys ask for, one after the other."""
    for key in keys:
        if key not in KEYS:
            raise XenfastError(f"there is no debug key {key!r} ({', '.join(sorted(KEYS))})")
        host.hypervisor.console.printk(f"'{key}' pressed -> {KEYS[key][0]}")
        for line in KEYS[key][1](host):
            host.hypervisor.console.printk(line)
