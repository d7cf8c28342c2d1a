"""`[[outputs]]` of `model.toml`: what each output of a network means, by task. Frozen.

Tensors are (batch, channel, axis 0, axis 1, axis 2) for volumes, (batch, channel, row, column) for images and slices,
and (batch, channel) where an output has no place.
"""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from node.infer.fields import Byte, Coded, Identifier, RelativePath, Section, Share, Text

ShortName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64)]
Channel = Annotated[int, Field(ge=0)]


class Output(Section):
    """What every output has."""

    report: bool = Field(True, description="false: only later stages use it; nothing of it is written.")


class BodyMask(Section):
    """`[outputs.body]`: keep labels only inside the body, found slice by slice along the images' slices."""

    above: float = Field(
        description="The largest component above this modality value is the body; its holes belong to it."
    )


class Label(Section):
    """`[[outputs.labels]]`: a segment. Labels are numbered from 1 in the order in which they stand."""

    name: ShortName = Field(description="Short unique name (Segment Label).")
    channels: tuple[Channel, ...] = Field(
        min_length=1, description="Output channels that mean this label; several are merged."
    )
    category: Coded = Field(
        Coded(value="123037004", meaning="Anatomical Structure"),
        description="Segmented Property Category (CID 7150).",
    )
    type: Coded = Field(description="Segmented Property Type (CID 7166 and others).")
    region: Coded | None = Field(None, description="Anatomic region, where the type does not say it.")
    laterality: Coded | None = Field(None, description="Right (24028007), left (7771000) or both (51440002), SCT.")
    rgb: tuple[Byte, Byte, Byte] = Field(description="Display colour, 0 to 255 each.")
    threshold: float | None = Field(None, description="For decision = threshold: another value for this label.")


class MeasurementSection(Section):
    """`[[outputs.measurements]]` of a segmentation: a number taken from labels on the images' own voxels."""

    kind: Literal["volume", "area", "ratio"] = Field(
        description="volume, or area in an image: of `labels` together; ratio: that of `labels` over that of `of`."
    )
    labels: tuple[Text, ...] = Field(min_length=1, description="Names of labels, added up.")
    of: tuple[Text, ...] = Field((), description="Names of labels in the denominator of a ratio, added up.")
    name: Text | None = Field(None, description="Tracking identifier; absent means the label's name.")
    concept: Coded | None = Field(
        None, description="What is measured (CID 7469 and others); absent means Volume, Area; a ratio needs its own."
    )
    unit: Literal["mL", "mm3", "mm2", "cm2", "%", "1"] | None = Field(
        None,
        description="UCUM unit: mL (default) or mm3 for volumes, mm2 (default) or cm2 for areas, % or 1 for ratios.",
    )
    finding: Coded | None = Field(None, description="What it is measured of; absent means the type of the one label.")
    finding_site: Coded | None = Field(None, description="Where it lies.")
    present_above: float | None = Field(
        None, description="In `unit`: the finding counts as present above this value and as absent else."
    )
    critical: bool = Field(False, description="Somebody is to be told at once when it is present.")

    @model_validator(mode="after")
    def _consistent(self) -> "MeasurementSection":
        if (self.kind == "ratio") != bool(self.of):
            raise ValueError("of when kind is ratio, and only then")
        units = {"volume": ("mL", "mm3"), "area": ("mm2", "cm2"), "ratio": ("%", "1")}[self.kind]
        if (self.unit or units[0]) not in units or (self.kind == "ratio" and self.unit is None):
            raise ValueError(f"unit {' or '.join(units)} for kind = {self.kind}")
        if self.kind == "ratio" and self.concept is None:
            raise ValueError("concept for a ratio")
        if len(self.labels) > 1 and (self.finding is None or self.name is None):
            raise ValueError("finding and name where more than one label is measured")
        if self.critical and self.present_above is None:
            raise ValueError("present_above where critical is true")
        return self


