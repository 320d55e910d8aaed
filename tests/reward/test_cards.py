"""Cards of models: what the hub reads in them, and that their code loads the model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from command_line import run_command
from rlhf_hitl.policy.before_after import AnswerChange
from rlhf_hitl.policy.policy_folder import save_policy
from rlhf_hitl.reward.model import load_reward_model
from rlhf_hitl.reward.rendering import Conversation
from rlhf_hitl.store.reward_models import list_reward_models
from rlhf_hitl.types import Message


def run_code(folder: Path) -> list[dict]:
    """Run each block of Python in the card of a folder, and return what it defined."""
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    defined = []
    for block in blocks:
        defined.append({})
        exec(block.replace("FOLDER", str(folder)), defined[-1])
    return defined


def test_the_card_of_a_head_loads_it(judged_store, trained_model):
    folder = Path(list_reward_models(judged_store)[-1].path)
    [made] = run_code(folder)
    conversations = [Conversation(made["prompt"], answer) for answer in made["answers"]]
    assert made["rewards"].tolist() == load_reward_model(folder).rewards(conversations).tolist()
    metadata = ModelCard.load(folder / "README.md").data
    assert (metadata.library_name, metadata.license) == ("rlhf_hitl", "unknown")


@pytest.mark.timeout(300)
def test_the_card_of_a_full_model_loads_it_with_transformers_and_gives_the_same_reward(
    judged_store, tiny_model, tmp_path, monkeypatch
):
    monkeypatch.setenv("RLHF_HITL_WORKSPACE", str(tmp_path / "w"))
    (tmp_path / "c.yaml").write_text(f"model_name_or_path: {tiny_model}\nmax_steps: 2\nbf16: false\nuse_cpu: true\n")
    done = run_command(
        "train-reward", "--backend", "full", "--config", tmp_path / "c.yaml", "--json", "--store", judged_store.url
    )
    assert done.returncode == 0, done.stderr[-3000:]
    folder = Path(json.loads(done.stdout)["path"])
    ours, plain = run_code(folder)
    others = load_reward_model(folder).rewards([Conversation(ours["prompt"], ours["answers"][0])])
    assert plain["reward"] == pytest.approx(float(others[0]), abs=1e-4)
    assert ours["rewards"][0] == pytest.approx(float(others[0]), abs=1e-5)
    assert ModelCard.load(folder / "README.md").data.library_name == "transformers"
    assert not [p for p in folder.rglob("*") if "features" in p.name or p.suffix == ".arrow"]


@pytest.mark.parametrize("merge", [True, False])
def test_the_card_of_a_policy_loads_it(tiny_model, tmp_path, merge):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), LoraConfig(task_type="CAUSAL_LM", r=2))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    card = {"method": "dpo", "settings": {"beta": 0.1}, "loss": 0.5, "history": [{"loss": 0.7}, {"loss": 0.5}]}
    card |= {"rater_pairs": 3, "simulated_rater_pairs": 3}
    hostile = "fine\n```\n# A heading <script>alert(1)</script>"
    samples = [AnswerChange((Message("user", "Hello"),), hostile, "")]
    save_policy(model, tokenizer, tmp_path / "out", base=str(tiny_model), merge=merge, card=card, samples=samples)  # type: ignore[arg-type]
    [made] = run_code(tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert f"````text\n{hostile}\n````" in text, "no text of an answer is markup"
    assert "(an answer without text)" in text
    assert "training.svg" in text
    assert "on *simulated* preferences" in text
    assert json.loads((tmp_path / "out" / "training.json").read_text())["simulated"] is True
    assert (tmp_path / "out" / "training.svg").read_text().startswith("<svg style=")
    assert (tmp_path / "out" / "config.yaml").read_text() == "beta: 0.1\n"
    assert [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").open()] == card["history"]
    assert isinstance(made["answer"], str)
    metadata = ModelCard.load(tmp_path / "out" / "README.md").data
    assert metadata.library_name == ("transformers" if merge else "peft")
    assert str(tiny_model.parent) not in (tmp_path / "out" / "README.md").read_text()
