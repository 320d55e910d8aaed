"""A row of an exported dataset, read and checked: a pair, or a ranking of K completions, in one form."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from rlhf_hitl.errors import BadInput
from rlhf_hitl.labels.vote_weight import weigh_votes
from rlhf_hitl.reward.rendering import Conversation
from rlhf_hitl.types import UNRANKED, Messages, hash_prompt_family, parse_messages, parse_tools
from rlhf_hitl.types.images import is_image_id
from rlhf_hitl.types.messages import identify_messages
from rlhf_hitl.wording import say_count


@dataclass(frozen=True)
class RankedPair:
    """Two conversations of one prompt, the shares (first better, tie, second better) of the votes, and how much they
    count."""

    first: Conversation
    second: Conversation
    shares: tuple[float, float, float]
    weight: float


@dataclass(frozen=True)
class CompletionRanking:
    """K conversations of one prompt and how raters ranked them. A pair is a ranking of two.

    Attributes:
        ranks: (V, K) the different rankings.
        shares: (V,) of the votes that each ranking has.
        weight: how much the votes count together.
        votes: how many votes there were.
    """

    chats: tuple[Conversation, ...]
    ranks: tuple[tuple[int, ...], ...]
    shares: tuple[float, ...]
    weight: float
    votes: int

    @property
    def family(self) -> str:
        """The prompt's family, see `types.hash_prompt_family`."""
        return hash_prompt_family(self.chats[0].prompt)

    def pairs(self) -> Iterator[RankedPair]:
        """Yield the pairs that at least one rater ranked, each with the weight of its votes (see `weigh_votes`)."""
        ranks, shares = np.array(self.ranks), np.array(self.shares)
        for i, j in combinations(range(len(self.chats)), 2):
            a, b = ranks[:, i], ranks[:, j]
            ranked = (a != UNRANKED) & (b != UNRANKED)
            share = shares[ranked].sum()
            if share > 0:
                won, tied, lost = (shares[ranked & outcome].sum() / share for outcome in (a < b, a == b, a > b))
                weight = weigh_votes(self.weight * share, len(self.chats))
                yield RankedPair(self.chats[i], self.chats[j], (float(won), float(tied), float(lost)), float(weight))


def read_ranking(row: Any) -> CompletionRanking:
    """Read a row of pairs or of rankings.

    Raises:
        BadInput: messages, tools, images, shares, a weight or a ranking that are not valid, or fewer than two
            completions.
    """
    chats = _read_conversations(row)
    if "rankings" not in row:
        shares = read_weighted_shares(row)
        outcomes = [(ranks, share) for ranks, share in zip(((0, 1), (0, 0), (1, 0)), shares) if share > 0]
        return CompletionRanking(chats, *zip(*outcomes), read_weight(row), _read_votes(row))  # type: ignore[arg-type]
    rankings = row["rankings"]
    if len(chats) < 2:
        raise BadInput(
            f"a ranking of {say_count(len(chats), 'completion')}",
            expected="2 or more",
            fix="leave the row out, or make the dataset with `rlhf-hitl export`",
        )
    if not rankings:
        raise BadInput("rankings []", expected="one ranking or more", fix="leave the row out")
    # Sorted, so that the same votes are the same label in whatever order they came.
    weights = _read_weights(row, len(rankings))
    votes: dict[tuple[int, ...], float] = {}
    for ranks, weight in sorted(zip((_read_ranks(ranking, len(chats)) for ranking in rankings), weights)):
        votes[ranks] = votes.get(ranks, 0.0) + weight
    total = sum(votes.values())
    if not total:  # raters who are trusted with nothing: the row counts nothing
        votes, total = dict.fromkeys(votes, 1.0), float(len(votes))
    ranked = [k for k in range(len(chats)) if any(ranks[k] != UNRANKED for ranks in votes)]
    return CompletionRanking(
        tuple(chats[k] for k in ranked),
        tuple(tuple(ranks[k] for k in ranked) for ranks in votes),
        tuple(n / total for n in votes.values()),
        read_weight(row, total),
        len(rankings),
    )


