"""The catalog is edited while all of it runs."""

import time
from pathlib import Path
from typing import Any

import httpx

from e2e.conftest import CHAT, Gateway, gateway_in, until

CHAT_PATH = "/v1/chat/completions"
ASK = [{"role": "user", "content": "Hello"}]


async def test_the_catalog_is_edited_while_it_runs(tmp_path: Path) -> None:
    async with gateway_in(tmp_path) as gateway:
        key, catalog = await gateway.new_key(), gateway.stack.settings.catalog
        original = catalog.read_text()
        model = original[original.index("  odd:\n") : original.index("  reserved:\n")]
        added = original + model.replace("odd:", "brand-new:")

        edited_s = time.monotonic()
        catalog.write_text(added)
        await until(lambda: _answers(gateway, key, "brand-new", 200))
        took_s = time.monotonic() - edited_s
        print(f"a new model was served {took_s:.2f} s after the edit")
        assert took_s < 10  # the promise is 2 s; this only catches a gateway that needs a restart

        # A broken edit changes nothing and says in one line where it is broken.
        catalog.write_text(added.replace("currency: CNY", "currency: CNY\nmodels_: {}"))
        log = gateway.run_dir / "keytoll.log"
        await until(lambda: _logged(log, "catalog_refused"))
        (line,) = [line for line in log.read_text().splitlines() if "catalog_refused" in line]
        assert f"{catalog}:" in line
        assert "models_" in line
        assert await _answers(gateway, key, "brand-new", 200)
        assert await _answers(gateway, key, CHAT, 200)

        # The currency can't change under a ledger that is kept in it.
        catalog.write_text(added.replace("currency: CNY", "currency: USD"))
        await until(lambda: _logged(log, "currency: can't change from CNY"))

        # A model that is removed is no longer admitted; a price that is raised counts from then on.
        catalog.write_text(original.replace("price: {input: 1, output: 2}", "price: {input: 10, output: 20}"))
        await until(lambda: _answers(gateway, key, "brand-new", 404))
        assert await _answers(gateway, key, "odd", 200)
        charges = await gateway.charges(await _fresh(gateway), 1)
        assert charges[0]["amount"] == "0.00013"


async def _fresh(gateway: Gateway) -> dict[str, Any]:
    key = await gateway.new_key()
    assert await _answers(gateway, key, "odd", 200)
    return key


async def _answers(gateway: Gateway, key: dict[str, Any], model: str, status: int) -> bool:
    async with gateway.http(key) as client:
        response: httpx.Response = await client.post(CHAT_PATH, json={"model": model, "messages": ASK})
    return response.status_code == status


async def _logged(log: Path, text: str) -> bool:
    return text in log.read_text()
