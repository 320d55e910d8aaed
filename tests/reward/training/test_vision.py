"""Images: full training and DPO of a tiny vision model."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, Image, List, Value
from trl import ModelConfig
from vision_models import make_vision_model, paint

from rlhf_hitl.arguments import parse_arguments
from rlhf_hitl.errors import BadInput
from rlhf_hitl.policy.dpo import DPOSettings, train_dpo
from rlhf_hitl.policy.dpo_pairs import DPOPair
from rlhf_hitl.policy.dpo_rows import VisionPairCollator, read_pairs
from rlhf_hitl.reward.model import load_reward_model
from rlhf_hitl.reward.readability import Obstacle
from rlhf_hitl.reward.rendering import Conversation
from rlhf_hitl.reward.training.dataset_rows import read_ranking
from rlhf_hitl.reward.training.full_config import FullTrainingConfig
from rlhf_hitl.reward.training.full_training import build_reward_trainer, run_reward_training, save_trained_model
from rlhf_hitl.reward.vision import VisionReader
from rlhf_hitl.types import Completion, ImagePart, Message, Prompt, Split, TextPart
from rlhf_hitl.types.images import read_image


@pytest.fixture(scope="module")
def vision_model(tmp_path_factory):
    return make_vision_model(tmp_path_factory.mktemp("vision"))


def show(colour, *, with_png: bool = True) -> ImagePart:
    id, png = read_image(paint(colour))
    return ImagePart(id, png=png if with_png else None)


def ask(colour, number: int, **more) -> tuple[Message, ...]:
    return (Message("user", (show(colour, **more), TextPart(f"what is this, {number}"))),)


def say(words: str) -> tuple[Message, ...]:
    return (Message("assistant", words),)


COLOURS = [("red", "blue"), ("blue", "red")] * 6

PART = {"type": Value("string"), "text": Value("string")}
MESSAGES = List({"role": Value("string"), "content": List(PART)})


def text(words: str) -> list[dict]:
    return [{"type": "text", "text": words}]


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """Pairs in TRL's columns: the right answer is the colour, which only the picture says."""
    rows = [
        {
            "prompt": [{"role": "user", "content": [{"type": "image", "text": None}, *text(f"what is this, {i}")]}],
            "chosen": [{"role": "assistant", "content": text(f"it is {colour}")}],
            "rejected": [{"role": "assistant", "content": text(f"it is {other}")}],
            "images": [{"bytes": paint(colour), "path": None}],
        }
        for i, (colour, other) in enumerate(COLOURS)
    ]
    features = Features({"prompt": MESSAGES, "chosen": MESSAGES, "rejected": MESSAGES, "images": List(Image())})
    folder = tmp_path_factory.mktemp("export")
    DatasetDict(train=Dataset.from_list(rows, features=features)).save_to_disk(folder)
    return folder


def build(export, vision_model, out, **flags):
    given = {
        "dataset": export, "output_dir": out, "report_to": "none", "model_name_or_path": vision_model,
        "learning_rate": 3e-3, "num_train_epochs": 12, "per_device_train_batch_size": 12, "logging_steps": 1, "seed": 0,
    } | flags  # fmt: skip
    config, model_config = parse_arguments(
        (FullTrainingConfig, ModelConfig), [x for k, v in given.items() for x in (f"--{k}", str(v))]
    )
    return build_reward_trainer(config, model_config), config


def test_a_row_gets_its_images_in_their_places(export):
    from datasets import load_from_disk

    first, second = read_ranking(load_from_disk(str(export))["train"][0]).chats
    assert first.prompt == second.prompt == ask("red", 0)
    assert first.prompt[0].images[0].png is not None
    row = load_from_disk(str(export))["train"][0]
    with pytest.raises(BadInput, match="images: 1 more than places"):
        read_ranking(row | {"images": [paint("red"), paint("blue")]})
    with pytest.raises(BadInput, match="images: fewer than places"):
        read_ranking(row | {"images": []})


def test_full_training_learns_what_only_the_pictures_say_and_scores_by_them(export, vision_model, tmp_path):
    trainer, config = build(export, vision_model, tmp_path / "out")
    run_reward_training(trainer, config)
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] < 0.7 * losses[0]
    save_trained_model(trainer, config, tmp_path / "model", tmp_path)
    model = load_reward_model(tmp_path / "model", tmp_path / "features")
    red, blue = (
        model.rewards([Conversation(ask(colour, 1), say(f"it is {said}")) for said in ("red", "blue")])
        for colour in ("red", "blue")
    )
    assert np.diff(red)[0] < 0 < np.diff(blue)[0]
    without_png = Conversation(ask("red", 1, with_png=False), say("it is red"))
    assert model.rewards([without_png]) == pytest.approx(red[:1]), "known by the image's id"
    # A picture of the same tokens is another input.
    green = Conversation(ask("green", 1), say("it is red"))
    assert model.cache.make_key(model.cache.backbone.renderer.render(green)) != model.cache.make_key(
        model.cache.backbone.renderer.render(Conversation(ask("red", 1), say("it is red")))
    )
    assert np.isfinite(model.rewards([Conversation((Message("user", "no picture"),), say("fine"))])).all()


