"""The reward model: text in, a reward with an uncertainty out.

Start with `model.py`: a `RewardModel` renders conversations (`rendering`), reads their features from a frozen language
model (`backbone`, kept on disk by `feature_cache` and `feature_store`) and scores them with a Bayesian `head`.

- Text to features: `rendering`, `batching`, `shared_prefix` (compute a shared prompt once), `pretrained`, `backbone`,
  `extractor` (runs the model) with `fused_decoder` (on a CPU), `feature_store`, `feature_cache`.
- Features to rewards: `standardiser`, `vote_scale`, `head`, `head_fitting`, `losses`.
- The model and what is recorded about it: `model`, `classifier`, `seen_prompts`, `evaluation_record`, `model_card`,
  `registry`, and the `labelled_pairs` of a store.

`training/` makes reward models and `evaluation/` measures them. Both import from here, never the other way round, and
not from each other.
"""

#: The most tokens of a conversation unless another limit is set: longer prompts are cut from the left.
DEFAULT_MAX_TOKENS = 1024

#: The files in the folder of every saved reward model: its card for programs, and its head.
CARD_FILE, HEAD_FILE = "reward_model.json", "reward_head.safetensors"
