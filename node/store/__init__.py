"""What the node remembers: tables with their invariants, the database that holds them, and the queries on it.

`database` opens, migrates and hands out transactions; `catalogue` knows studies, series, instances and
decisions; `results` knows what inference made and what destinations answered; `files` keeps the bytes.
"""
