"""What secrets look like by themselves: the tokens of clouds, forges and vendors, key blocks, headers and URLs.

Every pattern begins with a literal, which the regular expression engine looks for at the speed of a plain search,
and what must stand before it is checked behind that literal. Most tokens are one
long word, and are looked for only in the few long words of a text.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from re import Pattern

Span = tuple[int, int, str]
"""Start, end and kind of a secret in a text."""

LONG_WORD = 20
"""Characters of the shortest word (letters, digits, `_`, `-`, `.`) that may be a token, its prefix included or not."""

LEAD = 16
"""Characters before such a word that its pattern may have to see."""


@dataclass(frozen=True, slots=True)
class Finder:
    """One kind of secret.

    Where `literal` is not there is none. `hint` tells cheaply whether it can be in a text; it may be asked about the
    JSON of a whole payload. `find` gives the spans. They see the text as `plain` makes it, `find` beside it in lower
    case, `literal` and `hint` only there where `in_lower` says so.
    """

    literal: str
    hint: Callable[[str], object]
    find: Callable[[str, str], Iterator[Span]]
    in_lower: bool = False
    in_words: bool = False


_LITERAL = re.compile(r"(?:[\w:/ -]|\\[.-])+(?![?*{|])")


def literal_of(pattern: Pattern[str]) -> str:
    """What a pattern begins with: what it finds holds this."""
    match = _LITERAL.match(pattern.pattern)
    if match is None:
        raise AssertionError(f"a pattern must begin with a literal: {pattern.pattern[:20]}")
    return match[0].replace("\\", "")


def _left(literal: str) -> str:
    """A literal that no word goes on into; a terminal's colour code or an escaped line end before it is no word."""
    escaped = re.escape(literal)
    width = len(literal)
    before = "|".join(rf"(?<=\[{digits}m.{{{width}}})" for digits in (r"\d", r"\d\d", r"\d;\d\d"))
    before += rf"|(?<=\\[nrt].{{{width}}})"
    return rf"{escaped}(?:(?<![A-Za-z0-9_-].{{{width}}})|{before})"


def _token(kind: str, pattern: str, *, in_words: bool) -> Finder:
    """A secret that is the whole of a pattern, or its group where it has one."""
    compiled = re.compile(pattern, re.ASCII)
    group = 1 if compiled.groups else 0

    def find(text: str, _lower: str) -> Iterator[Span]:
        for match in compiled.finditer(text):
            yield match.start(group), match.end(group), kind

    return Finder(literal_of(compiled), compiled.search, find, in_words=in_words)


def _in_lower(kind: str, compiled: Pattern[str], accept: Callable[[str], bool]) -> Finder:
    """A secret that is the group of a pattern over lower case, if it is accepted as one as it was written."""

    def find(text: str, lower: str) -> Iterator[Span]:
        for match in compiled.finditer(lower):
            if accept(text[match.start(1) : match.end(1)]):
                yield match.start(1), match.end(1), kind

    return Finder(literal_of(compiled), compiled.search, find, in_lower=True)


