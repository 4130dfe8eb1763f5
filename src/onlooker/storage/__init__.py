"""The database: one source for SQLite and Postgres. Above it nothing knows SQLAlchemy, the SQL queue aside."""
