"""Commands that make bundles and engines."""
