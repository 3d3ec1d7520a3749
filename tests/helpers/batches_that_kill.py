import os
import signal
from pathlib import Path

from small_problem import small_images


class BatchesThatKill:
    """Batches of `small_images` by number; who first reads batch 5 is killed, but not its maker.

    Args:
        marker: File that is written just before.
        size: Images of a batch.
    """

    def __init__(self, marker, size=7):
        self.marker = Path(marker)
        self.maker = os.getpid()
        self.size = size
        self.data = small_images()

    def __len__(self):
        return -(-len(self.data[0]) // self.size)

    def __getitem__(self, number):
        if number == 5 and os.getpid() != self.maker and not self.marker.exists():
            self.marker.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        rows = slice(number * self.size, (number + 1) * self.size)
        return tuple(array[rows] for array in self.data)

    def __iter__(self):
        return (self[number] for number in range(len(self)))
