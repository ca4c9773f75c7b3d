"""train.models, adapters: every field of the settings reaches peft, what cannot be given back is refused before
training, and checkpoints, exports and a resumed run compute the same."""

import json
from importlib.util import find_spec

import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors import safe_open

from tests.tiny import make_base, make_rows, make_tokenizer
from train.models import (
    ADAPTER_FILE,
    ModelError,
    adapter_start,
    attach_lora,
    load_adapter,
    load_base,
    save_adapter,
    save_merged,
    trainable,
)
from train.settings import LoraSettings

IDS = torch.tensor([make_rows(1)[0].input_ids])
CLOSE = {"rtol": 1e-4, "atol": 1e-4}  # the same product, summed in another order


def move(model, seed=1):
    """A step of training, as far as saving is concerned."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return model


@torch.no_grad()
def logits(model):
    return model.eval()(IDS).logits


def test_rank_alpha_and_dropout_reach_every_map():
    model = attach_lora(make_base(), LoraSettings(r=3, alpha=7.5, dropout=0.25, targets="all-linear"), seed=0)
    maps = [module for module in model.modules() if hasattr(module, "lora_A")]
    assert len(maps) == 2 * 7
    for module in maps:
        assert module.lora_A["default"].weight.shape == (3, module.in_features)
        assert module.lora_B["default"].weight.shape == (module.out_features, 3)
        assert module.scaling["default"] == 7.5 / 3
        assert module.lora_dropout["default"].p == 0.25


@pytest.mark.parametrize("targets", [["q_proj", "down_proj"], ["layers.1.self_attn.q_proj"], ["q_proj", "lm_head"]])
def test_targets_name_what_is_adapted(targets):
    model = attach_lora(make_base(), LoraSettings(r=2, targets=targets), seed=0)
    adapted = {name.partition(".lora_")[0] for name in trainable(model)}
    linear = [name for name, module in model.named_modules() if hasattr(module, "weight")]
    assert adapted == {name for name in linear if any(name.endswith(f".{target}") for target in targets)}


def test_every_target_must_exist():
    """peft adapts the ones it finds and says nothing about the others."""
    with pytest.raises(ModelError, match=r"there is no 'v_prj', did you mean 'v_proj'\?; use all-linear"):
        attach_lora(make_base(), LoraSettings(targets=["q_proj", "v_prj"]), seed=0)


@pytest.mark.parametrize("init", ["default", "gaussian"])
def test_spread_of_a_random_start(init):
    model = attach_lora(make_base(), LoraSettings(r=8, init=init, targets="all-linear"), seed=0)
    a_side = torch.cat([p.detach().flatten() for name, p in trainable(model).items() if "lora_A" in name])
    assert not any(p.any() for name, p in trainable(model).items() if "lora_B" in name)
    if init == "gaussian":
        assert a_side.std().item() == pytest.approx(1 / 8, rel=0.05)  # three standard errors of 1,920 numbers
        assert a_side.abs().max() > 3 / 8
    else:
        assert a_side.abs().max() <= 1 / 16**0.5  # uniform up to 1 / sqrt(inputs), which are 16 or 24


@pytest.mark.parametrize("rslora", [False, True])
def test_pissa_takes_the_largest_singular_directions(rslora):
    settings = LoraSettings(r=3, alpha=5, init="pissa", targets=["up_proj"], rslora=rslora)
    wanted = make_base().model.layers[1].mlp.up_proj.weight.detach()
    module = attach_lora(make_base(), settings, seed=0).base_model.model.model.layers[1].mlp.up_proj
    U, S, Vh = torch.linalg.svd(wanted)
    top = U[:, :3] @ torch.diag(S[:3]) @ Vh[:3]
    torch.testing.assert_close(module.get_delta_weight("default").detach(), top, **CLOSE)
    torch.testing.assert_close(module.get_base_layer().weight, wanted - top, **CLOSE)


@pytest.mark.parametrize("init", ["default", "gaussian", "pissa", "olora"])
def test_a_start_depends_on_the_seed_alone(init):
    settings = LoraSettings(r=2, init=init)
    states = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        states.append(get_peft_model_state_dict(attach_lora(make_base(), settings, seed=5)))
        torch.rand(noise)
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("init", ["default", "pissa"])
def test_every_process_saves_the_same_configuration(init, tmp_path):
    """peft keeps the targets in a set, whose order is another one in every process."""
    settings = LoraSettings(r=2, init=init, targets=["v_proj", "down_proj", "q_proj", "gate_proj", "up_proj", "k_proj"])
    model = attach_lora(make_base(), settings, seed=0)
    start = adapter_start(attach_lora(make_base(), settings, seed=0), settings) if settings.changes_base else None
    save_adapter(model, tmp_path, start)
    targets = json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]
    assert targets == sorted(settings.targets)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_plain_form_of_a_start_has_twice_the_rank_and_the_same_scale(init, rslora, tmp_path):
    settings = LoraSettings(r=2, alpha=3, init=init, rslora=rslora)
    model = attach_lora(make_base(), settings, seed=0)
    save_adapter(move(model), tmp_path, adapter_start(attach_lora(make_base(), settings, seed=0), settings))
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["init_lora_weights"], config["inference_mode"]) == (4, True, True)
    scale = 3 / 2**0.5 if rslora else 3 / 2
    assert config["lora_alpha"] / (4**0.5 if config["use_rslora"] else 4) == pytest.approx(scale)
    assert not list(tmp_path.glob("*.bin")) + list(tmp_path.glob("*.pt"))


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_a_resumed_run_saves_the_same_adapter(init, tmp_path):
    """Checkpoints hold the adapter as it is trained; its start is computed again from base and seed."""
    settings = LoraSettings(r=2, init=init, targets="all-linear")
    model = attach_lora(make_base(), settings, seed=3)
    start = adapter_start(model, settings)
    move(model).save_pretrained(tmp_path / "checkpoint")
    save_adapter(move(model, seed=2), tmp_path / "whole", start)

    again = attach_lora(make_base(), settings, seed=3)
    start = adapter_start(again, settings)
    again.load_adapter(str(tmp_path / "checkpoint"), "default", is_trainable=True)  # as transformers.Trainer does
    save_adapter(move(again, seed=2), tmp_path / "resumed", start)
    assert (tmp_path / "whole" / ADAPTER_FILE).read_bytes() == (tmp_path / "resumed" / ADAPTER_FILE).read_bytes()


@pytest.mark.parametrize("init", ["default", "pissa", "olora"])
def test_a_checkpoint_computes_on_the_base_what_was_trained(init, tmp_path):
    model = move(attach_lora(make_base(), LoraSettings(r=2, init=init), seed=3))
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(logits(load_adapter(make_base(), tmp_path)), logits(model), **CLOSE)


@pytest.mark.parametrize(
    ("architecture", "targets", "r", "init", "reason"),
    [
        ("llama", ["k_proj"], 9, "pissa", r"k_proj: lora\.r 9 is more than the 8 of its smaller side"),
        ("llama", ["k_proj"], 9, "olora", r"k_proj: lora\.r 9 is more than the 8 of its smaller side"),
        ("llama", ["q_proj", "lm_head"], 2, "pissa", "lm_head: its weights are those of another layer too"),
        ("qwen2", ["q_proj", "embed_tokens"], 2, "pissa", "embed_tokens: it is an embedding"),
        ("gpt2", ["c_attn"], 2, "olora", "c_attn: it keeps its weights transposed"),
        ("mixtral", "all-linear", 2, "pissa", "fused experts"),
    ],
)
def test_starts_that_the_base_could_not_get_back(architecture, targets, r, init, reason):
    with pytest.raises(ModelError, match=rf"lora\.init {init} cannot start on .*{reason}.* use lora\.init: default"):
        attach_lora(make_base(architecture), LoraSettings(r=r, targets=targets, init=init), seed=0)


@pytest.mark.parametrize(("architecture", "init"), [("llama", "default"), ("qwen2", "default"), ("qwen2", "pissa")])
def test_adapted_output_head(architecture, init, tmp_path):
    """llama's head is tied: it is merged into a copy, for adding to the shared weights would change the embeddings."""
    settings = LoraSettings(r=2, targets=["q_proj", "lm_head"], init=init)
    model = attach_lora(make_base(architecture), settings, seed=0)
    start = adapter_start(model, settings)
    wanted = logits(move(model))
    save_adapter(model, tmp_path / "adapter", start)
    with safe_open(tmp_path / "adapter" / ADAPTER_FILE, framework="pt") as file:
        assert all(".lora_" in name for name in file.keys())  # noqa: SIM118  # not iterable
    torch.testing.assert_close(logits(load_adapter(make_base(architecture), tmp_path / "adapter")), wanted, **CLOSE)
    save_merged(model, make_tokenizer(), tmp_path / "merged")
    merged = load_base(str(tmp_path / "merged"))
    torch.testing.assert_close(logits(merged), wanted, **CLOSE)
    embeddings = make_base(architecture).get_input_embeddings().weight
    assert torch.equal(merged.get_input_embeddings().weight.cpu(), embeddings)


@pytest.mark.parametrize("variant", [{}, {"rslora": True}, {"dora": True}], ids=lambda variant: "-".join(variant))
@pytest.mark.skipif(not torch.cuda.is_available() or find_spec("bitsandbytes") is None, reason="4 bits need both")
def test_adapter_on_four_bits(variant, tmp_path):
    make_base().save_pretrained(tmp_path / "base")
    settings = LoraSettings(r=2, quantization="4bit", **variant)
    model = attach_lora(load_base(str(tmp_path / "base"), quantization="4bit"), settings, seed=0)
    assert model.base_model.model.model.layers[0].self_attn.q_proj.get_base_layer().weight.dtype == torch.uint8
    assert {p.dtype for p in trainable(model).values()} == {torch.float32}
    ids = IDS.to(model.device)
    model(ids, labels=ids).loss.backward()
    assert all(p.grad is not None for p in trainable(model).values())
    save_adapter(move(model), tmp_path / "adapter")
    again = load_adapter(load_base(str(tmp_path / "base"), quantization="4bit"), tmp_path / "adapter")
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(ids).logits, model.eval()(ids).logits, rtol=0, atol=0)