_WORDS: tuple[tuple[str, str], ...] = (
    ("gcp-api-key", r"AIza[\w-]{35}"),
    ("google-oauth-token", r"ya29\.[\w-]{20,}"),
    ("google-oauth-secret", r"GOCSPX-[\w-]{20,}"),
    ("google-oauth-token", r"1//0[\w-]{30,}"),
    ("gitlab-token", r"gl(?:pat|ptt|dt|rt|cbt|ft|soat|imt|agent)-[\w-]{20,}"),
    ("slack-token", r"xox[abeoprs]-[\w-]{20,}"),
    ("slack-token", r"xapp-\d-[\w-]{20,}"),
    ("stripe-webhook-secret", r"whsec_[A-Za-z0-9]{20,}[A-Za-z0-9+/=]*"),
    ("pypi-token", r"pypi-[\w-]{50,}"),
    ("model-provider-key", _left("sk-") + r"(?:(?:proj|svcacct|admin|ant|or|lf)-[\w-]{20,}|[A-Za-z0-9]{20,})"),
    ("sendgrid-key", r"SG\.[\w-]{16,}\.[\w-]{16,}"),
    ("twilio-key", _left("SK") + r"[0-9a-f]{32}(?![0-9A-Za-z])"),
    ("telegram-token", r":AA(?<=\d{8}:AA)[\w-]{33}(?![\w-])"),
    ("databricks-token", _left("dapi") + r"[0-9a-f]{32}(?:-\d)?"),
    ("sentry-token", r"sntry[su]_[\w=+/-]{30,}"),
    ("vault-token", r"hv[sbr]\.[\w-]{24,}"),
    ("jwt", r"eyJ[\w-]{8,}\.(?:eyJ[\w-]{8,}(?:\.[\w-]*)?|[\w-]{10,}\.[\w-]{10,}(?:\.[\w-]*)*)"),
    ("onlooker-key", _left("onl_") + r"[\w-]{43}(?![\w-])"),
    ("docker-token", r"dckr_(?:pat|oat)_[\w-]{20,}"),
    ("atlassian-token", r"ATATT3[\w=-]{50,}"),
    ("figma-token", r"figd_[\w-]{40,}"),
    ("square-token", r"sq0(?:atp|csp)-[\w-]{22,}"),
    ("tailscale-key", r"tskey-[a-z]+-[\w-]{20,}"),
    ("azure-secret", r"Q~(?<=\dQ~)[\w~.-]{31,34}"),
    ("github-token", r"gh[pousr]_[A-Za-z0-9]{30,}"),
    ("github-token", r"github_pat_\w{22,}"),
    ("stripe-key", r"sk_(?:live|test)_[A-Za-z0-9]{20,}"),
    ("stripe-key", r"rk_(?:live|test)_[A-Za-z0-9]{20,}"),
    ("npm-token", r"npm_[A-Za-z0-9]{36}"),
    ("huggingface-token", _left("hf_") + r"[A-Za-z0-9]{30,}"),
    ("digitalocean-token", r"do[opr]_v1_[0-9a-f]{64}"),
    ("shopify-token", r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}"),
    ("linear-key", r"lin_(?:api|oauth)_[A-Za-z0-9]{30,}"),
    ("notion-token", r"ntn_[A-Za-z0-9]{40,}"),
    ("notion-token", _left("secret_") + r"[A-Za-z0-9]{43}(?![A-Za-z0-9])"),
    ("postman-key", r"PMAK-[0-9a-f]{24}-[0-9a-f]{34}"),
    ("grafana-token", r"gl(?:sa|c)_[\w=+/]{30,}"),
    ("new-relic-key", r"NRAK-[A-Z0-9]{27}"),
    ("supabase-token", r"sbp_[0-9a-f]{40}"),
    ("groq-key", r"gsk_[A-Za-z0-9]{40,}"),
    ("replicate-token", r"r8_[A-Za-z0-9]{37}"),
    ("xai-key", r"xai-[A-Za-z0-9]{60,}"),
    ("age-key", r"AGE-SECRET-KEY-1[A-Z0-9]{50,}"),
    ("rubygems-key", r"rubygems_[0-9a-f]{48}"),
    ("mailgun-key", _left("key-") + r"[0-9a-f]{32}(?![0-9A-Za-z])"),
)  # fmt: skip
"""Kind and pattern of secrets that are, or hold, a word of at least `LONG_WORD` characters."""

_LINKS: tuple[tuple[str, str], ...] = (
    ("slack-webhook", r"hooks\.slack\.com/(?:services|workflows|triggers)/([\w/]{20,})"),
    ("discord-webhook", r"discord(?:app)?\.com/api/webhooks/\d+/([\w-]{40,})"),
    ("azure-signature", r"sig=(?<=[?&;]sig=)([\w%+/=-]{30,})"),
)

_ACCESS_KEY = re.compile(r"A[KS]IA[A-Z0-9]{16}")
_SECRET_KEY = re.compile(r"[A-Za-z0-9/+](?<![A-Za-z0-9/+=].)[A-Za-z0-9/+]{39}(?![A-Za-z0-9/+=])")
_SECRET_KEY_WITHIN = 300

_KEY_BLOCK = re.compile(r"-----(BEGIN|END) (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_KEY_LINES = re.compile(
    r"(?:(?:\\+[nr]|[\s\x00])*[\d?|+ \t-]{0,12}(?:[A-Za-z0-9+/=]{16,}|[A-Z][A-Za-z-]+: [^\n\\]{0,80}))*"
    r"(?:(?:\\+[nr]|[\s\x00])*[\d?|+ \t-]{0,12}[A-Za-z0-9+/=]+(?=[\r\n\\\"'\x00]|\Z))?"
)
"""What follows the head of a key block whose end is missing: base64 and headers, with whatever numbers the lines
(an arrow behind the number is outside ASCII)."""
_KEY_LINE = re.compile(r"[\s\x00]*[\d?|+ \t-]{0,12}[A-Za-z0-9+/=]{8,}\s*")
_KEY_TAIL = 16_384

