"""`python -m temper.cli`: the same as the `temper` command."""

from temper.cli import main

main()
