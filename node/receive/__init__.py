"""Receive: the node's front door for DICOM objects.

`StorageScp` listens; an association runs through `admission` (pure: who may associate, with which contexts),
`parser` and `pdu` (pure: bytes in, events out), `association` (the socket), `intake` (file and digest) and
`committer` (file and row durable, then the answer). `header` reads what the index needs from an encoded data
set without decoding it.
"""
