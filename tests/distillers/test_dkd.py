import keras
import pytest
from registered_name import has_registered_name

from letkd_keras.distillers import DKD


def _compiled(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, run_eagerly=True)
    return model


def test_the_weight_grows_with_the_steps(setting):
    model = _compiled(DKD(setting.teacher, setting.student(), warm_up_steps=4))
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


def test_saved_and_loaded_it_trains_on(tmp_path, setting):
    model = DKD(
        setting.teacher, setting.student(), alpha=0.5, beta=2.0, temperature=3.0, warm_up_steps=7
    )
    model = _compiled(model)
    model.train_on_batch(setting.x, setting.y)
    model.save(tmp_path / "dkd.keras")
    loaded = keras.models.load_model(tmp_path / "dkd.keras")
    assert has_registered_name(loaded)
    config = loaded.get_config()
    names = ("alpha", "beta", "temperature", "warm_up_steps")
    assert [config[name] for name in names] == [0.5, 2.0, 3.0, 7]
    loaded.run_eagerly = True
    for m in (model, loaded):
        m.reset_metrics()
    logs = [m.train_on_batch(setting.x, setting.y, return_dict=True) for m in (model, loaded)]
    for name in ("dkd", "loss", "task_loss"):
        assert float(logs[0][name]) == pytest.approx(float(logs[1][name]), rel=1e-5)
