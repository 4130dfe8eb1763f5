"""Queues: the contract, and one module per engine. A lane is a named queue; a claim is a lease on a message."""
