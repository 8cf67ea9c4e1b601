"""The models in PyTorch, and how their shapes are read off a checkpoint."""
