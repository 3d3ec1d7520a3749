"""Print as JSON the bytes that XLA needs for the gradient of a KD layer, with and without blocks.

    KERAS_BACKEND=jax python memory_in_blocks_on_jax.py

By batch size: `[in blocks of two images, at once]`. Nothing is run.
"""

import json

import jax
import keras

from letkd_keras import KDLayer

GRID, CHANNELS, TEMPLATES = 8, 16, 512


def temporary_bytes(batch, block_size):
    """Size of what the compiled gradient holds beside its input and output."""
    layer = KDLayer(TEMPLATES)
    layer.build((None, GRID, GRID, CHANNELS))

    def loss(x):
        with keras.StatelessScope():
            if block_size is None:
                out = layer(x, training=True, pool_output=True)
            else:
                out = layer.call_in_blocks(x, block_size, training=True, pool_output=True)
        return keras.ops.sum(out**2)

    x = jax.ShapeDtypeStruct((batch, GRID, GRID, CHANNELS), "float32")
    compiled = jax.jit(jax.grad(loss)).lower(x).compile()
    return compiled.memory_analysis().temp_size_in_bytes


if __name__ == "__main__":
    sizes = {batch: [temporary_bytes(batch, size) for size in (2, None)] for batch in (16, 64)}
    print(json.dumps(sizes))
