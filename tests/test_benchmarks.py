"""The benchmarks run, and the documentation's figures are theirs."""

import gzip
import json
import math
import os
import re
import shutil
import subprocess
import sys
from glob import glob
from itertools import islice

import pytest
from starlette.testclient import TestClient

from browser_fixtures import CHROMIUM, NO_CHROMIUM
from checkout import ROOT
from forked_processes import forked_commands, run_module
from rlhf_hitl.api.app import create_headless_app
from rlhf_hitl.config import Settings

BENCHMARKS = ROOT / "benchmarks"
needs_postgres = pytest.mark.skipif(
    not glob("/usr/lib/postgresql/*/bin/initdb") and not shutil.which("initdb") and not os.environ.get("CI"),
    reason="no PostgreSQL on this machine: apt-get install postgresql",
)


FIRST_ROWS = {"mtbench_human_joined.jsonl.gz": 1200, "crowd-comparisons.csv": 3000, "helpful-base.test.jsonl.gz": 600}


@pytest.fixture(scope="module")
def some_data(shared_data, tmp_path_factory):
    """The first rows of the real preference sets. A quick run takes no more, and reading all of them takes longest."""
    folder = tmp_path_factory.mktemp("some")
    for path in (p for p in shared_data.rglob("*") if p.is_file()):
        copied = folder / path.relative_to(shared_data)
        copied.parent.mkdir(exist_ok=True)
        first = {
            "mtbench_human_joined.jsonl.gz": 1200,
            "crowd-comparisons.csv": 3000,
            "helpful-base.test.jsonl.gz": 600,
        }
        if (rows := first.get(path.name)) is None:
            copied.symlink_to(path)
            continue
        read = gzip.open if path.suffix == ".gz" else open
        with read(path, "rb") as f, read(copied, "wb") as out:
            out.writelines(islice(f, rows))
    return folder


def quick(script: str, *flags: str) -> dict:
    with forked_commands() as commands:
        env = os.environ | {"RLHF_HITL_TEST_COMMAND": str(commands / "rlhf-hitl")}
        run = run_module(str(BENCHMARKS / script), "--quick", *flags, env=env)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout)["figures"]


def test_replay_runs_on_real_votes(shared_data, tiny_model):
    votes = shared_data / "mt_bench" / "mtbench_human_joined.jsonl.gz"
    figures = quick("replay.py", "--data", str(votes), "--backbone", str(tiny_model))
    assert figures["heldout_labels"] > 0
    assert 0 <= figures["accuracy.low"] <= figures["accuracy"] <= figures["accuracy.high"] <= 1


def test_reward_accuracy_runs_on_real_votes(some_data, tiny_model):
    figures = quick("reward_accuracy.py", "--data", str(some_data), "--backbone", str(tiny_model))
    for name in ("mt_bench", "llmfao", "hh"):
        accuracy, low, high = (figures[f"{name}.accuracy{end}"] for end in ("", ".low", ".high"))
        assert 0 <= low <= accuracy <= high <= 1
        floors = figures[f"{name}.floor.length"], figures[f"{name}.floor.bag_of_words"]
        assert figures[f"{name}.accuracy.floor"] == max(0.5, *floors)
        assert 0 <= figures[f"{name}.ece.low"] <= figures[f"{name}.ece.high"] <= 1


def test_live_learning_follows_simulated_raters(tiny_model):
    figures = quick("live.py", "--backbone", str(tiny_model))
    assert figures["judgments"] > 5
    assert 0 < figures["reorder_p50_s"] <= figures["reorder_p95_s"] <= figures["reorder_max_s"] < 60


def test_features_are_read_fused_and_as_the_library_does(some_data, tiny_model):
    figures = quick("features_speed.py", "--data", str(some_data), "--backbone", str(tiny_model))
    assert figures["tokens_ratio"] == pytest.approx(figures["fused.tokens_per_s"] / figures["library.tokens_per_s"])
    assert 0 < figures["features_difference"] < 0.05  # bfloat16, or nearly nothing
    for name in ("hh", "mt_bench"):
        change = figures[f"{name}.fused.accuracy"] - figures[f"{name}.library.accuracy"]
        assert figures[f"{name}.accuracy_change"] == pytest.approx(change)
        low, high = figures[f"{name}.accuracy_change.low"], figures[f"{name}.accuracy_change.high"]
        assert -1 <= low <= figures[f"{name}.accuracy_change"] <= high <= 1


