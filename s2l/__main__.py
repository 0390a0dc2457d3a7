"""`python -m s2l`: the command line."""

import sys

if __name__ == "__main__":
    try:
        from s2l.cli import main

        sys.exit(main())
    except KeyboardInterrupt:  # while the command line itself was loading
        sys.exit(130)
