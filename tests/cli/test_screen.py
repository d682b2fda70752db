"""xenfast screenshot and xenfast vncviewer, and the client that takes pictures."""

import os
import socket
import threading

import pytest

from tests.libxl.test_vnc import Host
from xenfast.devices import vga_picture
from xenfast.errors import XenfastError
from xenfast.libxl import displays, png, rfb_client
from xenfast.xl.main import main
from xenfast.xl.vncviewer import main as viewer


class Served:
    """A guest's screen whose loop runs on a thread."""

    def __init__(self, **options):
        self.host = Host(**options)
        self.over = False
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.over:
            self.host.loop.poll(0.005)
            self.host.loop.run_ready()

    def __enter__(self):
        self.thread.start()
        return self.host

    def __exit__(self, *exc):
        self.over = True
        self.thread.join()
        self.host.close()


def test_screenshot(tmp_path, capsys):
    """The file is the picture; a password is read from a file; a wrong one is one sentence."""
    with Served(password="secret") as host:
        host.print("picture me")
        (tmp_path / "pw").write_text("secret\n")
        where = f"127.0.0.1::{host.server.port}"
        assert main(["screenshot", "--passwd-file", str(tmp_path / "pw"), where, str(tmp_path / "a.png")]) == 0
        assert (png.read(tmp_path / "a.png") == vga_picture.rgb(host.frame)).all()
        assert main(["screenshot", where, str(tmp_path / "b.png")]) == 1
        assert "refuses: the password is wrong" in capsys.readouterr().err
        assert main(["screenshot", "--passwd-file", "/nowhere", where, "x"]) == 1
        assert main(["screenshot", "--passwd-file", str(tmp_path / "pw"), where, "/nowhere/a.png"]) == 1
        assert "/nowhere/a.png: No such file" in capsys.readouterr().err


def test_a_screen_without_password(tmp_path):
    """None is asked for, none is given."""
    with Served() as host:
        host.linear(320, 200)[:] = 0x102030
        picture = rfb_client.picture("127.0.0.1", host.server.port)
        assert picture.shape == (200, 320, 3) and (picture == (0x10, 0x20, 0x30)).all()


@pytest.mark.parametrize("answer", [
    b"SSH-2.0-OpenSSH\r\n\r\n", b"RFB 003.008\n\0\0\0\0\3bad", b"RFB 003.008\n\1\x13", b"RFB 003.008\n",
    b"RFB 003.008\n\1\1\0\0\0\0\0\0\0\0" + bytes(20), b"RFB 003.008\n\1\1\0\0\0\0\0\4\0\4" + bytes(20) + b"\x77",
])
def test_servers_that_are_none(answer):
    """Whatever answers at the port, it is one sentence."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve():
        sock, _ = server.accept()
        sock.sendall(answer)
        sock.settimeout(0.2)
        try:
            while sock.recv(100):
                pass
        except OSError:
            pass
        sock.close()

    thread = threading.Thread(target=serve)
    thread.start()
    with pytest.raises(XenfastError, match=r"at 127.0.0.1:\d+ "):
        rfb_client.picture("127.0.0.1", server.getsockname()[1], timeout=2)
    thread.join()
    server.close()


def test_nobody_there(tmp_path, capsys):
    """No server, no such display, no name of a display."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert main(["screenshot", f"127.0.0.1::{port}", str(tmp_path / "a.png")]) == 1
    assert "no VNC server answers" in capsys.readouterr().err
    for bad, why in (("guest", "is no VNC display"), (":99999", "there is no VNC display")):
        assert main(["screenshot", bad, "a.png"]) == 1
        assert why in capsys.readouterr().err


def test_displays():
    """Displays, ports, hosts, IPv6."""
    assert displays.parse(":1") == displays.Display("127.0.0.1", 5901)
    assert displays.parse("host:5902") == displays.Display("host", 5902) and displays.parse("host::7") == displays.Display("host", 7)
    assert displays.parse("[::1]:2").viewer == "[::1]::5902" and displays.parse("name") is None


def test_viewer(tmp_path, monkeypatch, capsys):
    """The viewer that is installed is started; without one the screen's place is said."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["vncviewer", ":3"]) == 1
    assert "no VNC viewer is installed" in (said := capsys.readouterr().err) and "127.0.0.1:5903" in said
    program = tmp_path / "gvncviewer"
    program.write_text("#!/bin/sh\n")
    os.chmod(program, 0o755)
    ran = []
    assert viewer([":3"], lambda *call: ran.append(call)) == 0
    assert ran == [(str(program), ["gvncviewer", "127.0.0.1:3"])]
