"""Penn Treebank tokens of captions, as the COCO caption scores count them, without Java.

The scores of `pycocoevalcap` are defined on the tokens of one program, Stanford's PTBTokenizer 3.4.1 with lines
preserved and lower case, fourteen punctuation tokens left out. The longest rule wins, then the first; what a rule
looks ahead at counts as its length. Brackets come out in lower case (`-lrb-`) and so stay in: a quirk of the
original, kept because every published score has it.

Known departures: HTML character entities, CP1252 control codes and e-mail addresses in angle brackets are not
recognised; characters beyond the basic plane are dropped; a line separator inside a caption is a space.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

# compared after lower-casing, so the four brackets of the original's list never match
DROPPED = frozenset(("''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"))

_NUMERALS = r"\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u209f\u2150-\u218f"  # Python's \w holds them, too
_LETTER, _ALNUM = rf"[^\W\d_{_NUMERALS}]", rf"[^\W_{_NUMERALS}]"
_WORD = rf"{_LETTER}[^\W_]*(?:[.!?]{_LETTER}[^\W_]*)*"
_APOS = "['\u2019\u00b4]"
_APOSES = "['\u2019\u00b4`\u2018\u201b]"
_CLITIC = rf"{_APOS}(?:re|ve|ll|[msd])"
_NOT = rf"n{_APOSES}t"
_NUM = r"(?:\d*(?:[.:,]\d+)+|\d+)"
_GAP, _GAPS = r"[ \t\u00a0\u2000-\u200a\u3000\n]", r"[ \t\u00a0\u2000-\u200a\u3000]"
_ACRO = r"[A-Za-z](?:\.[A-Za-z])*"
_VALUE = r"(?:'[^']*'|\"[^\"]*\"|[A-Za-z0-9:.\-]+)"
_ATTRIBUTE = rf"[ ]+(?:[A-Za-z][A-Za-z0-9:.\-]*(?:[ ]*=[ ]*{_VALUE})?|/)"
_SGML = rf"<(?:[!?][A-Za-z\-][^>\n]*|/?[A-Za-z][A-Za-z0-9:.\-]*(?:{_ATTRIBUTE})*[ ]*/?)[ ]*>"
_SENTENCE_END = rf"{_GAP}(?:{_GAP}|[A-Z]|{_SGML})"
# after one of these a capital begins a new sentence ...
_ENDING = (
    "jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|mon|tues?|wed|thu|thurs|fri|ala|ariz|(?-i:[A]z|[A]rk)|calif|colo|"
    "conn|ct|dak|(?-i:Del)|fla|ga|(?-i:Ill)|ind|kans?|ky|(?-i:La|Mass)|md|mich|minn|(?-i:Miss)|mo|mont|neb|nev|okla|"
    "(?-i:Ore|Pa)|penn|tenn|(?-i:Tex)|va|vt|(?-i:Wash)|wisc?|wyo|inc|cos?|corp|pp?t[ye]s?|ltd|plc|bancorp|bhd|"
    "assn|univ|intl|sys|tel|est|ext|sq|jr|bros|(?:ed|ph)\\.d|esq|etc|al|seq"
)
# ... after one of these it doesn't
_TITLE = (
    "mrs|ms|mr|(?-i:Miss)|drs?|profs?|sens?|reps?|attys?|lt|col|gen|messrs|govs?|adm|rev|maj|sgt|cpl|pvt|capt|ste?|ave|"
    "pres|lieut|rt|hon|brig|co?mdr|pfc|spc|supts?|det|mt|ft|adj|adv|asst|assoc|ens|insp|mlle|mme|msgr|sfc|sr|invt|"
    "elec|natl|m[ft]g|dept|blvd|rd|vs|(?-i:v)|alex|wm|jos|cie|a\\.k\\.a|cf|treas|ph"
)
_OPENERS = (
    "About|According|Additionally|After|An|A|As|At|But|Did|During|Earlier|Her|Here|He|However|How|If|In|It|Last|Many|"
    "More|Mr\\.|Ms\\.|Now|Once|One|Other|Our|She|Since|Some|So|Such|That|Their|Then|There|These|They|The|This|When|"
    "While|We|What|Who|Why|Yet|You"
)
_EXTENSION = (
    "bat|bmp|cgi|class|cpp|c|dll|docx?|exe|gif|gz|html?|h|jar|java|jpe?g|mov|mp3|pdf|php|pl|png|ppt|ps|py|sql|tar|txt|"
    "wav|xml|x|zip"
)
_DOLLAR = {"\u20ac": "$", "\u00a4": "$", "\u20a0": "$", "\u00a2": "cents", "\u00a3": "#", "\u0080": "$"}
_FRACTION = {"\u00bc": "1/4", "\u00bd": "1/2", "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3"}
_QUOTE = {"\u2018": "`", "\u201b": "`", "\u2019": "'", "\u00b4": "'", "\u201c": "``", "\u201f": "``", "\u201d": "''"}


class _Rule(NamedTuple):
    """A token (group 1) with what must follow it, and how it is written."""

    pattern: re.Pattern[str]
    action: str


def _rule(token: str, follow: str = "", action: str = "keep", flags: re.RegexFlag = re.IGNORECASE) -> _Rule:
    return _Rule(re.compile(f"({token}){follow}", flags), action)


_RULES = (
    _rule(r"c\+\+|[cf]#"),
    _rule(rf"cannot|{_APOS}twas", action="back3"),
    _rule(rf"{_APOS}tis|gonna|gotta|lemme|gimme|wanna", action="back2"),
    _rule(_SGML, action="nbsp"),
    _rule("[\u0096\u0097\u2013\u2014\u2015]", action="dash"),
    _rule("&amp;", action="and"),
    _rule(_WORD, _CLITIC),
    _rule("[A-Za-z\u00ad]*[A-MO-Za-mo-z]", _NOT),
    _rule(_WORD),
    _rule(
        rf"{_APOS}n{_APOS}?|[ldj]{_APOS}|dunkin{_APOS}|somethin{_APOS}|ol{_APOS}|{_APOS}em|"
        rf"(?-i:[A-HJ-XZn]){_APOSES}{_LETTER}{{2,}}|{_APOS}[2-9]0s|{_APOS}till?|"
        rf"{_LETTER}+[aeiouy]{_APOSES}(?-i:[aeiouA-Z]){_LETTER}*|{_APOS}cause|cont'd\.?|nor'easter|c'mon|e'er|"
        r"s'mores|ev'ry|li'l|nat'l",
        action="apostrophes",
    ),
    _rule(rf"y{_APOS}", _LETTER),
    _rule(r"(?:https?|ftp|svn)://[^ \t\n\"<>|()]+[^ \t\n\"<>|.!?(){},-]"),
    _rule(
        r"(?:www\.(?:[^ \t\n\"<>|.!?(){},]+\.)+[a-zA-Z]{2,4}|(?:[^ \t\n\"`'<>|.!?(){},$]+\.)+(?:com|net|org|edu))"
        r"(?:/[^ \t\n\"<>|()]+[^ \t\n\"<>|.!?(){},-])?"
    ),
    _rule(r"[a-zA-Z0-9][^ \t\n\"<>|()\u00a0{}]*@(?:[^ \t\n\"<>|(){}.\u00a0]+\.)*[^ \t\n\"<>|(){}\[\].,;:\u00a0]+"),
    _rule(r"@[a-zA-Z_][a-zA-Z_0-9]*|#[^\W\d_]+"),
    _rule(_CLITIC, r"[^A-Za-z]", action="apostrophes"),
    _rule(_NOT, r"[^A-Za-z]", action="apostrophes"),
    _rule(r"\d{1,2}[\-/]\d{1,2}[\-/]\d{2,4}"),
    _rule(rf"[\-+]?{_NUM}"),
    _rule(r"[\u207a\u207b\u208a\u208b]?(?:[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+|[\u2080-\u2089]+)"),
    _rule(r"(?:\d{1,4}[- \u00a0])?\d{1,4}(?:\\?/|\u2044)\d{1,4}", action="nbsp"),
    _rule("[\u00bc\u00bd\u00be\u2153-\u215e]", action="fraction"),
    _rule(rf"-(?:rrb|lrb|rcb|lcb|rsb|lsb)-|c\.d\.s|pro-|anti-|s&p-500|s&ls|cap{_APOS}n|c{_APOS}est"),
    _rule(rf"{_ALNUM}+(?:-[A-Za-z]+){{0,2}}(?:\\?/{_ALNUM}+(?:-[A-Za-z]+){{0,2}}){{1,2}}"),
    _rule(r"[A-Z]*\$|#", flags=re.NOFLAG),
    _rule("[\u00a2\u00a3\u00a4\u00a5\u0080\u20a0\u20aa\u20ac\u20b9\u060b\u0e3f\u20a4]", action="currency"),
    _rule(
        rf"{_ACRO}\.",
        rf"{_GAP}+(?-i:{_OPENERS}|{_SGML})(?:{_GAP}|[?!])",
        action="acronym",
    ),
    _rule(r"(?:ca|figs?|prop|nos?|sect?s?|arts?|bldg|prop|pp|op)\.", rf"{_GAP}?\d"),
    _rule(rf"(?:{_ENDING})\.", rf"(?-i:{_SENTENCE_END})", action="double"),
    _rule(rf"(?:{_ENDING})\.", r"[\s\S][\s\S]"),
    _rule(rf"(?:{_ENDING})\.", action="double"),
    _rule(rf"(?:{_TITLE}|{_ACRO}|(?:canada|sino|korean|eu|japan|non)-u\.s|u\.s\.-(?:u\.k|u\.s\.s\.r))\."),
    _rule(rf"(?:{_TITLE}|{_ACRO})", _GAPS),
    _rule(_ACRO, _GAP),
    _rule(rf"{_APOS}[0-9][0-9]", _GAP),
    _rule(rf"{_ALNUM}+(?:\.{_ALNUM}+)*\.(?:{_EXTENSION})", rf"(?:{_GAP}|[.?!,])"),
    _rule(rf"{_WORD}\.", "[,;:\u3001]"),
    _rule(
        r"(?:\([0-9]{2,3}\)[ \u00a0]?|(?:\+\+?)?(?:[0-9]{2,4}[\- \u00a0])?[0-9]{2,4}[\- \u00a0])[0-9]{3,4}[\- \u00a0]?"
        r"[0-9]{3,5}|(?:(?:\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5}",
        action="nbsp",
    ),
    _rule('"|&quot;', r"[A-Za-z0-9$]", action="open2"),
    _rule('"|&quot;', action="close2"),
    _rule("<|&lt;", action="less"),
    _rule(">|&gt;", action="more"),
    _rule(r"[<>]?[:;=][\-o*']?[()DPdpO\\{@|\[\]]", r"[^A-Za-z0-9]", flags=re.NOFLAG),
    _rule(r"[\^x=~<>]\.[\^x=~<>]|[\-\^x=~<>']_[\-\^x=~<>']|\([\-\^x=~<>'][_.]?[\-\^x=~<>']\)|\([\^x=~<>']-[\^x=~<>'`]\)"),
    _rule(r"[{}\[\]()]"),
    _rule(r"-+", action="hyphens"),
    _rule(r"\.\.\.+|[\u0085\u2026]|\.[ \u00a0](?:\.[ \u00a0])+\.", action="dots"),
    _rule(r"@+|#+|_+|\*+|(?:\\\*){1,3}"),
    _rule("[,;:\u3001]"),
    _rule(r"[?!]+"),
    _rule("[.\u00a1\u00bf\u037e\u0589\u061f\u06d4\u0700-\u0702\u07fa\u3002]"),
    _rule(r"=+|/"),
    _rule(rf"{_ALNUM}(?:{_ALNUM}|[.,])*(?:-(?:{_ALNUM}+(?:\.\d+)?|[A-Za-z](?:\.[A-Za-z])+\.))+"),
    _rule(rf"{_ALNUM}(?:{_ALNUM}|[.,])*(?:-(?:{_ALNUM}+(?:\.\d+)?|[A-Za-z](?:\.[A-Za-z])+\.))+\.", "[,;:\u3001]"),
    _rule(
        rf"(?:[dol]{_APOSES}{_ALNUM})?(?:{_ALNUM}+|[\-+]?{_NUM})"
        rf"(?:[-_\u058a\u2010\u2011](?:[dol]{_APOSES}{_ALNUM})?(?:{_ALNUM}+|{_NUM}))*",
        action="apostrophes",
    ),
    _rule(r"[A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+", action="and", flags=re.NOFLAG),
    _rule("(?:['\u2019\u00b4`\u2018-\u201f\u2039\u203a\u00ab\u00bb]{1,2})", rf"{_LETTER}[^ \t\u00a0\n]", action="open"),
    _rule("(?:['\u2019\u00b4`\u2018-\u201f\u2039\u203a\u00ab\u00bb]{1,2})", action="close"),
    _rule(_CLITIC, action="apostrophes"),
    _rule(_NOT, action="apostrophes"),
    _rule("<<|>>"),
    _rule(
        r"[+%&~\^|\\\u00a6\u00a7\u00a8\u00a9\u00ac\u00ae\u00af\u00b0-\u00ba\u00d7\u00f7\u2016\u2017\u2020-\u2023\u2030-\u2038"
        r"\u203b\u203e-\u2042\u2044\u207a-\u207f\u208a-\u208e\u2100-\u214f\u2190-\u21ff\u2200-\u2bff\u3012\u30fb\uff01-\uff0f"
        r"\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]"
    ),
)  # fmt: skip
_SPACES = re.compile(r"[ \t\u00a0\u2000-\u200a\u3000\0\u200b\u200e\u200f\ufeff\x7f]+")
_PLAIN = re.compile(r"[A-Za-z]{2,}(?= [A-Za-z])")  # a word between words: nothing but `_SPECIAL` treats it otherwise
_SPECIAL = frozenset(("cannot", "gonna", "gotta", "lemme", "gimme", "wanna"))
_BRACKETS = {"(": "-LRB-", ")": "-RRB-", "{": "-LCB-", "}": "-RCB-", "[": "-LSB-", "]": "-RSB-"}


def tokenize(captions: Sequence[str]) -> list[str]:
    """Captions → their tokens in lower case, joined by spaces, punctuation left out.

    Captions are read as the lines of one file, as the original does: an abbreviation at the end of a caption
    is followed by the first letter of the next one.

    Args:
        captions: any texts; a line break inside one counts as a space.

    Returns:
        One string a caption, empty where nothing is left.
    """
    lines = [re.sub(r"[\r\n\u2028\u2029\x0b\x0c\x85]", " ", caption) for caption in captions]
    text = "\n".join(line if line.strip() else "" for line in lines)
    tokens = [[] for _ in lines]  # type: list[list[str]]
    at = line = 0
    while at < len(text):
        if text[at] == "\n":
            at, line = at + 1, line + 1
            continue
        if spaces := _SPACES.match(text, at):
            at = spaces.end()
            continue
        written, at = _next(text, at)
        tokens[line] += [token for token in written.lower().split(" ") if token and token not in DROPPED]
    return [" ".join(words) for words in tokens]


def _next(text: str, at: int) -> tuple[str, int]:
    """The token at `at` as it is written, and where the next begins."""
    plain = _PLAIN.match(text, at)
    if plain and plain[0].lower() not in _SPECIAL:
        return plain[0], plain.end()
    best, found, action = 0, "", "skip"
    for rule in _RULES:
        match = rule.pattern.match(text, at)
        if match and match.end() - at > best:
            best, found, action = match.end() - at, match[1], rule.action
    if not found:
        return "", at + 1
    return _write(found, action, at)


def _write(found: str, action: str, at: int) -> tuple[str, int]:
    end = at + len(found)
    if action in ("back2", "back3"):
        back = int(action[-1])
        return found[:-back], end - back
    if action == "acronym":
        return (found[:-1], end - 1) if len(found) == 2 else (found, end - 1)
    if action == "double":
        return found, end - 1
    return _plain_write(found, action), end


def _plain_write(found: str, action: str) -> str:
    if action in ("open", "close", "open2", "close2"):
        return _quotes(found, opening=action.startswith("open"))
    if action == "apostrophes":
        return re.sub(_APOS, "'", found)
    if action == "hyphens":
        return "--" if 3 <= len(found) <= 4 else found
    if action == "nbsp":
        return _bracketed(found.replace(" ", "\u00a0"))
    fixed = {"dash": "--", "dots": "...", "less": "<", "more": ">"}
    if action in fixed:
        return fixed[action]
    if action == "and":
        return found.replace("&amp;", "&")
    if action == "currency":
        return _DOLLAR.get(found, found)
    if action == "fraction":
        return _FRACTION.get(found, found)
    return _bracketed(found)


def _bracketed(found: str) -> str:
    return "".join(_BRACKETS.get(character, character) for character in found)


def _quotes(found: str, *, opening: bool) -> str:
    if found in ('"', "&quot;"):
        return "``" if opening else "''"
    if found == "'":
        return "`" if opening else "'"
    return "".join(_QUOTE.get(character, character) for character in found)
