"""The virtual firmware of an HVM guest: what hvmloader and a BIOS do in a normal boot."""