def test_sampling_is_measured_beside_plain_generate(some_data, tiny_model):
    figures = quick("generation.py", "--data", str(some_data), "--policy", str(tiny_model))
    for part in ("k1", "k4", "eos"):
        ours, plain = figures[f"{part}.ours.tokens_per_s"], figures[f"{part}.generate.tokens_per_s"]
        assert figures[f"{part}.tokens_ratio"] == pytest.approx(ours / plain)
    assert figures["tokens_ratio"] == min(figures["k1.tokens_ratio"], figures["k4.tokens_ratio"]) > 0


def test_labels_are_measured_against_their_peers(some_data, tiny_model):
    figures = quick("labels.py", "--parts", "accuracy", "--data", str(some_data), "--backbone", str(tiny_model))
    for n in (1, 2, 3):
        peers = [figures[f"mt_bench.accuracy.{peer}_{n}"] for peer in ("majority", "dawid_skene", "crowdlab")]
        gain = figures[f"mt_bench.accuracy.consensus_{n}"] - max(peers)
        assert figures[f"mt_bench.accuracy_gain_{n}"] == pytest.approx(gain)
        low, high = (figures[f"mt_bench.accuracy_gain_{n}.{end}"] for end in ("low", "high"))
        assert -1 <= low <= gain <= high <= 1


def test_automation_is_measured_on_real_votes_and_simulated_judges(some_data, tiny_model):
    figures = quick("automation.py", "--data", str(some_data), "--backbone", str(tiny_model))
    for name in ("mt_bench.", "llmfao.", ""):
        for percent in (5, 10):
            assert 0 <= figures[f"{name}coverage_at_{percent}"] <= 1
            assert 0 <= figures[f"{name}oracle_at_{percent}"] <= 1
    assert figures["cascade.gpt4_votes"] > 0
    assert 0 < figures["power.share_at_15"] < figures["power.with_training.share_at_15"] <= 1
    assert figures["power.share_at_15"] < figures["power.share_at_20"]


def test_conservative_rewards_are_measured_by_what_they_choose(tiny_model):
    figures = quick("conservative.py", "--backbone", str(tiny_model))
    shares = [figures[f"50.0.k{k}.pairs"] for k in ("0", "0.5", "1", "2")]
    assert shares[0] == 1
    assert shares == sorted(shares, reverse=True)
    assert figures["50.0.k0.gain"] == 0


def test_temperature_and_doubt_are_measured_at_home_and_elsewhere(some_data, tiny_model):
    figures = quick("doubt.py", "--data", str(some_data), "--backbone", str(tiny_model))
    sets = ("mt_bench", "llmfao", "bundled", "mt_bench_gpt4", "llmfao_gpt4")
    changes = [figures[f"{name}.nll_change"] for name in sets]
    assert figures["nll_change"] == pytest.approx(max(changes))  # of one repeat
    areas = [value for key, value in figures.items() if key.endswith(".auc")]
    assert len(areas) == 6
    assert figures["elsewhere_auc"] == pytest.approx(sum(areas) / 6)
    assert 0 <= figures["shifted_error"] <= 1


def test_prediction_powered_intervals_are_measured_against_plain_ones(some_data, tiny_model):
    figures = quick("ppi.py", "--data", str(some_data), "--backbone", str(tiny_model))
    assert 0.8 < figures["coverage"] <= 1
    for word in ("", ".judge", ".both", ".ceiling"):
        assert 0 < figures[f"width_ratio{word}"] < 1.5


def test_promotions_are_simulated_at_true_win_rates_with_real_predictions(some_data, tiny_model):
    figures = quick("promotion.py", "--data", str(some_data), "--backbone", str(tiny_model))
    assert 0 < figures["wrong"] < 0.2  # of 60 runs, the worst of several win rates and kinds of predictions
    shares = [value for key, value in figures.items() if key.startswith("size_share.at_")]
    assert figures["size_share"] == pytest.approx(sum(shares) / len(shares))
    assert 0 < figures["size_share_ppi"] < 1
    assert figures["power"] > 0.6


