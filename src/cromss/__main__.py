"""`python -m cromss` is the command `cromss`."""

import sys

from cromss.cli import main

if __name__ == "__main__":
    sys.exit(main())
