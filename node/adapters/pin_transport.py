"""Results into folders as a platform of the Nuance PIN style collects them: GSPS, FHIR report, manifest."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Engine

from dicom_sr.profile import DestinationProfile, Role
from node.adapters.pin_report import Artifact, build_manifest, build_report
from node.deliver.durable import whole_folder
from node.deliver.folder_transport import probe_folder
from node.deliver.rerender import objects_in_profile
from node.deliver.statement import Statement, read_statement
from node.deliver.transport import Check, Parcel, Receipt, Unreachable
from node.destination_settings import PinDestination
from node.store.results import ResultObject

PROFILE = DestinationProfile("pin", roles=(Role.PRESENTATION_STATE,))
MANIFEST = "resultManifest.json"


class PinTransport:
    """One folder for each result, which appears complete or not at all; sending it again changes nothing."""

    def __init__(self, engine: Engine, destination: PinDestination) -> None:
        self._engine = engine
        self._destination = destination

    def send(self, parcel: Parcel, check: Check) -> Receipt:
        statement = read_statement(parcel)
        objects = objects_in_profile(self._engine, parcel, PROFILE)
        try:
            self._write(parcel.data_dir, statement, objects)
        except OSError as error:
            raise Unreachable(
                f"destination {self._destination.name!r} ({self._destination.folder}): {error.strerror}; is it "
                "mounted, and may this node write there?"
            ) from None
        return Receipt(())

    def probe(self) -> None:
        probe_folder(self._destination.name, self._destination.folder)

    def _write(self, data_dir: Path, statement: Statement, objects: Sequence[ResultObject]) -> None:
        destination = self._destination
        folder = destination.folder / statement.order.study_instance_uid / statement.identifier
        if not destination.folder.is_dir():
            raise FileNotFoundError(2, "there is no such folder")
        if (folder / MANIFEST).exists():
            return
        report = f"{destination.partner_name}-{destination.service_name}-FHIR.json"
        artifacts = [Artifact(report, "application/json")]
        with whole_folder(folder) as staging:
            for one in objects:
                name = f"{one.sop_instance_uid}.dcm"
                shutil.copyfile(data_dir / one.path, staging / name)
                artifacts.append(Artifact(name, "application/dicom", one.series_instance_uid))
            _put(staging / report, build_report(statement, destination.observation_codes))
            _put(staging / MANIFEST, build_manifest(statement.order.study_instance_uid, artifacts))


def _put(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")
