"""From checkpoints to bundles. Needs the ``export`` extra; nothing at run time imports it."""
