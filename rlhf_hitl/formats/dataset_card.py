"""The card of an export, `README.md`: YAML that `datasets`, TRL and the hub read, and what a reader must know."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment

from rlhf_hitl.errors import BadInput
from rlhf_hitl.formats.export_files import WrittenTables, get_table_file
from rlhf_hitl.formats.snapshot import Snapshot
from rlhf_hitl.labels.quality_report import POPULATION_TITLES, say_coefficient
from rlhf_hitl.stats.agreement import Coefficient
from rlhf_hitl.types import Split
from rlhf_hitl.wording import say_count

CARD_FILE = "README.md"

#: What each table holds, for the card.
ABOUT = {
    "pairs": "a row for each pair of completions of which raters prefer one: `prompt`, `chosen`, `rejected`, as TRL's "
    "reward and DPO trainers take them, with their labels",
    "rankings": "a row for each comparison: all `completions`, and in `rankings` their ranks in every judgment that "
    "counts (0 is the best, equal ranks are a tie, -1 was not ranked), with what each is worth in `weights`; a judge's "
    "probabilities are a ranking for each outcome",
    "judgments": "a row for every judgment: also ties, both bad, skips, flags, surplus and corrected ones",
    "demonstrations": "a row for each better answer that a rater wrote: `prompt`, `completion`, as TRL's SFT trainer "
    "takes them",
    "ratings": "a row for each number that a rater gave to one completion by itself, on its own scale from `lowest` to "
    "`highest`",
}

_TEMPLATE = """---
{{ metadata }}
---
# {{ title }}

{% if m.simulated %}
**{{ m.simulated_judgments|count("judgment") }} of {{ judgments|number }}
{%- if m.labels.model %}, or labels of models that learnt from such,{% endif %} come from simulated raters.**

{% endif %}
Human preferences between answers of language models, made with rlhf_hitl {{ m.rlhf_hitl_version }} on
{{ m.created_at[:10] }} from {% if m.project %}the project {{ m.project|code }} of {% endif %}a store at revision
{{ m.store_revision }}. Its content is `{{ m.content_hash }}`.

## How to read it

```python
from datasets import load_dataset

{{ default }} = load_dataset("{{ place }}")
{% for config in configs if config != default %}
{{ config }} = load_dataset("{{ place }}", "{{ config }}")
{% endfor %}
```

{% if "pairs" in configs %}
```text
trl reward --dataset_name {{ place }} --model_name_or_path MODEL --output_dir OUT
trl dpo --dataset_name {{ place }} --model_name_or_path MODEL --output_dir OUT
```

To evaluate while training, add `--eval_strategy steps --dataset_test_split {{ evaluated }}`.

{% endif %}
| configuration |{% for split in splits %} {{ split }} |{% endfor %} what it holds |
| --- |{% for _ in splits %} ---: |{% endfor %} --- |
{% for config in about %}
| `{{ config }}` |{% for split in splits %} {{ m[keys[config]][split]|number }} |{% endfor %} {{ about[config] }} |
{% endfor %}

`datasets` reads no table without rows, so the splits and configurations without any are not named in the YAML above.
{% if files_of_all %}
Their files are there all the same.
{% endif %}
`manifest.json` has these counts for programs.

## Raters

{{ m.raters|count("rater") }} made {{ judgments|count("judgment") }}{% if m.simulated_judgments %},
of which {{ m.simulated_judgments|number }} are simulated{% endif %}{% if m.judge_judgments %}, of which
{{ m.judge_judgments|number }} are of AI judges (`role` is `judge` in `judgments`){% endif %}.
{% if not m.include_judges %}
What AI judges said was left out.
{% endif %}
{% for population, a in m.agreement.items() %}
{% if a.vote_pairs %}
Two votes of {{ titles[population] }} on the same two completions say the same (the first is better, the second is
better, neither is) in {{ a.pairwise|share }} of {{ a.vote_pairs|count("case") }}. Corrected for chance: Krippendorff's
alpha {{ a.alpha_nominal|coefficient }} (nominal) and {{ a.alpha_ordinal|coefficient }} (ordinal), Fleiss' kappa
{{ a.fleiss_kappa|coefficient }}, Gwet's AC1 {{ a.gwet_ac1|coefficient }}, from {{ a.votes|count("vote") }} on
{{ a.comparisons|count("comparison") }} with two votes or more, with 95 % intervals clustered by comparison.
{% elif population == "people" %}
No two people have judged the same two completions, so their agreement is not known.
{% endif %}

