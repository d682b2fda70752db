"""Build the one extension of the package, ``xenfast._core``, and the small PV guest that is shipped with it.

XENFAST_DEBUG=1 builds with Cython's and gcc's checks on (bounds, -g).
XENFAST_CFLAGS adds compiler flags (sanitizers, -march=native).
Threaded dispatch relies on sibling calls, so every build needs at least -O1
(docs/decisions/0002-threaded-dispatch.md).
"""

import os
import subprocess
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).parent))
from xenfast.guests import assemble

DEBUG = os.environ.get("XENFAST_DEBUG") == "1"
EXTRA = os.environ.get("XENFAST_CFLAGS", "").split()

CFLAGS = ["-O1", "-g"] if DEBUG else ["-O2", "-g0"]
# (without SLP vectorisation: gcc would put the three words of the flags through a vector register)
CFLAGS += ["-foptimize-sibling-calls", "-fno-strict-aliasing", "-fwrapv", "-fno-tree-slp-vectorize"]

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": DEBUG,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": DEBUG,
    "auto_pickle": False,
}

# The threaded handlers are generated source, like _core.c.
THREADED = "xenfast/cpu/threaded.pxi"
GENERATOR = "tools/gen_threaded.py"
if not os.path.exists(THREADED) or os.path.getmtime(THREADED) < os.path.getmtime(GENERATOR):
    text = subprocess.run([sys.executable, GENERATOR], check=True, capture_output=True, text=True).stdout
    with open(THREADED, "w", encoding="ascii") as file:
        file.write(text)

core = Extension(
    "xenfast._core",
    ["xenfast/_core.pyx"],
    depends=[f"xenfast/cpu/{name}" for name in sorted(os.listdir("xenfast/cpu"))],
    extra_compile_args=CFLAGS + EXTRA,
    extra_link_args=[flag for flag in EXTRA if flag.startswith("-fsanitize")],
)


class BuildAll(build_ext):
    """The guest is assembled by the compiler that builds the extension (docs/decisions/0003-shipped-guest.md)."""

    def run(self) -> None:
        super().run()
        guests = Path("" if self.inplace else self.build_lib, "xenfast", "guests")
        guests.mkdir(parents=True, exist_ok=True)
        assemble("xenfast/guests/hello.S", guests / "hello.elf", os.environ.get("CC", "cc"))


setup(ext_modules=cythonize([core], compiler_directives=DIRECTIVES), cmdclass={"build_ext": BuildAll})
