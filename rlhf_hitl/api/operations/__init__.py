"""The operations of the API: one module for each scope, named after it.

Each module registers its operations with `add_operations(routes, ...)`, where `routes` is bound to the scope
(`rlhf_hitl/api/scoped_routes.py`). A handler loads what is named and calls one function of the layers below; the JSON
it reads and writes is in the module of the same name in `rlhf_hitl/api/bodies/`. `shared` holds what several take.
"""
