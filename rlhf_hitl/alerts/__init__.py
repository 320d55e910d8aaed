"""Alerts: rules in YAML that say when a lead is needed, looked at by the server and by `rlhf-hitl alerts`.

Start with `keeper.py` (`look`): it counts audits, looks at the rules (`rules.py`, whose settings are `config.py`),
keeps what changed in the store, and tells leads (`delivery.py`).
"""
