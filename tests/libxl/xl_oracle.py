"""The distribution's own ``xl -N create`` as an oracle of configurations.

xl wants to talk to a hypervisor before it reads anything; a library of a few lines, loaded before its own, says that there
is one.  Needs Debian's package xen-utils-4.17 (or $XENFAST_XL, the path of its xl) and a C compiler.
"""

import glob
import json
import os
import shutil
import subprocess

SHIM = """
static int there;
void *xc_interface_open(void *l, void *d, unsigned f) { return &there; }
int xc_interface_close(void *h) { return 0; }
int xc_get_max_cpus(void *h) { return 8; }
int xc_get_max_nodes(void *h) { return 1; }
int xc_physinfo(void *h, void *info) { return 0; }
int xc_version(void *h, int cmd, void *arg) { return 0; }
int libxl_get_physinfo(void *c, void *i) { return 0; }
void *xs_open(unsigned long f) { return &there; }
void xs_close(void *h) { }
int xs_fileno(void *h) { return 0; }
"""


def find():
    """The path of xl, or None."""
    named = os.environ.get("XENFAST_XL")
    return named or next(iter(sorted(glob.glob("/usr/lib/xen-*/bin/xl"))), None)


def build(directory):
    """The library that stands in for a hypervisor; None without a compiler."""
    if not shutil.which("cc"):
        return None
    source, library = directory / "shim.c", directory / "shim.so"
    source.write_text(SHIM)
    subprocess.run(["cc", "-shared", "-fPIC", "-w", "-o", str(library), str(source)], check=True)
    return library


def dry_run(xl, library, path):
    """(what xl understood, or None; what it said)."""
    done = subprocess.run([xl, "-N", "create", str(path)], capture_output=True, text=True, timeout=60,
                          env={**os.environ, "LD_PRELOAD": str(library)})
    start = done.stdout.find("{")
    return (json.loads(done.stdout[start:]) if done.returncode == 0 and start >= 0 else None), done.stderr
