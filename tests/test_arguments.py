"""Settings of the trainings: one vocabulary, former names, and what is refused because nothing would follow it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from trl import ModelConfig

from checkout import ROOT
from command_line import run_command
from rlhf_hitl.arguments import parse_arguments
from rlhf_hitl.errors import BadInput
from rlhf_hitl.policy.dpo import DPOSettings, train_dpo
from rlhf_hitl.policy.dpo_pairs import DPOPairArguments
from rlhf_hitl.policy.online_settings import GRPOSettings, RLOOSettings
from rlhf_hitl.policy.ppo.config import PPOConfig
from rlhf_hitl.policy.training import FORMER_NAMES, NAMES_FOR_PPO, UNSUPPORTED_DPO_SETTINGS, DataArguments
from rlhf_hitl.reward.training.full_config import FullTrainingConfig, refuse_unsupported_settings

TRAININGS = {
    "reward": (FullTrainingConfig, ModelConfig),
    "dpo": (DPOSettings, DPOPairArguments, DataArguments),
    "ppo": (PPOConfig, DataArguments),
    "rloo": (RLOOSettings, DataArguments),
    "grpo": (GRPOSettings, DataArguments),
}
#: The words that mean the same in every training.
SHARED = {"model_name_or_path", "output_dir", "report_to"}


@pytest.fixture
def parse(tmp_path):
    """A function that parses YAML and flags as a training does, and returns all settings by name."""

    def parse(training: str, text: str, *flags: str) -> dict:
        file = tmp_path / "settings.yaml"
        file.write_text(text)
        names = NAMES_FOR_PPO if training == "ppo" else FORMER_NAMES
        parsed = parse_arguments(TRAININGS[training], ["--config", str(file), *flags], formerly=names)
        return {name: value for settings in parsed for name, value in vars(settings).items()}

    return parse


@pytest.mark.parametrize("training", TRAININGS)
def test_the_files_of_settings_share_their_words(training, parse):
    text = (ROOT / "configs" / f"{training}.yaml").read_text()
    settings = yaml.safe_load(text)
    assert (SHARED - {"output_dir"} if training != "reward" else SHARED) <= set(settings)
    assert set(NAMES_FOR_PPO if training == "ppo" else FORMER_NAMES).isdisjoint(settings)
    assert isinstance(settings["report_to"], list)
    assert parse(training, text, "--output_dir", "out")["output_dir"] == "out"


@pytest.mark.parametrize("training", TRAININGS)
@pytest.mark.parametrize(
    ("text", "flags", "trackers"),
    [
        ("seed: 1", [], []), ("report_to: none", [], []), ("report_to: [none]", [], []), ("report_to: []", [], []),
        ("report_to: tensorboard", [], ["tensorboard"]), ("report_to: [tensorboard]", [], ["tensorboard"]),
        ("report_to: tensorboard,wandb", [], ["tensorboard", "wandb"]),
        ("report_to: [none]", ["--report_to", "tensorboard", "wandb"], ["tensorboard", "wandb"]),
        ("report_to: [none]", ["--report_to", "tensorboard,wandb"], ["tensorboard", "wandb"]),
    ],
)  # fmt: skip
def test_trackers_are_a_list_in_every_training(training, parse, text, flags, trackers):
    assert parse(training, text, *flags)["report_to"] == trackers


@pytest.mark.parametrize("way", ["file", "flags"])
def test_ppo_takes_the_words_of_trl_that_mean_the_same(way, parse, capsys):
    given = {"max_completion_length": 9, "num_generations": 2}
    text = yaml.safe_dump(given) if way == "file" else "seed: 1"
    settings = parse("ppo", text, *([] if way == "file" else [f"--{name}={value}" for name, value in given.items()]))
    assert (settings["max_new_tokens"], settings["answers_per_prompt"]) == (9, 2)
    notes = capsys.readouterr().err
    assert "max_completion_length is called max_new_tokens here" in notes
    assert "num_generations is called answers_per_prompt here" in notes
    with pytest.raises(BadInput, match="this setting once: it is also given as max_new_tokens"):
        parse("ppo", "max_completion_length: 9\nmax_new_tokens: 8")
    for name in ("beta", "max_steps"):  # in another unit, or of something else
        with pytest.raises(BadInput, match=f"{name}: expected a setting"):
            parse("ppo", f"{name}: 1")


@pytest.mark.parametrize("training", ["dpo", "ppo"])
@pytest.mark.parametrize("way", ["file", "flags", "flags with ="])
def test_former_names_are_taken_and_each_gets_one_line(training, way, parse, capsys):
    text = "policy: a\nout: b" if way == "file" else "seed: 1"
    flags = {"file": [], "flags": ["--policy", "a", "--out", "b"], "flags with =": ["--policy=a", "--out=b"]}[way]
    settings = parse(training, text, *flags)
    assert (settings["model_name_or_path"], settings["output_dir"]) == ("a", "b")
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == 2
    assert "policy is called model_name_or_path here" in notes[0]
    assert "out is called output_dir here" in notes[1]
    assert all(("settings.yaml: " if way == "file" else "--") in note for note in notes)


def test_a_setting_under_both_its_names_is_refused(parse):
    with pytest.raises(BadInput, match=r"settings\.yaml: policy: .* also given as model_name_or_path"):
        parse("ppo", "policy: a\nmodel_name_or_path: b")
    with pytest.raises(BadInput, match=r"--out: .* also given as output_dir"):
        parse("dpo", "seed: 1", "--out", "a", "--output_dir", "b")


def test_an_error_in_a_file_with_former_names_names_that_file(parse):
    with pytest.raises(BadInput, match=r"settings\.yaml: learning_rate ja"):
        parse("ppo", "out: b\nlearning_rate: ja")


REFUSED_OF_DPO = {
    "push_to_hub": "true", "hub_model_id": "me/model", "label_smoothing_factor": "0.1", "do_predict": "true",
    "eval_strategy": "steps", "sync_ref_model": "true", "model_init_kwargs": '{"a": 1}', "hub_token": "hf_x",
    "load_best_model_at_end": "true", "truncation_mode": "keep_end", "eval_on_start": "true",
    "hub_private_repo": "true", "hub_always_push": "true", "hub_strategy": "end", "hub_revision": "x",
    "trust_remote_code": "true",
}  # fmt: skip


def test_every_refused_setting_of_dpo_is_tried():
    assert set(REFUSED_OF_DPO) == set(UNSUPPORTED_DPO_SETTINGS)


@pytest.mark.parametrize("name", REFUSED_OF_DPO)
def test_a_setting_that_dpo_would_not_follow_is_refused_in_one_line(name, tmp_path, sqlite_url):
    value = REFUSED_OF_DPO[name]
    done = run_command("train-dpo", "--store", sqlite_url, "--set", f"{name}={value}", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: --set {name}={value}: expected {name} left out. Fix: ")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_the_trainings_themselves_refuse_it_too(tmp_path, tiny_model):
    settings = DPOSettings(output_dir=str(tmp_path / "out"), push_to_hub=True, use_cpu=True)
    with pytest.raises(BadInput, match="push_to_hub True: expected its default, False"):
        train_dpo(settings, [])
    config = FullTrainingConfig(output_dir=str(tmp_path / "out"), push_to_hub=True, use_cpu=True)
    with pytest.raises(BadInput, match="push_to_hub True: expected its default, False"):
        refuse_unsupported_settings(config, ModelConfig(str(tiny_model)))
    config = FullTrainingConfig(output_dir=str(tmp_path / "out"), use_cpu=True)
    with pytest.raises(BadInput, match="lora_task_type 'TOKEN_CLS'"):
        refuse_unsupported_settings(config, ModelConfig(str(tiny_model), use_peft=True, lora_task_type="TOKEN_CLS"))
    refuse_unsupported_settings(config, ModelConfig(str(tiny_model), use_peft=True, lora_task_type="SEQ_CLS"))


def test_a_tracker_that_is_not_installed_is_named(tmp_path):
    settings = DPOSettings(output_dir=str(tmp_path / "out"), report_to=["swanlab"], use_cpu=True)
    with pytest.raises(BadInput, match="report_to swanlab: expected a tracker that is installed"):
        train_dpo(settings, [])


def test_the_documentation_says_the_present_words():
    for file in [*ROOT.glob("docs/*.md"), ROOT / "README.md", *ROOT.glob("configs/*.yaml"), *ROOT.glob("scripts/*.py")]:
        for line in Path(file).read_text(encoding="utf-8").splitlines():
            if "scripts.train_" in line or "scripts/train_" in line:
                assert "--out " not in line, f"{file.name}: {line}"
                assert "--policy " not in line, f"{file.name}: {line}"
