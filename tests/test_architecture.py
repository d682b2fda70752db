"""The rules of docs/design.md that a machine can check: which part may import which, and how long a file may be."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "xenfast"

# part -> the parts it may import (docs/design.md, "Layout"); everything may import errors
MAY_IMPORT = {
    "errors": set(),
    "_core": set(),
    "abi": set(),
    "cpuid": {"_core"},
    "trace": {"_core"},
    "xen": {"abi", "_core"},
    "xenstore": {"xen", "abi", "_core"},
    "dom0": {"xenstore", "xen", "abi", "_core"},
    "machine": {"cpuid", "trace", "_core"},
    "devices": {"dom0", "xen", "abi", "_core"},         # dom0: the interfaces of images and network ports
    "firmware": {"devices", "dom0", "xen", "abi", "_core"},
    "libxl": {"firmware", "devices", "dom0", "xenstore", "xen", "abi", "cpuid", "trace", "_core", "guests"},
    "xl": {"libxl", "machine", "abi", "cpuid", "trace", "guests"},
    "guests": set(),
    "__init__": {"libxl", "machine"},
    "__main__": {"xl"},
}
MAX_LINES = {".py": 900, ".pxi": 900, ".pyx": 900, ".pxd": 900, ".pyi": 900}
SOURCES = sorted(path for path in PACKAGE.rglob("*") if path.suffix in MAX_LINES)
GENERATED = "# Written by tools/"         # in the head of a file that a test regenerates and compares
MODULES = [path for path in SOURCES if path.suffix == ".py"]


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            module = node.module or ""
            names = [f"xenfast.{alias.name}" for alias in node.names] if module == "xenfast" else [module]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("xenfast.")}
    return found


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_one_way(path):
    """A module imports only from the parts below its own."""
    part = part_of(path)
    assert part in MAY_IMPORT, f"{part} is not in the layout of docs/design.md"
    allowed = MAY_IMPORT[part] | {part, "errors"}
    assert imported_parts(path) <= allowed


def test_the_core_imports_nothing_of_ours():
    """_core and its parts import no Python module of the package."""
    for path in SOURCES:
        if path.suffix in {".pyx", ".pxi", ".pxd"}:
            assert not re.search(r"^\s*(from|import)\s+xenfast", path.read_text(), re.M), name_of(path)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_relative_imports_are_not_used(path):
    """A module is named in full wherever it is imported, so that a search finds every user of it."""
    assert not any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(ast.parse(path.read_text())))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_files_are_short_enough_to_read(path):
    """No source file that is written by hand is longer than 900 lines."""
    text = path.read_text()
    assert GENERATED in text[:500] or len(text.splitlines()) <= MAX_LINES[path.suffix]


def test_the_maps_are_true():
    """Every file that README and the documents in docs/ name exists."""
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for name in re.findall(r"`([A-Za-z_*./0-9]+/[A-Za-z_*.0-9]+\.(?:py|pxi|pxd|pyx|md))`", document.read_text()):
            assert any(any(root.glob(name)) for root in (ROOT, PACKAGE)), f"{document.name} names {name}"


def test_the_package_needs_numpy_only():
    """pyproject.toml: numpy is the only dependency, the command is where it says, and what is shipped exists."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dependencies"] == ["numpy"]
    assert project["project"]["scripts"] == {"xenfast": "xenfast.xl.main:main"}
    for pattern in project["tool"]["setuptools"]["package-data"]["xenfast"]:
        assert pattern.endswith(".elf") or any(PACKAGE.glob(pattern)), pattern


@pytest.mark.parametrize("path", [path for path in MODULES if path.read_text().strip()], ids=name_of)
def test_modules_say_what_they_are(path):
    """Every module has a docstring."""
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_numpy_is_the_only_dependency_at_run_time():
    """Nothing but the standard library and numpy is imported."""
    import sys

    for path in MODULES:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for top in {name.split(".")[0] for name in names} - {"xenfast", "numpy"}:
                assert top in sys.stdlib_module_names, f"{name_of(path)} imports {top}"


# Inline assembly of the interpreter: file -> statements (docs/decisions/0009-two-ways-onto-the-host.md says why).
ASSEMBLY = {"fp_host.pxi": None, "ops_alu.pxi": 1, "ops_fma.pxi": 2, "ops_muldiv.pxi": 1}


def test_the_interpreter_takes_no_flags_from_the_host():
    """Inline assembly stands in four files, beside a portable half, and hands flags out only as values; the translator is not meant."""
    for path in sorted((PACKAGE / "cpu").glob("*.p*")):
        text = path.read_text()
        if path.name.startswith("jit") or GENERATED in text[:300]:
            continue
        found = len(re.findall(r"__asm__|\basm\s*(?:volatile)?\s*\(", text))
        allowed = ASSEMBLY.get(path.name, 0)
        assert allowed is None or found == allowed, f"{name_of(path)}: {found} assembly statements"
        assert found == 0 or ("__x86_64__" in text and "#else" in text), f"{name_of(path)}: no portable half"
        for word in ("pushf", "popf", "lahf", "sahf", "__readeflags", "_addcarry", "_subborrow", "__builtin_ia32_readeflags"):
            assert not re.search(rf'"[^"\n]*\b{word}\b[^"\n]*" *:|{word}_u64\(', text), f"{name_of(path)} uses {word}"


def test_a_guest_pays_for_no_module_it_does_not_use():
    """What ``xenfast run`` imports before it starts leaves out asyncio, web servers and the like: they cost more than a guest's start."""
    import subprocess
    import sys

    code = "import sys, xenfast.xl.run, xenfast.libxl.host; print([m for m in ('asyncio', 'http', 'email', 'ssl') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout == "[]\n"
