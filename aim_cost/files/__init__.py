"""Files: text that people write, read as it stands, and files that are written whole."""

from aim_cost.files.write import make_folder, write_atomically

__all__ = ["make_folder", "write_atomically"]
