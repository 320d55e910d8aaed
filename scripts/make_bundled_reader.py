"""Write what comes with the package of the default backbone: its tokenizer, and its features of the bundled answers.

    rlhf-hitl models get smollm2-135m-instruct
    python -m rlhf_hitl.scripts.make_bundled_reader rlhf_hitl/bundled/reader

To be run after a change of the bundled set, of the views a backbone is read in by default, or of the rendering.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from rlhf_hitl.config import DEFAULT_MODEL
from rlhf_hitl.formats.importing import import_bundled
from rlhf_hitl.models import locate_model_folder
from rlhf_hitl.reward.backbone import Backbone
from rlhf_hitl.reward.bundled_reader import DESCRIPTION_FILES, FEATURES_FILE, write_bundled_features
from rlhf_hitl.reward.feature_cache import FeatureCache
from rlhf_hitl.reward.rendering import list_conversations
from rlhf_hitl.store import Store
from rlhf_hitl.store.comparisons import find_comparisons


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    out.mkdir(exist_ok=True)
    for name in DESCRIPTION_FILES:
        shutil.copyfile(locate_model_folder(DEFAULT_MODEL) / name, out / name)
    tokenizer = out / "tokenizer.json"  # mostly white space as it comes
    tokenizer.write_text(json.dumps(json.loads(tokenizer.read_bytes()), ensure_ascii=False, separators=(",", ":")))
    (out / FEATURES_FILE).unlink(missing_ok=True)  # or they would be read instead of computed
    backbone = Backbone(DEFAULT_MODEL)
    with tempfile.TemporaryDirectory() as folder, Store.open(f"sqlite:///{folder}/set.db", create=True) as store:
        import_bundled(store)
        chats = list(dict.fromkeys(chat for c in find_comparisons(store) for chat in list_conversations(c)))
        cache = FeatureCache(Path(folder), backbone)
        features = cache.features(chats).reshape(len(chats), len(backbone.views), -1)
        keys = [cache.make_key(backbone.renderer.render(chat)) for chat in chats]
    write_bundled_features(out / FEATURES_FILE, keys, features, backbone.views, backbone.weights_hash)
    size = sum(file.stat().st_size for file in out.iterdir()) / 1e6
    print(f"{len(chats)} answers, {size:.1f} MB; {cache.cut} answers and {cache.dropped} prompts cut")


if __name__ == "__main__":
    main()
