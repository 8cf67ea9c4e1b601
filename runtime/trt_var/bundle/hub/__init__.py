"""Bundles on the Hugging Face hub: their addresses, fetching them. Nothing here is imported where no address is given."""
