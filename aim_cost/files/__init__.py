"""Files: text that people write, read as it stands, and files that are written whole."""

from aim_cost.files.write import write_atomically

__all__ = ["write_atomically"]
