"""Conversations with images, for models that read images: with the model's own processor."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rlhf_hitl.errors import BadInput
from rlhf_hitl.reward.chat_template import ChatTemplate, count_common_prefix
from rlhf_hitl.reward.readability import Obstacle, Unreadable
from rlhf_hitl.types import Messages, Tools
from rlhf_hitl.types.comparisons import make_prompt_id
from rlhf_hitl.types.messages import list_images

if TYPE_CHECKING:
    from PIL.Image import Image

#: Returns the PNG of an image by its id, as a store's images do.
ImageLoader = Callable[[str], bytes]


class VisionReader:
    """Turns conversations with images into what a vision model reads.

    Args:
        processor: the model's, with a chat template that shows images.

    Attributes:
        load_image: where images are that a message does not hold itself. None: nowhere.
    """

    def __init__(self, processor: Any, load_image: ImageLoader | None = None):
        self.processor, self.load_image = processor, load_image
        self.template = ChatTemplate(processor)

    def split_text(self, prompt: Messages, completion: Messages, tools: Tools) -> tuple[str, str]:
        """Return the text of a conversation up to where the completion begins, and the text of the completion.

        Raises:
            Unreadable: the chat template refuses the conversation.
        """
        before = self.template.apply(prompt, None, tools)
        whole = self.template.apply(prompt, completion, tools)
        shared = count_common_prefix(before, whole)
        return whole[:shared], whole[shared:]

    def load_images(self, *chats: Messages) -> list[bytes]:
        """Return the images of some messages as PNG, in their order.

        Raises:
            BadInput: an image is nowhere.
        """
        found = []
        for image in list_images(*chats):
            if image.png is None and self.load_image is None:
                raise BadInput(
                    f"image {image.id[:16]}…",
                    expected="the image beside the store, or in the dataset's column `images`",
                    fix="make the dataset with `rlhf-hitl export`",
                )
            found.append(image.png if image.png is not None else self.load_image(image.id))  # type: ignore[misc]
        return found

    def encode(self, texts: Sequence[str], images: Sequence[Sequence[bytes]]) -> Mapping[str, Any]:
        """Return the model's inputs for texts and the images of each, padded on the right: tensors by name."""
        pictures: Any = [[open_png(png) for png in of_text] for of_text in images]
        inputs = self.processor(
            text=list(texts),
            images=pictures if any(pictures) else None,
            padding=True,
            padding_side="right",
            return_tensors="pt",
            add_special_tokens=False,
        )
        return dict(inputs)

    def encode_conversation(
        self, prompt: Messages, completion: Messages, tools: Tools = (), *, end: str = ""
    ) -> tuple[Mapping[str, Any], int]:
        """Return the model's inputs for one conversation and the index of the completion's first token.

        Args:
            end: the text of a token that the conversation has to end with.

        Raises:
            Unreadable: template or processor refuse the conversation.
        """
        asked, answered = self.split_text(prompt, completion, tools)
        answered = close_text(answered, end)
        try:
            before = self.encode([asked], [self.load_images(prompt)])
            whole = self.encode([asked + answered], [self.load_images(prompt, completion)])
        except (ValueError, TypeError, RuntimeError) as e:  # what processors raise for images out of their places
            said = " ".join(str(e).split())[:120]
            raise Unreadable(
                Obstacle.TEMPLATE,
                make_prompt_id(prompt, tools),
                f"prompt {make_prompt_id(prompt, tools)}",
                expected=f"images that the processor of {self.template.name or 'the model'} takes; it says: {said}",
                fix="leave it out, or take another model",
            ) from e
        return whole, count_common_prefix(before["input_ids"][0].tolist(), whole["input_ids"][0].tolist())


def close_text(text: str, end: str) -> str:
    """Return a completion's text without white space at its end, and with the token that ends a conversation."""
    if not end:
        return text
    stripped = text.rstrip()
    return stripped if stripped.endswith(end) else stripped + end


def open_png(png: bytes) -> Image:
    """Return an image in RGB, on white where it is transparent."""
    from PIL import Image as images

    image = images.open(io.BytesIO(png))
    if image.mode == "RGBA":
        white = images.new("RGBA", image.size, "white")
        image = images.alpha_composite(white, image)
    return image.convert("RGB")
