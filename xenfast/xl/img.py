"""``xenfast img``: disk images as files.  Options are those of qemu-img where it has them."""

from __future__ import annotations

import argparse
import json
from typing import Any, NoReturn

from xenfast.errors import XenfastError
from xenfast.libxl import images


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise XenfastError(f"{message} (see xenfast img --help)")


def parser() -> Parser:
    p = Parser(prog="xenfast img", description="Make, look at, check and convert disk images (raw, qcow2, vhd).", allow_abbrev=False)
    verbs = p.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Parser)

    def verb(name: str, text: str) -> Parser:
        return verbs.add_parser(name, help=text, description=text, allow_abbrev=False)

    make = verb("create", "make an empty image, or one for the changes to another")
    make.add_argument("-f", dest="format", default="raw", help="raw (default), qcow2 or vhd")
    make.add_argument("-o", dest="options", default="", help="options of the format: cluster_size=64k,compression=zstd ...")
    make.add_argument("-b", dest="backing", default="", help="the backing file")
    make.add_argument("-F", dest="backing_format", default="", help="its format")
    make.add_argument("file")
    make.add_argument("size", nargs="?", default="")
    look = verb("info", "what an image is")
    look.add_argument("-f", dest="format", default="")
    look.add_argument("--json", action="store_true", help="as JSON")
    look.add_argument("file")
    test = verb("check", "look for leaks and errors of a qcow2 image; exit status 1 if there are any")
    test.add_argument("-r", dest="repair", action="store_true", help="put them right")
    test.add_argument("file")
    copy = verb("convert", "copy a disk into a new image")
    copy.add_argument("-f", dest="format", default="", help="the format it has")
    copy.add_argument("-O", dest="target_format", default="raw", help="the format of the new image")
    copy.add_argument("-o", dest="options", default="")
    copy.add_argument("-c", dest="compress", action="store_true", help="compress it (qcow2)")
    copy.add_argument("file")
    copy.add_argument("target")
    size = verb("resize", "give a disk another size (+SIZE, -SIZE: more, less)")
    size.add_argument("file")
    size.add_argument("size")
    snap = verb("snapshot", "internal snapshots of a qcow2 image")
    group = snap.add_mutually_exclusive_group()
    group.add_argument("-l", dest="list", action="store_true", help="list them (default)")
    for letter, name in (("c", "create"), ("a", "apply"), ("d", "delete")):
        group.add_argument(f"-{letter}", dest=name, metavar="NAME")
    snap.add_argument("file")
    return p


def main(arguments: list[str]) -> int:
    if arguments and arguments[0] == "resize":          # -1G is a size, not an option
        arguments = [arguments[0], "--", *(each for each in arguments[1:] if each != "--")] if "-h" not in arguments else arguments
    args = parser().parse_args(arguments)
    try:
        return VERBS[args.verb](args)
    except OSError as error:
        raise XenfastError(f"disk {args.file!r}: {error.strerror or error}") from None


def options(text: str) -> dict[str, str]:
    found = {}
    for item in filter(None, text.split(",")):
        name, equals, value = item.partition("=")
        if not equals:
            raise XenfastError(f"{item!r} is not an option with a value")
        found[name] = value
    return found


def _create(args: argparse.Namespace) -> int:
    size = images.parse_size(args.size) if args.size else 0
    images.create(args.file, args.format, size, options(args.options), args.backing, args.backing_format)
    return 0


def _info(args: argparse.Namespace) -> int:
    found = images.info(args.file, args.format)
    if args.json:
        print(json.dumps(found, indent=4))
        return 0
    for name, value in found.items():
        if name == "snapshots":
            _table(value)
        else:
            print(f"{name.replace('_', ' ')}: {_size(value) if name in ('size', 'disk_size') else value}")
    return 0


def _check(args: argparse.Namespace) -> int:
    report = images.check_image(args.file, args.repair)
    for text in report.messages:
        print(text)
    if args.repair and report.repaired:
        print(f"{report.repaired} repaired")
        again = images.check_image(args.file)
        return 1 if again.errors or again.leaks else 0
    print(f"{report.errors} errors, {report.leaks} leaked clusters; {report.clusters} clusters in use, {report.compressed} compressed")
    return 1 if report.errors or report.leaks else 0


def _convert(args: argparse.Namespace) -> int:
    images.convert(args.file, args.target, args.target_format, args.format, args.compress, options(args.options))
    return 0


def _resize(args: argparse.Namespace) -> int:
    print(f"{args.file}: {_size(images.resize(args.file, args.size))}")
    return 0


def _snapshots(args: argparse.Namespace) -> int:
    for action in ("create", "apply", "delete"):
        if getattr(args, action) is not None:
            images.snapshot(args.file, action, getattr(args, action))
            return 0
    _table(images.snapshot(args.file, "list"))
    return 0


def _table(snapshots: list[dict[str, Any]]) -> None:
    if snapshots:
        print(f"{'ID':4} {'NAME':20} {'DATE':26} SIZE")
    for each in snapshots:
        print(f"{each['id']:4} {each['name']:20} {each['date']:26} {_size(each['size'])}")


def _size(size: int) -> str:
    for unit, name in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size / unit:.4g} {name} ({size} bytes)"
    return f"{size} bytes"


VERBS = {"create": _create, "info": _info, "check": _check, "convert": _convert, "resize": _resize, "snapshot": _snapshots}
