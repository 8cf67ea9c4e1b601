"""The HTTP service: routes, errors and bounds; engines are behind ``serving.engine``."""
