"""Configurations mean here what they mean to the distribution's xl."""

import pytest

from tests.libxl import xl_oracle
from xenfast.errors import XenfastError
from xenfast.libxl import config, domain_json

BASE = 'name = "a"\nkernel = "/bin/sh"\nmemory = 128\nuuid = "00000000-0000-0000-0000-000000000001"\n'


@pytest.fixture(scope="module")
def xl(tmp_path_factory):
    path = xl_oracle.find()
    if path is None:
        pytest.skip("xl is not installed (Debian's xen-utils-4.17)")
    library = xl_oracle.build(tmp_path_factory.mktemp("shim"))
    if library is None:
        pytest.skip("there is no C compiler")
    return lambda file: xl_oracle.dry_run(path, library, file)


GOOD = [
    "maxmem = 256", "vcpus = 2", "vcpus = 2; maxvcpus = 4", "memory = 0x100", "memory = '64'", "cpu_weight = 512; cap = 50",
    'disk = ["/a.img,raw,xvda,w"]', 'disk = ["/a,,hda", "/b,qcow2,xvdb,r", "vdev=hdc,target=/c, d"]', 'disk = ["file:/a,xvda,w"]',
    'disk = ["phy:/dev/x,hdb,r"]', 'disk = ["/a,vhd,xvda,rw,no-discard"]', 'disk = ["format=raw, vdev=xvdb, access=ro, target=/a, b"]',
    'disk = ["tap:qcow2:/a,xvda,w"]', 'disk = [ "/a,,xvda", \n "/b,,xvdb", ]', 'disk = ["/root.iso,,hdc,cdrom"]',
    'vif = ["mac=00:16:3e:00:00:01"]', 'vif = ["mac=00:16:3e:0:0:1,bridge=br1,model=e1000,type=ioemu,mtu=9000"]',
    'vif = ["mac=00:16:3e:00:00:01,ip=10.0.0.1,script=x,vifname=v0,rate=10Mb/s", "mac=00:16:3e:00:00:02,rate=1MB/s@20ms"]',
    'on_crash = "preserve"; on_reboot = "rename-restart"', 'on_poweroff = "coredump-restart"', "extra = 'a b'; root = '/dev/xvda1'",
    "extra = 'a'; cmdline = 'b'", "extra = 'a'; extra += ' b'", "# nothing\n;;\n", 'name = 0x07', "type = 'pvh'",
]  # fmt: skip
# xl itself passes over memory = "lots" and vif = ["mac=zz"] with a warning
BAD = [
    'disk = ["/a,raw,xvda,maybe"]', 'disk = ["/a,zip,xvda,w"]', 'disk = ["/a,raw,xvda,w,nonsense"]',
    'disk = ["/a"]', 'vif = ["rate=fast"]', "memory = ", "memory 3", 'disk = ["/a,raw,xvda,w"', "name = 'a",
    "on_crash = 'weep'", "type = 'lxc'", "uuid = 'x'",
]  # fmt: skip


def essence(found):
    """What both say: names, sizes, devices, actions."""
    build = found["b_info"]
    names = ("max_memkb", "target_memkb", "max_vcpus", "avail_vcpus", "sched_params", "kernel", "ramdisk", "cmdline")
    return {
        "type": found["c_info"]["type"], "name": found["c_info"]["name"], "build": {name: build[name] for name in names if name in build},
        "disks": found.get("disks", []), "nics": found.get("nics", []),
        "actions": {name: found[name] for name in found if name.startswith("on_")},
    }  # fmt: skip


@pytest.mark.parametrize("text", GOOD)
def test_what_xl_reads(xl, text, tmp_path):
    """The same JSON comes out."""
    path = tmp_path / "guest.cfg"
    path.write_text(BASE + text + "\n")
    expected, said = xl(path)
    assert expected is not None, said
    assert essence(domain_json.as_libxl(config.parse(BASE + text + "\n"))) == essence(expected)


@pytest.mark.parametrize("text", BAD)
def test_what_xl_refuses(xl, text, tmp_path):
    """What xl refuses is refused here."""
    path = tmp_path / "guest.cfg"
    path.write_text(BASE + text + "\n")
    assert xl(path)[0] is None
    with pytest.raises(XenfastError):
        config.parse(BASE + text + "\n")
