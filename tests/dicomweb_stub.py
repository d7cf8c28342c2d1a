"""A DICOMweb server that enforces the rules of Azure Health Data Services, and misbehaves when told to.

STOW-RS, QIDO-RS and WADO-RS for what it has, OAuth2 client credentials with tokens that end. Rules: bearer token,
`Accept` and media types as required, parts of `application/dicom`, Explicit VR only, an instance that exists is refused
with 45070.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pydicom import dcmread
from pydicom.uid import ImplicitVRLittleEndian

from tests.http_stub import Answer, HttpStub, Request


@dataclass
class DicomwebStub:
    """`faults` are answers to the next STOW-RS requests, in order, instead of the right ones; `read_back` is the answer
    to every WADO-RS request, `found` the content of every one to QIDO-RS."""

    faults: list[Answer | Callable[[], Answer]] = field(default_factory=list)
    instances: dict[str, bytes] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    lose: set[str] = field(default_factory=set)
    tokens: int = 0
    token_uses: int = 1_000_000
    requests: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    tls: Any = None
    allows_anybody: bool = False
    read_back: Answer | None = None
    found: bytes | None = None

    def __enter__(self) -> "DicomwebStub":
        self.http = HttpStub(self._answer, self.tls).__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.__exit__()

    @property
    def url(self) -> str:
        return self.http.url

    def _answer(self, request: Request) -> Answer:
        if request.method == "POST":
            return self.post(request.path, request.headers, request.content)
        return self.get(request.path, request.headers)

    def post(self, path: str, headers: dict[str, str], content: bytes) -> Answer:
        self.requests.append(f"POST {path}")
        if path == "/token":
            return self._grant(parse_qs(content.decode()))
        if refused := self._unauthorized(headers):
            return refused
        if self.faults:
            fault = self.faults.pop(0)
            return fault() if callable(fault) else fault
        return self._store(headers, content)

    def get(self, path: str, headers: dict[str, str]) -> Answer:
        self.requests.append(f"GET {path}")
        if refused := self._unauthorized(headers):
            return refused
        place, query = urlsplit(path).path, parse_qs(urlsplit(path).query)
        if place.endswith("/instances"):
            if self.found is not None:
                return 200, {}, self.found
            wanted = query["SOPInstanceUID"][0]
            if wanted not in self.instances:
                return 204, {}, b""
            found = [{"00080018": {"vr": "UI", "Value": [wanted]}}]
            return 200, {"Content-Type": "application/dicom+json"}, json.dumps(found).encode()
        if "/instances/" in place and self.read_back is not None:
            return self.read_back
        if "/instances/" in place:
            stored = self.instances.get(place.rsplit("/", 1)[1])
            if stored is None:
                return 404, {}, b""
            content = b"--x\r\nContent-Type: application/dicom\r\n\r\n" + stored + b"\r\n--x--\r\n"
            return 200, {"Content-Type": 'multipart/related; type="application/dicom"; boundary=x'}, content
        return 200, {}, b"[]"

    def _grant(self, form: dict[str, list[str]]) -> Answer:
        wanted = {"grant_type": ["client_credentials"], "client_id": ["node"], "client_secret": ["s3cret"]}
        if {key: form.get(key) for key in wanted} != wanted or "scope" not in form:
            return 401, {}, b'{"error": "invalid_client"}'
        self.tokens += 1
        self._left = self.token_uses
        return 200, {}, json.dumps({"access_token": f"token-{self.tokens}", "expires_in": 3600}).encode()

    def _unauthorized(self, headers: dict[str, str]) -> Answer | None:
        given = headers.get("Authorization", "")
        if given == "Bearer fixed" or self.allows_anybody:
            return None
        if given == f"Bearer token-{self.tokens}" and self.tokens and self._left > 0:
            self._left -= 1
            return None
        return 401, {"WWW-Authenticate": "Bearer"}, b""

    def _store(self, headers: dict[str, str], content: bytes) -> Answer:
        media = headers.get("Content-Type", "")
        if not media.startswith('multipart/related; type="application/dicom"; boundary='):
            return 415, {}, b""
        if headers.get("Accept") != "application/dicom+json":
            return 406, {}, b""
        boundary = media.rsplit("=", 1)[1].encode()
        parts = content.split(b"--" + boundary)
        if parts[0] != b"" or parts[-1] != b"--\r\n" or len(parts) < 3:
            return 400, {}, b"not multipart"
        stored, failed = [], []
        for part in parts[1:-1]:
            head, _, encoded = part.partition(b"\r\n\r\n")
            if head != b"\r\nContent-Type: application/dicom" or not encoded.endswith(b"\r\n"):
                return 400, {}, b"bad part"
            encoded = encoded[:-2]
            read = dcmread(BytesIO(encoded), stop_before_pixels=True)
            uid = str(read.SOPInstanceUID)
            reason = self.failures.get(uid, 0)
            if read.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian:
                reason = 0xA900
            elif uid in self.instances:
                reason = 45070
            item: dict[str, Any] = {
                "00081150": {"vr": "UI", "Value": [str(read.SOPClassUID)]},
                "00081155": {"vr": "UI", "Value": [uid]},
            }
            if reason:
                failed.append({**item, "00081197": {"vr": "US", "Value": [reason]}})
                continue
            if uid not in self.lose:
                self.instances[uid] = encoded
            self.lose.discard(uid)
            stored.append(item)
        answer: dict[str, Any] = {}
        if stored:
            answer["00081199"] = {"vr": "SQ", "Value": stored}
        if failed:
            answer["00081198"] = {"vr": "SQ", "Value": failed}
        status = 200 if not failed else 202 if stored else 409
        return status, {"Content-Type": "application/dicom+json"}, json.dumps(answer).encode()
