"""train.models: what an adapter is made of, and that it survives saving, loading and merging in each variant."""

import math

import pytest
import torch

from tests.tiny import make_base, make_model, make_rows, make_tokenizer
from train.models import (
    ModelError,
    adapter_start,
    attach_lora,
    load_adapter,
    load_base,
    save_adapter,
    save_merged,
    trainable,
)
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


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("init", ["default", "gaussian", "pissa", "olora"])
@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], "all-linear"])
def test_every_start_is_saved_for_the_base_as_it_was_loaded(init, rslora, targets, tmp_path):
    settings = LoraSettings(r=2, alpha=3, init=init, rslora=rslora, targets=targets)
    model = attach_lora(make_base(), settings, seed=3).eval()
    start = adapter_start(model, settings)
    with torch.no_grad():
        # a fresh adapter changes nothing, whatever it took out of the base
        torch.testing.assert_close(model(IDS).logits, make_base()(IDS).logits, rtol=1e-4, atol=1e-4)
        for parameter in trainable(model).values():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.05)
        wanted = model(IDS).logits
        assert (wanted - make_base()(IDS).logits).abs().max() > 1e-3
        save_adapter(model, tmp_path / "adapter", start)
        loaded = load_adapter(make_base(), tmp_path / "adapter").eval()
        torch.testing.assert_close(loaded(IDS).logits, wanted, rtol=1e-4, atol=1e-4)
        save_merged(model, make_tokenizer(), tmp_path / "merged")
        merged = load_base(str(tmp_path / "merged"))
        torch.testing.assert_close(merged(IDS).logits, wanted, rtol=1e-4, atol=1e-4)


def test_start_is_the_same_in_another_process():
    first, second = (adapter_start(attach_lora(make_base(), s, 3), s) for s in [LoraSettings(r=2, init="pissa")] * 2)
    assert first and all(torch.equal(first[name], second[name]) for name in first)


def test_dropout_acts_in_training_only():
    model = make_model(dropout=0.5).train()
    with torch.no_grad():
        assert not torch.equal(model(IDS).logits, model(IDS).logits)
        assert torch.equal(model.eval()(IDS).logits, model(IDS).logits)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_four_bits_without_a_gpu_are_refused(tmp_path):
    with pytest.raises(ModelError, match=r"lora\.quantization 4bit needs a GPU.*set lora\.quantization: none"):
        load_base(str(tmp_path), quantization="4bit")


@pytest.mark.parametrize("changes", [{"dora": True}, {"quantization": "4bit"}])
def test_starts_that_cannot_be_given_back_are_refused(changes):
    with pytest.raises(ValueError, match="choose one"):
        LoraSettings(init="pissa", **changes)