def test_labels_that_acquisition_rules_need_are_counted_on_real_votes(some_data, tiny_model):
    flags = "--data", str(some_data), "--backbone", str(tiny_model), "--sets", "mt_bench", "--rules", "auto"
    figures = quick("label_efficiency.py", *flags)
    assert 0 < figures["mt_bench.label_share.random"] <= 1, "it may reach its own target before the budget"
    assert 0 < figures["mt_bench.label_share"] == figures["mean_label_share"] <= 1.25
    assert figures["mt_bench.label_share.low"] <= figures["mt_bench.label_share.high"]


def test_ppo_comes_near_a_known_optimum_and_estimates_its_kl():
    figures = quick("ppo_toy.py")
    assert 0.5 < figures["optimal_share"] <= 1
    assert figures["kl_high_weight"] < figures["kl_low_weight"]
    assert 0 < figures["kl_error"] < 3


def test_the_value_heads_of_ppo_are_measured_on_long_answers():
    figures = quick("ppo_value_head.py")
    for kind in ("linear", "mlp", "shared", "critic"):
        assert figures[f"{kind}.explained_variance"] <= 1
        assert math.isfinite(figures[f"{kind}.reward_gain"])


def test_ordering_a_pool_is_timed():
    figures = quick("route_scale.py")
    assert figures["seconds"] == max(
        figures[f"{rule}.seconds"] for rule in ("random", "d-optimal", "double-reverse-thompson")
    )
    assert figures["d-optimal.prompts"] == figures["batch"], "one comparison of a prompt before the next turn"


@pytest.mark.parametrize("part", ["adaptive", "judge", "teaches"])
def test_labels_are_measured_on_real_votes(some_data, tiny_model, part):
    figures = quick("labels.py", "--parts", part, "--data", str(some_data), "--backbone", str(tiny_model))
    key = {
        "adaptive": "adaptive.votes_share",
        "judge": "judge.human_votes_share",
        "teaches": "teaches.mt_bench.votes",
    }[part]
    assert figures[key] > 0


def test_labels_are_measured_on_simulated_votes():
    figures = quick("labels.py", "--parts", "simulation")
    assert 0.8 < figures["coverage.reliability"] <= 1
    assert figures["spam.majority.spam"] < figures["spam.majority.clean"]
    figures = quick("labels.py", "--parts", "spam")
    assert figures["spam.found"] > figures["spam.false_alarms"]
    figures = quick("labels.py", "--parts", "speed")
    assert figures["time_ratio"] == pytest.approx(figures["fit_seconds"] / figures["dawid_skene_seconds"])


def test_reward_head_runs_on_generated_labels():
    figures = quick("reward_head.py")
    assert figures["labels"] == 500
    assert figures["refit_s"] > 0
    assert 0 < figures["update_ms"] < 1000 * figures["refit_s"]
    assert figures["agreement"] > 0.7


@pytest.mark.parametrize("script", ["reward_training.py", "reward_scoring.py"])
def test_the_reward_models_speed_is_measured_against_the_stock_one(script, some_data, tiny_model):
    figures = quick(script, "--data", str(some_data), "--backbone", str(tiny_model))
    assert figures["pairs"] == 8
    assert figures["pairs_ratio"] == pytest.approx(figures["ours.pairs_per_s"] / figures["stock.pairs_per_s"])
    assert figures["processor.pairs_ratio"] > 0
    assert figures.get("score_difference", 0) < 1e-4


@pytest.mark.timeout(300)  # processes of their own
def test_our_side_of_the_comparison_with_trls_ppo_runs(tmp_path):
    figures = quick("vs_trl_ppo.py", "--peer-env", str(tmp_path / "none"))
    assert figures["ours.episodes_per_processor_s"] > 0
    assert figures["ours.peak_mb"] > figures["ours.growth_mb"] > 0
    assert 0 < figures["base.reward"] < 1
    assert 0 < figures["ours.reward"] < 1


