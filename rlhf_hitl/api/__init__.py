"""The web server: the API for programs, signing in, and what the pages in `ui/` are mounted on.

Start at `app.py`, which assembles everything. A request passes `metrics.py` (id, log line, metrics) and `security.py`
(headers, body limit), then goes to one of:

- the API under `/api/v1`: `v1.py` assembles it of the `operations/` of each scope, whose JSON is in `bodies/`;
  `scoped_routes.py` registers an operation together with its access check; errors become `problems.py`;
  `predictor.py` keeps the reward model that `/predictions` asks;
- `sign_in.py` and `sign_in_throttle.py`;
- `health.py` and `static_files.py`;
- a page, behind the `PageGuard` of `page_guard.py`. `auth.py` says who sends a request and what they may do.
"""
