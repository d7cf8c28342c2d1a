"""Web: objects by HTTP (DICOMweb STOW-RS, PS3.18 10.5), into the same store as those that come by C-STORE.

`WebServer` listens; `connections` ends who makes no progress; `app` routes; `stow` answers one request: `access` says
who sends, `media` what, `reception` makes objects of bytes and `store_response` an answer of outcomes.
"""
