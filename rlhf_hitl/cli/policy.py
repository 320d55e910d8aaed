"""Commands: policy."""
