"""`python -m openwright` is the console script `openwright`."""

from openwright.cli import main

if __name__ == "__main__":
    main()
