"""`python -m gripproxy` is the `gripproxy` command."""

import sys

from gripproxy.cli import main

if __name__ == "__main__":
    sys.exit(main())
