"""`python -m torchslots` is the command `torchslots`."""

import sys

from torchslots.cli import main

if __name__ == "__main__":
    sys.exit(main())
