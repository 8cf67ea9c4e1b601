"""Measuring times and memory, reporting them, and choosing by them."""
