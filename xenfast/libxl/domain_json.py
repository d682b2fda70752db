"""A configuration as libxl writes it in JSON: what ``xl -N create`` prints (libxl_domain_config_to_json).

Only what was set is there, as with libxl; keys without a counterpart in DomainConfig are left out.
"""

from __future__ import annotations

from typing import Any

from xenfast.libxl.config import EVENTS, DomainConfig
from xenfast.libxl.disk import DiskSpec
from xenfast.libxl.network import NicSpec

# b_info, type.hvm: fields that are a key by the same or another name
HVM_BOOLEANS = {
    "pae": "pae", "apic": "apic", "acpi": "acpi", "acpi_s3": "acpi_s3", "acpi_s4": "acpi_s4", "nx": "nx", "hpet": "hpet",
    "vpt_align": "vpt_align", "xen_platform_pci": "xen_platform_pci", "usb": "usb",
}
HVM_VALUES = {"boot": "boot", "smbios_firmware": "smbios_firmware", "acpi_firmware": "acpi_firmware", "hdtype": "hdtype",
              "usbversion": "usbversion"}


def as_libxl(config: DomainConfig) -> dict[str, Any]:
    given = config.settings
    build: dict[str, Any] = {"max_memkb": config.maxmem << 10, "target_memkb": config.memory << 10}
    if "maxvcpus" in given or "vcpus" in given:
        build["max_vcpus"] = config.maxvcpus
        build["avail_vcpus"] = list(range(config.vcpus))
    shares = {name: value for key, name, value in (("cpu_weight", "weight", config.cpu_weight), ("cap", "cap", config.cap)) if key in given}
    build["sched_params"] = shares
    for name in ("localtime", "rtc_timeoffset"):
        if name in given:
            build["localtime" if name == "localtime" else name] = str(bool(given[name])) if name == "localtime" else given[name]
    for name in ("kernel", "ramdisk", "cmdline"):
        if getattr(config, name):
            build[name] = getattr(config, name)
    build[f"type.{config.type}"] = _hvm(config) if config.type == "hvm" else {}
    result: dict[str, Any] = {"c_info": {"type": config.type, "name": config.name, "uuid": config.uuid}, "b_info": build}
    if config.disks:
        result["disks"] = [_disk(spec) for spec in config.disks]
    if config.vifs:
        result["nics"] = [_nic(spec) for spec in config.vifs]
    defaults = {"on_reboot": "restart", "on_soft_reset": "soft-reset"}
    for name in EVENTS:
        action = getattr(config, name)
        if action != "destroy" or name in defaults:
            result[name] = {"rename-restart": "restart_rename"}.get(action, action.replace("-", "_"))
    return result


def _hvm(config: DomainConfig) -> dict[str, Any]:
    given = config.settings
    found: dict[str, Any] = {name: str(bool(getattr(config, key))) for key, name in HVM_BOOLEANS.items() if key in given}
    found |= {name: getattr(config, key) for key, name in HVM_VALUES.items() if key in given}
    if "timer_mode" in given:
        found["timer_mode"] = config.timer_mode
    if config.bios:
        found["bios"] = config.bios
    vnc = {name: given[key] for key, name in (("vnclisten", "listen"), ("vncdisplay", "display"), ("vncpasswd", "passwd")) if key in given}
    found["vnc"] = vnc | {name: str(bool(given[key])) for key, name in (("vnc", "enable"), ("vncunused", "findunused")) if key in given}
    if len(config.serial) == 1:
        found["serial"] = config.serial[0]
    elif config.serial:
        found["serial_list"] = config.serial
    return found


def _disk(spec: DiskSpec) -> dict[str, Any]:
    found: dict[str, Any] = {"pdev_path": spec.target} if spec.target else {}
    found |= {"vdev": spec.vdev, "format": spec.format}
    if spec.cdrom:
        found["removable"] = 1
    if not spec.readonly:
        found["readwrite"] = 1
    if spec.cdrom:
        found["is_cdrom"] = 1
    if not spec.discard:
        found["discard_enable"] = "False"
    return found


def _nic(spec: NicSpec) -> dict[str, Any]:
    found: dict[str, Any] = {"devid": spec.devid, "mac": spec.mac}
    for key, name in (("bridge", "bridge"), ("model", "model"), ("ip", "ip"), ("script", "script"), ("vifname", "ifname"),
                      ("mtu", "mtu"), ("gatewaydev", "gatewaydev")):
        if getattr(spec, key):
            found[name] = getattr(spec, key)
    if spec.kind:
        found["nictype"] = "vif_ioemu" if spec.kind == "ioemu" else "vif"
    if spec.rate_interval_us:
        found |= {"rate_bytes_per_interval": spec.rate_bytes, "rate_interval_usecs": spec.rate_interval_us}
    return found
