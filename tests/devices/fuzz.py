"""What a hostile guest does to a device, for every device: random accesses, random descriptors in memory."""

import random
import time


def storm(regions, mem, accesses=20000, seed=1, interesting=None, seconds=20):
    """Random accesses to regions: offsets, sizes and values; now and then random bytes in guest memory.

    ``interesting(rng) -> (region number, offset, size, value)`` makes accesses that get further than random ones.
    """
    rng = random.Random(seed)
    end = time.monotonic() + seconds
    for _ in range(accesses):
        if interesting is not None and rng.random() < 0.6:
            number, offset, size, value = interesting(rng)
            region = regions[number]
        else:
            region = rng.choice(regions)
            size = rng.choice([n for n in (1, 2, 4, 8) if n <= region.width])
            offset = rng.randrange(region.size) & -size
            if offset + size > region.size:
                continue
            value = rng.choice((0, 1, (1 << 8 * size) - 1, rng.getrandbits(8 * size), rng.getrandbits(8)))
        if rng.random() < 0.5:
            got = region.read(offset, size)
            assert isinstance(got, int) and got >= 0
        else:
            region.write(offset, size, value & (1 << 8 * size) - 1)
        if region.read_block is not None and rng.random() < 0.02:
            size = rng.choice((1, 2, 4))
            if rng.random() < 0.5:
                assert len(region.read_block(0, size, 300)) == 300 * size
            elif region.write_block is not None:
                region.write_block(0, size, rng.randbytes(300 * size))
        if rng.random() < 0.01:
            mem.write(rng.randrange(0, 256 * 4096), rng.randbytes(rng.randrange(1, 600)))
        assert time.monotonic() < end, "too slow: something loops for long"
