"""The two kinds of error: one for users, one inside the hypervisor.

``XenfastError`` is a mistake of the person at the keyboard or in the program that calls us: its text is one clear
sentence, and the command line prints it and exits with status 1.  ``XenError`` is what a hypercall fails with: it is
raised anywhere inside ``xen/`` and becomes ``-errno`` in one place (xen/hypercall.py).  Numbers:
xen/include/public/errno.h, which are Linux's.
"""

import errno


class XenfastError(Exception):
    """What the user asked for cannot be done; the text says why in one sentence."""


class XenError(Exception):
    """A hypercall's failure.

    ``errno`` is positive, as in errno.h (or a GNTST_* status for grant operations, which is negative).
    """

    def __init__(self, number: int, text: str = "") -> None:
        name = errno.errorcode.get(number, str(number))
        super().__init__(f"{name}: {text}" if text else name)
        self.errno = number
