from letkd_keras.export import formats
from letkd_keras.export.card import provenance_of, write_card
from letkd_keras.export.student import check_writable, prepare, write
from letkd_keras.export.verification import ExportMismatch

_DEFAULT = ("savedmodel", "tflite", "onnx")


def export_bundle(model, path, formats_wanted=_DEFAULT, *, data_name=None, verify=None, **options):
    """Export a student to several formats with a card that tells what they are.

    Args:
        model: What `export_student` takes. Of a run folder, the card tells the training.
        path: Folder to write into: the artifacts, `card.json` and `card.md`.
        formats_wanted: Names of the formats.
        data_name: What the images are, for the card.
        verify: Mapping of a format's name to its `tolerance` and `min_agreement`, where they are
            not the format's own.
        **options: `images`, `labels`, `fold` and the options of `export_student`.

    Returns:
        Dictionary of `Exported` by format.

    Raises:
        ValueError, FileNotFoundError: As `export_student`, before anything is written.
        ExportMismatch: If an artifact does not compute what the student computes. The other formats
            are written all the same, and the card tells of them.
    """
    wanted = list(dict.fromkeys(formats_wanted))
    for name in wanted:
        formats.find(name)
    check_writable(path)
    job = prepare(model, **options)
    # Without its images a format fails: better before the others are written.
    if any(formats.find(name).needs_calibration for name in wanted):
        job.options.check_calibration()
    results, refused = {}, []
    for name in wanted:
        try:
            results[name] = write(job, path, name, **(verify or {}).get(name, {}))
        except ExportMismatch as mismatch:
            refused.append(str(mismatch))
    if results:
        write_card(path, job, results, data_name=data_name, training=provenance_of(model))
    if refused:
        raise ExportMismatch("\n".join(refused))
    return results
