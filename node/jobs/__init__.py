"""Work that waits, runs once, is tried again, and leaves a history: one table for inference and delivery.

`state` is the machine, `retry` decides about another attempt, `queue` and `lease` are the statements on the table,
`history` what operators read of it, `completion` the transaction that ends an inference, `worker` the loop
around a handler, `wake` what makes polling unnecessary.
"""
