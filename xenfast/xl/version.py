"""``xenfast version``: the package's version and what it runs on."""

import platform

import xenfast


def main(arguments: list[str]) -> int:
    print(f"xenfast {xenfast.__version__} (Python {platform.python_version()}, {platform.machine()})")
    return 0
