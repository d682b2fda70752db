"""Small PV guests of our own: ``hello`` is assembled when the package is built and shipped with it.

setup.py calls ``assemble`` with the C compiler that builds the extension; tests use it for guests of their own.
Why not a ready-made binary: docs/decisions/0003-shipped-guest.md.
"""

from pathlib import Path

HERE = Path(__file__).resolve().parent
HELLO = HERE / "hello.elf"


def assemble(source: str | Path, output: str | Path, cc: str = "cc") -> None:
    """Assemble and link one guest; ``source`` may include pv64.inc."""
    import subprocess

    flags = "-nostdlib -static -no-pie -s -Wl,--build-id=none -Wl,-z,max-page-size=4096 -Wl,-z,noexecstack".split()
    script = [f"-Wl,-T,{HERE / 'pv64.lds'}", f"-Wa,-I,{HERE}"]
    command = [*cc.split(), *flags, *script, "-x", "assembler", str(source), "-o", str(output)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{result.stderr}")
