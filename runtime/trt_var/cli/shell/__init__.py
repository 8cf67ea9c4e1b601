"""What a shell has beside the commands: completion and a manual page, both made of the parsers."""
