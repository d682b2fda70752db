"""The command ``xenfast``: finds the command in the table, runs it, and turns every error into one sentence.

As xl(1): the exit status is 0 or 1.  Nothing a user types makes a traceback; an error of our own says how to get one.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable

from xenfast.errors import XenfastError
from xenfast.xl.cmdtable import BY_NAME, Command

TRACE = "XENFAST_TRACE"         # environment variable: show the traceback of an internal error
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")     # numpy would start a thread a processor that we never use


XL_OPTIONS = ("-v", "-f", "-N", "-t", "-T")


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        return _dispatch(arguments)
    except XenfastError as error:
        return fail(str(error))
    except SystemExit as done:          # argparse: --help
        return int(done.code or 0)
    except KeyboardInterrupt:
        return fail("interrupted")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)        # else Python complains again while it ends
        return 1
    except MemoryError:
        return fail("the host has not enough memory")
    except Exception as error:
        if os.environ.get(TRACE):
            raise
        kind = type(error).__name__
        return fail(f"internal error: {kind}: {error} (please report it; {TRACE}=1 shows where)")


def fail(text: str) -> int:
    """Say why in one sentence; returns exit status 1."""
    print(f"xenfast: {' '.join(text.split())}", file=sys.stderr)
    return 1


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        arguments = ["help", *arguments[1:]]
    elif arguments[0] in ("-V", "--version"):
        arguments = ["version"]
    while len(arguments) > 1 and arguments[0] in XL_OPTIONS:        # before the command, as xl has them
        option, *arguments = arguments
        if option == "-N":
            if arguments[0] != "create":
                raise XenfastError(f"{arguments[0]} has no dry run (-N)")
            arguments.append("-N")
    return load(find(arguments[0]))(arguments[1:])


def find(name: str) -> Command:
    """The command of that name, or the only one that begins so."""
    if name in BY_NAME:
        return BY_NAME[name]
    begins = [command for command in BY_NAME if command.startswith(name)] if name else []
    if len(begins) == 1:
        return BY_NAME[begins[0]]
    import difflib

    near = difflib.get_close_matches(name, BY_NAME, 1)
    hint = f" (did you mean {near[0]!r}?)" if near else "; see xenfast help"
    raise XenfastError(f"there is no command {name!r}{hint}")


def load(command: Command) -> Callable[[list[str]], int]:
    module, function = command.function.split(":")
    return getattr(importlib.import_module(module), function)
