"""xenfast img: what each verb does, and one sentence for what cannot be."""

import json
import random

import pytest

from xenfast.xl.main import main


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def img(capsys, *arguments, status=0):
    assert main(["img", *map(str, arguments)]) == status
    captured = capsys.readouterr()
    return captured.out if not status else captured.out + captured.err


@pytest.mark.parametrize("image_format", ["raw", "qcow2", "vhd"])
def test_convert_there_and_back(tmp_path, capsys, image_format):
    """A disk that was converted to a format and back is the same; zeros take no space."""
    data = bytes(1 << 20) + random.Random(1).randbytes(1 << 20) + bytes(3 << 20) + b"end".ljust(512)
    (tmp_path / "a").write_bytes(data)
    img(capsys, "convert", "-O", image_format, "a", "b")
    img(capsys, "convert", "-f", image_format, "-O", "raw", "b", "c")
    assert (tmp_path / "c").read_bytes() == data
    found = json.loads(img(capsys, "info", "--json", "-f", image_format, "b"))
    assert found["format"] == image_format and found["size"] == len(data) and found["disk_size"] < 4 << 20


def test_a_compressed_image_with_changes_and_snapshots(tmp_path, capsys):
    """A compressed base, an image of changes on it, snapshots of that: info shows them, check finds no fault."""
    (tmp_path / "a").write_bytes(b"text " * (1 << 18))
    img(capsys, "convert", "-c", "-O", "qcow2", "a", "base.qcow2")
    assert (tmp_path / "base.qcow2").stat().st_size < 1 << 19
    img(capsys, "create", "-f", "qcow2", "-b", "base.qcow2", "-o", "cluster_size=4k", "top.qcow2")
    img(capsys, "snapshot", "-c", "first", "top.qcow2")
    assert "first" in img(capsys, "snapshot", "top.qcow2") and "first" in img(capsys, "info", "top.qcow2")
    img(capsys, "resize", "top.qcow2", "+1M")
    assert "0 errors, 0 leaked" in img(capsys, "check", "top.qcow2")
    assert "base.qcow2" in img(capsys, "info", "top.qcow2")
    img(capsys, "snapshot", "-a", "first", "top.qcow2")
    img(capsys, "snapshot", "-d", "first", "top.qcow2")
    assert img(capsys, "snapshot", "-l", "top.qcow2") == ""
    img(capsys, "resize", "top.qcow2", "-1M")
    assert "0 errors" in img(capsys, "check", "-r", "top.qcow2")


@pytest.mark.parametrize("arguments, text", [
    ((), "required"), (("create", "x"), "how large"), (("create", "x", "big"), "is not a size"),
    (("create", "-f", "vmdk", "x", "1M"), "cannot be made"), (("create", "-f", "qcow2", "-o", "color=red", "x", "1M"), "not an option"),
    (("create", "-f", "qcow2", "-o", "cluster_size=3k", "x", "1M"), "power of two"), (("info", "none"), "No such file"),
    (("check", "raw"), "this is for qcow2"), (("convert", "-c", "raw", "y"), "only qcow2 images can be compressed"),
    (("convert", "raw", "raw"), "into itself"), (("resize", "raw", "-1G"), "cannot have"), (("snapshot", "raw"), "for qcow2 images"),
    (("create", "none/x", "1M"), "No such file"), (("create", "-b", "raw", "x"), "no backing file"), (("melt", "x"), "invalid choice"),
])  # fmt: skip
def test_mistakes(tmp_path, capsys, arguments, text):
    """Exit status 1 and one sentence."""
    (tmp_path / "raw").write_bytes(bytes(4096))
    said = img(capsys, *arguments, status=1)
    assert text in said and said.count("\n") == 1 and "Traceback" not in said
