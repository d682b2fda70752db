"""Commands about xenstore, with the options of the xenstore-* tools: ls, list, read, write, rm, exists, chmod, watch."""

from __future__ import annotations

from xenfast.errors import XenfastError
from xenfast.xl.client import Client, call
from xenfast.xl.options import Parser, number, print_json


def ls(arguments: list[str]) -> int:
    parser = Parser("xenstore-ls")
    parser.add_argument("path", nargs="?", default="/")
    parser.add_argument("-f", action="store_true", help="whole paths")
    parser.add_argument("-p", action="store_true", help="permissions, too")
    options = parser.parse_args(arguments)
    found = call("store.ls", path=options.path)
    if options.json:
        return print_json(found)
    depth = options.path.rstrip("/").count("/") + 1
    for node in found:
        name = node["path"] if options.f else " " * (node["path"].count("/") - depth) + node["path"].rsplit("/", 1)[1]
        perms = f"  ({','.join(node['perms'])})" if options.p else ""
        print(f'{name} = "{_shown(node["value"])}"{perms}')
    return 0


def _shown(value: str) -> str:
    return "".join(c if c.isprintable() and c != "\\" else f"\\x{ord(c):02x}" for c in value)


def read(arguments: list[str]) -> int:
    parser = Parser("xenstore-read")
    parser.add_argument("paths", nargs="+", metavar="PATH")
    parser.add_argument("-p", action="store_true", help="the path, too")
    options = parser.parse_args(arguments)
    with Client() as client:
        found = {path: client.call("store.read", path=path) for path in options.paths}
    if options.json:
        return print_json(found)
    for path, value in found.items():
        print(f"{path}: {_shown(value)}" if options.p else _shown(value))
    return 0


def write(arguments: list[str]) -> int:
    parser = Parser("xenstore-write")
    parser.add_argument("pairs", nargs="+", metavar="PATH VALUE")
    options = parser.parse_args(arguments)
    if len(options.pairs) % 2:
        parser.error("every path needs a value")
    with Client() as client:
        for path, value in zip(options.pairs[::2], options.pairs[1::2], strict=True):
            client.call("store.write", path=path, value=value)
    return 0


def rm(arguments: list[str]) -> int:
    parser = Parser("xenstore-rm")
    parser.add_argument("paths", nargs="+", metavar="PATH")
    with Client() as client:
        for path in parser.parse_args(arguments).paths:
            client.call("store.rm", path=path)
    return 0


def exists(arguments: list[str]) -> int:
    parser = Parser("xenstore-exists")
    parser.add_argument("paths", nargs="+", metavar="PATH")
    options = parser.parse_args(arguments)
    with Client() as client:
        found = {path: client.call("store.exists", path=path) for path in options.paths}
    if options.json:
        print_json(found)
    return 0 if all(found.values()) else 1


def list_(arguments: list[str]) -> int:
    parser = Parser("xenstore-list")
    parser.add_argument("path")
    parser.add_argument("-p", action="store_true", help="whole paths")
    options = parser.parse_args(arguments)
    names = call("store.list", path=options.path)
    if options.json:
        return print_json(names)
    for name in names:
        print(f"{options.path.rstrip('/')}/{name}" if options.p else name)
    return 0


def chmod(arguments: list[str]) -> int:
    parser = Parser("xenstore-chmod")
    parser.add_argument("path")
    parser.add_argument("perms", nargs="+", metavar="PERM", help="n0, r1, w2, b3: none, read, write, both, for a domain")
    options = parser.parse_args(arguments)
    call("store.chmod", path=options.path, perms=options.perms)
    return 0


def watch(arguments: list[str]) -> int:
    parser = Parser("xenstore-watch")
    parser.add_argument("paths", nargs="+", metavar="PATH")
    parser.add_argument("-n", default="0", metavar="NR", help="end after so many events")
    options = parser.parse_args(arguments)
    left = number(options.n, "-n")
    with Client() as client:
        client.call("store.watch", paths=options.paths)
        try:
            for message in client.messages():
                print(message["path"], flush=True)
                left -= 1
                if left == 0:
                    return 0
        except KeyboardInterrupt:
            return 0
    raise XenfastError("the daemon has ended")