@pytest.mark.timeout(300)
def test_the_checks_for_a_gpu_run_on_a_cpu():
    sections = "precision", "attention", "features", "reward", "dpo", "ppo", "train_ppo", "trl_ppo"
    figures = quick("gpu.py", "--sections", *sections)
    assert figures["sections_done"] == 7
    assert figures["sections_skipped"] == 1, "this environment's TRL has no PPO"
    assert figures["precision.float32.trees_difference"] < 1e-5 < figures["precision.states_difference"] < 0.05
    assert figures["attention.float32.states_difference"] < 1e-5
    assert figures["features.mfu"] is None, "the peak of a CPU is not known"
    for rate in ("reward.pairs_per_s", "dpo.pairs_per_s", "ppo.episodes_per_s", "train_ppo.episodes_per_s"):
        assert figures[rate] > 0


def test_the_memory_of_a_layer_is_counted_as_pytorch_keeps_it(monkeypatch):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from memory_model import count_layer_activations, count_lora_parameters
    from random_models import Shape, build_tokenizer, make_config

    def count_kept(layers: int, mode: str, dtype: torch.dtype) -> tuple[float, int]:
        shape = Shape(layers, 64, 192, 8, 4, 512)
        model = LlamaForCausalLM(make_config(shape, build_tokenizer(512))).to(dtype)
        if mode == "lora":
            lora = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
            model = get_peft_model(model, lora)
            trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
            assert trained == count_lora_parameters(shape, 16)
            model = model.base_model.model
        else:
            assert sum(p.numel() for p in model.parameters()) == shape.parameters
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        kept: dict[int, torch.UntypedStorage] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage
            return tensor

        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t),
            torch.autocast("cpu", enabled=mode == "autocast"),
        ):
            model.model(input_ids=torch.randint(3, 500, (2, 32)), use_cache=False)
        return sum(storage.nbytes() for storage in kept.values()) / 64, shape.layer_parameters

    shape = Shape(1, 64, 192, 8, 4, 512)
    for mode, dtype in (
        ("plain", torch.float32), ("plain", torch.bfloat16), ("autocast", torch.float32),
        ("lora", torch.float32), ("lora", torch.bfloat16),
    ):  # fmt: skip
        (one, _), (two, of_layer) = count_kept(1, mode, dtype), count_kept(2, mode, dtype)
        casts = 2 * of_layer / 64 if mode == "autocast" else 0
        counted = count_layer_activations(shape, mode, dtype.itemsize, 16)
        assert two - one - casts == pytest.approx(counted), (mode, dtype)


def test_the_estimate_of_memory_is_near_what_training_takes():
    figures = quick("scale.py")
    assert figures["memory_estimate_error"] < 0.6, "a model of 2M weights: the allocator alone takes 20 MB"
    assert figures["70b.reward.one.gb"] > figures["device_gb"] > figures["8b.dpo.one.gb"]
    assert figures["70b.dpo.fsdp2.gb"] < figures["70b.dpo.ddp.gb"]
    assert "70b.ppo.fsdp2.gb" not in figures, "PPO refuses to shard weights"


@pytest.mark.timeout(300)
def test_real_tuning_compares_answers_before_and_after(shared_data, tiny_model):
    figures = quick("real_tuning.py", "--data", str(shared_data), "--backbone", str(tiny_model))
    for gain in ("reward_gain", "gold_gain"):
        assert figures[f"{gain}.low"] <= figures[gain] <= figures[f"{gain}.high"]
        assert 0 <= figures[f"{gain}.wins"] <= 1
    assert figures["prompts"] > 0
    assert 0 < figures["proxy.accuracy"] < 1


@pytest.mark.timeout(300)
def test_the_first_minutes_end_in_a_model_above_its_floors_and_a_router_that_accepts():
    figures = quick("first_minutes.py")
    assert figures["clear_of_floors"] == figures["runs"] == 1
    assert figures["accuracy_over_floor"] >= 0.1
    assert 0 < figures["accepted_share"] < 1


@pytest.mark.timeout(300)
def test_loop_time_runs_from_an_empty_folder(tiny_model):
    figures = quick("loop_time.py", "--policy", str(tiny_model))
    assert figures["judgments"] == 60
    assert figures["minutes"] > 0


