"""Onlooker watches coding agents work and remembers what they saw."""

__version__ = "0.1.0"
