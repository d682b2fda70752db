"""The device model of an HVM guest: the PC that an unmodified system finds.  machine.py wires it up."""
