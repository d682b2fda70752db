"""``xenfast help``: the list of commands, or what one of them takes."""

from xenfast.xl.cmdtable import COMMANDS
from xenfast.xl.main import find, load


def main(arguments: list[str]) -> int:
    if arguments and find(arguments[0]).name != "help":
        command = find(arguments[0])
        if command.name not in ("version", "completion"):
            return load(command)(["--help"])
        print(f"usage: xenfast {command.usage}\n\n{command.help}")
        return 0
    print("usage: xenfast COMMAND [ARGUMENTS]\n\nA whole Xen machine inside one process.\n\ncommands:")
    width = max(len(command.name) for command in COMMANDS)
    for command in COMMANDS:
        print(f"  {command.name:{width}}  {command.help}")
    print("\nxenfast help COMMAND explains one; a command may be shortened while it is unambiguous.")
    return 0
