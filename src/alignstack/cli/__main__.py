"""`python -m alignstack.cli` is the `alignstack` command."""

from alignstack.cli import main

if __name__ == "__main__":
    main()
