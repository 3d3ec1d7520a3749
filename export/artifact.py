"""One artifact of an export: written, loaded in a new process and compared with the student."""

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

from letkd_keras.export import formats
from letkd_keras.export.comparison import (
    Comparison,
    ExportMismatch,
    check_classify,
    compare,
    lost_class,
)
from letkd_keras.export.images_and_labels import pixels_for_classify
from letkd_keras.export.inverse_rms import with_calibrated_floors
from letkd_keras.export.new_process import reload_in_one_process
from letkd_keras.export.quantization_noise import always_zero, layer_noise
from letkd_keras.files import atomic_path, size_on_disk

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Exported(Comparison):
    """An artifact that was written and verified. It can be given to `open` and `pathlib.Path`.

    Attributes:
        max_difference, scale, agreement, num_images, num_classes, accuracy_before, accuracy: Those
            of its `letkd_keras.export.comparison.Comparison` with the student in Keras.
        path: The file or folder.
        format: Name of the format.
        bytes: Size of all its files.
        parameters: Number of parameters of the model that was written.
        tolerance: Largest relative difference of a logit that was allowed; `None` for any.
        min_agreement: Smallest agreement that was allowed.
        min_accuracy: Smallest accuracy, as a share of the student's, with which a smaller agreement
            was allowed, too; `None` for none.
        layer_noise: List of `LayerNoise`, if it was asked for and the format is quantized.
    """

    path: Path
    format: str
    bytes: int
    parameters: int
    tolerance: float | None = None
    min_agreement: float | None = None
    min_accuracy: float | None = None
    layer_noise: list | None = None

    def __str__(self):
        return f"{self.path}, {self.bytes:,} bytes, {super().__str__()}"

    def __fspath__(self):
        return str(self.path)


def write_artifact(job, path, format, *, tolerance=None, min_agreement=None):
    """Write and verify one format of an `ExportJob`; see `export_student`."""
    file_format = formats.find(format)
    target = Path(path) / file_format.file_name
    tolerance = file_format.tolerance if tolerance is None else tolerance
    min_accuracy = None
    if min_agreement is None:
        min_agreement, min_accuracy = file_format.min_agreement, file_format.min_accuracy
    with atomic_path(target) as temporary:
        file_format.write(job.written, temporary, job.options)
        images = {file_format.runtime: job.images}
        if file_format.runtime == "savedmodel" and job.options.knows_pixels:
            images["classify"] = pixels_for_classify(job.images)
        name = f"{format} of {job.student.name!r}"
        try:
            outputs = reload_in_one_process(temporary, images)
            comparison = compare(job.reference, outputs[file_format.runtime], job.labels)
            least = min_agreement if job.real else None
            comparison.check(name, tolerance, least, min_accuracy)
        except ExportMismatch as mismatch:
            if file_format.needs_calibration and file_format.is_quantized:
                _check_ranges(name, job, mismatch)
            raise
        if "classify" in images:
            check_classify(job.student, images["classify"], outputs["classify"], job.options)
        noise = None
        if job.options.snr and file_format.is_quantized:
            noise = _noise(job, file_format, temporary)
    lost = lost_class(job.reference, outputs[file_format.runtime], job.labels)
    if lost is not None:
        label, number, before, after = lost
        names = job.options.class_names
        log.warning(
            "%s recognizes %d of %d images of the class %s, and the student %d. Top-1 of all "
            "images hardly shows it if the class is rare.",
            name,
            after,
            number,
            label if names is None else repr(names[label]),
            before,
        )
    log.debug("%s: %s", target, comparison)
    return Exported(
        path=target,
        format=format,
        bytes=size_on_disk(target),
        parameters=job.written.count_params(),
        tolerance=tolerance,
        min_agreement=min_agreement,
        min_accuracy=min_accuracy,
        layer_noise=noise,
        **vars(comparison),
    )


def _check_ranges(name, job, mismatch):
    """Say which layers have no range, if this may be why a calibrated file fails."""
    layers = always_zero(job.written, job.options.calibration)
    if layers:
        reason = str(mismatch).splitlines()[-1].strip()
        raise ExportMismatch(
            f"{name} must have layers whose outputs are not 0 for all `calibration` images, since "
            "such outputs have no range: calibrate on other images, or export tflite-qat or "
            f"tflite-dynamic. Received: only zeros of {', '.join(map(repr, layers))}, and then: "
            f"{reason}"
        ) from mismatch


def _noise(job, file_format, artifact):
    """`LayerNoise` of a quantized artifact, against the same model in float32."""
    model, images = job.written, job.images
    if file_format.needs_calibration:
        images = job.options.calibration
        model = with_calibrated_floors(model, images)
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder) / "float32.tflite"
        formats.find("tflite").write(model, reference, job.options)
        return layer_noise(reference, artifact, images, [layer.name for layer in model.layers])
