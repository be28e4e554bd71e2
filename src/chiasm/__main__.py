"""`python -m chiasm`: the command line."""

from chiasm.cli import run

if __name__ == "__main__":
    run()
