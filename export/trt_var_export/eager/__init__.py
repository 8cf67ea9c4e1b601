"""Eager PyTorch doing what the published code does, to measure against."""
