"""qcow2 images against a bytearray and against qemu-img, in both directions."""

import json
import os
import random
import shutil
import subprocess

import pytest

from xenfast.dom0.block import open_image
from xenfast.dom0.block import qcow2_snapshot as shape
from xenfast.dom0.block.qcow2 import Qcow2Image
from xenfast.dom0.block.qcow2_check import check
from xenfast.errors import XenfastError

QEMU_IMG = shutil.which("qemu-img")
needs_qemu = pytest.mark.skipif(QEMU_IMG is None, reason="qemu-img is not installed (apt-get install qemu-utils)")
MIB = 1 << 20


def qemu(*arguments, fails=False):
    result = subprocess.run([QEMU_IMG, *map(str, arguments)], capture_output=True, text=True)
    assert fails or result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def read(image, offset, length):
    data = bytearray(length)
    image.readv(offset, [memoryview(data)])
    return bytes(data)


def write(image, offset, data):
    """In buffers of odd sizes, as segments of a guest come."""
    view = memoryview(bytearray(data))
    cut = len(view) // 3
    image.writev(offset, [part for part in (view[:cut], view[cut:]) if part])


def work(image, model, seed, rounds=60, discard=True):
    """Random writes, reads, discards and flushes, on the image and on a bytearray."""
    random_ = random.Random(seed)
    for _ in range(rounds):
        length = random_.choice([512, 4096, 4096, 65536, random_.randrange(1, 500) * 512])
        offset = random_.randrange((len(model) - length) // 512 + 1) * 512
        what = random_.random()
        if what < 0.55:
            data = random_.randbytes(length)
            write(image, offset, data)
            model[offset : offset + length] = data
        elif what < 0.7 and discard:
            image.discard(offset, length)
            data = read(image, offset, length)
            for i in range(0, length, 512):        # each sector is as it was, or zeros
                assert data[i : i + 512] in (bytes(512), bytes(model[offset + i : offset + i + 512]))
            model[offset : offset + length] = data
        elif what < 0.8:
            image.flush()
        else:
            assert read(image, offset, length) == model[offset : offset + length]


def sound(path, *, leaks=0):
    """Our check and QEMU's find nothing."""
    image = Qcow2Image(str(path), True)
    report = check(image)
    image.close()
    assert (report.errors, report.leaks) == (0, leaks), report.messages
    if QEMU_IMG:
        qemu("check", "-f", "qcow2", path)


SHAPES = {
    "version 3": {}, "version 2": {"version": 2}, "512-byte clusters": {"cluster_size": 512}, "2 MiB clusters": {"cluster_size": 2 * MIB},
    "1-bit refcounts": {"refcount_bits": 1}, "4-bit refcounts, 4 KiB": {"refcount_bits": 4, "cluster_size": 4096},
    "64-bit refcounts, 1 KiB": {"refcount_bits": 64, "cluster_size": 1024}, "lazy": {"lazy_refcounts": True},
    "data file": {"data_file": "disk.data"},
}  # fmt: skip


@pytest.mark.parametrize("shape_", SHAPES.values(), ids=list(SHAPES))
def test_random_work_is_as_on_a_bytearray(tmp_path, shape_):
    """Random requests give what a bytearray gives, before and after the image is opened anew; qemu-img finds no fault
    and the same contents."""
    path = tmp_path / "disk.qcow2"
    model = bytearray(4 * MIB)
    if "data_file" in shape_:                   # qemu-img looks in its current directory, not beside the image
        shape_ = {"data_file": str(tmp_path / shape_["data_file"])}
    shape.create(str(path), len(model), **shape_)
    sound(path)
    for seed in range(3):
        image = Qcow2Image(str(path))
        assert read(image, 0, len(model)) == model
        work(image, model, seed)
        image.close()
        sound(path)
    if QEMU_IMG:
        (tmp_path / "model").write_bytes(model)
        qemu("compare", "-f", "qcow2", "-F", "raw", path, tmp_path / "model")


@needs_qemu
@pytest.mark.parametrize("options", [
    "compat=1.1", "compat=0.10", "cluster_size=4096,refcount_bits=8", "preallocation=metadata", "preallocation=falloc",
    "lazy_refcounts=on", "compression_type=zstd",
])  # fmt: skip
def test_images_of_qemu_img(tmp_path, options):
    """Images that qemu-img made are read and written; it finds no fault with them afterwards."""
    model = bytearray(random.Random(1).randbytes(MIB) + bytes(2 * MIB) + b"pattern " * (MIB >> 3))
    (tmp_path / "raw").write_bytes(model)
    path = tmp_path / "disk.qcow2"
    qemu("convert", "-f", "raw", "-O", "qcow2", "-o", options, tmp_path / "raw", path)
    for seed in range(2):
        image = Qcow2Image(str(path))
        assert read(image, 0, len(model)) == model
        work(image, model, seed)
        image.close()
        sound(path)
    (tmp_path / "raw").write_bytes(model)
    qemu("compare", "-f", "qcow2", "-F", "raw", path, tmp_path / "raw")


@needs_qemu
@pytest.mark.parametrize("compression", ["zlib", "zstd"])
def test_compressed_images(tmp_path, compression):
    """Compressed clusters of either kind are read, and overwritten; their space is given back."""
    model = bytearray(b"".join(i.to_bytes(4, "big") * 128 for i in range(8192)))
    (tmp_path / "raw").write_bytes(model)
    path = tmp_path / "disk.qcow2"
    qemu("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", f"compression_type={compression}", tmp_path / "raw", path)
    assert path.stat().st_size < MIB
    for seed in range(3):
        image = Qcow2Image(str(path))
        assert read(image, 0, len(model)) == model
        work(image, model, seed)
        image.close()
        sound(path)


def test_our_compressed_clusters(tmp_path):
    """Clusters that we compress share clusters of the file, are read by us and by QEMU, and can be overwritten."""
    model = bytearray(b"".join(i.to_bytes(4, "big") * 128 for i in range(8192)))
    path = tmp_path / "disk.qcow2"
    shape.create(str(path), len(model))
    image = Qcow2Image(str(path))
    for offset in range(0, len(model), 65536):
        assert image.write_compressed(offset, bytes(model[offset : offset + 65536]))
    assert not image.write_compressed(0, random.Random(1).randbytes(65536))
    image.close()
    sound(path)
    assert path.stat().st_size < MIB
    image = Qcow2Image(str(path))
    work(image, model, 5)
    image.close()
    sound(path)
    if QEMU_IMG:
        (tmp_path / "model").write_bytes(model)
        qemu("compare", "-f", "qcow2", "-F", "raw", path, tmp_path / "model")


@pytest.mark.parametrize("backing_format", ["raw", "qcow2", ""])
def test_backing_chains(tmp_path, backing_format):
    """What is not in an image comes from the one below, zeros behind its end; discarded clusters are zeros; the base
    is never changed."""
    base, middle, top = (tmp_path / name for name in ("base", "middle", "top"))
    model = bytearray(random.Random(2).randbytes(MIB + 512))
    if backing_format == "raw":
        base.write_bytes(model)
    else:
        shape.create(str(base), len(model))
        image = Qcow2Image(str(base))
        write(image, 0, model)
        image.close()
    before = base.read_bytes()
    shape.create(str(middle), 2 * MIB, backing="base", backing_format=backing_format)
    shape.create(str(top), 3 * MIB, backing=str(middle), backing_format="qcow2", cluster_size=4096)
    model += bytes(3 * MIB - len(model))
    for path in (middle, top):
        image = Qcow2Image(str(path))
        part = model[: image.size]
        work(image, part, 7)
        model[: image.size] = part
        image.close()
        sound(path)
    image = Qcow2Image(str(top), True)
    assert read(image, 0, len(model)) == model and base.read_bytes() == before
    with pytest.raises(OSError):
        write(image, 0, bytes(512))
    image.close()
    if QEMU_IMG:
        (tmp_path / "model").write_bytes(model)
        qemu("compare", "-f", "qcow2", "-F", "raw", top, tmp_path / "model")


def test_chains_that_cannot_be(tmp_path):
    """A chain that leads back, a base that is missing, or that is not a file, is one sentence."""
    for backing, reason in [("a", "leads back to itself"), ("none", "cannot be opened"), ("nbd:localhost:1", "not a file of this host")]:
        shape.create(str(tmp_path / "a"), MIB, backing=backing, backing_format="qcow2")
        with pytest.raises(XenfastError, match=reason):
            Qcow2Image(str(tmp_path / "a"))


def test_snapshots(tmp_path):
    """Snapshots keep what was there through all that comes; they are read, applied and deleted; qemu-img agrees at every
    step, and nothing is leaked at the end."""
    path = tmp_path / "disk.qcow2"
    shape.create(str(path), 2 * MIB, cluster_size=4096)
    model, kept = bytearray(2 * MIB), {}
    image = Qcow2Image(str(path))
    for number in range(3):
        work(image, model, number)
        kept[f"snap{number}"] = bytes(model)
        shape.create_snapshot(image, f"snap{number}")
        work(image, model, number + 10)
        image.close()
        sound(path)
        image = Qcow2Image(str(path))
    for name, contents in kept.items():
        old = Qcow2Image.__new__(Qcow2Image)
        image.close()
        old.__init__(str(path), snapshot=name)
        assert read(old, 0, len(contents)) == contents and old.readonly
        old.close()
        image = Qcow2Image(str(path))
    assert read(image, 0, len(model)) == model
    if QEMU_IMG:
        image.close()
        listed = json.loads(qemu("info", "--output=json", path))["snapshots"]
        assert [(each["name"], each["id"]) for each in listed] == [("snap0", "1"), ("snap1", "2"), ("snap2", "3")]
        image = Qcow2Image(str(path))
    shape.apply_snapshot(image, "snap1")
    model[:] = kept["snap1"]
    work(image, model, 77)
    image.close()
    sound(path)
    image = Qcow2Image(str(path))
    with pytest.raises(XenfastError, match="already"):
        shape.create_snapshot(image, "snap1")
    for name in ("snap0", "2", "snap2"):
        shape.delete_snapshot(image, name)
        assert read(image, 0, len(model)) == model
        image.close()
        sound(path)
        image = Qcow2Image(str(path))
    with pytest.raises(XenfastError, match="has no snapshot"):
        shape.apply_snapshot(image, "snap0")
    image.close()


@needs_qemu
def test_snapshots_of_qemu_img(tmp_path):
    """Snapshots that qemu-img made are applied and deleted by us, and ours by it."""
    path = tmp_path / "disk.qcow2"
    shape.create(str(path), MIB)
    model = bytearray(MIB)
    image = Qcow2Image(str(path))
    work(image, model, 1)
    image.close()
    first = bytes(model)
    qemu("snapshot", "-c", "theirs", path)
    image = Qcow2Image(str(path))
    work(image, model, 2)
    second = bytes(model)
    shape.create_snapshot(image, "ours")
    work(image, model, 3)
    shape.apply_snapshot(image, "theirs")
    assert read(image, 0, MIB) == first
    image.close()
    sound(path)
    qemu("snapshot", "-a", "ours", path)
    qemu("snapshot", "-d", "theirs", path)
    image = Qcow2Image(str(path))
    assert read(image, 0, MIB) == second
    shape.delete_snapshot(image, "ours")
    image.close()
    sound(path)


def test_resize(tmp_path):
    """A disk grows, over the end of its L1 table too, and shrinks; not below snapshots."""
    path = tmp_path / "disk.qcow2"
    shape.create(str(path), MIB, cluster_size=512)
    image = Qcow2Image(str(path))
    data = random.Random(1).randbytes(MIB)
    write(image, 0, data)
    shape.resize(image, 40 * MIB)
    write(image, 40 * MIB - 4096, data[:4096])
    image.close()
    sound(path)
    image = Qcow2Image(str(path))
    assert image.size_sectors == 80 << 10 and read(image, 0, MIB) == data and read(image, 40 * MIB - 4096, 4096) == data[:4096]
    shape.resize(image, MIB // 2)
    image.close()
    sound(path)
    image = Qcow2Image(str(path))
    assert read(image, 0, MIB // 2) == data[: MIB // 2]
    shape.create_snapshot(image, "here")
    with pytest.raises(XenfastError, match="has snapshots"):
        shape.resize(image, 512)
    image.close()


def test_discard_gives_the_host_its_space_back(tmp_path):
    """After a discard and a flush the file takes less of the host's disk."""
    path = tmp_path / "disk.qcow2"
    shape.create(str(path), 16 * MIB)
    image = Qcow2Image(str(path))
    write(image, 0, random.Random(1).randbytes(8 * MIB))
    image.flush()
    before = os.stat(path).st_blocks
    image.discard(0, 8 * MIB)
    image.flush()
    assert before > 16000 and os.stat(path).st_blocks < 2000
    write(image, 0, b"x" * MIB)             # the space is used again
    image.close()
    assert path.stat().st_size < 10 * MIB
    sound(path)


def test_a_machine_that_stops_anywhere_leaves_a_sound_image(tmp_path, monkeypatch):
    """The host stops after any write to the file: what was flushed is there, and there are no errors, only leaks.
    Writes between two syncs may be lost or not, in any order."""
    from xenfast.dom0.block import qcow2_file

    path = tmp_path / "disk.qcow2"
    shape.create(str(path), MIB, cluster_size=4096)
    image = Qcow2Image(str(path))
    model = bytearray(MIB)
    work(image, model, 1, 40, discard=False)
    image.close()
    durable = path.read_bytes()
    image = Qcow2Image(str(path))
    pending, states = [], []

    def record(offset, data):
        pending.append((offset, bytes(data)))

    real_write, real_sync, real_writev = qcow2_file.File.write, qcow2_file.File.sync, qcow2_file.File.writev
    monkeypatch.setattr(qcow2_file.File, "write", lambda self, offset, data: (record(offset, data), real_write(self, offset, data))[1])
    monkeypatch.setattr(qcow2_file.File, "writev", lambda self, offset, buffers:
                        (record(offset, b"".join(buffers)), real_writev(self, offset, buffers))[1])

    flushed = [bytes(model)]

    def sync(self):
        nonlocal durable
        random_ = random.Random(len(states))
        for _ in range(3):
            some = [each for each in pending if random_.random() < 0.5]
            states.append((durable, some, flushed[-1]))
        for offset, data in pending:
            durable = put(durable, offset, data)
        pending.clear()
        real_sync(self)

    monkeypatch.setattr(qcow2_file.File, "sync", sync)
    random_ = random.Random(9)
    for number in range(30):
        for _ in range(6):
            # never over what was flushed: a write in place may be there or not
            offset = random_.randrange(MIB // 512 - 32) * 512
            if any(model[offset : offset + 16384]):
                continue
            data = random_.randbytes(random_.randrange(1, 32) * 512)
            write(image, offset, data)
            model[offset : offset + len(data)] = data
        if number % 3 == 0:
            image.flush()
            flushed.append(bytes(model))
    image.close()
    monkeypatch.undo()
    crashed = tmp_path / "crashed.qcow2"
    assert len(states) > 30
    for base, some, expected in states:
        for offset, data in some:
            base = put(base, offset, data)
        crashed.write_bytes(base)
        after = Qcow2Image(str(crashed), True)
        report = check(after)
        assert not report.errors, report.messages
        got = read(after, 0, MIB)
        after.close()
        for i in range(0, MIB, 512):
            assert not any(expected[i : i + 512]) or got[i : i + 512] == expected[i : i + 512]


def put(data, offset, part):
    data = data + bytes(max(0, offset + len(part) - len(data)))
    return data[:offset] + part + data[offset + len(part) :]


def test_repair(tmp_path):
    """Wrong refcounts and flags are found and put right, as after an unclean end of an image with lazy refcounts."""
    path = tmp_path / "disk.qcow2"
    shape.create(str(path), MIB, cluster_size=4096)
    image = Qcow2Image(str(path))
    model = bytearray(MIB)
    work(image, model, 1)
    image.close()
    raw = bytearray(path.read_bytes())
    block = int.from_bytes(raw[4096:4104], "big")
    raw[block + 10 : block + 60] = bytes(50)
    raw[79] |= 1                                # the dirty bit
    path.write_bytes(raw)
    if QEMU_IMG:
        assert json.loads(qemu("check", "--output=json", path, fails=True))["corruptions"]
    image = Qcow2Image(str(path), True)
    assert check(image).errors
    image.close()
    image = Qcow2Image(str(path))
    assert read(image, 0, MIB) == model
    image.close()
    sound(path)


BAD = {
    "not qcow2": (0, b"nope"), "version": (4, b"\0\0\0\4"), "cluster bits": (20, b"\0\0\0\x40"), "L1 size": (36, b"\xff\xff\xff\xff"),
    "L1 place": (40, b"\0\0\0\0\0\0\2\0"), "L1 beyond": (40, b"\0\xff\0\0\0\0\0\0"), "table place": (48, b"\0\0\0\0\0\0\0\1"),
    "table size": (56, b"\0\xff\xff\xff"), "snapshots": (60, b"\0\1\0\1"), "incompatible": (72, b"\x80"), "extended L2": (79, b"\x10"),
    "encrypted": (35, b"\2"), "refcount order": (99, b"\7"), "header length": (100, b"\xff\0\0\0"), "compression": (104, b"\1"),
    "extension": (116, b"\xff\xff\xff\xff"), "backing": (8, b"\0\0\0\0\0\0\xff\xff\0\0\1\0"), "size": (24, b"\x40"),
}  # fmt: skip


@pytest.mark.parametrize("patch", BAD.values(), ids=list(BAD))
def test_headers_that_cannot_be(tmp_path, patch):
    """A header with a field that cannot be is refused in one sentence that names the file."""
    path = tmp_path / "disk.qcow2"
    shape.create(str(path), MIB, backing_format="raw")
    raw = bytearray(path.read_bytes())
    raw[patch[0] : patch[0] + len(patch[1])] = patch[1]
    path.write_bytes(raw)
    with pytest.raises(XenfastError, match=r"disk.*disk\.qcow2"):
        open_image(str(path), "qcow2")


def test_wild_images_never_hurt(tmp_path):
    """Images with random bytes changed: reads and writes work or are I/O errors, whatever tables say."""
    path = tmp_path / "disk.qcow2"
    shape.create(str(path), MIB, cluster_size=4096)
    image = Qcow2Image(str(path))
    work(image, bytearray(MIB), 1)
    shape.create_snapshot(image, "one")
    image.write_compressed(0, bytes(4096))
    image.close()
    raw = path.read_bytes()
    random_ = random.Random(3)
    tables = [i for i in range(0, len(raw), 8) if raw[i : i + 8].strip(b"\0") and raw[i] in (0x80, 0x40, 0, 0xC0)][:4000]
    for _ in range(40):
        wild = bytearray(raw)
        for _ in range(random_.randint(1, 8)):
            at = random_.choice(tables) + random_.randrange(8) if random_.random() < 0.7 else random_.randrange(200)
            wild[at] = random_.randrange(256)
        path.write_bytes(wild)
        image = None
        try:
            image = Qcow2Image(str(path))
            for _ in range(8):
                offset = random_.randrange(MIB // 512 - 128) * 512
                try:
                    read(image, offset, 65536)
                    write(image, offset, bytes(20000 // 512 * 512))
                    image.discard(offset, 65536)
                    image.flush()
                except OSError:
                    pass
        except XenfastError:
            pass
        except OSError:
            pass
        finally:
            if image is not None:
                image.close()


def test_two_cannot_write_one_image(tmp_path):
    """An image is locked while it is in use, its base against being written."""
    base, path = tmp_path / "base", tmp_path / "disk"
    base.write_bytes(bytes(MIB))
    shape.create(str(path), MIB, backing="base", backing_format="raw")
    image = open_image(str(path), "qcow2")
    for other, kind in ((path, "qcow2"), (base, "raw")):
        with pytest.raises(XenfastError, match="in use"):
            open_image(str(other), kind)
    image.close()
    open_image(str(path), "qcow2").close()
