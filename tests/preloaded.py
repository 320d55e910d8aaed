"""What processes of the fork server have imported when they start: nearly all that a command or a training imports."""

from importlib import import_module

from rlhf_hitl.cli import register_commands

MODULES = (
    *("rlhf_hitl.api.app", "rlhf_hitl.ui.rate", "rlhf_hitl.reward.training.full_training", "rlhf_hitl.policy.dpo"),
    *("rlhf_hitl.policy.online", "rlhf_hitl.policy.promotion", "rlhf_hitl.policy.generation_run", "rlhf_hitl.kpis"),
    *("rlhf_hitl.loop", "rlhf_hitl.policy.ppo.trainer", "rlhf_hitl.reward.training.head_training"),
    *("rlhf_hitl.reward.evaluation.evaluate", "rlhf_hitl.routing.router", "rlhf_hitl.routing.scoring"),
    *("rlhf_hitl.simulate", "rlhf_hitl.labels.fitting", "rlhf_hitl.formats.importing", "rlhf_hitl.formats.export"),
    *("transformers.models.llama.modeling_llama", "sklearn.linear_model", "sklearn.feature_extraction.text"),
    *("matplotlib.figure", "pandas", "scipy.stats", "crowdkit.aggregation", "cleanlab.multiannotator"),
)

register_commands()
for name in MODULES:
    import_module(name)