{% endfor %}

## How it was made

- **Labels**: `p_chosen`, `p_tie` and `p_rejected` say how likely it is that a rater prefers `chosen`, neither, or
  `rejected`, by the label model `{{ m.label_model }}`:
{% if m.label_model == "shares" %}
  the plain shares of the votes.
{% elif m.label_model == "majority" %}
  what most votes say, for certain.
{% elif m.label_model == "raters" %}
  what a reference rater would say, given how reliable the raters of the votes have been, which side they favour and
  how readily they call a tie.
{% elif m.label_model == "dawid-skene" %}
  what is true, given how often each rater says what.
{% else %}
  Bradley and Terry's model, with ties.
{% endif %}
  `w_chosen`, `w_tie` and `w_rejected` are what the votes are worth, in votes of a reference rater, and `weight` is
  their sum. Both bad counts as neither. Skips, flags, surplus judgments, hidden repeats, tasks with known answers and
  superseded judgments do not count. Where a lead has decided (`adjudicated`), that is the label. `min_votes` was
  {{ m.min_votes }}.
{% if m.reliability %}
- **Reliability** of the {{ m.reliability.raters|count("rater") }}, 1 being the typical one's:
  {{ m.reliability.median }} in the middle, {{ m.reliability.lowest_tenth }} to {{ m.reliability.highest_tenth }} for
  the middle 80 %. {{ "{:.1%}".format(m.reliability.random_share) }} of raters answer without looking.
{% endif %}
{% if m.labels.judge %}
- **AI judges** alone voted on {{ m.labels.judge|count("pair") }} in `train` (`label_source` is `judge`).
{% endif %}
{% if m.include_ties %}
- **Ties are among the pairs**, for trainers that read `p_tie`. TRL's own trainers take every row as a preference.
{% endif %}
- **Labels of models**: {% if m.labels.model %}{{ m.labels.model|count("pair") }} in `train` were accepted on a reward
  model's score and judged by nobody (`label_source` is `model`).{% else %}none.{% endif %}

- **Splits**: a hash of a conversation's opening turn puts it into train (65 %), calibration (15 %) or heldout (20 %)
  for good, unless the file it came from, or who imported it, named a split. Prompts that open alike are in one split.
- **Left out of the pairs**: {% if m.filters %}{% for why, n in m.filters.items() %}{{ n|number }} {{ why }}
{%- if not loop.last %}, {% endif %}{% endfor %}. Their judgments are in `judgments`.{% else %}nothing.{% endif %}

{% if not kinds.only_text %}
- **Messages** that are more than a role and a text (parts, tool calls, reasoning) are JSON, one text a message, which
  `datasets` 5 reads as objects. It rounds some numbers in the last of 16 digits; the files hold them as they were.
{% endif %}
{% if kinds.tools %}
- **Tools** that a prompt offers are JSON in `tools`, as TRL reads them.
{% endif %}
{% if kinds.images %}
- **Images** are in `images`, for each row in the order of their places, `{"type": "image"}`: first those of the prompt,
  then those of the completions. TRL takes images of the prompt only.
{% endif %}
{% for why, n in m.changed.items() %}
- **Changed**: {{ n|number }} {{ why }}.
{% endfor %}

## Licence

{% if m.license == "unknown" %}
Not stated. Whoever publishes this says under which licence, and has asked raters, authors of prompts and providers of
models.
{% else %}
{{ m.license }}
{% endif %}
"""


def check_license(license: str) -> str:
    """Return a licence as the hub names it. Raises BadInput for what cannot be such a name."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]{0,59}", license):
        raise BadInput(
            f"--license {license!r}",
            expected="a name as the hub has it, such as cc-by-4.0, apache-2.0, other or unknown",
            fix="write it in small letters, without spaces",
        )
    return license


