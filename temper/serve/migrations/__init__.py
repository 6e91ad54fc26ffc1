"""How the tables came to be, a step a file (Alembic). `Store.migrate` runs them; `tables.py` says what they lead to."""

HEAD = "0001"
