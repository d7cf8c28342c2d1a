"""Overread, the application: studies in by DICOM, results out by DICOM, and everything durable in between.

Rooms, in the direction in which data goes: `receive`, `store`, `select`, `jobs`, `volume`, `infer`, `deliver`.
Imports follow that arrow. `service` is the only place that builds and connects the parts; `cli` is the front door.
"""

__version__ = "0.1.0"
