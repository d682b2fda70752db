"""THE TABLE of commands: name -> where its function is, how it is called, what it does.

A command's module is imported when the command is given, so that ``xenfast version`` does not pay for the machine.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    name: str
    function: str           # "module:function"; takes the arguments behind the command's name, returns the exit status
    usage: str
    help: str


COMMANDS = (
    Command(
        "run",
        "xenfast.xl.run:main",
        "run [CONFIG] [OPTIONS] [KEY=VALUE ...]",
        "create a domain, attach to its console, wait for its end",
    ),
    Command(
        "img",
        "xenfast.xl.img:main",
        "img create|info|check|convert|resize|snapshot ... FILE",
        "make, look at, check and convert disk images (raw, qcow2, vhd)",
    ),
    Command("screenshot", "xenfast.xl.screenshot:main", "screenshot HOST:DISPLAY FILE.png", "a picture of a screen, by VNC"),
    Command("vncviewer", "xenfast.xl.vncviewer:main", "vncviewer HOST:DISPLAY", "start a VNC viewer of this host"),
    Command("version", "xenfast.xl.version:main", "version", "say which version this is"),
    Command("help", "xenfast.xl.help:main", "help [COMMAND]", "list the commands, or explain one"),
)

BY_NAME = {command.name: command for command in COMMANDS}
