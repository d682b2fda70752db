"""vnuma= of xl.cfg(5): nodes, their memory and distances."""

import pytest

from xenfast.errors import XenfastError
from xenfast.firmware import numa
from xenfast.firmware.acpi.machine import NumaNode

GIB = 1 << 30
TWO = [["pnode=0", "size=1024", "vcpus=0-1", "vdistances=10,20"], ["size=3072", "vcpus=2,3", "vdistances=21,10"]]


def test_nodes_and_their_memory():
    """Memory is given out from 0 up: the second node has the rest below the hole and what is above 4 GiB."""
    nodes = numa.parse(TWO, 4096, 4)
    assert numa.place(nodes, 3 * GIB, 5 * GIB) == (
        NumaNode(((0, GIB),), (0, 1), (10, 20)),
        NumaNode(((GIB, 2 * GIB), (4 * GIB, GIB)), (2, 3), (21, 10)),
    )
    assert numa.parse([], 64, 1) == () and numa.place((), GIB, 0) == ()


def test_distances_may_be_left_out():
    """10 to itself and 20 to the others, or what one or two numbers say."""
    specs = [["size=1", f"vcpus={n}"] for n in range(3)]
    assert [node.distances for node in numa.parse(specs, 3, 3)] == [(10, 20, 20), (20, 10, 20), (20, 20, 10)]
    specs[1].append("vdistances=10,30")
    assert numa.parse(specs, 3, 3)[1].distances == (30, 10, 30)


@pytest.mark.parametrize(("specs", "text"), [
    ([TWO[0][:3]], "the domain has 4096"),
    ([TWO[0], ["size=3072", "vcpus=2"]], "each of the 4 vcpus"),
    ([TWO[0], ["size=x", "vcpus=2-3"]], "size must be a number"),
    ([TWO[0], ["size=3072", "vcpus=2-"]], "not a list of vcpus"),
    ([TWO[0], ["size=3072", "cpus=2"]], "there is no 'cpus'"),
    ([TWO[0], ["size=3072", "vcpus=2-3", "vdistances=1,2"]], "one number for each of 2 from 10 to 254"),
    (["size=4096"], "is not a list"),
])
def test_what_does_not_fit_is_refused(specs, text):
    """One sentence for each mistake."""
    with pytest.raises(XenfastError, match=text):
        numa.parse(specs, 4096, 4)
