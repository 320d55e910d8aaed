"""Files that come with the package: a guideline, a tutorial, and a set of prompts with completions (see README.md)."""
