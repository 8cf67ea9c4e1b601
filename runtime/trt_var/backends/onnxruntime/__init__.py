"""ONNX Runtime: its CPU provider, and its CUDA provider for NVIDIA GPUs."""
