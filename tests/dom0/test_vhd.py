"""VHD images against a bytearray and against qemu-img."""

import os
import random

import pytest

from tests.dom0.test_qcow2 import MIB, needs_qemu, qemu, read, work
from xenfast.dom0.block import open_image, vhd
from xenfast.dom0.block.vhd import VhdImage
from xenfast.errors import XenfastError


@pytest.mark.parametrize("kind", ["fixed", "dynamic"])
def test_random_work_is_as_on_a_bytearray(tmp_path, kind):
    """Random requests give what a bytearray gives, also after opening anew; qemu-img sees the same disk."""
    path = tmp_path / "disk.vhd"
    model = bytearray(9 * MIB + 512)
    vhd.create(str(path), len(model), kind)
    for seed in range(3):
        image = VhdImage(str(path))
        assert image.size_sectors * 512 == len(model) and read(image, 0, len(model)) == model
        work(image, model, seed)
        image.flush()
        image.close()
    (tmp_path / "model").write_bytes(model)
    compared(tmp_path, path)


def compared(tmp_path, path):
    from tests.dom0.test_qcow2 import QEMU_IMG

    if QEMU_IMG:
        qemu("compare", "-f", "vpc", "-F", "raw", path, tmp_path / "model")


@needs_qemu
@pytest.mark.parametrize("options", ["subformat=dynamic,force_size=on", "subformat=fixed,force_size=on", "subformat=dynamic"])
def test_images_of_qemu_img(tmp_path, options):
    """Images that qemu-img made are read and written; with and without a size that is the geometry's."""
    model = bytearray(random.Random(1).randbytes(MIB) + bytes(4 * MIB) + b"pattern " * (MIB >> 3))
    (tmp_path / "model").write_bytes(model)
    path = tmp_path / "disk.vhd"
    qemu("convert", "-f", "raw", "-O", "vpc", "-o", options, tmp_path / "model", path)
    image = VhdImage(str(path))
    model += bytes(image.size_sectors * 512 - len(model))
    assert read(image, 0, len(model)) == model
    work(image, model, 3)
    image.close()
    (tmp_path / "model").write_bytes(model)
    compared(tmp_path, path)


@pytest.mark.parametrize("kind", ["vhd", "raw"])
def test_differencing_images(tmp_path, kind):
    """Sectors that were not written come from the parent, sector by sector; the parent is never changed, and must be the
    one the image was made from."""
    base, middle, top = (tmp_path / name for name in ("base", "middle.vhd", "top.vhd"))
    model = bytearray(5 * MIB)
    if kind == "vhd":
        vhd.create(str(base), len(model))
        image = VhdImage(str(base))
        work(image, model, 1)
        image.close()
    else:
        model[:] = random.Random(2).randbytes(len(model))
        base.write_bytes(model)
    before = base.read_bytes()
    vhd.create(str(middle), parent="base")
    vhd.create(str(top), parent=str(middle))
    for path in (middle, top):
        for seed in range(2):
            image = VhdImage(str(path))
            assert read(image, 0, len(model)) == model
            work(image, model, seed)
            image.close()
    image = VhdImage(str(top), True)
    assert read(image, 0, len(model)) == model and base.read_bytes() == before
    image.close()
    vhd.create(str(middle), len(model))
    with pytest.raises(XenfastError, match="another disk"):
        VhdImage(str(top))
    os.remove(middle)
    with pytest.raises(XenfastError, match="is not there"):
        VhdImage(str(top))


def test_a_lost_footer_and_space(tmp_path):
    """The copy at the beginning serves when the footer is gone; a discard gives the host its space."""
    path = tmp_path / "disk.vhd"
    vhd.create(str(path), 8 * MIB)
    image = VhdImage(str(path))
    data = random.Random(1).randbytes(6 * MIB)
    image.writev(0, [memoryview(bytearray(data))])
    image.flush()
    before = os.stat(path).st_blocks
    image.discard(0, 4 * MIB)
    image.flush()
    assert os.stat(path).st_blocks < before - 7000
    image.close()
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size - 512)
    image = VhdImage(str(path))
    assert read(image, 0, 6 * MIB) == bytes(4 * MIB) + data[4 * MIB :]
    image.writev(7 * MIB, [memoryview(bytearray(b"x" * 512))])
    image.close()
    image = open_image(str(path), "vhd", True)
    assert read(image, 7 * MIB, 1024) == b"x" * 512 + bytes(512)
    with pytest.raises(OSError):
        image.writev(0, [memoryview(bytearray(512))])
    image.close()


def test_wild_images_never_hurt(tmp_path):
    """Damaged structures are refused in one sentence; wild tables give I/O errors."""
    path = tmp_path / "disk.vhd"
    vhd.create(str(path), 8 * MIB)
    image = VhdImage(str(path))
    work(image, bytearray(8 * MIB), 1, 20)
    image.close()
    raw = path.read_bytes()
    random_ = random.Random(1)
    for _ in range(150):
        wild = bytearray(raw)
        for _ in range(random_.randint(1, 6)):
            wild[random_.choice([random_.randrange(1552), random_.randrange(1536, 1552), len(raw) - random_.randrange(1, 512)])] = \
                random_.randrange(256)
        if random_.random() < 0.5:          # with the right sums
            for at, size, where in ((0, 512, 64), (512, 1024, 36), (len(raw) - 512, 512, 64)):
                total = vhd.summed(bytes(wild[at : at + size]), where)
                wild[at + where : at + where + 4] = total.to_bytes(4, "big")
        path.write_bytes(wild)
        try:
            image = VhdImage(str(path))
        except XenfastError as error:
            assert "disk.vhd" in str(error)
            continue
        for offset in (0, 2 * MIB, 5 * MIB):
            try:
                if offset < image.size_sectors * 512 - MIB:
                    read(image, offset, 65536)
                    image.writev(offset, [memoryview(bytearray(4096))])
            except OSError:
                pass
        image.close()
    for kind, size, text in (("sparse", MIB, "not 'sparse'"), ("fixed", 0, "cannot have"), ("dynamic", 1 << 50, "cannot have")):
        with pytest.raises(XenfastError, match=text):
            vhd.create(str(path), size, kind)
