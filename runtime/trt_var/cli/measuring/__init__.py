"""Commands that measure, judge and tell."""
