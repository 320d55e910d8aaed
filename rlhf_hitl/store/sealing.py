"""Seals secrets that the store must be able to read again, so that a copy of the database alone gives none away.

Passwords and tokens are kept as hashes. The secret of a webhook signs every delivery, so it is kept itself: encrypted
(Fernet: AES-128-CBC with an HMAC-SHA256) under a key that is outside the database. The key is that of the setting
`RLHF_HITL_SECRET_KEY`, of the file at `RLHF_HITL_SECRET_KEY_FILE`, or else of a file that is made when it is first
needed: beside a SQLite store, `secret.key` in the workspace for PostgreSQL. All servers of a store need the same key.

Several keys may be given, separated by white space: the first seals, all unseal. So a key is replaced by writing a new
one in front of it and renewing what the old one sealed.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
from contextlib import suppress
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from rlhf_hitl.config import load_settings
from rlhf_hitl.errors import BadInput
from rlhf_hitl.files import (
    DRAFT_SUFFIX,
    is_open_to_others,
    make_private,
    make_private_file,
    make_private_folder,
)

#: How a sealed secret begins: the mark, then the fingerprint of its key and the Fernet token, all separated by colons.
MARK = "sealed"


class Sealer:
    """Seals and unseals with the key of this installation, which is read or made when it is first needed.

    Args:
        key_file: where the key is where no setting says otherwise.
    """

    def __init__(self, key_file: Path):
        self._default_file = key_file
        self._lock = threading.Lock()
        self._keys: dict[str, Fernet] = {}

    def seal(self, secret: str) -> str:
        """Return the secret encrypted, with the fingerprint of the key.

        Raises:
            BadInput: the key cannot be used.
            OSError: there is no key yet, and its file cannot be written.
        """
        fingerprint, fernet = next(iter(self._load_keys(make=True).items()))
        return f"{MARK}:{fingerprint}:{fernet.encrypt(secret.encode()).decode()}"

    def unseal(self, sealed: str) -> str:
        """Return the secret that `seal` was given.

        Raises:
            BadInput: it was sealed with another key, or altered.
        """
        keys = self._load_keys(make=False)
        mark, _, rest = sealed.partition(":")
        fingerprint, _, token = rest.partition(":")
        if mark == MARK and fingerprint in keys:
            with suppress(InvalidToken):
                return keys[fingerprint].decrypt(token.encode()).decode()
        raise BadInput(
            f"a secret sealed with key {fingerprint[:16] or 'unknown'}",
            expected=f"that key; {self.describe_key()}",
            fix="copy the key file from where the store was, set RLHF_HITL_SECRET_KEY_FILE, or make a new secret "
            "with `rlhf-hitl webhooks renew`",
        )

    def can_unseal(self, sealed: str) -> bool:
        """Return whether the key that sealed a secret is here."""
        return sealed.split(":")[1:2] in [[fingerprint] for fingerprint in self._load_keys(make=False)]

    def describe_key(self) -> str:
        """Return which key this program has and where from, for people; never the key itself."""
        keys = self._load_keys(make=False)
        settings = load_settings()
        place = "RLHF_HITL_SECRET_KEY" if settings.secret_key else str(settings.secret_key_file or self._default_file)
        return f"this program has {', '.join(keys)} ({place})" if keys else f"this program has none at {place}"

    def _load_keys(self, *, make: bool) -> dict[str, Fernet]:
        """Return fingerprint → key, the one that seals first; empty where there is none and none is to be made."""
        with self._lock:
            if not self._keys:
                settings = load_settings()
                if settings.secret_key is not None:
                    self._keys = _parse_keys(settings.secret_key.get_secret_value(), "RLHF_HITL_SECRET_KEY")
                else:
                    file = settings.secret_key_file or self._default_file
                    if make and not file.exists():
                        _make_key_file(file)
                    self._keys = _read_key_file(file) if file.exists() else {}
            return self._keys


def _make_key_file(path: Path) -> None:
    """Write a new key to a file that is not there yet. Of several processes that do so at once, one succeeds."""
    make_private_folder(path.parent)
    draft = path.with_name(f".{path.name[:40]}.{secrets.token_hex(6)}{DRAFT_SUFFIX}")
    make_private_file(draft)
    try:
        with draft.open("wb") as f:
            f.write(Fernet.generate_key() + b"\n")
            f.flush()
            os.fsync(f.fileno())  # what a lost key sealed is lost too
        with suppress(FileExistsError):
            os.link(draft, path)  # unlike a rename it takes the place of nothing
    finally:
        draft.unlink()


def _read_key_file(path: Path) -> dict[str, Fernet]:
    if hasattr(os, "geteuid") and path.stat().st_uid not in (os.geteuid(), 0):
        raise BadInput(
            f"key file {path}", expected="one that belongs to you", fix="set RLHF_HITL_SECRET_KEY_FILE to your own"
        )
    if is_open_to_others(path):
        make_private(path)
    return _parse_keys(path.read_text(encoding="utf-8", errors="replace"), f"key file {path}")


def _parse_keys(text: str, place: str) -> dict[str, Fernet]:
    try:
        return {hashlib.sha256(key.encode()).hexdigest()[:8]: Fernet(key) for key in text.split()}
    except ValueError as e:
        raise BadInput(
            place, expected="keys of 32 bytes in URL-safe base64", fix="restore the key that made the secrets"
        ) from e
