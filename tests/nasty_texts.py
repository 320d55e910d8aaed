"""A hundred texts that take long to draw: to parse, to colour, to convert to MathML, to compare, or to lay out.

Those of `hostile_texts.py` try to do harm to who reads them; these try to keep the server, or the browser, busy.
"""

from __future__ import annotations

from itertools import cycle, islice


def _fill(piece: str, length: int = 29_000) -> str:
    """Return a text of about `length` characters made of one piece."""
    return piece * (length // len(piece))


def _fence(language: str, piece: str, length: int = 19_900) -> str:
    return f"```{language}\n{_fill(piece, length)}\n```"


def _formula(tex: str) -> str:
    return f"${tex}$"


_MARKDOWN: dict[str, str] = {
    "emphasis in emphasis": _fill("*a **a "),
    "emphasis of both kinds": _fill("*_"),
    "emphasis that closes first": _fill("a**b" + "c* "),
    "underlines": "_" * 29_000,
    "asterisks": "*" * 29_000,
    "stars and letters": _fill("a*"),
    "deleted in deleted": _fill("~~a "),
    "images without end": _fill("!["),
    "brackets around": "[" * 14_000 + "a" + "]" * 14_000,
    "brackets closed": _fill("[a]"),
    "brackets and parentheses": _fill("[a]("),
    "links in links": _fill("[a](http://a.example "),
    "links that are": _fill("[a](http://a.example) "),
    "links with titles": _fill('[a](http://a.example "t" '),
    "destinations in brackets": _fill("[a](<b"),
    "parentheses in a destination": "[a](" + "(" * 14_000 + ")" * 14_000 + ")",
    "references without names": _fill("[a][b]"),
    "reference definitions": "".join(f"[r{i}]: http://a.example/{i}\n" for i in range(1_000)),
    "reference definitions used": "".join(f"[r{i}]: /x\n" for i in range(900)) + "\n" + _fill("[r1][r2] ", 15_000),
    "reference definitions of one name": _fill("[a]: /x\n"),
    "definitions that do not end": _fill("[a]:\n"),
    "backticks": "`" * 29_000,
    "backticks of many lengths": " ".join("`" * n for n in range(1, 235)),
    "code spans that do not end": _fill("`a ``b "),
    "angle brackets": "<" * 29_000,
    "autolinks": _fill("<http://a.example>"),
    "autolinks that do not end": _fill("<http://a"),
    "comments that do not end": _fill("<!-- "),
    "tags that do not end": _fill("<a b=c "),
    "declarations that do not end": _fill("<!A <?"),
    "entities": _fill("&amp;&lt;&#x41;"),
    "entities that are none": _fill("&notanentity"),
    "entities of numbers": _fill("&#9999999;"),
    "backslashes": "\\" * 29_000,
    "escapes": _fill("\\*\\_\\["),
    "a row of ten thousand columns": "|" + "a|" * 7_000 + "\n|" + "-|" * 7_000 + "\n",
    "ten thousand rows": "|a|b|\n|-|-|\n" + "|x|y|\n" * 4_500,
    "a wide table of short rows": "|" + "a|" * 3_000 + "\n|" + "-|" * 3_000 + "\n" + "|b|\n" * 4_000,
    "tables on tables": _fill("|a|\n|-|\n\n"),
    "table in a quote": _fill("> |a|b|\n> |-|-|\n"),
    "pipes": "|" * 29_000,
    "quotes one in one": "\n".join(">" * n + " a" for n in range(1, 20)) * 120,
    "quotes that go on lazily": ("> " * 15 + "a\n" + "lazy\n" * 20) * 200,
    "lists in lists": "\n".join("  " * (n % 19) + "- a" for n in range(1_200)),
    "lists of one item": _fill("* a\n\n\n"),
    "numbered lists": "".join(f"{i}. a\n" for i in range(3_500)),
    "lists and quotes by turns": "> - " * 9 + "a\n" + _fill("> - a\n"),
    "hard breaks": _fill("a  \n"),
    "breaks with backslashes": _fill("a\\\n"),
    "empty lines": "a" + "\n" * 29_000 + "b",
    "lines of blanks": _fill(" " * 50 + "\n") + "a",
    "headings": _fill("# a\n"),
    "underlined headings": _fill("a\n=\n"),
    "rules": _fill("***\n"),
    "fences": _fill("```\n~~~\n"),
    "fences that do not end": _fill("```a\n"),
    "indented code": _fill("    a\n\n"),
    "footnotes": _fill("[^1] [^1]: a\n"),
}

_CODE: dict[str, str] = {
    "perl, quotes": _fence("perl", "s{"),
    "perl, braces": _fence("perl", "{"),
    "perl, slashes": _fence("perl", "m/ s/ y/ "),
    "c, calls": _fence("c", "a("),
    "c, words": _fence("cpp", "a "),
    "c, comments": _fence("cpp", "/*"),
    "java, words": _fence("java", "a "),
    "java, brackets": _fence("java", "a<"),
    "objective c": _fence("objective-c", "["),
    "make": _fence("make", "a "),
    "javascript, regular expressions": _fence("javascript", "/a"),
    "javascript, templates": _fence("javascript", "`${"),
    "crystal": _fence("crystal", "#{"),
    "ruby": _fence("ruby", "%{"),
    "ruby, documents": _fence("ruby", "<<a "),
    "elixir": _fence("elixir", "#{"),
    "dart": _fence("dart", "a "),
    "go": _fence("go", "a("),
    "fortran": _fence("fortran", "a"),
    "lua": _fence("lua", "--[["),
    "html": _fence("html", "<a "),
    "php": _fence("php", "<?php "),
    "python, strings": _fence("python", "f'{"),
    "python, all of it": _fence("python", "def f(a=[b for c in d if e]): return {g: 'h%s' % i}\n"),
    "unknown languages": "".join(f"```nosuch{i}\nx\n```\n" for i in range(1_000)),
    "all languages": "".join(
        f"```{language}\nif a: b = 'c'\n```\n"
        for language in islice(cycle(["perl", "haskell", "scala", "erlang", "lisp", "ocaml", "tcl", "vim", "zig"]), 600)
    ),
    "minified": _fence("javascript", "!function(e,t){for(var n=0;n<t.length;n++){var r=t[n];e[r.k]=r.v||null}}(a,b);"),
    "json in json": _fence("json", '{"a":['),
}

_FORMULAS: dict[str, str] = {
    "dollars": "$" * 29_000,
    "dollars and letters": _fill("$a"),
    "dollars in pairs": _fill("$$ "),
    "dollars by lines": _fill("$$\na\n"),
    "braces in braces": _formula("{" * 990 + "}" * 990),
    "fractions on fractions": _formula(r"\frac{1}{" * 200 + "x" + "}" * 200),
    "three hundred long formulas": _fill(_formula(r"\frac{a}{b}+" * 7) + " ", 29_000),
    "a matrix of a thousand by a thousand": "$$\\begin{matrix}" + ("a&" * 1_000 + "\\\\") * 1_000 + "\\end{matrix}$$",
    "openings that do not end": _fill("\\[ \\( "),
    "environments in environments": _fill(r"\begin{align}"),
    "environments by lines": _fill("\\begin{align}\na\n"),
}

_LETTERS: dict[str, str] = {
    "towers of marks": ("Z" + "\u0335\u0361\u0489" * 100) * 90,
    "directions": _fill("a\u202eb\u2067ש\u2066"),
    "emoji joined": "👩\u200d" * 9_000,
    "a word of thirty thousand letters": "ö" * 29_900,
    "words joined": "\u2060".join("a" * 14_000),
    "controls": _fill("\x00\x1b\x7f"),
    "carriage returns": _fill("a\r\nb\rc\n"),
    "tabs": _fill("\t\ta\n"),
    "base64": _fill("aGVsbG8gd29ybGQh"),
    "svg": _fill('<svg><use href="#a"/></svg>'),
    "two megabytes of brackets": "[" * 2_000_000,
    "half pairs": "\ud800" * 10_000,
    "languages by turns": _fill("你好 **שלום** नमस्ते `مرحبا` $x$ "),
}

NASTY: dict[str, str] = {**_MARKDOWN, **_CODE, **_FORMULAS, **_LETTERS}
