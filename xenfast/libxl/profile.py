"""``xenfast run --profile``: a profiler for a host, and the files its symbols come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xenfast.errors import XenfastError
from xenfast.libxl import elf
from xenfast.libxl.host import Host
from xenfast.xen.profile import Profiler, Symbols, table


def symbols(path: str) -> Symbols:
    """Of a System.map, of what /proc/kallsyms says, or of an ELF image."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise XenfastError(f"cannot read {path}: {error.strerror}") from None
    if data.startswith(elf.MAGIC):
        return Symbols(elf.functions(elf.parse(data)))
    try:
        return Symbols.from_text(data.decode("ascii", "replace"))
    except ValueError:
        raise XenfastError(f"{path} is neither a System.map nor an ELF image") from None


def start(host: Host, symbol_file: str | None) -> None:
    """Watch the domains that are created from now on."""
    host.hypervisor.profiler = Profiler(symbols(symbol_file) if symbol_file is not None else None)


def finish(host: Host) -> tuple[dict[str, Any], str]:
    """The report, and the same to be read."""
    profiler = host.hypervisor.profiler
    assert profiler is not None
    report = profiler.report(host.hypervisor)
    return report, table(report)