def read_prompt(row: Any) -> Messages:
    """Return the prompt of a row, with its images."""
    return _read_chats(row, [row["prompt"]], may_leave_images=True)[0]


def _read_conversations(row: Any) -> tuple[Conversation, ...]:
    """Return the conversations of a row: messages, with the images of its column `images` in their places, and tools.

    The images of a row stand in the order of their places: prompt, chosen, rejected, or prompt and completions.
    """
    sides = (row["completions"] or ()) if "rankings" in row else (row["chosen"], row["rejected"])
    prompt, *completions = _read_chats(row, [row["prompt"], *sides])
    tools = parse_tools(row.get("tools"))
    return tuple(Conversation(prompt, completion, tools) for completion in completions)


def _read_chats(row: Any, chats: Sequence[Any], *, may_leave_images: bool = False) -> list[Messages]:
    given = row.get("images")
    if given is None and row.get("image") is not None:
        given = [row["image"]]  # TRL's other name
    images = iter(given or ())
    read = [parse_messages(_fill_in_images(chat, images)) for chat in chats]
    if not may_leave_images and (left := sum(1 for _ in images)):
        raise BadInput(
            f"images: {left} more than places for them",
            expected='one part {"type": "image"} for each image, in order',
            fix="make the dataset with `rlhf-hitl export`",
        )
    return read


def _fill_in_images(chat: Any, images: Iterator[Any]) -> Any:
    """Return messages with the next images of their row where their parts say only that there is one."""
    return [_fill_in_message(message, images) for message in chat] if isinstance(chat, list) else chat


def _fill_in_message(message: Any, images: Iterator[Any]) -> Any:
    content = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(content, list):
        return message
    parts = []
    for part in content:
        if isinstance(part, Mapping) and part.get("type") == "image" and not _holds_image(part):
            if (image := next(images, None)) is None:
                raise BadInput(
                    "images: fewer than places for them",
                    expected='one image for each part {"type": "image"}',
                    fix="make the dataset with `rlhf-hitl export`",
                )
            part = {"type": "image", "image": image, "alt": part.get("alt")}
        parts.append(part)
    return {**message, "content": parts}


def _holds_image(part: Mapping[str, Any]) -> bool:
    image = part.get("image")
    # Of an id alone nobody could make the image.
    return image is not None and not (isinstance(image, str) and is_image_id(image))


def read_shares(row: Any) -> tuple[float, float, float]:
    """Return the shares (chosen better, tie, rejected better) of the votes: those exported, else one vote for chosen.

    Raises:
        BadInput: shares that are not probabilities.
    """
    if "p_chosen" not in row:
        return 1.0, 0.0, 0.0
    chosen, tie = row["p_chosen"], row.get("p_tie", 0.0)
    are_numbers = all(isinstance(share, float | int) for share in (chosen, tie))
    rejected = row.get("p_rejected", 1 - chosen - tie) if are_numbers else None
    if not (
        isinstance(rejected, float | int)
        and min(chosen, tie, rejected) > -1e-6
        and abs(chosen + tie + rejected - 1) < 1e-6
    ):
        raise BadInput(
            f"p_chosen {chosen}, p_tie {tie}, p_rejected {rejected}",
            expected="three shares that sum to 1",
            fix="make the dataset with `rlhf-hitl export`, or leave the columns out",
        )
    return chosen, tie, rejected


