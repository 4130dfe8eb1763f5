"""`python3 -m tally FILE`."""

from tally.cli import main

raise SystemExit(main())
