"""The policy: sampling its completions and tuning it.

Sampling starts in `generation.py` (`sample_completions`), which plans `completion_jobs.py`, draws tokens with
`token_sampling.py` as `sampling.py` says, and whose completions `sampled_comparisons.py` groups into comparisons.
DPO is `dpo_pairs.py` (which pairs: `human_pairs.py` and `model_pairs.py`), `dpo.py` (training with TRL) and
`dpo_rounds.py`. RLOO and GRPO start in `online.py`; `online_rewards.py` is what TRL calls. PPO is the package `ppo/`,
which starts in its `trainer.py`. All share `training.py`, `rewards.py`, `tuning_watch.py` and, with TRL,
`trl_training.py`; `policy_folder.py` writes the tuned policy, `before_after.py` samples from it, and `lineage.py` tells
the store.
"""
