"""The command line aim-runtime."""
