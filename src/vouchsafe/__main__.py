"""`python -m vouchsafe` is the same as `vouchsafe`."""

from vouchsafe.cli import main

if __name__ == "__main__":
    main()
