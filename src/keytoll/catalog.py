"""The catalog: the one file that an operator edits, with the models on offer, their prices and their backends.

Reading it is strict: a field that is unknown, repeated, missing or of the wrong type is a mistake, and every mistake is
told with its line and field. Prices are read from their text as written, so that no float ever touches money.
"""

import hashlib
import ipaddress
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from urllib.parse import SplitResult, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from keytoll.core.errors import InvalidValue
from keytoll.core.expiry import parse_since, parse_timestamp
from keytoll.core.money import parse_amount
from keytoll.core.offer import Offer, Offers, PriceVersion
from keytoll.core.pricing import Prices
from keytoll.core.rates import Rates

MAX_FILE_BYTES = 1_048_576
MAX_MODELS = 1_000
MAX_BACKENDS = 64
"""Of one model. With MAX_MODELS it bounds what aliases can make of a small file."""

MAX_PRICES = 50
"""Of one model: how many versions its price may have."""

MAX_TOKENS = 1_000_000_000
EVER_US = 0
"""The `from` of a price that has none: before any request."""

DEFAULT_BASE_PATH = "/v1"

_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}")
# Neither quote nor backslash: the name is spliced into JSON as it stands.
_UPSTREAM_MODEL = re.compile(r"[A-Za-z0-9._:/@+~-]{1,256}")
_CREDENTIAL = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CURRENCY = re.compile(r"[A-Z]{3}")
_WHOLE = re.compile(r"0|[1-9][0-9]{0,11}")
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
# The last label must not be a number: resolvers read 127.1, 2130706433 and 0x7f000001 as loopback.
_HOST_NAME = re.compile(r"(?!.{254})([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_BASE_PATH = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)+")

# Where clouds serve machine identities: what reaches them from a gateway hands them to its callers.
_METADATA_NAMES = frozenset({"metadata", "metadata.google.internal", "instance-data", "instance-data.ec2.internal"})
_METADATA_ADDRESSES = frozenset(map(ipaddress.ip_address, ("100.100.100.200", "168.63.129.16", "fd00:ec2::254")))


class CatalogError(ValueError):
    """The catalog can't be used. `problems` has one line for each mistake: `FILE:LINE: FIELD: what is wrong`.

    As text: the first of them, and how many more there are.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        more = len(self.problems) - 1
        super().__init__(self.problems[0] + (f" (and {more} more)" if more else ""))


@dataclass(frozen=True, slots=True)
class Backend:
    """A server that runs a model.

    `model` is the model's name there; `credential` a file of the credentials folder; a lower `priority` is tried first;
    `weight` is its share among those of equal priority. `base_path` stands in place of the caller's `/v1`.
    """

    host: str
    port: int
    tls: bool
    base_path: str
    model: str
    credential: str | None
    priority: int
    weight: int

    @property
    def authority(self) -> str:
        """What the backend is called in the Host header: its port is left out where it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _default_port(tls=self.tls) else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Model:
    """A model on offer: token limits, what it costs from when, and who serves it.

    `prices` holds at least one version, the earliest first; the first applies from ever on.
    """

    name: str
    context_length: int
    maximum_output: int
    template_tokens: int
    reasoning_beyond: int
    takes_media: bool
    prices: tuple[PriceVersion, ...]
    rates: Rates
    running_usage: bool
    backends: tuple[Backend, ...]

    @property
    def pool(self) -> str:
        """The name of the cluster that serves this model."""
        return f"model/{self.name}"

    @property
    def members(self) -> tuple[tuple[Backend, ...], ...]:
        """The backends by priority, the first to be tried first. A request falls back from one member to the next."""
        priorities = sorted({backend.priority for backend in self.backends})
        return tuple(tuple(b for b in self.backends if b.priority == priority) for priority in priorities)

    @property
    def offer(self) -> Offer:
        """This model as a decision needs it."""
        names = {backend.model for backend in self.backends}
        return Offer(
            model=self.name,
            pool=self.pool,
            prices=self.prices,
            retries=len(self.members) - 1,
            upstream_model=names.pop() if len(names) == 1 else None,
            running_usage=self.running_usage,
            rates=self.rates,
            context_length=self.context_length,
            maximum_output=self.maximum_output,
            template_tokens=self.template_tokens,
            reasoning_beyond=self.reasoning_beyond,
            takes_media=self.takes_media,
        )


