"""Which student for which device: size, multiply-adds and time of students, as a Markdown table.

    python benchmarks/students.py --students keras.applications:MobileNetV3Small mnv2 --sizes 96 224

Each student has ten classes and fresh weights, and no KD layers (`--growth` limits what those add).
It is exported to TFLite in float32. The time is the processor time of one thread for one image, in
the fastest of some runs; unlike the time of a clock it hardly depends on other programs.
"""

import tempfile
import time
from pathlib import Path

from letkd_keras.commands.command_line import Parser
from letkd_keras.commands.option_types import list_item
from letkd_keras.ranges import class_count, image_size, positive_integer

_STUDENTS = (
    *("resnet8", "resnet20", "mnv2"),
    *("keras.applications:MobileNetV3Small", "keras.applications:MobileNetV2"),
    "keras.applications:EfficientNetB0",
)


def parse(arguments=None):
    """Parse the command line."""
    parser = Parser("", __doc__)
    parser.prog = "python benchmarks/students.py"
    add = parser.add_argument
    add("--students", nargs="+", type=list_item, default=list(_STUDENTS), metavar="NETWORK")
    add("--sizes", nargs="+", type=image_size, default=[96, 224], metavar="N", help="of the images")
    add("--model-classes", type=class_count, default=10, metavar="N", help="classes")
    add("--repeats", type=positive_integer, default=30, metavar="N", help="runs that are timed")
    return parser.parse_args(arguments)


def measure(name, size, classes, repeats):
    """Parameters, multiply-adds, bytes of the TFLite file and milliseconds of a student."""
    import keras

    from letkd_keras.export import export_student
    from letkd_keras.functional import cost_of
    from letkd_keras.models import open_network

    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    model = open_network(name, num_classes=classes, image_size=size).model
    cost = cost_of(model)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(export_student(model, folder, format="tflite").path)
        return cost, file.stat().st_size, processor_time(file, size, repeats)


def processor_time(file, size, repeats):
    """Milliseconds of processor time for one image on one thread, in the fastest run."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(file), num_threads=1)
    index = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(index, (1, size, size, 3))
    interpreter.allocate_tensors()
    image = np.random.default_rng(0).uniform(0, 255, (1, size, size, 3)).astype("float32")
    times = []
    for _ in range(repeats + 3):
        interpreter.set_tensor(index, image)
        start = time.process_time()
        interpreter.invoke()
        times.append(time.process_time() - start)
    return 1000 * min(times[3:])


def main(arguments=None):
    """Print a row of the table for each student and size."""
    options = parse(arguments)
    print("| student | image size | parameters | float32 bytes | multiply-adds | one image |")
    print("|---|---|---|---|---|---|")
    for name in options.students:
        for size in options.sizes:
            cost, file_size, milliseconds = measure(
                name, size, options.model_classes, options.repeats
            )
            print(
                f"| {name} | {size} | {cost.parameters:,} | {file_size:,} "
                f"| {cost.multiply_adds / 1e6:,.1f} M | {milliseconds:.1f} ms |",
                flush=True,
            )


if __name__ == "__main__":
    main()
