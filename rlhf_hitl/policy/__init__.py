"""The policy: sampling its completions and tuning it.

Sampling starts in `generation.py` (`sample_completions`), which plans `completion_jobs.py`, draws tokens with
`token_sampling.py` as `sampling.py` says, and whose completions `sampled_comparisons.py` groups into comparisons.
DPO is `dpo_pairs.py` (which pairs) and `dpo.py` (training with TRL). PPO is the package `ppo/`, which starts in its
`trainer.py`. Both share `training.py` and write the tuned policy with `policy_folder.py`.
"""
