"""The policy: sampling its completions and tuning it.

Sampling starts in `generation_run.py`, also for several policies and after a kill. It goes through `completing.py`,
which plans `completion_jobs.py`, has them drawn, filters by `loops.py` and `sampling_counts.py`, and keeps draws in
the journal of `draws.py`. Drawers are `model_drawer.py` (whose tokens come from `token_sampling.py` and
`decoding.py`), `vllm_generation.py` and `endpoint_drawer.py`; `sources.py` names what they draw from, and
`completion_files.py` reads files instead. `sampled_comparisons.py` makes comparisons.
DPO is `dpo_pairs.py` (which pairs: `human_pairs.py` and `model_pairs.py`), `dpo.py` (training with TRL) and
`dpo_rounds.py`. RLOO and GRPO start in `online.py`; `online_rewards.py` is what TRL calls. PPO is the package `ppo/`,
which starts in its `trainer.py`. All share `training.py`, `rewards.py`, `tuning_watch.py` and, with TRL,
`trl_training.py`; `policy_folder.py` writes the tuned policy, `before_after.py` samples from it, and `lineage.py` tells
the store.
"""
