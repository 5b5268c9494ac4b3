"""``python -m aim_cost.cli``: the command line without an installed script."""

from aim_cost.cli.main import main

main()
