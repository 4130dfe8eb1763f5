"""Every bench, one after the other: `make bench`. The quick ones; `docs/performance.md` names the long ones."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
QUICK = (
    ("server.py",),
    ("server.py", "--postgres"),
    ("server.py", "--postgres", "--redis"),
    ("hooks.py",),
    ("queues.py", "--quick"),
    ("redis_queues.py", "--quick"),
    ("end_to_end.py",),
    ("search.py", "--notes", "20000"),
    ("search.py", "--notes", "20000", "--postgres"),
)


def main() -> None:
    """Run them; the first that fails ends it."""
    for script, *arguments in QUICK:
        print(f"\n== bench/{script} {' '.join(arguments)}", flush=True)
        subprocess.run([sys.executable, str(HERE / script), *arguments], check=True)


if __name__ == "__main__":
    main()
