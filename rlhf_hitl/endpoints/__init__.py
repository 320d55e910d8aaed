"""OpenAI-compatible endpoints: asking one, what that costs, and its key. Judges and policies stand on it.

Start reading at `client.py`.
"""
