"""A bundle: what its manifest says, opening and checking it, and what follows from the manifest alone."""
