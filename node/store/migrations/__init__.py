"""Alembic environment: `versions/` leads from nothing to exactly the tables of `node.store.tables`."""
