"""The Model Context Protocol: the operations that a model needs as tools, at `/v1/mcp`."""
