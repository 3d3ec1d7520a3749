"""Several workers that train one network together, and what they send each other.

Each worker is a process, on this machine or on another one. The first one is the chief.
"""

import contextlib
import json

import numpy as np

# Pairs of bytes in a collective sum: 16 MiB as float32.
_CHUNK = 2**22


class WorkerGroup:
    """The group of all workers, as one of them sees it.

    Attributes:
        count: Number of workers.
        index: Number of this one; 0 is the chief.
        devices: Devices of all workers.
        lost: Whether a worker was lost, so that nothing can be sent any more.
    """

    def __init__(self, count, index, devices):
        self.count, self.index, self.devices = count, index, devices
        self.lost = False

    @property
    def is_chief(self):
        """Whether this worker writes files and prints."""
        return self.index == 0

    def sum(self, values):
        """The sum of the arrays of all workers, which all of them call with the same shape.

        Args:
            values: Array of floats.

        Returns:
            Array of the same shape.
        """
        raise NotImplementedError

    def gather(self, message):
        """Exchange messages of any length; all workers call it.

        Args:
            message: Bytes.

        Returns:
            List of the messages of all workers, in their order.
        """
        # Two bytes of a message, or 24 bits of its length, in a number: JAX sums in float32.
        lengths = np.zeros((self.count, 2))
        lengths[self.index] = divmod(len(message), 2**24)
        lengths = [int(high) * 2**24 + int(low) for high, low in self.sum(lengths)]
        pairs = [(length + 1) // 2 for length in lengths]
        own = np.frombuffer(message + b"\0" * (len(message) % 2), "<u2")
        begin, total = sum(pairs[: self.index]), sum(pairs)
        received = np.empty(total, "<u2")
        for start in range(0, total, _CHUNK):
            chunk = np.zeros(min(_CHUNK, total - start), "float32")
            first, last = max(begin, start), min(begin + len(own), start + len(chunk))
            if first < last:
                chunk[first - start : last - start] = own[first - begin : last - begin]
            received[start : start + len(chunk)] = self.sum(chunk)
        ends = np.cumsum(pairs)
        return [
            received[end - size : end].tobytes()[:length]
            for end, size, length in zip(ends, pairs, lengths, strict=True)
        ]

    def broadcast(self, message=b""):
        """Send a message of the chief to all workers, which all call it.

        Args:
            message: Bytes; that of the chief counts.

        Returns:
            The chief's bytes.
        """
        return self.gather(message if self.is_chief else b"")[0]

    def broadcast_json(self, message=None):
        """Send JSON of the chief to all workers, which all call it.

        Args:
            message: JSON types; that of the chief counts.

        Returns:
            The chief's message.
        """
        return json.loads(self.broadcast(json.dumps(message).encode()))

    @contextlib.contextmanager
    def watched(self):
        """A scope in which the loss of another worker is a `ConnectionError`.

        Raises:
            ConnectionError: If a worker was lost.
        """
        try:
            yield
        except self.errors_of_lost_workers() as error:
            if not self._is_loss(error):
                raise
            self.lost = True
            raise ConnectionError(
                "Another worker ended or cannot be reached. Start all workers again by the same "
                "command: they continue after the last finished epoch"
            ) from error

    def leave(self):
        """Have this process end without the others, after an error."""

    # What a backend has of its own

    def errors_of_lost_workers(self):
        """Classes of the errors that collectives raise when a worker is lost."""
        raise NotImplementedError

    def _is_loss(self, error):
        return True

    def scope(self):
        """A scope in which models are made, loaded and changed by all workers together."""
        raise NotImplementedError

    def fit_scope(self):
        """A scope in which `fit` is called."""
        return contextlib.nullcontext()

    def alone(self):
        """A scope in which this worker computes by itself."""
        return contextlib.nullcontext()

    def distributed(self, batches, size, class_weights):
        """What `fit` takes for this worker's part of every batch.

        Args:
            batches: Batches of (images, labels).
            size: Images of each.
            class_weights: Weights of the images by class, a dictionary, or `None`.

        Returns:
            `(x, options)`, for `fit(x, **options)`.
        """
        raise NotImplementedError