class Postprocessing(Section):
    """From scores of voxels or pixels to labels on the images' own."""

    activation: Literal["none", "softmax", "sigmoid"] = Field("none", description="Applied to the output.")
    decision: Literal["argmax", "threshold", "values"] = Field(
        "argmax",
        description="argmax: the largest channel; threshold: channels above `threshold`, later labels first; values: "
        "the one channel holds the number of the winning channel itself.",
    )
    threshold: float = Field(0.5, description="For decision = threshold.")
    overlap: bool = Field(
        False, description="For decision = threshold: labels that overlap are all kept, in label maps of their own."
    )
    resample: Literal["probabilities", "labels"] = Field(
        "probabilities", description="What is brought back to the images' voxels: scores (linear) or labels (nearest)."
    )
    body: BodyMask | None = Field(None, description="Remove labels outside the body.")
    largest_component: Literal["none", "foreground", "each-label"] = Field(
        "none", description="Keep only the largest connected component of all labels together, or of each."
    )
    connectivity: Literal["faces", "corners"] = Field(
        "faces", description="Which voxels touch: 6 or 26 neighbours (in an image 4 or 8)."
    )
    minimum_component_ml: Annotated[float, Field(ge=0)] = Field(
        0.0, description="Components of a label below this volume are removed, in mL; for volumes only."
    )
    minimum_component_voxels: Annotated[int, Field(ge=0)] = Field(
        0, description="Components of a label below this number of the images' voxels or pixels are removed."
    )
    fill_holes: bool = Field(False, description="Fill background that a label encloses.")
    smoothing_mm: Annotated[float, Field(ge=0)] = Field(
        0.0,
        description="Smooth the surface of each label by a Gaussian of this standard deviation, in mm; 0 does not. An "
        "image whose pixels have no known size is then not analysed.",
    )


class Segmentation(Output, Postprocessing):
    """`task = "segmentation"`: labels for voxels or pixels, decided on the images' own."""

    task: Literal["segmentation"]
    tensor: Text = Field("logits", description="Name of the output tensor.")
    channels: int = Field(ge=1, le=1024, description="Channels of the output.")
    labels: tuple[Label, ...] = Field(min_length=1, max_length=255, description="What the channels mean.")
    measurements: tuple[MeasurementSection, ...] = Field((), description="Numbers for the report.")

    @model_validator(mode="after")
    def _consistent(self) -> "Segmentation":
        if self.overlap and self.decision != "threshold":
            raise ValueError('decision = "threshold" where overlap is true')
        if self.decision == "values" and self.activation != "none":
            raise ValueError('activation = "none" for decision = "values"')
        return self


class Class(Section):
    """`[[outputs.classes]]`: something looked for, with its operating point."""

    name: ShortName = Field(description="Short name, unique in the model (tracking identifier).")
    channel: Channel = Field(description="Output channel with its score.")
    finding: Coded = Field(description="What it is.")
    finding_site: Coded | None = Field(None, description="Where it lies.")
    laterality: Coded | None = Field(None, description="Right (24028007), left (7771000) or both (51440002), SCT.")
    threshold: float = Field(0.5, description="Operating point: present from this score on.")
    indeterminate_from: float | None = Field(
        None, description="Between this score and `threshold` the finding is indeterminate, below it absent."
    )
    critical: bool = Field(False, description="Somebody is to be told at once when it is present.")

    @model_validator(mode="after")
    def _band(self) -> "Class":
        if self.indeterminate_from is not None and self.indeterminate_from > self.threshold:
            raise ValueError("indeterminate_from of at most threshold")
        return self


class Scored(Output):
    """What every output with scores has."""

    activation: Literal["none", "softmax", "sigmoid"] = Field("none", description="Applied to the scores.")
    score: Coded = Field(
        Coded(value="111012", scheme="DCM", meaning="Certainty of Finding"),
        description="What a score is, once it is activated.",
    )
    probability: bool = Field(
        True, description="Scores lie between 0 and 1. Otherwise they are written as numbers without a unit."
    )


class Classification(Scored):
    """`task = "classification"`: for each class whether it is there. The classes do not exclude each other."""

    task: Literal["classification"]
    tensor: Text = Field("probability", description="Name of the output tensor, (batch, channel).")
    level: Literal["study", "image"] = Field(
        "study",
        description="study: one finding about all images; image: one about each call of the network (view, frame).",
    )
    combine: Literal["maximum", "mean"] = Field(
        "maximum", description="For level = study: how the scores of several calls (views, slices) become one."
    )
    classes: tuple[Class, ...] = Field(min_length=1, description="What the channels mean.")


class Grade(Section):
    """`[[outputs.grades]]`: one of the answers."""

    name: ShortName = Field(description="Short name, as in the example's expected answer.")
    channel: Channel = Field(description="Output channel with its score.")
    value: Coded = Field(description="The coded answer, e.g. from CID 6000 for breast composition.")
    critical: bool = Field(False, description="Somebody is to be told at once when this is the answer.")


