"""The JSON that requests and responses of the API hold, one module for each scope.

`input`, `prediction`, `task`, `feedback` and `manage` hold the bodies of the operations of the same name in
`rlhf_hitl/api/operations/`; `messages` and `fields` hold what they share. Request bodies refuse unknown keys, and every
list and text has a maximum length. Class names are public: they are the schema names in `/api/v1/openapi.json`.
"""
