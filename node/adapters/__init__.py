"""Contracts of model platforms: results in the form in which a platform collects them from a model. Off unless a
destination of their kind is configured."""
