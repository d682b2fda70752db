"""Requests a second and MB/s through ring, grants, event channel and back end, to an image in the host's page cache.

The front end's requests are prepared once and put into the ring again for each round, so that what is measured is
domain 0.
"""

import pytest

from tests.dom0.frontend import BlkFront, Machine
from xenfast.abi.io.blkif import BLKIF_OP_READ, BLKIF_OP_WRITE

SECTORS = 1 << 17


@pytest.fixture
def machine(tmp_path):
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(SECTORS * 512)
    machine = Machine()
    machine.backend = machine.disk(path)
    yield machine
    machine.backend.close()
    machine.backend.image.close()
    machine.close()


def prepared(front, operation, segments, indirect):
    """A ring's worth of requests, as the bytes of the ring's slots."""
    pages = [front.page() for _ in range(segments)]
    for i in range(front.ring.slots):
        where = [(page, 0, 7) for page in pages]
        if indirect:
            front.submit_indirect(operation, i * segments * 8, where)
        else:
            front.submit(operation, i * segments * 8, where)
    return bytes(front.ring.pages[0].view)[64:]


@pytest.mark.parametrize("persistent", [True, False], ids=["persistent", "mapped"])
@pytest.mark.parametrize("segments, indirect", [(1, False), (11, False), (32, True)], ids=["4K", "44K", "128K"])
@pytest.mark.parametrize("operation", [BLKIF_OP_READ, BLKIF_OP_WRITE], ids=["read", "write"])
def test_blkback(benchmark, machine, operation, segments, indirect, persistent):
    """A full ring of 32 requests."""
    front = BlkFront(machine, machine.backend, persistent=persistent)
    slots = prepared(front, operation, segments, indirect)
    ring = front.ring

    def round_trip():
        ring.pages[0].view[64:] = slots
        ring.push()
        machine.run()
        ring.rsp_cons = ring.words[2]
        ring.words[3] = (ring.rsp_cons + 1) & 0xFFFFFFFF
        ring.req_prod = (ring.req_prod + ring.slots) & 0xFFFFFFFF

    ring.push()
    machine.run()
    ring.req_prod += ring.slots
    benchmark(round_trip)
    assert not machine.backend.stats()["errors"]
    seconds = benchmark.stats["median"]
    benchmark.extra_info["requests_per_second"] = round(ring.slots / seconds)
    benchmark.extra_info["MB_per_second"] = round(ring.slots * segments * 4096 / seconds / 1e6)
