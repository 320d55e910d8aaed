"""The reward model: one rendering and one scoring function for everything that needs the reward of an answer.

A reward model is a backbone that turns a conversation into features, and a head that turns features into a reward with
an uncertainty. The backends differ only in who trained the backbone: nobody (`head`), TRL (`full`), or somebody
elsewhere (`classifier`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from rlhf_hitl.errors import BadInput, NotFound
from rlhf_hitl.files import atomic_file, make_private_folder
from rlhf_hitl.models import get_display_name
from rlhf_hitl.reward import CARD_FILE, HEAD_FILE
from rlhf_hitl.reward.backbone import Backbone
from rlhf_hitl.reward.feature_cache import FeatureCache
from rlhf_hitl.reward.head import Head
from rlhf_hitl.reward.model_card import write_card
from rlhf_hitl.reward.novelty import Novelty, join_pair
from rlhf_hitl.reward.readability import Unreadable
from rlhf_hitl.reward.rendering import Conversation, list_conversations, measure_completion_lengths
from rlhf_hitl.reward.seen_prompts import SeenPrompts
from rlhf_hitl.reward.standardiser import Standardiser
from rlhf_hitl.reward.style import is_mostly_style, measure_style
from rlhf_hitl.store.witness import PairProbabilities
from rlhf_hitl.types import Comparison, Score


class RewardModel:
    """Scores conversations. `reward.training` makes one, `load_reward_model` reads a saved one."""

    def __init__(self, cache: FeatureCache, standardiser: Standardiser, head: Head, *, backend: str, card: dict):
        self.cache, self.standardiser, self.head, self.backend, self.card = cache, standardiser, head, backend, card
        self.novelty: Novelty | None = None  # None: a model for which none was measured
        self.seen: SeenPrompts | None = None  # None: no record of the prompts it learnt from was kept

    @property
    def id(self) -> str:
        """A hash of all that the scores depend on: the same training and calibration give the same id."""
        digest = hashlib.sha256(self.cache.backbone.fingerprint.encode())
        for _, tensor in sorted(self._tensors().items()):
            digest.update(tensor.tobytes())
        return f"m_{digest.hexdigest()[:24]}"

    def inputs(self, chats: Sequence[Conversation], *, keep: bool = True) -> np.ndarray:
        """Return the head's inputs, (n, d)."""
        return self.standardiser(self.cache.features(chats, keep=keep), measure_completion_lengths(chats))

    def find_problem(self, chats: Sequence[Conversation]) -> Unreadable | None:
        """Return why the model cannot read answers to one prompt, or not tell them apart; None where it can."""
        return self.cache.backbone.renderer.find_problem(chats)

    def rewards(self, chats: Sequence[Conversation], *, keep: bool = True) -> np.ndarray:
        """Return rewards in logits, (n,) float32. `keep=False` does not write their features to disk (for rollouts).

        Raises:
            BadInput: a reward is not a finite number.
        """
        return self._require_finite(self.head.rewards(self.inputs(chats, keep=keep)), chats)

    @staticmethod
    def _require_finite(rewards: np.ndarray, chats: Sequence[Conversation]) -> np.ndarray:
        if not np.isfinite(rewards).all():
            at = int(np.flatnonzero(~np.isfinite(rewards))[0])
            text = " ".join(m.text for m in chats[at].completion)[:60]
            raise BadInput(f"reward {rewards[at]} of {text!r}", expected="a finite number", fix="train the model again")
        return rewards.astype(np.float32)

    def conservative_rewards(
        self,
        chats: Sequence[Conversation],
        k: float,
        references: Mapping[str, Sequence[Conversation]] | None = None,
        *,
        keep: bool = True,
    ) -> np.ndarray:
        """Return rewards less k times their uncertainty, (n,) float32 in logits.

        Only answers to one prompt were ever compared, so rewards are known up to a constant of each prompt, and the
        doubt about an answer is that about its margin. It is taken against the mean m of reference answers to its
        prompt, in the head's inputs x with the posterior's covariance S:

            reward(x) - k sqrt((x - m)' S (x - m))

        and, as for `margins`, with the doubt of what lies outside the axes that the head reads. Sources: an ensemble's
        mean less a multiple of its spread (Coste et al. 2023, "Reward model ensembles help mitigate overoptimization");
        the constant of each prompt (Eisenstein et al. 2023, "Helping or herding?", 3.1); the last layer's posterior,
        against a reference answer (Zhang et al. 2024, "Overcoming reward overoptimization via adversarial policy
        optimization with lightweight uncertainty estimation").

        Args:
            references: prompt id → reference answers. For a prompt without any, m is the mean training conversation;
                then the doubt about the prompt itself, which is the same for all its answers, is in it.
            keep: as of `rewards`. The features of references are kept.

        Raises:
            BadInput: as of `rewards`.
        """
        if not k:
            return self.rewards(chats, keep=keep)
        features = self.cache.features(chats, keep=keep)
        differences = self.standardiser(features, measure_completion_lengths(chats))
        rewards, unusual = self.head.rewards(differences), self._measure_novelty(features)
        ids, references = np.array([chat.prompt_id for chat in chats]), references or {}
        for prompt_id in dict.fromkeys(i for i in ids.tolist() if references.get(i)):
            of_prompt, answers = ids == prompt_id, references[prompt_id]
            theirs = self.cache.features(answers)
            differences[of_prompt] -= self.standardiser(theirs, measure_completion_lengths(answers)).mean(0)
            if unusual is not None and self.novelty is not None:
                unusual[of_prompt] = join_pair(unusual[of_prompt], self.novelty(theirs).mean())
        _, stds = self.head.margins(differences, unusual)
        return self._require_finite(rewards - k * self.head.uncertainties(stds, unusual), chats)

    def differences(self, first: Sequence[Conversation], second: Sequence[Conversation]) -> np.ndarray:
        """Return the head's inputs of the first conversations less those of the second, (n, d)."""
        both = [*first, *second]
        return self.standardiser.differences(self.cache.features(both), measure_completion_lengths(both))

    def margins(
        self, first: Sequence[Conversation], second: Sequence[Conversation]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return reward(first) - reward(second), its uncertainty and P(first preferred), each (n,)."""
        both = [*first, *second]
        features, n = self.cache.features(both), len(first)
        differences = self.standardiser.differences(features, measure_completion_lengths(both))
        novelty = self._measure_novelty(features)
        unusual = None if novelty is None else join_pair(novelty[:n], novelty[n:])
        margins, stds = self.head.margins(differences, unusual)
        return margins, self.head.uncertainties(stds, unusual), self.head.probabilities(margins, stds)

    def _measure_novelty(self, features: np.ndarray) -> np.ndarray | None:
        """Return how unlike the training prompts each conversation is, (n,); None where that was not measured."""
        return None if self.novelty is None else self.novelty(features)

    def find_mostly_style(self, comparisons: Sequence[Comparison], scores: Sequence[Score]) -> np.ndarray:
        """Return for which of its scores more than half of the margin goes with length and format, (n,) bool."""
        effects = self.head.style_effects
        if effects is None or not scores:
            return np.zeros(len(scores), bool)
        sides = [
            Conversation(c.prompt.messages, c.find_completion(i).messages)
            for c, s in zip(comparisons, scores)
            for i in (s.chosen, s.rejected)
        ]
        styles = measure_style(sides)
        return is_mostly_style(np.array([s.margin for s in scores]), styles[::2] - styles[1::2], effects)

    def score(self, comparisons: Iterable[Comparison]) -> Iterator[Score]:
        """Yield the score of each comparison. Memory does not grow with their number.

        Raises:
            Unreadable: completions that the model cannot read or not tell apart: `find_problem` says it before.
        """
        return (score for score, _ in self.score_and_predict(comparisons))

    def score_and_predict(self, comparisons: Iterable[Comparison]) -> Iterator[tuple[Score, list[PairProbabilities]]]:
        """Yield the score of each comparison, and what raters are expected to say of each of its pairs."""
        remaining, reward_model_id = iter(comparisons), self.id
        while chunk := list(islice(remaining, 512)):
            chats = [list_conversations(c) for c in chunk]
            for comparison, of_comparison in zip(chunk, chats):
                if problem := self.find_problem(of_comparison):
                    raise problem.about(f"comparison {comparison.id}")
            listed = [chat for of_comparison in chats for chat in of_comparison]
            features = self.cache.features(listed)
            inputs = self.standardiser(features, measure_completion_lengths(listed))
            novelty = self._measure_novelty(features)
            start = 0
            for comparison in chunk:
                stop = start + len(comparison.completions)
                of_these = None if novelty is None else novelty[start:stop]
                score = self._score(comparison, inputs[start:stop], of_these, reward_model_id)
                yield score, self._predict_pairs(comparison, inputs[start:stop], of_these)
                start = stop

    def _predict_pairs(
        self, comparison: Comparison, inputs: np.ndarray, novelty: np.ndarray | None
    ) -> list[PairProbabilities]:
        first, second = np.triu_indices(len(inputs), 1)  # completions stand in canonical order
        unusual = None if novelty is None else join_pair(novelty[first], novelty[second])
        p = self.head.outcome_probabilities(*self.head.margins(inputs[first] - inputs[second], unusual)).tolist()
        ids = [c.id for c in comparison.completions]
        return [
            PairProbabilities(comparison.id, ids[a], ids[b], (p_first, p_tie, p_second))
            for a, b, (p_first, p_tie, p_second) in zip(first, second, p)
        ]

    def _score(
        self, comparison: Comparison, inputs: np.ndarray, novelty: np.ndarray | None, reward_model_id: str
    ) -> Score:
        rewards = self.head.rewards(inputs)
        best, second = np.argsort(-rewards, kind="stable")[:2]
        unusual = None if novelty is None else join_pair(novelty[[best]], novelty[[second]])
        margin, std = self.head.margins((inputs[best] - inputs[second])[None], unusual)
        if not np.isfinite([*rewards, margin[0], std[0]]).all():
            raise BadInput(
                f"reward of comparison {comparison.id}", expected="a finite number", fix="train the reward model again"
            )
        ids = [c.id for c in comparison.completions]
        return Score(
            comparison_id=comparison.id,
            reward_model_id=reward_model_id,
            chosen=ids[best],
            rejected=ids[second],
            margin=float(margin[0]),
            uncertainty=float(self.head.uncertainties(std, unusual)[0]),
            probability=float(self.head.probabilities(margin, std)[0]),
            rewards={i: float(r) for i, r in zip(ids, rewards)},
        )

    def save(self, folder: Path) -> None:
        """Write the head and its card into a folder, each file atomically. A full model's backbone is there already."""
        make_private_folder(folder)
        with atomic_file(folder / HEAD_FILE) as draft:
            save_file(self._tensors(), draft)
        backbone = self.cache.backbone.settings
        # The name shown to people. The card of a full model names the model that it was trained from.
        base = {"base": get_display_name(backbone["name"])}
        if self.backend == "full":
            backbone |= {"name": "."}  # the backbone is in the same folder, wherever that is moved to
        computed = {"id": self.id, "backend": self.backend, "backbone": backbone}
        if self.seen is not None:
            self.seen.save(folder)
        write_card(folder, base | self.card | computed)

    def _tensors(self) -> dict[str, np.ndarray]:
        tensors = {
            "mean": self.standardiser.mean,
            "axes": self.standardiser.axes,
            "weights": self.head.weights,
            "covariance": self.head.covariance,
            "length": np.array([self.standardiser.length_mean, self.standardiser.length_std]),
            "temperature": np.array([self.head.temperature]),
            "precisions": np.array(self.head.precisions),
            "thresholds": np.array(self.head.thresholds),
            "mass": np.array([self.head.vote_weight]),
        }
        # Models of earlier versions have none of these, and keep their id.
        if self.novelty is not None:
            tensors |= {
                "novelty_mean": self.novelty.mean,
                "novelty_scale": self.novelty.scale,
                "novelty_axes": self.novelty.axes,
                "novelty_usual": np.array([self.novelty.usual]),
                "doubt": np.array([self.head.doubt, *self.head.usual_uncertainties]),
            }
        if self.head.length_slopes is not None:
            tensors["length_slopes"] = self.head.length_slopes
        if self.head.style_effects is not None:
            tensors["style_effects"] = self.head.style_effects
        return {k: np.ascontiguousarray(v, np.float64) for k, v in tensors.items()}


def load_reward_model(folder: Path | str, cache_folder: Path | None = None) -> RewardModel:
    """Load a saved reward model. Features go to `cache_folder`, by default `features/` beside the model's folder.

    Raises:
        NotFound: the folder holds no reward model.
        BadInput: the model is damaged, or its backbone is not the one it was trained on.
    """
    folder = Path(folder)
    if not (folder / CARD_FILE).is_file():
        raise NotFound(
            f"reward model {folder}",
            expected=f"a folder with {CARD_FILE}",
            fix="train one with `rlhf-hitl train-reward`",
        )
    try:
        card = json.loads((folder / CARD_FILE).read_text())
        tensors = load_file(folder / HEAD_FILE)
        settings, backend, saved_id = dict(card["backbone"]), str(card["backend"]), str(card["id"])
        standardiser = Standardiser(tensors["mean"], tensors["axes"], *tensors["length"].tolist())
        (temperature,), (vote_weight,) = tensors["temperature"].tolist(), tensors["mass"].tolist()
        precisions, thresholds = tuple(tensors["precisions"].tolist()), tuple(tensors["thresholds"].tolist())
        head = Head(tensors["weights"], tensors["covariance"], precisions, temperature, thresholds, vote_weight)
        head = replace(head, length_slopes=tensors.get("length_slopes"), style_effects=tensors.get("style_effects"))
        novelty = None
        if "novelty_usual" in tensors:
            parts = tensors["novelty_mean"], tensors["novelty_scale"], tensors["novelty_axes"]
            novelty = Novelty(*parts, *tensors["novelty_usual"].tolist())
            doubt, *usual = tensors["doubt"].tolist()
            head = replace(head, doubt=doubt, usual_uncertainties=tuple(usual))
    except (ValueError, LookupError, TypeError, FileNotFoundError, SafetensorError) as e:
        raise BadInput(
            f"reward model {folder}",
            expected=f"a whole {CARD_FILE} and {HEAD_FILE} of this version ({type(e).__name__}: {str(e)[:80]})",
            fix="train it again",
        ) from e
    if backend == "full":
        settings["name"] = str(folder)
    backbone = Backbone(**settings)
    if tensors["mean"].shape != (backbone.width,):
        raise BadInput(
            f"reward model {folder}",
            expected=f"a backbone with {len(tensors['mean'])} features, got {backbone.width} from {settings['name']}",
            fix="give the backbone it was trained on",
        )
    cache = FeatureCache(cache_folder or folder.parent / "features", backbone)
    model = RewardModel(cache, standardiser, head, backend=backend, card=card)
    model.novelty = novelty
    if model.id != saved_id:
        raise BadInput(
            f"reward model {folder} with backbone {settings['name']}",
            expected="the backbone it was trained on: this one has other weights, settings or chat template",
            fix="put the backbone back, or train again on this one",
        )
    model.seen = SeenPrompts.load(folder)
    return model
