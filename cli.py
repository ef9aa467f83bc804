"""The command line from a checkout: `python cli.py VERB …`; installed it is `dust2gold VERB …`."""

import sys

from dust2gold.cli import main

if __name__ == "__main__":
    sys.exit(main())
