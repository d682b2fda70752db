"""THE TABLE of commands: name -> where its function is, how it is called, what it does.

A command's module is imported when the command is given, so that ``xenfast version`` does not pay for the machine.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    name: str
    function: str           # "module:function"; takes the arguments behind the command's name, returns the exit status
    usage: str
    help: str


COMMANDS = (
    Command(
        "run",
        "xenfast.xl.run:main",
        "run [CONFIG] [OPTIONS] [KEY=VALUE ...]",
        "create a domain, attach to its console, wait for its end",
    ),
    Command("create", "xenfast.xl.lifecycle:create", "create [CONFIG] [OPTIONS] [KEY=VALUE ...]",
            "create a domain from a configuration file"),
    Command("config-update", "xenfast.xl.lifecycle:config_update", "config-update DOMAIN [CONFIG] [KEY=VALUE ...]",
            "change the configuration with which a domain will restart"),
    Command("list", "xenfast.xl.listing:list_domains", "list [OPTIONS] [DOMAIN ...]", "list domains"),
    Command("vm-list", "xenfast.xl.listing:vm_list", "vm-list", "list the guests' UUIDs, numbers and names"),
    Command("console", "xenfast.xl.console:main", "console [-t pv|serial] DOMAIN", "attach to a domain's console; Ctrl-] leaves it"),
    Command("destroy", "xenfast.xl.lifecycle:destroy", "destroy DOMAIN", "end a domain at once"),
    Command("shutdown", "xenfast.xl.lifecycle:shutdown", "shutdown [-w] [-F] -a|DOMAIN", "ask a domain to shut down"),
    Command("reboot", "xenfast.xl.lifecycle:reboot", "reboot [-F] -a|DOMAIN", "ask a domain to reboot"),
    Command("pause", "xenfast.xl.lifecycle:pause", "pause DOMAIN", "stop a domain's vcpus"),
    Command("unpause", "xenfast.xl.lifecycle:unpause", "unpause DOMAIN", "let a paused domain run"),
    Command("rename", "xenfast.xl.lifecycle:rename", "rename DOMAIN NAME", "give a domain another name"),
    Command("domid", "xenfast.xl.lifecycle:domid", "domid NAME", "say the number of a domain"),
    Command("domname", "xenfast.xl.lifecycle:domname", "domname ID", "say the name of a domain"),
    Command("trigger", "xenfast.xl.lifecycle:trigger", "trigger DOMAIN nmi|reset|init|power|sleep [VCPU]",
            "press a button of an HVM guest, or interrupt it"),
    Command("button-press", "xenfast.xl.lifecycle:button_press", "button-press DOMAIN power|sleep",
            "press a button of an HVM guest (as trigger)"),
    Command("sysrq", "xenfast.xl.lifecycle:sysrq", "sysrq DOMAIN LETTER", "press a magic SysRq key in a Linux guest"),
    Command("dump-core", "xenfast.xl.lifecycle:dump_core", "dump-core DOMAIN [FILE]",
            "write a domain's memory and registers to an ELF file"),
    Command("info", "xenfast.xl.listing:info", "info [-n]", "show what the host has"),
    Command("dmesg", "xenfast.xl.listing:dmesg", "dmesg [-c]", "show the hypervisor's messages"),
    Command("top", "xenfast.xl.listing:top", "top [-d SECONDS] [-i COUNT] [-b]", "watch the domains"),
    Command("uptime", "xenfast.xl.listing:uptime", "uptime [-s] [DOMAIN ...]", "say how long domains have run"),
    Command("debug-keys", "xenfast.xl.listing:debug_keys", "debug-keys KEYS",
            "have the hypervisor print its state (see dmesg; h lists the keys)"),
    Command("vcpu-list", "xenfast.xl.listing:vcpu_list", "vcpu-list [DOMAIN ...]", "list vcpus"),
    Command("vcpu-set", "xenfast.xl.resources:vcpu_set", "vcpu-set DOMAIN COUNT", "ask a guest to use so many vcpus"),
    Command("vcpu-pin", "xenfast.xl.resources:vcpu_pin", "vcpu-pin DOMAIN VCPU|all HARD|- [SOFT|-]",
            "choose the processors that vcpus run on"),
    Command("mem-set", "xenfast.xl.resources:mem_set", "mem-set DOMAIN SIZE", "ask a guest's balloon driver for a size of memory"),
    Command("mem-max", "xenfast.xl.resources:mem_max", "mem-max DOMAIN SIZE", "limit the memory that a domain may have"),
    Command("sched-credit", "xenfast.xl.resources:sched_credit", "sched-credit [-d DOMAIN [-w WEIGHT] [-c CAP]] [-s]",
            "show or change shares of the processors"),
    Command("block-attach", "xenfast.xl.devices:block_attach", "block-attach DOMAIN DISK-SPEC", "plug in a disk"),
    Command("block-detach", "xenfast.xl.devices:block_detach", "block-detach [-f] DOMAIN DEVICE", "pull out a disk"),
    Command("block-list", "xenfast.xl.devices:block_list", "block-list DOMAIN ...", "list disks"),
    Command("network-attach", "xenfast.xl.devices:network_attach", "network-attach DOMAIN [VIF-SPEC]", "plug in a network interface"),
    Command("network-detach", "xenfast.xl.devices:network_detach", "network-detach [-f] DOMAIN DEVID|MAC",
            "pull out a network interface"),
    Command("network-list", "xenfast.xl.devices:network_list", "network-list DOMAIN ...", "list network interfaces"),
    Command("cd-insert", "xenfast.xl.devices:cd_insert", "cd-insert DOMAIN DEVICE IMAGE", "put a medium into a CD-ROM drive"),
    Command("cd-eject", "xenfast.xl.devices:cd_eject", "cd-eject DOMAIN DEVICE", "take the medium out of a CD-ROM drive"),
    Command("xenstore-ls", "xenfast.xl.store:ls", "xenstore-ls [-f] [-p] [PATH]", "show the store, or a part of it"),
    Command("xenstore-list", "xenfast.xl.store:list_", "xenstore-list [-p] PATH", "list the children of a node"),
    Command("xenstore-read", "xenfast.xl.store:read", "xenstore-read [-p] PATH ...", "read nodes"),
    Command("xenstore-write", "xenfast.xl.store:write", "xenstore-write PATH VALUE [PATH VALUE ...]", "write nodes"),
    Command("xenstore-rm", "xenfast.xl.store:rm", "xenstore-rm PATH ...", "remove nodes"),
    Command("xenstore-exists", "xenfast.xl.store:exists", "xenstore-exists PATH ...",
            "are there such nodes? exit status 1 when one is missing"),
    Command("xenstore-chmod", "xenfast.xl.store:chmod", "xenstore-chmod PATH PERM ...", "set the permissions of a node"),
    Command("xenstore-watch", "xenfast.xl.store:watch", "xenstore-watch [-n COUNT] PATH ...", "print the paths that change"),
    Command("metrics", "xenfast.xl.listing:metrics", "metrics", "counters of all domains in Prometheus' format"),
    Command("events", "xenfast.xl.listing:events", "events", "print what happens to domains, a JSON object a line"),
    Command("daemon", "xenfast.xl.daemon:main", "daemon [--status | --stop [--force]] [OPTIONS]",
            "the host that stays: commands start it by themselves"),
    Command(
        "img",
        "xenfast.xl.img:main",
        "img create|info|check|convert|resize|snapshot ... FILE",
        "make, look at, check and convert disk images (raw, qcow2, vhd)",
    ),
    Command("screenshot", "xenfast.xl.screenshot:main", "screenshot HOST:DISPLAY FILE.png", "a picture of a screen, by VNC"),
    Command("vncviewer", "xenfast.xl.vncviewer:main", "vncviewer HOST:DISPLAY", "start a VNC viewer of this host"),
    Command("completion", "xenfast.xl.completion:main", "completion", "print the completion script for bash"),
    Command("version", "xenfast.xl.version:main", "version", "say which version this is"),
    Command("help", "xenfast.xl.help:main", "help [COMMAND]", "list the commands, or explain one"),
)

BY_NAME = {command.name: command for command in COMMANDS}