class Grading(Scored):
    """`task = "grading"`: a question with one answer of several, e.g. breast composition A to D."""

    task: Literal["grading"]
    tensor: Text = Field("probability", description="Name of the output tensor, (batch, channel).")
    level: Literal["study", "image"] = Field(
        "study",
        description="study: one answer for all images; image: one for each call of the network (view, frame).",
    )
    combine: Literal["mean", "maximum"] = Field(
        "mean", description="For level = study: how the scores of several calls (views, slices) become one."
    )
    name: ShortName = Field(description="Short name, unique in the model (tracking identifier).")
    finding: Coded = Field(description="What the answer is about.")
    finding_site: Coded | None = Field(None, description="Where it lies.")
    concept: Coded = Field(description="The coded question, e.g. (111031, DCM, Image View) or a composition.")
    indeterminate_below: float | None = Field(
        None, description="The answer is indeterminate where the best score is below this."
    )
    grades: tuple[Grade, ...] = Field(min_length=2, description="The answers.")


class DetectedClass(Class):
    """`[[outputs.classes]]` of a detection: what the boxes are."""

    maximum: int | None = Field(None, ge=1, description="Most boxes that are kept, the best first; absent keeps all.")


class Detection(Scored):
    """`task = "detection"`: boxes with scores."""

    task: Literal["detection"]
    boxes: Text = Field("boxes", description="Tensor (batch, box, side) or (box, side); sides are 4, in volumes 6.")
    scores: Text = Field(
        "scores", description="Tensor (batch, channel, box), (batch, box, channel) or (box). May be that of the boxes."
    )
    numbers: Text | None = Field(
        None, description="Tensor with the channel number of each box, where the network has decided it."
    )
    layout: Literal["xyxy", "xywh", "cxcywh"] = Field(
        "xyxy", description="Two corners; corner and size; centre and size. In volumes with a third coordinate."
    )
    first: Literal["column", "axis-0"] = Field(
        "column", description="Whether x is the last axis of the tensor (columns) or the first."
    )
    coordinates: Literal["pixels", "relative"] = Field(
        "pixels", description="Pixels of the tensor, or shares of its sides."
    )
    candidates_above: float = Field(0.0, description="Boxes of a lower score are not looked at.")
    suppression: Literal["none", "nms", "weighted"] = Field(
        "nms",
        description="What becomes of boxes that overlap a better one: nms drops them; weighted makes one box of them, "
        "each counting by its score.",
    )
    iou: Share = Field(0.5, description="Intersection over union from which boxes overlap.")
    classes: tuple[DetectedClass, ...] = Field(min_length=1, description="What the boxes are.")


class Point(Section):
    """`[[outputs.points]]`: a landmark."""

    name: ShortName = Field(description="Short name, unique in the model.")
    channel: Channel = Field(description="Place in the tensor: which heat map, or which point.")
    finding: Coded = Field(description="What the point is, e.g. an anatomical structure.")
    laterality: Coded | None = Field(None, description="Right (24028007), left (7771000), SCT.")
    report: bool = Field(True, description="false: only measurements use it.")


class Distance(Section):
    """`[[outputs.measurements]]` of landmarks: a distance, or an angle."""

    kind: Literal["distance", "angle"] = Field(
        description="distance of two points; angle at the second of three points, or between the lines of four."
    )
    points: tuple[Text, ...] = Field(min_length=2, max_length=4, description="Names of points.")
    name: ShortName = Field(description="Tracking identifier.")
    concept: Coded = Field(description="What is measured.")
    finding: Coded = Field(description="What it is measured of.")
    finding_site: Coded | None = Field(None, description="Where it lies.")

    @model_validator(mode="after")
    def _count(self) -> "Distance":
        if (self.kind == "distance") != (len(self.points) == 2):
            raise ValueError("two points for a distance, three or four for an angle")
        return self


