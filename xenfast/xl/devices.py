"""Commands about devices: block-attach, -detach, -list, network-attach, -detach, -list, cd-insert, cd-eject."""

from __future__ import annotations

import os

from xenfast.xl.client import Client, call
from xenfast.xl.options import Parser, print_json


def block_attach(arguments: list[str]) -> int:
    parser = Parser("block-attach")
    parser.add_argument("domain")
    parser.add_argument("spec", nargs="+", help="as in disk = [ ]; parts may be separate words")
    options = parser.parse_args(arguments)
    call("block.attach", domain=options.domain, spec=",".join(options.spec), directory=os.getcwd())
    return 0


def network_attach(arguments: list[str]) -> int:
    parser = Parser("network-attach")
    parser.add_argument("domain")
    parser.add_argument("spec", nargs="*", help="as in vif = [ ]; parts may be separate words")
    options = parser.parse_args(arguments)
    call("network.attach", domain=options.domain, spec=",".join(options.spec))
    return 0


def block_detach(arguments: list[str]) -> int:
    return _detach("block-detach", "block.detach", arguments)


def network_detach(arguments: list[str]) -> int:
    return _detach("network-detach", "network.detach", arguments)


def _detach(name: str, method: str, arguments: list[str]) -> int:
    parser = Parser(name)
    parser.add_argument("domain")
    parser.add_argument("device")
    parser.add_argument("-f", "--force", action="store_true", help="do not wait for the guest")
    options = parser.parse_args(arguments)
    call(method, domain=options.domain, device=options.device, force=options.force)
    return 0


def _all(name: str, method: str, arguments: list[str]) -> tuple[bool, list[dict]]:
    parser = Parser(name)
    parser.add_argument("domains", nargs="+", metavar="DOMAIN")
    options = parser.parse_args(arguments)
    with Client() as client:
        return options.json, [each for which in options.domains for each in client.call(method, domain=which)]


def block_list(arguments: list[str]) -> int:
    as_json, found = _all("block-list", "block.list", arguments)
    if as_json:
        return print_json(found)
    print("{:<5} {:<3} {:<6} {:<5} {:<6} {:<8} {:<30}".format("Vdev", "BE", "handle", "state", "evt-ch", "ring-ref", "BE-path"))
    for each in found:
        print(f"{each['vdev']:<5} {each['backend_id']:<3} {each['handle']:<6} {each['state']:<5} {each['event_channel']:<6} "
              f"{each['ring_ref']:<8} {each['backend']:<30}")
    return 0


def network_list(arguments: list[str]) -> int:
    as_json, found = _all("network-list", "network.list", arguments)
    if as_json:
        return print_json(found)
    titles = ("Idx", "BE", "Mac Addr.", "handle", "state", "evt-ch", "tx-", "rx-ring-ref", "BE-path")
    print("{:<3} {:<2} {:<17} {:<6} {:<5} {:<6} {:>5}/{:<5} {:<30}".format(*titles))
    for each in found:
        print(f"{each['handle']:<3} {each['backend_id']:<2} {each['mac']} {each['handle']:6d} {each['state']:5d} "
              f"{each['event_channel']:6d} {each['tx_ring_ref']:5d}/{each['rx_ring_ref']:<11d} {each['backend']:<30}")
    return 0


def cd_insert(arguments: list[str]) -> int:
    parser = Parser("cd-insert")
    parser.add_argument("domain")
    parser.add_argument("device")
    parser.add_argument("spec", help="the image, or TARGET,FORMAT")
    options = parser.parse_args(arguments)
    call("cd.change", domain=options.domain, device=options.device, spec=options.spec, directory=os.getcwd())
    return 0


def cd_eject(arguments: list[str]) -> int:
    parser = Parser("cd-eject")
    parser.add_argument("domain")
    parser.add_argument("device")
    options = parser.parse_args(arguments)
    call("cd.change", domain=options.domain, device=options.device)
    return 0
