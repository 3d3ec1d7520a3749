from letkd_keras.data.array_batches import steps_per_epoch


class NumberedBatches:
    """The batches of `data.evaluation_batches`, each of which can also be read by its number.

    Several processes that have this object can share the batches: each reads those that it needs.
    Data that are read from files must be in the same folder on all machines.

    Args:
        data: `Dataset`.
        batch_size: Images of a batch; the last one may be smaller.
        split: `"test"`, `"train"` or, if there is one, `"validation"`.

    Raises:
        ValueError: If there is no such split, or the batch size is not positive.
    """

    def __init__(self, data, batch_size, split):
        self.data = data
        self.batch_size = batch_size
        self.split = split
        self._length = steps_per_epoch(data.examples(split), batch_size, drop_remainder=False)

    def __len__(self):
        return self._length

    def __iter__(self):
        return iter(self.data.evaluation_batches(self.batch_size, self.split))

    def __getitem__(self, number):
        if not 0 <= number < len(self):
            raise IndexError(f"There are {len(self)} batches. Received: number={number}")
        return self.data.evaluation_batch(number, self.batch_size, self.split)
