"""The command line: THE TABLE of commands (cmdtable.py) and a file per command."""
