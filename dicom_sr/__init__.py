"""Findings of an algorithm in, DICOM objects out: Segmentation and Structured Report.

Arrays and references go in, `pydicom.Dataset` comes out; no network, no database, no clock. `findings` holds
what is to be said, `segmentation` and `measurement_report` say it, `conformance` reads it again and lists
what is wrong. Arrays are (slice, row, column); world coordinates are LPS in millimetres.
"""
