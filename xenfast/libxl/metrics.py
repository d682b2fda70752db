"""Metrics of a host in Prometheus' text format (version 0.0.4), for ``xenfast metrics``."""

from __future__ import annotations

from typing import Any

from xenfast.libxl import information
from xenfast.libxl.host import Host

# name -> (type, help, key of information.domain_info, factor)
DOMAIN_METRICS = {
    "xenfast_domain_cpu_seconds_total": ("counter", "Time that the domain's vcpus have run.", "cpu_seconds", 1),
    "xenfast_domain_memory_bytes": ("gauge", "Memory that the domain has.", "memory_kib", 1024),
    "xenfast_domain_max_memory_bytes": ("gauge", "Memory that the domain may have.", "maxmem_kib", 1024),
    "xenfast_domain_vcpus": ("gauge", "Vcpus that are online.", "vcpus", 1),
    "xenfast_domain_uptime_seconds": ("gauge", "Time since the domain was created.", "uptime_seconds", 1),
    "xenfast_domain_running": ("gauge", "1 while the domain has not ended and is not paused.", "alive", 1),
}


def text(host: Host, uptime: float) -> str:
    lines: list[str] = []
    memory = host.hypervisor.memory
    domains = list(host.domains.values())
    _add(lines, "xenfast_uptime_seconds", "gauge", "Time since the daemon has started.", [({}, round(uptime, 3))])
    _add(lines, "xenfast_memory_bytes", "gauge", "Machine memory.", [({}, memory.frames * 4096)])
    _add(lines, "xenfast_free_memory_bytes", "gauge", "Machine memory that no domain has.", [({}, memory.free_pages * 4096)])
    _add(lines, "xenfast_domains", "gauge", "Domains beside domain 0.", [({}, len(domains))])
    infos = []
    for domain in domains:
        info = information.domain_info(domain)
        infos.append(info | {"alive": int(not info["shutdown"] and not info["paused"])})
    for name, (kind, help_, key, factor) in DOMAIN_METRICS.items():
        _add(lines, name, kind, help_, [(_labels(info), info[key] * factor) for info in infos])
    disks = [(_labels({"name": d.name, "domid": d.domid}) | {"disk": vdev}, stats) for d in domains
             for vdev, stats in host.devices.disk_stats(d.xen).items()]
    for direction in ("read", "written"):
        samples = [(labels, stats.get(f"bytes_{direction}", 0)) for labels, stats in disks]
        _add(lines, f"xenfast_disk_{direction}_bytes_total", "counter", f"Bytes {direction} by the domain.", samples)
    calls = [(_labels({"name": d.name, "domid": d.domid}), sum(d.xen.hypercalls.values())) for d in domains]
    _add(lines, "xenfast_domain_hypercalls_total", "counter", "Hypercalls that the domain has made.", calls)
    retired = [(_labels({"name": d.name, "domid": d.domid}), d.xen.instructions) for d in domains]
    _add(lines, "xenfast_domain_instructions_total", "counter", "Instructions that the domain has retired.", retired)
    return "\n".join(lines) + "\n"


def _labels(info: dict[str, Any]) -> dict[str, Any]:
    return {"domain": info["name"], "domid": info["domid"]}


def _add(lines: list[str], name: str, kind: str, help_: str, samples: list[tuple[dict[str, Any], Any]]) -> None:
    lines += [f"# HELP {name} {help_}", f"# TYPE {name} {kind}"]
    for labels, value in samples:
        inner = ",".join(f'{key}="{_escaped(str(content))}"' for key, content in labels.items())
        lines.append(f"{name}{{{inner}}} {value}" if inner else f"{name} {value}")


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
