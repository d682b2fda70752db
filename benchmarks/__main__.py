"""``python -m benchmarks [NAME ...] [options]``: run all benchmarks, or bench_NAME.py, and print the tables.

Options are pytest's and those of conftest.py: --rounds, --scale, --kernels, --engines, --report-json and
--report-markdown.
"""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


def main(arguments: list[str]) -> int:
    known = {path.stem.removeprefix("bench_"): str(path) for path in sorted(HERE.glob("bench_*.py"))}
    chosen = [known[word] for word in arguments if word in known]
    rest = [word for word in arguments if word not in known]
    options = [
        "-q", "-rs", "-p", "no:cacheprovider", "-p", "no:xdist", f"--rootdir={HERE.parent}", "--import-mode=importlib",
        "-o", "python_files=bench_*.py", "-o", "python_functions=bench_*", "--benchmark-columns=min,median,iqr,rounds",
        "--benchmark-sort=fullname",
    ]  # fmt: skip
    return pytest.main([*options, *(chosen or known.values()), *rest])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
