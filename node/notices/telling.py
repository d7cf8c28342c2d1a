"""The two ways in which a recipient is told: a mail, and a POST of signed JSON."""

import json
import smtplib
import ssl
from contextlib import closing
from datetime import datetime
from pathlib import Path

from node.deliver.http import HttpPeer, read_secret
from node.deliver.webhook import sign
from node.destination_settings import HttpDestination
from node.errors import Permanent, Transient
from node.notice_settings import NoticeSettings, Recipient
from node.notices.wording import Words, as_json, as_mail

_TIMEOUT_SECONDS = 30.0
_LONGEST_NAME = 100


def tell(settings: NoticeSettings, recipient: Recipient, words: Words, identifier: str, now: datetime) -> str | None:
    """Tell one recipient; who acknowledged, if the answer of a webhook says so at once.

    `identifier` is the same when the same recipient is told the same thing again after a crash.

    Raises
    ------
    Transient, Permanent
        They could not be told; the message holds nothing of the notice.
    """
    if recipient.mail:
        _send_mail(settings, recipient, words, identifier)
        return None
    return _post(settings, recipient, words, identifier, now)


def signing_secret(settings: NoticeSettings) -> bytes:
    """The secret by which links and webhooks are signed; `Permanent` names its file."""
    return read_secret(Path(settings.secret_file), "notices.secret_file")


def _send_mail(settings: NoticeSettings, recipient: Recipient, words: Words, identifier: str) -> None:
    who = f"recipient {recipient.name!r}: mail server {settings.smtp_host}:{settings.smtp_port}"
    domain = settings.mail_from.rpartition("@")[2]
    mail = as_mail(words, settings.mail_from, recipient.mail, f"<{identifier}@{domain}>")
    try:
        with _connect(settings) as server:
            if settings.smtp_user:
                server.login(settings.smtp_user, _password(settings))
            server.send_message(mail)
    except smtplib.SMTPNotSupportedError:
        raise Permanent(f"{who} offers no STARTTLS or no login: see notices.smtp_security and smtp_user") from None
    except smtplib.SMTPAuthenticationError as error:
        raise Transient(f"{who} does not take our password (code {error.smtp_code}): renew it") from None
    except smtplib.SMTPResponseException as error:
        raise Transient(f"{who} answered code {error.smtp_code}") from None
    except smtplib.SMTPRecipientsRefused as error:
        codes = sorted({code for code, _ in error.recipients.values()})
        raise Transient(f"{who} refuses the address of the recipient (code {codes[0]}): correct it") from None
    except ssl.SSLCertVerificationError as error:
        raise Transient(f"{who}: its certificate is not trusted ({error.verify_message}): see smtp_ca_file") from None
    except (OSError, smtplib.SMTPException) as error:
        raise Transient(f"{who}: {getattr(error, 'strerror', None) or type(error).__name__}") from None


def _connect(settings: NoticeSettings) -> smtplib.SMTP:
    context = ssl.create_default_context(cafile=settings.smtp_ca_file or None)
    host, port = settings.smtp_host, settings.smtp_port
    if settings.smtp_security == "tls":
        return smtplib.SMTP_SSL(host, port, timeout=_TIMEOUT_SECONDS, context=context)
    server = smtplib.SMTP(host, port, timeout=_TIMEOUT_SECONDS)
    if settings.smtp_security == "starttls":
        try:
            server.starttls(context=context)
        except BaseException:
            server.close()
            raise
    return server


def _password(settings: NoticeSettings) -> str:
    try:
        return Path(settings.smtp_password_file).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise Permanent(
            f"notices.smtp_password_file {settings.smtp_password_file} cannot be read ({error.strerror})"
        ) from None


def _post(settings: NoticeSettings, recipient: Recipient, words: Words, identifier: str, now: datetime) -> str | None:
    peer = HttpPeer(
        HttpDestination(
            name=recipient.name,
            url=recipient.webhook,
            bearer_token_file=recipient.bearer_token_file,
            tls=recipient.tls,
        ),
        _TIMEOUT_SECONDS,
    )
    body = json.dumps(as_json(words)).encode("utf-8")
    headers = {
        "Content-Type": "application/json",
        "X-Overread-Delivery": identifier,
        "X-Overread-Signature": sign(body, signing_secret(settings), int(now.timestamp())),
    }
    with closing(peer):
        answer = peer.request("POST", "", headers=headers, make_content=lambda: body)
    if not 200 <= answer.status_code < 300:
        raise peer.problem(answer, "the notice", {})
    try:
        said = answer.json()
    except ValueError:
        return None
    name = said.get("acknowledged_by") if isinstance(said, dict) else None
    return str(name)[:_LONGEST_NAME] if name else None
