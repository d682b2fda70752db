"""Commands that show something: list, vm-list, vcpu-list, info, dmesg, top, uptime, debug-keys, metrics, events.

Columns and formats are xl's.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from xenfast.xl.client import Client, call
from xenfast.xl.options import Parser, number, print_json

STATES = (("running", "r"), ("blocked", "b"), ("paused", "p"), ("shutdown", "s"), ("crashed", "c"), ("dying", "d"))


def flags(info: dict[str, Any]) -> str:
    return "".join(letter if info[name] else "-" for name, letter in STATES)


def list_domains(arguments: list[str]) -> int:
    parser = Parser("list")
    parser.add_argument("domains", nargs="*", metavar="DOMAIN")
    parser.add_argument("-l", "--long", action="store_true", help="the configurations, as JSON")
    parser.add_argument("-v", "--verbose", action="store_true", help="UUID, reason of the end, security label")
    parser.add_argument("-Z", "--context", action="store_true", help="security labels")
    parser.add_argument("-c", "--cpupool", action="store_true", help="pools of processors")
    parser.add_argument("-n", "--numa", action="store_true", help="NUMA nodes")
    options = parser.parse_args(arguments)
    with Client() as client:
        found = [info for which in options.domains or [None] for info in client.call("domain.list", domain=which)]
        if options.long:
            return print_json([client.call("domain.config", domain=str(info["domid"])) for info in found if info["domid"]])
    if options.json:
        return print_json(found)
    header = "Name                                        ID   Mem VCPUs\tState\tTime(s)"
    header += "   UUID                            Reason-Code\tSecurity Label" if options.verbose else ""
    header += "   Security Label" if options.context and not options.verbose else ""
    header += "         Cpupool" if options.cpupool else ""
    header += " NODE Affinity" if options.numa else ""
    print(header)
    for info in found:
        line = f"{info['name']:<40} {info['domid']:5d} {info['memory_kib'] >> 10:5d} {info['vcpus']:5d}"
        line += f"     {flags(info)}  {info['cpu_seconds']:8.1f}"
        if options.verbose:
            reason = f"{info['shutdown_code']:x}" if info["shutdown"] else "-"
            line += f" {info['uuid']} {reason:>8}"
        line += f" {'-':>16}" if options.verbose or options.context else ""
        line += f"{info['cpupool']:>16}" if options.cpupool else ""
        line += " all" if options.numa else ""
        print(line)
    return 0


def vm_list(arguments: list[str]) -> int:
    options = Parser("vm-list").parse_args(arguments)
    found = [info for info in call("domain.list") if info["domid"]]
    if options.json:
        return print_json([{name: info[name] for name in ("uuid", "domid", "name")} for info in found])
    print("UUID                                  ID    name")
    for info in found:
        print(f"{info['uuid']}  {info['domid']}    {info['name']:<30}")
    return 0


def vcpu_list(arguments: list[str]) -> int:
    parser = Parser("vcpu-list")
    parser.add_argument("domains", nargs="*", metavar="DOMAIN")
    options = parser.parse_args(arguments)
    with Client() as client:
        found = [vcpu for which in options.domains or [None] for vcpu in client.call("vcpu.list", domain=which)]
    if options.json:
        return print_json(found)
    titles = ("Name", "ID", "VCPU", "CPU", "State", "Time(s)", "Affinity (Hard / Soft)")
    print("{:<32} {:>5} {:>5} {:>5} {:>5} {:>9} {}".format(*titles))
    for vcpu in found:
        line = f"{vcpu['name']:<32} {vcpu['domid']:5d} {vcpu['vcpu']:5d}"
        if vcpu["online"]:
            line += f"{vcpu['cpu']:5d} {'r' if vcpu['running'] else '-':>3}{'b' if vcpu['blocked'] else '-'}- "
        else:
            line += f"{'-':>5} {'-':>3}-p "
        print(f"{line}{vcpu['cpu_seconds']:9.1f}  {vcpu['hard']} / {vcpu['soft']}")
    return 0


def info(arguments: list[str]) -> int:
    parser = Parser("info")
    parser.add_argument("-n", "--numa", action="store_true", help="NUMA nodes")
    options = parser.parse_args(arguments)
    found = call("host.info")
    if options.json:
        return print_json(found)
    for name, value in found.items():
        print(f"{name:<23}: {value}")
    if options.numa:
        print("numa_info              :\nnode:    memsize    memfree    distances")
        print(f"   0:    {found['total_memory']:6d}     {found['free_memory']:6d}      10")
    return 0


def dmesg(arguments: list[str]) -> int:
    parser = Parser("dmesg")
    parser.add_argument("-c", "--clear", action="store_true", help="clear the buffer afterwards")
    options = parser.parse_args(arguments)
    lines = call("host.dmesg", clear=options.clear)
    if options.json:
        return print_json(lines)
    for line in lines:
        print(line)
    return 0


def uptime(arguments: list[str]) -> int:
    parser = Parser("uptime")
    parser.add_argument("domains", nargs="*", metavar="DOMAIN")
    parser.add_argument("-s", "--short", action="store_true", help="without a heading")
    options = parser.parse_args(arguments)
    with Client() as client:
        found = [info for which in options.domains or [None] for info in client.call("domain.list", domain=which)]
    if options.json:
        return print_json([{name: info[name] for name in ("name", "domid", "uptime_seconds")} for info in found])
    if not options.short:
        print(f"{'Name':<33} {'ID':>4} Uptime")
    now = time.strftime("%H:%M:%S")
    for info in found:
        up = uptime_text(int(info["uptime_seconds"]), seconds=not options.short)
        print(f" {now} up {up}, {info['name']} ({info['domid']})" if options.short else f"{info['name']:<33} {info['domid']:4d} {up}")
    return 0


def uptime_text(total: int, seconds: bool) -> str:
    days, rest = divmod(total, 86400)
    text = f"{rest // 3600:2d}:{rest // 60 % 60:02d}" + (f":{rest % 60:02d}" if seconds else "")
    return (f"{days} days, " if days > 1 else f"{days} day, " if days else "") + text


def top(arguments: list[str]) -> int:
    parser = Parser("top")
    parser.add_argument("-d", "--delay", default="3", help="seconds between two pictures (3)")
    parser.add_argument("-i", "--iterations", default="0", help="how many pictures (0: until Ctrl-C)")
    parser.add_argument("-b", "--batch", action="store_true", help="one picture under the other")
    options = parser.parse_args(arguments)
    delay, left = number(options.delay, "--delay"), number(options.iterations, "--iterations")
    batch = options.batch or not sys.stdout.isatty()
    before: dict[int, tuple[float, float]] = {}
    with Client() as client:
        while True:
            found = client.call("domain.list")
            if options.json:
                return print_json(found)
            host = client.call("host.info")
            print(("" if batch else "\x1b[H\x1b[2J") + _picture(found, host, before), flush=True)
            left -= 1
            if left == 0:
                return 0
            try:
                time.sleep(max(delay, 0.2))
            except KeyboardInterrupt:
                return 0


def _picture(found: list[dict[str, Any]], host: dict[str, Any], before: dict[int, tuple[float, float]]) -> str:
    """Processor time in percent is since the last picture."""
    now, total = time.monotonic(), host["total_memory"] << 10
    lines = [
        f"xentop - {time.strftime('%H:%M:%S')}   Xen {host['xen_version']}",
        f"{len(found)} domains: {sum(i['running'] for i in found)} running, {sum(i['blocked'] for i in found)} blocked, "
        f"{sum(i['paused'] for i in found)} paused, {sum(i['crashed'] for i in found)} crashed",
        f"Mem: {total}k total, {host['free_memory'] << 10}k free    CPUs: {host['nr_cpus']} @ {host['cpu_mhz']}MHz",
        f"{'NAME':>10} {'STATE':>8} {'CPU(sec)':>10} {'CPU(%)':>7} {'MEM(k)':>10} {'MEM(%)':>7} {'VCPUS':>6}",
    ]
    for info in found:
        then, spent = before.get(info["domid"], (now, info["cpu_seconds"]))
        share = 100 * (info["cpu_seconds"] - spent) / (now - then) if now > then else 0.0
        before[info["domid"]] = now, info["cpu_seconds"]
        lines.append(f"{info['name'][:10]:>10} {flags(info):>8} {info['cpu_seconds']:10.0f} {share:7.1f} {info['memory_kib']:10d} "
                     f"{100 * info['memory_kib'] / total:7.1f} {info['vcpus']:6d}")
    return "\n".join(lines)


def debug_keys(arguments: list[str]) -> int:
    parser = Parser("debug-keys")
    parser.add_argument("keys")
    call("host.debug_keys", keys=parser.parse_args(arguments).keys)
    return 0


def metrics(arguments: list[str]) -> int:
    options = Parser("metrics").parse_args(arguments)
    text = call("host.metrics")
    if options.json:
        return print_json([line for line in text.splitlines() if not line.startswith("#")])
    print(text, end="")
    return 0


def events(arguments: list[str]) -> int:
    import json

    Parser("events").parse_args(arguments)
    with Client() as client:
        client.call("events")
        for message in client.messages():
            print(json.dumps(message), flush=True)
    return 0