def test_cards_of_texts_that_take_long_are_measured_through_the_page():
    figures = quick("card_rendering.py")
    assert figures["cards"] == 10
    assert 0 < figures["card_p50_ms"] <= figures["card_p99_ms"] <= figures["card_max_ms"] < 10_000
    assert figures["ping_max_ms"] < 5_000


def test_a_mistake_is_answered_with_one_line_by_a_process_of_its_own():
    figures = quick("error_latency.py")
    assert figures["mistakes"] == figures["runs"] == 6
    assert 0 < figures["p50_s"] <= figures["p95_s"] <= figures["worst_s"]


@needs_postgres
def test_what_raters_notice_of_attacks_is_measured():
    figures = quick("hostile_load.py", "--only", "bodies", "connections", "imports")  # for cards there is a test
    for name in ("healthz_p99_ms", "slow_senders_ratio"):
        assert figures[name] > 0
    assert figures["nobody.answered_401"] > 0
    assert figures["lead.answered_422"] > 0
    assert figures["slow_senders.connections_open"] > 20
    for database in ("sqlite", "postgres"):
        assert figures[f"{database}.import_submit_ratio"] > 0
        assert figures[f"{database}.refused"] == 0


def test_the_attack_on_bodies_leaves_no_operation_out(sqlite_store, tmp_path):
    app = create_headless_app(sqlite_store, Settings(store=sqlite_store.url, workspace=tmp_path))
    described = TestClient(app).get("/api/v1/openapi.json").json()["paths"]
    take_bodies = {
        f"{method.upper()} /api/v1{path}"
        for path, operations in described.items()
        for method, operation in operations.items()
        if "requestBody" in operation
    }
    attacked = (BENCHMARKS / "attackers.py").read_text(encoding="utf-8")
    for target in take_bodies:
        assert re.search(re.sub(r"\{\w+\}", "\\\\w+", f'"{target}":'), attacked), target


@needs_postgres
@pytest.mark.timeout(600)  # a server starts six times
def test_no_confirmed_judgment_is_lost_when_server_and_database_are_killed():
    figures = quick("crash.py", "--kills", "2")
    assert figures["postgres.server_kills"] == 1
    for database in ("sqlite", "postgres"):
        assert figures[f"{database}.kills"] == 2
        assert figures[f"{database}.confirmed"] > 2 * 16
        for wrong in ("lost", "doubled", "unasked", "overshot"):
            assert figures[f"{database}.{wrong}"] == 0, wrong


@needs_postgres
def test_concurrent_raters_leave_exactly_the_judgments_wanted():
    figures = quick("contention.py")
    assert figures["sqlite.judgments"] == figures["postgres.judgments"] == figures["wanted"] == 120
    assert figures["repeats"] == figures["overshot"] == 0


@needs_postgres
def test_queue_scale_runs_on_both_databases():
    figures = quick("queue_scale.py")
    for database in ("sqlite", "postgres"):
        assert 0 < figures[f"{database}.p50_ms_2k"] <= figures[f"{database}.p95_ms_2k"]
        assert figures[f"{database}.p95_growth"] > 0


def test_bulk_runs_on_sqlite():
    figures = quick("bulk.py", "--databases", "sqlite")
    assert figures["peak_mb"] > 0
    assert figures["export_rows_per_s"] > 0


@needs_postgres
def test_our_half_of_the_label_studio_comparison_runs():
    figures = quick("vs_label_studio.py", "--ours")
    assert figures["ours.one.cycles_per_s"] > 0
    assert figures["ours.answered_twice"] == 0


@pytest.mark.browser
def test_the_rater_pages_speed_is_measured_against_a_bare_gradio_page():
    pytest.importorskip("playwright")
    if CHROMIUM is None and not os.environ.get("CI"):
        pytest.skip(NO_CHROMIUM)
    figures = quick("rater_latency.py")
    assert figures["n"] == figures["confirmed_n"] > 0
    assert 0 < figures["p50_ms"] <= figures["p95_ms"]
    assert figures["p95_ratio"] == figures["p95_ms"] / figures["bare_p95_ms"]


def test_the_figures_in_the_documentation_match_the_results():
    run = subprocess.run(
        [sys.executable, str(BENCHMARKS / "figures.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