class Landmarks(Output):
    """`task = "landmarks"`: points, from heat maps or as coordinates, and what is measured between them."""

    task: Literal["landmarks"]
    tensor: Text = Field("heatmaps", description="Name of the output tensor.")
    source: Literal["heatmaps", "coordinates"] = Field(
        "heatmaps",
        description="heatmaps: (batch, point, axes): the place of each maximum, refined by its neighbours; "
        "coordinates: (batch, point, 2 or 3).",
    )
    first: Literal["column", "axis-0"] = Field(
        "column", description="For coordinates: whether x is the last axis of the tensor (columns) or the first."
    )
    coordinates: Literal["pixels", "relative"] = Field(
        "pixels", description="For coordinates: pixels of the tensor (0 is a pixel's middle), or shares of its sides."
    )
    least: float | None = Field(None, description="For heat maps: a point whose maximum is below this is not found.")
    points: tuple[Point, ...] = Field(min_length=1, description="What the channels mean.")
    measurements: tuple[Distance, ...] = Field((), description="Numbers for the report.")


class Value(Section):
    """`[[outputs.values]]`: a number that the network gives."""

    name: ShortName = Field(description="Short name, unique in the model (tracking identifier).")
    channel: Channel = Field(description="Output channel.")
    finding: Coded = Field(description="What it is measured of.")
    finding_site: Coded | None = Field(None, description="Where it lies.")
    concept: Coded = Field(description="What is measured.")
    unit: Coded = Field(
        description='UCUM unit, e.g. { value = "mm", scheme = "UCUM", meaning = "millimeter" }; '
        '{ value = "a", scheme = "UCUM", meaning = "year" }.'
    )
    scale: float = Field(1.0, description="Factor from the network's value to the unit.")
    offset: float = Field(0.0, description="Added after the factor.")
    minimum: float | None = Field(None, description="In `unit`: a lower value is not believed, and said so.")
    maximum: float | None = Field(None, description="In `unit`: a higher value is not believed, and said so.")
    present_above: float | None = Field(
        None, description="In `unit`: the finding counts as present above this value and as absent else."
    )
    critical: bool = Field(False, description="Somebody is to be told at once when it is present.")

    @model_validator(mode="after")
    def _operating_point(self) -> "Value":
        if self.critical and self.present_above is None:
            raise ValueError("present_above where critical is true")
        return self


class Regression(Output):
    """`task = "regression"`: numbers with units."""

    task: Literal["regression"]
    tensor: Text = Field("value", description="Name of the output tensor, (batch, channel).")
    combine: Literal["mean", "maximum"] = Field(
        "mean", description="How the values of several calls (views, slices) become one."
    )
    values: tuple[Value, ...] = Field(min_length=1, description="What the channels mean.")


class HeatMap(Output):
    """`task = "map"`: a number for every voxel or pixel: heat, probability, a physical quantity."""

    task: Literal["map"]
    tensor: Text = Field("heatmap", description="Name of the output tensor.")
    channels: int = Field(1, ge=1, le=1024, description="Channels of the output.")
    channel: Channel = Field(0, description="The channel that is kept.")
    activation: Literal["none", "softmax", "sigmoid"] = Field("none", description="Applied to the output.")
    name: ShortName = Field(description="Short name, unique in the model.")
    quantity: Coded = Field(description="What the values are.")
    unit: Coded = Field(Coded(value="1", scheme="UCUM", meaning="no units"), description="UCUM unit of the values.")
    label: Text | None = Field(None, description="The label of a segmentation of which these are the shares, 0 to 1.")


class Embedding(Output):
    """`task = "embedding"`: a vector, by which `overread similar` finds studies that look alike."""

    task: Literal["embedding"]
    tensor: Text = Field("embedding", description="Name of the output tensor, (batch, number); calls are averaged.")
    name: Identifier = Field("embedding", description="Short name, unique in the model.")
    length: int = Field(ge=1, le=65536, description="Numbers of the vector.")


class TextOutput(Output):
    """`task = "text"`: words of the model itself, for a draft that a person reads before anybody else does."""

    task: Literal["text"]
    tensor: Text = Field("text", description="Name of the output tensor: strings, or numbers of words.")
    vocabulary: RelativePath | None = Field(
        None, description="File with one word on each line, where the tensor holds line numbers (from 0)."
    )
    end: int | None = Field(None, description="The number that ends the text.")
    joiner: str = Field("", description="Between words, e.g. a space; sentence-piece marks become spaces.")


AnyOutput = Annotated[
    Segmentation | Classification | Grading | Detection | Landmarks | Regression | HeatMap | Embedding | TextOutput,
    Field(discriminator="task"),
]
