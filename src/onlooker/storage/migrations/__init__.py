"""Migrations, oldest first. Each is explicit: it does not change when the tables' declaration does."""
