# ruff: noqa: C408, E501 (it is run by hand, once)
"""Makes argilla_*.json, argilla_flat.parquet with argilla 2.8.0, without a server: rows as `dataset.records.to_json` and
`dataset.records.to_datasets` write them. The client is given what it would ask its server for."""

import base64
import io
import sys
from pathlib import Path
from unittest.mock import MagicMock
from uuid import UUID

import argilla as rg
from argilla._models import RecordModel
from argilla.records._io import HFDatasetsIO, JsonIO
from PIL import Image

out = Path(sys.argv[1])
out.mkdir(exist_ok=True)
client = MagicMock()
rg.Argilla._get_default = classmethod(lambda cls: client)
ann, ben, cyd = (UUID(int=n) for n in (1, 2, 3))
settings = rg.Settings(
    fields=[
        rg.TextField("prompt"),
        rg.TextField("response1"),
        rg.TextField("response2"),
        rg.TextField("response3", required=False),
    ],
    questions=[
        rg.RankingQuestion("ranking", values=["response1", "response2", "response3"]),
        rg.RatingQuestion("quality_response1", values=[1, 2, 3, 4, 5, 6, 7], required=False),
        rg.RatingQuestion("quality_response2", values=[1, 2, 3, 4, 5, 6, 7], required=False),
        rg.LabelQuestion("topic", labels=["colours", "numbers"], required=False),
        rg.MultiLabelQuestion("faults", labels=["wrong", "rude"], required=False),
        rg.SpanQuestion("errors", field="response1", labels=["wrong"], required=False),
        rg.TextQuestion("reason", required=False),
    ],
    metadata=[rg.TermsMetadataProperty("language"), rg.IntegerMetadataProperty("turns")],
)
ds = rg.Dataset("people", settings=settings, client=client)


def ranks(*r):  # as the server keeps what a page sent
    return [{"value": f"response{i}", "rank": n} for i, n in enumerate(r, 1)]


R = rg.Response
rows = [
    rg.Record(
        id="colours",
        fields=dict(prompt="Name a primary colour.", response1="Red.", response2="Blue.", response3="Seven."),
        metadata={"language": "en", "turns": 1},
        suggestions=[rg.Suggestion("ranking", ranks(1, 2, 3), agent="a-model", score=[0.5, 0.3, 0.2])],
        responses=[
            R("ranking", ranks(1, 1, 2), ann, "submitted"),
            R("quality_response1", 6, ann, "submitted"),
            R("quality_response2", 7, ann, "submitted"),
            R("topic", "colours", ann, "submitted"),
            R("faults", ["wrong"], ann, "submitted"),
            R("errors", [{"start": 0, "end": 3, "label": "wrong"}], ann, "submitted"),
            R("reason", "Both are colours,\nseven is none.", ann, "submitted"),
            R("ranking", ranks(3, 1, 2), ben, "submitted"),
            R("quality_response1", 2, ben, "submitted"),
            R("ranking", ranks(2, 1, 3), cyd, "draft"),
        ],
        _dataset=ds,
    ),
    rg.Record(
        id="sum",
        fields=dict(prompt="What is 2 + 3?", response1="5", response2="Ünknown 🐘", response3="6"),
        metadata={"language": "de", "turns": 1},
        responses=[
            R("ranking", ranks(1, 2, 2), ben, "submitted"),
            R("ranking", ranks(1, 2, 3), cyd, "discarded"),
            R("reason", "I cannot add.", cyd, "discarded"),
        ],
        _dataset=ds,
    ),
    rg.Record(
        id="open",
        fields=dict(prompt="Nobody has judged this.", response1="a", response2="b", response3="c"),
        metadata={"language": "en"},
        _dataset=ds,
    ),
]
for f in ("argilla_nested.json",):
    (out / f).unlink(missing_ok=True)
JsonIO.to_json(rows, out / "argilla_nested.json")
HFDatasetsIO.to_datasets(rows, ds).to_parquet(out / "argilla_flat.parquet")
# What a client 2.8 makes of a server's answer: the ranks are gone.
model = RecordModel.model_validate(
    {
        "id": str(UUID(int=9)),
        "external_id": "colours",
        "fields": dict(prompt="Name a primary colour.", response1="Red.", response2="Blue.", response3="Seven."),
        "status": "completed",
        "metadata": {"language": "en"},
        "suggestions": [],
        "vectors": [],
        "responses": [
            {"values": {"ranking": {"value": ranks(*r)}}, "status": "submitted", "user_id": str(u)}
            for u, r in ((ann, (3, 2, 1)), (ben, (1, 1, 2)))
        ],
    }
)
record = rg.Record.from_model(model, dataset=ds)
(out / "argilla_ranks_gone.json").unlink(missing_ok=True)
JsonIO.to_json([record], out / "argilla_ranks_gone.json")
# Chats, an image, a choice between two by a label.
ring = io.BytesIO()
Image.new("RGB", (2, 2), (200, 30, 30)).save(ring, "PNG")
two = rg.Dataset(
    "two",
    client=client,
    settings=rg.Settings(
        fields=[
            rg.ChatField("chat"),
            rg.ImageField("picture", required=False),
            rg.TextField("answer_a"),
            rg.TextField("answer_b"),
        ],
        questions=[
            rg.LabelQuestion("better", labels=["answer_a", "answer_b", "tie", "both bad"]),
            rg.TextQuestion("comment", required=False),
        ],
        metadata=[rg.TermsMetadataProperty("answer_a_model"), rg.TermsMetadataProperty("answer_b_model")],
    ),
)
url = "data:image/png;base64," + base64.b64encode(ring.getvalue()).decode()


def say(label, user, why=None):
    return [R("better", label, user, "submitted")] + ([R("comment", why, user, "submitted")] if why else [])


chats = [
    rg.Record(
        id=str(i),
        fields=dict(
            chat=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"What is this, {i}?"}],
            picture=url,
            answer_a=f"Red {i}",
            answer_b="Blue",
        ),
        metadata={"answer_a_model": "m1", "answer_b_model": "m2"},
        responses=[x for s in said for x in s],
        _dataset=two,
    )
    for i, said in enumerate(
        [[say("answer_a", ann, "It is red."), say("tie", ben)], [say("both bad", ann), say("answer_b", ben)]]
    )
]
(out / "argilla_labels.json").unlink(missing_ok=True)
JsonIO.to_json(chats, out / "argilla_labels.json")
HFDatasetsIO.to_datasets(chats, two).to_parquet(out / "argilla_labels.parquet")
folder = out / "argilla_saved"
(folder / ".argilla").mkdir(parents=True, exist_ok=True)
for file in (folder / "records.json", folder / ".argilla/settings.json"):
    file.unlink(missing_ok=True)
JsonIO.to_json(rows, folder / "records.json")
settings.to_json(folder / ".argilla/settings.json")
