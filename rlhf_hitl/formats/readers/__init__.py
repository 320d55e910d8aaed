"""Readers: one module for each outside format, and what several of them share.

- shared: `columns` (the usual names of columns, and what they hold), `questions` (labelling tools, where people name
  questions and answers themselves), `pair_ratings`, `ranks`, `argilla_records`.
- all others read the format of their name. `rlhf_hitl.formats.Format` says what such a module defines.
"""
