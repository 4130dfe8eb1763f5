"""What turns texts into vectors, for search by meaning."""
