"""Make comparisons of sampled completions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby

from rlhf_hitl.errors import BadInput
from rlhf_hitl.policy.sampling import Sampling
from rlhf_hitl.types import Comparison, Completion, Prompt
from rlhf_hitl.wording import say_count


def make_comparisons(
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    k: int = 2,
    overlap: int = 1,
    chosen: Mapping[str, Sequence[tuple[Completion, Completion]]] | None = None,
    policies: Sequence[str] = (),
) -> list[Comparison]:
    """Return comparisons of `k` completions for each of the prompts, as `group_completions` makes them.

    Args:
        policies: where there are two or more, their completions are compared with each other, as
            `group_across_policies` does.
        chosen: prompt id → pairs that are compared instead, as `routing.pairing` chooses them.
    """
    by_id = {p.id: p for p in prompts}
    comparisons = []
    for prompt_id, group in groupby(sorted(completions, key=lambda c: c.prompt_id), key=lambda c: c.prompt_id):
        prompt, pairs = by_id[prompt_id], (chosen or {}).get(prompt_id)
        if pairs is None and len(policies) > 1:
            comparisons += group_across_policies(prompt, list(group), len(policies), k, overlap)
        elif pairs is None:
            comparisons += group_completions(prompt, list(group), k, overlap)
        else:
            comparisons += [Comparison.create(prompt, pair, overlap) for pair in pairs]
    return comparisons


def require_enough_completions(samplings: Sequence[Sampling], policies: int, k: int) -> None:
    """Raise BadInput where not even a prompt with all its answers has a comparison of `k` of them.

    Args:
        samplings: of the completions of a prompt by each policy.
    """
    most = -(-k // policies)  # of one policy in a comparison: see `group_across_policies`
    completions = sum(s.count for s in samplings)
    different = sum(s.count if s.temperature > 0 else 1 for s in samplings)
    if policies * min(most, different) >= k:
        return
    if policies * min(most, completions) >= k:
        raise BadInput(
            f"--completions {completions} with --temperature 0",
            expected=f"{most} or more different answers of each policy to make a comparison of {k}",
            fix="give a --temperature above 0: at 0 a policy answers a prompt in one way",
        )
    raise BadInput(
        f"--completions {completions} with --k {k}",
        expected=f"{most} or more of each policy to make a comparison of {k}",
        fix=f"give --completions {most} or more, or a lower --k",
    )


def group_completions(
    prompt: Prompt, completions: Sequence[Completion], k: int = 2, overlap: int = 1
) -> list[Comparison]:
    """Return comparisons of `k` different completions of one prompt.

    Each completion is in one comparison; a few are in two where that fills the last one. The hash of their texts
    decides which are compared, so the grouping is random and the same every time.

    Raises:
        BadInput: `k` is below 2.
    """
    if k < 2:
        raise BadInput(f"{say_count(k, 'completion')} a comparison", expected="2 or more", fix="compare at least two")
    distinct = sorted({c.messages: c for c in completions}.values(), key=lambda c: c.id)
    if len(distinct) < k:
        return []
    total = -(-len(distinct) // k) * k
    padded = distinct + distinct[: total - len(distinct)]
    return [Comparison.create(prompt, padded[i : i + k], overlap) for i in range(0, total, k)]


def group_across_policies(
    prompt: Prompt, completions: Sequence[Completion], policies: int, k: int = 2, overlap: int = 1
) -> list[Comparison]:
    """Return comparisons of `k` different completions of one prompt by different policies.

    With as many policies as `k` or more, no comparison holds two completions of one policy; with fewer, each holds the
    same number of every policy, or one more. Every completion is compared, once where the others' number allows it: a
    policy that has fewer answers to the prompt is compared again. Equal answers of two policies are never compared
    with each other. A prompt that too few of the policies have answered has no comparison.

    Args:
        policies: how many there are, also those without an answer to this prompt.
    """
    if k < 2:
        raise BadInput(f"{say_count(k, 'completion')} a comparison", expected="2 or more", fix="compare at least two")
    # The hash of the texts decides, as in `group_completions`.
    answers: dict[str, list[Completion]] = {}
    for c in sorted({c.id: c for c in completions}.values(), key=lambda c: c.id):
        answers.setdefault(c.policy, []).append(c)
    if len(answers) < min(k, policies):
        return []
    unused = {c.id: c for of_policy in answers.values() for c in of_policy}
    uses: Counter[str] = Counter()
    made = []
    while unused:
        picked: list[Completion] = []
        for _ in range(k):
            times = Counter(c.policy for c in picked)
            texts = {c.messages for c in picked}
            left = Counter(c.policy for c in unused.values())
            most = -(-k // policies)
            fitting = [
                c
                for policy, of_policy in answers.items()
                if times[policy] < most
                for c in of_policy
                if c.messages not in texts and (picked or c.id in unused)
            ]
            if not fitting:
                break
            picked.append(min(fitting, key=lambda c: (times[c.policy], uses[c.id], -left[c.policy], c.id)))
        if len(picked) == k:
            made.append(Comparison.create(prompt, picked, overlap))
            uses.update(c.id for c in picked)
            for c in picked:
                unused.pop(c.id, None)
        else:
            unused.pop(picked[0].id)  # it has no partner
    return list({c.id: c for c in made}.values())
