"""What a caller holds: requests, checked, and their results."""