def read_weighted_shares(row: Any) -> tuple[float, float, float]:
    """Return the shares of the votes with each worth what its rater is trusted with, where a row has them: a model
    learns from these. `p_chosen` and so on may be drawn towards what pairs are like on the whole, and a model that has
    a prior of its own, or stops early, would shrink them twice.

    Raises:
        BadInput: numbers that are not votes, or shares that are not probabilities.
    """
    votes = [row.get(name) for name in ("w_chosen", "w_tie", "w_rejected")]
    if votes == [None] * 3:
        return read_shares(row)
    if not all(isinstance(n, float | int) and math.isfinite(n) and n >= 0 for n in votes):
        raise BadInput(
            "w_chosen {}, w_tie {}, w_rejected {}".format(*votes),
            expected="three numbers, 0 or more",
            fix="make the dataset with `rlhf-hitl export`, or leave the columns out",
        )
    total = sum(votes)
    return (votes[0] / total, votes[1] / total, votes[2] / total) if total else read_shares(row)


def _read_weights(row: Any, n: int) -> list[float]:
    """Return what each of n rankings is worth: the column `weights`, or 1 each without it."""
    weights = row.get("weights")
    if weights is None:
        return [1.0] * n
    if len(weights) != n or not all(isinstance(w, float | int) and math.isfinite(w) and w >= 0 for w in weights):
        raise BadInput(
            f"weights {str(weights)[:80]}",
            expected=f"{say_count(n, 'number')}, 0 or more, one for each ranking",
            fix="make the dataset with `rlhf-hitl export`, or leave the column out",
        )
    return [float(w) for w in weights]


def read_weight(row: Any, default: float = 1.0) -> float:
    """Return how much a label counts: the column `weight`, or `default` without it.

    Raises:
        BadInput: the weight is not a finite number, 0 or more.
    """
    value = row.get("weight", default)
    if not (isinstance(value, float | int) and math.isfinite(value) and value >= 0):
        raise BadInput(f"weight {value}", expected="a number, 0 or more", fix="correct or leave out the column")
    return float(value)


def hash_rows(rows: Sequence[CompletionRanking]) -> str:
    """Return a hash that identifies training data: the same texts with the same labels, in any order."""
    digests = sorted(hashlib.sha256(_describe_for_hash(row).encode()).digest() for row in rows)
    return "sha256:" + hashlib.sha256(b"".join(digests)).hexdigest()


def _describe_for_hash(row: CompletionRanking) -> str:
    # Model cards keep hashes of this text, so it must not change.
    chats = ", ".join(map(_describe_conversation, row.chats))
    fields = f"chats=({chats}), ranks={row.ranks!r}, shares={row.shares!r}, weight={row.weight!r}"
    return f"Ranked({fields}, votes={row.votes!r})"


def _describe_conversation(chat: Conversation) -> str:
    tools = f", {[tool.as_json for tool in chat.tools]!r}" if chat.tools else ""
    return f"({_describe_messages(chat.prompt)}, {_describe_messages(chat.completion)}{tools})"


def _describe_messages(messages: Messages) -> str:
    described = [
        f"Message(role={m.role!r}, content={m.content!r})" if m.is_plain else repr(identify_messages((m,))[0])
        for m in messages
    ]
    return f"({', '.join(described)}{',' if len(described) == 1 else ''})"


def _read_ranks(ranking: Any, n: int) -> tuple[int, ...]:
    """Return a ranking of n completions. Raises BadInput where it is not valid."""
    ranks = tuple(ranking) if isinstance(ranking, list) else ()
    ranked = [rank for rank in ranks if rank != UNRANKED]
    is_complete = len(ranks) == n and all(type(rank) is int for rank in ranks)
    if not is_complete or len(ranked) < 2 or set(ranked) != set(range(len(set(ranked)))):
        raise BadInput(
            f"ranking {str(ranking)[:80]} of {n} completions",
            expected=f"{n} ranks, two or more from 0 for the best up without a gap, {UNRANKED} for the rest",
            fix="correct it, or make the dataset with `rlhf-hitl export`",
        )
    return ranks


def _read_votes(row: Any) -> int:
    """Return how many votes a label of a pair has: the column `votes`, or 1 without it."""
    n = row.get("votes", 1)
    if not (isinstance(n, int) and n >= 0):
        raise BadInput(f"votes {n!r}", expected="a whole number, 0 or more", fix="correct or leave out the column")
    return n
