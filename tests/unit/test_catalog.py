"""The catalog: what the file means, and that every mistake is told with its line and field."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keytoll.catalog import MAX_FILE_BYTES, Catalog, CatalogError, load_catalog
from keytoll.core.expiry import format_timestamp

SHIPPED = Path(__file__).parents[2] / "keytoll.yaml"
GOOD = """\
currency: CNY
billing_time_zone: Asia/Shanghai
models:
  org/Model-1.5:
    context_length: 1000
    price: {input: 4.00, output: 12}
    backends:
    - url: http://vllm:8000/v1
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keytoll.yaml"


def load(path: Path, text: str) -> Catalog:
    path.write_text(text, encoding="utf-8")
    return load_catalog(path)


def problems(path: Path, text: str | bytes) -> list[str]:
    """Return the mistakes in a text, each without the file's name."""
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(CatalogError) as caught:
        load_catalog(path)
    assert all(problem.startswith(f"{path}:") for problem in caught.value.problems)
    assert not any("\n" in problem for problem in caught.value.problems)
    return [problem.removeprefix(f"{path}:").lstrip() for problem in caught.value.problems]


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


def test_the_shipped_catalog_offers_the_demo_models() -> None:
    catalog = load_catalog(SHIPPED)
    assert (catalog.currency, catalog.zone.key) == ("CNY", "Asia/Shanghai")
    offer = catalog.offers["Qwen2.5-72B-Instruct"]
    assert (offer.pool, offer.upstream_model, offer.retries) == ("model/Qwen2.5-72B-Instruct", "demo-chat", 0)
    assert (offer.context_length, offer.maximum_output) == (131_072, 8_192)
    [version] = offer.prices
    prices = version.prices
    assert (version.id, prices.input, prices.cached_input, prices.output) == (prices.id, 4 * 10**9, 10**9, 12 * 10**9)
    assert catalog.offers["bge-m3"].upstream_model == "demo-embedding"


def test_what_is_left_out_has_its_documented_default(path: Path) -> None:
    model = load(path, GOOD).models["org/Model-1.5"]
    [version], backend = model.prices, model.backends[0]
    prices = version.prices
    assert (prices.cached_input, prices.cache_write, prices.audio_input) == (prices.input,) * 3
    assert (prices.audio_output, prices.request) == (prices.output, 0)
    assert (model.maximum_output, model.running_usage) == (1000, False)
    assert (model.template_tokens, model.reasoning_beyond, model.takes_media) == (256, 0, False)
    assert (backend.model, backend.credential) == ("org/Model-1.5", None)
    assert (backend.priority, backend.weight, backend.base_path) == (0, 1, "/v1")


@pytest.mark.parametrize(
    ("text", "nano"),
    [
        ("4.00", 4 * 10**9),
        ("0", 0),
        ("0.000000001", 1),
        ("8999999999.999999999", 8_999_999_999_999_999_999),
        ("'0.1'", 10**8),
    ],
)
def test_a_price_is_exactly_what_is_written(path: Path, text: str, nano: int) -> None:
    """No float comes between: 8999999999.999999999 has no exact one."""
    assert load(path, changed("4.00", text)).models["org/Model-1.5"].prices[0].prices.input == nano


@pytest.mark.parametrize(
    "text", ["-1", "1e3", "0x10", ".5", "1_000", "1.0000000001", "9000000001", ".nan", "free", "true", "''"]
)
def test_a_price_that_is_no_plain_amount_is_refused(path: Path, text: str) -> None:
    [problem] = problems(path, changed("4.00", text))
    assert problem.startswith("6: models.org/Model-1.5.price.input: must be")


def test_a_model_without_a_price_is_refused(path: Path) -> None:
    [problem] = problems(path, changed("    price: {input: 4.00, output: 12}\n", ""))
    assert problem.startswith("4: models.org/Model-1.5.price: missing")
    [problem] = problems(path, changed(", output: 12", ""))
    assert problem == "6: models.org/Model-1.5.price.output: missing"


def priced(*versions: str) -> str:
    """Return a catalog whose price is a list, from line 7 on, one version a line."""
    listed = "".join(f"    - {{{version}, output: 12}}\n" for version in versions)
    return changed("    price: {input: 4.00, output: 12}\n", f"    price:\n{listed}")


