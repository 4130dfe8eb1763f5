"""Adds up receipts by category."""

__version__ = "0.2.0"
