"""Splits: which prompts train, which calibrate and which are held out."""

from __future__ import annotations

import hashlib
import unicodedata
from enum import StrEnum

from rlhf_hitl.types.messages import Messages


class Split(StrEnum):
    TRAIN = "train"
    CALIBRATION = "calibration"
    HELDOUT = "heldout"


#: Shares of the three splits, decided by the family's hash.
SPLIT_SHARES = {Split.TRAIN: 0.65, Split.CALIBRATION: 0.15, Split.HELDOUT: 0.2}


def hash_prompt_family(messages: Messages) -> str:
    """Return the hash of the opening user turn, ignoring case and spacing. Prompts of one family share a split.

    Images of that turn count: one question about two images is two families.

    A dialogue set holds many prompts that continue one opening. If they were in different splits, a held-out prompt's
    first turns (and often its answers) would be in training.
    """
    opening = next((m for m in messages if m.role == "user"), messages[0] if messages else None)
    if opening is None:
        return hashlib.sha256(b"").hexdigest()[:16]
    folded = " ".join(unicodedata.normalize("NFKC", opening.text).casefold().split())
    identity = "\n".join([folded, *(image.id for image in opening.images)])
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def split_for_family(family: str) -> Split:
    """Return the split of a family. It depends on the family's hash alone, so it is the same in every store."""
    u = int(hashlib.sha256(f"split:{family}".encode()).hexdigest()[:12], 16) / 16**12
    if u < SPLIT_SHARES[Split.HELDOUT]:
        return Split.HELDOUT
    if u < SPLIT_SHARES[Split.HELDOUT] + SPLIT_SHARES[Split.CALIBRATION]:
        return Split.CALIBRATION
    return Split.TRAIN
