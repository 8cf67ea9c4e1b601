"""The command line. Commands import what they need when they run, so that it starts in under 0.1 s."""
