"""train.models: what an adapter is made of, and that it survives saving, loading and merging in each variant."""

import math

import pytest
import torch

from tests.tiny import make_base, make_model, make_rows
from train.models import ModelError, attach_lora, load_adapter, trainable
from train.per_example import find_taps
from train.settings import LoraSettings

IDS = torch.tensor([make_rows(1)[0].input_ids])
VARIANTS = [{}, {"rslora": True}, {"dora": True}, {"rslora": True, "dora": True}]


def test_rslora_divides_by_the_root_of_the_rank():
    scales = {}
    for rslora in (False, True):
        model = attach_lora(make_base(), LoraSettings(r=4, alpha=6, rslora=rslora), seed=0)
        (scales[rslora],) = {m.scaling["default"] for m in model.modules() if hasattr(m, "lora_A")}
    assert scales == {False: 6 / 4, True: 6 / math.sqrt(4)}


def test_dora_adds_one_trained_magnitude_per_output_and_starts_as_the_base_model():
    base, settings = make_base("gpt2"), LoraSettings(r=2, targets=["c_attn"], dora=True)
    with torch.no_grad():
        before = base(IDS).logits
        model = attach_lora(base, settings, seed=0)
        torch.testing.assert_close(model(IDS).logits, before, rtol=1e-5, atol=1e-5)  # magnitude / norm is 1
    shapes = {name: tuple(p.shape) for name, p in trainable(model).items() if "magnitude" in name}
    assert len(shapes) == 2 and set(shapes.values()) == {(3 * 16,)}


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: "-".join(variant) or "lora")
@pytest.mark.parametrize("architecture", ["llama", "phi3", "gpt2"])
def test_saved_and_merged_adapters_compute_the_same(architecture, variant, tmp_path):
    model = make_model(architecture, targets="all-linear", **variant)
    model.save_pretrained(tmp_path)
    loaded = load_adapter(make_base(architecture), tmp_path).eval()
    assert list(find_taps(loaded)) == list(trainable(model))
    with torch.no_grad():
        wanted = model(IDS).logits
        assert not torch.allclose(wanted, make_base(architecture)(IDS).logits, atol=1e-2)
        torch.testing.assert_close(loaded(IDS).logits, wanted, rtol=0, atol=0)
        merged = loaded.merge_and_unload()
        torch.testing.assert_close(merged(IDS).logits, wanted, rtol=1e-4, atol=1e-4)  # one product instead of three


def test_targets_that_the_model_does_not_have():
    with pytest.raises(ModelError, match=r"lora\.targets \['q_prj'\] name no linear map"):
        attach_lora(make_base(), LoraSettings(targets=["q_prj"]), seed=0)
