"""INT8: activation ranges from the decoding chain itself, outliers migrated into the weights, explicit Q/DQ graphs."""
