"""Virtual NUMA: the nodes that ``vnuma=`` of xl.cfg(5) describes, and which memory each has; SRAT and SLIT tell the guest.

All of it is the guest's view: the host's memory is one.  Memory is given out in the order of the nodes, from 0 up, as Xen does.
"""

import re
from dataclasses import dataclass

from xenfast.errors import XenfastError
from xenfast.firmware.acpi.machine import NumaNode

LOCAL, REMOTE = 10, 20              # distances where none are given
FOUR_GIB = 1 << 32
MIB = 1 << 20


@dataclass(frozen=True)
class Vnode:
    mib: int
    vcpus: tuple[int, ...]
    distances: tuple[int, ...]


def parse(specs: list, memory_mib: int, vcpus: int) -> tuple[Vnode, ...]:
    """``[["pnode=0", "size=512", "vcpus=0-1", "vdistances=10,20"], ...]``; XenfastError for nodes that do not fit the domain."""
    found = [_vnode(spec, number, len(specs)) for number, spec in enumerate(specs)]
    if not found:
        return ()
    if sum(node.mib for node in found) != memory_mib:
        raise XenfastError(f"the nodes have {sum(node.mib for node in found)} MiB together, the domain has {memory_mib}")
    if sorted(vcpu for node in found for vcpu in node.vcpus) != list(range(vcpus)):
        raise XenfastError(f"each of the {vcpus} vcpus must be in one node")
    return tuple(found)


def _vnode(spec: object, number: int, count: int) -> Vnode:
    if not isinstance(spec, list):
        raise XenfastError(f"node {number} is not a list")
    options = dict(str(item).partition("=")[::2] for item in spec)
    unknown = set(options) - {"pnode", "size", "vcpus", "vdistances"}
    if unknown:
        raise XenfastError(f"node {number}: there is no {sorted(unknown)[0]!r} (pnode, size, vcpus, vdistances)")
    size = options.get("size", "")
    if not size.isdigit() or not int(size):
        raise XenfastError(f"node {number}: size must be a number of MiB, not {size!r}")
    distances = [int(text) if text.isdigit() else 0 for text in re.split(r"\s*,\s*", options.get("vdistances", "").strip()) if text]
    if not distances:
        distances = [LOCAL if n == number else REMOTE for n in range(count)]
    elif len(distances) == 1 or len(distances) == 2 < count:        # local and remote, as one or two numbers
        distances = [distances[0] if n == number else distances[-1] for n in range(count)]
    if len(distances) != count or not all(LOCAL <= distance <= 254 for distance in distances):
        raise XenfastError(f"node {number}: vdistances must be one number for each of {count} from {LOCAL} to 254")
    return Vnode(int(size), _vcpus(options.get("vcpus", ""), number), tuple(distances))


def _vcpus(text: str, number: int) -> tuple[int, ...]:
    found: list[int] = []
    for part in filter(None, re.split(r"\s*,\s*", text.strip())):
        match = re.fullmatch(r"(\d{1,3})(?:-(\d{1,3}))?", part)
        if not match:
            raise XenfastError(f"node {number}: {text!r} is not a list of vcpus")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return tuple(found)


def place(vnodes: tuple[Vnode, ...], low_end: int, high_end: int) -> tuple[NumaNode, ...]:
    """Ranges of each node in RAM that goes to ``low_end`` and from 4 GiB to ``high_end``."""
    room = [[0, low_end], [FOUR_GIB, max(high_end, FOUR_GIB)]]
    found = []
    for node in vnodes:
        left, ranges = node.mib * MIB, []
        for piece in room:
            size = min(left, piece[1] - piece[0])
            if size:
                ranges.append((piece[0], size))
                piece[0] += size
                left -= size
        found.append(NumaNode(tuple(ranges), node.vcpus, node.distances))
    return tuple(found)
