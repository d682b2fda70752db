"""Commands about processors and memory: vcpu-set, vcpu-pin, mem-set, mem-max, sched-credit."""

from __future__ import annotations

from xenfast.xl.client import Client, call
from xenfast.xl.options import Parser, number, print_json, size_kib


def vcpu_set(arguments: list[str]) -> int:
    parser = Parser("vcpu-set")
    parser.add_argument("domain")
    parser.add_argument("count")
    options = parser.parse_args(arguments)
    call("vcpu.set", domain=options.domain, count=number(options.count, "the number of vcpus"))
    return 0


def vcpu_pin(arguments: list[str]) -> int:
    parser = Parser("vcpu-pin")
    parser.add_argument("domain")
    parser.add_argument("vcpu", help="a number, or all")
    parser.add_argument("hard", help="processors it may run on; - leaves them")
    parser.add_argument("soft", nargs="?", default="-", help="processors it prefers; - leaves them")
    parser.add_argument("-f", "--force", action="store_true", help="accepted as xl does")
    options = parser.parse_args(arguments)
    vcpu = -1 if options.vcpu == "all" else number(options.vcpu, "the vcpu")
    hard, soft = (None if text == "-" else text for text in (options.hard, options.soft))
    call("vcpu.pin", domain=options.domain, vcpu=vcpu, hard=hard, soft=soft)
    return 0


def mem_set(arguments: list[str]) -> int:
    return _memory("mem-set", "mem.set", arguments)


def mem_max(arguments: list[str]) -> int:
    return _memory("mem-max", "mem.max", arguments)


def _memory(name: str, method: str, arguments: list[str]) -> int:
    parser = Parser(name)
    parser.add_argument("domain")
    parser.add_argument("size", help="MiB, or with a letter: 2048k, 512m, 1g")
    options = parser.parse_args(arguments)
    call(method, domain=options.domain, kib=size_kib(options.size))
    return 0


def sched_credit(arguments: list[str]) -> int:
    parser = Parser("sched-credit")
    parser.add_argument("-d", "--domain", help="the domain to show or to change")
    parser.add_argument("-w", "--weight", help="its weight, 1 to 65535")
    parser.add_argument("-c", "--cap", help="its cap in percent of a processor, 0 for none")
    parser.add_argument("-p", "--cpupool", help="the pool (Pool-0)")
    parser.add_argument("-s", "--schedparam", action="store_true", help="the parameters of the scheduler")
    options = parser.parse_args(arguments)
    if (options.weight or options.cap) and not options.domain:
        parser.error("-w and -c need a domain (-d)")
    with Client() as client:
        if options.weight is not None or options.cap is not None:
            weight, cap = (None if text is None else number(text, what)
                           for text, what in ((options.weight, "the weight"), (options.cap, "the cap")))
            client.call("sched.set", domain=options.domain, weight=weight, cap=cap)
            return 0
        found = client.call("sched.list", domain=options.domain)
    if options.json:
        return print_json(found)
    if not options.domain:
        print("Cpupool Pool-0: tslice=30ms ratelimit=1000us migration-delay=0us")
    if not options.schedparam:
        print(f"{'Name':<33} {'ID':>4} {'Weight':>6} {'Cap':>4}")
        for each in found:
            print(f"{each['name']:<33} {each['domid']:4d} {each['weight']:6d} {each['cap']:4d}")
    return 0
