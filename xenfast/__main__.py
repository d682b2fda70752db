"""``python -m xenfast`` is the command ``xenfast``."""

import sys

from xenfast.xl.main import main

if __name__ == "__main__":
    sys.exit(main())
