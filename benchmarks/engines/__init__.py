"""The engines a kernel is run on, one module each: how to start it, run the image, and tell how long that took.

Time is the CPU time of the thread or process that runs the guest (user and kernel), not wall time: the machines these
benchmarks run on are shared.  It covers the call of ``run(n)`` alone; starting the engine and loading the image are not
in it, and one small run goes before the first one measured, so that every engine has decoded or translated the code.
"""

from benchmarks.engines.base import Engine, EngineFailed, Result, Session
from benchmarks.engines.native import Native
from benchmarks.engines.qemu import QemuSystem, QemuUser
from benchmarks.engines.unicorn_engine import Unicorn
from benchmarks.engines.xenfast_engine import XenfastInterpreter

# The first one's checksums are taken for right; the second one is what the ratios are to.
ENGINES: tuple[Engine, ...] = (Native(), QemuSystem(), XenfastInterpreter(), QemuUser(), Unicorn())

__all__ = ["ENGINES", "Engine", "EngineFailed", "Result", "Session"]