def write_dataset_card(
    folder: Path,
    manifest: Mapping[str, Any],
    snapshot: Snapshot,
    written: WrittenTables,
    tables: tuple[str, ...],
    repo: str | None = None,
) -> None:
    """Write the card of Parquet tables that are in a folder. Only tables and splits with rows are named in its YAML."""
    keys = {config: "rows" if config == "pairs" else config for config in tables}
    filled = {c: [s for s in Split if snapshot.count_rows(c, s)] for c in tables}
    filled = {config: splits for config, splits in filled.items() if splits}
    default = next(iter(filled))
    splits_of_default = filled[default]
    environment = Environment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["count"] = say_count
    environment.filters["number"] = "{:,}".format
    environment.filters["coefficient"] = _say_figure
    environment.filters["share"] = partial(_say_figure, is_share=True)
    environment.filters["code"] = lambda text: "`" + str(text).replace("`", "'") + "`"
    text = environment.from_string(_TEMPLATE).render(
        metadata=_make_metadata(folder, manifest, snapshot, written, filled),
        title=f"Preferences: {manifest['project'] or 'all projects'}",
        m=manifest,
        judgments=sum(manifest["judgments"].values()),
        titles=POPULATION_TITLES,
        place=repo or "DIR",
        configs=list(filled),
        default=default,
        evaluated=next((s.value for s in (Split.HELDOUT, Split.CALIBRATION) if s in splits_of_default), "heldout"),
        splits=[s.value for s in Split],
        about={config: ABOUT[config] for config in tables},
        keys=keys,
        kinds=snapshot.kinds,
        files_of_all=len(filled) < len(tables) or any(len(splits) < len(Split) for splits in filled.values()),
    )
    (folder / CARD_FILE).write_text(re.sub(r"\n{3,}", "\n\n", text), encoding="utf-8")


def _say_figure(figure: Mapping[str, float | None], *, is_share: bool = False) -> str:
    value, interval = say_coefficient(Coefficient(**figure), is_share=is_share)
    return f"{value} ({interval})" if interval else value


def _make_metadata(
    folder: Path,
    manifest: Mapping[str, Any],
    snapshot: Snapshot,
    written: WrittenTables,
    filled: Mapping[str, list[Split]],
) -> str:
    from datasets import DatasetInfo
    from datasets.info import DatasetInfosDict
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCardData

    rows = sum(snapshot.count_rows(next(iter(filled)), split) for split in Split)
    card = DatasetCardData(
        license=manifest["license"],
        language=sorted(code for code in snapshot.languages if re.fullmatch(r"[a-z]{2,3}", code)) or None,
        size_categories=[_find_size_category(rows)],
        tags=["preferences", "rlhf", "trl", "rlhf_hitl", *(["simulated"] if manifest["simulated"] else [])],
    )
    configs, infos = {}, {}
    for number, (config, splits) in enumerate(filled.items()):
        files = [{"split": s.value, "path": get_table_file(config, s)} for s in splits]
        configs[config] = {"data_files": files} | ({"default": True} if number == 0 else {})
        infos[config] = DatasetInfo(
            features=written.features[config],
            config_name=config,
            splits=[
                {"name": s.value, "num_bytes": written.bytes[config, s], "num_examples": snapshot.count_rows(config, s)}
                for s in splits
            ],  # type: ignore[arg-type]
            download_size=sum((folder / get_table_file(config, s)).stat().st_size for s in splits),
            dataset_size=sum(written.bytes[config, s] for s in splits),
        )
    MetadataConfigs(configs).to_dataset_card_data(card)
    DatasetInfosDict(infos).to_dataset_card_data(card)
    return card.to_yaml()


def _find_size_category(rows: int) -> str:
    """Return the hub's name for the size of a dataset."""
    if rows < 1000:
        return "n<1K"
    names = ["1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T"]
    power = len(str(rows)) - 4
    return f"{names[power]}<n<{names[power + 1]}"
