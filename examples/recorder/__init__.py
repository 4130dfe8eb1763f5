"""Performs a written coding session for real and keeps what hooks and a transcript would have held."""