_URL = re.compile(r"://(?:[^\s/:@\"'<>\\]{0,100}):([^\s/\"'<>\\]{1,200})@")
_AUTHORIZATION = re.compile(
    r"authorization\\*[\"']?\s{0,3}[:=,]\s{0,3}\\*[\"']?(?:(?:basic|bearer|token|apikey|api-key|key|digest)\s+)?"
    r"([^\s\"'\\,;<>{}$()]{8,})"
)
_BEARER = re.compile(r"bearer\s{1,3}([a-z0-9._~+/=-]{16,})")
_COOKIE = re.compile(r"cookie\\*[\"']?:\s{0,3}\\*[\"']?(?=[\w.-]{1,64}=)([^\n\"'\\\x00]{3,4096})")
_CURL_USER = re.compile(
    r"curl [^\n|;&]{0,300}?(?:-u|--user)[\s\x00]{1,2}\\*[\"']?[^\s:\"'$]{1,100}:([^\s\"'\\$<{]{3,})"
)


def _aws() -> Finder:
    """An access key id, and the secret that stands near behind it."""

    def find(text: str, _lower: str) -> Iterator[Span]:
        for match in _ACCESS_KEY.finditer(text):
            yield match.start(), match.end(), "aws-access-key"
            secret = _SECRET_KEY.search(text, match.end(), match.end() + _SECRET_KEY_WITHIN)
            if secret and not secret[0].islower() and any(c.isdigit() for c in secret[0]):
                yield secret.start(), secret.end(), "aws-secret-key"

    return Finder("IA", _ACCESS_KEY.search, find, in_words=True)


def _private_key() -> Finder:
    """A key block, also one whose head or end is cut off, and also with its line ends escaped."""

    def find(text: str, _lower: str) -> Iterator[Span]:
        start: int | None = None
        for match in _KEY_BLOCK.finditer(text):
            if match[1] == "END":
                yield _key_tail(text, match.start()) if start is None else start, match.end(), "private-key"
                start = None
            else:
                if start is not None:
                    yield start, match.start(), "private-key"
                start = match.start()
        if start is not None:
            head = _KEY_BLOCK.match(text, start)
            lines = _KEY_LINES.match(text, head.end() if head else start)
            yield start, lines.end() if lines else len(text), "private-key"

    return Finder("PRIVATE KEY", _KEY_BLOCK.search, find)


def _key_tail(text: str, end: int) -> int:
    """Where the base64 lines before a lone end of a key block begin."""
    start = end
    for line in reversed(text[max(0, end - _KEY_TAIL) : end].splitlines(keepends=True)):
        if not _KEY_LINE.fullmatch(line):
            break
        start -= len(line)
    return start


def _cookies() -> Finder:
    """The values in a cookie header: all that a client sends, the first that a server sets."""

    def find(text: str, lower: str) -> Iterator[Span]:
        for match in _COOKIE.finditer(lower):
            start, end = match.span(1)
            sets = lower.startswith("set-", max(0, match.start() - 4), match.start())
            for pair in text[start:end].split(";"):
                name, sign, value = pair.partition("=")
                value_start = start + len(name) + len(sign)
                if len(value) >= 6 and not value.startswith(("$", "{", "<", "[")):
                    yield value_start, value_start + len(value), "cookie"
                start += len(pair) + 1
                if sets:
                    break

    return Finder(literal_of(_COOKIE), _COOKIE.search, find, in_lower=True)


def _has_digit(value: str) -> bool:
    return any(c.isdigit() for c in value)


def _is_credential(value: str) -> bool:
    """Whether what stands behind `Authorization:` is one: base64 and tokens have digits, capitals or padding."""
    return _has_digit(value) or value.endswith("=") or (not value.islower() and len(value) >= 12)


def _is_given(value: str) -> bool:
    """Whether a password in a URL is written out, not filled in later."""
    return not value.startswith(("$", "{", "<", "%s", "%(", "[", "*")) and any(c.isalnum() for c in value)


FINDERS: tuple[Finder, ...] = (
    _private_key(),
    _aws(),
    *(_token(kind, pattern, in_words=True) for kind, pattern in _WORDS),
    *(_token(kind, pattern, in_words=False) for kind, pattern in _LINKS),
    _in_lower("url-password", _URL, _is_given),
    _in_lower("authorization", _AUTHORIZATION, _is_credential),
    _in_lower("authorization", _BEARER, _has_digit),
    _in_lower("password", _CURL_USER, _is_given),
    _cookies(),
)
