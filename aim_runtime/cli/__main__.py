"""``python -m aim_runtime.cli``: the command line without an installed script."""

from aim_runtime.cli.main import main

main()
