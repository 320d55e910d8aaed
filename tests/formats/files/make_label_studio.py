# ruff: noqa: E501, E731 (it is run by hand, once)
"""Makes label_studio_*: annotations as label-studio-sdk 2.1.2 makes regions for a configuration, tasks as Label Studio
exports them (JSON), and JSON-MIN and CSV by the SDK's own converter."""

import json
import shutil
import sys
from pathlib import Path

from label_studio_sdk.converter import Converter
from label_studio_sdk.label_interface import LabelInterface

out = Path(sys.argv[1])
out.mkdir(exist_ok=True)
PAIRS = """<View><Text name="prompt" value="$prompt"/><Text name="answer1" value="$answer1"/><Text name="answer2" value="$answer2"/>
<Pairwise name="better" toName="answer1,answer2"/>
<Choices name="otherwise" toName="prompt"><Choice value="tie"/><Choice value="both bad"/></Choices>
<Choices name="topic" toName="prompt"><Choice value="colours"/><Choice value="numbers"/></Choices>
<Rating name="quality" toName="answer1" maxRating="5"/>
<TextArea name="reason" toName="prompt"/></View>"""
RANKS = """<View><Text name="prompt" value="$prompt"/><List name="answers" value="$items"/>
<Ranker name="rank" toName="answers"/><TextArea name="reason" toName="prompt"/></View>"""
BUCKETS = """<View><Text name="prompt" value="$prompt"/><List name="answers" value="$items"/>
<Ranker name="rank" toName="answers"><Bucket name="rank_1"/><Bucket name="rank_2"/><Bucket name="rank_3"/></Ranker></View>"""


def region(li, name, type, value, to):
    tag = li.get_control(name)
    assert tag.validate_value(value) if type in ("ranker",) else True
    return {"id": f"{name}-id", "from_name": name, "to_name": to, "type": type, "origin": "manual", "value": value}


def annotation(n, user, result, *, at, cancelled=False, lead=12.5):
    return {
        "id": n,
        "completed_by": user,
        "result": result,
        "was_cancelled": cancelled,
        "ground_truth": False,
        "created_at": at,
        "updated_at": at,
        "draft_created_at": None,
        "lead_time": lead,
        "prediction": {},
        "result_count": len(result),
        "unique_id": f"00000000-0000-0000-0000-{n:012d}",
        "import_id": None,
        "last_action": None,
        "bulk_created": False,
        "task": 1,
        "project": 1,
        "updated_by": 1,
        "parent_prediction": None,
        "parent_annotation": None,
        "last_created_by": None,
    }


def task(n, data, annotations, predictions=()):
    return {
        "id": n,
        "annotations": annotations,
        "file_upload": "tasks.json",
        "drafts": [],
        "predictions": list(predictions),
        "data": data,
        "meta": {},
        "created_at": "2024-05-01T08:00:00.000000Z",
        "updated_at": "2024-05-02T08:00:00.000000Z",
        "inner_id": n,
        "total_annotations": len(annotations),
        "cancelled_annotations": sum(a["was_cancelled"] for a in annotations),
        "total_predictions": len(predictions),
        "comment_count": 0,
        "unresolved_comment_count": 0,
        "last_comment_updated_at": None,
        "project": 1,
        "updated_by": 1,
        "comment_authors": [],
    }


li = LabelInterface(PAIRS)
better = lambda side: region(
    li, "better", "pairwise", li.get_control("better").label(side).value.model_dump(), "better"
)
choice = lambda name, c: region(li, name, "choices", {"choices": [c]}, "prompt")
rating = lambda r: region(li, "quality", "rating", {"rating": r}, "answer1")
reason = lambda *t: region(li, "reason", "textarea", {"text": list(t)}, "prompt")
ann = {"id": 1, "email": "ann@example.com", "first_name": "Ann", "last_name": ""}
pairs = [
    task(
        1,
        {"prompt": "Name a primary colour.", "answer1": "Red.", "answer2": "Seven.", "language": "en"},
        [
            annotation(
                1,
                1,
                [better("left"), rating(5), reason("Seven is no colour."), choice("topic", "colours")],
                at="2024-05-01T10:00:00.123456Z",
            ),
            annotation(2, 2, [better("right")], at="2024-05-01T11:00:00.000000Z"),
            annotation(3, 3, [], at="2024-05-01T12:00:00.000000Z", cancelled=True),
        ],
    ),
    task(
        2,
        {"prompt": "Was ist 2 + 3?", "answer1": "5", "answer2": "Fünf 🐘", "language": "de"},
        [
            annotation(
                4, 1, [choice("otherwise", "tie"), reason("Beide,", "wirklich.")], at="2024-05-02T10:00:00.000000Z"
            ),
            annotation(5, 2, [choice("otherwise", "both bad"), rating(2)], at="2024-05-02T11:00:00.000000Z"),
        ],
        predictions=[{"id": 1, "model_version": "m", "score": 0.5, "result": [better("left")]}],
    ),
    task(3, {"prompt": "Nobody has judged this.", "answer1": "a", "answer2": "b", "language": "en"}, []),
]
items = lambda *texts: [{"id": f"item{i}", "title": f"Answer {i}", "body": t} for i, t in enumerate(texts, 1)]
li = LabelInterface(RANKS)
rank = lambda *ids: region(li, "rank", "ranker", {"ranker": {"rank": [f"item{i}" for i in ids]}}, "answers")
ranks = [
    task(
        1,
        {"prompt": "Name a primary colour.", "items": items("Red.", "Blue.", "Seven.")},
        [
            annotation(
                1,
                ann,
                [rank(2, 1, 3), region(li, "reason", "textarea", {"text": ["Blue is best."]}, "prompt")],
                at="2024-05-01T10:00:00.123456Z",
            ),
            annotation(2, {"id": 2, "email": "ben@example.com"}, [rank(3, 2, 1)], at="2024-05-01T11:00:00.000000Z"),
        ],
    )
]
li = LabelInterface(BUCKETS)
bucket = lambda **b: region(
    li, "rank", "ranker", {"ranker": {k: [f"item{i}" for i in v] for k, v in b.items()}}, "answers"
)
buckets = [
    task(
        1,
        {"prompt": "Name a primary colour.", "items": items("Red.", "Blue.", "Seven.")},
        [
            annotation(1, 1, [bucket(_=[], rank_1=[1, 2], rank_2=[3], rank_3=[])], at="2024-05-01T10:00:00.123456Z"),
            annotation(2, 2, [bucket(_=[2], rank_3=[1], rank_1=[3], rank_2=[])], at="2024-05-01T11:00:00.000000Z"),
        ],
    )
]
for name, config, tasks in (("pairs", PAIRS, pairs), ("ranks", RANKS, ranks), ("buckets", BUCKETS, buckets)):
    path = out / f"label_studio_{name}.json"
    path.write_text(json.dumps(tasks, ensure_ascii=False, indent=1))
    c = Converter(config, str(out), download_resources=False)
    for kind, suffix in (("JSON_MIN", "json"), ("CSV", "csv")):
        c.convert(str(path), str(out / "tmp"), kind, is_dir=False)
        shutil.move(out / "tmp" / f"result.{suffix}", out / f"label_studio_{name}_min.{suffix}")
shutil.rmtree(out / "tmp", ignore_errors=True)
