"""Requests of a platform of the Aidoc style: `POST /process`, `GET /status`, and a callback until it is acknowledged.

`ProcessDesk` serves the requests on the HTTP server of the node; `asked` reads them, `Fetcher` brings images from
`sources`, through the same admission and store as everything else; `standing` says how a request stands. Results go
through the outbox to `CallbackTransport`; `FailureTeller` tells of requests that come to nothing.
"""
