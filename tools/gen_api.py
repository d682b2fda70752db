"""docs/api.md from the docstrings of the public API: ``python tools/gen_api.py`` writes it, ``--print`` shows it."""

import importlib
import inspect
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
CLASSES = (
    ("xenfast.libxl.host", "Host"), ("xenfast.libxl.domain", "Domain"), ("xenfast.libxl.resources", "Resources"),
    ("xenfast.libxl.console", "Console"), ("xenfast.libxl.events", "Events"), ("xenfast.libxl.events", "EventQueue"),
    ("xenfast.libxl.events", "Event"),
)  # fmt: skip
HEAD = """# The Python API

Written by tools/gen_api.py from the docstrings. `xenfast.Host` and `xenfast.Domain` are what a program begins with;
`xenfast.EOF` and `xenfast.TIMEOUT` are patterns of `Console.expect`; `xenfast.XenfastError` is every mistake of a user's,
in one sentence. `xenfast.Machine`, a processor without Xen, is in [tools.md](tools.md).
"""


def text() -> str:
    parts = [HEAD]
    for module, name in CLASSES:
        found = getattr(importlib.import_module(module), name)
        parts.append(f"## {name}\n\n`{module}.{name}`. {inspect.cleandoc(found.__doc__ or '')}\n")
        parts += [entry for member, value in vars(found).items() if not member.startswith("_") for entry in _entry(member, value)]
    return "\n".join(parts)


def _entry(name: str, value: object) -> list[str]:
    """A method or property with a docstring; none for anything else."""
    function = value.fget if isinstance(value, property) else value
    doc = inspect.getdoc(function) if inspect.isfunction(function) else None
    if not doc:
        return []
    if isinstance(value, property):
        return [f"### {name}\n\n{doc}\n"]
    prefix = "await " if inspect.iscoroutinefunction(function) else ""
    names = [_parameter(each) for each in inspect.signature(function).parameters.values() if each.name != "self"]
    return [f"### {prefix}{name}({', '.join(names)})\n\n{doc}\n"]


def _parameter(parameter: inspect.Parameter) -> str:
    star = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
    return f"{star}{parameter.name}{default}"


if __name__ == "__main__":
    if "--print" in sys.argv:
        print(text(), end="")
    else:
        (ROOT / "docs" / "api.md").write_text(text())
