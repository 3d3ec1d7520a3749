import keras
import pytest

from letkd_keras.distillers import DKD


def test_the_weight_grows_with_the_steps(setting):
    model = DKD(setting.teacher, setting.student(), warm_up_steps=4)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, run_eagerly=True)
    for step in range(6):
        model.reset_metrics()
        logs = model.train_on_batch(setting.x, setting.y, return_dict=True)
        total = logs["task_loss"] + min((step + 1) / 4, 1) * logs["dkd"]
        assert float(logs["loss"]) == pytest.approx(float(total), rel=1e-5)


def test_labels_may_be_integers_columns_or_distributions(setting):
    losses = []
    for labels in (setting.y, setting.y[:, None], keras.utils.to_categorical(setting.y, 3)):
        model = DKD(setting.teacher, setting.student())
        model.compile("sgd", lambda y_true, y_pred: 0.0 * keras.ops.sum(y_pred, axis=-1))
        model.run_eagerly = True
        losses.append(float(model.train_on_batch(setting.x, labels, return_dict=True)["dkd"]))
    assert losses[0] == losses[1] == losses[2]
