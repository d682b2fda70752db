"""Commands about the life of a domain: create, config-update, destroy, shutdown, reboot, pause, unpause, rename, trigger,
button-press, sysrq, dump-core, domid, domname.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

from xenfast.errors import XenfastError
from xenfast.xl.client import Client, call
from xenfast.xl.options import Parser, number, print_json


def _config_options(parser: Parser) -> None:
    parser.add_argument("items", nargs="*", metavar="CONFIG | KEY=VALUE", help="configuration file, and keys that override it")
    parser.add_argument("-f", "--defconfig", metavar="FILE", help="the configuration file")


def _configuration(items: list[str], defconfig: str | None) -> dict[str, str]:
    """File, overrides, and where relative names begin."""
    files = [item for item in items if not re.match(r"\s*[A-Za-z_]\w*\s*\+?=", item)]
    pairs = [item for item in items if item not in files]
    if defconfig:
        files.append(defconfig)
    if len(files) > 1:
        raise XenfastError(f"one configuration file is enough, and {files[1]!r} is another")
    text, where = "", "command line"
    if files:
        where = files[0]
        try:
            text = Path(where).read_text(encoding="utf-8")
        except OSError as error:
            raise XenfastError(f"cannot read the configuration {where}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise XenfastError(f"{where} is not a configuration: it is not text") from None
    return {"text": text, "where": where, "overrides": "\n".join(pairs), "directory": os.getcwd()}


def create(arguments: list[str]) -> int:
    parser = Parser("create")
    _config_options(parser)
    parser.add_argument("-c", "--console", action="store_true", help="attach the console")
    parser.add_argument("-p", "--paused", action="store_true", help="leave the domain paused")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing")
    parser.add_argument("-e", "--exit", action="store_true", help="nothing is done when the domain ends")
    parser.add_argument("-F", "--foreground", action="store_true", help="wait until the domain is no more")
    parser.add_argument("-V", "--vncviewer", action="store_true", help="start a VNC viewer")
    parser.add_argument("-A", "--vncviewer-autopass", action="store_true", help="give the viewer the password")
    parser.add_argument("-n", "-N", "--dryrun", action="store_true", help="check the configuration, print it, create nothing")
    options = parser.parse_args(arguments)
    given = _configuration(options.items, options.defconfig)
    if options.dryrun:
        return _dry_run(given)
    if not options.quiet:
        print(f"Parsing config from {given['where']}", file=sys.stderr)
    with Client() as client:
        wait = options.console
        made = client.call("domain.create", paused=options.paused or wait, unattended=options.exit, **given)
        if options.vncviewer or options.vncviewer_autopass:
            _viewer(made["domid"])
        if options.json:
            print_json(made)
        if wait:
            from xenfast.xl import console

            return console.attach(str(made["domid"]), follow=True, started=None if options.paused else lambda: _unpause(made))
        if options.foreground:
            client.call("domain.wait", domain=str(made["domid"]), death=True)
    return 0


def _unpause(made: dict[str, Any]) -> None:
    call("domain.unpause", domain=str(made["domid"]))


def _viewer(domid: int) -> None:
    from xenfast.xl import vncviewer

    path = f"/local/domain/{domid}/console"
    vncviewer.main([f"{call('store.read', path=f'{path}/vnc-listen')}::{call('store.read', path=f'{path}/vnc-port')}"])


def _dry_run(given: dict[str, str]) -> int:
    """Everything but the domain: read and check, and print what was understood."""
    from xenfast.libxl import config

    settings = config.parse_settings(given["text"], given["where"]) | config.parse_settings(given["overrides"], "command line")
    if "name" not in settings:
        raise XenfastError(f"{given['where']}: the domain has no name (name = \"NAME\")")
    from xenfast.libxl import domain_json

    return print_json(domain_json.as_libxl(config.from_dict(settings, given["where"])))


def config_update(arguments: list[str]) -> int:
    parser = Parser("config-update")
    parser.add_argument("domain")
    _config_options(parser)
    options = parser.parse_args(arguments)
    call("domain.config_update", domain=options.domain, **_configuration(options.items, options.defconfig))
    return 0


def _simple(name: str, method: str, arguments: list[str], *more: str) -> int:
    """A command with a domain and perhaps more words."""
    parser = Parser(name)
    parser.add_argument("domain")
    for each in more:
        parser.add_argument(each)
    options = parser.parse_args(arguments)
    result = call(method, domain=options.domain, **{each: getattr(options, each) for each in more})
    return print_json(result) if options.json else 0


def destroy(arguments: list[str]) -> int:
    parser = Parser("destroy")
    parser.add_argument("domain")
    parser.add_argument("-f", action="store_true", help="accepted as xl does; domain 0 cannot be destroyed")
    options = parser.parse_args(arguments)
    call("domain.destroy", domain=options.domain)
    return 0


def pause(arguments: list[str]) -> int:
    return _simple("pause", "domain.pause", arguments)


def unpause(arguments: list[str]) -> int:
    return _simple("unpause", "domain.unpause", arguments)


def rename(arguments: list[str]) -> int:
    return _simple("rename", "domain.rename", arguments, "name")


def sysrq(arguments: list[str]) -> int:
    return _simple("sysrq", "domain.sysrq", arguments, "key")


def trigger(arguments: list[str]) -> int:
    parser = Parser("trigger")
    parser.add_argument("domain")
    parser.add_argument("what", metavar="nmi|reset|init|power|sleep")
    parser.add_argument("vcpu", nargs="?", default="0")
    options = parser.parse_args(arguments)
    call("domain.trigger", domain=options.domain, what=options.what, vcpu=number(options.vcpu, "the vcpu"))
    return 0


def button_press(arguments: list[str]) -> int:
    return _simple("button-press", "domain.trigger", arguments, "what")


def dump_core(arguments: list[str]) -> int:
    parser = Parser("dump-core")
    parser.add_argument("domain")
    parser.add_argument("file", nargs="?")
    options = parser.parse_args(arguments)
    path = os.path.abspath(options.file or f"{options.domain}.core")
    call("domain.dump_core", domain=options.domain, path=path)
    return 0


def shutdown(arguments: list[str]) -> int:
    return _end("shutdown", "poweroff", arguments)


def reboot(arguments: list[str]) -> int:
    return _end("reboot", "reboot", arguments)


def _end(name: str, reason: str, arguments: list[str]) -> int:
    parser = Parser(name)
    parser.add_argument("domain", nargs="?")
    parser.add_argument("-a", "--all", action="store_true", help="all domains")
    parser.add_argument("-w", "--wait", action="count", default=0, help="wait until the domain has ended; twice: until it is no more")
    parser.add_argument("-F", action="store_true", help="press the power button of a guest without PV drivers")
    options = parser.parse_args(arguments)
    if bool(options.domain) == options.all:
        parser.error("name a domain, or say -a")
    failed = 0
    with Client() as client:
        domains = client.call("domain.list", domain=options.domain)
        for info in [each for each in domains if each["domid"] and not (options.all and each["shutdown"])]:
            which = str(info["domid"])
            try:
                client.call("domain.shutdown", domain=which, reason=reason, fallback=options.F)
                if not options.json:
                    print("Shutting down domain" if reason == "poweroff" else "Rebooting domain", which)
            except XenfastError as error:
                if not options.all:
                    raise
                failed = 1
                print(f"xenfast: {error}", file=sys.stderr)
                continue
            info["asked"] = True
        if options.domain and not domains[0]["domid"]:
            raise XenfastError("domain 0 is xenfast itself; xenfast daemon --stop ends it")
        asked = [info for info in domains if info.get("asked")]
        for info in asked if options.wait else ():
            how = client.call("domain.wait", domain=info["name"] if options.wait > 1 else str(info["domid"]), death=options.wait > 1)
            if not options.json:
                print(f"Domain {info['domid']} has been shut down, reason {how['ended']}")
        if options.json:
            print_json([{"domid": info["domid"], "name": info["name"]} for info in asked])
    return failed


def domid(arguments: list[str]) -> int:
    return _translate("domid", "domid", arguments)


def domname(arguments: list[str]) -> int:
    return _translate("domname", "name", arguments)


def _translate(name: str, field: str, arguments: list[str]) -> int:
    parser = Parser(name)
    parser.add_argument("domain")
    options = parser.parse_args(arguments)
    (info,) = call("domain.list", domain=options.domain)
    if options.json:
        return print_json({"domid": info["domid"], "name": info["name"]})
    print(info[field])
    return 0
