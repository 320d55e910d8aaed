"""Training reward models: labels in, a `RewardModel` out.

Start with the three ways in, one for each backend:

- `head_training`: a head on a frozen model, in seconds. `vote_weight_choice` decides how much a vote counts;
  `head_update` takes in new votes without a refit, by what `learnt_votes` kept.
- `full_from_store` and `full_training`: the whole model or LoRA, with TRL. `full_config` (settings), `dataset_loading`,
  `dataset_rows` and `tokenised_rows` (an export, row by row), `trainable_classifier`, `collator`, `token_budget`,
  `label_trainer` (the loss), `lora`, `checkpoints` and `progress` are its parts.
- `classifier_adoption`: somebody else's classifier, calibrated on the labels of a store.

`training_labels` holds what the three share: the labels to train on and what the model card says of them.
"""

from typing import Literal

#: Where a head's uncertainty comes from: its Laplace posterior, or an ensemble of heads on resampled prompts.
UncertaintyMethod = Literal["laplace", "bootstrap"]