def test_a_lora_of_a_vision_model_is_merged_and_scores_pictures(export, vision_model, tmp_path):
    flags = {"use_peft": True, "lora_r": 4, "num_train_epochs": 1}
    trainer, config = build(export, vision_model, tmp_path / "out", **flags)
    run_reward_training(trainer, config)
    save_trained_model(trainer, config, tmp_path / "model", tmp_path)
    model = load_reward_model(tmp_path / "model", tmp_path / "features")
    red, blue = model.rewards([Conversation(ask(colour, 1), say("it is red")) for colour in ("red", "blue")])
    assert red != blue


def test_a_text_that_quotes_the_token_of_an_image_is_named_before_training(vision_model, tmp_path):
    messages = {
        "prompt": [{"role": "user", "content": "what is <|boi|>"}],
        "chosen": [{"role": "assistant", "content": "a token"}],
        "rejected": [{"role": "assistant", "content": "no idea"}],
    }
    DatasetDict(train=Dataset.from_list([messages])).save_to_disk(tmp_path / "data")
    quoting = Prompt.create((Message("user", "what is <|boi|>"),))
    with pytest.raises(BadInput, match=quoting.id):
        build(tmp_path / "data", vision_model, tmp_path / "out")


def make_pairs(numbers=range(12), **more) -> list[DPOPair]:
    pairs = []
    for number, (colour, other) in zip(numbers, COLOURS):
        prompt = Prompt.create(ask(colour, number, **more), split=Split.TRAIN)
        sides = [Completion.create(prompt.id, say(f"it is {said}"), "p") for said in (colour, other)]
        pairs.append(DPOPair(prompt, sides[0], sides[1], "human"))
    return pairs


def test_dpo_learns_what_only_the_pictures_say(vision_model, tmp_path):
    pngs = {show(colour).id: show(colour).png for pair in COLOURS for colour in pair}
    settings = DPOSettings(
        model_name_or_path=str(vision_model), output_dir=str(tmp_path / "tuned"), use_cpu=True, bf16=False, seed=1,
        learning_rate=2e-2,
        num_train_epochs=12, per_device_train_batch_size=12, beta=1.0,
    )  # fmt: skip
    figures = train_dpo(settings, make_pairs([0] * 12, with_png=False), pngs.__getitem__)
    assert figures["rater_pairs"] == 12
    assert figures["loss"] < 0.6  # from log 2
    from rlhf_hitl.models import load_policy, load_processor

    assert load_processor(tmp_path / "tuned") is not None
    assert load_policy(tmp_path / "tuned").config.model_type == "gemma3"


def test_the_collator_of_pairs_gives_what_trls_gives(vision_model):
    from trl.trainer.dpo_trainer import DataCollatorForVisionPreference

    from rlhf_hitl.models import load_processor, load_tokenizer

    processor = load_processor(vision_model)
    vision = VisionReader(processor)
    pairs = make_pairs()[:3]
    ours = VisionPairCollator(vision)(read_pairs(pairs, load_tokenizer(vision_model), 512, vision).rows.to_list())
    stock = DataCollatorForVisionPreference(processor)(
        [
            {
                "prompt": [{"role": "user", "content": [{"type": "image"}, *text(f"what is this, {i}")]}],
                "chosen": [{"role": "assistant", "content": text(f"it is {colour}")}],
                "rejected": [{"role": "assistant", "content": text(f"it is {other}")}],
                "images": [_open(colour)],
            }
            for i, (colour, other) in enumerate(COLOURS[:3])
        ]
    )
    assert ours.keys() == stock.keys()
    for name, value in stock.items():
        assert np.array_equal(ours[name].numpy(), value.numpy()), name


def _open(colour):
    import io

    from PIL import Image as images

    return images.open(io.BytesIO(paint(colour)))


def test_a_text_policy_refuses_images_in_a_line(tiny_model):
    from rlhf_hitl.models import load_tokenizer

    read = read_pairs(make_pairs(), load_tokenizer(tiny_model), 512)
    assert read.left_out.count(Obstacle.IMAGES) == 12
    with pytest.raises(BadInput, match=r"12 of 12 pairs .*reads no images"):
        read.left_out.refuse(12)
