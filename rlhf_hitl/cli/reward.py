"""Commands: reward."""
