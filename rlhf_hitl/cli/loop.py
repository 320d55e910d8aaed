"""Commands: loop."""
