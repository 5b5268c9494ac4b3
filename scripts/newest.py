"""The newest releases of what the project needs, its upper bounds aside.

``requirements``: one line a package, for pip. ``table``: what this environment has beside the lock.
"""

import re
import sys
from importlib.metadata import PackageNotFoundError, version

from lock import LOCK, requirements


def unbounded() -> list[str]:
    """The requirements without their upper bounds."""
    return [re.sub(r",?<=?[\w.]+", "", line) for line in requirements()]


def newer() -> list[tuple[str, str, str]]:
    """(package, locked, installed) of each package of the lock that is installed otherwise."""
    found = []
    for line in LOCK.read_text(encoding="utf-8").splitlines():
        locked = re.match(r"([\w.-]+)==([\w.+!]+)", line)
        if locked is None:
            continue
        try:
            here = version(locked[1])
        except PackageNotFoundError:
            continue
        found.append((locked[1], locked[2], here))
    several: dict[str, set[str]] = {}
    for name, lock, _ in found:
        several.setdefault(name, set()).add(lock)
    return sorted({row for row in found if row[2] not in several[row[0]]})


def main(what: str) -> int:
    """Print what is asked for; return the exit status."""
    if what == "requirements":
        print("\n".join(unbounded()))
        return 0
    rows = newer()
    print(f"{len(rows)} packages newer than the lock{':' if rows else '.'}")
    for name, locked, here in rows:
        print(f"  {name:30} {locked:>14} -> {here}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
