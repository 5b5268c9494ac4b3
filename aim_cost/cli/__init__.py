"""The command line aim-cost."""
