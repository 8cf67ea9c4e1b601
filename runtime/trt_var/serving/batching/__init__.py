"""Requests of many callers drawn in batches: the queue, how large a batch pays, which N the load bears."""
