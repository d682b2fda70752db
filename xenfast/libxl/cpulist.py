"""Lists of host processors, as ``cpus`` of xl.cfg(5) and ``xl vcpu-pin`` have them: ``0-3,5,^1``, ``all``, ``nodes:0``.

The host is one node here.  A list is read without knowing how many processors there are; ``members`` says which are
meant on a host of so many.
"""

from __future__ import annotations

import re

from xenfast.errors import XenfastError

Item = tuple[bool, int, int]        # (is included, first, last); last -1: all there are

_ITEM = re.compile(r"(\^?)\s*(?:(all)|(nodes?:)?\s*(\^?)(?:(all)|([0-9]{1,5})(?:-([0-9]{1,5}))?))", re.A)


def parse(text: str) -> list[Item]:
    """Read a list; raises XenfastError."""
    items: list[Item] = []
    if text.strip() == "none":
        return []
    for part in text.split(","):
        match = _ITEM.fullmatch(part.strip())
        if not match:
            raise XenfastError(f"{text!r} is not a list of processors (such as 0-3,5,^1)")
        no, everything, node, no_too, all_too, first, last = match.groups()
        include = not (no or no_too)
        if everything or all_too:
            items.append((include, 0, -1))
            continue
        low, high = int(first), int(last or first)
        if high < low:
            raise XenfastError(f"{part.strip()!r} ends before it begins")
        if node:
            items.append((include, 0, -1 if low == 0 else -2))      # node 0 is all of them, the others are empty
        else:
            items.append((include, low, high))
    return items


def members(text: str, count: int) -> set[int]:
    """Which of ``count`` processors are meant."""
    items = parse(text)
    chosen: set[int] = set(range(count)) if items and not items[0][0] else set()
    for include, first, last in items:
        which = set(range(count)) if last == -1 else set() if last == -2 else set(range(first, last + 1)) & set(range(count))
        chosen = chosen | which if include else chosen - which
    return chosen


def text_of(cpus: set[int], count: int) -> str:
    """As xl prints an affinity: ``all``, or ranges."""
    if cpus >= set(range(count)):
        return "all"
    ranges: list[list[int]] = []
    for cpu in sorted(cpus):
        if ranges and ranges[-1][1] == cpu - 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)
