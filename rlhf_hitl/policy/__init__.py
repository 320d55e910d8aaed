"""The policy: sampling its completions and tuning it.

Sampling starts in `generation.py` (`sample_completions`) or, for several policies and after a kill, in
`generation_run.py`. Both go through `completing.py`, which plans `completion_jobs.py`, has them drawn, filters by
`loops.py` and `sampling_counts.py`, and keeps draws in the journal of `draws.py`. Drawers are `model_drawer.py` (whose
tokens come from `token_sampling.py` and `decoding.py`), `vllm_generation.py` and `endpoint_drawer.py`; `sources.py`
names what they draw from, and `completion_files.py` reads files instead. `sampled_comparisons.py` makes comparisons.
DPO is `dpo_pairs.py` (which pairs) and `dpo.py` (training with TRL). PPO starts in `ppo.py`; its parts are
`ppo_rollouts.py`, `ppo_update.py`, `ppo_checkpoints.py`, `actor_critic.py`, and the formulas in `ppo_math.py`.
Both share `training.py` and write the tuned policy with `policy_folder.py`.
"""
