"""TensorRT 11 and TensorRT-RTX on a device."""
