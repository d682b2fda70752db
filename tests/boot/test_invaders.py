"""grub-invaders: a multiboot program that draws into text memory and reads the keyboard controller itself, in text and by VNC."""

import shutil
import subprocess

import pytest

from scripts import debian
from tests.libxl.rfbclient import Client
from xenfast.libxl.host import Host

pytestmark = pytest.mark.slow

GRUB = "set timeout=0\nmenuentry Invaders { multiboot /boot/invaders.exec }\n"


@pytest.fixture(scope="module")
def iso(tmp_path_factory):
    if not shutil.which("grub-mkrescue") or not shutil.which("xorriso"):
        pytest.skip("grub-mkrescue (grub-common, grub-pc-bin) or xorriso is not installed")
    try:
        program = debian.package_file("grub-invaders", "boot/invaders.exec")
    except debian.Unavailable as why:
        pytest.skip(str(why))
    root = tmp_path_factory.mktemp("invaders")
    (root / "cd/boot/grub").mkdir(parents=True)
    shutil.copy(program, root / "cd/boot")
    (root / "cd/boot/grub/grub.cfg").write_text(GRUB)
    subprocess.run(["grub-mkrescue", "-o", str(root / "invaders.iso"), str(root / "cd")], check=True, capture_output=True)
    return root / "invaders.iso"


def ship(screen):
    """The column of the player's ship."""
    return screen.text[-1].index("/")


def test_the_first_screen_is_played(iso):
    """Invaders move by themselves; the ship moves with the arrow keys, and shoots; a VNC client sees all of it and plays, too."""
    settings = {"name": "invaders", "type": "hvm", "memory": 32, "boot": "d", "disk": [f"{iso},raw,hdc,cdrom"], "vncdisplay": 450}
    with Host(96) as host:
        domain = host.create(settings)
        screen = domain.screen
        screen.wait_text(r"-\*-(.*\n)+.*/ \\", timeout=30)
        before, at = screen.text[:10], ship(screen)
        domain.run(timeout=0.5)
        assert screen.text[:10] != before
        screen.key_down("left")                     # the game looks at keys a few times a second
        domain.run(lambda: ship(screen) < at, timeout=10)
        screen.key_up("left")
        assert ship(screen) < at
        screen.key_down("space")
        screen.wait_text(r"\|", timeout=10)
        screen.key_up("space")

        client = Client(domain.vnc.port, lambda: domain.run(timeout=0.005), (16,))
        first = client.update(0).copy()
        at = ship(screen)
        client.key(0xFF53)
        for _ in range(8):
            client.update()
        assert ship(screen) > at and (client.screen != first).any()
