"""Copied texts are found whoever wrote them first; phrases are not."""

import random

from rlhf_hitl.stats.near_duplicates import find_copies

LONG = "The first answer explains why the sky is blue and names Rayleigh, while the second only repeats the question."
OTHER = "Both are polite, but only one of them notices that the file was never opened before it was read from disk."


def test_a_text_that_was_written_before_is_a_copy_of_it_whoever_wrote_it():
    copies = find_copies([LONG, OTHER, LONG.upper() + "  ", LONG.replace("Rayleigh", "Raleigh")], [0, 0, 0, 1])
    assert copies.of.tolist() == [-1, -1, 0, 0]
    assert copies.looked_at.all()


def test_short_phrases_and_those_that_many_write_are_no_copies():
    assert find_copies(["A is better"] * 3, [0, 0, 1]).looked_at.tolist() == [False] * 3
    common = find_copies([LONG] * 5 + [OTHER, OTHER], [0, 1, 2, 3, 3, 0, 0])
    assert common.of.tolist() == [-1] * 6 + [5]
    assert common.looked_at.tolist() == [False] * 5 + [True] * 2


def test_texts_about_the_same_in_other_words_are_no_copies():
    words = [f"word{chr(97 + i)}{i}" for i in range(16)]
    draw = random.Random(0)
    texts = [" ".join(draw.choice(words) for _ in range(20)) for _ in range(500)]
    assert (find_copies(texts, list(range(500))).of == -1).all()


def test_scripts_without_spaces_and_broken_characters_are_read():
    text = "第一个回答解释了天空为什么是蓝色的并且提到了瑞利散射而第二个回答只是重复了问题"
    text += "没有给出任何有用的信息所以第一个更好因为它更完整也更准确"
    assert find_copies([text, text + "。", "\ud800" * 80], [0, 1, 0]).of.tolist() == [-1, 0, -1]
