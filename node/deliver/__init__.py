"""Results out: the outbox per destination, and the Storage and Verification SCU that serve it.

The upper layer of DICOM networking (PS3.8) is our own here, for the requestor only and synchronous: it
streams the encoded bytes of a file without decoding them, every wait of it has an end, and it needs no
process-wide settings.
"""
