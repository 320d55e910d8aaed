"""AI judges: models that vote beside people, through the same queue, and are measured like people.

Start with `judging.py`, the loop. `templates.py` makes the question, `endpoint.py` and `local.py` ask it, `budget.py`
stops what would cost too much, `measuring.py` compares a judge with people.
"""