def test_of_several_prices_the_one_in_force_at_the_admission_applies(path: Path) -> None:
    """To the microsecond; a date is its midnight in the billing zone, and what has no `from` applies from ever on."""
    text = priced("input: 1", "from: 2030-01-01, input: 2", "from: 2030-01-01T00:00:00Z, input: 3")
    offer = load(path, text).offers["org/Model-1.5"]
    second_us, third_us = 1_893_427_200_000_000, 1_893_456_000_000_000

    def input_at(at_us: int) -> int:
        version = offer.prices_at(at_us)
        assert version.id == version.prices.id
        return version.prices.input // 10**9

    assert [version.from_us for version in offer.prices] == [0, second_us, third_us]
    assert [input_at(at_us) for at_us in (0, second_us - 1, second_us, third_us - 1, third_us)] == [1, 1, 2, 2, 3]


def test_a_first_price_with_a_date_applies_before_it_too(path: Path) -> None:
    """There is never a model without a price."""
    offer = load(path, priced("from: 2030-01-01, input: 1", "from: 2031-01-01, input: 2")).offers["org/Model-1.5"]
    assert offer.prices_at(0).prices.input == 10**9


@pytest.mark.parametrize(
    ("zone", "date", "instant"),
    [
        ("Asia/Shanghai", "2030-01-01", "2029-12-31T16:00:00Z"),
        ("America/New_York", "2027-03-14", "2027-03-14T05:00:00Z"),
        ("America/New_York", "2027-03-15", "2027-03-15T04:00:00Z"),
    ],
)
def test_a_prices_date_is_local_midnight_also_beside_a_clock_change(
    path: Path, zone: str, date: str, instant: str
) -> None:
    text = priced("input: 1", f"from: {date}, input: 2").replace("Asia/Shanghai", zone)
    assert format_timestamp(load(path, text).models["org/Model-1.5"].prices[1].from_us) == instant


def test_a_model_may_have_fifty_prices_and_no_more(path: Path) -> None:
    versions = [f"from: {1971 + number}-01-01, input: {number}" for number in range(50)]
    assert len(load(path, priced(*versions)).models["org/Model-1.5"].prices) == 50
    [problem] = problems(path, priced("input: 1", *versions))
    assert problem == "6: models.org/Model-1.5.price: must be a price, or a list of 1 to 50"


@pytest.mark.parametrize("written", ["soon", "30d", "2030", "2030-02-30", "2030-01-01T08:00", "2030-1-1", "''", "null", "1969-12-31", "9999-12-31T00:00:00Z"])  # fmt: skip
def test_a_from_that_is_no_instant_is_refused(path: Path, written: str) -> None:
    [problem] = problems(path, priced("input: 1", f"from: {written}, input: 2"))
    assert problem.startswith("8: models.org/Model-1.5.price[1].from: must be a date after 1970 such as")


