"""Commands that serve, and that measure what is served."""
