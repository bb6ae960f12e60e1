"""Text in LaTeX: any text as ASCII that plain pdfLaTeX sets, with no package and whatever the paper's encoding is."""

import re
import unicodedata

# Of a text: what is markup, and what has a command.
COMMANDS = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "`": r"\`{}",  # two of them, or one behind a question mark, would become another character
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--",
    "—": "---",
    "‐": "-",
    "‑": "-",
    "‘": "`",
    "’": "'",
    "“": "``",
    "”": "''",
    "…": r"\ldots{}",
    "§": r"\S{}",
    "¶": r"\P{}",
    "©": r"\copyright{}",
    "£": r"\pounds{}",
    "¿": "?`",
    "¡": "!`",
    "ß": r"\ss{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    "œ": r"\oe{}",
    "Œ": r"\OE{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "ł": r"\l{}",
    "Ł": r"\L{}",
    "ı": r"\i{}",
    "ȷ": r"\j{}",
}
# What has a command in formulas alone.
SYMBOLS = {
    "±": r"\pm",
    "−": "-",
    "×": r"\times",
    "÷": r"\div",
    "·": r"\cdot",
    "•": r"\bullet",
    "°": r"^\circ",
    "†": r"\dagger",
    "‡": r"\ddagger",
    "∞": r"\infty",
    "≤": r"\leq",
    "≥": r"\geq",
    "≠": r"\neq",
    "≈": r"\approx",
    "≡": r"\equiv",
    "∼": r"\sim",
    "∝": r"\propto",
    "∈": r"\in",
    "∑": r"\sum",
    "∏": r"\prod",
    "∂": r"\partial",
    "∇": r"\nabla",
    "∆": r"\triangle",
    "√": r"\surd",
    "⊕": r"\oplus",
    "⊗": r"\otimes",
    "←": r"\leftarrow",
    "→": r"\rightarrow",
    "↑": r"\uparrow",
    "↓": r"\downarrow",
    "↔": r"\leftrightarrow",
    "⇒": r"\Rightarrow",
    "′": "'",
    "″": "''",
    "«": r"\ll",
    "»": r"\gg",
    "µ": r"\mu",
    "ϵ": r"\epsilon",
    "ϑ": r"\vartheta",
    "ϕ": r"\phi",
    "\N{REPLACEMENT CHARACTER}": r"\diamond",  # of what no reader can be shown, in a table of any form
}
# Names in the order of Unicode, from the letter on that stands before them.
GREEK = {
    "α": "alpha beta gamma delta varepsilon zeta eta theta iota kappa lambda mu nu xi mathrm{o} pi rho varsigma sigma",
    "τ": "tau upsilon varphi chi psi omega",
    "Α": "mathrm{A} mathrm{B} Gamma Delta mathrm{E} mathrm{Z} mathrm{H} Theta mathrm{I} mathrm{K} Lambda mathrm{M}",
    "Ν": "mathrm{N} Xi mathrm{O} Pi mathrm{P}",
    "Σ": "Sigma mathrm{T} Upsilon Phi mathrm{X} Psi Omega",
}
for first, names in GREEK.items():
    for place, name in enumerate(names.split()):
        SYMBOLS[chr(ord(first) + place)] = f"\\{name}"
for place, digits in enumerate(zip("⁰¹²³⁴⁵⁶⁷⁸⁹", "₀₁₂₃₄₅₆₇₈₉", strict=True)):
    raised, lowered = digits
    SYMBOLS[raised] = f"^{place}"
    SYMBOLS[lowered] = f"_{place}"
# By the combining character; no ogonek, which the standard fonts lack.
ACCENTS = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0304": "=",
    "\u0306": "u",
    "\u0307": ".",
    "\u0308": '"',
    "\u030a": "r",
    "\u030b": "H",
    "\u030c": "v",
    "\u0323": "d",
    "\u0327": "c",
    "\u0331": "b",
}
DOTLESS = {"i": r"\i", "j": r"\j"}  # below an accent
# Two of these in a row would become another character.
LIGATURES = ("-", "'")
# At the start of a table's line these would be an argument of what ends the line before.
ARGUMENT_STARTS = ("[", "*")
UNSET = re.compile(r"\\texttt\{U\+([0-9A-F]+)\}")


def escape_latex(text: str) -> str:
    """Return a text on one line in which nothing is markup; what pdfLaTeX cannot set, as its number: `U+65E5`."""
    escaped = []
    last = ""
    if text.lstrip().startswith(ARGUMENT_STARTS):
        escaped.append("{}")
    for character in unicodedata.normalize("NFC", " ".join(text.split())):
        if character == last and character in LIGATURES:
            escaped.append("{}")
        escaped.append(_escape_character(character))
        last = character
    return "".join(escaped)


def _escape_character(character: str) -> str:
    if character in COMMANDS:
        return COMMANDS[character]
    if character in SYMBOLS:
        return f"${SYMBOLS[character]}$"
    if character.isascii():
        return character
    parts = unicodedata.normalize("NFD", character)
    base = parts[0]
    accent = ACCENTS.get(parts[1:])
    if base.isascii() and accent is not None:
        return f"\\{accent}{{{DOTLESS.get(base, base)}}}"
    return rf"\texttt{{U+{ord(character):04X}}}\allowbreak{{}}"


def list_unset(latex: str) -> list[str]:
    """Return the characters that an escaped text has as their numbers, each once, sorted."""
    return sorted({chr(int(number, 16)) for number in UNSET.findall(latex)})
