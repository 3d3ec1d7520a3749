import pytest
from worker_threads import Threads, in_threads

from letkd_keras.recipes.workers import worker_group
from letkd_keras.recipes.workers.jax_worker_group import JaxWorkerGroup


@pytest.mark.parametrize("chunk", [2**22, 3])
def test_messages_of_any_length_reach_all(chunk, monkeypatch):
    monkeypatch.setattr(worker_group, "_CHUNK", chunk)
    messages = [bytes(range(256)), b"", b"odd", b"\xff\xff"]
    assert in_threads(4, lambda group: group.gather(messages[group.index])) == [messages] * 4
    received = in_threads(4, lambda group: group.broadcast(messages[group.index]))
    assert received == [messages[0]] * 4
    received = in_threads(4, lambda group: group.broadcast_json({"from": [group.index, "é"]}))
    assert received == [{"from": [0, "é"]}] * 4


def test_a_message_of_many_bytes_keeps_its_length_where_sums_are_in_float32(monkeypatch):
    # JAX makes float32 of float64.
    plain_sum = Threads.sum
    monkeypatch.setattr(Threads, "sum", lambda group, x: plain_sum(group, x.astype("float32")))
    message = b"\1" * (2**24 + 1)
    (first, second) = in_threads(2, lambda group: group.broadcast(message))
    assert first == second == message


def test_the_loss_of_a_worker_is_a_connection_error():
    class Lost(Threads):
        def errors_of_lost_workers(self):
            return (RuntimeError,)

        def _is_loss(self, error):
            return "gone" in str(error)

    group = Lost(0, {"slots": [None] * 2})
    with pytest.raises(RuntimeError, match="other"), group.watched():
        raise RuntimeError("other")
    assert not group.lost
    with pytest.raises(ConnectionError, match="Start all workers again"), group.watched():
        raise RuntimeError("gone")
    assert group.lost


@pytest.mark.parametrize(
    ("error", "is_loss"),
    [
        (ValueError("Gloo all-reduce failed: Connection closed by peer"), True),
        (ValueError("the file is damaged"), False),
        # A subclass of ValueError, such as that of a damaged JSON file.
        (UnicodeError("no UTF-8"), False),
        (RuntimeError("UNAVAILABLE: connection reset by peer"), True),
        (RuntimeError("RESOURCE_EXHAUSTED: out of memory"), False),
    ],
)
def test_only_errors_of_the_connection_are_the_loss_of_a_worker_of_jax(error, is_loss):
    assert JaxWorkerGroup._is_loss(None, error) == is_loss
