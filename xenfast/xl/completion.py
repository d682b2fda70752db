"""``xenfast completion``: a script that completes commands, options' files and domains' names in bash.

    source <(xenfast completion)
"""

from __future__ import annotations

from xenfast.xl.cmdtable import COMMANDS

SCRIPT = """\
# bash completion of xenfast
_xenfast()
{
    local current="${COMP_WORDS[COMP_CWORD]}" command="${COMP_WORDS[1]}"
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=( $(compgen -W "%(commands)s" -- "$current") )
    elif [[ " %(with_domain)s " == *" $command "* ]]; then
        COMPREPLY=( $(compgen -W "$(xenfast daemon --status >/dev/null 2>&1 && xenfast list | tail -n +3 | cut -d' ' -f1)" -- "$current") )
    else
        COMPREPLY=( $(compgen -f -- "$current") )
    fi
}
complete -o filenames -F _xenfast xenfast
"""


def main(arguments: list[str]) -> int:
    names = [command.name for command in COMMANDS]
    with_domain = [command.name for command in COMMANDS if "DOMAIN" in command.usage]
    print(SCRIPT % {"commands": " ".join(names), "with_domain": " ".join(with_domain)}, end="")
    return 0
