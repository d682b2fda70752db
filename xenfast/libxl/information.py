"""What is known about domains and the host, as plain values: for ``xl list``, ``info``, ``vcpu-list``, ``dmesg`` and metrics."""

from __future__ import annotations

import os
import platform
import time
from typing import TYPE_CHECKING, Any

import xenfast
from xenfast.abi import vcpu as vcpu_abi
from xenfast.libxl import cpulist
from xenfast.libxl.host import Host
from xenfast.xen import version

if TYPE_CHECKING:
    from xenfast.libxl.domain import Domain

SHUTDOWN_NONE = -1
DOM0_STARTED = time.time()
POOL = "Pool-0"
NOBODY = "00000000-0000-0000-0000-000000000000"


def cpu_seconds(xen: Any) -> float:
    """Time that the vcpus of a domain have run."""
    now = xen.hypervisor.clock.now()
    total = 0
    for vcpu in xen.vcpus:
        total += vcpu.runstate_times[vcpu_abi.RUNSTATE_running]
        if vcpu.runstate == vcpu_abi.RUNSTATE_running:
            total += max(0, now - vcpu.runstate_entry)
    return total / 1e9


def domain_info(domain: Domain) -> dict[str, Any]:
    """One line of ``xl list`` and more."""
    xen = domain.xen
    online = [vcpu for vcpu in xen.vcpus if vcpu.online]
    shutdown = xen.shutdown_code is not None
    paused = bool(xen.pause_count) and not shutdown
    running = not shutdown and not paused and any(not vcpu.blocked for vcpu in online)
    return {
        "domid": domain.domid,
        "name": domain.name,
        "uuid": domain.config.uuid,
        "type": domain.config.type,
        "memory_kib": xen.tot_pages * 4,
        "maxmem_kib": xen.max_pages * 4,
        "vcpus": len(online),
        "max_vcpus": len(xen.vcpus),
        "running": running,
        "blocked": not running and not paused and not shutdown,
        "paused": paused,
        "shutdown": shutdown,
        "crashed": domain.ended == "crash",
        "dying": domain._destroyed,
        "ended": domain.ended,
        "shutdown_code": SHUTDOWN_NONE if xen.shutdown_code is None else xen.shutdown_code,
        "crash_reason": domain.crash_reason,
        "cpu_seconds": round(cpu_seconds(xen), 6),
        "uptime_seconds": round(time.time() - domain.created, 3),
        "cpupool": POOL,
    }


def domain0_info(host: Host) -> dict[str, Any]:
    """Domain 0 is this process: its memory is what the process has, its processors those of the host."""
    usage = _own_usage()
    return {
        "domid": 0, "name": "Domain-0", "uuid": NOBODY, "type": "pv", "memory_kib": usage["rss_kib"], "maxmem_kib": usage["rss_kib"],
        "vcpus": os.cpu_count() or 1, "max_vcpus": os.cpu_count() or 1, "running": True, "blocked": False, "paused": False,
        "shutdown": False, "crashed": False, "dying": False, "ended": None, "shutdown_code": SHUTDOWN_NONE, "crash_reason": None,
        "cpu_seconds": round(max(0.0, usage["cpu_seconds"] - sum(cpu_seconds(d.xen) for d in list(host.domains.values()))), 6),
        "uptime_seconds": round(time.time() - DOM0_STARTED, 3), "cpupool": POOL,
    }


def _own_usage() -> dict[str, Any]:
    times = os.times()
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            rss = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 10
    except (OSError, ValueError, IndexError):
        rss = 0
    return {"rss_kib": rss, "cpu_seconds": times.user + times.system}


def all_domains(host: Host) -> list[dict[str, Any]]:
    domains = sorted(host.domains.values(), key=lambda domain: domain.domid)
    return [domain0_info(host), *(domain_info(domain) for domain in domains)]


def vcpus(domain: Domain) -> list[dict[str, Any]]:
    """A line of ``xl vcpu-list`` for each vcpu."""
    xen, count = domain.xen, os.cpu_count() or 1
    now = xen.hypervisor.clock.now()
    found = []
    for vcpu in xen.vcpus:
        spent = vcpu.runstate_times[vcpu_abi.RUNSTATE_running]
        if vcpu.runstate == vcpu_abi.RUNSTATE_running:
            spent += max(0, now - vcpu.runstate_entry)
        hard = domain.affinity.get(vcpu.vcpu_id)
        soft = domain.soft_affinity.get(vcpu.vcpu_id)
        everywhere = set(range(count))
        found.append(
            {
                "domid": domain.domid, "name": domain.name, "vcpu": vcpu.vcpu_id, "online": vcpu.online,
                "cpu": min(hard) if hard else vcpu.vcpu_id % count, "running": vcpu.online and vcpu.in_guest and not vcpu.blocked,
                "blocked": vcpu.online and vcpu.blocked, "cpu_seconds": round(spent / 1e9, 6),
                "hard": cpulist.text_of(hard or everywhere, count), "soft": cpulist.text_of(soft or everywhere, count),
            }
        )
    return found


def host_info(host: Host) -> dict[str, Any]:
    """The lines of ``xl info``, in their order."""
    system, memory = os.uname(), host.hypervisor.memory
    cpus = os.cpu_count() or 1
    mhz, flags = _processor()
    return {
        "host": system.nodename,
        "release": system.release,
        "version": system.version,
        "machine": system.machine,
        "nr_cpus": cpus,
        "max_cpu_id": cpus - 1,
        "nr_nodes": 1,
        "cores_per_socket": cpus,
        "threads_per_core": 1,
        "cpu_mhz": mhz,
        "hw_caps": flags,
        "virt_caps": "pv hvm",
        "total_memory": memory.frames >> 8,
        "free_memory": memory.free_pages >> 8,
        "sharing_freed_memory": 0,
        "sharing_used_memory": 0,
        "outstanding_claims": 0,
        "free_cpus": 0,
        "xen_major": version.MAJOR,
        "xen_minor": version.MINOR,
        "xen_extra": version.EXTRAVERSION.decode(),
        "xen_version": f"{version.MAJOR}.{version.MINOR}{version.EXTRAVERSION.decode()}",
        "xen_caps": version.CAPABILITIES.decode(),
        "xen_scheduler": "credit",
        "xen_pagesize": 4096,
        "platform_params": "virt_start=0xffff800000000000",
        "xen_changeset": "",
        "xen_commandline": "",
        "cc_compiler": platform.python_compiler(),
        "cc_compile_by": "xenfast",
        "cc_compile_domain": "",
        "cc_compile_date": "",
        "build_id": xenfast.__version__,
        "xend_config_format": 4,
    }


def _processor() -> tuple[str, str]:
    """MHz, and the feature words of the processor that guests see."""
    mhz = "0.000"
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            mhz = next(line.split(":")[1].strip() for line in file if line.startswith("cpu MHz"))
    except (OSError, StopIteration):
        pass
    from xenfast import _core

    words = [0] * len(_core.CPUID_WORDS)
    for _name, word, bit, *_ in _core.CPUID_FEATURES:
        words[word] |= 1 << bit
    return mhz, ":".join(f"{word:08x}" for word in words)
