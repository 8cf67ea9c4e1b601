"""What every request passes: identity, keys, limits, logs and metrics."""
