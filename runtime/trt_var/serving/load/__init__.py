"""An open-loop load generator for the service: what it offers, when, and what came back."""
