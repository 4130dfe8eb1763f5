"""The session, one module a turn: what was asked, said and done."""
