"""Functions of a batch in blocks of images, so that their memory does not grow with the batch.

The values and gradients are those of one call with the whole batch, up to rounding.
"""

import keras
from keras import ops


def map_images(function, images, shared, block_size):
    """Call a function with blocks of images; its backward pass calls it again.

    Args:
        function: `function(*images, *shared)`, which returns a tensor [b, ...] from tensors
            [b, ...] of b images and shared tensors. An image's result must not depend on the other
            images. It must not read variables that are trained.
        images: Tensors of floats [B, ...].
        shared: Tensors of floats without a batch dimension. Their gradients are summed in their
            own dtypes.
        block_size: Images of a block.

    Returns:
        Tensor [B, ...]. Nothing larger than `images`, `shared` and this result is kept for the
        backward pass.
    """
    count = len(images)

    @ops.custom_gradient
    def of(*arguments):
        # What is computed here is not recorded for automatic differentiation.
        arguments = [ops.stop_gradient(argument) for argument in arguments]
        images, shared = arguments[:count], arguments[count:]
        _, (outputs,) = _scan(
            lambda carry, block: (carry, [function(*block, *shared)]), [], images, block_size
        )

        def gradient(upstream):
            def backward(sums, block):
                *block, block_upstream = block
                _, gradients = _value_and_gradients(function, (*block, *shared), block_upstream)
                return _added(sums, gradients[count:]), gradients[:count]

            zeros = [ops.zeros_like(x) for x in shared]
            sums, gradients = _scan(backward, zeros, (*images, upstream), block_size)
            return (*gradients, *sums)

        return outputs, gradient

    # TensorFlow's custom gradient accepts tensors but no variables.
    return of(*(ops.copy(x) for x in (*images, *shared)))


def sum_images(function, images, shared, block_size, constants=()):
    """Sum a function's results for blocks of images.

    The gradients are computed in the same pass as the sum. They are scaled in the backward pass,
    and nothing is computed twice.

    Args:
        function: `function(*images, *constants, *shared)`, which returns a scalar: a sum over its
            images.
        images: Tensors of floats [B, ...].
        shared: Tensors of floats without a batch dimension.
        block_size: Images of a block.
        constants: Further tensors [B, ...], of any type, which get no gradient.

    Returns:
        Scalar. Only tensors of the sizes of `images` and `shared` are kept for the backward pass.
    """
    count = len(images)
    constants = [ops.stop_gradient(ops.convert_to_tensor(x)) for x in constants]

    @ops.custom_gradient
    def of(*arguments):
        arguments = [ops.stop_gradient(argument) for argument in arguments]
        images, shared = arguments[:count], arguments[count:]

        def forward(carry, block):
            total, *sums = carry
            own = block[count:]

            def value(*arguments):
                return function(*arguments[:count], *own, *arguments[count:])

            result, gradients = _value_and_gradients(value, (*block[:count], *shared))
            return [total + result, *_added(sums, gradients[count:])], gradients[:count]

        zeros = [0.0, *(ops.zeros_like(x) for x in shared)]
        (total, *sums), gradients = _scan(forward, zeros, (*images, *constants), block_size)

        def gradient(upstream):
            return tuple(ops.cast(upstream, x.dtype) * x for x in (*gradients, *sums))

        return total, gradient

    # TensorFlow's custom gradient accepts tensors but no variables.
    return of(*(ops.copy(x) for x in (*images, *shared)))


def reduce_images(function, images, block_size):
    """Sum a function's results for blocks of images, without a gradient.

    Args:
        function: `function(*images)`, which returns a list of tensors: sums over its images.
        images: Tensors [B, ...].
        block_size: Images of a block.

    Returns:
        List of tensors.
    """
    images = [ops.stop_gradient(x) for x in images]
    first, others = _split(images, block_size)
    sums, _ = _loop(
        lambda sums, block: (_added(sums, function(*block)), []), function(*first), others, []
    )
    return sums


def _added(sums, terms):
    return [x + y for x, y in zip(sums, terms, strict=True)]


def _scan(body, carry, images, block_size):
    """Fold `body` over blocks of images.

    Args:
        body: Function from `(carry, block)`, two lists, to `(carry, outputs)`, two lists.
        carry: List of tensors.
        images: Tensors [B, ...].
        block_size: Images of a block.

    Returns:
        `(carry, outputs)`: the last carry, and the outputs of all blocks as tensors [B, ...].
    """
    first, others = _split(images, block_size)
    carry, outputs = body(list(carry), first)
    carry, stacked = _loop(body, carry, others, outputs)
    return carry, [
        ops.concatenate([x, ops.reshape(y, (-1, *ops.shape(x)[1:]))])
        for x, y in zip(outputs, stacked, strict=True)
    ]


def _split(images, block_size):
    """A first block of 1 to `block_size` images, and the others as tensors [blocks, size, ...]."""
    batch = ops.shape(images[0])[0]
    first = (batch - 1) % block_size + 1
    return (
        [x[:first] for x in images],
        [ops.reshape(x[first:], (-1, block_size, *ops.shape(x)[1:])) for x in images],
    )


def _value_and_gradients(function, arguments, upstream=None):
    if keras.backend.backend() == "jax":
        import jax

        value, gradient = jax.vjp(function, *arguments)
        return value, gradient(ops.ones_like(value) if upstream is None else upstream)
    import tensorflow as tf

    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(arguments)
        value = function(*arguments)
    none = tf.UnconnectedGradients.ZERO
    return value, tape.gradient(value, arguments, upstream, unconnected_gradients=none)


def _loop(body, carry, blocks, example):
    """`jax.lax.scan` on both backends.

    `keras.ops.scan` on TensorFlow wants outputs of the shapes of the carry.

    Args:
        body: As in `_scan`.
        carry: List of tensors.
        blocks: Tensors [blocks, size, ...].
        example: The outputs of a block, of any number of images.

    Returns:
        `(carry, outputs)`, with outputs [blocks, size, ...].
    """
    if keras.backend.backend() == "jax":
        import jax

        return jax.lax.scan(body, carry, blocks)
    import tensorflow as tf

    count = tf.shape(blocks[0])[0]
    size = blocks[0].shape[1:2]
    arrays = [
        tf.TensorArray(x.dtype, count, element_shape=size.concatenate(x.shape[1:])) for x in example
    ]

    def step(number, carry, arrays):
        # `block[number]` cannot be compiled by XLA where there are no blocks.
        carry, outputs = body(carry, [tf.gather(block, number) for block in blocks])
        arrays = [array.write(number, x) for array, x in zip(arrays, outputs, strict=True)]
        return number + 1, carry, arrays

    # In parallel, iterations would need the memory of several blocks.
    _, carry, arrays = tf.while_loop(
        lambda number, *_: number < count, step, (0, carry, arrays), parallel_iterations=1
    )
    return carry, [array.stack() for array in arrays]
