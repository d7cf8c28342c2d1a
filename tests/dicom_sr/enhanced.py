"""An Enhanced MR image (PS3.3 A.36) of several frames, with what says where they are; the rest is left out."""

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage

from tests.phantoms import make_series


def enhanced_image(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], orientation: str) -> Dataset:
    """One multi-frame image in the place of the series that `make_series` makes, without window."""
    singles = make_series(shape=shape, spacing_mm=spacing_mm, orientation=orientation)
    pixels = np.stack([single.pixel_array for single in singles])
    image = singles[0]
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    image.NumberOfFrames = shape[0]
    orientation_item, measures = Dataset(), Dataset()
    orientation_item.ImageOrientationPatient = image.ImageOrientationPatient
    measures.PixelSpacing, measures.SliceThickness = image.PixelSpacing, image.SliceThickness
    measures.SpacingBetweenSlices = image.SpacingBetweenSlices
    shared = Dataset()
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation_item], [measures]
    image.SharedFunctionalGroupsSequence = [shared]
    image.PerFrameFunctionalGroupsSequence = []
    for single in singles:
        position, frame = Dataset(), Dataset()
        position.ImagePositionPatient = single.ImagePositionPatient
        frame.PlanePositionSequence = [position]
        image.PerFrameFunctionalGroupsSequence.append(frame)
    image.PixelData = pixels.astype("<i2").tobytes()
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
                    "SpacingBetweenSlices"):  # fmt: skip
        delattr(image, keyword)
    return image
