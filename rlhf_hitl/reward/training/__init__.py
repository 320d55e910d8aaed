"""Training reward models: labels in, a `RewardModel` out. Start with `train.py` (head) and `full.py` (whole model)."""