@pytest.mark.parametrize(
    ("versions", "problem"),
    [
        (("input: 1", "input: 2"), "8: models.org/Model-1.5.price[1].from: missing"),
        (("from: 2030-01-02, input: 1", "from: 2030-01-01, input: 2"), "8: models.org/Model-1.5.price[1].from: must be later"),
        (("from: 2030-01-01, input: 1", "from: 2030-01-01T00:00:00+08:00, input: 2"), "8: models.org/Model-1.5.price[1].from: must be later"),
        (("input: 1", "from: 2030-01-01, inputs: 2"), "8: models.org/Model-1.5.price[1].input: missing"),
        (("input: 1", "From: 2030-01-01, input: 2"), "8: models.org/Model-1.5.price[1].from: missing"),
        (("input: 1", "from: 2030-01-01, input: -2"), "8: models.org/Model-1.5.price[1].input: must be a decimal amount"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_list_of_prices_is_told_with_its_line_and_place(
    path: Path, versions: tuple[str, ...], problem: str
) -> None:
    first, *more = problems(path, priced(*versions))
    assert first.startswith(problem)
    assert all("unknown field" in each for each in more)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("currency: CNY\n", "", "1: currency: missing"),
        ("currency: CNY", "currency: yuan", "1: currency: must be an ISO 4217 code, such as CNY"),
        ("currency: CNY", "currency: [CNY]", "1: currency: must be an ISO 4217 code, such as CNY, as text"),
        ("Asia/Shanghai", "Asia/Atlantis", "2: billing_time_zone: Asia/Atlantis is not an IANA time zone"),
        ("Asia/Shanghai", "Asia", "2: billing_time_zone: Asia is not an IANA time zone"),
        ("Asia/Shanghai", "../../etc/passwd", "2: billing_time_zone: ../../etc/passwd is not an IANA time zone"),
        ("Asia/Shanghai", "localtime", "2: billing_time_zone: localtime is not an IANA time zone"),
        ("context_length: 1000", "context_length: 1000.0", "5: models.org/Model-1.5.context_length: must be a whole"),
        ("context_length: 1000", "context_length: '1000'", "5: models.org/Model-1.5.context_length: must be a whole"),
        ("context_length: 1000", "context_length: 0", "5: models.org/Model-1.5.context_length: must be a whole"),
        ("context_length: 1000", "context_length: -5", "5: models.org/Model-1.5.context_length: must be a whole"),
        ("context_length: 1000", "context_length:", "5: models.org/Model-1.5.context_length: must be a whole"),
        ("    price", "    running_usage: yes\n    price", "6: models.org/Model-1.5.running_usage: must be true or false"),
        ("    price", "    takes_media: 1\n    price", "6: models.org/Model-1.5.takes_media: must be true or false"),
        ("    price", "    template_tokens: -1\n    price", "6: models.org/Model-1.5.template_tokens: must be a whole number from 0"),
        ("    price", "    reasoning_beyond: some\n    price", "6: models.org/Model-1.5.reasoning_beyond: must be a whole number from 0"),
        ("    price", "    maximum_output: 1001\n    price", "6: models.org/Model-1.5.maximum_output: must be at most"),
        ("org/Model-1.5", "'a b'", "4: models.a b: must be a name of up to 128"),
        ("org/Model-1.5", "/x", "4: models./x: must be a name of up to 128"),
        ("{input: 4.00, output: 12}", "{from: 2030-01-01, input: 4, output: 12}", "6: models.org/Model-1.5.price.from: is for a list of prices"),
        ("{input: 4.00, output: 12}", "[]", "6: models.org/Model-1.5.price: must be a price, or a list of 1 to 50"),
        ("{input: 4.00, output: 12}", "[4]", "6: models.org/Model-1.5.price[0]: must have fields, each as `name: value`"),
        ("{input: 4.00, output: 12}", "4", "6: models.org/Model-1.5.price: must have fields, each as `name: value`"),
        ("output: 12", "output: 12, input: 5", "6: models.org/Model-1.5.price.input: is given twice, first on line 6"),
        ("output: 12", "output: 12, cached: 5", "6: models.org/Model-1.5.price.cached: unknown field"),
        ("output: 12", "output: 12, cached_inputs: 5", "6: models.org/Model-1.5.price.cached_inputs: unknown field; did you mean cached_input?"),
        ("    - url: http://vllm:8000/v1\n", "      []\n", "7: models.org/Model-1.5.backends: must be a list of 1 to 64 backends"),
        ("    - url: http://vllm:8000/v1\n", "    - http://vllm\n", "8: models.org/Model-1.5.backends[0]: must have fields"),
        ("/v1\n", "/v1\n      weight: 0\n", "9: models.org/Model-1.5.backends[0].weight: must be a whole number from 1"),
        ("/v1\n", "/v1\n      priority: -1\n", "9: models.org/Model-1.5.backends[0].priority: must be a whole number from 0"),
        ("/v1\n", "/v1\n      credential: ../key\n", "9: models.org/Model-1.5.backends[0].credential: must be a file's name"),
        ("/v1\n", "/v1\n      credential: ''\n", "9: models.org/Model-1.5.backends[0].credential: must be a file's name"),
        ("/v1\n", "/v1\n      model: 'a\"b'\n", "9: models.org/Model-1.5.backends[0].model: must be a name"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line_and_field(path: Path, old: str, new: str, problem: str) -> None:
    first, *more = problems(path, changed(old, new))
    assert first.startswith(problem)
    assert [each for each in more if "missing" not in each] == []


def test_a_misspelt_field_is_both_unknown_and_missing(path: Path) -> None:
    assert problems(path, changed("context_length", "context_lenght")) == [
        "4: models.org/Model-1.5.context_length: missing",
        "5: models.org/Model-1.5.context_lenght: unknown field; did you mean context_length?",
    ]


def test_a_repeated_model_is_refused_with_both_lines(path: Path) -> None:
    _, _, model = GOOD.partition("models:\n")
    assert problems(path, GOOD + model) == ["9: models.org/Model-1.5: is given twice, first on line 4"]


def test_all_mistakes_are_told_in_the_files_order(path: Path) -> None:
    text = GOOD.replace("CNY", "cny").replace("1000", "none").replace("4.00", "-4")
    assert [problem.split(":")[0] for problem in problems(path, text)] == ["1", "5", "6"]
    with pytest.raises(CatalogError, match=r"^\S+keytoll\.yaml:1: currency: must be .* \(and 2 more\)$"):
        load_catalog(path)


@pytest.mark.parametrize(
    ("url", "authority", "base_path"),
    [
        ("http://vllm:8000/v1", "vllm:8000", "/v1"),
        ("http://vllm:8000", "vllm:8000", "/v1"),
        ("http://vllm/", "vllm", "/v1"),
        ("https://api.example.com:443/v1/", "api.example.com", "/v1"),
        ("https://HOST.example.com/api/openai/v1", "host.example.com", "/api/openai/v1"),
        ("https://xn--bcher-kva.example/v1", "xn--bcher-kva.example", "/v1"),
        ("http://192.0.2.7:8000/v1", "192.0.2.7:8000", "/v1"),
        ("https://[2001:db8::1]:8443/v1", "[2001:db8::1]:8443", "/v1"),
    ],
)
def test_a_backends_url_gives_its_authority_and_base_path(path: Path, url: str, authority: str, base_path: str) -> None:
    backend = load(path, changed("http://vllm:8000/v1", f"'{url}'")).models["org/Model-1.5"].backends[0]
    assert (backend.authority, backend.base_path, backend.tls) == (authority, base_path, url.startswith("https"))


@pytest.mark.parametrize(
    "url",
    [
        "vllm:8000/v1",
        "ftp://vllm/v1",
        "file:///etc/passwd",
        "http:///v1",
        "http://user:secret@vllm/v1",
        "http://vllm/v1?api-version=1",
        "http://vllm/v1#x",
        "http://vllm/v1?",
        "http://vllm:0/v1",
        "http://vllm:65536/v1",
        "http://vllm:x/v1",
        "http://vllm/v1/../admin",
        "http://vllm//v1",
        "http://vllm/v1/%2e%2e",
        "http://vl lm/v1",
        "http://vllm\\@127.0.0.1/v1",
        "http://bücher.example/v1",
        "http://127.1/v1",
        "http://2130706433/v1",
        "http://0x7f000001/v1",
        "http://0x7f.1/v1",
        "http://0177.0.0.1/v1",
        "http://localhost./v1",
        "http://[fe80::1%25eth0]/v1",
        "http://[::1/v1",
    ],
)
def test_a_url_that_resolvers_and_proxies_could_read_in_two_ways_is_refused(path: Path, url: str) -> None:
    """Also with allow_local: an odd spelling is never what was meant."""
    text = changed("http://vllm:8000/v1", f"'{url}'\n      allow_local: true")
    [problem] = problems(path, text)
    assert problem.startswith("8: models.org/Model-1.5.backends[0].url: ")


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST",
        "x.localhost",
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "169.254.169.254",
        "[::1]",
        "[::]",
        "[fe80::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:169.254.169.254]",
        "[fd00:ec2::254]",
        "100.100.100.200",
        "metadata.google.internal",
    ],
)
def test_addresses_of_the_machine_and_of_cloud_metadata_need_a_flag(path: Path, host: str) -> None:
    [problem] = problems(path, changed("http://vllm:8000/v1", f'"http://{host}:80/v1"'))
    assert "allow_local: true" in problem
    load(path, changed("http://vllm:8000/v1", f'"http://{host}:80/v1"\n      allow_local: true'))


def test_priorities_are_the_order_of_fallback(path: Path) -> None:
    text = changed(
        "    - url: http://vllm:8000/v1\n",
        "    - {url: http://b, priority: 7, model: other}\n    - {url: http://a}\n    - {url: http://c, priority: 7}\n",
    )
    catalog = load(path, text)
    members = catalog.models["org/Model-1.5"].members
    assert [[backend.host for backend in member] for member in members] == [["a"], ["b", "c"]]
    offer = catalog.offers["org/Model-1.5"]
    assert (offer.retries, offer.upstream_model) == (1, None)


def test_the_version_follows_what_is_said_and_not_how(path: Path) -> None:
    version = load(path, GOOD).version
    assert load(path, "# a comment\n" + GOOD.replace("4.00", "4.0")).version == version
    for old, new in (
        ("4.00", "4.01"),
        ("vllm", "other"),
        ("Shanghai", "Tokyo"),
        ("CNY", "USD"),
        ("1000", "1001"),
        ("    price", "    takes_media: true\n    price"),
    ):
        assert load(path, changed(old, new)).version != version
    listed, dated = priced("input: 4.00"), priced("input: 4.00", "from: 2030-01-01, input: 4")
    assert load(path, listed).version == version
    assert load(path, dated).version != version


def test_an_alias_repeats_a_whole_value_and_merge_keys_are_refused(path: Path) -> None:
    text = (
        changed("price: {", "price: &price {")
        + "  two:\n    context_length: 1\n    price: *price\n    backends: [{url: http://b}]\n"
    )
    catalog = load(path, text)
    assert catalog.models["two"].prices == catalog.models["org/Model-1.5"].prices
    merged = text.replace("price: *price", "price: {<<: *price}")
    assert problems(path, merged)[0].startswith("11: models.two.price.<<: merge keys are not supported")


def test_what_refers_to_itself_ends(path: Path) -> None:
    assert problems(path, GOOD.replace("price: {input: 4.00, output: 12}", "price: &p {input: *p, output: 12}"))
    assert problems(path, "&a [*a]\n") == ["1: must have fields"]


def test_aliases_cannot_make_much_of_little(path: Path) -> None:
    """64 backends a model and 1,000 models bound what a small file can stand for."""
    backends = "backends: &b [" + ", ".join(["{url: http://b}"] * 65) + "]\n"
    text = changed("backends:\n    - url: http://vllm:8000/v1\n", backends)
    assert problems(path, text) == ["7: models.org/Model-1.5.backends: must be a list of 1 to 64 backends"]
    many = "".join(f"  m{number}: *m\n" for number in range(1_000))
    assert problems(path, GOOD.replace("org/Model-1.5:", "org/Model-1.5: &m") + many) == [
        "3: models: must have 1 to 1,000 models"
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"# nothing\n", "is empty"),
        (b"currency: CNY\n\tmodels: 1\n", "2: is not valid YAML: "),
        (b"currency: CNY\nmodels: [1, 2\nb: 3\n", "3: is not valid YAML: "),
        (b"currency: *nowhere\n", "1: is not valid YAML: found undefined alias"),
        (b"a: 1\n---\nb: 2\n", "2: is not valid YAML: "),
        (b"a: 1\nb: caf\xe9\n", "2: is not UTF-8 text"),
        (b"a: 1\nb: \x01\n", "2: is not valid YAML: a control character"),
        (b"[" * 20_000, "is not valid YAML: nested too deeply"),
        (b"%YAML 3.0\n---\na: 1\n", "1: is not valid YAML: found incompatible YAML document"),
        (b"a:\n%YAML 3.0\n---\n  b: 1\n", "is not valid YAML: a misplaced directive"),
        (b"just text\n", "1: must have fields"),
        (b"- a\n", "1: must have fields"),
        (b"a" * (MAX_FILE_BYTES + 1), "is larger than 1,048,576 bytes"),
    ],
)
def test_a_file_that_is_no_catalog_at_all_gets_one_line(path: Path, content: bytes, problem: str) -> None:
    [told] = problems(path, content)
    assert told.startswith(problem)


