"""A whole Xen machine inside one Python process.

The public API, exported once; everything is imported when it is first used, so that ``import xenfast`` costs nothing.

    Host, Domain      create domains from a config, talk to their consoles, wait for them (libxl/host.py, libxl/domain.py)
    EOF, TIMEOUT      patterns of Console.expect, and what it raises (libxl/console.py)
    Machine           a bare CPU with memory and no Xen, for tools (machine.py)
    XenfastError      a user's mistake, in one sentence (errors.py)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xenfast.errors import XenfastError as XenfastError
    from xenfast.libxl.console import EOF as EOF
    from xenfast.libxl.console import TIMEOUT as TIMEOUT
    from xenfast.libxl.domain import Domain as Domain
    from xenfast.libxl.host import Host as Host
    from xenfast.machine import Machine as Machine

__version__ = "0.1.0"

_WHERE = {
    "Domain": "xenfast.libxl.domain",
    "EOF": "xenfast.libxl.console",
    "Host": "xenfast.libxl.host",
    "Machine": "xenfast.machine",
    "TIMEOUT": "xenfast.libxl.console",
    "XenfastError": "xenfast.errors",
}
__all__ = ["EOF", "TIMEOUT", "Domain", "Host", "Machine", "XenfastError", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'xenfast' has no attribute {name!r}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
