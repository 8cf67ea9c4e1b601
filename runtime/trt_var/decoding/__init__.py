"""The decoding loop, and what decides a token."""