def test_a_file_that_cannot_be_read_gets_one_line(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none.yaml", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(CatalogError) as caught:
            load_catalog(path)
        assert caught.value.problems == [f"{path}: can't be read: {reason}"]


def test_a_byte_order_mark_is_no_mistake(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load_catalog(path).currency == "CNY"


@given(st.data())
def test_whatever_happens_to_a_catalog_it_loads_or_tells_why(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Any damage to the text ends in a catalog or in lines for people, never in another error."""
    path = tmp_path_factory.getbasetemp() / "damaged.yaml"
    at = data.draw(st.integers(0, len(GOOD)))
    until = data.draw(st.integers(at, min(len(GOOD), at + 12)))
    path.write_text(GOOD[:at] + data.draw(st.text(max_size=6)) + GOOD[until:], encoding="utf-8", newline="")
    assert all(problem and "\n" not in problem for problem in mistakes(path))


def mistakes(path: Path) -> list[str]:
    """Return what is wrong with a file, nothing if it loads."""
    try:
        load_catalog(path)
    except CatalogError as error:
        return error.problems
    return []


def test_estimates_count_by_what_the_operator_says(path: Path) -> None:
    text = GOOD.replace(
        "    context_length:", "    bytes_per_token: 3\n    tokens_per_event: 2\n    context_length:", 1
    )
    offer = next(iter(load(path, text).offers.values()))
    assert (offer.rates.input_byte, offer.rates.output_byte, offer.rates.event) == (334, 334, 2_000)
