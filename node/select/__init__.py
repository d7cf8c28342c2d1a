"""Which route, which model, which series: pure decisions, and every "no" with a reason that an operator can read."""
