import json

import pytest

from latently.interfaces.demo import MODELS


@pytest.mark.long
def test_demo_writes_everything_and_its_models_answer(done, tmp_path):
    folder = tmp_path / "a demo"
    shown = done("demo", "--quick", "--out", folder)
    pages = {"report.html", "samples.png", "reconstructions.png"}
    models = {f"{name}.safetensors" for name in MODELS}
    assert {path.name for path in folder.iterdir()} == pages | models
    for name in (*MODELS, *pages, "Best on validation", "lower bound"):
        assert name in shown
    found = done("evaluate", folder / "iwae.safetensors", "--data", "digits", "--json")
    assert json.loads(found)["kind"] == "lower_bound"
