"""Build the one extension of the package, ``xenfast._core``.

XENFAST_DEBUG=1 builds with Cython's and gcc's checks on (bounds, -g).
XENFAST_CFLAGS adds compiler flags (sanitizers, -march=native).
Threaded dispatch relies on sibling calls, so every build needs at least -O1
(docs/decisions/0002-threaded-dispatch.md).
"""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("XENFAST_DEBUG") == "1"
EXTRA = os.environ.get("XENFAST_CFLAGS", "").split()

CFLAGS = ["-O1", "-g"] if DEBUG else ["-O2", "-g0"]
CFLAGS += ["-foptimize-sibling-calls", "-fno-strict-aliasing", "-fwrapv"]

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": DEBUG,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": DEBUG,
    "auto_pickle": False,
}

core = Extension(
    "xenfast._core",
    ["xenfast/_core.pyx"],
    depends=[f"xenfast/cpu/{name}" for name in sorted(os.listdir("xenfast/cpu"))],
    extra_compile_args=CFLAGS + EXTRA,
    extra_link_args=[flag for flag in EXTRA if flag.startswith("-fsanitize")],
)

setup(ext_modules=cythonize([core], compiler_directives=DIRECTIVES))
