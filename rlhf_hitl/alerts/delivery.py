"""Tell leads of alerts: in the log, and by mail. Webhooks are told by the store, in the same transaction."""

from __future__ import annotations

import logging
import smtplib
import ssl
from collections.abc import Iterable
from email.message import EmailMessage

from rlhf_hitl.alerts.config import Email
from rlhf_hitl.store import Store
from rlhf_hitl.store.alerts import Alert, claim_email, list_unsent, release_email
from rlhf_hitl.visible import make_all_visible

TIMEOUT = 10.0  # seconds for each answer of the mail server

log = logging.getLogger("rlhf_hitl.alerts")


def log_alerts(new: Iterable[Alert]) -> None:
    for alert in new:
        log.warning("alert %s: %s", alert.rule, make_all_visible(alert.message))


def mail_alerts(store: Store, email: Email) -> int:
    """Mail every alert that stands and was not mailed, in one mail; returns how many it tells of.

    One that cannot be sent is tried again the next time. A process that is killed while it sends loses its mail.
    """
    mine = [alert for alert in list_unsent(store) if claim_email(store, alert.seq)]
    if not mine:
        return 0
    try:
        _send(email, _write_mail(email, mine))
    except (OSError, smtplib.SMTPException) as e:
        for alert in mine:
            release_email(store, alert.seq)
        log.error("alerts cannot be mailed by %s:%s: %s", email.host, email.port, type(e).__name__)
        return 0
    return len(mine)


def _write_mail(email: Email, alerts: list[Alert]) -> EmailMessage:
    mail = EmailMessage()
    mail["From"], mail["To"] = email.sender, ", ".join(email.to)
    names = ", ".join(dict.fromkeys(alert.rule.replace("_", " ") for alert in alerts))
    mail["Subject"] = f"rlhf_hitl: {names}"
    lines = [make_all_visible(f"{alert.message} ({alert.raised_at:%Y-%m-%d %H:%M} UTC)") for alert in alerts]
    mail.set_content("\n\n".join(lines) + "\n\nSee and silence them on /lead, or with `rlhf-hitl alerts list`.\n")
    return mail


def _send(email: Email, mail: EmailMessage) -> None:
    context = ssl.create_default_context()
    if email.security == "tls":
        server = smtplib.SMTP_SSL(email.host, email.port, timeout=TIMEOUT, context=context)
    else:
        server = smtplib.SMTP(email.host, email.port, timeout=TIMEOUT)
    with server:
        if email.security == "starttls":
            server.starttls(context=context)
        if email.user:
            server.login(email.user, email.password.get_secret_value())
        server.send_message(mail)
