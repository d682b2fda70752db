"""What is generated is what the generator makes, and the compiler kept its promises about it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from xenfast import _core

ROOT = Path(__file__).resolve().parents[2]


def test_threaded_handlers_are_up_to_date():
    """xenfast/cpu/threaded.pxi is what tools/gen_threaded.py writes."""
    made = subprocess.run([sys.executable, ROOT / "tools/gen_threaded.py"], capture_output=True, text=True, check=True).stdout
    assert made == (ROOT / "xenfast/cpu/threaded.pxi").read_text()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("objdump"), reason="needs objdump (binutils)")
def test_no_threaded_handler_saves_registers():
    """No handler pushes a register: nothing in it is called but in tail position (docs/decisions/0002-threaded-dispatch.md)."""
    text = subprocess.run(["objdump", "-d", "--no-show-raw-insn", _core.__file__], capture_output=True, text=True, check=True).stdout
    bodies = re.findall(r"<__pyx_f_7xenfast_5_core_(H_\w+)>:\n(.*?)\n\n", text, re.S)
    if not bodies:
        pytest.skip("the module was built without symbols")
    assert len(bodies) > 500
    assert [name for name, body in bodies if re.search(r"\tpush\b|\tcall\b", body)] == []
