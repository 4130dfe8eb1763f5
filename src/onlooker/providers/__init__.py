"""Providers turn events into observations: the contract in `contract`, one module per provider."""
