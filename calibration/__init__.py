"""INT8 calibration on the decoding chain; not built yet."""
