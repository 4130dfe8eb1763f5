"""The queue in the database itself: nothing to install, one file or one Postgres for everything."""

from onlooker.queue.sql.engine import SqlQueue

__all__ = ["SqlQueue"]
