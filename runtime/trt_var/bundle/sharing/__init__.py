"""Giving a bundle to others: its model card, and putting it on the hub."""
