"""What is traced, how, and how it is checked."""
