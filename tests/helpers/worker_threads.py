"""Workers that are threads of one process."""

import threading

import numpy as np

from letkd_keras.recipes.workers import worker_group


class Threads(worker_group.WorkerGroup):
    """One of them."""

    def __init__(self, index, shared):
        super().__init__(len(shared["slots"]), index, len(shared["slots"]))
        self.shared = shared

    def sum(self, values):
        assert values.dtype in (np.float32, np.float64)
        self.shared["slots"][self.index] = values
        self.shared["barrier"].wait(20)
        total = np.sum(self.shared["slots"], axis=0)
        self.shared["barrier"].wait(20)
        return total


def in_threads(count, function):
    """What a function of `WorkerGroup` returns on each of them."""
    shared = {"slots": [None] * count, "barrier": threading.Barrier(count)}
    results = [None] * count

    def run(index):
        results[index] = function(Threads(index, shared))

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results
