"""Raw images, and the one-sentence errors of those that cannot be used."""

import os

import pytest

from xenfast.dom0.block import open_image
from xenfast.dom0.block.raw import RawImage, Unsupported, skip
from xenfast.errors import XenfastError


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(bytes(range(256)) * 64)
    return path


def buffers(*sizes):
    return [memoryview(bytearray(size)) for size in sizes]


def test_reads_and_writes_are_scattered(path):
    """One request fills or empties several buffers."""
    image = open_image(str(path))
    assert image.size_sectors == 32
    got = buffers(10, 300)
    image.readv(5, got)
    assert b"".join(map(bytes, got)) == path.read_bytes()[5:315]
    image.writev(100, [memoryview(b"ab"), memoryview(b"cde")])
    image.flush()
    assert path.read_bytes()[99:106] == bytes([99]) + b"abcde" + bytes([105])
    image.close()
    image.close()


def test_short_transfers_are_continued(path, monkeypatch):
    """A system call that does less than asked is repeated for the rest."""
    image, preadv, pwritev = RawImage(str(path)), os.preadv, os.pwritev
    monkeypatch.setattr(os, "preadv", lambda fd, bufs, at: preadv(fd, [bufs[0][:7]], at))
    monkeypatch.setattr(os, "pwritev", lambda fd, bufs, at: pwritev(fd, [bufs[0][:3]], at))
    got = buffers(10, 20, 1)
    image.readv(0, got)
    assert b"".join(map(bytes, got)) == bytes(range(31))
    image.writev(0, [memoryview(b"0123456789"), memoryview(b"abc")])
    monkeypatch.undo()
    assert path.read_bytes()[:14] == b"0123456789abc" + bytes([13])


def test_a_file_that_shrinks_gives_eio(path):
    """What is gone cannot be read."""
    image = RawImage(str(path))
    os.truncate(path, 100)
    with pytest.raises(OSError, match="ends at"):
        image.readv(0, buffers(512))


def test_discard_makes_holes(path):
    """The range reads as zeros, the size stays; where the host cannot, that is said."""
    image = RawImage(str(path))
    try:
        image.discard(4096, 8192)
    except Unsupported:
        pytest.skip("no holes on this file system")
    assert path.read_bytes() == bytes(range(256)) * 16 + bytes(8192) + bytes(range(256)) * 16
    image.discard(0, 0)


def test_a_missing_libc_function_is_unsupported(path, monkeypatch):
    """Without fallocate, discard says so instead of failing."""
    from xenfast.dom0.block import raw

    monkeypatch.setattr(raw, "libc_fallocate", lambda: None)
    with pytest.raises(Unsupported):
        RawImage(str(path)).discard(0, 4096)


def test_errors_of_opening(path, tmp_path):
    """Each names the file and says why."""
    (tmp_path / "empty").touch()
    for name, text in (("missing", "No such file"), ("", "Is a directory"), ("empty", "is empty")):
        with pytest.raises(XenfastError, match=text):
            open_image(str(tmp_path / name))
    with pytest.raises(XenfastError, match="neither a file"):
        open_image("/dev/null")
    with pytest.raises(XenfastError, match="'qed' is not supported"):
        open_image(str(path), "qed")
    with pytest.raises(XenfastError, match="'foo' does not exist"):
        open_image(str(path), "foo")


def test_an_image_is_used_once(path):
    """A second writer is refused, several readers are not, and closing gives the image free."""
    image = RawImage(str(path))
    for readonly in (False, True):
        with pytest.raises(XenfastError, match="in use"):
            RawImage(str(path), readonly)
    image.close()
    readers = [RawImage(str(path), True) for _ in range(2)]
    with pytest.raises(XenfastError, match="in use"):
        RawImage(str(path))
    for reader in readers:
        reader.close()
    RawImage(str(path)).close()


@pytest.mark.parametrize("done, left", [(0, [3, 4]), (2, [1, 4]), (3, [4]), (5, [2]), (7, [])])
def test_skip(done, left):
    """The rest of a list of buffers."""
    assert [len(each) for each in skip(buffers(3, 4), done)] == left


def test_direct_requests(path):
    """With O_DIRECT the same data comes and goes, aligned or not; where the host has none the page cache serves."""
    import mmap

    image = open_image(str(path), "raw", direct=True)
    with mmap.mmap(-1, 8192) as pages:
        view = memoryview(pages)
        view[:4096] = b"direct.." * 512
        image.writev(4096, [view[:4096]])
        image.readv(4096, [view[4096:]])
        assert view[4096:] == view[:4096]
        image.writev(512, [view[1:513]])          # not aligned
        image.readv(512, [view[4099 : 4099 + 512]])
        assert view[4099 : 4099 + 512] == view[1:513]
        view.release()
    image.close()
    image.close()
    assert path.read_bytes()[4096:8192] == b"direct.." * 512
