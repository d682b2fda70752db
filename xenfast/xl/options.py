"""Options of the commands, as xl has them: a parser that ends with one sentence, ``--json`` everywhere, sizes."""

from __future__ import annotations

import argparse
import json
from typing import Any, NoReturn

from xenfast.errors import XenfastError
from xenfast.xl.cmdtable import BY_NAME

UNITS = {"": 10, "m": 10, "k": 0, "g": 20, "t": 30}       # a number of KiB is shifted by so much; a bare one is MiB


class Parser(argparse.ArgumentParser):
    """Errors are the user's, not exit status 2."""

    def __init__(self, name: str, **more: Any) -> None:
        command = BY_NAME[name]
        text = f"{command.help[:1].upper()}{command.help[1:]}."
        super().__init__(prog=f"xenfast {name}", usage=f"xenfast {command.usage}", description=text, allow_abbrev=False, **more)
        self.command = name
        self.add_argument("--json", action="store_true", help="print the result as JSON")

    def error(self, message: str) -> NoReturn:
        raise XenfastError(f"{message} (see xenfast help {self.command})")


def print_json(value: Any) -> int:
    print(json.dumps(value, indent=4))
    return 0


def size_kib(text: str) -> int:
    """``512``, ``512m`` (MiB), ``1g``, ``2048k``, ``1048576b``."""
    number, unit = text[:-1] if text[-1:].isalpha() else text, text[-1:].lower() if text[-1:].isalpha() else ""
    if not (number.isascii() and number.isdigit()) or unit not in (*UNITS, "b"):
        raise XenfastError(f"{text!r} is not a size (such as 512, 512m or 1g)")
    return int(number) >> 10 if unit == "b" else int(number) << UNITS[unit]


def number(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise XenfastError(f"{what} must be a number, not {text!r}")
    return int(text)
