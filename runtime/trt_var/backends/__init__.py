"""What runs the graphs: one seam, and one module or room an engine kind."""