@dataclass(frozen=True, slots=True)
class Catalog:
    """Everything the catalog says. `version` is a hash of it: comments and layout of the file don't change it."""

    currency: str
    zone: ZoneInfo
    models: Mapping[str, Model]
    version: str

    @property
    def offers(self) -> Offers:
        """The models as decisions need them; made anew at each call."""
        return MappingProxyType({name: model.offer for name, model in self.models.items()})


def load_catalog(path: Path) -> Catalog:
    """Return the catalog that the file holds. Raises CatalogError, which tells every mistake found."""
    problems = _Problems(str(path))
    root = _compose(_read(path, problems), problems)
    fields = _Fields(root, "", problems, line=_line(root))
    currency = fields.text("currency", _CURRENCY, "must be an ISO 4217 code, such as CNY")
    zone = _zone(fields)
    models = {name: _model(name, of_model, zone) for name, of_model in _models(fields)}
    fields.finish()
    problems.raise_any()
    return Catalog(currency, zone, MappingProxyType(models), _version(currency, zone, models))


def _version(currency: str, zone: ZoneInfo, models: Mapping[str, Model]) -> str:
    content = [currency, zone.key, [asdict(model) for model in models.values()]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


# ---------------------------------------------------------------------------------------------- what the file may say


def _zone(fields: "_Fields") -> ZoneInfo:
    name = fields.text("billing_time_zone", re.compile(r".+"), "must be an IANA time zone, such as Asia/Shanghai")
    zone = _zone_of(name)
    if zone is None:
        fields.wrong("billing_time_zone", f"{_printable(name)} is not an IANA time zone, such as Asia/Shanghai")
    return zone or ZoneInfo("UTC")


def _zone_of(name: str) -> ZoneInfo | None:
    # Not IANA's, though many systems have them: they differ between machines, or count leap seconds.
    if name.startswith(("localtime", "posix", "right/")):
        return None
    try:
        return ZoneInfo(name or "UTC")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def _models(fields: "_Fields") -> Iterator[tuple[str, "_Fields"]]:
    models = fields.open("models")
    if models is None or not models.is_mapping:
        return
    if not 1 <= len(models.nodes) <= MAX_MODELS:
        fields.wrong("models", f"must have 1 to {MAX_MODELS:,} models")
        return
    for name in models.nodes:
        if _MODEL.fullmatch(name) and (of_model := models.open(name)) is not None:
            yield name, of_model
        else:
            models.wrong(
                name, "must be a name of up to 128 A-Z a-z 0-9 . _ : / @ + -, and begin with a letter or digit"
            )


def _model(name: str, fields: "_Fields", zone: ZoneInfo) -> Model:
    context_length = fields.whole("context_length", 1, MAX_TOKENS)
    maximum_output = fields.whole("maximum_output", 1, MAX_TOKENS, default=context_length)
    if maximum_output > context_length:
        fields.wrong("maximum_output", "must be at most context_length")
    model = Model(
        name=name,
        context_length=context_length,
        maximum_output=maximum_output,
        template_tokens=fields.whole("template_tokens", 0, MAX_TOKENS, default=256),
        reasoning_beyond=fields.whole("reasoning_beyond", 0, MAX_TOKENS, default=0),
        takes_media=fields.flag("takes_media"),
        prices=tuple(_price_versions(fields, zone)),
        running_usage=fields.flag("running_usage"),
        rates=_rates(fields),
        backends=tuple(_backends(name, fields)),
    )
    fields.finish()
    return model


def _rates(fields: "_Fields") -> Rates:
    bytes_per_token = fields.whole("bytes_per_token", 1, 1_000, default=4)
    tokens_per_event = fields.whole("tokens_per_event", 0, 1_000, default=1)
    per_byte = -(-1_000 // bytes_per_token)
    return Rates(input_byte=per_byte, output_byte=per_byte, event=tokens_per_event * 1_000)


def _price_versions(model: "_Fields", zone: ZoneInfo) -> Iterator[PriceVersion]:
    """Read `price`: one mapping, or a list of them, each but the first with its `from`."""
    node = model.take("price", "missing: a model needs its price; a price of 0 must be written out")
    if isinstance(node, SequenceNode):
        yield from _listed_prices(node, model, zone)
    elif node is not None and (fields := model.open("price")) is not None:
        if "from" in fields.nodes:
            fields.take("from")
            fields.wrong("from", "is for a list of prices, the first of which applies until the second's `from`")
        yield _price_version(fields, EVER_US)


def _listed_prices(node: SequenceNode, model: "_Fields", zone: ZoneInfo) -> Iterator[PriceVersion]:
    if not 1 <= len(node.value) <= MAX_PRICES:
        model.wrong("price", f"must be a price, or a list of 1 to {MAX_PRICES}")
        return
    from_us = None
    for index, item in enumerate(node.value):
        fields = _Fields(item, f"{model.path}.price[{index}]", model.problems, line=_line(item))
        ever = index == 0 and "from" not in fields.nodes
        from_us = EVER_US if ever else fields.instant("from", zone, after_us=from_us)
        yield _price_version(fields, from_us)


def _price_version(fields: "_Fields", from_us: int) -> PriceVersion:
    prices = _prices(fields)
    return PriceVersion(from_us, prices, prices.id)


def _prices(fields: "_Fields") -> Prices:
    per_input, per_output = fields.amount("input"), fields.amount("output")
    prices = Prices(
        input=per_input,
        output=per_output,
        cached_input=fields.amount("cached_input", default=per_input),
        cache_write=fields.amount("cache_write", default=per_input),
        audio_input=fields.amount("audio_input", default=per_input),
        audio_output=fields.amount("audio_output", default=per_output),
        request=fields.amount("request", default=0),
    )
    fields.finish()
    return prices


def _backends(model_name: str, model: "_Fields") -> Iterator[Backend]:
    node = model.take("backends")
    if node is None:
        return
    if not isinstance(node, SequenceNode) or not 1 <= len(node.value) <= MAX_BACKENDS:
        model.wrong("backends", f"must be a list of 1 to {MAX_BACKENDS} backends")
        return
    for index, item in enumerate(node.value):
        yield _backend(model_name, _Fields(item, f"{model.path}.backends[{index}]", model.problems, line=_line(item)))


def _backend(model_name: str, fields: "_Fields") -> Backend:
    url = _url(fields.text("url", re.compile(r".+"), "must be a URL, such as http://vllm:8000/v1"))
    if isinstance(url, str):
        fields.wrong("url", url)
        url = _Url("", 1, tls=False, base_path="")
    if not fields.flag("allow_local") and _is_local(url.host):
        fields.wrong("url", f"{url.host} is a local or cloud metadata address; if it is meant, add allow_local: true")
    credential = fields.text("credential", _CREDENTIAL, "must be a file's name: up to 64 A-Z a-z 0-9 _ -", default="")
    backend = Backend(
        host=url.host,
        port=url.port,
        tls=url.tls,
        base_path=url.base_path,
        model=fields.text(
            "model", _UPSTREAM_MODEL, "must be a name of A-Z a-z 0-9 . _ : / @ + ~ -", default=model_name
        ),
        credential=credential or None,
        priority=fields.whole("priority", 0, 1_000, default=0),
        weight=fields.whole("weight", 1, 10_000, default=1),
    )
    fields.finish()
    return backend


# --------------------------------------------------------------------------------------------------------------- URLs


@dataclass(frozen=True, slots=True)
class _Url:
    host: str
    port: int
    tls: bool
    base_path: str


def _url(text: str) -> _Url | str:
    """Return the parts of a backend's URL, or what is wrong with it. "" is a URL that was refused already."""
    if not text:
        return _Url("", 1, tls=False, base_path="")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return "is not a URL: its host or port is malformed"
    if (wrong := _wrong_shape(text, parts)) is not None:
        return wrong
    host, base_path = _host(parts), parts.path.rstrip("/") or DEFAULT_BASE_PATH
    if host is None:
        return "its host must be a host name, an IPv4 address in four parts, or an IPv6 address in brackets"
    if port == 0:
        return "its port must be 1 to 65535"
    if not _BASE_PATH.fullmatch(base_path):
        return "its path may hold A-Z a-z 0-9 . _ ~ - and /, without empty parts"
    tls = parts.scheme == "https"
    return _Url(host, port or _default_port(tls=tls), tls=tls, base_path=base_path)


def _wrong_shape(text: str, parts: SplitResult) -> str | None:
    if parts.scheme not in ("http", "https"):
        return "must begin with http:// or https://"
    if "@" in parts.netloc:
        return "must not hold a user or password; name a credential file instead"
    if "?" in text or "#" in text:
        return "must have no query and no fragment"
    # urlsplit drops tabs and line ends, and would so hide them.
    if not text.isascii() or re.search(r"[\x00-\x20\x7f\\]", text):
        return "must be ASCII without blanks and backslashes; write an international host name in its xn-- form"
    return None


def _host(parts: SplitResult) -> str | None:
    host = parts.hostname or ""
    if "[" in parts.netloc:
        return host if _address(host) is not None and "%" not in host else None
    if _address(host) is not None or _HOST_NAME.fullmatch(host):
        return host
    return None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_local(host: str) -> bool:
    address = _address(host)
    if address is None:
        return host == "localhost" or host.endswith(".localhost") or host in _METADATA_NAMES
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback or address.is_link_local or address.is_unspecified or address in _METADATA_ADDRESSES


def _default_port(*, tls: bool) -> int:
    return 443 if tls else 80


# --------------------------------------------------------------------------------------------------- nodes and lines


class _Problems:
    """Collects what is wrong, each with its line, so that one reading of the file tells all of it."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._found: list[tuple[int, str]] = []

    def add(self, line: int, message: str) -> None:
        self._found.append((line, message))

    def raise_any(self) -> None:
        if self._found:
            in_order = sorted(self._found, key=lambda found: found[0])
            raise CatalogError([f"{self._file}:{line}: {message}" for line, message in in_order])

    def fail(self, line: int, message: str) -> "CatalogError":
        """Return the error of a file that can't be read any further; line 0 is none."""
        where = f"{self._file}:{line}" if line else self._file
        return CatalogError([f"{where}: {message}"])


class _Fields:
    """The fields of one mapping.

    Whatever is wrong is noted among the problems, and something harmless is returned in its place: reading goes on, to
    find the other mistakes, and what was read is thrown away.
    """

    def __init__(self, node: Node, path: str, problems: _Problems, *, line: int) -> None:
        self.path = path
        self.problems = problems
        self.nodes: dict[str, Node] = {}
        self._line = line
        self._lines: dict[str, int] = {}
        self._known: list[str] = []
        self.is_mapping = isinstance(node, MappingNode)
        if isinstance(node, MappingNode):
            self._index(node)
        else:
            problems.add(self._line, f"{path}: must have fields, each as `name: value`" if path else "must have fields")

    def _index(self, node: MappingNode) -> None:
        for key, value in node.value:
            name = key.value if isinstance(key, ScalarNode) else "?"
            if str(key.tag).endswith(":merge"):
                self.problems.add(
                    _line(key), f"{self._at('<<')}: merge keys are not supported; use aliases of whole values"
                )
            elif name in self.nodes:
                self.problems.add(_line(key), f"{self._at(name)}: is given twice, first on line {self._lines[name]}")
            else:
                self.nodes[name], self._lines[name] = value, _line(key)

    def take(self, name: str, missing: str = "missing") -> Node | None:
        """Return the node of a required field."""
        self._known.append(name)
        if name not in self.nodes and self.is_mapping:
            self.wrong(name, missing)
        return self.nodes.get(name)

    def open(self, name: str, missing: str = "missing") -> "_Fields | None":
        """Return the fields of a required field that is itself a mapping."""
        node = self.take(name, missing)
        return None if node is None else _Fields(node, self._at(name), self.problems, line=self._lines[name])

    def wrong(self, name: str, message: str) -> None:
        """Note what is wrong with a field."""
        self.problems.add(self._lines.get(name, self._line), f"{self._at(name)}: {message}")

    def finish(self) -> None:
        """Note the fields that nobody asked for."""
        for name in self.nodes:
            if name not in self._known:
                close = get_close_matches(name, self._known, n=1)
                self.wrong(name, "unknown field" + (f"; did you mean {close[0]}?" if close else ""))

    def text(self, name: str, pattern: re.Pattern[str], rule: str, default: str | None = None) -> str:
        """Return a text that matches; "" where it is wrong."""
        value = self._scalar(name, ("str",), f"{rule}, as text", default)
        if value is None or name not in self.nodes or pattern.fullmatch(value):
            return value or ""
        self.wrong(name, rule)
        return ""

    def whole(self, name: str, low: int, high: int, *, default: int | None = None) -> int:
        """Return a whole number within the bounds; the default, or the upper bound, where it is wrong."""
        rule = f"must be a whole number from {low:,} to {high:,}"
        value = self._scalar(name, ("int",), rule, None if default is None else str(default))
        if value is not None and _WHOLE.fullmatch(value) and low <= int(value) <= high:
            return int(value)
        if value is not None:
            self.wrong(name, rule)
        return high if default is None else default

    def flag(self, name: str) -> bool:
        """Return a flag, false unless given."""
        value = self._scalar(name, ("bool",), "must be true or false", "false")
        if value not in ("true", "false", None):
            self.wrong(name, "must be true or false")
        return value == "true"

    def amount(self, name: str, *, default: int | None = None) -> int:
        """Return an amount's nano-units; 0 where it is wrong."""
        value = self._scalar(name, ("int", "float", "str"), "must be an amount", None if default is None else "")
        if value is None or name not in self.nodes:
            return default or 0
        try:
            return parse_amount(value, field=name)
        except InvalidValue as error:
            self.wrong(name, error.message)
            return 0

    def instant(self, name: str, zone: ZoneInfo, *, after_us: int | None) -> int:
        """Return the instant of a date, whose local midnight in the zone is meant, or of a time with its offset.

        It must be later than `after_us`; that, where it is wrong.
        """
        text = self._scalar(name, ("timestamp", "str"), _FROM_RULE, None)
        at_us = None if text is None else _instant(text, zone)
        if text is not None and at_us is None:
            self.wrong(name, _FROM_RULE)
        elif at_us is not None and after_us is not None and at_us <= after_us:
            self.wrong(name, "must be later than that of the price before it")
        return after_us or EVER_US if at_us is None else at_us

    def _scalar(self, name: str, kinds: tuple[str, ...], rule: str, default: str | None) -> str | None:
        """Return the text of a field as written, or the default; None if it is wrong, which is then noted."""
        if default is not None and name not in self.nodes:
            self._known.append(name)
            return default
        node = self.take(name)
        if node is None:
            return None
        if isinstance(node, ScalarNode) and str(node.tag).rpartition(":")[2] in kinds:
            return str(node.value)
        self.wrong(name, rule)
        return None

    def _at(self, name: str) -> str:
        return f"{self.path}.{_printable(name)}" if self.path else _printable(name)


_FROM_RULE = (
    "must be a date after 1970 such as 2030-12-31, from its midnight in the billing time zone on, or a time such as"
    " 2030-12-31T18:00:00+08:00"
)


def _instant(text: str, zone: ZoneInfo) -> int | None:
    """Return the instant that a date or an RFC 3339 time means, None if it is neither."""
    try:
        is_date = _DATE.fullmatch(text) is not None
        at_us = parse_since(text, now_us=0, zone=zone) if is_date else parse_timestamp(text, field="from")
    except InvalidValue:
        return None
    return at_us if at_us > EVER_US else None


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _printable(name: str) -> str:
    """Return a name fit for one line of output."""
    return name[:128] if name.isprintable() else ascii(name[:128])


def _read(path: Path, problems: _Problems) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise problems.fail(0, f"can't be read: {error.strerror}") from error
    if len(content) > MAX_FILE_BYTES:
        raise problems.fail(0, f"is larger than {MAX_FILE_BYTES:,} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise problems.fail(content.count(b"\n", 0, error.start) + 1, "is not UTF-8 text") from error


def _compose(text: str, problems: _Problems) -> Node:
    yaml = YAML(typ="safe", pure=True)
    yaml.composer.warn_double_anchors = False  # YAML allows it: an alias means the last anchor of its name
    try:
        root: Node | None = yaml.compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise problems.fail(mark.line + 1 if mark else 0, f"is not valid YAML: {error.problem}") from error
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise problems.fail(line, "is not valid YAML: a control character") from error
    except RecursionError as error:
        raise problems.fail(0, "is not valid YAML: nested too deeply") from error
    except (YAMLError, ValueError, LookupError) as error:  # the last for a stray %YAML of another version
        raise problems.fail(0, "is not valid YAML: a misplaced directive or tag") from error
    if root is None:
        raise problems.fail(0, "is empty")
    return root
