"""A web site on loopback: the built OHIF viewer, and on the same origin the DICOMweb service of an archive."""

import http.client
import mimetypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

CONFIGURATION = b"""window.config = {
  routerBasename: null, extensions: [], modes: [], customizationService: {}, showStudyList: true,
  maxNumberOfWebWorkers: 2, showWarningMessageForCrossOrigin: false, showCPUFallbackMessage: false,
  showLoadingIndicator: true, strictZSpacingForVolumeViewport: true, showErrorDetails: 'always',
  investigationalUseDialog: { option: 'never' },
  maxNumRequests: { interaction: 20, thumbnail: 5, prefetch: 10 },
  defaultDataSourceName: 'dicomweb',
  dataSources: [{ namespace: '@ohif/extension-default.dataSourcesModule.dicomweb', sourceName: 'dicomweb',
    configuration: { friendlyName: 'PACS', name: 'PACS', qidoRoot: '/dicom-web', wadoRoot: '/dicom-web',
      qidoSupportsIncludeField: true, supportsReject: false, imageRendering: 'wadors', thumbnailRendering: 'wadors',
      enableStudyLazyLoad: true, supportsFuzzyMatching: false, supportsWildcard: true, dicomUploadEnabled: false,
      omitQuotationForMultipartRequest: true, bulkDataURI: { enabled: true } } }],
};"""
DICOMWEB = "/dicom-web/"
NOT_PASSED_ON = {"connection", "keep-alive", "transfer-encoding", "content-length"}
ISOLATED = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
"""Without these the viewer has no memory that its threads share."""


@contextmanager
def viewer_site(viewer: Path, archive_port: int) -> Iterator[str]:
    """Serve the viewer in folder `viewer` before the archive at `archive_port`; the site's address is given."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if path.startswith(DICOMWEB):
                self.pass_on()
            elif path == "/app-config.js":
                self.answer(200, {**ISOLATED, "Content-Type": "text/javascript"}, CONFIGURATION)
            else:
                self.give_file(path)

        def give_file(self, path: str) -> None:
            file = (viewer / path.lstrip("/")).resolve()
            if not file.is_file() or viewer.resolve() not in file.parents:
                if file.suffix:
                    self.answer(404, {}, b"")
                    return
                file = viewer / "index.html"  # a page of the viewer, which finds its own way
            kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
            self.answer(200, {**ISOLATED, "Content-Type": kind}, file.read_bytes())

        def pass_on(self) -> None:
            archive = http.client.HTTPConnection("127.0.0.1", archive_port)
            try:
                asked = {name: value for name, value in self.headers.items() if name.lower() not in NOT_PASSED_ON}
                archive.request("GET", self.path, headers=asked)
                found = archive.getresponse()
                kept = {name: value for name, value in found.getheaders() if name.lower() not in NOT_PASSED_ON}
                self.answer(found.status, kept, found.read())
            finally:
                archive.close()

        def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the viewer asks for hundreds of files."""

        def handle(self) -> None:
            """A browser that goes away in the middle of an answer is no error."""
            with suppress(ConnectionError):
                super().handle()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
