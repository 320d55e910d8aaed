"""The pages, mounted through Gradio. They show what the layers below return and call them; they hold no rules.

Start with `pages.py`, which mounts a page. `rate.py` and `rating_service.py` are the rating page, whose browser side is
`assets/rate/rate.js`. `dashboard.py` is what `lead.py`, `people.py` and `replay.py` share. `rendering.py` draws
untrusted text within a budget of time, by `markdown.py`.
"""

#: Stored with each judgment: the version of the page it was given on. Raise it when what a rater sees or can answer
#: changes.
INTERFACE_VERSION = "rate-2"
