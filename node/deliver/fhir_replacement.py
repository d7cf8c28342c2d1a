"""What a FHIR server is told of the results that a new one replaces. Pure.

The earlier DiagnosticReport and its Observations become entered-in-error, the only status by which a reader leaves out
what it has (R4 10.3.3.1: a status is a modifier element; `amended` and `corrected` are of reports that were final), and
the new report names the earlier one as what it replaces. They are updated under a condition (R4 3.1.0.4.3), which makes
them where there are none yet: a delivery of the earlier result that comes late, which only creates what is not there,
then changes nothing. So the order in which a server takes them does not matter.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from node.deliver.fhir import conditional_entry

REPLACES = "http://hl7.org/fhir/StructureDefinition/diagnosticReport-replaces"
WITHDRAWN = "Withdrawn: a later result of the same algorithm replaces it."
_STATUS = "entered-in-error"

Entry = Mapping[str, Any]
Bundle = dict[str, Any]


def withdraw(bundle: Bundle) -> list[Entry]:
    """The entries of an earlier result as they are from now on; its Provenance says how it came about, and stays."""
    withdrawn = {"Observation": _withdraw_observation, "DiagnosticReport": _withdraw_report}
    return [
        withdrawn.get(entry["resource"]["resourceType"], dict)(entry)
        for entry in bundle["entry"]
        if entry["resource"]["resourceType"] != "Provenance"
    ]


def withdraw_unread(identifier: str, model: str) -> list[Entry]:
    """The same of a result whose files are not here any more: its report, and nothing of what it said."""
    return [_withdraw_report(conditional_entry("DiagnosticReport", identifier, {"code": {"text": model}}))]


def replacing(bundle: Bundle, earlier: Sequence[Sequence[Entry]]) -> Bundle:
    """The transaction of a result that replaces others, of which `earlier` has the entries, the last of them first."""
    if not earlier:
        return bundle
    last = next(entry for entry in earlier[0] if entry["resource"]["resourceType"] == "DiagnosticReport")
    replaced = {"reference": last["fullUrl"]}
    entries = [_naming(entry, replaced) for entry in bundle["entry"]]
    once = {entry["fullUrl"]: entry for entry in (*(one for each in earlier for one in each), *entries)}
    return {**bundle, "entry": list(once.values())}


def _naming(entry: Entry, replaced: Mapping[str, str]) -> Entry:
    """The entry with what it replaces, where it is one that says so."""
    resource = entry["resource"]
    match resource["resourceType"]:
        case "DiagnosticReport":
            more: dict[str, Any] = {"extension": [{"url": REPLACES, "valueReference": replaced}]}
        case "Provenance":
            more = {"entity": [{"role": "revision", "what": replaced}]}
        case _:
            return entry
    return {**entry, "resource": {**resource, **more}}


def _withdraw_report(entry: Entry) -> Entry:
    said = entry["resource"].get("conclusion")
    return _updating(entry, {"conclusion": f"{WITHDRAWN}\n{said}" if said else WITHDRAWN})


def _withdraw_observation(entry: Entry) -> Entry:
    return _updating(entry, {"note": [{"text": WITHDRAWN}, *entry["resource"].get("note", [])]})


def _updating(entry: Entry, changes: Mapping[str, Any]) -> Entry:
    """An update under the condition under which the entry was created."""
    resource = {**entry["resource"], "status": _STATUS, **changes}
    url = f"{resource['resourceType']}?{entry['request']['ifNoneExist']}"
    return {**entry, "resource": resource, "request": {"method": "PUT", "url": url}}
