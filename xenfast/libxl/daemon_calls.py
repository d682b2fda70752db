"""The methods of the daemon: THE TABLE, and a short function for each.  Specified in docs/daemon.md.

A function gets the daemon and the parameters, which the table says the types of; it returns plain values, raises
XenfastError, or returns a Stream.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from xenfast.errors import XenfastError
from xenfast.libxl import config, cpulist, debug_keys, disk, dumpcore, information, metrics, network
from xenfast.libxl.daemon_streams import ConsoleStream, MessageStream
from xenfast.libxl.domain import Domain

if TYPE_CHECKING:
    from xenfast.libxl.daemon import Daemon

DETACH_TIME = 10.0      # s that a guest gets to let go of a device


class Method(NamedTuple):
    function: Callable[..., Any]
    params: dict[str, Any]          # name -> type, or (type, default)


def call(daemon: Daemon, name: str, params: dict[str, Any]) -> Any:
    """Call a method; XenfastError for one that does not exist, and for parameters that do not fit."""
    method = METHODS.get(name)
    if method is None:
        raise XenfastError(f"the daemon has no method {name[:64]!r}")
    unknown = set(params) - set(method.params)
    if unknown:
        raise XenfastError(f"{name} has no parameter {sorted(unknown)[0][:64]!r}")
    values: dict[str, Any] = {}
    for key, kind in method.params.items():
        optional = isinstance(kind, tuple)
        expected, default = kind if optional else (kind, None)
        value = params.get(key, default)
        if value is None and optional:
            values[key] = None
            continue
        if expected is float and isinstance(value, int):
            value = float(value)
        if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
            raise XenfastError(f"{name}: the parameter {key!r} must be {expected.__name__}")
        values[key] = value
    return method.function(daemon, **values)


# --- domains ---------------------------------------------------------------------------------------------------------
def create(daemon: Daemon, text: str, where: str, directory: str, overrides: str, paused: bool, unattended: bool) -> dict[str, Any]:
    settings = _configuration(text, where, directory, overrides)
    domain = daemon.host.create(settings, paused=True)
    if unattended:
        daemon.supervisor.unattended.add(domain.domid)
    if not paused:
        domain.unpause()
    return {"domid": domain.domid, "name": domain.name}


def _configuration(text: str, where: str, directory: str, overrides: str) -> config.DomainConfig:
    settings = config.parse_settings(text, where)
    settings |= config.parse_settings(overrides, "command line")
    if "name" not in settings:
        raise XenfastError(f"{where}: the domain has no name (name = \"NAME\")")
    found = config.from_dict(settings, where)
    config.resolve_paths(found, directory)
    return found


def config_update(daemon: Daemon, domain: str, text: str, where: str, directory: str, overrides: str) -> None:
    found = daemon.host.find(domain)
    daemon.supervisor.configs[found.domid] = _configuration(text, where, directory, overrides)


def domain_list(daemon: Daemon, domain: str | None) -> list[dict[str, Any]]:
    everyone = information.all_domains(daemon.host)
    if domain is None:
        return everyone
    found = [each for each in everyone if domain in (each["name"], str(each["domid"]))]
    if not found:
        raise XenfastError(f"there is no domain {domain!r}")
    return found


def domain_config(daemon: Daemon, domain: str) -> dict[str, Any]:
    found = daemon.host.find(domain)
    return {"domid": found.domid, "config": dict(found.config.settings) | {"name": found.name, "uuid": found.config.uuid}}


def destroy(daemon: Daemon, domain: str) -> None:
    daemon.host.find(domain).destroy()


def shutdown(daemon: Daemon, domain: str, reason: str, fallback: bool) -> int:
    """Ask by xenstore; with ``fallback`` a guest without PV drivers gets its power (or reset) button pressed."""
    found = daemon.host.find(domain)
    if found.ended is not None:
        raise XenfastError(f"the domain {found.name!r} has ended already ({found.ended})")
    if found.config.type == "hvm" and not _has_pv_control(daemon, found):
        if not fallback:
            raise XenfastError(f"the domain {found.name!r} has no PV drivers that could be asked; -F presses its button")
        found.trigger("power" if reason == "poweroff" else "reset")
    else:
        found.shutdown(reason)
    return found.domid


def _has_pv_control(daemon: Daemon, domain: Domain) -> bool:
    return daemon.host.store.client().read(f"{domain.path}/control/feature-poweroff", "") == "1"


def pause(daemon: Daemon, domain: str) -> None:
    daemon.host.find(domain).pause()


def unpause(daemon: Daemon, domain: str) -> None:
    daemon.host.find(domain).unpause()


def rename(daemon: Daemon, domain: str, name: str) -> None:
    daemon.host.find(domain).rename(name)


def wait(daemon: Daemon, domain: str, death: bool, timeout: float | None) -> dict[str, Any]:
    """Wait until the domain has ended, or (``death``) is no more."""
    found = daemon.host.find(domain)
    over = threading.Event()

    def look(event: Any) -> None:
        if event.domid == found.domid and event.kind in (("destroyed",) if death else ("ended", "destroyed")):
            over.set()

    stop = daemon.host.events.listen(look)
    try:
        if (found.ended is not None and not death) or found._destroyed:
            over.set()
        return {"over": over.wait(timeout), "ended": found.ended, "domid": found.domid}
    finally:
        stop()


def trigger(daemon: Daemon, domain: str, what: str, vcpu: int) -> None:
    daemon.host.find(domain).trigger(what, vcpu)


def sysrq(daemon: Daemon, domain: str, key: str) -> None:
    daemon.host.find(domain).sysrq(key)


def dump_core(daemon: Daemon, domain: str, path: str) -> None:
    dumpcore.dump(daemon.host.find(domain), path)


# --- processors and memory -------------------------------------------------------------------------------------------
def vcpu_list(daemon: Daemon, domain: str | None) -> list[dict[str, Any]]:
    domains = [daemon.host.find(domain)] if domain is not None else sorted(daemon.host.domains.values(), key=lambda d: d.domid)
    return [vcpu for each in domains for vcpu in information.vcpus(each)]


def vcpu_set(daemon: Daemon, domain: str, count: int) -> None:
    daemon.host.find(domain).set_vcpus(count)


def vcpu_pin(daemon: Daemon, domain: str, vcpu: int, hard: str | None, soft: str | None) -> None:
    """``vcpu`` -1: all of them."""
    found, count = daemon.host.find(domain), os.cpu_count() or 1
    sets = [cpulist.members(text, count) if text is not None else None for text in (hard, soft)]
    for number in range(len(found.xen.vcpus)) if vcpu == -1 else (vcpu,):
        found.pin_vcpu(number, *sets)


def mem_set(daemon: Daemon, domain: str, kib: int) -> None:
    daemon.host.find(domain).set_memory(kib)


def mem_max(daemon: Daemon, domain: str, kib: int) -> None:
    daemon.host.find(domain).set_maxmem(kib)


def sched_list(daemon: Daemon, domain: str | None) -> list[dict[str, Any]]:
    domains = [daemon.host.find(domain)] if domain is not None else sorted(daemon.host.domains.values(), key=lambda d: d.domid)
    found = [{"domid": each.domid, "name": each.name, "weight": each.share[0], "cap": each.share[1]} for each in domains]
    return found if domain is not None else [{"domid": 0, "name": "Domain-0", "weight": 256, "cap": 0}, *found]


def sched_set(daemon: Daemon, domain: str, weight: int | None, cap: int | None) -> None:
    daemon.host.find(domain).set_share(weight, cap)


# --- devices ---------------------------------------------------------------------------------------------------------
def _device_event(domain: Domain, what: str, device: Any) -> None:
    domain.host.events.emit("device", domain.domid, domain.name, what=what, device=str(device))


def block_attach(daemon: Daemon, domain: str, spec: str, directory: str) -> None:
    found, wanted = daemon.host.find(domain), disk.parse(spec)
    if wanted.target:
        wanted = disk.DiskSpec(**{**vars(wanted), "target": str(Path(directory) / wanted.target)})
    daemon.host.exclusively(lambda: daemon.host.devices.attach_disk(found.xen, wanted))
    found.config.disks.append(wanted)
    _device_event(found, "attached", wanted.vdev)


def _vdev_of(domain: Domain, which: str) -> str:
    for spec in domain.config.disks:
        if which in (spec.vdev, str(spec.number)):
            return spec.vdev
    raise XenfastError(f"the domain {domain.name!r} has no disk {which}")


def block_detach(daemon: Daemon, domain: str, device: str, force: bool) -> None:
    found = daemon.host.find(domain)
    vdev = _vdev_of(found, device)
    _detach(daemon, lambda done: daemon.host.devices.detach_disk(found.xen, vdev, done, force), vdev)
    found.config.disks = [spec for spec in found.config.disks if spec.vdev != vdev]
    _device_event(found, "detached", vdev)


def _detach(daemon: Daemon, begin: Callable[[Callable[[], None]], Any], name: Any) -> None:
    over = threading.Event()
    daemon.host.exclusively(lambda: begin(over.set))
    if not over.wait(DETACH_TIME):
        raise XenfastError(f"the guest does not let go of {name}; -f (--force) takes it away")


def block_list(daemon: Daemon, domain: str) -> list[dict[str, Any]]:
    found = daemon.host.find(domain)
    return [_front(daemon, found, "vbd", spec.number) | {"vdev": spec.number, "name": spec.vdev, "target": spec.target,
            "readonly": spec.readonly, "cdrom": spec.cdrom} for spec in found.config.disks]


def _front(daemon: Daemon, domain: Domain, kind: str, handle: int) -> dict[str, Any]:
    """What a front end has written, for the -list commands."""
    client, front = daemon.host.store.client(), f"{domain.path}/device/{kind}/{handle}"
    return {
        "backend_id": 0, "handle": handle, "state": client.read_int(f"{front}/state", -1),
        "event_channel": client.read_int(f"{front}/event-channel", -1), "ring_ref": client.read_int(f"{front}/ring-ref", -1),
        "tx_ring_ref": client.read_int(f"{front}/tx-ring-ref", -1), "rx_ring_ref": client.read_int(f"{front}/rx-ring-ref", -1),
        "backend": f"/local/domain/0/backend/{kind}/{domain.domid}/{handle}",
    }


def network_attach(daemon: Daemon, domain: str, spec: str) -> None:
    found = daemon.host.find(domain)
    (*_, wanted) = network.settle([*found.config.vifs, network.parse(spec)], found.config.uuid)
    daemon.host.exclusively(lambda: daemon.host.devices.attach_nic(found.xen, wanted))
    found.config.vifs.append(wanted)
    _device_event(found, "attached", f"vif {wanted.devid}")


def network_detach(daemon: Daemon, domain: str, device: str, force: bool) -> None:
    found = daemon.host.find(domain)
    nic = next((nic for nic in found.config.vifs if device.lower() in (nic.mac, str(nic.devid))), None)
    if nic is None:
        raise XenfastError(f"the domain {found.name!r} has no network interface {device}")
    devid = nic.devid
    _detach(daemon, lambda done: daemon.host.devices.detach_nic(found.xen, devid, done, force), f"vif {devid}")
    found.config.vifs.remove(nic)
    _device_event(found, "detached", f"vif {devid}")


def network_list(daemon: Daemon, domain: str) -> list[dict[str, Any]]:
    found = daemon.host.find(domain)
    return [_front(daemon, found, "vif", nic.devid) | {"mac": nic.mac, "bridge": nic.bridge or network.DEFAULT_BRIDGE}
            for nic in found.config.vifs]


def cd_change(daemon: Daemon, domain: str, device: str, spec: str | None, directory: str) -> None:
    """Another medium, or none, in a CD-ROM drive."""
    found = daemon.host.find(domain)
    vdev = _vdev_of(found, device)
    old = next(each for each in found.config.disks if each.vdev == vdev)
    if not old.cdrom:
        raise XenfastError(f"{vdev} of the domain {found.name!r} is not a CD-ROM drive")
    wanted = disk.parse(f"{spec},vdev={vdev},devtype=cdrom" if spec else f"vdev={vdev},devtype=cdrom")
    if wanted.target:
        wanted = disk.DiskSpec(**{**vars(wanted), "target": str(Path(directory) / wanted.target)})
    if found.config.type == "hvm":
        raise XenfastError("the medium of an emulated drive cannot be changed yet; a PV drive (xvd) can")
    daemon.host.exclusively(lambda: daemon.host.devices.change_medium(found.xen, vdev, wanted if wanted.target else None))
    found.config.disks = [wanted if each.vdev == vdev else each for each in found.config.disks]


# --- the host --------------------------------------------------------------------------------------------------------
def host_info(daemon: Daemon) -> dict[str, Any]:
    return information.host_info(daemon.host)


def dmesg(daemon: Daemon, clear: bool) -> list[str]:
    console = daemon.host.hypervisor.console
    lines = list(console.lines)
    if clear:
        console.lines.clear()
    return lines


def send_debug_keys(daemon: Daemon, keys: str) -> None:
    debug_keys.press(daemon.host, keys)


def host_metrics(daemon: Daemon) -> str:
    return metrics.text(daemon.host, time.time() - daemon.started)


def status(daemon: Daemon) -> dict[str, Any]:
    return daemon.status()


def stop(daemon: Daemon, force: bool) -> None:
    if daemon.host.domains and not force:
        raise XenfastError(f"{len(daemon.host.domains)} domains run; --force ends them with the daemon")
    threading.Timer(0.05, daemon.stop).start()


# --- streams ---------------------------------------------------------------------------------------------------------
def console(daemon: Daemon, domain: str, follow: bool, kind: str) -> ConsoleStream:
    found = daemon.host.find(domain)
    if kind == "serial" and found.config.type != "hvm":
        raise XenfastError(f"the domain {found.name!r} has no serial port: it is a {found.config.type.upper()} guest")
    return ConsoleStream(daemon.consoles, found, follow)


def events(daemon: Daemon) -> MessageStream:
    return MessageStream(lambda put: daemon.host.events.listen(lambda event: put(event.as_dict())))


# --- the store -------------------------------------------------------------------------------------------------------
def store_read(daemon: Daemon, path: str) -> str:
    return daemon.host.store.client().read(path)


def store_write(daemon: Daemon, path: str, value: str) -> None:
    try:
        daemon.host.store.client().write(path, value)
    except UnicodeEncodeError:
        raise XenfastError("a value has characters that xenstore cannot hold") from None


def store_rm(daemon: Daemon, path: str) -> None:
    if not daemon.host.store.client().exists(path):
        raise XenfastError(f"there is no node {path}")
    daemon.host.store.client().rm(path)


def store_exists(daemon: Daemon, path: str) -> bool:
    return daemon.host.store.client().exists(path)


def store_list(daemon: Daemon, path: str) -> list[str]:
    client = daemon.host.store.client()
    if not client.exists(path):
        raise XenfastError(f"there is no node {path}")
    return client.ls(path)


def store_ls(daemon: Daemon, path: str) -> list[dict[str, Any]]:
    """A whole subtree, parents first: path, value, permissions."""
    client = daemon.host.store.client()
    found: list[dict[str, Any]] = []

    def walk(node: str) -> None:
        for name in client.ls(node):
            child = f"{node.rstrip('/')}/{name}"
            found.append({"path": child, "value": client.read(child, ""), "perms": client.get_perms(child)})
            walk(child)

    store_list(daemon, path)
    with daemon.host.store.lock:
        walk(path)
    return found


def store_chmod(daemon: Daemon, path: str, perms: list) -> None:
    daemon.host.store.client().set_perms(path, [str(perm) for perm in perms])


def store_watch(daemon: Daemon, paths: list) -> MessageStream:
    def begin(put: Callable[[dict[str, Any]], None]) -> Callable[[], Any]:
        client = daemon.host.store.client("xenstore-watch")
        for path in paths:
            client.watch(str(path), str(path), lambda node, token: put({"path": node}))
        return client.close

    return MessageStream(begin)


DOMAIN = {"domain": str}
TEXT = {"text": str, "where": (str, "config"), "directory": (str, "/"), "overrides": (str, "")}
SPEC = {"spec": str, "directory": (str, "/")}
FORCE = {"device": str, "force": (bool, False)}

METHODS: dict[str, Method] = {
    "domain.create": Method(create, TEXT | {"paused": (bool, False), "unattended": (bool, False)}),
    "domain.config_update": Method(config_update, DOMAIN | TEXT),
    "domain.config": Method(domain_config, DOMAIN),
    "domain.list": Method(domain_list, {"domain": (str, None)}),
    "domain.destroy": Method(destroy, DOMAIN),
    "domain.shutdown": Method(shutdown, DOMAIN | {"reason": (str, "poweroff"), "fallback": (bool, False)}),
    "domain.pause": Method(pause, DOMAIN),
    "domain.unpause": Method(unpause, DOMAIN),
    "domain.rename": Method(rename, DOMAIN | {"name": str}),
    "domain.wait": Method(wait, DOMAIN | {"death": (bool, False), "timeout": (float, None)}),
    "domain.trigger": Method(trigger, DOMAIN | {"what": str, "vcpu": (int, 0)}),
    "domain.sysrq": Method(sysrq, DOMAIN | {"key": str}),
    "domain.dump_core": Method(dump_core, DOMAIN | {"path": str}),
    "vcpu.list": Method(vcpu_list, {"domain": (str, None)}),
    "vcpu.set": Method(vcpu_set, DOMAIN | {"count": int}),
    "vcpu.pin": Method(vcpu_pin, DOMAIN | {"vcpu": int, "hard": (str, None), "soft": (str, None)}),
    "mem.set": Method(mem_set, DOMAIN | {"kib": int}),
    "mem.max": Method(mem_max, DOMAIN | {"kib": int}),
    "sched.list": Method(sched_list, {"domain": (str, None)}),
    "sched.set": Method(sched_set, DOMAIN | {"weight": (int, None), "cap": (int, None)}),
    "block.attach": Method(block_attach, DOMAIN | SPEC),
    "block.detach": Method(block_detach, DOMAIN | FORCE),
    "block.list": Method(block_list, DOMAIN),
    "network.attach": Method(network_attach, DOMAIN | {"spec": (str, "")}),
    "network.detach": Method(network_detach, DOMAIN | FORCE),
    "network.list": Method(network_list, DOMAIN),
    "cd.change": Method(cd_change, DOMAIN | {"device": str, "spec": (str, None), "directory": (str, "/")}),
    "host.info": Method(host_info, {}),
    "host.dmesg": Method(dmesg, {"clear": (bool, False)}),
    "host.debug_keys": Method(send_debug_keys, {"keys": str}),
    "host.metrics": Method(host_metrics, {}),
    "daemon.status": Method(status, {}),
    "daemon.stop": Method(stop, {"force": (bool, False)}),
    "console.attach": Method(console, DOMAIN | {"follow": (bool, False), "kind": (str, "")}),
    "events": Method(events, {}),
    "store.read": Method(store_read, {"path": str}),
    "store.write": Method(store_write, {"path": str, "value": str}),
    "store.rm": Method(store_rm, {"path": str}),
    "store.exists": Method(store_exists, {"path": str}),
    "store.list": Method(store_list, {"path": str}),
    "store.ls": Method(store_ls, {"path": (str, "/")}),
    "store.chmod": Method(store_chmod, {"path": str, "perms": list}),
    "store.watch": Method(store_watch, {"paths": list}),
}
