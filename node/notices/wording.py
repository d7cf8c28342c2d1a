"""What a notice says: its reference, and of the study, the findings and the patient only what is configured. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Any

TITLES = {
    "study_instance_uid": "Study Instance UID",
    "model": "Model",
    "findings": "Finding",
    "accession_number": "Accession number",
    "patient_id": "Patient ID",
    "patient_name": "Patient",
    "birth_date": "Date of birth",
    "sex": "Sex",
}


@dataclass(frozen=True)
class Words:
    """One notice to one recipient. `standing` is what may be done with the result; `facts` are by the names of
    `notices.say`; `link` is empty when there is none."""

    reference: str
    standing: str
    facts: Mapping[str, str]
    link: str
    is_repeated: bool


def as_mail(words: Words, sender: str, address: str, message_id: str) -> EmailMessage:
    """A mail in plain text; nothing of `facts` is in its subject or headers."""
    mail = EmailMessage()
    mail["From"], mail["To"] = sender, address
    again = " (again)" if words.is_repeated else ""
    mail["Subject"] = f"Critical AI result {words.reference}{again}"
    mail["Message-ID"] = message_id
    mail["Auto-Submitted"] = "auto-generated"
    mail["Importance"] = "high"
    lines = ["A critical result waits for you.", "", f"Reference: {words.reference}"]
    lines += [f"{TITLES[name]}: {value}" for name, value in words.facts.items() if value]
    lines += ["", "Look at the study now, then say that you know:"]
    lines += [words.link] if words.link else []
    lines += [f"{'or on the node: ' if words.link else ''}overread notices acknowledge {words.reference} --by NAME"]
    mail.set_content("\n".join([*lines, "", words.standing, ""]))
    return mail


def as_json(words: Words) -> dict[str, Any]:
    """What a webhook is told."""
    return {
        "event": "critical-result",
        "reference": words.reference,
        "again": words.is_repeated,
        "acknowledge_url": words.link or None,
        "caution": words.standing,
        **{name: value for name, value in words.facts.items() if value},
    }
